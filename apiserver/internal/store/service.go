package store

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"k8s.io/utils/clock"

	"kijabi.dev/platform/lifecycle"
)

// maxTransaction bounds the bytes of a transaction holding one oversized group; etcdnode
// accepts requests a little larger.
const maxTransaction = 8 << 20

// Config is what a Store needs.
type Config struct {
	// Name of this master, written into the fence. Required.
	Name string
	// Backend holds the data. Required.
	Backend Backend
	// Indexer derives index records of loaded and followed objects. Required.
	Indexer Indexer
	// Log. Required.
	Log *zap.Logger
	// Clock; nil means the real one.
	Clock clock.WithTicker
	// Observers are told of every change, in this order.
	Observers []Observer
	// Stamp appends a version to an encoding, in place when there is room; nil means AppendVersion.
	Stamp func(encoding []byte, version uint64) []byte

	// History is the number of events kept per resource for resumed watches; 0 means 10,000.
	History int
	// Replay is how many revisions before the newest a load begins, to fill the history
	// and the memory of requests; 0 means 5,000.
	Replay int64
	// BatchBytes closes a batch; 0 means 2 MiB.
	BatchBytes int
	// Progress is the interval of progress marks to idle watches; 0 means 1 s.
	Progress time.Duration
	// StaleAfter is how long the memory may go without proof of being current before
	// watches are ended; 0 means 2 s.
	StaleAfter time.Duration
	// CommitTimeout is how long a transaction may take before its outcome counts as
	// unknown; 0 means 2 s.
	CommitTimeout time.Duration
	// Disturbed returns a channel that is closed when the backend's quorum changes its leader: what
	// was proposed before may then be lost without an answer ever coming. Nil if nobody can tell.
	Disturbed func() <-chan struct{}
}

// Store is the memory of all objects and, while this master leads, their writer.
// All methods are safe for concurrent use.
type Store struct {
	cfg       Config
	log       *zap.Logger
	memory    *memory
	hub       *hub
	requests  *requests
	queue     *queue
	barrier   *barrier
	versions  *versionWaiters
	terms     *terms
	observers []Observer // fixed once Run begins

	// The applier's own (the goroutine that follows or commits).
	epoch          uint64
	batchNumber    uint64
	manifestGroups []manifestGroup
	manifestWrites []manifestWrite

	loaded  chan struct{} // closed after the first load
	leading chan struct{} // holds a token while Lead is under way

	handover sync.Mutex
	// request is the reign that waits to begin; guarded by handover.
	request *reign
	// unfollow ends the present follow; guarded by handover.
	unfollow context.CancelFunc

	quarantine *quarantine

	room atomic.Pointer[room] // nil while there is enough
}

