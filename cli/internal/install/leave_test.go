package install

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	configv1 "kijabi.dev/platform/config/v1"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"
)

// threeMasters founds a cluster of three and returns the third with its services.
func threeMasters(t *testing.T, w *world, n int) (Options, *standInServices) {
	t.Helper()
	ctx := t.Context()
	first, _ := machineOf(t, w, "vm1", n)
	founded, err := InitMaster(ctx, first)
	if err != nil {
		t.Fatal(err)
	}
	second, _ := machineOf(t, w, "vm2", n+1)
	third, services := machineOf(t, w, "vm3", n+2)
	third.Said.Node.Taints = []configv1.Taint{{Key: "gpu", Effect: "NoExecute"}}
	for _, o := range []Options{second, third} {
		if err := JoinMaster(ctx, Invitation{founded.Address, founded.MasterToken}, o); err != nil {
			t.Fatal(err)
		}
	}
	return third, services
}

func agreed(string, *mastersv1pb.RemoveResponse) error { return nil }

// isNode fails unless the machine has become a plain node that uses the first two masters.
func isNode(t *testing.T, w *world, o Options, services *standInServices, first, second string) {
	t.Helper()
	if len(w.members) != 2 || onRoster(w.members, o.Name) {
		t.Errorf("roster: %v", w.members)
	}
	member, ok, err := ReadMember(o.Layout)
	if err != nil || !ok || member.Master || member.Name != o.Name {
		t.Errorf("member = %+v, %v, %v", member, ok, err)
	}
	want := slices.Sorted(slices.Values(Units(false)))
	if got := slices.Sorted(maps.Keys(services.ends)); !cmp.Equal(got, want) {
		t.Errorf("running: %v, want %v", got, want)
	}
	if got := slices.Sorted(maps.Keys(services.units)); !cmp.Equal(got, want) {
		t.Errorf("units: %v, want %v", got, want)
	}
	for _, path := range filesBelow(t, o.Layout) {
		name := filepath.Base(path)
		if strings.HasSuffix(path, ".key") && !slices.Contains([]string{"kubelet.key", "kube-proxy.key", "dns.key", "network-agent.key"}, name) || strings.Contains(path, "apiserver") && name != "apiservers.json" {
			t.Errorf("left of a master: %s", path)
		}
	}
	doors := []string{first + ":6444", second + ":6444"}
	kubelet := load[configv1.KubeletConfiguration](t, o, "kubelet")
	if !cmp.Equal(kubelet.APIServers, doors) || len(kubelet.Taints) != 1 || kubelet.Taints[0].Key != "gpu" {
		t.Errorf("kubelet: masters %v, taints %v", kubelet.APIServers, kubelet.Taints)
	}
	for program, servers := range map[string][]string{
		"kube-proxy": load[configv1.KubeProxyConfiguration](t, o, "kube-proxy").APIServers,
		dns:          load[configv1.DNSConfiguration](t, o, dns).APIServers,
		networkAgent: load[configv1.NetworkAgentConfiguration](t, o, networkAgent).APIServers,
	} {
		if !cmp.Equal(servers, doors) {
			t.Errorf("%s: masters %v", program, servers)
		}
	}
	node := w.node(o.Name)
	if _, marked := node.Labels[controlPlane]; marked || node.Labels["disk"] != "ssd" || len(node.Spec.Taints) != 1 || node.Spec.Taints[0].Key != "gpu" {
		t.Errorf("its Node: labels %v, taints %v", node.Labels, node.Spec.Taints)
	}
}

