// Package preflight finds out whether a machine can become a member of a cluster, before
// anything is done to it.
//
// A check is a function of a Machine, which is a narrow view of the real one, and of a
// Target, which says what the machine shall become. It answers in plain words with the
// fix. All checks run at once, each with a deadline of its own: a disk or a network that
// hangs becomes a finding and does not hang the rest.
package preflight

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	configv1 "kijabi.dev/platform/config/v1"
)

// Level says how bad a finding is.
type Level string

// The levels of findings.
const (
	// OK is as it should be.
	OK Level = "ok"
	// Warning works, with a consequence that the finding names.
	Warning Level = "warning"
	// Failure keeps the machine from becoming a member.
	Failure Level = "failure"
)

// Finding is what a check has found.
type Finding struct {
	// Check is the name of the check, as --ignore-preflight takes it.
	Check string `json:"check"`
	// Level of it.
	Level Level `json:"level"`
	// Text says what was found and what follows from it.
	Text string `json:"text"`
	// Fix says what to do; empty when nothing needs to be done.
	Fix string `json:"fix,omitempty"`
	// Ignored is true for a failure that was asked to be ignored.
	Ignored bool `json:"ignored,omitempty"`
}

// String is the finding in one line.
func (f Finding) String() string {
	line := f.Check + ": " + f.Text
	if f.Fix != "" {
		line += ": " + f.Fix
	}
	return line
}

// Target is what the machine shall become.
type Target struct {
	// Master is true for a master, which is a node as well.
	Master bool
	// Name of the machine in the cluster. Required.
	Name string
	// Address that others reach it at. Required.
	Address string
	// StateDir holds its data, DataDir within it that of the data store. Required; they need not exist.
	StateDir, DataDir string
	// Ports are the TCP ports that its programs listen on.
	Ports []int
	// Network holds the cluster's address ranges. Required.
	Network configv1.Network
	// Join is the gRPC door (host:port) of a master to join through; empty if there is none.
	Join string
	// Member says what the machine is a member of already; empty if of nothing. What its
	// own programs occupy is then no finding.
	Member string
	// Unfinished names a file that an installation left which did not finish; empty if there is none.
	Unfinished string
}

func (t Target) role() string {
	if t.Master {
		return "master"
	}
	return "node"
}

// ranges are the cluster's address ranges by what they are for.
func (t Target) ranges() map[string]netip.Prefix {
	found := map[string]netip.Prefix{}
	for name, text := range map[string]string{"pods": t.Network.PodCIDR, "services": t.Network.ServiceCIDR} {
		if prefix, err := netip.ParsePrefix(text); err == nil {
			found[name] = prefix
		}
	}
	return found
}

// check is one question to the machine.
type check struct {
	name string
	// canFail is false when the worst answer is a warning.
	canFail bool
	// limit bounds the time of run; 0 means defaultLimit.
	limit time.Duration
	// hangs says what it means when the limit is reached, and fix what to do then.
	hangs, fix string
	run        func(ctx context.Context, m *Machine, t Target) Finding
}

const (
	defaultLimit = 5 * time.Second
	diskLimit    = 15 * time.Second
)

// checks lists every check in the order they are reported.
func checks() []check {
	const diskHangs, diskFix = "the disk does not answer", "look for a failing or overloaded disk, or a network file system that is gone"
	return []check{
		{name: "privileges", canFail: true, run: privileges},
		{name: "membership", canFail: true, run: membership},
		{name: "kernel", canFail: true, run: kernelVersion},
		{name: "namespaces", canFail: true, run: feature(Namespaces)},
		{name: "overlayfs", canFail: true, limit: diskLimit, hangs: diskHangs, fix: diskFix, run: overlay},
		{name: "nftables", canFail: true, run: feature(NFTables)},
		{name: "bridge", canFail: true, run: feature(Bridge)},
		{name: "veth", canFail: true, run: feature(Veth)},
		{name: "vxlan", run: feature(VXLAN)},
		{name: "seccomp", run: feature(Seccomp)},
		{name: "cgroups", canFail: true, run: cgroups},
		{name: "cpus", run: cpus},
		{name: "memory", canFail: true, run: memory},
		{name: "swap", run: swap},
		{name: "address", canFail: true, run: address},
		{name: "address-scope", canFail: true, run: addressScope},
		{name: "ports", canFail: true, run: ports},
		{name: "ranges", canFail: true, run: ranges},
		{name: "firewall", run: firewall},
		{name: "hostname", canFail: true, run: hostname},
		{name: "names", run: names, hangs: "the resolver does not answer", fix: "give this machine's name an address in /etc/hosts"},
		{name: "resolver", run: resolver},
		{name: "clock", canFail: true, run: clockKept},
		{name: "master", canFail: true, run: master},
		{name: "master-clock", canFail: true, run: masterClock},
		{name: "leftovers", canFail: true, run: leftovers},
		{name: "filesystem", canFail: true, limit: diskLimit, hangs: diskHangs, fix: diskFix, run: filesystem},
		{name: "disk-space", canFail: true, limit: diskLimit, hangs: diskHangs, fix: diskFix, run: diskSpace},
		{name: "disk-latency", canFail: true, limit: diskLimit, hangs: diskHangs, fix: diskFix, run: diskLatency},
	}
}

