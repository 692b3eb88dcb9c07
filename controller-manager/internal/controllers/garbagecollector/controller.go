// Package garbagecollector removes objects whose owners are gone, holds back owners
// that wait for their dependents, and sets dependents of orphaning owners free.
package garbagecollector

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
)

// IndexOwner is the index by the uid of any owner that collections must have; see Owners.
const IndexOwner = "garbagecollector-owner"

// Owners is IndexOwner's function.
func Owners(obj metav1.Object) []string {
	var uids []string
	for _, ref := range obj.GetOwnerReferences() {
		uids = append(uids, string(ref.UID))
	}
	return uids
}

// Collection is one kind's objects. Make it with Of.
type Collection struct {
	kind       object.Kind
	get        func(object.Key) (object.Object, error)
	live       func(context.Context, object.Key) (object.Object, error)
	dependents func(owner types.UID) []object.Object
	// waitVersion waits until the cache has seen everything up to a version.
	waitVersion func(ctx context.Context, resourceVersion string) error
	// input yields what is due for a change; before is nil for a new object, after for one that is gone.
	input func(keysOf func(before, after object.Object) []object.Key) controller.Input
}

// Of wraps an informer, which must have IndexOwner. api reads past its cache.
func Of[T object.Object](inf *informer.Informer[T], api *client.Client) Collection {
	return Collection{
		kind: inf.Kind(),
		get: func(key object.Key) (object.Object, error) {
			obj, err := inf.Get(key)
			if err != nil {
				return nil, err
			}
			return obj, nil
		},
		live: func(ctx context.Context, key object.Key) (object.Object, error) {
			obj, err := client.Get[T](ctx, api, key)
			if err != nil {
				return nil, err
			}
			return obj, nil
		},
		dependents: func(owner types.UID) []object.Object {
			var out []object.Object
			for _, obj := range inf.ByIndex(IndexOwner, string(owner)) {
				out = append(out, obj)
			}
			return out
		},
		waitVersion: inf.WaitVersion,
		input: func(keysOf func(before, after object.Object) []object.Key) controller.Input {
			return controller.Changed(inf, func(before, after T) []object.Key { return keysOf(present(before), present(after)) })
		},
	}
}

// present is an object as an interface that is nil if there is none.
func present[T object.Object](obj T) object.Object {
	var none T
	if any(obj) == any(none) {
		return nil
	}
	return obj
}

// Customs are the objects of kinds that users define; *informer.Customs implements it.
type Customs interface {
	All(gone bool) []informer.Followed
	OnChange(handler func(kind object.Kind, before, after *object.Custom))
}

var _ Customs = (*informer.Customs)(nil)

// followed wraps the objects of a kind that users have defined.
func followed(f informer.Followed, api *client.Client) Collection {
	return Collection{
		kind: f.Kind,
		get: func(key object.Key) (object.Object, error) {
			obj, err := f.Get(key)
			if err != nil {
				return nil, err
			}
			return obj, nil
		},
		live: func(ctx context.Context, key object.Key) (object.Object, error) { return api.GetKind(ctx, f.Kind, key) },
		dependents: func(owner types.UID) []object.Object {
			var out []object.Object
			for _, obj := range f.Dependents(owner) {
				out = append(out, obj)
			}
			return out
		},
		waitVersion: f.WaitVersion,
	}
}

// Controller collects garbage. Its keys name a kind, too: see itemKey.
type Controller struct {
	collections []Collection
	byKind      map[schema.GroupKind]*Collection
	byResource  map[string]*Collection
	customs     Customs
	api         *client.Client
}

var _ controller.Controller = (*Controller)(nil)

// New returns the controller over every kind that may own or be owned. api reads past the
// caches of the kinds that users define.
func New(collections []Collection, customs Customs, api *client.Client) *Controller {
	c := &Controller{customs: customs, api: api, collections: collections, byKind: map[schema.GroupKind]*Collection{}, byResource: map[string]*Collection{}}
	for i := range collections {
		c.byKind[collections[i].kind.GVK.GroupKind()] = &collections[i]
		c.byResource[collections[i].kind.GroupResource().String()] = &collections[i]
	}
	return c
}

// Name is "garbagecollector".
func (*Controller) Name() string { return "garbagecollector" }

// itemKey makes a queue key that names an object of any kind: no resource or object
// name contains a "|".
func itemKey(kind object.Kind, key object.Key) object.Key {
	return object.Key{Namespace: key.Namespace, Name: kind.GroupResource().String() + "|" + key.Name}
}

// Inputs are all collections: an object makes itself due, its dependents when it goes or is about
// to, and the owners that may wait for it when it has gone.
func (c *Controller) Inputs() []controller.Input {
	inputs := make([]controller.Input, 0, len(c.collections)+1)
	for i := range c.collections {
		collection := &c.collections[i]
		inputs = append(inputs, collection.input(func(before, after object.Object) []object.Key { return c.due(collection.kind, before, after) }))
	}
	return append(inputs, controller.TriggeredBy(func(enqueue func(object.Key)) {
		c.customs.OnChange(func(kind object.Kind, before, after *object.Custom) {
			for _, key := range c.due(kind, present(before), present(after)) {
				enqueue(key)
			}
		})
	}, func() []object.Key {
		var keys []object.Key
		for _, f := range c.customs.All(false) {
			for _, obj := range f.List() {
				keys = append(keys, c.due(f.Kind, nil, obj)...)
			}
		}
		return keys
	}))
}