func TestMasterBecomesNode(t *testing.T) {
	w := newWorld()
	third, services := threeMasters(t, w, 81)
	data := filepath.Join(third.Layout.StateDir, apiserver, "etcd", "member", "wal")
	if err := os.MkdirAll(data, 0o700); err != nil {
		t.Fatal(err)
	}
	options := LeaveOptions{Layout: third.Layout, Services: services, Confirm: agreed}

	declined := options
	declined.Confirm = func(name string, plan *mastersv1pb.RemoveResponse) error {
		if name != "vm3" || plan.GetBefore().GetVoters() != 3 || plan.GetAfter().GetVoters() != 2 {
			t.Errorf("asked about %s: %v", name, plan)
		}
		return errors.New("no")
	}
	if err := LeaveMasters(t.Context(), declined); err == nil || len(w.members) != 3 || len(services.ends) != len(Units(true)) {
		t.Errorf("declined: %v, roster %v", err, w.members)
	}
	w.refusal = "the remaining masters would have no quorum"
	if err := LeaveMasters(t.Context(), options); err == nil || !strings.Contains(err.Error(), w.refusal) || len(w.members) != 3 {
		t.Errorf("refused: %v, roster %v", err, w.members)
	}
	w.refusal, w.busy = "", 3
	if err := LeaveMasters(t.Context(), options); err != nil {
		t.Fatal(err)
	}
	isNode(t, w, third, services, "127.0.77.81", "127.0.77.82")
	if err := LeaveMasters(t.Context(), options); err == nil || !strings.Contains(err.Error(), "node vm3") {
		t.Errorf("a node leaves the masters: %v", err)
	}
}

// TestInterruptedLeaveIsRepeated stops a leave where the cluster is told, and where the machine
// is cleaned.
func TestInterruptedLeaveIsRepeated(t *testing.T) {
	w := newWorld()
	third, services := threeMasters(t, w, 91)
	options := LeaveOptions{Layout: third.Layout, Services: services, Confirm: agreed}
	w.removeMember("vm3") // as if the first attempt, or somebody else, had come that far
	if err := services.Stop(t.Context(), apiserver); err != nil {
		t.Fatal(err)
	}
	broken := third.Layout.config(dns)
	content, err := os.ReadFile(broken)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(broken, []byte("no: configuration"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := LeaveMasters(t.Context(), options); err == nil || !strings.Contains(err.Error(), "dns.yaml") {
		t.Errorf("leave with a broken file: %v", err)
	}
	if err := os.WriteFile(broken, content, 0o644); err != nil {
		t.Fatal(err)
	}
	options.Services = failing{services}
	if err := LeaveMasters(t.Context(), options); err == nil || !strings.Contains(err.Error(), "no units today") {
		t.Errorf("leave without a service manager: %v", err)
	}
	options.Services = services
	if err := LeaveMasters(t.Context(), options); err != nil {
		t.Fatal(err)
	}
	isNode(t, w, third, services, "127.0.77.91", "127.0.77.92")
}

// failing is a service manager that removes nothing.
type failing struct{ Services }

func (failing) Remove(context.Context, []string) error { return errors.New("no units today") }

func TestOnlyMasterDoesNotLeave(t *testing.T) {
	w := newWorld()
	only, services := machineOf(t, w, "vm1", 96)
	if _, err := InitMaster(t.Context(), only); err != nil {
		t.Fatal(err)
	}
	err := LeaveMasters(t.Context(), LeaveOptions{Layout: only.Layout, Services: services, Confirm: agreed})
	if err == nil || !strings.Contains(err.Error(), "only master") || !strings.Contains(err.Error(), "kijabi reset") || len(w.members) != 1 {
		t.Errorf("the only master leaves: %v", err)
	}
}

// TestRemovedFounderFindsTheOthers: root's access on the founder names only itself, which does not
// answer any more.
func TestRemovedFounderFindsTheOthers(t *testing.T) {
	w, ctx := newWorld(), t.Context()
	first, services := machineOf(t, w, "vm1", 101)
	founded, err := InitMaster(ctx, first)
	if err != nil {
		t.Fatal(err)
	}
	second, _ := machineOf(t, w, "vm2", 102)
	if err := JoinMaster(ctx, Invitation{founded.Address, founded.MasterToken}, second); err != nil {
		t.Fatal(err)
	}
	w.removeMember("vm1")
	if err := services.Stop(ctx, apiserver); err != nil {
		t.Fatal(err)
	}
	learned := filepath.Join(first.Layout.StateDir, networkAgent, "apiservers.json")
	if err := os.MkdirAll(filepath.Dir(learned), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(learned, []byte(`{"addresses":["127.0.77.101:6444","127.0.77.102:6444"]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Reset(ctx, ResetOptions{Layout: first.Layout, Services: services}); err != nil {
		t.Error(err)
	}
}
