// Package client reads, watches and writes objects of every kind over
// kijabi.object.v1.ObjectService.
//
// Typed access is by generics: Get[*corev1.Pod](ctx, c, key). Errors are
// *apierrors.StatusError, so apierrors.IsNotFound and its siblings work.
package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"
	authenticationv1 "k8s.io/api/authentication/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/platform/kube/object"
	objectv1pb "kijabi.dev/proto/gen/kijabi/object/v1"
)

// Client calls one ObjectService. It is safe for concurrent use.
type Client struct {
	objects objectv1pb.ObjectServiceClient
}

// New returns a client over a connection, such as an rpc.Failover. Over rpc.As(conn, user) it
// acts as another user.
func New(conn grpc.ClientConnInterface) *Client {
	return &Client{objects: objectv1pb.NewObjectServiceClient(conn)}
}

// ListOptions select a collection.
type ListOptions struct {
	Namespace     string // empty means all
	LabelSelector string
	FieldSelector string
	// Limit and Continue page through a collection; 0 means all.
	Limit    int64
	Continue string
}

// DeleteOptions qualify a deletion. The zero value deletes with the kind's defaults.
type DeleteOptions struct {
	// GracePeriodSeconds overrides the object's own; 0 confirms a pod's end.
	GracePeriodSeconds *int64
	// UID and ResourceVersion, if set, must match.
	UID             types.UID
	ResourceVersion string
	// Propagation of the deletion to dependents; empty means the default.
	Propagation metav1.DeletionPropagation
}

func (o DeleteOptions) proto() *objectv1pb.DeleteOptions {
	out := &objectv1pb.DeleteOptions{
		GracePeriodSeconds: o.GracePeriodSeconds,
		Uid:                string(o.UID),
		ResourceVersion:    o.ResourceVersion,
	}
	switch o.Propagation {
	case metav1.DeletePropagationBackground:
		out.Propagation = objectv1pb.Propagation_PROPAGATION_BACKGROUND
	case metav1.DeletePropagationForeground:
		out.Propagation = objectv1pb.Propagation_PROPAGATION_FOREGROUND
	case metav1.DeletePropagationOrphan:
		out.Propagation = objectv1pb.Propagation_PROPAGATION_ORPHAN
	}
	return out
}

// Writer writes objects. Objects passed in are not changed or kept; returned
// objects are the caller's. It is what controllers are given.
type Writer interface {
	Create(ctx context.Context, obj object.Object) (object.Object, error)
	// Update replaces an object; a resource version in it must match.
	Update(ctx context.Context, obj object.Object) (object.Object, error)
	// UpdateStatus replaces the status alone.
	UpdateStatus(ctx context.Context, obj object.Object) (object.Object, error)
	// UpdateSubresource replaces a subresource of obj, such as "finalize".
	UpdateSubresource(ctx context.Context, obj object.Object, subresource string) (object.Object, error)
	// Patch changes the object that obj names; only its type, namespace and name are used.
	Patch(ctx context.Context, obj object.Object, patchType types.PatchType, patch []byte, subresource string) (object.Object, error)
	// Delete removes the object that obj names; only its type, namespace and name are used.
	Delete(ctx context.Context, obj object.Object, opts DeleteOptions) error
	// Transact performs operations in one commit batch, all or none unless
	// independent, when each result carries its own error.
	Transact(ctx context.Context, ops []Op, independent bool) ([]OpResult, error)
}

var _ Writer = (*Client)(nil)

func resource(kind object.Kind) *objectv1pb.Resource {
	return &objectv1pb.Resource{Group: kind.GVR.Group, Version: kind.GVR.Version, Resource: kind.GVR.Resource}
}

func reference(kind object.Kind, key object.Key) *objectv1pb.Reference {
	return &objectv1pb.Reference{Resource: resource(kind), Namespace: key.Namespace, Name: key.Name}
}

