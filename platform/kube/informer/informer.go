// Package informer keeps collections of objects in memory by watching them.
//
// A Set runs any number of informers over one client. An Informer resumes where
// it stopped when its watch breaks, on whichever apiserver answers, and lists anew
// only when its version has expired. Objects it hands out are shared by all
// readers: DeepCopy one before changing it.
package informer

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/logging"
)

// Reader reads a collection. Objects are shared: DeepCopy before changing one.
type Reader[T object.Object] interface {
	// Get returns one object, or a NotFound StatusError.
	Get(key object.Key) (T, error)
	// List returns all objects, in no particular order.
	List() []T
	// ByIndex returns the objects whose index function yields value.
	ByIndex(name, value string) []T
	// OwnedBy returns the objects whose controlling owner has this uid.
	OwnedBy(uid types.UID) []T
}

// Options of an informer; made by the functions of this package.
type options struct {
	watch         client.WatchOptions
	indexes       map[string]func(object.Object) []string
	snapshot      string
	snapshotGrace time.Duration
	trim          func(object.Object) // makes an object smaller before it is kept
	keep          any                 // func(T) func() T, see Keep
}

// Option qualifies an informer.
type Option func(*options)

// FieldSelector restricts the informer, such as "spec.nodeName=node-1".
func FieldSelector(selector string) Option {
	return func(o *options) { o.watch.FieldSelector = selector }
}

// Index adds an index for ByIndex. The function must be pure.
func Index[T object.Object](name string, values func(T) []string) Option {
	return func(o *options) {
		o.indexes[name] = func(obj object.Object) []string { return values(obj.(T)) }
	}
}

// Keep lets f make every object smaller, in place, before handlers see it, and say how to make
// it again: the collection holds what f returned, and what Get and the others return is made of it.
// f must be safe for concurrent use, and so must what it returns.
func Keep[T object.Object](f func(T) func() T) Option {
	return func(o *options) { o.keep = f }
}

// SnapshotFile keeps the last known state in a file, mode 0600. When no master
// answers within a second of the start, the informer serves from it.
func SnapshotFile(path string) Option {
	return func(o *options) { o.snapshot = path }
}

// SnapshotGrace changes how long a start waits for a master before it uses the snapshot.
func SnapshotGrace(d time.Duration) Option {
	return func(o *options) { o.snapshotGrace = d }
}

// item is a kept object, or what makes it.
type item[T object.Object] struct {
	obj  T
	load func() T // nil if obj is kept itself
}

func (i item[T]) get() T {
	if i.load != nil {
		return i.load()
	}
	return i.obj
}

// Informer keeps one collection. It is safe for concurrent use.
type Informer[T object.Object] struct {
	kind object.Kind
	opts options
	c    *client.Client
	log  *zap.Logger

	synced     chan struct{} // closed once the collection is complete
	syncedOnce sync.Once

	mu       sync.RWMutex
	items    map[object.Key]item[T]
	indexes  map[string]map[string]map[object.Key]struct{} // name, value, keys
	owned    map[types.UID]map[object.Key]struct{}
	version  uint64        // everything up to here has been applied
	advanced chan struct{} // closed and replaced when version advances
	stale    bool          // serving from the snapshot
	live     bool          // the watch is established and has delivered the initial objects

	handlersMu sync.Mutex
	handlers   []func(before, after T)
}

func newInformer[T object.Object](c *client.Client, log *zap.Logger, opts options) *Informer[T] {
	return newInformerOf[T](object.KindOf[T](), c, log, opts)
}

func newInformerOf[T object.Object](kind object.Kind, c *client.Client, log *zap.Logger, opts options) *Informer[T] {
	inf := &Informer[T]{
		kind:     kind,
		opts:     opts,
		c:        c,
		log:      log.With(logging.Kind(kind.GVK.Kind)),
		synced:   make(chan struct{}),
		items:    map[object.Key]item[T]{},
		indexes:  map[string]map[string]map[object.Key]struct{}{},
		owned:    map[types.UID]map[object.Key]struct{}{},
		advanced: make(chan struct{}),
	}
	for name := range opts.indexes {
		inf.indexes[name] = map[string]map[object.Key]struct{}{}
	}
	return inf
}

// Kind is the kind of the collection's objects.
func (inf *Informer[T]) Kind() object.Kind { return inf.kind }

// Partial says whether what the collection hands out is only a part of each object, see Keep.
func (inf *Informer[T]) Partial() bool { return inf.opts.keep != nil }

