package clients

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"

	"kijabi.dev/test/harness"
)

// objectsFollowed is how many objects the informers hold when the leader dies.
const objectsFollowed = 3000

// waitFor is harness.Eventually, by a shorter name.
func waitFor(t *harness.T, limit time.Duration, what string, check func() error) {
	t.Helper()
	harness.Eventually(t, limit, what, check)
}

// ledger is what one informer has told, and what of it cannot be true.
type ledger struct {
	name   string
	synced func() bool

	mu      sync.Mutex
	objects map[string]uint64 // versions
	events  int
	wrong   []string
}

// follow keeps a ledger of what an informer tells.
func follow(t *harness.T, name string, informer cache.SharedIndexInformer) *ledger {
	t.Helper()
	l := &ledger{name: name, objects: map[string]uint64{}}
	registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { l.note("add", nil, obj) },
		UpdateFunc: func(before, after any) { l.note("update", before, after) },
		DeleteFunc: func(obj any) {
			if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = unknown.Obj
			}
			l.note("delete", nil, obj)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	l.synced = registration.HasSynced
	return l
}

func versionOf(obj any) (name string, version uint64) {
	object, err := meta.Accessor(obj)
	if err != nil {
		return fmt.Sprintf("%T", obj), 0
	}
	version, err = strconv.ParseUint(object.GetResourceVersion(), 10, 64)
	if err != nil {
		return object.GetName() + ": " + err.Error(), 0
	}
	return object.GetName(), version
}

func (l *ledger) note(kind string, before, obj any) {
	name, version := versionOf(obj)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events++
	known, ok := l.objects[name]
	switch {
	case kind == "add" && ok, kind != "add" && !ok:
		l.wrong = append(l.wrong, fmt.Sprintf("%s of %s, known %t", kind, name, ok))
	case kind == "update" && (version <= known || func() bool { _, was := versionOf(before); return was != known }()):
		l.wrong = append(l.wrong, fmt.Sprintf("update of %s to %d, it was at %d", name, version, known))
	case kind == "delete" && version < known:
		l.wrong = append(l.wrong, fmt.Sprintf("delete of %s at %d, it was at %d", name, version, known))
	}
	if l.objects[name] = version; kind == "delete" {
		delete(l.objects, name)
	}
}

// equals says how the ledger differs from the truth.
func (l *ledger) equals(truth map[string]uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if maps.Equal(l.objects, truth) {
		return nil
	}
	different := 0
	for name, version := range truth {
		if l.objects[name] != version {
			different++
		}
	}
	return fmt.Errorf("%s has %d objects of %d, %d missing or at another version", l.name, len(l.objects), len(truth), different)
}

// changer makes, changes and removes objects, and remembers each acknowledged version.
type changer struct {
	client kubernetes.Interface
	ns     string

	mu       sync.Mutex
	versions map[uint64]string
	lost     int // of answers: what became of these requests is unknown
}

func (w *changer) noted(obj *corev1.ConfigMap, err error) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.lost++
		return false
	}
	name, version := versionOf(obj)
	w.versions[version] = name
	return true
}

// run writes until ctx ends: every object is made, changed, and every fourth removed.
func (w *changer) run(ctx context.Context, worker, workers int) {
	configMaps := w.client.CoreV1().ConfigMaps(w.ns)
	for i := worker; ctx.Err() == nil; i += workers {
		name := fmt.Sprintf("late-%05d", i)
		attempt := func(do func(ctx context.Context) (*corev1.ConfigMap, error)) *corev1.ConfigMap {
			for ctx.Err() == nil {
				// Not ended with ctx: an answer that nobody waits for would be lost.
				limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
				obj, err := do(limited)
				cancel()
				if w.noted(obj, err) || apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err) {
					return obj
				}
				time.Sleep(20 * time.Millisecond) // a master is away
			}
			return nil
		}
		made := attempt(func(ctx context.Context) (*corev1.ConfigMap, error) {
			return configMaps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"followed": "yes"}}}, metav1.CreateOptions{})
		})
		if made == nil || made.Name == "" {
			continue // its answer was lost
		}
		made.Data = map[string]string{"changed": "yes"}
		attempt(func(ctx context.Context) (*corev1.ConfigMap, error) {
			return configMaps.Update(ctx, made, metav1.UpdateOptions{})
		})
		if i%4 == 0 && ctx.Err() == nil {
			_ = configMaps.Delete(ctx, name, metav1.DeleteOptions{}) // the list at the end tells
		}
	}
}

