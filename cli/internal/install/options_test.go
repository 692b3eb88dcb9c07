package install

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/platform/config"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/pki"
)

func otherRanges() configv1.Network {
	return configv1.Network{PodCIDR: "10.32.0.0/16", ServiceCIDR: "10.33.0.0/20", ClusterDomain: "prod.example"}
}

func load[C any](t *testing.T, o Options, program string) *C {
	t.Helper()
	var c C
	if err := config.Load(o.Layout.config(program), &c); err != nil {
		t.Fatal(err)
	}
	return &c
}

func TestOptions(t *testing.T) {
	w, ctx := newWorld(), t.Context()
	first, _ := machineOf(t, w, "vm1", 31)
	data := t.TempDir() // exists and is empty
	first.Said = configv1.MemberOptions{
		Network: otherRanges(), Etcd: configv1.EtcdOptions{QuotaBytes: 1 << 30},
		Masters:     configv1.Masters{ReplaceDeadAfter: &metav1.Duration{Duration: time.Minute}, CertificateLife: &metav1.Duration{Duration: time.Hour}},
		Directories: configv1.Directories{Containerd: filepath.Join(data, "containerd"), Etcd: filepath.Join(data, "etcd")},
		Node:        configv1.NodeOptions{Labels: map[string]string{"disk": "ssd"}, Schedulable: true},
		DNS:         configv1.DNSOptions{Upstream: []string{"192.0.2.1"}},
	}
	usual := first.Layout
	first.Layout = usual.With(first.Said.Directories)
	founded, err := InitMaster(ctx, first)
	if err != nil {
		t.Fatal(err)
	}
	want := otherRanges().WithDefaults()
	api := load[configv1.APIServerConfiguration](t, first, apiserver)
	if api.Network != want || api.Etcd.QuotaBytes != 1<<30 || api.Etcd.DataDir != filepath.Join(data, "etcd") {
		t.Errorf("apiserver: %+v", api)
	}
	kubelet := load[configv1.KubeletConfiguration](t, first, "kubelet")
	if kubelet.Network != want || kubelet.Labels["disk"] != "ssd" || len(kubelet.Taints) > 0 {
		t.Errorf("kubelet: %+v", kubelet)
	}
	if dns := load[configv1.DNSConfiguration](t, first, "dns"); !slices.Equal(dns.Upstream, []string{"192.0.2.1"}) || dns.Network.DNSAddress != "10.33.0.10" {
		t.Errorf("dns: %+v", dns)
	}
	if content, err := os.ReadFile(first.Layout.config(containerd)); err != nil || !strings.Contains(string(content), `root = "`+filepath.Join(data, "containerd")+`"`) {
		t.Errorf("containerd: %v\n%s", err, content)
	}
	if layout, err := remembered(usual); err != nil || layout != first.Layout {
		t.Errorf("a reset finds %+v, %v", layout, err)
	}

	t.Run("separate etcd", func(t *testing.T) {
		beside, _ := machineOf(t, newWorld(), "vm7", 37)
		ca := first.Layout.pki("ca.crt")
		leaf := first.Layout.leaf(apiserver)
		beside.Said.Etcd.SeparateEtcd = configv1.SeparateEtcd{Endpoints: []string{"https://127.0.0.1:2379"}, CAFile: ca, CertFile: leaf.CertFile, KeyFile: filepath.Join(data, "none")}
		if _, err := InitMaster(ctx, beside); err == nil || !strings.Contains(err.Error(), "etcd.certFile") || !strings.Contains(err.Error(), "none") {
			t.Errorf("without its key: %v", err)
		}
		beside.Said.Etcd.KeyFile = leaf.KeyFile
		if _, err := InitMaster(ctx, beside); err != nil {
			t.Fatal(err)
		}
		if api := load[configv1.APIServerConfiguration](t, beside, apiserver); !reflect.DeepEqual(api.Etcd, configv1.Etcd{SeparateEtcd: beside.Said.Etcd.SeparateEtcd}) {
			t.Errorf("apiserver: %+v", api.Etcd)
		}
	})
	t.Run("master join", func(t *testing.T) {
		second, _ := machineOf(t, w, "vm2", 32)
		if err := JoinMaster(ctx, Invitation{founded.Address, founded.MasterToken}, second); err != nil {
			t.Fatal(err)
		}
		api := load[configv1.APIServerConfiguration](t, second, apiserver)
		if api.Network != want || api.Etcd.QuotaBytes != 1<<30 || api.Etcd.DataDir != "" || api.Masters.ReplaceAfter() != time.Minute || api.Masters.LeafLife() != time.Hour {
			t.Errorf("apiserver: %+v", api)
		}
		leaf, err := pki.OpenIdentity(api.Identity)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"10.33.0.1", "127.0.77.32", "kubernetes.default.svc.prod.example"} {
			if err := leaf.Leaf().VerifyHostname(name); err != nil {
				t.Errorf("pods cannot trust the API: %v", err)
			}
		}
		if kubelet := load[configv1.KubeletConfiguration](t, second, "kubelet"); len(kubelet.Taints) != 1 || kubelet.Taints[0].Key != controlPlane {
			t.Errorf("a master without options has taints %v", kubelet.Taints)
		}
	})
	t.Run("node join", func(t *testing.T) {
		node, _ := machineOf(t, w, "vm4", 34)
		node.Said.Network = configv1.Network{PodCIDR: want.PodCIDR} // the same file on all machines
		node.Said.Node.Taints = []configv1.Taint{{Key: "gpu", Effect: "NoExecute"}}
		if err := JoinNode(ctx, Invitation{founded.Address, founded.NodeToken}, node); err != nil {
			t.Fatal(err)
		}
		proxy := load[configv1.KubeProxyConfiguration](t, node, "kube-proxy")
		kubelet := load[configv1.KubeletConfiguration](t, node, "kubelet")
		if proxy.Network != want || len(kubelet.Taints) != 1 || kubelet.Taints[0].Key != "gpu" {
			t.Errorf("kube-proxy %+v, taints %v", proxy.Network, kubelet.Taints)
		}
	})
	t.Run("reset", func(t *testing.T) {
		mark := filepath.Join(data, "etcd", "member", "wal")
		if err := os.MkdirAll(mark, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := Reset(ctx, ResetOptions{Layout: first.Layout, Services: first.Services, Local: true}); err != nil {
			t.Fatal(err)
		}
		if left := filesBelow(t, usual); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		if _, err := os.Stat(mark); !os.IsNotExist(err) {
			t.Errorf("etcd's data is left: %v", err)
		}
	})
}