// Get returns one object.
func (inf *Informer[T]) Get(key object.Key) (T, error) {
	inf.mu.RLock()
	defer inf.mu.RUnlock()
	kept, ok := inf.items[key]
	if !ok {
		return kept.obj, apierrors.NewNotFound(inf.kind.GroupResource(), key.Name)
	}
	return kept.get(), nil
}

// List returns all objects.
func (inf *Informer[T]) List() []T {
	inf.mu.RLock()
	defer inf.mu.RUnlock()
	out := make([]T, 0, len(inf.items))
	for _, kept := range inf.items {
		out = append(out, kept.get())
	}
	return out
}

// ByIndex returns the objects whose index function yields value. It panics for an
// index that was not declared, which is a programming error.
func (inf *Informer[T]) ByIndex(name, value string) []T {
	inf.mu.RLock()
	defer inf.mu.RUnlock()
	index, ok := inf.indexes[name]
	if !ok {
		panic(fmt.Sprintf("informer of %s has no index %q", inf.kind.GVK.Kind, name))
	}
	return inf.collect(index[value])
}

// OwnedBy returns the objects whose controlling owner has this uid.
func (inf *Informer[T]) OwnedBy(uid types.UID) []T {
	inf.mu.RLock()
	defer inf.mu.RUnlock()
	return inf.collect(inf.owned[uid])
}

func (inf *Informer[T]) collect(keys map[object.Key]struct{}) []T {
	out := make([]T, 0, len(keys))
	for key := range keys {
		out = append(out, inf.items[key].get())
	}
	return out
}

// OnChange adds a handler called for every change, in order, from one goroutine.
// before is the zero value (nil) for a new object, after for a removed one.
// Objects that exist already are reported as new at once, from the caller's goroutine.
// The handler must not block.
func (inf *Informer[T]) OnChange(handler func(before, after T)) {
	inf.handlersMu.Lock()
	defer inf.handlersMu.Unlock()
	var zero T
	for _, obj := range inf.List() {
		handler(zero, obj)
	}
	inf.handlers = append(inf.handlers, handler)
}

// HasSynced says whether the collection is complete, be it from a snapshot.
func (inf *Informer[T]) HasSynced() bool {
	select {
	case <-inf.synced:
		return true
	default:
		return false
	}
}

// Stale says whether the collection comes from a snapshot and no master has confirmed it yet.
func (inf *Informer[T]) Stale() bool {
	inf.mu.RLock()
	defer inf.mu.RUnlock()
	return inf.stale
}

// Version is that up to which every change is in the collection; 0 before the first.
func (inf *Informer[T]) Version() uint64 {
	inf.mu.RLock()
	defer inf.mu.RUnlock()
	return inf.version
}

// WaitVersion returns once the collection reflects a resource version, that of the
// caller's own write, say.
func (inf *Informer[T]) WaitVersion(ctx context.Context, resourceVersion string) error {
	want, err := object.ParseVersion(resourceVersion)
	if err != nil {
		return err
	}
	for {
		inf.mu.RLock()
		have, advanced := inf.version, inf.advanced
		inf.mu.RUnlock()
		if have >= want {
			return nil
		}
		select {
		case <-advanced:
		case <-ctx.Done():
			return fmt.Errorf("%s cache has not reached version %d, is at %d: %w", inf.kind.GVK.Kind, want, have, ctx.Err())
		}
	}
}

// change is what applying an event did.
type change[T object.Object] struct{ before, after T }

// put stores obj and returns what changed. The caller holds mu.
func (inf *Informer[T]) put(obj T) change[T] {
	key := object.KeyOf(obj)
	var before T
	if kept, existed := inf.items[key]; existed {
		before = kept.get()
		inf.unindex(key, before)
	}
	if keep, ok := inf.opts.keep.(func(T) func() T); ok {
		inf.items[key] = item[T]{load: keep(obj)}
	} else {
		inf.items[key] = item[T]{obj: obj}
	}
	if owner := metav1.GetControllerOfNoCopy(obj); owner != nil {
		add(inf.owned, owner.UID, key)
	}
	for name, values := range inf.opts.indexes {
		for _, value := range values(obj) {
			add(inf.indexes[name], value, key)
		}
	}
	return change[T]{before: before, after: obj}
}

// remove drops key and returns what changed. The caller holds mu.
func (inf *Informer[T]) remove(key object.Key) (change[T], bool) {
	kept, existed := inf.items[key]
	if !existed {
		return change[T]{}, false
	}
	before := kept.get()
	inf.unindex(key, before)
	delete(inf.items, key)
	return change[T]{before: before}, true
}

func (inf *Informer[T]) unindex(key object.Key, obj T) {
	if owner := metav1.GetControllerOfNoCopy(obj); owner != nil {
		drop(inf.owned, owner.UID, key)
	}
	for name, values := range inf.opts.indexes {
		for _, value := range values(obj) {
			drop(inf.indexes[name], value, key)
		}
	}
}

