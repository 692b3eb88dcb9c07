// Package forward passes writes from a master that does not lead to the one that does,
// over the masters' own port, on behalf of whoever asked for them.
package forward

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/anypb"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/apiserver/internal/admission/dynamic"
	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/registry/kinds"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/rpc"
	objectv1pb "kijabi.dev/proto/gen/kijabi/object/v1"
)

// Leader knows the way to the leading master; *masters.Masters implements it.
type Leader interface {
	// LeaderConn returns a connection to the leader's own port and its name, or an error
	// while none is known.
	LeaderConn() (grpc.ClientConnInterface, string, error)
}

// Forwarder implements registry.Forwarder over gRPC.
type Forwarder struct{ leader Leader }

var _ registry.Forwarder = (*Forwarder)(nil)

// New returns a forwarder.
func New(leader Leader) *Forwarder { return &Forwarder{leader: leader} }

// connect returns the leader's service and a context that names the original caller.
func (f *Forwarder) connect(ctx context.Context, caller registry.Caller) (context.Context, objectv1pb.ObjectServiceClient, error) {
	conn, _, err := f.leader.LeaderConn()
	if err != nil {
		return nil, nil, apierrors.NewServiceUnavailable("no master leads at present: " + err.Error())
	}
	ctx = rpc.WithForwarded(ctx, rpc.Caller{
		Name: caller.User, UID: caller.UID, Groups: caller.Groups, Extra: caller.Extra,
		UserAgent: caller.UserAgent, RequestID: caller.RequestID, Epoch: caller.Epoch,
	})
	return ctx, objectv1pb.NewObjectServiceClient(conn), nil
}

// Do performs one write at the leader.
func (f *Forwarder) Do(ctx context.Context, caller registry.Caller, op registry.Operation) (registry.OperationResult, error) {
	ctx, service, err := f.connect(ctx, caller)
	if err != nil {
		return registry.OperationResult{}, err
	}
	operation, err := operationOf(op)
	if err != nil {
		return registry.OperationResult{}, err
	}
	var packed *anypb.Any
	var header metadata.MD
	removed := false
	switch request := operation.GetOperation().(type) {
	case *objectv1pb.Operation_Create:
		var res *objectv1pb.CreateResponse
		res, err = service.Create(ctx, request.Create, grpc.Header(&header))
		packed = res.GetObject()
	case *objectv1pb.Operation_Update:
		var res *objectv1pb.UpdateResponse
		res, err = service.Update(ctx, request.Update, grpc.Header(&header))
		packed = res.GetObject()
	case *objectv1pb.Operation_Patch:
		var res *objectv1pb.PatchResponse
		res, err = service.Patch(ctx, request.Patch, grpc.Header(&header))
		packed = res.GetObject()
	case *objectv1pb.Operation_Delete:
		var res *objectv1pb.DeleteResponse
		res, err = service.Delete(ctx, request.Delete, grpc.Header(&header))
		packed, removed = res.GetObject(), res.GetRemoved()
	}
	said := saidIn(header)
	if err != nil {
		return said, rpc.FromStatus(err)
	}
	out, err := resultOf(op.Ref, packed)
	out.Deleted, out.Warnings, out.Annotations = removed, said.Warnings, said.Annotations
	return out, err
}

// saidIn is what the leader has to say about a write.
func saidIn(header metadata.MD) registry.OperationResult {
	out := registry.OperationResult{Warnings: rpc.WarningsOf(header)}
	for _, a := range rpc.AuditAnnotationsOf(header) {
		out.Annotations = append(out.Annotations, dynamic.Annotation{Key: a[0], Value: a[1]})
	}
	return out
}

