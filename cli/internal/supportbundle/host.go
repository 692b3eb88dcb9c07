package supportbundle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kijabi.dev/cli/internal/install"
)

// head reads the beginning of a file.
func head(path string) (content []byte, cut bool, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, false, err
	}
	defer func() { _ = file.Close() }()
	content, err = io.ReadAll(io.LimitReader(file, entryLimit+1))
	if len(content) > entryLimit {
		return content[:entryLimit], true, err
	}
	return content, false, err
}

// system copies what /proc says of the machine as a whole.
func system(context.Context) ([]Entry, error) {
	var entries []Entry
	var errs []error
	for _, path := range []string{
		"/proc/version", "/proc/uptime", "/proc/loadavg", "/proc/meminfo", "/proc/vmstat", "/proc/stat", "/proc/cpuinfo", "/proc/swaps",
		"/proc/diskstats", "/proc/self/mountinfo", "/proc/self/cgroup", "/proc/cgroups", "/proc/filesystems",
		"/proc/pressure/cpu", "/proc/pressure/memory", "/proc/pressure/io",
		"/proc/sys/kernel/pid_max", "/proc/sys/fs/file-nr", "/proc/sys/fs/inotify/max_user_instances", "/proc/sys/fs/inotify/max_user_watches",
		"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/netfilter/nf_conntrack_count", "/proc/sys/net/netfilter/nf_conntrack_max",
	} {
		content, cut, err := head(path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EOPNOTSUPP) {
			continue // this kernel has none
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		name := strings.ReplaceAll(strings.TrimPrefix(path, "/proc/"), "/", "-")
		entries = append(entries, Entry{Path: "system/" + name + ".txt", Content: content, Cut: cut})
	}
	return entries, errors.Join(errs...)
}

// most of what is walked through; then the list is cut.
const most = 5000

// controlGroups lists groups with their processes and memory.
func controlGroups(ctx context.Context) ([]Entry, error) {
	var text strings.Builder
	text.WriteString("GROUP\tPROCESSES\tMEMORY\n")
	seen := 0
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return nil //nolint:nilerr // groups come and go meanwhile
		}
		if ctx.Err() != nil || seen > most {
			return fs.SkipAll
		}
		processes, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if err != nil {
			return nil //nolint:nilerr // not a group
		}
		seen++
		memory := "-"
		for _, file := range []string{"memory.current", "memory.usage_in_bytes"} {
			if content, err := os.ReadFile(filepath.Join(path, file)); err == nil {
				memory = strings.TrimSpace(string(content))
			}
		}
		fmt.Fprintf(&text, "%s\t%d\t%s\n", path, bytes.Count(processes, []byte("\n")), memory)
		return nil
	})
	return []Entry{{Path: "system/cgroups.txt", Content: []byte(text.String()), Cut: seen > most}}, errors.Join(err, ctx.Err())
}

// kernelLog is the kernel's ring buffer, in which it says what it killed and why.
func kernelLog(context.Context) ([]Entry, error) {
	const readAll, size = 3, 256 << 10
	buffer := make([]byte, size)
	n, err := unix.Klogctl(readAll, buffer)
	if err != nil {
		return nil, err
	}
	return []Entry{{Path: "system/kernel.log", Content: buffer[:n], Cut: n == size}}, nil
}

// figure of one of our programs.
type figure struct {
	Program string `json:"program"`
	PID     int    `json:"pid"`
	// CPUSeconds spent so far, in user and kernel mode.
	CPUSeconds float64 `json:"cpuSeconds"`
	// Status is what /proc/PID/status says of memory and threads, in kB.
	Status map[string]string `json:"status"`
	// OpenFiles counts file descriptors.
	OpenFiles int `json:"openFiles"`
}

