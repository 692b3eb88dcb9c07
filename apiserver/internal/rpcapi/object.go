// Package rpcapi is the gRPC door: handlers that check, call and translate. What
// requests mean is decided in the registry.
package rpcapi

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/anypb"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/apiserver/internal/audit"
	"kijabi.dev/apiserver/internal/authz"
	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/reviews"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/apiserver/internal/traffic"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/rpc"
	objectv1pb "kijabi.dev/proto/gen/kijabi/object/v1"
)

// Authorizer decides whether a caller may perform an operation.
type Authorizer interface {
	Authorize(ctx context.Context, attr authz.Attributes) error
	// Admit is Authorize for short requests: it returns the context to perform one with.
	Admit(ctx context.Context, attr authz.Attributes) (context.Context, error)
}

// ObjectService serves kijabi.object.v1.ObjectService.
type ObjectService struct {
	objectv1pb.UnsafeObjectServiceServer // a new RPC must not compile without a handler

	registry   registry.Registry
	authorizer Authorizer
	reviews    *reviews.Reviews
}

var _ objectv1pb.ObjectServiceServer = (*ObjectService)(nil)

// NewObjectService returns the service over a registry. Without reviews (nil) it answers no
// questions about access.
func NewObjectService(reg registry.Registry, authorizer Authorizer, answers *reviews.Reviews) *ObjectService {
	return &ObjectService{registry: reg, authorizer: authorizer, reviews: answers}
}

// chunkBytes is about how many bytes of objects one message of a list or watch holds.
const chunkBytes = 512 << 10

// request is what every handler needs to know of a request.
type request struct {
	ctx    context.Context //nolint:containedctx // what the request is performed with, unless it is long
	kind   *registry.Kind
	ref    registry.Ref
	caller rpc.Caller
	attr   authz.Attributes
}

// begin resolves the resource and authorizes the operation.
func (s *ObjectService) begin(ctx context.Context, verb string, ref registry.Ref, fieldSelector string) (request, error) {
	caller, _ := rpc.CallerFrom(ctx)
	kind, err := s.kind(ctx, ref.Resource)
	if err != nil {
		return request{}, err
	}
	ref.Resource = kind.GVR
	attr := authz.Attributes{
		User: caller.Name, Groups: caller.Groups, Verb: verb,
		Resource: kind.GroupResource(), Subresource: ref.Subresource,
		Namespace: ref.Namespace, Name: ref.Name, FieldSelector: fieldSelector,
	}
	ctx, err = s.authorizer.Admit(ctx, attr)
	return request{ctx: ctx, kind: kind, ref: ref, caller: caller, attr: attr}, err
}

// kind finds a kind, also one that another master has just answered is served.
func (s *ObjectService) kind(ctx context.Context, resource schema.GroupVersionResource) (*registry.Kind, error) {
	kind, err := s.registry.Kind(resource)
	if err == nil || !strings.Contains(resource.Group, ".") {
		return kind, err
	}
	if err := s.registry.Current(ctx); err != nil {
		return nil, err
	}
	return s.registry.Kind(resource)
}

func (r request) registryCaller() registry.Caller {
	return registry.Caller{
		User: r.caller.Name, UID: r.caller.UID, Groups: r.caller.Groups, Extra: r.caller.Extra, UserAgent: r.caller.UserAgent,
		RequestID: r.caller.RequestID, Epoch: r.caller.Epoch, Forwarded: r.caller.Forwarded,
	}
}

func collectionRef(res *objectv1pb.Resource, namespace string) registry.Ref {
	return registry.Ref{
		Resource:  schema.GroupVersionResource{Group: res.GetGroup(), Version: res.GetVersion(), Resource: res.GetResource()},
		Namespace: namespace,
	}
}

func objectRef(ref *objectv1pb.Reference, subresource string) (registry.Ref, error) {
	if ref.GetResource().GetResource() == "" {
		return registry.Ref{}, apierrors.NewBadRequest("reference.resource.resource is required, such as \"pods\"")
	}
	out := collectionRef(ref.GetResource(), ref.GetNamespace())
	out.Name, out.Subresource = ref.GetName(), subresource
	return out, nil
}

func pack(kind *registry.Kind, record *store.Record) *anypb.Any {
	return object.PackBytes(kind.Kind, record.Value)
}

