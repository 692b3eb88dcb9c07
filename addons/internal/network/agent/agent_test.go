package agent

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	testclock "k8s.io/utils/clock/testing"

	"kijabi.dev/addons/internal/network/cni"
	"kijabi.dev/addons/internal/network/plan"
)

type machine struct {
	plans chan plan.Plan
	err   atomic.Pointer[error]
}

func (m *machine) Apply(p plan.Plan) error {
	err := m.err.Load()
	m.plans <- p
	if err != nil {
		return *err
	}
	return nil
}
func (*machine) OnLink(netip.Addr) bool { return true }
func (*machine) MTU() (int, error)      { return 1500, nil }

func newNode(name, address, pods string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDR: pods},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: name}, {Type: corev1.NodeInternalIP, Address: address}}},
	}
}

func TestAgent(t *testing.T) {
	dir := t.TempDir()
	var nodes atomic.Pointer[[]*corev1.Node]
	set := func(list ...*corev1.Node) { nodes.Store(&list) }
	set(newNode("a", "192.168.1.1", ""), newNode("b", "192.168.1.2", "10.244.1.0/24"))
	m := &machine{plans: make(chan plan.Plan, 10)}
	clk := testclock.NewFakeClock(time.Now())
	var ready atomic.Bool
	a := New(Config{
		NodeName: "a", Address: netip.MustParseAddr("192.168.1.1"), Mode: plan.Auto, PodRange: netip.MustParsePrefix("10.244.0.0/16"),
		CNIConfigDir: dir, Bridged: true, Nodes: func() []*corev1.Node { return *nodes.Load() }, Machine: m,
		Ready: func() { ready.Store(true) }, Clock: clk, Log: zaptest.NewLogger(t),
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	eventually := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); !ok(); clk.Step(gather) {
			if time.Now().After(deadline) {
				t.Fatalf("in vain: %s", what)
			}
		}
	}
	next := func() (p plan.Plan) {
		t.Helper()
		eventually("a plan", func() bool {
			select {
			case p = <-m.plans:
				return true
			default:
				return false
			}
		})
		return p
	}
	configured := func() bool {
		_, err := os.Stat(filepath.Join(dir, cni.FileName))
		return err == nil
	}

	// Without a range of its own nothing is done. What cannot be done is tried again
	// before pods may start.
	refused := errors.New("refused")
	m.err.Store(&refused)
	bare, ranged := newNode("a", "192.168.1.1", ""), newNode("a", "192.168.1.1", "10.244.0.0/24")
	set(ranged, newNode("b", "192.168.1.2", "10.244.1.0/24"))
	a.NodeChanged(bare, ranged)
	p := next()
	if len(p.Routes) != 1 || p.Range.String() != "10.244.0.0/24" {
		t.Errorf("plan: %+v", p)
	}
	if configured() || ready.Load() {
		t.Error("pods may start though the network could not be made")
	}
	m.err.Store(nil)
	next()
	eventually("configuration and readiness", func() bool { return configured() && ready.Load() })

	eventually("rest", func() bool { return len(a.changed) == 0 })

	// A heartbeat is no change, a new node is.
	beat := ranged.DeepCopy()
	beat.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady}}
	a.NodeChanged(ranged, beat)
	if len(a.changed) != 0 {
		t.Error("a heartbeat wakes the agent")
	}
	set(ranged, newNode("b", "192.168.1.2", "10.244.1.0/24"), newNode("c", "192.168.1.3", "10.244.2.0/24"))
	a.NodeChanged(nil, newNode("c", "192.168.1.3", "10.244.2.0/24"))
	eventually("a plan with the new node", func() bool { return len(next().Routes) == 2 })
	cancel()
	if err := <-done; err != nil {
		t.Errorf("run: %v", err)
	}
	if !configured() {
		t.Error("the configuration is gone with the agent")
	}
}
