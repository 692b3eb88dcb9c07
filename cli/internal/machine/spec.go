package machine

import "kijabi.dev/cli/internal/machine/kernelfs"

// spec is what a new process 1 is told over its first pipe.
type spec struct {
	// Name becomes the host name.
	Name string `json:"name"`
	// Root is the machine's own root directory; empty means the host's, with Binds and
	// Keep.
	Root string `json:"root,omitempty"`
	// Binds are laid over the host's files, in order.
	Binds []bind `json:"binds"`
	// Keep are directories of the host that stay visible although they are below
	// /tmp or /run.
	Keep []string `json:"keep"`
	// Hierarchies of cgroups to mount.
	Hierarchies []kernelfs.Hierarchy `json:"hierarchies"`
	// CgroupLinks are the host's symbolic links in /sys/fs/cgroup, such as cpu to
	// cpu,cpuacct.
	CgroupLinks map[string]string `json:"cgroupLinks"`
	// ControlSocket is the socket on the host's file system; empty when the machine does
	// not see that.
	ControlSocket string `json:"controlSocket"`
}

// bind lays a file or directory over another.
type bind struct {
	From string `json:"from"`
	To   string `json:"to"`
	// Create makes To, in a file system of the machine's own.
	Create bool `json:"create,omitempty"`
}

// Names of the hidden commands that this package runs itself as.
const (
	// InitCommand becomes process 1 of a machine.
	InitCommand = "machine-init"
	// RunCommand is its second stage.
	RunCommand = "machine-run"
	// EnterCommand runs a program in a machine.
	EnterCommand = "machine-enter"
)

// Descriptors that process 1 inherits.
const (
	specFD   = 3
	resultFD = 4
)

// ready is written to the result pipe when the machine is up; anything else is an error.
const ready = "ready"
