package rest

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"kijabi.dev/apiserver/internal/authz"
	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/registry/kinds"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
)

// fakeRegistry is the least that satisfies registry.Registry: a map, a counter and a log
// of events. It neither defaults nor validates.
type fakeRegistry struct {
	mu      sync.Mutex
	changed *sync.Cond
	version uint64
	records map[store.Key]*store.Record
	events  []store.Event
	kinds   []*registry.Kind
	// open counts watches under way.
	open int
	// lastDelete is what the last Delete was asked.
	lastDelete metav1.DeleteOptions
	lastWrite  registry.WriteOptions
	lastCaller registry.Caller
}

var _ registry.Registry = (*fakeRegistry)(nil)

func newFakeRegistry() *fakeRegistry {
	f := &fakeRegistry{records: map[store.Key]*store.Record{}, kinds: kinds.Default(), version: 100}
	f.changed = sync.NewCond(&f.mu)
	return f
}

func (f *fakeRegistry) Kinds() []*registry.Kind { return f.kinds }

func (f *fakeRegistry) Current(context.Context) error { return nil }

func (f *fakeRegistry) Kind(gvr schema.GroupVersionResource) (*registry.Kind, error) {
	for _, k := range f.kinds {
		if k.GVR == gvr || gvr.Version == "" && k.GVR.GroupResource() == gvr.GroupResource() {
			return k, nil
		}
	}
	return nil, apierrors.NewNotFound(gvr.GroupResource(), "")
}

func keyOf(ref registry.Ref) store.Key {
	return store.Key{Resource: ref.Resource.GroupResource().String(), Namespace: ref.Namespace, Name: ref.Name}
}

func (f *fakeRegistry) get(ref registry.Ref) (*store.Record, error) {
	record := f.records[keyOf(ref)]
	if record == nil {
		return nil, apierrors.NewNotFound(ref.Resource.GroupResource(), ref.Name)
	}
	return record, nil
}

func (f *fakeRegistry) Get(_ context.Context, ref registry.Ref) (*store.Record, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.get(ref)
}

// put stores obj at the next version and returns it as stored.
func (f *fakeRegistry) put(ref registry.Ref, obj object.Object) (object.Object, error) {
	ref.Name, ref.Namespace = obj.GetName(), obj.GetNamespace()
	previous := f.records[keyOf(ref)]
	f.version++
	obj.SetResourceVersion("")
	value, err := obj.Marshal()
	if err != nil {
		return nil, err
	}
	record := &store.Record{
		Key: keyOf(ref), Version: f.version, Value: store.AppendVersion(value, f.version),
		Index: store.Index{UID: obj.GetUID(), Labels: store.AttributesOf(obj.GetLabels())},
	}
	event := store.Event{Type: store.Added, Record: record, Previous: previous}
	if previous != nil {
		event.Type = store.Modified
	}
	f.records[record.Key] = record
	f.events = append(f.events, event)
	f.changed.Broadcast()
	obj.SetResourceVersion(object.FormatVersion(f.version))
	return obj, nil
}

func (f *fakeRegistry) Create(_ context.Context, caller registry.Caller, ref registry.Ref, obj object.Object, opts registry.WriteOptions) (object.Object, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lastWrite, f.lastCaller = opts, caller
	if ref.Subresource != "" {
		return obj, nil
	}
	if obj.GetName() == "" {
		obj.SetName(obj.GetGenerateName() + uuid.NewString()[:5])
	}
	ref.Name = obj.GetName()
	if _, err := f.get(ref); err == nil {
		return nil, apierrors.NewAlreadyExists(ref.Resource.GroupResource(), ref.Name)
	}
	obj.SetUID(types.UID(uuid.NewString()))
	obj.SetCreationTimestamp(metav1.Now())
	return f.put(ref, obj)
}

func (f *fakeRegistry) Update(_ context.Context, caller registry.Caller, ref registry.Ref, obj object.Object, opts registry.WriteOptions) (object.Object, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lastWrite, f.lastCaller = opts, caller
	record, err := f.get(ref)
	if err != nil {
		return nil, err
	}
	if v := obj.GetResourceVersion(); v != "" && v != object.FormatVersion(record.Version) {
		return nil, apierrors.NewConflict(ref.Resource.GroupResource(), ref.Name, fmt.Errorf("the object has been modified"))
	}
	obj.SetUID(record.Index.UID)
	return f.put(ref, obj)
}

