package preflight

import (
	"context"
	"io/fs"
	"net/netip"
	"os"
	"time"

	"k8s.io/utils/clock"
)

// Machine is what the checks see of a machine.
type Machine struct {
	// Files is the root directory; what is read are /proc, /sys, /etc and /run.
	Files fs.FS
	// Clock is the machine's.
	Clock clock.Clock
	// Kernel, Network and Disk answer what files do not say.
	Kernel  Kernel
	Network Network
	Disk    Disk
}

// Kernel tries what the kernel can do.
type Kernel interface {
	// Probe uses a feature where nobody sees it, and returns why it does not work.
	Probe(feature Feature) error
	// Synchronised reports whether the clock is kept by a time service.
	Synchronised() (bool, error)
}

// Feature is something of the kernel that a member needs.
type Feature string

// The features that are probed. Overlayfs is Disk's, since it depends on the file system.
const (
	// Namespaces are mount, process, host name, IPC, network and cgroup namespaces.
	Namespaces Feature = "namespaces"
	// NFTables is the packet filter with all that services need.
	NFTables Feature = "nftables"
	// Bridge joins the pods of a machine.
	Bridge Feature = "bridge"
	// Veth connects a pod to the bridge.
	Veth Feature = "veth"
	// VXLAN carries packets of pods between machines that are not on one link.
	VXLAN Feature = "vxlan"
	// Seccomp filters system calls of containers.
	Seccomp Feature = "seccomp"
)

// Route is a route of the machine.
type Route struct {
	// To is where it leads.
	To netip.Prefix
	// Device it leads through.
	Device string
	// Ours is true for those of our own network.
	Ours bool
}

// Chain is a chain of the packet filter that matters to us.
type Chain struct {
	// Table and Name of it.
	Table, Name string
	// DropsForwarded: forwarded packets are dropped unless a rule accepts them.
	DropsForwarded bool
}

// MasterTime is what a master tells about the time before anybody is authenticated.
type MasterTime struct {
	// Date is the master's clock in whole seconds, zero if its REST door did not say.
	Date time.Time
	// Asked and Answered are our own clock before and after.
	Asked, Answered time.Time
}

// Network looks at addresses and at others.
type Network interface {
	// Bind listens on a TCP port for a moment; port 0 is any.
	Bind(address string, port int) error
	// Routes lists the machine's routes.
	Routes() ([]Route, error)
	// Chains lists the chains of the packet filter.
	Chains() ([]Chain, error)
	// Resolve returns the addresses of a name.
	Resolve(ctx context.Context, name string) ([]netip.Addr, error)
	Master
}

// Master asks a master by its gRPC door, host:port.
type Master interface {
	// Greet connects and returns the names in the certificate shown, and its time of validity.
	Greet(ctx context.Context, door string) (Greeting, error)
	// Time asks the REST door of the same machine.
	Time(ctx context.Context, door string) (MasterTime, error)
}

// Greeting is what a server shows of itself in a TLS handshake.
type Greeting struct {
	// Names it claims.
	Names []string
	// NotBefore and NotAfter bound its certificate's life.
	NotBefore, NotAfter time.Time
}

// Space is what a file system has left.
type Space struct {
	// Free and Total bytes; Free is what root gets.
	Free, Total uint64
	// FreeFiles and Files are inodes; Files is 0 where they are not limited.
	FreeFiles, Files uint64
}

// Filesystem describes a file system.
type Filesystem struct {
	// Kind is ext4, xfs, nfs, overlay, tmpfs, … or a number.
	Kind string
	// NoExec: programs in it cannot be run.
	NoExec bool
}

// Disk tries the file system that holds a directory. The directory need not exist: then
// the nearest above it counts. Nothing is left behind.
type Disk interface {
	// Space that is left.
	Space(dir string) (Space, error)
	// Filesystem that holds dir.
	Filesystem(dir string) (Filesystem, error)
	// Write makes a file, locks it, syncs it, renames it, and reads it again.
	Write(dir string) error
	// Overlay mounts an overlay with its upper layer there and writes to it.
	Overlay(dir string) error
	// Sync times writes of 4 KiB with fdatasync.
	Sync(dir string, writes int) ([]time.Duration, error)
}

// quickDisk writes less.
type quickDisk struct{ Disk }

func (d quickDisk) Sync(dir string, writes int) ([]time.Duration, error) {
	const less = 10
	return d.Disk.Sync(dir, writes/less)
}

// Local returns the view of this machine.
func Local() *Machine {
	return &Machine{
		Files: os.DirFS("/"), Clock: clock.RealClock{}, Kernel: localKernel{}, Network: localNetwork{}, Disk: localDisk{},
	}
}