func (w *changer) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.versions)
}

// clientInformers follows thousands of objects with every kind of informer, at every
// master, while the leader dies and connections are cut.
func clientInformers(t *harness.T, c *clients, cfg *rest.Config, namespace string) {
	status, err := c.Status(t)
	if err != nil {
		t.Fatal(err)
	}
	var survivors []string
	for _, m := range c.Machines(t) {
		if m.Role == "master" && m.Name != status.Leader {
			survivors = append(survivors, m.Address+":6443")
		}
	}
	at := func(address string) *rest.Config {
		out := rest.CopyConfig(cfg)
		out.Host = "https://" + address
		return out
	}
	writer, err := kubernetes.NewForConfig(at(survivors[0]))
	if err != nil {
		t.Fatal(err)
	}
	fill(t, writer, namespace)

	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	cuttable := newWire(t, survivors[1])
	ledgers := followAll(ctx, t, namespace, map[string]*rest.Config{
		"the leader": at(c.Machines(t)[status.Leader].Address + ":6443"), "a survivor": at(survivors[0]), "a wire that is cut": cuttable.through(cfg),
	})
	waitFor(t, time.Minute, "all informers have synchronized", func() error {
		for _, l := range ledgers {
			if !l.synced() {
				return fmt.Errorf("%s has not", l.name)
			}
		}
		return nil
	})
	seen := retryWatch(ctx, t, cuttable.through(cfg), namespace, &wg)

	w := &changer{client: writer, ns: namespace, versions: map[uint64]string{}}
	writing, stop := context.WithCancel(ctx)
	var writers sync.WaitGroup
	for worker := range 4 {
		writers.Go(func() { w.run(writing, worker, 4) })
	}
	more := func(n int) {
		t.Helper()
		before := w.count()
		waitFor(t, time.Minute, fmt.Sprintf("%d more writes", n), func() error {
			if now := w.count(); now < before+n {
				return fmt.Errorf("%d", now-before)
			}
			return nil
		})
	}
	more(200)
	cuttable.cut()
	more(100)
	killed := time.Now()
	c.Power(t, "kill", status.Leader)
	more(200)
	t.Logf("200 writes were acknowledged %s after the leader's death", time.Since(killed).Round(time.Millisecond))
	cuttable.cut()
	c.Power(t, "start", status.Leader)
	more(200)
	stop()
	writers.Wait()
	c.AwaitHealthy(t, 90*time.Second)

	list, err := writer.CoreV1().ConfigMaps(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "followed"})
	if err != nil {
		t.Fatal(err)
	}
	truth := map[string]uint64{}
	for i := range list.Items {
		name, version := versionOf(&list.Items[i])
		truth[name] = version
	}
	t.Logf("%d objects at the end, %d acknowledged versions, %d answers lost", len(truth), w.count(), w.lost)
	for _, l := range ledgers {
		waitFor(t, 90*time.Second, l.name+" agrees with the list", func() error { return l.equals(truth) })
		l.mu.Lock()
		if len(l.wrong) > 0 {
			t.Errorf("%s told %d events, of which %d cannot be: %v", l.name, l.events, len(l.wrong), l.wrong[:min(5, len(l.wrong))])
		}
		l.mu.Unlock()
	}
	waitFor(t, time.Minute, "the retried watch has told every acknowledged version once", func() error { return seen.complete(w) })
}

