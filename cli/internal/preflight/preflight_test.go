package preflight

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// find returns the finding of a check.
func find(t *testing.T, report *Report, check string) Finding {
	t.Helper()
	for _, f := range report.Findings {
		if f.Check == check {
			return f
		}
	}
	t.Fatalf("check %s has found nothing", check)
	return Finding{}
}

func TestHealthyMachine(t *testing.T) {
	for _, role := range []string{"master", "node"} {
		wanted := target()
		wanted.Master = role == "master"
		report := Run(t.Context(), healthy().view(), wanted, Options{})
		if !report.OK || report.Err() != nil || report.Role != role || len(report.Findings) != len(Names()) {
			t.Errorf("%s: %+v", role, report)
		}
		for _, f := range report.Findings {
			if f.Level != OK || f.Fix != "" || f.Text == "" {
				t.Errorf("%s: %+v", role, f)
			}
		}
	}
}

// spoiled is one thing that is wrong with a machine and what must be said of it.
type spoiled struct {
	check string
	what  string
	spoil func(*fakeMachine, *Target)
	level Level
	says  []string // parts of text and fix
}

func file(path, content string) func(*fakeMachine, *Target) {
	return func(m *fakeMachine, _ *Target) { m.files[path] = content }
}

func noFile(path string) func(*fakeMachine, *Target) {
	return func(m *fakeMachine, _ *Target) { delete(m.files, path) }
}

func broken(wanted Feature) func(*fakeMachine, *Target) {
	return func(m *fakeMachine, _ *Target) {
		m.kernel.broken = map[Feature]error{wanted: errors.New("operation not supported")}
	}
}

func status(uid int, capabilities string) string {
	return fmt.Sprintf("Uid:\t0\t%d\t0\t0\nCapEff:\t%s\nCpus_allowed_list:\t0,2-3\n", uid, capabilities)
}

func kernelFindings() []spoiled {
	return []spoiled{
		{"privileges", "not root", file("proc/self/status", status(1000, "000001ffffffffff")), Failure, []string{"not root", "sudo"}},
		{"privileges", "no CAP_SYS_RESOURCE", file("proc/self/status", status(0, "000001fffeffffff")), Warning, []string{"CAP_SYS_RESOURCE", "memory runs out"}},
		{"privileges", "no CAP_NET_ADMIN", file("proc/self/status", status(0, "000001ffffffefff")), Failure, []string{"CAP_NET_ADMIN", "cap_add"}},
		{"privileges", "no /proc", noFile("proc/self/status"), Failure, []string{"mount /proc"}},
		{"membership", "a member", func(_ *fakeMachine, w *Target) { w.Member = "node vm1 of cluster abc" }, Failure, []string{"already node vm1", "kijabi reset"}},
		{"membership", "half made", func(_ *fakeMachine, w *Target) { w.Unfinished = "/etc/kijabi/kubelet.yaml" }, Failure, []string{"kubelet.yaml", "did not finish", "kijabi reset"}},
		{"kernel", "too old", file("proc/sys/kernel/osrelease", "3.10.0-1160.el7\n"), Failure, []string{"3.10.0-1160.el7", "4.18", "update"}},
		{"kernel", "the oldest that can work", file("proc/sys/kernel/osrelease", "4.18.0-553.el8\n"), Warning, []string{"5.10", "update"}},
		{"kernel", "odd", file("proc/sys/kernel/osrelease", "next\n"), Warning, []string{"not understood"}},
		{"namespaces", "refused", broken(Namespaces), Failure, []string{"operation not supported", "CONFIG_NAMESPACES"}},
		{"nftables", "missing", broken(NFTables), Failure, []string{"services", "modprobe nf_tables"}},
		{"bridge", "missing", broken(Bridge), Failure, []string{"modprobe bridge"}},
		{"veth", "missing", broken(Veth), Failure, []string{"modprobe veth"}},
		{"vxlan", "missing", broken(VXLAN), Warning, []string{"one link", "modprobe vxlan"}},
		{"seccomp", "missing", broken(Seccomp), Warning, []string{"RuntimeDefault"}},
		{"cgroups", "hybrid", file("proc/self/mountinfo", hybridCgroups()), Warning, []string{"v1 (hybrid)", "unified_cgroup_hierarchy=1"}},
		{"cgroups", "v1 without memory", file("proc/self/mountinfo", hybridCgroups("memory")), Failure, []string{"memory", "cgroup_enable"}},
		{"cgroups", "v1 without cpuset", file("proc/self/mountinfo", hybridCgroups("cpuset")), Warning, []string{"without controller cpuset"}},
		{"cgroups", "none", file("proc/self/mountinfo", "26 1 254:0 / / rw - ext4 /dev/vda rw\n"), Failure, []string{"no cgroups", "mount cgroup2"}},
		{"cgroups", "read-only", file("proc/self/mountinfo", strings.Replace(cgroupV2, " rw,", " ro,", 1)), Failure, []string{"read-only", "Docker"}},
		{"cgroups", "v2 without pids", file("sys/fs/cgroup/cgroup.controllers", "cpu memory cpuset\n"), Failure, []string{"pids", "subtree_control"}},
		{"cgroups", "v2 without cpuset", file("sys/fs/cgroup/cgroup.controllers", "cpu memory pids\n"), Warning, []string{"cpuset"}},
	}
}