// due lists what must be looked at for a change. Most changes are of no matter: that of the status
// of an owner of thousands must not make all of them due.
func (c *Controller) due(kind object.Kind, before, after object.Object) []object.Key {
	if before != nil && after != nil && before.GetUID() != after.GetUID() { // another one of the same name
		return append(c.due(kind, before, nil), c.due(kind, nil, after)...)
	}
	if before != nil && after != nil && !matters(before, after) {
		return nil
	}
	var keys []object.Key
	if after != nil && (len(after.GetOwnerReferences()) > 0 || after.GetDeletionTimestamp() != nil) {
		keys = append(keys, itemKey(kind, object.KeyOf(after)))
	}
	if before != nil { // owners may have waited for it
		for _, ref := range before.GetOwnerReferences() {
			if owner := c.ownerCollection(ref); owner != nil && ptr.Deref(ref.BlockOwnerDeletion, false) {
				keys = append(keys, itemKey(owner.kind, ownerKey(owner, before, ref)))
			}
		}
	}
	leaving := after
	if after == nil {
		leaving = before
	} else if after.GetDeletionTimestamp() == nil {
		return keys
	}
	for _, collection := range c.all() {
		for _, dependent := range collection.dependents(leaving.GetUID()) {
			keys = append(keys, itemKey(collection.kind, object.KeyOf(dependent)))
		}
	}
	return keys
}

// matters says whether a change is one of owners, of finalizers or the beginning of the end.
func matters(before, after object.Object) bool {
	return !before.GetDeletionTimestamp().Equal(after.GetDeletionTimestamp()) ||
		!slices.Equal(before.GetFinalizers(), after.GetFinalizers()) ||
		!slices.EqualFunc(before.GetOwnerReferences(), after.GetOwnerReferences(), func(a, b metav1.OwnerReference) bool {
			return a.UID == b.UID && ptr.Deref(a.BlockOwnerDeletion, false) == ptr.Deref(b.BlockOwnerDeletion, false)
		})
}

// all returns the collections of now.
func (c *Controller) all() []*Collection {
	customs := c.customs.All(false)
	out := make([]*Collection, 0, len(c.collections)+len(customs))
	for i := range c.collections {
		out = append(out, &c.collections[i])
	}
	for _, f := range customs {
		collection := followed(f, c.api)
		out = append(out, &collection)
	}
	return out
}

func (c *Controller) ownerCollection(ref metav1.OwnerReference) *Collection {
	kind := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind).GroupKind()
	if collection := c.byKind[kind]; collection != nil {
		return collection
	}
	return c.custom(func(k object.Kind) bool { return k.GVK.GroupKind() == kind })
}

// custom finds a kind that users define, or have defined.
func (c *Controller) custom(is func(object.Kind) bool) *Collection {
	for _, f := range c.customs.All(true) {
		if is(f.Kind) {
			collection := followed(f, c.api)
			return &collection
		}
	}
	return nil
}

func ownerKey(owner *Collection, dependent metav1.Object, ref metav1.OwnerReference) object.Key {
	if !owner.kind.Namespaced {
		return object.Key{Name: ref.Name}
	}
	return object.Key{Namespace: dependent.GetNamespace(), Name: ref.Name}
}

// Outputs are deletions of any kind.
func (*Controller) Outputs() []controller.Output {
	return []controller.Output{controller.DeletesAny("its owners are gone")}
}

// Reconcile looks at one object as dependent and as owner.
func (c *Controller) Reconcile(ctx context.Context, key object.Key, w client.Writer, log *zap.Logger) (time.Duration, error) {
	resource, name, ok := strings.Cut(key.Name, "|")
	collection := c.byResource[resource]
	if collection == nil {
		collection = c.custom(func(k object.Kind) bool { return k.GroupResource().String() == resource })
	}
	if !ok || collection == nil {
		return 0, fmt.Errorf("not a key of this queue: %s", key)
	}
	obj, err := collection.get(object.Key{Namespace: key.Namespace, Name: name})
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if obj.GetDeletionTimestamp() != nil {
		return 0, c.asOwner(ctx, w, obj)
	}
	return 0, c.asDependent(ctx, w, obj, log)
}