// New returns a store; it serves nothing until Run has loaded it.
func New(cfg Config) (*Store, error) {
	switch {
	case cfg.Name == "":
		return nil, errors.New("store: no name")
	case cfg.Backend == nil:
		return nil, errors.New("store: no backend")
	case cfg.Indexer == nil:
		return nil, errors.New("store: no indexer")
	case cfg.Log == nil:
		return nil, errors.New("store: no log")
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	if cfg.Stamp == nil {
		cfg.Stamp = AppendVersion
	}
	cfg.History = orDefault(cfg.History, 10_000)
	cfg.Replay = orDefault(cfg.Replay, 5_000)
	cfg.BatchBytes = orDefault(cfg.BatchBytes, 2<<20)
	cfg.Progress = orDefault(cfg.Progress, time.Second)
	cfg.StaleAfter = orDefault(cfg.StaleAfter, 2*time.Second)
	cfg.CommitTimeout = orDefault(cfg.CommitTimeout, 2*time.Second)
	s := &Store{
		cfg: cfg, log: cfg.Log, memory: newMemory(), requests: newRequests(), queue: newQueue(),
		observers: cfg.Observers, barrier: newBarrier(), versions: newVersionWaiters(), terms: newTerms(), loaded: make(chan struct{}), leading: make(chan struct{}, 1),
		quarantine: newQuarantine(),
	}
	s.hub = newHub(cfg.History, s.restamp)
	return s, nil
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// Observe adds an observer; call it before Run. It is Config.Observers for who needs the store first.
func (s *Store) Observe(o Observer) { s.observers = append(s.observers, o) }

// Run loads the store and keeps it current until ctx ends.
func (s *Store) Run(ctx context.Context) error {
	err := lifecycle.RunAll(ctx, s.apply, s.proveAlways, s.progress)
	s.hub.stop(ErrStopped)
	s.barrier.stop()
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}

// Ready is closed once the store has been loaded.
func (s *Store) Ready() <-chan struct{} { return s.loaded }

// Get returns an object as this master's memory has it. Precede it by Fresh for a
// consistent read.
func (s *Store) Get(k Key) (*Record, bool) {
	r := s.memory.get(k)
	return r, r != nil
}

// Snapshot returns a collection, or one namespace of it, at the present version.
func (s *Store) Snapshot(resource, namespace string) Snapshot {
	return s.memory.freeze(resource, namespace)()
}

// SnapshotAt returns a collection, or one namespace of it, as it was at a version within the
// kept history, else ErrExpired. It waits for memory to reach version.
func (s *Store) SnapshotAt(ctx context.Context, resource, namespace string, version uint64) (Snapshot, error) {
	if err := s.WaitVersion(ctx, version); err != nil {
		return Snapshot{}, err
	}
	snapshot := s.Snapshot(resource, namespace)
	if snapshot.Version <= version {
		return Snapshot{Records: snapshot.Records, Version: version}, nil
	}
	// Memory is a moment ahead of the history.
	if err := await(ctx, s.hub.published, RevisionOf(snapshot.Version), s.hub.now); err != nil {
		return Snapshot{}, err
	}
	since, err := s.hub.after(resource, version)
	if err != nil {
		return Snapshot{}, err
	}
	return snapshot.rewind(since, namespace, version), nil
}

// rewind takes back what happened to a collection after a version. since may hold more than
// the snapshot has seen.
func (s Snapshot) rewind(since []delivery, namespace string, version uint64) Snapshot {
	was := map[Key]*Record{} // nil: there was none
	for _, d := range slices.Backward(since) {
		for _, e := range slices.Backward(d.events) {
			if v := e.Record.Version; v <= version || v > s.Version || namespace != "" && e.Record.Key.Namespace != namespace {
				continue
			}
			was[e.Record.Key] = e.Previous
		}
	}
	if len(was) == 0 {
		return Snapshot{Records: s.Records, Version: version}
	}
	records := make([]*Record, 0, len(s.Records)+len(was))
	for _, r := range s.Records {
		if _, changed := was[r.Key]; !changed {
			records = append(records, r)
		}
	}
	for _, r := range was {
		if r != nil {
			records = append(records, r)
		}
	}
	slices.SortFunc(records, func(a, b *Record) int {
		return cmp.Or(strings.Compare(a.Key.Namespace, b.Key.Namespace), strings.Compare(a.Key.Name, b.Key.Name))
	})
	return Snapshot{Records: records, Version: version}
}

// Count returns the number of objects of a resource.
func (s *Store) Count(resource string) int {
	s.memory.mu.RLock()
	defer s.memory.mu.RUnlock()
	if c := s.memory.collections[resource]; c != nil {
		return len(c.byName)
	}
	return 0
}

// Version is the version up to which memory holds everything.
func (s *Store) Version() uint64 { return ProgressOf(s.memory.now()) }

// Revision is the newest etcd revision that memory holds.
func (s *Store) Revision() int64 { return s.memory.now() }

// Watch shows what happens to a collection after opts.After, which must be within the
// kept history, else ErrExpired. It waits for memory to reach opts.After.
func (s *Store) Watch(ctx context.Context, opts WatchOptions) (*Watcher, error) {
	if err := s.WaitVersion(ctx, opts.After); err != nil {
		return nil, err
	}
	return s.hub.add(opts, true, nil)
}

// SnapshotAndWatch returns a collection and the watch of what happens after it.
// The snapshot holds all objects of the namespace; opts' selectors concern the watch.
func (s *Store) SnapshotAndWatch(_ context.Context, opts WatchOptions) (Snapshot, *Watcher, error) {
	var list func() Snapshot
	w, err := s.hub.add(opts, false, func() uint64 {
		list = s.memory.freeze(opts.Resource, opts.Namespace)
		return ProgressOf(s.memory.now())
	})
	if err != nil {
		return Snapshot{}, nil, err
	}
	snapshot := list()
	// What was applied between the two reads is in the watch only.
	w.opts.After, w.told = snapshot.Version, snapshot.Version
	return snapshot, w, nil
}

// progress lets idle watches advance.
func (s *Store) progress(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.cfg.Clock.After(lifecycle.UntilBeat(s.cfg.Clock.Now(), s.cfg.Progress)):
			s.hub.mark()
		}
	}
}

// stamp makes the record of a value committed in a revision.
func (s *Store) stamp(k Key, version uint64, encoding []byte, index Index, ephemeral bool) *Record {
	return &Record{Key: k, Version: version, Value: s.cfg.Stamp(encoding, version), Index: index, ephemeral: ephemeral}
}

// restamp copies a record to another version, for deletions.
func (s *Store) restamp(r *Record, version uint64) *Record {
	value := make([]byte, len(r.Value), len(r.Value)+stampRoom)
	copy(value, r.Value)
	return &Record{Key: r.Key, Version: version, Value: s.cfg.Stamp(value, version), Index: r.Index, ephemeral: r.ephemeral}
}

// unstamped is a record's encoding without the version that its stamp appended.
func (s *Store) unstamped(r *Record) []byte {
	return bytes.TrimSuffix(r.Value, s.cfg.Stamp(nil, r.Version))
}