func resourceFindings() []spoiled {
	memoryIs := func(total, available int) func(*fakeMachine, *Target) {
		return file("proc/meminfo", fmt.Sprintf("MemTotal: %d kB\nMemAvailable: %d kB\n", total<<10, available<<10))
	}
	forNode := func(spoil func(*fakeMachine, *Target)) func(*fakeMachine, *Target) {
		return func(m *fakeMachine, w *Target) { node(w); spoil(m, w) }
	}
	space := func(s Space) func(*fakeMachine, *Target) { return func(m *fakeMachine, _ *Target) { m.disk.space = s } }
	kind := func(f Filesystem) func(*fakeMachine, *Target) {
		return func(m *fakeMachine, _ *Target) { m.disk.filesystem = f }
	}
	takes := func(usual, sometimes time.Duration) func(*fakeMachine, *Target) {
		return func(m *fakeMachine, _ *Target) {
			m.disk.sync = func(i int) time.Duration {
				if i%50 == 0 { // 2 %: more than the 99th percentile leaves out
					return sometimes
				}
				return usual
			}
		}
	}
	const ms = time.Millisecond
	return []spoiled{
		{"cpus", "one for a master", file("proc/self/status", "Cpus_allowed_list:\t0\n"), Warning, []string{"1 CPU", "another CPU"}},
		{"cpus", "one for a node", forNode(file("proc/self/status", "Cpus_allowed_list:\t0\n")), OK, nil},
		{"memory", "too little for a master", memoryIs(800, 700), Failure, []string{"800 MiB", "900"}},
		{"memory", "little for a master", memoryIs(1500, 1400), Warning, []string{"1500 MiB"}},
		{"memory", "the same for a node", forNode(memoryIs(1500, 1400)), OK, nil},
		{"memory", "too little for a node", forNode(memoryIs(400, 300)), Failure, []string{"node"}},
		{"memory", "used up", memoryIs(4000, 100), Warning, []string{"only 100"}},
		{"swap", "on", file("proc/swaps", noSwap+"/dev/sda2 partition 1 0 -2\n"), Warning, []string{"swapoff -a"}},
		{"swap", "kernel without swap", noFile("proc/swaps"), OK, nil},
		{"disk-space", "full", space(Space{Free: 1 * gib, Total: 100 * gib}), Failure, []string{"1024 MiB", "2048", "/var/lib/kijabi"}},
		{"disk-space", "pressure", space(Space{Free: 8 * gib, Total: 100 * gib}), Warning, []string{"DiskPressure"}},
		{"disk-space", "small", space(Space{Free: 8 * gib, Total: 10 * gib}), Warning, []string{"fill that soon"}},
		{"disk-space", "no inodes", space(Space{Free: 50 * gib, Total: 100 * gib, Files: 1000, FreeFiles: 10}), Failure, []string{"10 inodes"}},
		{"disk-space", "few inodes", space(Space{Free: 50 * gib, Total: 100 * gib, Files: 1e6, FreeFiles: 50_000}), Warning, []string{"50000 inodes"}},
		{"disk-space", "inodes without limit", space(Space{Free: 50 * gib, Total: 100 * gib}), OK, nil},
		{"filesystem", "nfs", kind(Filesystem{Kind: "nfs"}), Warning, []string{"network", "local disk"}},
		{"filesystem", "overlay", kind(Filesystem{Kind: "overlay"}), Warning, []string{"copies every image", "volume"}},
		{"filesystem", "tmpfs", kind(Filesystem{Kind: "tmpfs"}), Warning, []string{"in memory"}},
		{"filesystem", "noexec", kind(Filesystem{Kind: "ext4", NoExec: true}), Failure, []string{"noexec"}},
		{"filesystem", "read-only", func(m *fakeMachine, _ *Target) { m.disk.writeErr = errors.New("read-only file system") }, Failure, []string{"read-only file system", "writable"}},
		{"overlayfs", "refused", func(m *fakeMachine, _ *Target) { m.disk.overlayErr = errors.New("invalid argument") }, Failure, []string{"invalid argument", "ftype=1"}},
		{"overlayfs", "not needed", func(m *fakeMachine, _ *Target) {
			m.disk.filesystem.Kind, m.disk.overlayErr = "tmpfs", errors.New("invalid argument")
		}, OK, nil},
		{"disk-latency", "slow throughout", takes(15*ms, 150*ms), Failure, []string{"150ms", "median 15ms", "SSD"}},
		{"disk-latency", "hangs now and then", takes(ms, 1500*ms), Failure, []string{"1.5s", "median 1ms"}},
		{"disk-latency", "busy at the moment", takes(ms, 350*ms), Warning, []string{"350ms", "median 1ms"}},
		{"disk-latency", "slow now and then", takes(5*ms, 50*ms), Warning, []string{"50ms", "etcd wants 10 ms"}},
		{"disk-latency", "slow, on a node", forNode(takes(5*ms, 50*ms)), OK, nil},
		{"disk-latency", "hangs, on a node", forNode(takes(150*ms, 150*ms)), Warning, []string{"pods start slowly"}},
	}
}

