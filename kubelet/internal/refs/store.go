// Package refs keeps the ConfigMaps and Secrets that the machine's pods refer to,
// and only those. Each is watched by name; the last known ones lie in a file, so
// that a kubelet that starts without any master can still start containers.
package refs

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/clock"

	"kijabi.dev/kubelet/internal/env"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/logging"
)

const (
	// patience is how long a first answer is awaited before the snapshot stands in.
	patience = 2 * time.Second
	// maxWatches leaves streams of the connection to everything else; what is beyond is polled.
	maxWatches = 120
	pollEvery  = 30 * time.Second
	retryFirst = 200 * time.Millisecond
	retryLast  = 10 * time.Second
)

// Config of a Store; every field is required.
type Config struct {
	Client   *client.Client
	Services informer.Reader[*corev1.Service]
	// SnapshotFile keeps the last known objects, mode 0600.
	SnapshotFile string
	NodeName     string
	HostIPs      []string
	Allocatable  corev1.ResourceList
	// Changed is called when an object changed that a pod refers to. It must not block.
	Changed func(pod types.UID)
	Clock   clock.Clock
	Log     *zap.Logger
}

// Store of referenced objects. Safe for concurrent use.
type Store struct {
	cfg     Config
	slots   chan struct{}
	changed chan struct{} // the snapshot is to be written

	mu       sync.Mutex
	entries  map[id]*entry
	uses     map[types.UID]map[id]bool
	snapshot map[id][]byte
	group    *lifecycle.Group
	pending  []*entry // made before Run
}

type id struct {
	kind string // ConfigMap or Secret
	key  object.Key
}

// entry is one object. ready closes at the first answer, which may be "not found".
type entry struct {
	id     id
	users  map[types.UID]bool
	obj    object.Object // nil when there is none
	err    error         // why it is not known
	ready  chan struct{}
	once   sync.Once
	cancel context.CancelFunc
	gone   bool
}

// New returns a store; the snapshot is read at once.
func New(cfg Config) (*Store, error) {
	s := &Store{
		cfg: cfg, slots: make(chan struct{}, maxWatches), changed: make(chan struct{}, 1),
		entries: map[id]*entry{}, uses: map[types.UID]map[id]bool{},
	}
	var err error
	if s.snapshot, err = readSnapshot(cfg.SnapshotFile); err != nil {
		cfg.Log.Error("snapshot of referenced objects unusable", zap.Error(err))
		s.snapshot = map[id][]byte{}
	}
	return s, nil
}

// Run follows all objects until ctx ends.
func (s *Store) Run(ctx context.Context) error {
	group := lifecycle.NewGroup(ctx)
	s.mu.Lock()
	s.group = group
	for _, e := range s.pending {
		s.begin(e)
	}
	s.pending = nil
	s.mu.Unlock()
	group.Go(s.keepSnapshot)
	return group.Wait()
}

// Use declares what a pod refers to; a later call replaces an earlier one.
func (s *Store) Use(pod *corev1.Pod) {
	wanted := references(pod)
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.uses[pod.UID]
	s.uses[pod.UID] = wanted
	for ref := range wanted {
		e := s.entries[ref]
		if e == nil {
			e = &entry{id: ref, users: map[types.UID]bool{}, ready: make(chan struct{})}
			s.entries[ref] = e
			if s.group == nil {
				s.pending = append(s.pending, e)
			} else {
				s.begin(e)
			}
		}
		e.users[pod.UID] = true
	}
	for ref := range before {
		if !wanted[ref] {
			s.drop(ref, pod.UID)
		}
	}
}

// Release ends a pod's use.
func (s *Store) Release(uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ref := range s.uses[uid] {
		s.drop(ref, uid)
	}
	delete(s.uses, uid)
}

// drop is called with mu held.
func (s *Store) drop(ref id, uid types.UID) {
	e := s.entries[ref]
	if e == nil {
		return
	}
	delete(e.users, uid)
	if len(e.users) > 0 {
		return
	}
	delete(s.entries, ref)
	e.gone = true
	if e.cancel != nil {
		e.cancel()
	}
	s.touch()
}

// begin is called with mu held and group set.
func (s *Store) begin(e *entry) {
	if e.gone {
		return
	}
	ctx, cancel := context.WithCancel(s.group.Context())
	e.cancel = cancel
	s.group.Go(func(context.Context) error {
		defer cancel()
		switch e.id.kind {
		case "Secret":
			follow[*corev1.Secret](ctx, s, e)
		default:
			follow[*corev1.ConfigMap](ctx, s, e)
		}
		return nil
	})
	s.group.Go(func(context.Context) error {
		select {
		case <-e.ready:
		case <-ctx.Done():
		case <-s.cfg.Clock.After(patience):
			s.restore(e)
		}
		return nil
	})
}

// restore takes the object from the snapshot while no master answers.
func (s *Store) restore(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-e.ready:
		return
	default:
	}
	value, ok := s.snapshot[e.id]
	if !ok {
		return
	}
	kind := object.KindOf[*corev1.ConfigMap]()
	if e.id.kind == "Secret" {
		kind = object.KindOf[*corev1.Secret]()
	}
	obj, err := object.Decode(kind, value)
	if err != nil {
		s.cfg.Log.Error("snapshot of referenced object unusable", logging.Key(e.id.key), zap.Error(err))
		return
	}
	e.obj, e.err = obj, nil
	e.once.Do(func() { close(e.ready) })
	s.notify(e)
}

