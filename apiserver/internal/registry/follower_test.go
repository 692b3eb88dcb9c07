package registry_test

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"

	"kijabi.dev/apiserver/internal/admission"
	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/storage/memory"
	configv1 "kijabi.dev/platform/config/v1"
)

// hop forwards to another registry in the same process.
type hop struct {
	mu sync.Mutex
	to *master
}

func (h *hop) leader() (*master, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.to == nil {
		return nil, apierrors.NewServiceUnavailable("no master leads at present")
	}
	return h.to, nil
}

func (h *hop) Do(ctx context.Context, caller registry.Caller, op registry.Operation) (registry.OperationResult, error) {
	to, err := h.leader()
	if err != nil {
		return registry.OperationResult{}, err
	}
	caller.Forwarded = true
	return to.Do(ctx, caller, op)
}

func (h *hop) Transact(ctx context.Context, caller registry.Caller, ops []registry.Operation, independent bool) ([]registry.OperationResult, error) {
	to, err := h.leader()
	if err != nil {
		return nil, err
	}
	caller.Forwarded = true
	return to.Transact(ctx, caller, ops, independent)
}

func (h *hop) DeleteCollection(ctx context.Context, caller registry.Caller, ref registry.Ref, opts metav1.DeleteOptions, list registry.ListOptions) (int64, error) {
	to, err := h.leader()
	if err != nil {
		return 0, err
	}
	caller.Forwarded = true
	return to.DeleteCollection(ctx, caller, ref, opts, list)
}

func TestFollowerForwards(t *testing.T) {
	backend := memory.New()
	first, way := start(t, "m1", backend, nil), &hop{}
	follower := start(t, "m2", backend, way)
	// Nobody leads yet: the write waits until somebody does.
	group := sync.WaitGroup{}
	group.Go(func() {
		_, err := follower.Create(t.Context(), admin, at("namespaces", "", ""), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, none)
		if err != nil {
			t.Error(err)
		}
	})
	first.lead(t)
	way.mu.Lock()
	way.to = first
	way.mu.Unlock()
	group.Wait()

	for i := range 20 {
		// Each answer is seen by the follower's own reads at once.
		name := fmt.Sprintf("c%d", i)
		created := must[*corev1.ConfigMap](t)(follower.Create(t.Context(), admin, at("configmaps", "default", ""), configMap(name), none))
		record, ok := follower.store.Get(keyOfConfigMap(name))
		if !ok || fmt.Sprint(record.Version) != created.ResourceVersion {
			t.Fatalf("%s is not in the follower's memory", name)
		}
	}
	patched := must[*corev1.ConfigMap](t)(follower.Patch(t.Context(), admin, at("configmaps", "default", "c1"), types.MergePatchType, []byte(`{"data":{"x":"y"}}`), none))
	if patched.Data["x"] != "y" {
		t.Errorf("%v", patched.Data)
	}
	_, gone, err := follower.Delete(t.Context(), admin, at("configmaps", "default", "c1"), metav1.DeleteOptions{})
	if err != nil || !gone {
		t.Errorf("delete: %v %v", gone, err)
	}
	if _, err := follower.Create(t.Context(), admin, at("configmaps", "default", ""), configMap("c2"), none); !apierrors.IsAlreadyExists(err) {
		t.Errorf("taken: %v", err)
	}
	n, err := follower.DeleteCollection(t.Context(), admin, at("configmaps", "default", ""), metav1.DeleteOptions{}, registry.ListOptions{})
	if err != nil || n != 19 {
		t.Errorf("deleted %d, %v", n, err)
	}
	// A request is passed on once only.
	caller := admin
	caller.Forwarded = true
	if _, err := follower.Create(t.Context(), caller, at("configmaps", "default", ""), configMap("x"), none); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("second hop: %v", err)
	}
}

// A request that is repeated under its id is performed once.
func TestRepeatedRequest(t *testing.T) {
	m := leader(t)
	caller := admin
	caller.RequestID = "r1"
	first := must[*corev1.ConfigMap](t)(m.Create(t.Context(), caller, at("configmaps", "default", ""), configMap("a"), none))
	again := must[*corev1.ConfigMap](t)(m.Create(t.Context(), caller, at("configmaps", "default", ""), configMap("a"), none))
	if first.UID != again.UID || first.ResourceVersion != again.ResourceVersion {
		t.Errorf("first %s at %s, again %s at %s", first.UID, first.ResourceVersion, again.UID, again.ResourceVersion)
	}
	caller.RequestID = "r2"
	for range 2 {
		if _, gone, err := m.Delete(t.Context(), caller, at("configmaps", "default", "a"), metav1.DeleteOptions{}); err != nil || !gone {
			t.Errorf("repeated delete: %v %v", gone, err)
		}
	}
}