// programs tells what our programs use. They serve no metrics by themselves yet.
func (o MachineOptions) programs(context.Context) ([]Entry, error) {
	wanted := append(install.Units(true), "containerd-shim-runc-v2")
	all := []figure{}
	paths, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		return nil, err
	}
	for _, link := range paths {
		program, err := os.Readlink(link)
		if err != nil || filepath.Dir(program) != o.Member.BinDir || !slices.Contains(wanted, filepath.Base(program)) {
			continue
		}
		one, parent, err := figureOf(filepath.Dir(link))
		if err != nil || parent == os.Getpid() { // it has ended, or we are asking for its version
			continue
		}
		one.Program = filepath.Base(program)
		all = append(all, one)
	}
	entry, err := JSON("figures.json", all)
	return []Entry{entry}, err
}

// figureOf reads a process's directory in /proc.
func figureOf(dir string) (one figure, parent int, err error) {
	one.Status = map[string]string{}
	if one.PID, err = strconv.Atoi(filepath.Base(dir)); err != nil {
		return one, 0, err
	}
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return one, 0, err
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		if slices.Contains([]string{"VmRSS", "VmHWM", "VmSize", "RssAnon", "Threads"}, name) {
			one.Status[name] = strings.TrimSuffix(strings.TrimSpace(value), " kB")
		}
		if name == "PPid" {
			parent, _ = strconv.Atoi(strings.TrimSpace(value))
		}
	}
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return one, parent, err
	}
	// The second field is a name in brackets that may hold anything; user and system time are 14 and 15.
	if fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])); len(fields) > 12 {
		const ticks = 100 // a second, on every architecture of Linux that Go knows
		user, _ := strconv.ParseFloat(fields[11], 64)
		kernel, _ := strconv.ParseFloat(fields[12], 64)
		one.CPUSeconds = (user + kernel) / ticks
	}
	files, err := os.ReadDir(filepath.Join(dir, "fd"))
	one.OpenFiles = len(files)
	return one, parent, err
}

// usage of a directory.
type usage struct {
	Directory string `json:"directory"`
	Bytes     int64  `json:"bytes"`
	Files     int    `json:"files"`
	// Cut is true when time was over before all of it was seen.
	Cut bool `json:"cut,omitempty"`
}

// space of a file system.
type space struct {
	Directory string `json:"directory"`
	Total     uint64 `json:"totalBytes"`
	Free      uint64 `json:"freeBytes"`
	Files     uint64 `json:"files"`
	FreeFiles uint64 `json:"freeFiles"`
}

// diskUsage measures the file systems of our directories, and what is in each directory.
func (o MachineOptions) diskUsage(ctx context.Context) ([]Entry, error) {
	found := struct {
		Filesystems []space `json:"filesystems"`
		Directories []usage `json:"directories"`
	}{[]space{}, []usage{}}
	var errs []error
	var dirs []string
	for _, dir := range []string{"/", o.Layout.ConfigDir, o.Layout.StateDir, o.LogDir, o.Layout.RunDir} {
		var info unix.Statfs_t
		if err := unix.Statfs(dir, &info); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", dir, err))
			continue
		}
		size := uint64(info.Bsize)
		found.Filesystems = append(found.Filesystems, space{dir, info.Blocks * size, info.Bavail * size, info.Files, info.Ffree})
		if dir != "/" {
			below, _ := filepath.Glob(filepath.Join(dir, "*"))
			dirs = append(dirs, below...)
		}
	}
	for _, dir := range dirs {
		found.Directories = append(found.Directories, measure(ctx, dir))
	}
	entry, err := JSON("disk.json", found)
	return []Entry{entry}, errors.Join(append(errs, err)...)
}

// measure adds up what lies in a directory on the same file system.
func measure(ctx context.Context, dir string) usage {
	total := usage{Directory: dir}
	var top unix.Stat_t
	if unix.Lstat(dir, &top) != nil {
		return total
	}
	_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			total.Cut = true
			return fs.SkipAll
		}
		var info unix.Stat_t
		if err != nil || unix.Lstat(path, &info) != nil {
			return nil //nolint:nilerr // it went away meanwhile
		}
		if info.Dev != top.Dev { // a mount of a pod or container
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		const block = 512
		total.Bytes += info.Blocks * block
		total.Files++
		return nil
	})
	return total
}