func (f *fakeRegistry) Patch(_ context.Context, caller registry.Caller, ref registry.Ref, _ types.PatchType, patch []byte, opts registry.WriteOptions) (object.Object, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lastWrite, f.lastCaller = opts, caller
	kind, err := f.Kind(ref.Resource)
	if err != nil {
		return nil, err
	}
	record, err := f.get(ref)
	if err != nil {
		return nil, err
	}
	old, err := object.Decode(kind.Kind, record.Value)
	if err != nil {
		return nil, err
	}
	original, err := json.Marshal(old)
	if err != nil {
		return nil, err
	}
	merged, err := strategicpatch.StrategicMergePatch(original, patch, kind.New())
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	obj := kind.New()
	if err := json.Unmarshal(merged, obj); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return f.put(ref, obj)
}

func (f *fakeRegistry) Delete(_ context.Context, caller registry.Caller, ref registry.Ref, opts metav1.DeleteOptions) (object.Object, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lastDelete, f.lastCaller = opts, caller
	kind, err := f.Kind(ref.Resource)
	if err != nil {
		return nil, false, err
	}
	record, err := f.get(ref)
	if err != nil {
		return nil, false, err
	}
	f.version++
	gone := &store.Record{Key: record.Key, Version: f.version, Value: store.AppendVersion(slices.Clip(record.Value), f.version), Index: record.Index}
	delete(f.records, record.Key)
	f.events = append(f.events, store.Event{Type: store.Deleted, Record: gone, Previous: record})
	f.changed.Broadcast()
	obj, err := object.Decode(kind.Kind, gone.Value)
	return obj, true, err
}

func (f *fakeRegistry) DeleteCollection(ctx context.Context, caller registry.Caller, ref registry.Ref, opts metav1.DeleteOptions, list registry.ListOptions) (int64, error) {
	page, err := f.List(ctx, ref, list)
	if err != nil {
		return 0, err
	}
	for _, record := range page.Records {
		one := ref
		one.Namespace, one.Name = record.Key.Namespace, record.Key.Name
		if _, _, err := f.Delete(ctx, caller, one, opts); err != nil {
			return 0, err
		}
	}
	return int64(len(page.Records)), nil
}

func (f *fakeRegistry) Transact(context.Context, registry.Caller, []registry.Operation, bool) ([]registry.OperationResult, error) {
	return nil, apierrors.NewInternalError(fmt.Errorf("not for this door"))
}

// selects applies the selectors to a record.
func selects(ref registry.Ref, record *store.Record, l labels.Selector, fieldSelector string) bool {
	if record.Key.Resource != ref.Resource.GroupResource().String() || ref.Namespace != "" && record.Key.Namespace != ref.Namespace {
		return false
	}
	if l != nil && !l.Matches(record.Index.Labels) {
		return false
	}
	selector, err := fields.ParseSelector(fieldSelector)
	return err == nil && selector.Matches(fields.Set{"metadata.name": record.Key.Name, "metadata.namespace": record.Key.Namespace})
}

func (f *fakeRegistry) List(_ context.Context, ref registry.Ref, opts registry.ListOptions) (registry.List, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	page := registry.List{ResourceVersion: object.FormatVersion(f.version)}
	for _, record := range f.records {
		if selects(ref, record, opts.Labels, opts.Fields) && record.Key.Namespace+"/"+record.Key.Name > opts.Continue {
			page.Records = append(page.Records, record)
		}
	}
	sort.Slice(page.Records, func(i, j int) bool {
		a, b := page.Records[i].Key, page.Records[j].Key
		return a.Namespace+"/"+a.Name < b.Namespace+"/"+b.Name
	})
	if n := int(opts.Limit); n > 0 && len(page.Records) > n {
		page.Remaining = int64(len(page.Records) - n)
		page.Records = slices.Clone(page.Records[:n])
		last := page.Records[n-1].Key
		page.Continue = last.Namespace + "/" + last.Name
	}
	return page, nil
}