func unpack(packed *anypb.Any) (object.Object, error) {
	if packed == nil {
		return nil, apierrors.NewBadRequest("object is required")
	}
	kind, ok := object.KindForTypeURL(packed.GetTypeUrl())
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("decode object: unknown type %.128q", packed.GetTypeUrl()))
	}
	if err := object.CheckProtobuf(packed.GetValue(), kind.New()); err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("decode %s: %v", kind.GVK.Kind, err))
	}
	obj, err := object.Decode(kind, packed.GetValue())
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if err := object.CheckReadable(obj); err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("decode %s: %v", kind.GVK.Kind, err))
	}
	return obj, nil
}

// Get returns one object.
func (s *ObjectService) Get(ctx context.Context, req *objectv1pb.GetRequest) (*objectv1pb.GetResponse, error) {
	if sub := req.GetSubresource(); sub != "" && sub != "scale" {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("subresource %.64q cannot be read, only \"scale\" can", sub))
	}
	ref, err := objectRef(req.GetReference(), req.GetSubresource())
	if err != nil {
		return nil, err
	}
	r, err := s.begin(ctx, "get", ref, "")
	if err != nil {
		return nil, err
	}
	record, err := s.registry.Get(r.ctx, r.ref)
	if err != nil {
		return nil, err
	}
	if r.ref.Subresource == "scale" {
		return &objectv1pb.GetResponse{Object: object.PackBytes(object.KindOf[*autoscalingv1.Scale](), record.Value)}, nil
	}
	return &objectv1pb.GetResponse{Object: pack(r.kind, record)}, nil
}

// List streams a collection.
func (s *ObjectService) List(req *objectv1pb.ListRequest, out objectv1pb.ObjectService_ListServer) error {
	ctx := out.Context()
	r, err := s.begin(ctx, "list", collectionRef(req.GetResource(), req.GetNamespace()), req.GetFieldSelector())
	if err != nil {
		return err
	}
	selector, err := labelSelector(req.GetLabelSelector())
	if err != nil {
		return err
	}
	list, err := s.registry.List(r.ctx, r.ref, registry.ListOptions{
		Labels: selector, Fields: req.GetFieldSelector(), Limit: req.GetLimit(),
		Continue: req.GetContinue(), ResourceVersion: req.GetResourceVersion(),
	})
	if err != nil {
		return err
	}
	message := &objectv1pb.ListResponse{ResourceVersion: list.ResourceVersion}
	size := 0
	for _, record := range list.Records {
		if size += len(record.Value); size > chunkBytes && len(message.Objects) > 0 {
			if err := out.Send(message); err != nil {
				return err
			}
			message, size = &objectv1pb.ListResponse{}, len(record.Value)
		}
		message.Objects = append(message.Objects, pack(r.kind, record))
	}
	message.Continue, message.Remaining = list.Continue, list.Remaining
	return out.Send(message)
}

// maxSelectorBytes bounds a selector, whose parsing costs hundreds of times its size, as the
// REST door's headers do.
const maxSelectorBytes = 64 << 10

func labelSelector(s string) (labels.Selector, error) {
	if len(s) > maxSelectorBytes {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the label selector is longer than %d bytes", maxSelectorBytes))
	}
	selector, err := labels.Parse(s)
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("label selector %.128q: %.512v", s, err))
	}
	return selector, nil
}

// Watch streams changes.
func (s *ObjectService) Watch(req *objectv1pb.WatchRequest, out objectv1pb.ObjectService_WatchServer) error {
	ctx := out.Context()
	r, err := s.begin(ctx, "watch", collectionRef(req.GetResource(), req.GetNamespace()), req.GetFieldSelector())
	if err != nil {
		return err
	}
	selector, err := labelSelector(req.GetLabelSelector())
	if err != nil {
		return err
	}
	initial := req.GetSendInitialEvents()
	batches, err := s.registry.Watch(ctx, r.ref, registry.WatchOptions{
		Labels: selector, Fields: req.GetFieldSelector(), ResourceVersion: req.GetResourceVersion(),
		SendInitialEvents: &initial, Bookmarks: true,
	})
	if err != nil {
		return err
	}
	for batch, err := range batches {
		if err != nil {
			return err
		}
		if !authz.Lasting(r.caller.Groups) { // who may no longer see this sees no more of it
			if err := s.authorizer.Authorize(ctx, r.attr); err != nil {
				return err
			}
		}
		if err := sendBatch(r.kind, batch, out); err != nil {
			return err
		}
	}
	return nil
}