func TestOptionsRefused(t *testing.T) {
	w, ctx := newWorld(), t.Context()
	first, _ := machineOf(t, w, "vm1", 41)
	founded, err := InitMaster(ctx, first)
	if err != nil {
		t.Fatal(err)
	}
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "photo.jpg"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		said configv1.MemberOptions
		want []string
	}{
		"other ranges than the cluster's": {
			configv1.MemberOptions{Network: configv1.Network{PodCIDR: "10.32.0.0/16"}},
			[]string{"network.podCIDR is 10.32.0.0/16, the cluster's 10.244.0.0/16", "master init"},
		},
		"a directory with something in it": {
			configv1.MemberOptions{Directories: configv1.Directories{Containerd: full}},
			[]string{"directories.containerd", full, "photo.jpg"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			node, services := machineOf(t, w, "vm4", 44)
			node.Said = test.said
			usual := node.Layout
			node.Layout = usual.With(test.said.Directories)
			err := JoinNode(ctx, Invitation{founded.Address, founded.NodeToken}, node)
			if err == nil {
				t.Fatal("joined")
			}
			for _, part := range test.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not mention %q", err, part)
				}
			}
			if left := filesBelow(t, usual); len(left) > 0 || len(services.units) > 0 {
				t.Errorf("left behind: %v, %v", left, services.units)
			}
		})
	}
	t.Run("ranges that hold the machine", func(t *testing.T) {
		o, _ := machineOf(t, newWorld(), "vm9", 49)
		o.Said.Network = configv1.Network{PodCIDR: "127.0.0.0/16"}
		if _, err := InitMaster(ctx, o); err == nil || !strings.Contains(err.Error(), "network.podCIDR 127.0.0.0/16 holds this machine's own address 127.0.77.49") {
			t.Errorf("got %v", err)
		}
	})
}