func networkFindings() []spoiled {
	binds := func(port int, err error) func(*fakeMachine, *Target) {
		return func(m *fakeMachine, _ *Target) { m.network.bind[port] = err }
	}
	at := func(text string) func(*fakeMachine, *Target) {
		return func(_ *fakeMachine, w *Target) { w.Address = text }
	}
	route := func(to string, ours bool) func(*fakeMachine, *Target) {
		return func(m *fakeMachine, _ *Target) {
			m.network.routes = append(m.network.routes, Route{netip.MustParsePrefix(to), "flannel.1", ours})
		}
	}
	chain := func(c Chain) func(*fakeMachine, *Target) {
		return func(m *fakeMachine, _ *Target) { m.network.chains = []Chain{c} }
	}
	named := func(name string) func(*fakeMachine, *Target) {
		return func(_ *fakeMachine, w *Target) { w.Name = name }
	}
	known := func(name, at string) func(*fakeMachine, *Target) {
		return func(m *fakeMachine, _ *Target) { m.network.lookup[name] = at }
	}
	unknown := func(name string) func(*fakeMachine, *Target) {
		return func(m *fakeMachine, _ *Target) { delete(m.network.lookup, name) }
	}
	return []spoiled{
		{"address", "foreign", binds(0, foreign), Failure, []string{"10.0.0.11", "does not belong", "--advertise-address"}},
		{"address", "a name", at("vm1"), Failure, []string{"no IP address"}},
		{"address-scope", "loopback", at("127.0.0.1"), Failure, []string{"loopback", "--advertise-address"}},
		{"address-scope", "link-local", at("169.254.1.1"), Failure, []string{"169.254.1.1"}},
		{"address-scope", "in the pods' range", at("10.244.3.4"), Failure, []string{"range of pods", "10.244.0.0/16"}},
		{"ports", "busy", binds(10250, busy), Failure, []string{"port 10250", "busy", "ss -ltnp"}},
		{"ports", "forbidden", binds(6443, errors.New("permission denied")), Failure, []string{"6443", "permission denied"}},
		{"ports", "a member's", func(m *fakeMachine, w *Target) { m.network.bind[10250], w.Member = busy, "node vm1" }, OK, nil},
		{"ranges", "pods taken", founding(route("10.244.0.0/24", false)), Failure, []string{"10.244.0.0/24", "flannel.1", "range of pods"}},
		{"ranges", "services within a private network", founding(route("10.0.0.0/8", false)), Failure, []string{"10.0.0.0/8"}},
		{"ranges", "pods taken, but the cluster to join may have others", route("10.244.0.0/24", false), Warning, []string{"10.244.0.0/24", "other ranges"}},
		{"ranges", "our own route", route("10.244.0.0/24", true), OK, nil},
		{"ranges", "overlap", func(_ *fakeMachine, w *Target) { w.Network.ServiceCIDR = "10.244.0.0/20" }, Failure, []string{"overlap"}},
		{"ranges", "garbled", func(_ *fakeMachine, w *Target) { w.Network.PodCIDR = "ten" }, Failure, []string{`"ten"`}},
		{"firewall", "firewalld", file("run/firewalld/x", ""), Warning, []string{"firewalld", "6443/tcp", "8472/udp", "firewall-cmd", "--reload"}},
		{"firewall", "ufw", file("etc/ufw/ufw.conf", "# x\nENABLED=yes\n"), Warning, []string{"ufw allow 2380/tcp"}},
		{"firewall", "ufw, off", file("etc/ufw/ufw.conf", "ENABLED=no\n"), OK, nil},
		{"firewall", "Docker's", chain(Chain{"filter", "FORWARD", true}), Warning, []string{"FORWARD", "iptables -I"}},
		{"firewall", "our own", chain(Chain{"kijabi-proxy", "forward", true}), OK, nil},
		{"hostname", "capitals", named("Big Machine"), Failure, []string{"Big Machine", "--name"}},
		{"hostname", "too long", named(strings.Repeat("a", 64)), Failure, []string{"--name"}},
		{"names", "localhost unknown", unknown("localhost"), Warning, []string{"localhost has no address", "/etc/hosts"}},
		{"names", "localhost elsewhere", known("localhost", "10.0.0.1"), Warning, []string{"no loopback"}},
		{"names", "own name unknown", unknown("vm1"), Warning, []string{"vm1", "10.0.0.11 vm1"}},
		{"names", "own name elsewhere", known("vm1", "10.0.0.99"), Warning, []string{"10.0.0.99", "another machine"}},
		{"names", "as Debian has it", known("vm1", "127.0.1.1"), OK, nil},
		{"resolver", "stub", file("etc/resolv.conf", "nameserver 127.0.0.53\n"), Warning, []string{"127.0.0.53", "dnsPolicy Default", "systemd-resolved"}},
		{"resolver", "none", noFile("etc/resolv.conf"), Warning, []string{"no resolver"}},
		{"leftovers", "a kubelet", file("proc/7/comm", "kubelet\n"), Failure, []string{"kubelet", "kubeadm reset"}},
		{"leftovers", "rules", chain(Chain{"nat", "KUBE-SERVICES", false}), Failure, []string{"KUBE-SERVICES"}},
		{"leftovers", "an interface", file("sys/class/net/flannel.1/mtu", ""), Warning, []string{"ip link delete flannel.1"}},
		{"leftovers", "files", file("etc/kubernetes/kubelet.conf", ""), Warning, []string{"kubelet.conf"}},
		{"leftovers", "a member's own kubelet", func(m *fakeMachine, w *Target) { m.files["proc/7/comm"], w.Member = "kubelet\n", "node vm1" }, OK, nil},
	}
}