func TestBootstrap(t *testing.T) {
	m := start(t, "m1", memory.New(), nil, func(c *registry.Config) { c.Admission = &admission.Config{} })
	var mu sync.Mutex
	doors := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.2:6443"), netip.MustParseAddrPort("192.0.2.1:6443")}
	clk := clocktesting.NewFakeClock(time.Now())
	b := registry.NewBootstrap(registry.BootstrapConfig{
		Engine: m.Engine, Network: configv1.DefaultNetwork(), EventTTL: time.Hour, Clock: clk, Log: zap.NewNop(),
		Endpoints: func() []netip.AddrPort {
			mu.Lock()
			defer mu.Unlock()
			return doors
		},
	})
	m.group.Go(b.Run)
	m.lead(t)
	ready := func(ref registry.Ref) func() bool {
		return func() bool {
			clk.Step(time.Second)
			_, err := m.Get(t.Context(), ref)
			return err == nil
		}
	}
	for _, name := range []string{"default", "kube-system", "kube-public", "kube-node-lease"} {
		eventually(t, "namespace "+name, ready(at("namespaces", "", name)))
	}
	eventually(t, "the class of what nodes need", ready(at("priorityclasses", "", "system-node-critical")))
	critical := pod("critical")
	critical.Spec.PriorityClassName = "system-node-critical"
	if made := must[*corev1.Pod](t)(m.Create(t.Context(), admin, at("pods", "default", ""), critical, none)); made.Spec.Priority == nil || *made.Spec.Priority != 2_000_001_000 {
		t.Errorf("priority %v", made.Spec.Priority)
	}
	eventually(t, "kube-dns", ready(at("services", "kube-system", "kube-dns")))
	eventually(t, "endpoints", ready(at("endpointslices", "default", "kubernetes")))
	s := get[*corev1.Service](t, m, at("services", "default", "kubernetes"))
	if s.Spec.ClusterIP != "10.96.0.1" || s.Spec.Ports[0].TargetPort.IntVal != 6443 {
		t.Errorf("service: %+v", s.Spec)
	}
	slice := get[*discoveryv1.EndpointSlice](t, m, at("endpointslices", "default", "kubernetes"))
	if len(slice.Endpoints) != 2 || slice.Endpoints[0].Addresses[0] != "192.0.2.1" || *slice.Ports[0].Port != 6443 {
		t.Errorf("slice: %+v", slice)
	}
	mu.Lock()
	doors = doors[:1]
	mu.Unlock()
	eventually(t, "the dead master leaves", func() bool {
		clk.Step(time.Second)
		return len(get[*discoveryv1.EndpointSlice](t, m, at("endpointslices", "default", "kubernetes")).Endpoints) == 1
	})
	eventually(t, "Endpoints for who knows no slices", func() bool {
		record, err := m.Get(t.Context(), at("endpoints", "default", "kubernetes"))
		if err != nil {
			return false
		}
		var old corev1.Endpoints //nolint:staticcheck // clients still have it
		if err := old.Unmarshal(record.Value); err != nil {
			t.Fatal(err)
		}
		return len(old.Subsets) == 1 && len(old.Subsets[0].Addresses) == 1 && old.Subsets[0].Addresses[0].IP == "192.0.2.2" &&
			old.Subsets[0].Ports[0].Port == 6443 && old.Labels[discoveryv1.LabelSkipMirror] == "true"
	})
	e := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "e", Namespace: "default"}, InvolvedObject: corev1.ObjectReference{Namespace: "default", Name: "x"}}
	must[*corev1.Event](t)(m.Create(t.Context(), admin, at("events", "default", ""), e, none))
	eventually(t, "the event is swept", func() bool {
		clk.Step(10 * time.Minute)
		_, err := m.Get(t.Context(), at("events", "default", "e"))
		return apierrors.IsNotFound(err)
	})
}
