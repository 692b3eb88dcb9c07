package preflight

import (
	"context"
	"strconv"
	"strings"
)

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
)

// need of a role. A machine that is sold with 2 GB shows some less, hence the odd values.
type need struct {
	leastMemory, goodMemory uint64 // bytes
	goodCPUs                int
	leastDisk, goodDisk     uint64 // free bytes
}

func (t Target) need() need {
	if t.Master {
		// etcd may have a quarter of the disk in use, and writes a second copy while it defragments.
		return need{leastMemory: 900 * mib, goodMemory: 1700 * mib, goodCPUs: 2, leastDisk: 2 * gib, goodDisk: 10 * gib}
	}
	return need{leastMemory: 450 * mib, goodMemory: 900 * mib, goodCPUs: 1, leastDisk: 1 * gib, goodDisk: 10 * gib}
}

func cpus(_ context.Context, m *Machine, t Target) Finding {
	lines, err := m.lines("proc/self/status")
	if err != nil {
		return warn("mount /proc", "cannot read which CPUs there are: %v", err)
	}
	n := countList(field(lines, "Cpus_allowed_list"))
	if n < t.need().goodCPUs {
		return warn("give the machine another CPU", "%d CPU: a %s works with it, but elections and pod starts compete with pods", n, t.role())
	}
	return okay("%d", n)
}

// countList counts "0-3,7".
func countList(list string) int {
	n := 0
	for part := range strings.SplitSeq(list, ",") {
		first, last, isRange := strings.Cut(part, "-")
		from, err := strconv.Atoi(first)
		if err != nil {
			continue
		}
		to := from
		if isRange {
			if to, err = strconv.Atoi(last); err != nil {
				continue
			}
		}
		n += to - from + 1
	}
	return n
}

// memoryOf reads a line of /proc/meminfo in bytes.
func memoryOf(lines []string, name string) uint64 {
	fields := strings.Fields(field(lines, name))
	if len(fields) == 0 {
		return 0
	}
	value, _ := strconv.ParseUint(fields[0], 10, 64)
	return value * kib
}

func memory(_ context.Context, m *Machine, t Target) Finding {
	lines, err := m.lines("proc/meminfo")
	if err != nil {
		return fail("mount /proc", "cannot read how much memory there is: %v", err)
	}
	total, available := memoryOf(lines, "MemTotal"), memoryOf(lines, "MemAvailable")
	const fix = "give the machine more memory"
	switch {
	case total < t.need().leastMemory:
		return fail(fix, "%d MiB of memory: a %s's own programs need %d MiB", total/mib, t.role(), t.need().leastMemory/mib)
	case total < t.need().goodMemory:
		return warn(fix, "%d MiB of memory: enough for a %s's own programs, with little left for pods", total/mib, t.role())
	case available < t.need().leastMemory/2:
		return warn("end what uses it", "%d MiB of memory, of which only %d are available", total/mib, available/mib)
	}
	return okay("%d MiB, %d available", total/mib, available/mib)
}

func swap(_ context.Context, m *Machine, _ Target) Finding {
	lines, err := m.lines("proc/swaps")
	if err != nil && !notExist(err) {
		return warn("", "cannot read whether there is swap: %v", err)
	}
	if len(lines) > 1 {
		return warn("`swapoff -a`, and remove it from /etc/fstab",
			"swap is on: pods over their memory limit become slow instead of being restarted, and masters may miss elections while they are swapped in")
	}
	return okay("off")
}