func clockFindings() []spoiled {
	off := func(by time.Duration) func(*fakeMachine, *Target) {
		return func(m *fakeMachine, _ *Target) { m.network.told.Date = m.network.told.Date.Add(-by) }
	}
	silent := func(from, to time.Duration) func(*fakeMachine, *Target) {
		return func(m *fakeMachine, _ *Target) {
			m.network.timeErr = errors.New("connection refused")
			m.network.greeting.NotBefore, m.network.greeting.NotAfter = testNow().Add(from), testNow().Add(to)
		}
	}
	return []spoiled{
		{"clock", "never set", func(m *fakeMachine, _ *Target) { m.clock.SetTime(time.Unix(0, 0)) }, Failure, []string{"1970", "chrony"}},
		{"clock", "not kept", func(m *fakeMachine, _ *Target) { m.kernel.unkept = true }, Warning, []string{"drift", "timedatectl"}},
		{"clock", "unknown", func(m *fakeMachine, _ *Target) { m.kernel.clockErr = errors.New("not permitted") }, Warning, []string{"not permitted"}},
		{"master", "silent", func(m *fakeMachine, _ *Target) { m.network.greetErr = errors.New("dial tcp: connection refused") }, Failure, []string{"10.0.0.12:6444", "connection refused"}},
		{"master", "something else", func(m *fakeMachine, _ *Target) { m.network.greeting.Names = []string{"example.org"} }, Failure, []string{"example.org", "not a master"}},
		{"master", "none wanted", func(_ *fakeMachine, w *Target) { w.Join = "" }, OK, nil},
		{"master-clock", "a little ahead", off(3 * time.Second), Warning, []string{"ahead of", "2.5s"}},
		{"master-clock", "within a second", off(time.Second), OK, nil},
		{"master-clock", "far behind", off(-10 * time.Minute), Failure, []string{"behind", "10m"}},
		{"master-clock", "by certificate, behind", silent(time.Hour, 2*time.Hour), Failure, []string{"at least 1h0m0s behind"}},
		{"master-clock", "by certificate, ahead", silent(-2*time.Hour, -time.Hour), Failure, []string{"ahead of the end"}},
		{"master-clock", "by certificate, well", silent(-time.Hour, time.Hour), Warning, []string{"certificate only", "connection refused"}},
		{"master-clock", "nobody", func(m *fakeMachine, _ *Target) {
			m.network.timeErr, m.network.greetErr = errors.New("refused"), errors.New("refused")
		}, Warning, []string{"not compared"}},
	}
}