// unpackAs decodes an Any that must hold a T.
func unpackAs[T object.Object](packed *anypb.Any) (T, error) {
	var zero T
	obj, err := object.Unpack(packed)
	if err != nil {
		return zero, err
	}
	typed, ok := obj.(T)
	if !ok {
		return zero, fmt.Errorf("got a %T where a %T was asked for", obj, zero)
	}
	return typed, nil
}

// named notes in a custom object which resource it is of, which it does not say itself.
func named(kind object.Kind, obj object.Object) {
	if custom, ok := obj.(*object.Custom); ok {
		custom.Resource = kind.GVR.Resource
	}
}

// GetKind returns one object of a kind that is only known at run time.
func (c *Client) GetKind(ctx context.Context, kind object.Kind, key object.Key) (object.Object, error) {
	res, err := c.objects.Get(ctx, &objectv1pb.GetRequest{Reference: reference(kind, key)})
	if err != nil {
		return nil, err
	}
	obj, err := object.Unpack(res.GetObject())
	if err != nil {
		return nil, err
	}
	named(kind, obj)
	return obj, nil
}

// GetSubresource returns a subresource of one object; there is "scale".
func (c *Client) GetSubresource(ctx context.Context, kind object.Kind, key object.Key, subresource string) (object.Object, error) {
	res, err := c.objects.Get(ctx, &objectv1pb.GetRequest{Reference: reference(kind, key), Subresource: subresource})
	if err != nil {
		return nil, err
	}
	return object.Unpack(res.GetObject())
}

// Get returns one object.
func Get[T object.Object](ctx context.Context, c *Client, key object.Key) (T, error) {
	var zero T
	kind := object.KindOf[T]()
	res, err := c.objects.Get(ctx, &objectv1pb.GetRequest{Reference: reference(kind, key)})
	if err != nil {
		return zero, err
	}
	return unpackAs[T](res.GetObject())
}

// Page is a list, or one page of it.
type Page[T object.Object] struct {
	Items           []T
	ResourceVersion string
	// Continue is not empty when Limit cut the list.
	Continue string
}

// List returns a collection, or one page of it, all of one version.
func List[T object.Object](ctx context.Context, c *Client, opts ListOptions) (Page[T], error) {
	var page Page[T]
	err := c.list(ctx, object.KindOf[T](), opts, func(res *objectv1pb.ListResponse) error {
		for _, packed := range res.GetObjects() {
			item, err := unpackAs[T](packed)
			if err != nil {
				return err
			}
			page.Items = append(page.Items, item)
		}
		if v := res.GetResourceVersion(); v != "" {
			page.ResourceVersion = v
		}
		page.Continue = res.GetContinue()
		return nil
	})
	if err != nil {
		return Page[T]{}, err
	}
	return page, nil
}

// ListKind returns a collection of a kind that is only known at run time.
func (c *Client) ListKind(ctx context.Context, kind object.Kind, opts ListOptions) ([]object.Object, error) {
	var items []object.Object
	err := c.list(ctx, kind, opts, func(res *objectv1pb.ListResponse) error {
		for _, packed := range res.GetObjects() {
			item, err := object.Unpack(packed)
			if err != nil {
				return err
			}
			named(kind, item)
			items = append(items, item)
		}
		return nil
	})
	return items, err
}

// Version is one that everything acknowledged before the call is part of. kind is any that the
// caller may list.
func (c *Client) Version(ctx context.Context, kind object.Kind) (string, error) {
	var version string
	err := c.list(ctx, kind, ListOptions{Limit: 1}, func(res *objectv1pb.ListResponse) error {
		if v := res.GetResourceVersion(); v != "" {
			version = v
		}
		return nil
	})
	return version, err
}

func (c *Client) list(ctx context.Context, kind object.Kind, opts ListOptions, chunk func(*objectv1pb.ListResponse) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.objects.List(ctx, &objectv1pb.ListRequest{
		Resource:      resource(kind),
		Namespace:     opts.Namespace,
		LabelSelector: opts.LabelSelector,
		FieldSelector: opts.FieldSelector,
		Limit:         opts.Limit,
		Continue:      opts.Continue,
	})
	if err != nil {
		return err
	}
	for {
		res, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := chunk(res); err != nil {
			return err
		}
	}
}