// sendBatch sends a batch in messages of bounded size; only the last carries the
// progress mark, since a watch resumed there must have got all of it.
func sendBatch(kind *registry.Kind, batch registry.WatchBatch, out objectv1pb.ObjectService_WatchServer) error {
	message, size := &objectv1pb.WatchResponse{}, 0
	for _, event := range batch.Events {
		if size += len(event.Record.Value); size > chunkBytes && len(message.Events) > 0 {
			if err := out.Send(message); err != nil {
				return err
			}
			message, size = &objectv1pb.WatchResponse{}, len(event.Record.Value)
		}
		message.Events = append(message.Events, &objectv1pb.WatchEvent{Type: eventTypes[event.Type], Object: pack(kind, event.Record)})
	}
	if batch.Progress > 0 {
		message.Progress = object.FormatVersion(batch.Progress)
	}
	message.InitialEventsEnd = batch.InitialEnd
	return out.Send(message)
}

var eventTypes = map[store.EventType]objectv1pb.EventType{
	store.Added:    objectv1pb.EventType_EVENT_TYPE_ADDED,
	store.Modified: objectv1pb.EventType_EVENT_TYPE_MODIFIED,
	store.Deleted:  objectv1pb.EventType_EVENT_TYPE_DELETED,
}

// createOperation translates a create, alone or in a transaction.
func createOperation(req *objectv1pb.CreateRequest) (registry.Operation, error) {
	ref, err := objectRef(req.GetReference(), req.GetSubresource())
	if err != nil {
		return registry.Operation{}, err
	}
	obj, err := unpack(req.GetObject())
	if err != nil {
		return registry.Operation{}, err
	}
	return registry.Operation{
		Verb: registry.VerbCreate, Ref: ref, Object: obj,
		Options: registry.WriteOptions{DryRun: req.GetDryRun(), FieldManager: req.GetFieldManager()},
	}, nil
}

func updateOperation(req *objectv1pb.UpdateRequest) (registry.Operation, error) {
	ref, err := objectRef(req.GetReference(), req.GetSubresource())
	if err != nil {
		return registry.Operation{}, err
	}
	obj, err := unpack(req.GetObject())
	if err != nil {
		return registry.Operation{}, err
	}
	return registry.Operation{
		Verb: registry.VerbUpdate, Ref: ref, Object: obj,
		Options: registry.WriteOptions{DryRun: req.GetDryRun(), FieldManager: req.GetFieldManager()},
	}, nil
}

var patchTypes = map[objectv1pb.PatchType]types.PatchType{
	objectv1pb.PatchType_PATCH_TYPE_JSON:      types.JSONPatchType,
	objectv1pb.PatchType_PATCH_TYPE_MERGE:     types.MergePatchType,
	objectv1pb.PatchType_PATCH_TYPE_STRATEGIC: types.StrategicMergePatchType,
	objectv1pb.PatchType_PATCH_TYPE_APPLY:     types.ApplyPatchType,
}

func patchOperation(req *objectv1pb.PatchRequest) (registry.Operation, error) {
	ref, err := objectRef(req.GetReference(), req.GetSubresource())
	if err != nil {
		return registry.Operation{}, err
	}
	patchType, ok := patchTypes[req.GetType()]
	if !ok {
		return registry.Operation{}, apierrors.NewBadRequest("type of the patch is required")
	}
	return registry.Operation{
		Verb: registry.VerbPatch, Ref: ref, PatchType: patchType, Patch: req.GetPatch(),
		Options: registry.WriteOptions{
			DryRun: req.GetDryRun(), FieldManager: req.GetFieldManager(), Force: req.GetForce(),
			FieldValidation: cmp.Or(req.GetFieldValidation(), metav1.FieldValidationStrict),
		},
	}, nil
}

func deleteOperation(req *objectv1pb.DeleteRequest) (registry.Operation, error) {
	ref, err := objectRef(req.GetReference(), "")
	if err != nil {
		return registry.Operation{}, err
	}
	return registry.Operation{Verb: registry.VerbDelete, Ref: ref, Delete: deleteOptions(req.GetOptions())}, nil
}

func deleteOptions(opts *objectv1pb.DeleteOptions) metav1.DeleteOptions {
	var out metav1.DeleteOptions
	if opts == nil {
		return out
	}
	out.GracePeriodSeconds = opts.GracePeriodSeconds
	if opts.GetUid() != "" || opts.GetResourceVersion() != "" {
		out.Preconditions = &metav1.Preconditions{}
		if uid := types.UID(opts.GetUid()); uid != "" {
			out.Preconditions.UID = &uid
		}
		if version := opts.GetResourceVersion(); version != "" {
			out.Preconditions.ResourceVersion = &version
		}
	}
	var propagation metav1.DeletionPropagation
	switch opts.GetPropagation() {
	case objectv1pb.Propagation_PROPAGATION_BACKGROUND:
		propagation = metav1.DeletePropagationBackground
	case objectv1pb.Propagation_PROPAGATION_FOREGROUND:
		propagation = metav1.DeletePropagationForeground
	case objectv1pb.Propagation_PROPAGATION_ORPHAN:
		propagation = metav1.DeletePropagationOrphan
	case objectv1pb.Propagation_PROPAGATION_UNSPECIFIED:
	}
	if propagation != "" {
		out.PropagationPolicy = &propagation
	}
	if opts.GetDryRun() {
		out.DryRun = []string{metav1.DryRunAll}
	}
	return out
}

