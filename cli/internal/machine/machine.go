// Package machine makes machines out of Linux namespaces.
//
// A machine is a process tree with its own mount, process, host name, IPC, cgroup and
// network namespace. It sees the host's files, has its own /etc/kijabi, /var/lib/kijabi
// and /var/log/kijabi, which outlive it like a disk, and fresh /run, /tmp, /proc, /sys
// and cgroups. In a fleet with own roots it sees nothing of the host: its whole file
// system is a directory that begins almost empty. Its process 1 is this program again, as a supervisor of the programs
// that unit files name. A bridge in a network namespace of its own joins the machines
// of one fleet and the host.
package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	configv1 "kijabi.dev/platform/config/v1"
)

// Role of a machine in its cluster.
type Role string

const (
	// Master machines run the control plane.
	Master Role = "master"
	// Node machines run pods only.
	Node Role = "node"
)

// Machine is one machine of a fleet.
type Machine struct {
	// Name is the host name, such as "master-1".
	Name string `json:"name"`
	// Role it was made for.
	Role Role `json:"role"`
	// Address on the fleet's bridge.
	Address netip.Addr `json:"address"`
}

// State of a fleet, kept in <dir>/state.json.
type State struct {
	// Name of the fleet.
	Name string `json:"name"`
	// Subnet of the bridge; the host has its first address.
	Subnet netip.Prefix `json:"subnet"`
	// BinDir holds the programs that run in the machines.
	BinDir string `json:"binDir"`
	// OwnRoots gives every machine a file system of its own, without anything of the
	// host's. Such machines are members of nothing until somebody installs them.
	OwnRoots bool `json:"ownRoots,omitempty"`
	// Machines in the order they were made.
	Machines []Machine `json:"machines"`
}

// DefaultRoot is where fleets are kept when $KIJABI_STATE is not set. It must be on a
// real file system, since machines keep overlayfs layers in it.
const DefaultRoot = "/var/lib/kijabi-up"

// Root returns the directory of all fleets.
func Root() string {
	if dir := os.Getenv("KIJABI_STATE"); dir != "" {
		return dir
	}
	return DefaultRoot
}

// ErrNotFound is returned for a fleet or machine that does not exist.
var ErrNotFound = errors.New("does not exist")

// Fleet is the set of machines of one `kijabi up`. Methods may be called by several
// goroutines for different machines; changes of the set itself need the lock.
type Fleet struct {
	// Dir holds everything of the fleet.
	Dir string
	// State as last loaded or saved.
	State State
	// Program is the kijabi binary that becomes process 1 and enters machines.
	Program string
}

// Open loads the fleet called name below root. It returns ErrNotFound when there is none.
func Open(root, name string) (*Fleet, error) {
	fleet, err := New(root, State{Name: name})
	if err != nil {
		return nil, err
	}
	content, err := os.ReadFile(fleet.statePath())
	if os.IsNotExist(err) {
		return nil, fmt.Errorf("cluster %q in %s %w: start it with `kijabi up --name %s`", name, root, ErrNotFound, name)
	}
	if err != nil {
		return nil, fmt.Errorf("state of cluster %q: %w", name, err)
	}
	if err := json.Unmarshal(content, &fleet.State); err != nil {
		return nil, fmt.Errorf("state of cluster %q in %s: %w", name, fleet.statePath(), err)
	}
	return fleet, nil
}

// New returns a fleet that Save creates on disk.
func New(root string, state State) (*Fleet, error) {
	if err := checkName(state.Name); err != nil {
		return nil, err
	}
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("path of this program: %w", err)
	}
	return &Fleet{Dir: filepath.Join(root, state.Name), State: state, Program: program}, nil
}

// checkName refuses names that are no plain directory and cgroup name.
func checkName(name string) error {
	if name == "" || len(name) > 32 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return fmt.Errorf("cluster name %q: use up to 32 small letters, digits and dashes", name)
	}
	return nil
}

func (f *Fleet) statePath() string { return filepath.Join(f.Dir, "state.json") }

// Save writes the state.
func (f *Fleet) Save() error {
	if err := os.MkdirAll(f.Dir, 0o755); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	content, err := json.MarshalIndent(f.State, "", "  ")
	if err != nil {
		return err
	}
	temporary := f.statePath() + ".new"
	if err := os.WriteFile(temporary, append(content, '\n'), 0o644); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	return os.Rename(temporary, f.statePath())
}

// Lock keeps other processes from changing the fleet called name until the returned
// function is called. Directories that are empty by then are removed.
func Lock(root, name string) (func(), error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	path := filepath.Join(root, name)
	for {
		if err := os.MkdirAll(path, 0o755); err != nil {
			return nil, fmt.Errorf("state directory: %w", err)
		}
		dir, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("state directory: %w", err)
		}
		if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			_ = dir.Close()
			return nil, fmt.Errorf("cluster %q is being changed by another `kijabi` command: wait for it and try again", name)
		}
		held, heldErr := dir.Stat()
		now, nowErr := os.Stat(path)
		if heldErr == nil && nowErr == nil && os.SameFile(held, now) {
			return func() {
				_ = os.Remove(path)
				_ = os.Remove(root)
				_ = dir.Close()
			}, nil
		}
		_ = dir.Close() // removed by the last holder just now
	}
}

// Machine returns the machine called name.
func (f *Fleet) Machine(name string) (Machine, error) {
	i := slices.IndexFunc(f.State.Machines, func(m Machine) bool { return m.Name == name })
	if i < 0 {
		names := make([]string, 0, len(f.State.Machines))
		for _, m := range f.State.Machines {
			names = append(names, m.Name)
		}
		return Machine{}, fmt.Errorf("machine %q %w in cluster %q: it has %s",
			name, ErrNotFound, f.State.Name, strings.Join(names, ", "))
	}
	return f.State.Machines[i], nil
}

// MachineDir holds one machine's files.
func (f *Fleet) MachineDir(name string) string { return filepath.Join(f.Dir, "machines", name) }

// ConfigDir is the machine's /etc/kijabi as the host sees it.
func (f *Fleet) ConfigDir(name string) string { return f.disk(name, "etc", configv1.ConfigDir) }

// StateDir is the machine's /var/lib/kijabi as the host sees it.
func (f *Fleet) StateDir(name string) string { return f.disk(name, "lib", configv1.StateDir) }

// LogDir is the machine's /var/log/kijabi as the host sees it.
func (f *Fleet) LogDir(name string) string { return f.disk(name, "log", configv1.LogDir) }

func (f *Fleet) disk(name, own, path string) string {
	if f.State.OwnRoots {
		return f.inRoot(name, path)
	}
	return filepath.Join(f.MachineDir(name), own)
}

// Socket is the machine's control socket as the host sees it. It moves when a machine
// with an own root is started again.
func (f *Fleet) Socket(name string) string {
	if f.State.OwnRoots {
		return filepath.Join("/proc", strconv.Itoa(f.PID(name)), "root", configv1.RunDir, "init.sock")
	}
	return filepath.Join(f.MachineDir(name), "control", "init.sock")
}

func (f *Fleet) networkPath() string { return filepath.Join(f.Dir, "net") }

// HostAddress is the host's address on the bridge.
func (f *Fleet) HostAddress() netip.Addr { return f.State.Subnet.Masked().Addr().Next() }