func (f *fakeRegistry) Watch(ctx context.Context, ref registry.Ref, opts registry.WatchOptions) (iter.Seq2[registry.WatchBatch, error], error) {
	from, err := object.ParseVersion(opts.ResourceVersion)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if from == 1 {
		return nil, apierrors.NewResourceExpired("too old resource version: 1")
	}
	initial := from == 0 || opts.SendInitialEvents != nil && *opts.SendInitialEvents
	return func(yield func(registry.WatchBatch, error) bool) {
		f.count(1)
		defer f.count(-1)
		stop := context.AfterFunc(ctx, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.changed.Broadcast()
		})
		defer stop()
		if initial {
			page, err := f.List(ctx, ref, registry.ListOptions{Labels: opts.Labels, Fields: opts.Fields})
			if err != nil {
				yield(registry.WatchBatch{}, err)
				return
			}
			from, _ = object.ParseVersion(page.ResourceVersion)
			batch := registry.WatchBatch{Progress: from, InitialEnd: true}
			for _, record := range page.Records {
				batch.Events = append(batch.Events, store.Event{Type: store.Added, Record: record})
			}
			if !yield(batch, nil) {
				return
			}
		}
		for {
			f.mu.Lock()
			for ctx.Err() == nil && f.version <= from {
				f.changed.Wait()
			}
			batch := registry.WatchBatch{Progress: f.version}
			for _, event := range f.events {
				if event.Record.Version > from && selects(ref, event.Record, opts.Labels, opts.Fields) {
					batch.Events = append(batch.Events, event)
				}
			}
			from = f.version
			f.mu.Unlock()
			if ctx.Err() != nil || !yield(batch, nil) {
				return
			}
		}
	}, nil
}

// notingAuthorizer notes what it was asked, and refuses what is listed beside what the real one does.
type notingAuthorizer struct {
	*authz.Authorizer
	mu    sync.Mutex
	deny  func(user, verb, resource string) bool
	asked []string
}

func (a *notingAuthorizer) Authorize(ctx context.Context, attr authz.Attributes) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	resource := strings.TrimSuffix(attr.Resource.Resource+"/"+attr.Subresource, "/") + attr.Path
	a.asked = append(a.asked, strings.Join([]string{attr.User, attr.Verb, resource, attr.Namespace, attr.Name}, " "))
	if a.deny != nil && a.deny(attr.User, attr.Verb, resource) {
		return apierrors.NewForbidden(attr.Resource, attr.Name, fmt.Errorf("user %q cannot %s %s", attr.User, attr.Verb, resource))
	}
	return a.Authorizer.Authorize(ctx, attr)
}

func (a *notingAuthorizer) Admit(ctx context.Context, attr authz.Attributes) (context.Context, error) {
	if err := a.Authorize(ctx, attr); err != nil {
		return ctx, err
	}
	return a.Authorizer.Admit(ctx, attr)
}

// waitFor polls a condition that another goroutine brings about.
func waitFor(ctx context.Context, ok func() bool) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

func (f *fakeRegistry) Connect(context.Context, registry.Caller, registry.Ref, runtime.Object) (registry.OperationResult, error) {
	return registry.OperationResult{}, nil
}

func (f *fakeRegistry) Do(ctx context.Context, caller registry.Caller, op registry.Operation) (registry.OperationResult, error) {
	kind, err := f.Kind(op.Ref.Resource)
	if err != nil {
		return registry.OperationResult{}, err
	}
	result := registry.OperationResult{Kind: kind.Kind}
	switch op.Verb {
	case registry.VerbCreate:
		result.Object, err = f.Create(ctx, caller, op.Ref, op.Object, op.Options)
	case registry.VerbUpdate:
		result.Object, err = f.Update(ctx, caller, op.Ref, op.Object, op.Options)
	case registry.VerbPatch:
		result.Object, err = f.Patch(ctx, caller, op.Ref, op.PatchType, op.Patch, op.Options)
	default:
		result.Object, result.Deleted, err = f.Delete(ctx, caller, op.Ref, op.Delete)
	}
	if err == nil && !result.Deleted && op.Ref.Subresource == "" {
		ref := op.Ref
		ref.Name = result.Object.GetName()
		result.Record, err = f.Get(ctx, ref)
	}
	return result, err
}

func (f *fakeRegistry) count(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open += n
}

func (f *fakeRegistry) watches() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open
}