// fill makes the objects that are there from the beginning.
func fill(t *harness.T, client kubernetes.Interface, namespace string) {
	t.Helper()
	var wg sync.WaitGroup
	started := time.Now()
	for worker := range 8 {
		wg.Go(func() {
			for i := worker; i < objectsFollowed; i += 8 {
				if _, err := client.CoreV1().ConfigMaps(namespace).Create(t.Context(), &corev1.ConfigMap{
					ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("early-%05d", i), Labels: map[string]string{"followed": "yes"}},
				}, metav1.CreateOptions{}); err != nil {
					t.Errorf("create: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d objects made in %s", objectsFollowed, time.Since(started).Round(time.Millisecond))
}

// followAll starts a typed, an untyped and a metadata informer by each configuration.
func followAll(ctx context.Context, t *harness.T, namespace string, configs map[string]*rest.Config) []*ledger {
	t.Helper()
	selected := func(o *metav1.ListOptions) { o.LabelSelector = "followed" }
	var ledgers []*ledger
	for where, cfg := range configs {
		typed, err := kubernetes.NewForConfig(cfg)
		if err != nil {
			t.Fatal(err)
		}
		plain := rest.CopyConfig(cfg)
		plain.ContentType = "" // objects without a Go type travel as JSON
		untyped, err := dynamic.NewForConfig(plain)
		if err != nil {
			t.Fatal(err)
		}
		described, err := metadata.NewForConfig(cfg)
		if err != nil {
			t.Fatal(err)
		}
		factory := informers.NewSharedInformerFactoryWithOptions(typed, 0, informers.WithNamespace(namespace), informers.WithTweakListOptions(selected))
		dynamicFactory := dynamicinformer.NewFilteredDynamicSharedInformerFactory(untyped, 0, namespace, selected)
		metadataFactory := metadatainformer.NewFilteredSharedInformerFactory(described, 0, namespace, selected)
		ledgers = append(ledgers,
			follow(t, "a typed informer at "+where, factory.Core().V1().ConfigMaps().Informer()),
			follow(t, "an untyped informer at "+where, dynamicFactory.ForResource(configMaps).Informer()),
			follow(t, "a metadata informer at "+where, metadataFactory.ForResource(configMaps).Informer()))
		factory.Start(ctx.Done())
		dynamicFactory.Start(ctx.Done())
		metadataFactory.Start(ctx.Done())
	}
	return ledgers
}

// history is every version that a watch has told.
type history struct {
	mu    sync.Mutex
	times map[uint64]int
	ended error
}

// retryWatch watches by a RetryWatcher from now on.
func retryWatch(ctx context.Context, t *harness.T, cfg *rest.Config, namespace string, wg *sync.WaitGroup) *history {
	t.Helper()
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	list, err := client.CoreV1().ConfigMaps(namespace).List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	watcher, err := watchtools.NewRetryWatcherWithContext(ctx, list.ResourceVersion, &cache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.LabelSelector = "followed"
			return client.CoreV1().ConfigMaps(namespace).Watch(ctx, o)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	h := &history{times: map[uint64]int{}}
	wg.Go(func() {
		for event := range watcher.ResultChan() {
			h.mu.Lock()
			if event.Type == watch.Error {
				h.ended = apierrors.FromObject(event.Object)
			} else if _, version := versionOf(event.Object); event.Type != watch.Bookmark {
				h.times[version]++
			}
			h.mu.Unlock()
		}
	})
	return h
}

// complete says what of the acknowledged versions the watch has not told, or twice.
func (h *history) complete(w *changer) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	errs := []error{h.ended}
	missing := 0
	for version := range w.versions {
		if h.times[version] == 0 {
			missing++
		}
	}
	for version, times := range h.times {
		if times > 1 {
			errs = append(errs, fmt.Errorf("version %d was told %d times", version, times))
		}
	}
	if missing > 0 {
		errs = append(errs, fmt.Errorf("%d of %d versions are missing", missing, len(w.versions)))
	}
	return errors.Join(errs...)
}