// Create stores a new object.
func (c *Client) Create(ctx context.Context, obj object.Object) (object.Object, error) {
	req, err := createRequest(obj)
	if err != nil {
		return nil, err
	}
	res, err := c.objects.Create(ctx, req)
	if err != nil {
		return nil, err
	}
	return object.Unpack(res.GetObject())
}

func createRequest(obj object.Object) (*objectv1pb.CreateRequest, error) {
	kind, err := object.KindOfObject(obj)
	if err != nil {
		return nil, err
	}
	packed, err := object.Pack(obj)
	if err != nil {
		return nil, err
	}
	return &objectv1pb.CreateRequest{Reference: reference(kind, object.KeyOf(obj)), Object: packed}, nil
}

// Update replaces an object.
func (c *Client) Update(ctx context.Context, obj object.Object) (object.Object, error) {
	return c.UpdateSubresource(ctx, obj, "")
}

// UpdateStatus replaces an object's status.
func (c *Client) UpdateStatus(ctx context.Context, obj object.Object) (object.Object, error) {
	return c.UpdateSubresource(ctx, obj, "status")
}

// UpdateSubresource replaces a subresource of an object.
func (c *Client) UpdateSubresource(ctx context.Context, obj object.Object, subresource string) (object.Object, error) {
	req, err := updateRequest(obj, subresource)
	if err != nil {
		return nil, err
	}
	res, err := c.objects.Update(ctx, req)
	if err != nil {
		return nil, err
	}
	return object.Unpack(res.GetObject())
}

func updateRequest(obj object.Object, subresource string) (*objectv1pb.UpdateRequest, error) {
	kind, err := object.KindOfObject(obj)
	if err != nil {
		return nil, err
	}
	packed, err := object.Pack(obj)
	if err != nil {
		return nil, err
	}
	return &objectv1pb.UpdateRequest{Reference: reference(kind, object.KeyOf(obj)), Subresource: subresource, Object: packed}, nil
}

// Patch changes part of an object.
func (c *Client) Patch(ctx context.Context, obj object.Object, patchType types.PatchType, patch []byte, subresource string) (object.Object, error) {
	req, err := patchRequest(obj, patchType, patch, subresource)
	if err != nil {
		return nil, err
	}
	res, err := c.objects.Patch(ctx, req)
	if err != nil {
		return nil, err
	}
	return object.Unpack(res.GetObject())
}

func patchRequest(obj object.Object, patchType types.PatchType, patch []byte, subresource string) (*objectv1pb.PatchRequest, error) {
	kind, err := object.KindOfObject(obj)
	if err != nil {
		return nil, err
	}
	req := &objectv1pb.PatchRequest{Reference: reference(kind, object.KeyOf(obj)), Subresource: subresource, Patch: patch}
	switch patchType {
	case types.JSONPatchType:
		req.Type = objectv1pb.PatchType_PATCH_TYPE_JSON
	case types.MergePatchType:
		req.Type = objectv1pb.PatchType_PATCH_TYPE_MERGE
	case types.StrategicMergePatchType:
		req.Type = objectv1pb.PatchType_PATCH_TYPE_STRATEGIC
	default:
		return nil, fmt.Errorf("patch %s %s: patch type %q is not supported by this client", kind.GVK.Kind, object.KeyOf(obj), patchType)
	}
	return req, nil
}

// Delete removes an object.
func (c *Client) Delete(ctx context.Context, obj object.Object, opts DeleteOptions) error {
	_, err := c.DeleteObject(ctx, obj, opts)
	return err
}

// DeleteObject removes an object and returns its last or terminating state, at
// the version of the deletion.
func (c *Client) DeleteObject(ctx context.Context, obj object.Object, opts DeleteOptions) (object.Object, error) {
	kind, err := object.KindOfObject(obj)
	if err != nil {
		return nil, err
	}
	res, err := c.objects.Delete(ctx, &objectv1pb.DeleteRequest{Reference: reference(kind, object.KeyOf(obj)), Options: opts.proto()})
	if err != nil {
		return nil, err
	}
	return object.Unpack(res.GetObject())
}