// Transact performs operations at the leader in one batch.
func (f *Forwarder) Transact(ctx context.Context, caller registry.Caller, ops []registry.Operation, independent bool) ([]registry.OperationResult, error) {
	ctx, service, err := f.connect(ctx, caller)
	if err != nil {
		return nil, err
	}
	req := &objectv1pb.TransactRequest{Independent: independent, Operations: make([]*objectv1pb.Operation, len(ops))}
	for i, op := range ops {
		if req.Operations[i], err = operationOf(op); err != nil {
			return nil, err
		}
	}
	var header metadata.MD
	res, err := service.Transact(ctx, req, grpc.Header(&header))
	if err != nil {
		return nil, rpc.FromStatus(err)
	}
	out := make([]registry.OperationResult, len(res.GetResults()))
	said := saidIn(header) // about any of them
	for i, result := range res.GetResults() {
		if failed := result.GetErrorStatus(); len(failed) > 0 {
			status := &apierrors.StatusError{}
			if err := json.Unmarshal(failed, &status.ErrStatus); err != nil {
				return nil, fmt.Errorf("result %d of the leader: %w", i, err)
			}
			out[i].Err = status
			continue
		}
		if result.GetObject() == nil {
			continue
		}
		if out[i], err = resultOf(ops[i].Ref, result.GetObject()); err != nil {
			return nil, err
		}
		if out[i].Object, err = object.Unpack(result.GetObject()); err != nil {
			return nil, apierrors.NewInternalError(err)
		}
	}
	if len(out) > 0 {
		out[0].Warnings, out[0].Annotations = said.Warnings, said.Annotations
	}
	return out, nil
}

// DeleteCollection deletes matching objects at the leader.
func (f *Forwarder) DeleteCollection(ctx context.Context, caller registry.Caller, ref registry.Ref, opts metav1.DeleteOptions, list registry.ListOptions) (int64, error) {
	ctx, service, err := f.connect(ctx, caller)
	if err != nil {
		return 0, err
	}
	req := &objectv1pb.DeleteCollectionRequest{
		Resource: resourceOf(ref), Namespace: ref.Namespace, FieldSelector: list.Fields, Options: deleteOptionsOf(opts),
	}
	if list.Labels != nil {
		req.LabelSelector = list.Labels.String()
	}
	res, err := service.DeleteCollection(ctx, req)
	return res.GetCount(), rpc.FromStatus(err)
}

// resultOf keeps the object encoded, as the registry's caller may want it.
func resultOf(ref registry.Ref, packed *anypb.Any) (registry.OperationResult, error) {
	kind, ok := object.KindForTypeURL(packed.GetTypeUrl())
	if !ok {
		return registry.OperationResult{}, apierrors.NewInternalError(fmt.Errorf("the leader answered with an unknown type %q", packed.GetTypeUrl()))
	}
	out := registry.OperationResult{Kind: kind}
	if kind.NewList == nil { // the body of a subresource
		obj, err := object.Unpack(packed)
		if err != nil {
			return out, apierrors.NewInternalError(err)
		}
		out.Object = obj
		return out, nil
	}
	meta, err := kinds.ReadWireMeta(packed.GetValue())
	if err != nil {
		return out, apierrors.NewInternalError(err)
	}
	version, err := object.ParseVersion(meta.ResourceVersion)
	if err != nil {
		return out, apierrors.NewInternalError(err)
	}
	out.Record = &store.Record{
		Key:     store.Key{Resource: ref.Resource.GroupResource().String(), Namespace: meta.Namespace, Name: meta.Name},
		Version: version, Value: packed.GetValue(),
		Index: store.Index{UID: types.UID(meta.UID), Labels: store.AttributesOf(meta.Labels), Deleting: meta.Deleting},
	}
	return out, nil
}

func resourceOf(ref registry.Ref) *objectv1pb.Resource {
	return &objectv1pb.Resource{Group: ref.Resource.Group, Version: ref.Resource.Version, Resource: ref.Resource.Resource}
}

func referenceOf(ref registry.Ref) *objectv1pb.Reference {
	return &objectv1pb.Reference{Resource: resourceOf(ref), Namespace: ref.Namespace, Name: ref.Name}
}