// follow watches one object, or polls it when there are too many.
func follow[T object.Object](ctx context.Context, s *Store, e *entry) {
	retry := retryFirst
	for ctx.Err() == nil {
		var err error
		select {
		case s.slots <- struct{}{}:
			err = watchOne[T](ctx, s, e)
			<-s.slots
		default:
			err = pollOne[T](ctx, s, e)
		}
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			retry = retryFirst
		} else {
			s.fail(e, err)
		}
		select {
		case <-s.cfg.Clock.After(retry):
		case <-ctx.Done():
		}
		if err != nil {
			retry = min(2*retry, retryLast)
		}
	}
}

func watchOne[T object.Object](ctx context.Context, s *Store, e *entry) error {
	var latest object.Object
	complete := false
	options := client.WatchOptions{
		Namespace: e.id.key.Namespace, FieldSelector: "metadata.name=" + e.id.key.Name, SendInitialEvents: true,
	}
	for message, err := range client.Watch[T](ctx, s.cfg.Client, options) {
		if err != nil {
			return err
		}
		for _, event := range message.Events {
			latest = event.Object
			if event.Type == watch.Deleted {
				latest = nil
			}
		}
		complete = complete || message.InitialEnd
		if complete && (message.InitialEnd || len(message.Events) > 0) {
			s.set(e, latest)
		}
	}
	return nil
}

func pollOne[T object.Object](ctx context.Context, s *Store, e *entry) error {
	for {
		obj, err := client.Get[T](ctx, s.cfg.Client, e.id.key)
		switch {
		case err == nil:
			s.set(e, obj)
		case apierrors.IsNotFound(err):
			s.set(e, nil)
		default:
			return err
		}
		select {
		case <-s.cfg.Clock.After(pollEvery):
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *Store) set(e *entry, obj object.Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	same := e.err == nil && (e.obj == nil) == (obj == nil) &&
		(obj == nil || e.obj.GetResourceVersion() == obj.GetResourceVersion())
	e.obj, e.err = obj, nil
	e.once.Do(func() { close(e.ready) })
	if !same {
		s.notify(e)
		s.touch()
	}
}

// fail records why an object cannot be read. What is known already stays known.
func (s *Store) fail(e *entry, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.obj == nil {
		e.err = err
	}
	if apierrors.IsForbidden(err) {
		e.once.Do(func() { close(e.ready) }) // waiting would not help
	}
}

func (s *Store) notify(e *entry) {
	for uid := range e.users {
		s.cfg.Changed(uid)
	}
}

// Await implements podworker.Objects.
func (s *Store) Await(ctx context.Context, pod *corev1.Pod) error {
	s.mu.Lock()
	var waiting []*entry
	for ref := range s.uses[pod.UID] {
		waiting = append(waiting, s.entries[ref])
	}
	s.mu.Unlock()
	limit := s.cfg.Clock.After(2 * patience)
	for _, e := range waiting {
		select {
		case <-e.ready:
		case <-ctx.Done():
			return ctx.Err()
		case <-limit:
			return fmt.Errorf("%s %s: no master answers and there is no copy of it here", e.id.kind, e.id.key)
		}
	}
	return nil
}

func (s *Store) get(kind, namespace, name string) (object.Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[id{kind, object.Key{Namespace: namespace, Name: name}}]
	if e != nil && e.obj != nil {
		return e.obj, nil
	}
	if e != nil && e.err != nil {
		return nil, fmt.Errorf("read %s %s/%s: %w", kind, namespace, name, e.err)
	}
	resource := "configmaps"
	if kind == "Secret" {
		resource = "secrets"
	}
	return nil, apierrors.NewNotFound(corev1.Resource(resource), name)
}

// ConfigMap returns one that some pod refers to, or NotFound.
func (s *Store) ConfigMap(namespace, name string) (*corev1.ConfigMap, error) {
	obj, err := s.get("ConfigMap", namespace, name)
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.ConfigMap), nil
}

// Secret returns one that some pod refers to, or NotFound.
func (s *Store) Secret(namespace, name string) (*corev1.Secret, error) {
	obj, err := s.get("Secret", namespace, name)
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Secret), nil
}

// Sources implements podworker.Objects.
func (s *Store) Sources(pod *corev1.Pod) env.Sources {
	sources := env.Sources{
		ConfigMap:  func(name string) (*corev1.ConfigMap, error) { return s.ConfigMap(pod.Namespace, name) },
		Secret:     func(name string) (*corev1.Secret, error) { return s.Secret(pod.Namespace, name) },
		IsNotFound: apierrors.IsNotFound,
		HostIPs:    s.cfg.HostIPs, NodeName: s.cfg.NodeName, Allocatable: s.cfg.Allocatable,
	}
	for _, ip := range pod.Status.PodIPs {
		sources.PodIPs = append(sources.PodIPs, ip.IP)
	}
	if kubernetes, err := s.cfg.Services.Get(object.Key{Namespace: metav1NamespaceDefault, Name: "kubernetes"}); err == nil {
		sources.Kubernetes = kubernetes
	}
	if pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks {
		sources.Services = s.cfg.Services.ByIndex(ByNamespace, pod.Namespace)
	}
	return sources
}

// ByNamespace is the index that the informer of services must have.
const ByNamespace = "namespace"

const metav1NamespaceDefault = "default"
