package preflight

import (
	"context"
	"slices"
	"time"
)

func diskSpace(_ context.Context, m *Machine, t Target) Finding {
	space, err := m.Disk.Space(t.StateDir)
	if err != nil {
		return fail("mount a file system there", "cannot read the free space of %s: %v", t.StateDir, err)
	}
	const fewFiles, enoughFiles = 20_000, 100_000 // an image unpacks to thousands
	// The kubelet keeps pods away from a disk with less than 10 % left.
	const pressure = 10 // percent
	fix := "free some, or mount a larger file system at " + t.StateDir
	limited := space.Files > 0
	switch {
	case space.Free < t.need().leastDisk:
		return fail(fix, "%s has %d MiB left: a %s needs %d at the very least", t.StateDir, space.Free/mib, t.role(), t.need().leastDisk/mib)
	case limited && space.FreeFiles < fewFiles:
		return fail(fix, "%s has only %d inodes left: images would not unpack", t.StateDir, space.FreeFiles)
	case space.Free < space.Total/100*pressure:
		return warn(fix, "%s has %d MiB left, which is less than %d %%: the node will report DiskPressure and get no pods", t.StateDir, space.Free/mib, pressure)
	case space.Free < t.need().goodDisk:
		return warn(fix, "%s has %d MiB left: images, logs and data of pods fill that soon", t.StateDir, space.Free/mib)
	case limited && space.FreeFiles < enoughFiles:
		return warn(fix, "%s has %d inodes left: images fill that soon", t.StateDir, space.FreeFiles)
	}
	return okay("%d GiB left for %s", space.Free/gib, t.StateDir)
}

// inMemoryOrLayered are kinds of file systems that overlayfs is not put on; containerd
// copies images there instead.
func inMemoryOrLayered(kind string) bool {
	return slices.Contains([]string{"overlay", "tmpfs", "ramfs"}, kind)
}

func filesystem(_ context.Context, m *Machine, t Target) Finding {
	found, err := m.Disk.Filesystem(t.StateDir)
	if err != nil {
		return fail("mount a file system there", "cannot find the file system of %s: %v", t.StateDir, err)
	}
	if err := m.Disk.Write(t.DataDir); err != nil {
		return fail("mount it writable, or repair it", "writing a file near %s (%s) fails: %v", t.DataDir, found.Kind, err)
	}
	local := "put " + t.StateDir + " on a local disk (ext4, xfs)"
	switch {
	case found.NoExec:
		return fail("mount it without noexec", "%s is mounted noexec: programs of containers cannot be run", t.StateDir)
	case slices.Contains([]string{"nfs", "smb", "cifs", "9p", "ceph", "fuse"}, found.Kind):
		return warn(local, "%s is on a network or user-space file system (%s): the data store may lose what was acknowledged, and containers may not start", t.StateDir, found.Kind)
	case found.Kind == "overlay":
		return warn(local+", or in a container on a volume", "%s is on an overlay: containerd copies every image instead of layering it, which is slow and takes space", t.StateDir)
	case inMemoryOrLayered(found.Kind):
		return warn(local, "%s is in memory (%s): all data is gone after a restart of the machine", t.StateDir, found.Kind)
	}
	return okay("%s, writable", found.Kind)
}

func overlay(_ context.Context, m *Machine, t Target) Finding {
	found, err := m.Disk.Filesystem(t.StateDir)
	if err == nil && inMemoryOrLayered(found.Kind) {
		return okay("not used on %s: containerd copies images there", found.Kind)
	}
	if err := m.Disk.Overlay(t.StateDir); err != nil {
		return fail("`modprobe overlay`, or put "+t.StateDir+" on ext4 or xfs (made with ftype=1)",
			"does not work on the file system of %s (%v): containers are made of its layers", t.StateDir, err)
	}
	return okay("tried on the file system of %s and works", t.StateDir)
}

// Limits of a write that is synced. etcd's hardware guidance asks for a 99th percentile
// below 10 ms; above 20 ms writes are felt, and near 100 ms heartbeats are late. A disk that
// is slow as such shows it in the median too; without that it was busy, with an upload say, and
// only hiccups of syncHung are more than a warning.
const (
	syncWrites = 200
	syncGood   = 10 * time.Millisecond
	syncSlow   = 20 * time.Millisecond
	syncBad    = 100 * time.Millisecond
	syncHung   = time.Second
)

func diskLatency(_ context.Context, m *Machine, t Target) Finding {
	times, err := m.Disk.Sync(t.DataDir, syncWrites)
	if err != nil || len(times) == 0 {
		return fail("repair the disk, or use another", "timing synced writes near %s fails: %v", t.DataDir, err)
	}
	slices.Sort(times)
	// With few writes one hiccup would be the 99th percentile: then the median decides.
	middle, worst := times[len(times)/2], times[(len(times)*99-1)/100]
	if len(times) < syncWrites {
		worst = middle
	}
	const fix = "use an SSD, and no disk that others keep busy"
	figure := func(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }
	switch {
	case t.Master && (worst > syncBad && middle > syncGood || worst > syncHung):
		return fail(fix, "a synced write of 4 KiB takes %s (median %s): masters would change leaders again and again", figure(worst), figure(middle))
	case t.Master && worst > syncSlow:
		return warn(fix, "a synced write of 4 KiB takes up to %s (median %s); etcd wants 10 ms: every write to the cluster waits for it", figure(worst), figure(middle))
	case worst > syncBad:
		return warn(fix, "a synced write of 4 KiB takes up to %s (median %s): pods start slowly", figure(worst), figure(middle))
	}
	return okay("a synced write of 4 KiB takes %s, at worst %s", figure(middle), figure(worst))
}