func add[V comparable](index map[V]map[object.Key]struct{}, value V, key object.Key) {
	keys, ok := index[value]
	if !ok {
		keys = map[object.Key]struct{}{}
		index[value] = keys
	}
	keys[key] = struct{}{}
}

func drop[V comparable](index map[V]map[object.Key]struct{}, value V, key object.Key) {
	delete(index[value], key)
	if len(index[value]) == 0 {
		delete(index, value)
	}
}

// apply puts a message's events into the collection and tells the handlers.
// seen collects the keys of initial objects, nil when resuming.
func (inf *Informer[T]) apply(message client.WatchMessage[T], seen map[object.Key]struct{}) error {
	inf.handlersMu.Lock() // before mu: a handler added meanwhile misses nothing and sees nothing twice
	defer inf.handlersMu.Unlock()

	inf.mu.Lock()
	changes := make([]change[T], 0, len(message.Events))
	for _, event := range message.Events {
		key := object.KeyOf(event.Object)
		if event.Type == watch.Deleted {
			delete(seen, key)
			if c, ok := inf.remove(key); ok {
				changes = append(changes, c)
			}
			continue
		}
		if seen != nil {
			seen[key] = struct{}{}
		}
		if kept, ok := inf.items[key]; ok && sameVersion(kept.get(), event.Object) {
			continue // an initial object that was known already
		}
		changes = append(changes, inf.put(event.Object))
	}
	if message.InitialEnd {
		if seen != nil {
			for key := range inf.items {
				if _, ok := seen[key]; !ok {
					c, _ := inf.remove(key)
					changes = append(changes, c)
				}
			}
		}
		inf.stale, inf.live = false, true
	}
	var err error
	if message.Progress != "" {
		var version uint64
		if version, err = object.ParseVersion(message.Progress); err == nil && version > inf.version {
			inf.version = version
		}
	}
	inf.mu.Unlock()

	for _, c := range changes {
		for _, handler := range inf.handlers {
			handler(c.before, c.after)
		}
	}

	// Only now may a waiter go on: it expects handlers to have run.
	inf.mu.Lock()
	close(inf.advanced)
	inf.advanced = make(chan struct{})
	inf.mu.Unlock()
	if message.InitialEnd {
		inf.syncedOnce.Do(func() { close(inf.synced) })
	}
	return err
}

func sameVersion(a, b object.Object) bool {
	return a.GetResourceVersion() == b.GetResourceVersion() && a.GetUID() == b.GetUID()
}

// Times of reconnecting: a broken watch is resumed at once, then ever more slowly.
const (
	reconnectFirst = 20 * time.Millisecond
	reconnectMost  = 2 * time.Second
)

// follow watches until ctx ends, resuming or listing anew as needed.
func (inf *Informer[T]) follow(ctx context.Context) error {
	backoff := newBackoff()
	for ctx.Err() == nil {
		began := time.Now()
		err := inf.watchOnce(ctx)
		if ctx.Err() != nil {
			break
		}
		if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
			inf.mu.Lock()
			inf.live = false // list anew
			inf.mu.Unlock()
			inf.log.Debug("watch expired", zap.Error(err))
		} else if err != nil {
			inf.log.Debug("watch broke", zap.Error(err))
		}
		if time.Since(began) > reconnectMost {
			backoff = newBackoff()
		}
		select {
		case <-time.After(backoff.Step()):
		case <-ctx.Done():
		}
	}
	return nil
}

func newBackoff() wait.Backoff {
	return wait.Backoff{Duration: reconnectFirst, Factor: 2, Jitter: 0.5, Steps: 10, Cap: reconnectMost}
}

func (inf *Informer[T]) watchOnce(ctx context.Context) error {
	opts := inf.opts.watch
	inf.mu.RLock()
	resume := inf.live
	if resume {
		opts.ResourceVersion = object.FormatVersion(inf.version)
	} else {
		opts.SendInitialEvents = true
	}
	inf.mu.RUnlock()
	var seen map[object.Key]struct{}
	if !resume {
		seen = map[object.Key]struct{}{}
	}
	for message, err := range client.WatchKind[T](ctx, inf.c, inf.kind, opts) {
		if err != nil {
			return err
		}
		if trim := inf.opts.trim; trim != nil {
			for i := range message.Events {
				trim(message.Events[i].Object)
			}
		}
		if err := inf.apply(message, seen); err != nil {
			return err
		}
		if message.InitialEnd {
			seen = nil
		}
	}
	return nil
}
