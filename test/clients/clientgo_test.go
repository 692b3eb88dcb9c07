package clients

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	corev1apply "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"kijabi.dev/test/harness"
)

// testClientGo has the parts of client-go work that operators are made of.
func testClientGo(t *harness.T, c *clients) {
	namespace := c.namespace(t, "client-go")
	cfg := c.restConfig(t)
	cfg.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("Discovery", func(t *harness.T) { clientDiscovery(t, client, cfg, namespace) })
	t.Run("Apply", func(t *harness.T) { clientApply(t, client, namespace) })
	t.Run("LeaderElection", func(t *harness.T) { clientElection(t, client, namespace) })
	t.Run("Informers", func(t *harness.T) { clientInformers(t, c, cfg, namespace) })
}

// clientDiscovery maps names to kinds from a cache, and uses one without its Go type.
func clientDiscovery(t *harness.T, client *kubernetes.Clientset, cfg *rest.Config, namespace string) {
	cached := memory.NewMemCacheClient(client.Discovery())
	mapper := restmapper.NewShortcutExpander(restmapper.NewDeferredDiscoveryRESTMapper(cached), cached, nil)
	for short, want := range map[string]schema.GroupVersionResource{
		"deploy": {Group: "apps", Version: "v1", Resource: "deployments"}, "hpa": {Group: "autoscaling", Version: "v2", Resource: "horizontalpodautoscalers"},
		"cm": {Version: "v1", Resource: "configmaps"}, "netpol": {Group: "networking.k8s.io", Version: "v1", Resource: "networkpolicies"},
	} {
		if got, err := mapper.ResourceFor(schema.GroupVersionResource{Resource: short}); err != nil || got != want {
			t.Errorf("%s is %v, %v", short, got, err)
		}
	}
	if _, err := mapper.ResourceFor(schema.GroupVersionResource{Resource: "nonsense"}); !meta.IsNoMatchError(err) {
		t.Errorf("a kind that is not there: %v", err)
	}
	if !cached.Fresh() {
		t.Error("the cache is not fresh")
	}
	cached.Invalidate()
	lists, err := cached.ServerPreferredResources()
	if err != nil {
		t.Fatal(err)
	}
	plain := rest.CopyConfig(cfg)
	plain.ContentType = "" // objects without a Go type travel as JSON
	untyped, err := dynamic.NewForConfig(plain)
	if err != nil {
		t.Fatal(err)
	}
	// Whatever can be listed is, as tools do that look at everything.
	listed := 0
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			t.Fatal(err)
		}
		for i := range list.APIResources {
			r := &list.APIResources[i]
			if !slices.Contains(r.Verbs, "list") {
				continue
			}
			resource := untyped.Resource(gv.WithResource(r.Name))
			var reader dynamic.ResourceInterface = resource
			if r.Namespaced {
				reader = resource.Namespace(namespace)
			}
			if _, err := reader.List(t.Context(), metav1.ListOptions{Limit: 10}); err != nil {
				t.Errorf("list %s: %v", r.Name, err)
			}
			listed++
		}
	}
	if listed < 40 {
		t.Errorf("only %d kinds can be listed", listed)
	}
}

// clientApply has two managers of one object agree and disagree.
func clientApply(t *harness.T, client *kubernetes.Clientset, namespace string) {
	maps := client.CoreV1().ConfigMaps(namespace)
	data := func(pairs ...string) *corev1apply.ConfigMapApplyConfiguration {
		values := map[string]string{}
		for pair := range slices.Chunk(pairs, 2) {
			values[pair[0]] = pair[1]
		}
		return corev1apply.ConfigMap("applied", namespace).WithData(values)
	}
	one, two := metav1.ApplyOptions{FieldManager: "one"}, metav1.ApplyOptions{FieldManager: "two"}
	if _, err := maps.Apply(t.Context(), data("a", "1", "shared", "x"), one); err != nil {
		t.Fatal(err)
	}
	if _, err := maps.Apply(t.Context(), data("b", "2", "shared", "x"), two); err != nil {
		t.Fatalf("two managers with one value: %v", err)
	}
	_, err := maps.Apply(t.Context(), data("b", "2", "shared", "y"), two)
	var status *apierrors.StatusError
	if !errors.As(err, &status) || !apierrors.IsConflict(err) || len(status.ErrStatus.Details.Causes) != 1 ||
		status.ErrStatus.Details.Causes[0].Type != metav1.CauseTypeFieldManagerConflict || status.ErrStatus.Details.Causes[0].Field != ".data.shared" {
		t.Errorf("a conflict: %v", err)
	}
	two.Force = true
	if _, err := maps.Apply(t.Context(), data("b", "2", "shared", "y"), two); err != nil {
		t.Fatal(err)
	}
	// The first gives up what it lost, and one field of its own.
	got, err := maps.Apply(t.Context(), data(), one)
	if err != nil || len(got.Data) != 2 || got.Data["shared"] != "y" || got.Data["b"] != "2" {
		t.Errorf("after the first gave up: %v, %v", got.Data, err)
	}
	mine, err := corev1apply.ExtractConfigMap(got, "two")
	if err != nil || len(mine.Data) != 2 {
		t.Errorf("fields of the second: %v, %v", mine, err)
	}
}

