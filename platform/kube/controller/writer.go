package controller

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
)

// fencedWriter refuses writes outside the declared outputs and remembers the
// newest version of each kind written for the key in work, and whether there may be more.
type fencedWriter struct {
	client  Client
	outputs outputs

	mu      sync.Mutex
	newest  map[schema.GroupVersionKind]uint64
	unknown bool // a write failed of which nobody knows whether it was performed
}

var _ client.Writer = (*fencedWriter)(nil)

func canWrite(o Output) bool  { return o.write }
func canStatus(o Output) bool { return o.status || o.write }
func canRemove(o Output) bool { return o.remove }

func (w *fencedWriter) check(obj object.Object, need func(Output) bool, verb string) error {
	kind, err := object.KindOfObject(obj)
	if err != nil {
		return err
	}
	return w.outputs.allow(kind, need, verb)
}

func (w *fencedWriter) saw(obj object.Object) {
	if obj == nil {
		return
	}
	version, err := object.ParseVersion(obj.GetResourceVersion())
	if err != nil {
		return // not a version of ours: nothing to wait for
	}
	gvk := obj.GetObjectKind().GroupVersionKind()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.newest[gvk] = max(w.newest[gvk], version)
}

// failed notes a failure, unless it says that nothing was written.
func (w *fencedWriter) failed(err error) {
	if api := (apierrors.APIStatus)(nil); errors.As(err, &api) {
		code := api.Status().Code
		if code > 0 && code < http.StatusInternalServerError || code == http.StatusInsufficientStorage {
			return
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.unknown = true
}

func (w *fencedWriter) done(obj object.Object, err error) (object.Object, error) {
	if err != nil {
		w.failed(err)
		return nil, err
	}
	w.saw(obj)
	return obj, nil
}

func (w *fencedWriter) Create(ctx context.Context, obj object.Object) (object.Object, error) {
	if err := w.check(obj, canWrite, "create"); err != nil {
		return nil, err
	}
	return w.done(w.client.Create(ctx, obj))
}

func (w *fencedWriter) Update(ctx context.Context, obj object.Object) (object.Object, error) {
	if err := w.check(obj, canWrite, "update"); err != nil {
		return nil, err
	}
	return w.done(w.client.Update(ctx, obj))
}

func (w *fencedWriter) UpdateStatus(ctx context.Context, obj object.Object) (object.Object, error) {
	if err := w.check(obj, canStatus, "status update"); err != nil {
		return nil, err
	}
	return w.done(w.client.UpdateStatus(ctx, obj))
}

func (w *fencedWriter) UpdateSubresource(ctx context.Context, obj object.Object, subresource string) (object.Object, error) {
	if err := w.check(obj, needFor(subresource), subresource+" update"); err != nil {
		return nil, err
	}
	return w.done(w.client.UpdateSubresource(ctx, obj, subresource))
}

func needFor(subresource string) func(Output) bool {
	if subresource == "status" {
		return canStatus
	}
	return canWrite
}

func (w *fencedWriter) Patch(ctx context.Context, obj object.Object, patchType types.PatchType, patch []byte, subresource string) (object.Object, error) {
	if err := w.check(obj, needFor(subresource), "patch"); err != nil {
		return nil, err
	}
	return w.done(w.client.Patch(ctx, obj, patchType, patch, subresource))
}

func (w *fencedWriter) Delete(ctx context.Context, obj object.Object, opts client.DeleteOptions) error {
	if err := w.check(obj, canRemove, "delete"); err != nil {
		return err
	}
	_, err := w.done(w.client.DeleteObject(ctx, obj, opts))
	return err
}

func (w *fencedWriter) Transact(ctx context.Context, ops []client.Op, independent bool) ([]client.OpResult, error) {
	for _, op := range ops {
		kind, verb, subresource, err := op.Target()
		if err != nil {
			return nil, err
		}
		need := needFor(subresource)
		if verb == client.VerbDelete {
			need = canRemove
		}
		if err := w.outputs.allow(kind, need, string(verb)); err != nil {
			return nil, fmt.Errorf("transact: %w", err)
		}
	}
	results, err := w.client.Transact(ctx, ops, independent)
	if err != nil {
		w.failed(err)
		return nil, err
	}
	for _, result := range results {
		w.saw(result.Object)
		if result.Err != nil {
			w.failed(result.Err)
		}
	}
	return results, nil
}