// Bind assigns a pod to a node. It fails with Conflict when the pod has another
// uid or a node already.
func (c *Client) Bind(ctx context.Context, pod object.Key, uid types.UID, node string) error {
	req, err := bindRequest(pod, uid, node)
	if err != nil {
		return err
	}
	_, err = c.objects.Create(ctx, req)
	return err
}

// Token obtains a token of a service account; the answer is in the request's status.
func (c *Client) Token(ctx context.Context, namespace, account string, request *authenticationv1.TokenRequest) error {
	packed, err := object.Pack(request)
	if err != nil {
		return err
	}
	answer, err := c.objects.Create(ctx, &objectv1pb.CreateRequest{
		Reference:   reference(object.KindOf[*corev1.ServiceAccount](), object.Key{Namespace: namespace, Name: account}),
		Subresource: "token",
		Object:      packed,
	})
	if err != nil {
		return err
	}
	issued, err := unpackAs[*authenticationv1.TokenRequest](answer.GetObject())
	if err != nil {
		return err
	}
	*request = *issued
	return nil
}

func bindRequest(pod object.Key, uid types.UID, node string) (*objectv1pb.CreateRequest, error) {
	packed, err := object.Pack(&corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: uid},
		Target:     corev1.ObjectReference{Kind: "Node", Name: node},
	})
	if err != nil {
		return nil, err
	}
	return &objectv1pb.CreateRequest{
		Reference:   reference(object.KindOf[*corev1.Pod](), pod),
		Subresource: "binding",
		Object:      packed,
	}, nil
}

// Scale sets the number of replicas of the workload that obj names.
func (c *Client) Scale(ctx context.Context, obj object.Object, replicas int32) error {
	kind, err := object.KindOfObject(obj)
	if err != nil {
		return err
	}
	packed, err := object.Pack(&autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{Namespace: obj.GetNamespace(), Name: obj.GetName()},
		Spec:       autoscalingv1.ScaleSpec{Replicas: replicas},
	})
	if err != nil {
		return err
	}
	_, err = c.objects.Update(ctx, &objectv1pb.UpdateRequest{
		Reference: reference(kind, object.KeyOf(obj)), Subresource: "scale", Object: packed,
	})
	return err
}

// Op is one write of a Transact. Make it with CreateOp, UpdateOp, PatchOp, DeleteOp or BindOp.
type Op struct {
	operation *objectv1pb.Operation
	err       error
}

// CreateOp creates an object.
func CreateOp(obj object.Object) Op {
	req, err := createRequest(obj)
	return Op{&objectv1pb.Operation{Operation: &objectv1pb.Operation_Create{Create: req}}, err}
}

// UpdateOp replaces an object, or a subresource of it.
func UpdateOp(obj object.Object, subresource string) Op {
	req, err := updateRequest(obj, subresource)
	return Op{&objectv1pb.Operation{Operation: &objectv1pb.Operation_Update{Update: req}}, err}
}

// PatchOp patches an object, or a subresource of it.
func PatchOp(obj object.Object, patchType types.PatchType, patch []byte, subresource string) Op {
	req, err := patchRequest(obj, patchType, patch, subresource)
	return Op{&objectv1pb.Operation{Operation: &objectv1pb.Operation_Patch{Patch: req}}, err}
}

// DeleteOp deletes an object.
func DeleteOp(obj object.Object, opts DeleteOptions) Op {
	kind, err := object.KindOfObject(obj)
	if err != nil {
		return Op{err: err}
	}
	req := &objectv1pb.DeleteRequest{Reference: reference(kind, object.KeyOf(obj)), Options: opts.proto()}
	return Op{&objectv1pb.Operation{Operation: &objectv1pb.Operation_Delete{Delete: req}}, nil}
}