func TestReadOptions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "options.yaml")
	if _, err := ReadOptions(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a file that was named and is not there: %v", err)
	}
	if err := os.WriteFile(path, []byte("apiVersion: kijabi.dev/v1\nkind: MemberOptions\nname: vm7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	said, err := ReadOptions(path)
	if err != nil || said.Name != "vm7" {
		t.Errorf("got %+v, %v", said, err)
	}
	for flag, want := range map[string]string{"": "vm7", "vm8": "vm8"} {
		o, _ := machineOf(t, newWorld(), flag, 51)
		o.Said = said
		if err := o.complete(t.Context(), false, ""); err != nil || o.Name != want {
			t.Errorf("flag %q: name %q, %v", flag, o.Name, err)
		}
	}
}

// TestFullDisk installs on a state directory that is too small, and again once there is room.
func TestFullDisk(t *testing.T) {
	o, services := machineOf(t, newWorld(), "vm1", 61)
	if err := os.MkdirAll(o.Layout.StateDir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("kijabi-test", o.Layout.StateDir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(o.Layout.StateDir, unix.MNT_DETACH) })
	if _, err := InitMaster(t.Context(), o); err == nil || !strings.Contains(err.Error(), "disk-space") {
		t.Errorf("preflight on a full disk: %v", err)
	}
	o.IgnorePreflight = append(slices.Clone(o.IgnorePreflight), "disk-space", "disk-latency") // as if the disk had filled up in between
	_, err := InitMaster(t.Context(), o)
	for _, part := range []string{"no space left on device", "the disk of " + o.Layout.StateDir + " is full", "--options"} {
		if err == nil || !strings.Contains(err.Error(), part) || strings.Contains(err.Error(), "\n") {
			t.Errorf("on a full disk: %v; want one line with %q", err, part)
		}
	}
	if left := filesBelow(t, o.Layout); len(left) > 0 || len(services.units) > 0 || len(services.ends) > 0 {
		t.Errorf("left behind: %v, %v", left, services.units)
	}
	if err := unix.Mount("", o.Layout.StateDir, "", unix.MS_REMOUNT, "size=16m"); err != nil {
		t.Fatal(err)
	}
	if _, err := InitMaster(t.Context(), o); err != nil {
		t.Errorf("with room: %v", err)
	}
}

// TestResetOfARemovedMaster resets a machine that another master has removed.
func TestResetOfARemovedMaster(t *testing.T) {
	w, ctx := newWorld(), t.Context()
	first, _ := machineOf(t, w, "vm1", 71)
	founded, err := InitMaster(ctx, first)
	if err != nil {
		t.Fatal(err)
	}
	second, services := machineOf(t, w, "vm2", 72)
	if err := JoinMaster(ctx, Invitation{founded.Address, founded.MasterToken}, second); err != nil {
		t.Fatal(err)
	}
	w.removeMember("vm2")
	if err := JoinMaster(ctx, Invitation{founded.Address, founded.MasterToken}, second); err == nil || !strings.Contains(err.Error(), "was master vm2") || !strings.Contains(err.Error(), "has been removed") || !strings.Contains(err.Error(), "kijabi reset") {
		t.Errorf("join of a machine that was removed: %v", err)
	}
	if err := Reset(ctx, ResetOptions{Layout: second.Layout, Services: services}); err != nil {
		t.Errorf("reset: %v", err)
	}
	if err := JoinMaster(ctx, Invitation{founded.Address, founded.MasterToken}, second); err != nil {
		t.Errorf("join after the reset: %v", err)
	}
}