// founding is spoil on a machine that joins nobody.
func founding(spoil func(*fakeMachine, *Target)) func(*fakeMachine, *Target) {
	return func(m *fakeMachine, t *Target) {
		t.Join = ""
		spoil(m, t)
	}
}

func TestFindings(t *testing.T) {
	bad := map[string]bool{}
	for _, test := range slices.Concat(kernelFindings(), resourceFindings(), networkFindings(), clockFindings()) {
		t.Run(test.check+"/"+test.what, func(t *testing.T) {
			m, wanted := healthy(), target()
			test.spoil(m, &wanted)
			report := Run(t.Context(), m.view(), wanted, Options{})
			got := find(t, report, test.check)
			if got.Level != test.level {
				t.Errorf("level = %s, want %s: %s", got.Level, test.level, got)
			}
			for _, part := range test.says {
				if !strings.Contains(got.Text+" "+got.Fix, part) {
					t.Errorf("%q does not say %q", got, part)
				}
			}
			if strings.Contains(got.String(), "\n") {
				t.Errorf("several lines: %q", got)
			}
			if test.level == Failure && (report.OK || !strings.Contains(fmt.Sprint(report.Err()), got.Text)) {
				t.Errorf("report does not fail: %v", report.Err())
			}
		})
		bad[test.check] = bad[test.check] || test.level != OK
	}
	for _, name := range Names() {
		if !bad[name] {
			t.Errorf("check %s has no test of a bad machine", name)
		}
	}
}
