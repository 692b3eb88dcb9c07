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
	partial map[schema.GroupVersionKind]bool // never replaced: that would delete what caches dropped

	mu      sync.Mutex
	newest  map[schema.GroupVersionKind]uint64
	unknown bool // a write failed of which nobody knows whether it was performed
}

var _ client.Writer = (*fencedWriter)(nil)

func canWrite(o Output) bool  { return o.write }
func canStatus(o Output) bool { return o.status || o.write }
func canRemove(o Output) bool { return o.remove }
func canScale(o Output) bool  { return o.scale || o.write }

func (w *fencedWriter) check(obj object.Object, need func(Output) bool, verb string) error {
	kind, err := object.KindOfObject(obj)
	if err != nil {
		return err
	}
	return w.outputs.allow(kind, need, verb)
}

// checkReplaced is check for writes that replace an object or its status.
func (w *fencedWriter) checkReplaced(obj object.Object, need func(Output) bool, verb string) error {
	kind, err := object.KindOfObject(obj)
	if err != nil {
		return err
	}
	if w.partial[kind.GVK] {
		return replacesPart(kind)
	}
	return w.outputs.allow(kind, need, verb)
}

func replacesPart(kind object.Kind) error {
	return fmt.Errorf("caches hold %s in part, so that replacing one would lose the rest: patch it", kind.GVK.Kind)
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

// failed notes a failure, unless it says that nothing was written. An object that exists already is
// not in the cache yet, or it would not have been created: an earlier write was performed.
func (w *fencedWriter) failed(err error) {
	if api := (apierrors.APIStatus)(nil); errors.As(err, &api) && !apierrors.IsAlreadyExists(err) {
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
	written, err := w.client.Create(ctx, obj)
	return w.done(written, err)
}

func (w *fencedWriter) Update(ctx context.Context, obj object.Object) (object.Object, error) {
	if err := w.checkReplaced(obj, canWrite, "update"); err != nil {
		return nil, err
	}
	written, err := w.client.Update(ctx, obj)
	return w.done(written, err)
}

func (w *fencedWriter) UpdateStatus(ctx context.Context, obj object.Object) (object.Object, error) {
	if err := w.checkReplaced(obj, canStatus, "status update"); err != nil {
		return nil, err
	}
	written, err := w.client.UpdateStatus(ctx, obj)
	return w.done(written, err)
}

func (w *fencedWriter) UpdateSubresource(ctx context.Context, obj object.Object, subresource string) (object.Object, error) {
	if err := w.checkReplaced(obj, needFor(subresource), subresource+" update"); err != nil {
		return nil, err
	}
	written, err := w.client.UpdateSubresource(ctx, obj, subresource)
	return w.done(written, err)
}

func needFor(subresource string) func(Output) bool {
	switch subresource {
	case "status":
		return canStatus
	case "scale":
		return canScale
	}
	return canWrite
}

func (w *fencedWriter) Patch(ctx context.Context, obj object.Object, patchType types.PatchType, patch []byte, subresource string) (object.Object, error) {
	if err := w.check(obj, needFor(subresource), "patch"); err != nil {
		return nil, err
	}
	written, err := w.client.Patch(ctx, obj, patchType, patch, subresource)
	return w.done(written, err)
}

func (w *fencedWriter) Delete(ctx context.Context, obj object.Object, opts client.DeleteOptions) error {
	if err := w.check(obj, canRemove, "delete"); err != nil {
		return err
	}
	written, err := w.client.DeleteObject(ctx, obj, opts)
	_, err = w.done(written, err)
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
		if verb == client.VerbUpdate && w.partial[kind.GVK] {
			return nil, fmt.Errorf("transact: %w", replacesPart(kind))
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
