// Package refs keeps the ConfigMaps, Secrets and claims that the machine's pods refer to, and
// the volumes of those claims, and only those. Each is watched by name; the last known ones lie in a file, so
// that a kubelet that starts without any master can still start containers.
package refs

import (
	"context"
	"fmt"
	"sync"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"kijabi.dev/kubelet/internal/env"
	"kijabi.dev/kubelet/internal/volumes"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/lifecycle"
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
	named    map[types.UID]map[id]bool // what each pod names itself
	uses     map[types.UID]map[id]bool // that, and what its claims are bound to
	snapshot map[id][]byte
	group    *lifecycle.Group
	pending  []*entry // made before Run
}

// Kinds of objects, as the snapshot has them.
const (
	kindConfigMap = "ConfigMap"
	kindSecret    = "Secret"
	kindClaim     = "PersistentVolumeClaim"
	kindVolume    = "PersistentVolume"
)

type id struct {
	kind string
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
		entries: map[id]*entry{}, named: map[types.UID]map[id]bool{}, uses: map[types.UID]map[id]bool{},
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
	s.mu.Lock()
	defer s.mu.Unlock()
	s.named[pod.UID] = references(pod)
	s.relate(pod.UID)
}

// relate follows what a pod names and, as far as that is known, what its claims are bound
// to. Called with mu held.
func (s *Store) relate(uid types.UID) {
	wanted := map[id]bool{}
	for ref := range s.named[uid] {
		wanted[ref] = true
		if e := s.entries[ref]; e != nil && e.obj != nil && ref.kind == kindClaim {
			if name := volumes.BoundTo(e.obj.(*corev1.PersistentVolumeClaim)); name != "" {
				wanted[id{kindVolume, object.Key{Name: name}}] = true
			}
		}
	}
	before := s.uses[uid]
	s.uses[uid] = wanted
	more := false
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
		// A claim that another pod uses, too, may be known already.
		more = more || !e.users[uid] && e.obj != nil && ref.kind == kindClaim
		e.users[uid] = true
	}
	for ref := range before {
		if !wanted[ref] {
			s.drop(ref, uid)
		}
	}
	if more {
		s.relate(uid)
	}
}

// Release ends a pod's use. Pods that wait for one of its claims may have it now.
func (s *Store) Release(uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ref := range s.uses[uid] {
		e := s.entries[ref]
		s.drop(ref, uid)
		if e != nil && ref.kind == kindClaim {
			s.notify(e)
		}
	}
	delete(s.uses, uid)
	delete(s.named, uid)
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

// Await implements podworker.Objects.
func (s *Store) Await(ctx context.Context, pod *corev1.Pod) error {
	limit := s.cfg.Clock.After(3 * patience) // a volume is looked for once its claim was found
	for {
		e := s.unknown(pod.UID)
		if e == nil {
			return nil
		}
		select {
		case <-e.ready: // a claim may bring its volume
		case <-ctx.Done():
			return ctx.Err()
		case <-limit:
			return fmt.Errorf("%s %s: no master answers and there is no copy of it here", e.id.kind, e.id.key)
		}
	}
}

// unknown returns something that a pod uses and that was not looked up yet, nil if there is nothing.
func (s *Store) unknown(uid types.UID) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ref := range s.uses[uid] {
		select {
		case <-s.entries[ref].ready:
		default:
			return s.entries[ref]
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
		return nil, fmt.Errorf("read %s %s: %w", kind, e.id.key, e.err)
	}
	return nil, apierrors.NewNotFound(kindOf(kind).GroupResource(), name)
}

// ConfigMap returns one that some pod refers to, or NotFound.
func (s *Store) ConfigMap(namespace, name string) (*corev1.ConfigMap, error) {
	obj, err := s.get(kindConfigMap, namespace, name)
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.ConfigMap), nil
}

// Secret returns one that some pod refers to, or NotFound.
func (s *Store) Secret(namespace, name string) (*corev1.Secret, error) {
	obj, err := s.get(kindSecret, namespace, name)
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Secret), nil
}

// Claim returns one that some pod refers to, or NotFound.
func (s *Store) Claim(namespace, name string) (*corev1.PersistentVolumeClaim, error) {
	obj, err := s.get(kindClaim, namespace, name)
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.PersistentVolumeClaim), nil
}

// Volume returns one that a claim of some pod is bound to, or NotFound.
func (s *Store) Volume(name string) (*corev1.PersistentVolume, error) {
	obj, err := s.get(kindVolume, "", name)
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.PersistentVolume), nil
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