// write performs one operation. What was stored is sent as it was stored, not encoded anew.
func (s *ObjectService) write(ctx context.Context, r request, op registry.Operation) (packed *anypb.Any, removed bool, err error) {
	op.Ref = r.ref
	result, err := s.registry.Do(ctx, r.registryCaller(), op)
	if told := tell(ctx, r.caller, result); err == nil {
		err = told
	}
	if err != nil {
		return nil, false, err
	}
	switch {
	case result.Record != nil:
		return object.PackBytes(result.Kind, result.Record.Value), result.Deleted, nil
	case result.Object != nil:
		packed, err = object.Pack(result.Object)
		return packed, result.Deleted, err
	}
	return nil, result.Deleted, nil
}

// tell passes on what is to be said about a write, whatever became of it.
func tell(ctx context.Context, caller rpc.Caller, result registry.OperationResult) error {
	var header metadata.MD
	if len(result.Warnings) > 0 {
		header = rpc.Warnings(result.Warnings)
	}
	noted, _ := ctx.Value(requestKey{}).(*traffic.Request)
	for _, a := range result.Annotations {
		if noted != nil {
			noted.Annotations = append(noted.Annotations, audit.Annotation{Key: a.Key, Value: a.Value})
		}
		if caller.Forwarded { // the master that was asked has the audit log of the request
			header = metadata.Join(header, rpc.AuditAnnotation(a.Key, a.Value))
		}
	}
	if len(header) == 0 {
		return nil
	}
	return grpc.SetHeader(ctx, header)
}

// Create stores a new object.
func (s *ObjectService) Create(ctx context.Context, req *objectv1pb.CreateRequest) (*objectv1pb.CreateResponse, error) {
	op, err := createOperation(req)
	if err != nil {
		return nil, err
	}
	if kind, ok := reviews.KindOf(op.Ref.Resource); ok && s.reviews != nil {
		return s.answer(ctx, kind, op)
	}
	r, err := s.begin(ctx, string(op.Verb), op.Ref, "")
	if err != nil {
		return nil, err
	}
	packed, _, err := s.write(ctx, r, op)
	if err != nil {
		return nil, err
	}
	return &objectv1pb.CreateResponse{Object: packed}, nil
}

// answer fills in a question about access; nothing is stored.
func (s *ObjectService) answer(ctx context.Context, kind object.Kind, op registry.Operation) (*objectv1pb.CreateResponse, error) {
	got, err := object.KindOfObject(op.Object)
	if err != nil || got.GVK != kind.GVK || op.Ref.Subresource != "" || kind.Namespaced != (op.Ref.Namespace != "") {
		return nil, apierrors.NewBadRequest("a question must be of the kind " + kind.GVK.Kind + ", with a namespace only if that kind has one")
	}
	caller, _ := rpc.CallerFrom(ctx)
	if err := s.reviews.Answer(ctx, request{caller: caller}.registryCaller(), op.Ref.Namespace, op.Object); err != nil {
		return nil, err
	}
	packed, err := object.Pack(op.Object)
	if err != nil {
		return nil, err
	}
	return &objectv1pb.CreateResponse{Object: packed}, nil
}

// Update replaces an object or a subresource.
func (s *ObjectService) Update(ctx context.Context, req *objectv1pb.UpdateRequest) (*objectv1pb.UpdateResponse, error) {
	op, err := updateOperation(req)
	if err != nil {
		return nil, err
	}
	r, err := s.begin(ctx, string(op.Verb), op.Ref, "")
	if err != nil {
		return nil, err
	}
	packed, _, err := s.write(ctx, r, op)
	if err != nil {
		return nil, err
	}
	return &objectv1pb.UpdateResponse{Object: packed}, nil
}

// Patch changes part of an object.
func (s *ObjectService) Patch(ctx context.Context, req *objectv1pb.PatchRequest) (*objectv1pb.PatchResponse, error) {
	op, err := patchOperation(req)
	if err != nil {
		return nil, err
	}
	r, err := s.begin(ctx, string(op.Verb), op.Ref, "")
	if err != nil {
		return nil, err
	}
	packed, _, err := s.write(ctx, r, op)
	if err != nil {
		return nil, err
	}
	return &objectv1pb.PatchResponse{Object: packed}, nil
}