// asDependent deletes an object that no owner wants kept, and otherwise drops the
// references to owners that are gone or wait for their dependents.
func (c *Controller) asDependent(ctx context.Context, w client.Writer, obj object.Object, log *zap.Logger) error {
	refs := obj.GetOwnerReferences()
	var kept []metav1.OwnerReference
	waiting := false
	for _, ref := range refs {
		owner, err := c.owner(ctx, obj, ref)
		switch {
		case err != nil:
			return err
		case owner == nil:
		case owner.GetDeletionTimestamp() != nil && slices.Contains(owner.GetFinalizers(), metav1.FinalizerDeleteDependents):
			waiting = true
		default:
			kept = append(kept, ref)
		}
	}
	switch {
	case len(kept) == len(refs):
		return nil
	case len(kept) > 0: // it belongs to others, too
		return patchMetadata(ctx, w, obj, "ownerReferences", kept)
	case waiting:
		if err := c.awaitCaches(ctx, obj); err != nil {
			return err
		}
		propagation := metav1.DeletePropagationBackground
		if c.hasBlockingDependents(obj.GetUID()) {
			propagation = metav1.DeletePropagationForeground
		}
		return ignoreGone(w.Delete(ctx, obj, client.DeleteOptions{UID: obj.GetUID(), ResourceVersion: obj.GetResourceVersion(), Propagation: propagation}))
	default:
		log.Info("owners are gone, deleting")
		return ignoreGone(w.Delete(ctx, obj, client.DeleteOptions{UID: obj.GetUID(), ResourceVersion: obj.GetResourceVersion(), Propagation: metav1.DeletePropagationBackground}))
	}
}

// owner returns the object a reference means, nil if it is gone for sure. A cache
// that does not show it may be behind, so the apiserver has the last word.
func (c *Controller) owner(ctx context.Context, dependent object.Object, ref metav1.OwnerReference) (object.Object, error) {
	collection := c.ownerCollection(ref)
	if collection == nil {
		return dependent, nil // an owner of a kind we do not know is not known to be gone
	}
	key := ownerKey(collection, dependent, ref)
	if owner, err := collection.get(key); err == nil && owner.GetUID() == ref.UID {
		return owner, nil
	}
	owner, err := collection.live(ctx, key)
	if apierrors.IsNotFound(err) || err == nil && owner.GetUID() != ref.UID {
		return nil, nil
	}
	return owner, err
}

// cacheWait bounds the wait for the caches of all kinds. One that is far behind must not keep the
// workers from everything else: the key comes again.
const cacheWait = 200 * time.Millisecond

// awaitCaches waits until every cache shows what was there when obj was last
// written: a dependent that is older than its owner's deletion must not be missed.
func (c *Controller) awaitCaches(ctx context.Context, obj object.Object) error {
	ctx, cancel := context.WithTimeout(ctx, cacheWait)
	defer cancel()
	for _, collection := range c.all() {
		if err := collection.waitVersion(ctx, obj.GetResourceVersion()); err != nil {
			return err
		}
	}
	return nil
}

func (c *Controller) hasBlockingDependents(owner types.UID) bool {
	for _, collection := range c.all() {
		for _, dependent := range collection.dependents(owner) {
			for _, ref := range dependent.GetOwnerReferences() {
				if ref.UID == owner && ptr.Deref(ref.BlockOwnerDeletion, false) {
					return true
				}
			}
		}
	}
	return false
}

// asOwner lets a terminating object go once its finalizer's condition holds.
func (c *Controller) asOwner(ctx context.Context, w client.Writer, obj object.Object) error {
	finalizers := obj.GetFinalizers()
	orphans, waits := slices.Contains(finalizers, metav1.FinalizerOrphanDependents), slices.Contains(finalizers, metav1.FinalizerDeleteDependents)
	if !orphans && !waits {
		return nil
	}
	if err := c.awaitCaches(ctx, obj); err != nil {
		return err
	}
	if orphans {
		for _, collection := range c.all() {
			for _, dependent := range collection.dependents(obj.GetUID()) {
				kept := slices.DeleteFunc(slices.Clone(dependent.GetOwnerReferences()), func(ref metav1.OwnerReference) bool { return ref.UID == obj.GetUID() })
				if err := patchMetadata(ctx, w, dependent, "ownerReferences", kept); err != nil {
					return err
				}
			}
		}
		return dropFinalizer(ctx, w, obj, metav1.FinalizerOrphanDependents)
	}
	if !c.hasBlockingDependents(obj.GetUID()) {
		return dropFinalizer(ctx, w, obj, metav1.FinalizerDeleteDependents)
	}
	return nil
}

func dropFinalizer(ctx context.Context, w client.Writer, obj object.Object, finalizer string) error {
	kept := slices.DeleteFunc(slices.Clone(obj.GetFinalizers()), func(f string) bool { return f == finalizer })
	return patchMetadata(ctx, w, obj, "finalizers", kept)
}

// patchMetadata replaces one list of an object's metadata, if it is still at the version seen.
func patchMetadata[E any](ctx context.Context, w client.Writer, obj object.Object, name string, list []E) error {
	if list == nil {
		list = []E{}
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": obj.GetUID(), "resourceVersion": obj.GetResourceVersion(), name: list,
	}})
	if err != nil {
		return err
	}
	_, err = w.Patch(ctx, obj, types.MergePatchType, patch, "")
	return ignoreGone(err)
}

func ignoreGone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
