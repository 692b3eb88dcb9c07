// Package node keeps this machine's Node object true and its connection to the
// masters open: registration, conditions, heartbeat, and the tunnel through which
// masters call back.
package node

import (
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	kubeletv1pb "kijabi.dev/proto/gen/kijabi/kubelet/v1"
)

// Reserved for the machine itself and left out of allocatable.
const (
	reservedMemory = 100 << 20 // bytes; also the threshold of MemoryPressure
	diskReserve    = 10        // percent; also the threshold of DiskPressure
)

// Facts are what a machine is.
type Facts struct {
	CPUs        int
	MemoryBytes int64
	DiskBytes   int64
	Info        corev1.NodeSystemInfo
}

// ReadFacts reads them; dataDir says which disk is meant.
func ReadFacts(dataDir string) (Facts, error) {
	facts := Facts{CPUs: goruntime.NumCPU()}
	memory, err := memoryInfo()
	if err != nil {
		return facts, err
	}
	facts.MemoryBytes = memory["MemTotal"]
	var filesystem unix.Statfs_t
	if err := unix.Statfs(dataDir, &filesystem); err != nil {
		return facts, fmt.Errorf("file system of %s: %w", dataDir, err)
	}
	facts.DiskBytes = int64(filesystem.Blocks) * filesystem.Bsize
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return facts, fmt.Errorf("uname: %w", err)
	}
	facts.Info = corev1.NodeSystemInfo{
		MachineID:     firstLine("/etc/machine-id", "/var/lib/dbus/machine-id"),
		SystemUUID:    firstLine("/sys/class/dmi/id/product_uuid", "/etc/machine-id"),
		BootID:        firstLine("/proc/sys/kernel/random/boot_id"),
		KernelVersion: unix.ByteSliceToString(name.Release[:]), OSImage: osImage(),
		OperatingSystem: goruntime.GOOS, Architecture: goruntime.GOARCH,
	}
	return facts, nil
}

// Capacity of the machine.
func (f Facts) Capacity(maxPods int64) corev1.ResourceList {
	return corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewQuantity(int64(f.CPUs), resource.DecimalSI),
		corev1.ResourceMemory:           *resource.NewQuantity(f.MemoryBytes, resource.BinarySI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(f.DiskBytes, resource.BinarySI),
		corev1.ResourcePods:             *resource.NewQuantity(maxPods, resource.DecimalSI),
	}
}

// Allocatable is what pods may have of it.
func (f Facts) Allocatable(maxPods int64) corev1.ResourceList {
	list := f.Capacity(maxPods)
	list[corev1.ResourceMemory] = *resource.NewQuantity(max(f.MemoryBytes-reservedMemory, 0), resource.BinarySI)
	list[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(f.DiskBytes/100*(100-diskReserve), resource.BinarySI)
	return list
}

// memoryInfo reads /proc/meminfo, in bytes.
func memoryInfo() (map[string]int64, error) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return nil, fmt.Errorf("memory: %w", err)
	}
	result := map[string]int64{}
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		value, err := strconv.ParseInt(fields[1], 10, 64)
		if err == nil {
			result[strings.TrimSuffix(fields[0], ":")] = value << 10
		}
	}
	if result["MemTotal"] == 0 {
		return nil, fmt.Errorf("memory: /proc/meminfo does not say MemTotal")
	}
	return result, nil
}

// Use returns the machine's own figures.
func Use() (*kubeletv1pb.ResourceUse, error) {
	memory, err := memoryInfo()
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return nil, fmt.Errorf("cpu time: %w", err)
	}
	line, _, _ := strings.Cut(string(data), "\n")
	var ticks uint64
	for i, field := range strings.Fields(line) {
		// user nice system idle iowait irq softirq steal; guests are counted in user.
		if i == 0 || i == 4 || i == 5 || i > 8 {
			continue
		}
		value, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("cpu time: %w", err)
		}
		ticks += value
	}
	const ticksPerSecond = 100 // fixed by the kernel's interface
	return &kubeletv1pb.ResourceUse{
		CpuNanoseconds: ticks * uint64(time.Second/ticksPerSecond),
		MemoryBytes:    uint64(memory["MemTotal"] - memory["MemAvailable"]),
		Time:           timestamppb.Now(),
	}, nil
}

// BootTime is when the machine started; the zero time if the kernel does not say.
func BootTime() time.Time {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return time.Time{}
	}
	for line := range strings.Lines(string(data)) {
		if text, ok := strings.CutPrefix(line, "btime "); ok {
			if seconds, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64); err == nil {
				return time.Unix(seconds, 0)
			}
		}
	}
	return time.Time{}
}

func firstLine(paths ...string) string {
	for _, path := range paths {
		if data, err := os.ReadFile(path); err == nil {
			line, _, _ := strings.Cut(string(data), "\n")
			return strings.TrimSpace(line)
		}
	}
	return ""
}

func osImage() string {
	data, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "Linux"
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			return strings.Trim(value, `"'`)
		}
	}
	return "Linux"
}

// hasNetworkConfig says whether a CNI configuration is there.
func hasNetworkConfig(directory string) bool {
	for _, pattern := range []string{"*.conflist", "*.conf", "*.json"} {
		if found, err := filepath.Glob(filepath.Join(directory, pattern)); err == nil && len(found) > 0 {
			return true
		}
	}
	return false
}

// processes returns how many processes there are and how many there may be.
func processes() (current, limit int64) {
	_, loads, _ := strings.Cut(firstLine("/proc/loadavg"), "/")
	total, _, _ := strings.Cut(loads, " ")
	current, _ = strconv.ParseInt(total, 10, 64)
	limit, _ = strconv.ParseInt(firstLine("/proc/sys/kernel/pid_max"), 10, 64)
	return current, limit
}