// Delete removes an object.
func (s *ObjectService) Delete(ctx context.Context, req *objectv1pb.DeleteRequest) (*objectv1pb.DeleteResponse, error) {
	op, err := deleteOperation(req)
	if err != nil {
		return nil, err
	}
	r, err := s.begin(ctx, string(op.Verb), op.Ref, "")
	if err != nil {
		return nil, err
	}
	packed, removed, err := s.write(ctx, r, op)
	if err != nil {
		return nil, err
	}
	return &objectv1pb.DeleteResponse{Object: packed, Removed: removed}, nil
}

// DeleteCollection deletes every matching object.
func (s *ObjectService) DeleteCollection(ctx context.Context, req *objectv1pb.DeleteCollectionRequest) (*objectv1pb.DeleteCollectionResponse, error) {
	r, err := s.begin(ctx, "deletecollection", collectionRef(req.GetResource(), req.GetNamespace()), req.GetFieldSelector())
	if err != nil {
		return nil, err
	}
	selector, err := labelSelector(req.GetLabelSelector())
	if err != nil {
		return nil, err
	}
	count, err := s.registry.DeleteCollection(ctx, r.registryCaller(), r.ref, deleteOptions(req.GetOptions()),
		registry.ListOptions{Labels: selector, Fields: req.GetFieldSelector()})
	return &objectv1pb.DeleteCollectionResponse{Count: count}, err
}

// transactMost is the greatest number of operations of one Transact.
const transactMost = 1000

// Transact performs several writes in one batch. Each one is authorized by itself.
func (s *ObjectService) Transact(ctx context.Context, req *objectv1pb.TransactRequest) (*objectv1pb.TransactResponse, error) {
	if n := len(req.GetOperations()); n == 0 || n > transactMost {
		return nil, apierrors.NewBadRequest("a transaction holds 1 to 1000 operations")
	}
	caller, _ := rpc.CallerFrom(ctx)
	ops := make([]registry.Operation, 0, len(req.GetOperations()))
	for _, operation := range req.GetOperations() {
		op, err := transactOperation(operation)
		if err != nil {
			return nil, err
		}
		r, err := s.begin(ctx, string(op.Verb), op.Ref, "")
		if err != nil {
			return nil, err
		}
		op.Ref = r.ref
		ops = append(ops, op)
	}
	outcomes, err := s.registry.Transact(ctx, request{caller: caller}.registryCaller(), ops, req.GetIndependent())
	if err != nil {
		return nil, err
	}
	res := &objectv1pb.TransactResponse{Results: make([]*objectv1pb.OperationResult, 0, len(outcomes))}
	var said registry.OperationResult
	for _, outcome := range outcomes {
		said.Warnings, said.Annotations = append(said.Warnings, outcome.Warnings...), append(said.Annotations, outcome.Annotations...)
	}
	if err := tell(ctx, caller, said); err != nil {
		return nil, err
	}
	for _, outcome := range outcomes {
		result, err := operationResult(outcome)
		if err != nil {
			return nil, err
		}
		res.Results = append(res.Results, result)
	}
	return res, nil
}

func transactOperation(operation *objectv1pb.Operation) (registry.Operation, error) {
	switch op := operation.GetOperation().(type) {
	case *objectv1pb.Operation_Create:
		return createOperation(op.Create)
	case *objectv1pb.Operation_Update:
		return updateOperation(op.Update)
	case *objectv1pb.Operation_Patch:
		return patchOperation(op.Patch)
	case *objectv1pb.Operation_Delete:
		return deleteOperation(op.Delete)
	}
	return registry.Operation{}, apierrors.NewBadRequest("operation is required")
}

func operationResult(outcome registry.OperationResult) (*objectv1pb.OperationResult, error) {
	if outcome.Err != nil {
		status, err := json.Marshal(apiStatus(outcome.Err))
		return &objectv1pb.OperationResult{ErrorStatus: status}, err
	}
	if outcome.Record != nil {
		return &objectv1pb.OperationResult{Object: object.PackBytes(outcome.Kind, outcome.Record.Value)}, nil
	}
	if outcome.Object == nil {
		return &objectv1pb.OperationResult{}, nil
	}
	packed, err := object.Pack(outcome.Object)
	return &objectv1pb.OperationResult{Object: packed}, err
}

func apiStatus(err error) metav1.Status {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return status.Status()
	}
	return apierrors.NewInternalError(err).Status()
}