// ofPrograms names the checks that try what our programs do, with the rights and the file
// systems of this process.
func ofPrograms() []string {
	return []string{"privileges", "namespaces", "overlayfs", "nftables", "bridge", "veth", "vxlan", "seccomp", "cgroups"}
}

// Names lists the checks.
func Names() []string {
	var names []string
	for _, c := range checks() {
		names = append(names, c.name)
	}
	return names
}

// Options of Run.
type Options struct {
	// Ignore names checks whose failures do not count; "all" ignores every one.
	Ignore []string
	// ProgramsElsewhere leaves out what this process would have to be allowed in the place of
	// programs that run elsewhere, with rights of their own.
	ProgramsElsewhere bool
	// Quick asks only what can keep the machine from becoming a member, and writes less to the disk.
	Quick bool
	// Limit replaces the time that each check has. 0 means its own.
	Limit time.Duration
}

const ignoreAll = "all"

// CheckIgnore reports names that no check has.
func CheckIgnore(names []string) error {
	for _, name := range names {
		if name != ignoreAll && !slices.Contains(Names(), name) {
			return fmt.Errorf("there is no preflight check %q: name some of %s, or all", name, strings.Join(Names(), ", "))
		}
	}
	return nil
}

// Report is what all checks have found.
type Report struct {
	// Role is master or node.
	Role string `json:"role"`
	// Name and Address are what the machine was checked for.
	Name    string `json:"name"`
	Address string `json:"address"`
	// OK is true when nothing fails that was not ignored.
	OK bool `json:"ok"`
	// Findings in the order of the checks.
	Findings []Finding `json:"findings"`
}

// Count returns how many findings are of a level. Ignored failures count as warnings.
func (r *Report) Count(level Level) int {
	n := 0
	for _, f := range r.Findings {
		if f.Ignored && level == Warning || !f.Ignored && f.Level == level {
			n++
		}
	}
	return n
}

// Err says in one line what keeps the machine from becoming a member; nil if nothing does.
func (r *Report) Err() error {
	var lines, names []string
	for _, f := range r.Findings {
		if f.Level == Failure && !f.Ignored {
			lines, names = append(lines, f.String()), append(names, f.Check)
		}
	}
	if len(lines) == 0 {
		return nil
	}
	return fmt.Errorf("this machine cannot become a %s yet: %s (if you know better: --ignore-preflight %s)",
		r.Role, strings.Join(lines, "; "), strings.Join(names, ","))
}

// Run asks the machine everything.
func Run(ctx context.Context, m *Machine, t Target, o Options) *Report {
	if o.Quick {
		quick := *m
		quick.Disk = quickDisk{m.Disk}
		m = &quick
	}
	var asked []check
	for _, c := range checks() {
		if (c.canFail || !o.Quick) && !(o.ProgramsElsewhere && slices.Contains(ofPrograms(), c.name)) {
			asked = append(asked, c)
		}
	}
	answers := make([]chan Finding, len(asked))
	for i, c := range asked {
		answers[i] = make(chan Finding, 1) // an answer that comes too late must not block
		if o.Limit > 0 {
			asked[i].limit = o.Limit
		}
		//nolint:forbidigo // bounded by the check's limit; what hangs in the kernel cannot be ended
		go func() { answers[i] <- c.run(ctx, m, t) }()
	}
	report := &Report{Role: t.role(), Name: t.Name, Address: t.Address, OK: true}
	began := m.Clock.Now()
	for i, c := range asked {
		found := c.await(m, began, answers[i])
		found.Check = c.name
		if found.Level == Failure {
			found.Ignored = slices.Contains(o.Ignore, c.name) || slices.Contains(o.Ignore, ignoreAll)
			report.OK = report.OK && found.Ignored
		}
		report.Findings = append(report.Findings, found)
	}
	return report
}

// await returns the check's answer, or says that it hangs.
func (c check) await(m *Machine, began time.Time, answer <-chan Finding) Finding {
	limit := c.limit
	if limit == 0 {
		limit = defaultLimit
	}
	rest := began.Add(limit).Sub(m.Clock.Now())
	timer := m.Clock.NewTimer(rest)
	defer timer.Stop()
	select {
	case found := <-answer:
		return found
	case <-timer.C():
	}
	select { // both may have been ready
	case found := <-answer:
		return found
	default:
	}
	level := Warning
	if c.canFail {
		level = Failure
	}
	hangs, fix := c.hangs, c.fix
	if hangs == "" {
		hangs, fix = "the kernel does not answer", "look at the end of dmesg"
	}
	return Finding{Level: level, Text: fmt.Sprintf("no result within %s: %s", limit, hangs), Fix: fix}
}

func okay(format string, args ...any) Finding {
	return Finding{Level: OK, Text: fmt.Sprintf(format, args...)}
}

func warn(fix, format string, args ...any) Finding {
	return Finding{Level: Warning, Text: fmt.Sprintf(format, args...), Fix: fix}
}

func fail(fix, format string, args ...any) Finding {
	return Finding{Level: Failure, Text: fmt.Sprintf(format, args...), Fix: fix}
}
