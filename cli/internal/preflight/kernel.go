package preflight

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

// lines reads a small file of /proc, /sys or /etc.
func (m *Machine) lines(path string) ([]string, error) {
	content, err := fs.ReadFile(m.Files, path)
	if err != nil {
		return nil, err
	}
	return strings.Split(strings.TrimSpace(string(content)), "\n"), nil
}

// field returns the rest of the line that begins with "name:".
func field(lines []string, name string) string {
	for _, line := range lines {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

// needed are the capabilities that programs of a member use themselves, or give to
// containers by default. Numbers are those of linux/capability.h.
func needed() map[int]string {
	return map[int]string{
		0: "CHOWN", 1: "DAC_OVERRIDE", 3: "FOWNER", 4: "FSETID", 5: "KILL", 6: "SETGID", 7: "SETUID", 8: "SETPCAP",
		10: "NET_BIND_SERVICE", 12: "NET_ADMIN", 13: "NET_RAW", 18: "SYS_CHROOT", 19: "SYS_PTRACE", 21: "SYS_ADMIN",
		27: "MKNOD", 29: "AUDIT_WRITE", 31: "SETFCAP",
	}
}

func privileges(_ context.Context, m *Machine, _ Target) Finding {
	lines, err := m.lines("proc/self/status")
	if err != nil {
		return fail("mount /proc", "cannot read what this process may do: %v", err)
	}
	if uid := strings.Fields(field(lines, "Uid")); len(uid) < 2 || uid[1] != "0" {
		return fail("run this with sudo", "not root: a member's programs make namespaces, mounts and network interfaces")
	}
	mask, err := strconv.ParseUint(field(lines, "CapEff"), 16, 64)
	if err != nil {
		return fail("mount /proc", "cannot read the capabilities of this process: %v", err)
	}
	var missing []string
	for number, name := range needed() {
		if mask&(1<<number) == 0 {
			missing = append(missing, "CAP_"+name)
		}
	}
	slices.Sort(missing)
	const sysResource = 24
	const grant = "give them to this machine, for instance with cap_add in Compose or CapabilityBoundingSet in systemd"
	switch {
	case len(missing) > 0:
		return fail(grant, "root without %s, which our programs or containers need", strings.Join(missing, ", "))
	case mask&(1<<sysResource) == 0:
		return warn(strings.Replace(grant, "them", "it", 1), "root without CAP_SYS_RESOURCE: when memory runs out, the kernel may kill a pod's "+
			"more important containers first, and limits of open files cannot be raised")
	}
	return okay("root with all capabilities that are needed")
}

// The versions decide only what no probe sees. Below 4.18 rules for NAT of nf_tables and
// of iptables exclude each other in one namespace. Below 5.10 no kernel is maintained.
func kernelVersion(_ context.Context, m *Machine, _ Target) Finding {
	lines, err := m.lines("proc/sys/kernel/osrelease")
	if err != nil {
		return fail("mount /proc", "cannot read the kernel's version: %v", err)
	}
	var major, minor int
	if n, _ := fmt.Sscanf(lines[0], "%d.%d", &major, &minor); n != 2 {
		return warn("", "kernel %q has a version that is not understood", lines[0])
	}
	older := func(x, y int) bool { return major < x || major == x && minor < y }
	const update = "update the kernel"
	switch {
	case older(4, 18):
		return fail(update, "kernel %s is older than 4.18: in it nf_tables and iptables cannot both translate addresses", lines[0])
	case older(5, 10):
		return warn(update, "kernel %s is older than 5.10, the oldest that is maintained: expect bugs of cgroup v2, overlayfs and nf_tables that are long fixed", lines[0])
	}
	return okay("%s", lines[0])
}

// features says for each what does not work without it, and what to do.
func features() map[Feature]struct{ use, fix string } {
	const rebuild = "use a distribution's kernel, or one with "
	return map[Feature]struct{ use, fix string }{
		Namespaces: {"containers are made of namespaces", rebuild + "CONFIG_NAMESPACES; in a container, allow them (seccomp, AppArmor)"},
		NFTables: {"services are rules of nf_tables", "load its modules (`modprobe nf_tables nft_chain_nat nft_masq nft_numgen nft_fib_ipv4 nft_reject_ipv4 nft_ct`), or " +
			rebuild + "CONFIG_NF_TABLES, NFT_NAT, NFT_MASQ, NFT_NUMGEN, NFT_FIB_IPV4 and NFT_REJECT"},
		Bridge:  {"a bridge joins the pods of a machine", "`modprobe bridge`, or " + rebuild + "CONFIG_BRIDGE"},
		Veth:    {"each pod has a pair of veth interfaces", "`modprobe veth`, or " + rebuild + "CONFIG_VETH"},
		VXLAN:   {"pods reach those of other machines only if all machines are on one link", "`modprobe vxlan`, or " + rebuild + "CONFIG_VXLAN"},
		Seccomp: {"pods that ask for the seccomp profile RuntimeDefault fail", rebuild + "CONFIG_SECCOMP_FILTER"},
	}
}

// feature probes one.
func feature(wanted Feature) func(context.Context, *Machine, Target) Finding {
	return func(_ context.Context, m *Machine, _ Target) Finding {
		err := m.Kernel.Probe(wanted)
		about := features()[wanted]
		switch {
		case err == nil:
			return okay("tried and works")
		case wanted == VXLAN || wanted == Seccomp:
			return warn(about.fix, "does not work (%v): %s", err, about.use)
		default:
			return fail(about.fix, "does not work (%v): %s", err, about.use)
		}
	}
}

// mount is a line of /proc/self/mountinfo.
type mount struct{ point, options, kind, super string }

func (m *Machine) mounts() ([]mount, error) {
	lines, err := m.lines("proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var all []mount
	for _, line := range lines {
		before, after, ok := strings.Cut(line, " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if ok && len(left) >= 6 && len(right) >= 3 {
			all = append(all, mount{point: left[4], options: left[5], kind: right[0], super: right[2]})
		}
	}
	return all, nil
}

const cgroupRoot = "/sys/fs/cgroup"

func cgroups(_ context.Context, m *Machine, _ Target) Finding {
	mounts, err := m.mounts()
	if err != nil {
		return fail("mount /proc", "cannot read the mounts: %v", err)
	}
	var version1 []string
	unified := ""
	for _, mounted := range mounts {
		if !strings.HasPrefix(mounted.point, cgroupRoot) {
			continue
		}
		switch mounted.kind {
		case "cgroup2":
			unified = mounted.point
		case "cgroup":
			version1 = append(version1, strings.Split(mounted.super, ",")...)
		default:
			continue
		}
		if slices.Contains(strings.Split(mounted.options, ","), "ro") {
			return fail("mount it writable; in Docker unshare a cgroup namespace and mount it anew", "%s is mounted read-only: containers need cgroups of their own", mounted.point)
		}
	}
	if unified == cgroupRoot {
		return m.controllers(unified)
	}
	if len(version1) == 0 {
		return fail("mount cgroup2 at "+cgroupRoot, "no cgroups are mounted at %s: containers cannot be limited nor ended", cgroupRoot)
	}
	kind := "v1"
	if unified != "" {
		kind = "v1 (hybrid)"
	}
	if missing := without(version1, "cpu", "memory", "pids", "devices", "freezer"); len(missing) > 0 {
		return fail("enable them in the kernel's command line, for instance cgroup_enable=memory",
			"cgroup %s without controllers %s: containers do not start", kind, strings.Join(missing, ", "))
	}
	note := ""
	if missing := without(version1, "cpuset"); len(missing) > 0 {
		note = ", and without controller cpuset"
	}
	return warn("boot with systemd.unified_cgroup_hierarchy=1", "cgroup %s%s: works, but the kernel gives it up; limits of memory are less exact", kind, note)
}

// controllers judges cgroup v2.
func (m *Machine) controllers(unified string) Finding {
	lines, err := m.lines(strings.TrimPrefix(unified, "/") + "/cgroup.controllers")
	if err != nil {
		return fail("mount cgroup2 at "+cgroupRoot, "cannot read the controllers of cgroup v2: %v", err)
	}
	have := strings.Fields(strings.Join(lines, " "))
	if missing := without(have, "cpu", "memory", "pids"); len(missing) > 0 {
		return fail("hand them down in cgroup.subtree_control of the group above, or enable them in the kernel's command line",
			"cgroup v2 without controllers %s: containers cannot be limited", strings.Join(missing, ", "))
	}
	if missing := without(have, "cpuset"); len(missing) > 0 {
		return warn("enable it in the kernel", "cgroup v2 without controller cpuset: containers cannot be tied to CPUs")
	}
	return okay("v2 with %s", strings.Join(have, ", "))
}

// without returns those wanted that are not there.
func without(have []string, wanted ...string) []string {
	var missing []string
	for _, name := range wanted {
		if !slices.Contains(have, name) {
			missing = append(missing, name)
		}
	}
	return missing
}

func membership(_ context.Context, _ *Machine, t Target) Finding {
	if t.Member != "" {
		return fail("run `kijabi reset` first", "this machine is already %s", t.Member)
	}
	if t.Unfinished != "" {
		return fail("run `kijabi reset` first", "%s is left of an installation that did not finish", t.Unfinished)
	}
	return okay("a member of no cluster")
}

// notExist reports a file that is not there, or whose directory is none.
func notExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