func patchTypeOf(kind types.PatchType) objectv1pb.PatchType {
	switch kind {
	case types.JSONPatchType:
		return objectv1pb.PatchType_PATCH_TYPE_JSON
	case types.MergePatchType:
		return objectv1pb.PatchType_PATCH_TYPE_MERGE
	case types.StrategicMergePatchType:
		return objectv1pb.PatchType_PATCH_TYPE_STRATEGIC
	case types.ApplyPatchType:
		return objectv1pb.PatchType_PATCH_TYPE_APPLY
	}
	return objectv1pb.PatchType_PATCH_TYPE_UNSPECIFIED
}

func operationOf(op registry.Operation) (*objectv1pb.Operation, error) {
	var packed *anypb.Any
	if op.Object != nil {
		var err error
		if packed, err = object.Pack(op.Object); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
	}
	switch op.Verb {
	case registry.VerbCreate:
		return &objectv1pb.Operation{Operation: &objectv1pb.Operation_Create{Create: &objectv1pb.CreateRequest{
			Reference: referenceOf(op.Ref), Subresource: op.Ref.Subresource, Object: packed,
			DryRun: op.Options.DryRun, FieldManager: op.Options.FieldManager,
		}}}, nil
	case registry.VerbUpdate:
		return &objectv1pb.Operation{Operation: &objectv1pb.Operation_Update{Update: &objectv1pb.UpdateRequest{
			Reference: referenceOf(op.Ref), Subresource: op.Ref.Subresource, Object: packed,
			DryRun: op.Options.DryRun, FieldManager: op.Options.FieldManager,
		}}}, nil
	case registry.VerbPatch:
		return &objectv1pb.Operation{Operation: &objectv1pb.Operation_Patch{Patch: &objectv1pb.PatchRequest{
			Reference: referenceOf(op.Ref), Subresource: op.Ref.Subresource, Type: patchTypeOf(op.PatchType), Patch: op.Patch,
			Force: op.Options.Force, DryRun: op.Options.DryRun, FieldManager: op.Options.FieldManager,
			FieldValidation: cmp.Or(op.Options.FieldValidation, metav1.FieldValidationWarn),
		}}}, nil
	case registry.VerbDelete:
		return &objectv1pb.Operation{Operation: &objectv1pb.Operation_Delete{Delete: &objectv1pb.DeleteRequest{
			Reference: referenceOf(op.Ref), Options: deleteOptionsOf(op.Delete),
		}}}, nil
	}
	return nil, apierrors.NewBadRequest(fmt.Sprintf("unknown verb %q", op.Verb))
}

func deleteOptionsOf(opts metav1.DeleteOptions) *objectv1pb.DeleteOptions {
	out := &objectv1pb.DeleteOptions{GracePeriodSeconds: opts.GracePeriodSeconds, DryRun: len(opts.DryRun) > 0}
	if p := opts.Preconditions; p != nil {
		if p.UID != nil {
			out.Uid = string(*p.UID)
		}
		if p.ResourceVersion != nil {
			out.ResourceVersion = *p.ResourceVersion
		}
	}
	if opts.PropagationPolicy != nil {
		switch *opts.PropagationPolicy {
		case metav1.DeletePropagationBackground:
			out.Propagation = objectv1pb.Propagation_PROPAGATION_BACKGROUND
		case metav1.DeletePropagationForeground:
			out.Propagation = objectv1pb.Propagation_PROPAGATION_FOREGROUND
		case metav1.DeletePropagationOrphan:
			out.Propagation = objectv1pb.Propagation_PROPAGATION_ORPHAN
		}
	} else if opts.OrphanDependents != nil && *opts.OrphanDependents { //nolint:staticcheck // old clients still send it
		out.Propagation = objectv1pb.Propagation_PROPAGATION_ORPHAN
	}
	return out
}