// candidate takes part in an election until its context ends.
func candidate(ctx context.Context, client *kubernetes.Clientset, namespace, name string, leads func(name string, begins bool)) (ended <-chan struct{}, err error) {
	lock, err := resourcelock.New(resourcelock.LeasesResourceLock, namespace, "election", client.CoreV1(), client.CoordinationV1(),
		resourcelock.ResourceLockConfig{Identity: name})
	if err != nil {
		return nil, err
	}
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: lock, LeaseDuration: 4 * time.Second, RenewDeadline: 3 * time.Second, RetryPeriod: 200 * time.Millisecond, Name: name,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) { leads(name, true) }, OnStoppedLeading: func() { leads(name, false) },
		},
	})
	if err != nil {
		return nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		elector.Run(ctx)
	}()
	return done, nil
}

// clientElection lets a holder die without a word: the other takes over, and not before
// the lease is over.
func clientElection(t *harness.T, client *kubernetes.Clientset, namespace string) {
	var mu sync.Mutex
	leading := map[string]bool{}
	leads := func(name string, begins bool) {
		mu.Lock()
		defer mu.Unlock()
		leading[name] = begins
		if begins && len(leading) > 1 && leading["first"] && leading["second"] {
			t.Error("both lead")
		}
	}
	holds := func(want string) {
		t.Helper()
		waitFor(t, 30*time.Second, want+" leads", func() error {
			lease, err := client.CoordinationV1().Leases(namespace).Get(t.Context(), "election", metav1.GetOptions{})
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if holder := *lease.Spec.HolderIdentity; holder != want || !leading[want] {
				return fmt.Errorf("the lease is held by %q", holder)
			}
			return nil
		})
	}
	ctx, die := context.WithCancel(t.Context())
	first, err := candidate(ctx, client, namespace, "first", leads)
	if err != nil {
		t.Fatal(err)
	}
	holds("first")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	second, err := candidate(ctx, client, namespace, "second", leads)
	if err != nil {
		t.Fatal(err)
	}
	die()
	<-first
	last, err := client.CoordinationV1().Leases(namespace).Get(t.Context(), "election", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	holds("second")
	lease, err := client.CoordinationV1().Leases(namespace).Get(t.Context(), "election", metav1.GetOptions{})
	if err != nil || *lease.Spec.LeaseTransitions != *last.Spec.LeaseTransitions+1 {
		t.Errorf("transitions: %v, %v", lease.Spec.LeaseTransitions, err)
	}
	if early := last.Spec.RenewTime.Add(4 * time.Second).Sub(lease.Spec.AcquireTime.Time); early > 0 {
		t.Errorf("the second took over %s before the lease was over", early)
	}
	stop()
	<-second
}

// wire passes connections on to a master, and can cut them.
type wire struct {
	listener net.Listener
	to       string

	mu    sync.Mutex
	conns []net.Conn
}

func newWire(t *harness.T, to string) *wire {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{listener: listener, to: to}
	go w.serve()
	t.Cleanup(func() {
		_ = listener.Close()
		w.cut()
	})
	return w
}

func (w *wire) serve() {
	for {
		near, err := w.listener.Accept()
		if err != nil {
			return
		}
		far, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(context.Background(), "tcp", w.to)
		if err != nil {
			_ = near.Close()
			continue
		}
		w.mu.Lock()
		w.conns = append(w.conns, near, far)
		w.mu.Unlock()
		for _, pair := range [][2]net.Conn{{near, far}, {far, near}} {
			go func() {
				_, _ = io.Copy(pair[0], pair[1])
				_ = pair[0].Close()
			}()
		}
	}
}

// cut ends all connections; new ones are accepted.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, conn := range w.conns {
		_ = conn.Close()
	}
	w.conns = nil
}

// through is a configuration that reaches a master by a wire.
func (w *wire) through(cfg *rest.Config) *rest.Config {
	out := rest.CopyConfig(cfg)
	out.Host = "https://" + w.listener.Addr().String()
	out.ServerName, _, _ = strings.Cut(w.to, ":")
	return out
}

var configMaps = corev1.SchemeGroupVersion.WithResource("configmaps")