// BindOp assigns a pod to a node.
func BindOp(pod object.Key, uid types.UID, node string) Op {
	req, err := bindRequest(pod, uid, node)
	return Op{&objectv1pb.Operation{Operation: &objectv1pb.Operation_Create{Create: req}}, err}
}

// OpResult is the outcome of one Op.
type OpResult struct {
	// Object as stored; nil when Err is set.
	Object object.Object
	// Err is a StatusError; only set for independent operations.
	Err error
}

// Transact performs several writes in one commit batch.
func (c *Client) Transact(ctx context.Context, ops []Op, independent bool) ([]OpResult, error) {
	if len(ops) == 0 {
		return nil, nil
	}
	req := &objectv1pb.TransactRequest{Independent: independent}
	for _, op := range ops {
		if op.err != nil {
			return nil, op.err
		}
		req.Operations = append(req.Operations, op.operation)
	}
	res, err := c.objects.Transact(ctx, req)
	if err != nil {
		return nil, err
	}
	if len(res.GetResults()) != len(ops) {
		return nil, fmt.Errorf("transact: %d results for %d operations", len(res.GetResults()), len(ops))
	}
	results := make([]OpResult, 0, len(ops))
	for _, result := range res.GetResults() {
		var out OpResult
		switch {
		case len(result.GetErrorStatus()) > 0:
			var status metav1.Status
			if err := json.Unmarshal(result.GetErrorStatus(), &status); err != nil {
				return nil, fmt.Errorf("transact: error of an operation: %w", err)
			}
			out.Err = &apierrors.StatusError{ErrStatus: status}
		case result.GetObject() != nil:
			if out.Object, err = object.Unpack(result.GetObject()); err != nil {
				return nil, err
			}
		}
		results = append(results, out)
	}
	return results, nil
}

// Verb is what an Op does.
type Verb string

// Verbs of operations.
const (
	VerbCreate Verb = "create"
	VerbUpdate Verb = "update"
	VerbPatch  Verb = "patch"
	VerbDelete Verb = "delete"
)

// Target says what an Op does and to which kind. The error is that of making the Op.
func (op Op) Target() (kind object.Kind, verb Verb, subresource string, err error) {
	if op.err != nil {
		return object.Kind{}, "", "", op.err
	}
	var ref *objectv1pb.Reference
	switch operation := op.operation.GetOperation().(type) {
	case *objectv1pb.Operation_Create:
		ref, verb, subresource = operation.Create.GetReference(), VerbCreate, operation.Create.GetSubresource()
	case *objectv1pb.Operation_Update:
		ref, verb, subresource = operation.Update.GetReference(), VerbUpdate, operation.Update.GetSubresource()
	case *objectv1pb.Operation_Patch:
		ref, verb, subresource = operation.Patch.GetReference(), VerbPatch, operation.Patch.GetSubresource()
	case *objectv1pb.Operation_Delete:
		ref, verb = operation.Delete.GetReference(), VerbDelete
	}
	kind, ok := object.KindForResource(schema.GroupResource{Group: ref.GetResource().GetGroup(), Resource: ref.GetResource().GetResource()})
	if !ok && ref.GetResource().GetGroup() != "" { // what only users' definitions know
		gv := schema.GroupVersion{Group: ref.GetResource().GetGroup(), Version: ref.GetResource().GetVersion()}
		kind, ok = object.CustomKind(gv.WithKind(ref.GetResource().GetResource()), ref.GetResource().GetResource(), ref.GetNamespace() != ""), true
	}
	if !ok {
		return object.Kind{}, "", "", fmt.Errorf("operation on unknown resource %q", ref.GetResource().GetResource())
	}
	return kind, verb, subresource, nil
}

// DeleteCollection deletes every object of a kind in a namespace and returns how many.
func (c *Client) DeleteCollection(ctx context.Context, kind object.Kind, namespace string, opts DeleteOptions) (int64, error) {
	res, err := c.objects.DeleteCollection(ctx, &objectv1pb.DeleteCollectionRequest{
		Resource: resource(kind), Namespace: namespace, Options: opts.proto(),
	})
	return res.GetCount(), err
}
