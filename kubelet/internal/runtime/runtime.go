// Package runtime says what the kubelet needs of a container runtime, in the
// kubelet's own terms. Package cri implements it over a CRI socket; package
// runtimetest holds a fake in memory and the suite that both pass.
package runtime

import (
	"context"
	"errors"
	"io"
	"time"
)

// ErrNotFound is wrapped by errors about a sandbox, container or image that does not exist.
var ErrNotFound = errors.New("not found")

// ErrInUse is wrapped when a name is still taken by another sandbox or container.
var ErrInUse = errors.New("name in use")

// Runtime runs pods. Every method may be called at the same time from any
// goroutine; arguments are not kept and results belong to the caller. Stop and
// remove methods are idempotent: what is gone already is no error.
type Runtime interface {
	Sandboxes
	Containers
	Images
	Streams
	Observer
}

// Sandboxes are pods' shared ground: network, hostname, cgroup.
type Sandboxes interface {
	// RunSandbox creates and starts a sandbox and returns its id once its network works.
	RunSandbox(ctx context.Context, spec SandboxSpec) (string, error)
	// StopSandbox kills what still runs in it and gives its network back.
	StopSandbox(ctx context.Context, id string) error
	// RemoveSandbox removes it with all its containers.
	RemoveSandbox(ctx context.Context, id string) error
	// Sandbox returns one with its addresses.
	Sandbox(ctx context.Context, id string) (Sandbox, error)
	// ListSandboxes returns all, or those of one pod; addresses are not filled in.
	ListSandboxes(ctx context.Context, podUID string) ([]Sandbox, error)
}

// Containers run in sandboxes.
type Containers interface {
	// CreateContainer prepares a container in sandbox id; sandbox is the spec it was run with.
	CreateContainer(ctx context.Context, id string, spec ContainerSpec, sandbox SandboxSpec) (string, error)
	// StartContainer starts a created container; it runs when this returns.
	StartContainer(ctx context.Context, id string) error
	// StopContainer sends the stop signal, waits up to grace, then kills.
	StopContainer(ctx context.Context, id string, grace time.Duration) error
	// RemoveContainer removes it, killing it first when it runs.
	RemoveContainer(ctx context.Context, id string) error
	// Container returns everything known about one.
	Container(ctx context.Context, id string) (Container, error)
	// ListContainers returns all, or those of one pod; times, exit code, reason and log path are not filled in.
	ListContainers(ctx context.Context, podUID string) ([]Container, error)
	// ReopenLog makes the runtime open the log file anew after a rotation.
	ReopenLog(ctx context.Context, id string) error
}

// Images are what containers are made from.
type Images interface {
	// Image returns a local image by name or id, or ErrNotFound.
	Image(ctx context.Context, name string) (Image, error)
	// Pull fetches an image and returns its id. Credentials are tried in order; none means anonymous.
	Pull(ctx context.Context, name string, credentials []Credentials, sandbox SandboxSpec) (string, error)
	// ListImages returns all local images.
	ListImages(ctx context.Context) ([]Image, error)
	// RemoveImage removes all names of an image.
	RemoveImage(ctx context.Context, id string) error
	// ImageFilesystem returns where images lie.
	ImageFilesystem(ctx context.Context) (string, error)
}

// Streams reach into running containers.
type Streams interface {
	// ExecSync runs a command and returns its output and exit code. It fails with
	// context.DeadlineExceeded once timeout, if positive, has passed.
	ExecSync(ctx context.Context, id string, command []string, timeout time.Duration) (output []byte, exitCode int32, err error)
	// Exec runs a command connected to streams and returns its exit code.
	Exec(ctx context.Context, id string, command []string, streams StreamOptions) (int32, error)
	// Attach connects to the main process until it or the streams end.
	Attach(ctx context.Context, id string, streams StreamOptions) error
	// PortForward connects to a TCP port within the sandbox's network.
	PortForward(ctx context.Context, sandboxID string, port uint32, conn io.ReadWriteCloser) error
}

// Observer watches.
type Observer interface {
	// Status says whether the runtime and its network are ready, and its version.
	Status(ctx context.Context) (Status, error)
	// Events calls observe for every change until ctx ends or the stream breaks.
	// Events can be missed while no stream is open: list after opening one.
	Events(ctx context.Context, opened func(), observe func(Event)) error
	// Stats returns the newest figures of all running containers.
	Stats(ctx context.Context) ([]Stats, error)
}

// PodRef names a pod.
type PodRef struct {
	Namespace, Name, UID string
}

// String is namespace/name.
func (p PodRef) String() string { return p.Namespace + "/" + p.Name }

// SandboxSpec describes a sandbox.
type SandboxSpec struct {
	Pod     PodRef
	Attempt uint32 // counts sandboxes of one pod; names them apart
	// Hostname; must be empty with HostNetwork.
	Hostname     string
	LogDirectory string
	DNS          DNS
	Labels       map[string]string
	Annotations  map[string]string
	// CgroupParent is the path below which the pod's cgroups are made.
	CgroupParent string
	Sysctls      map[string]string
	HostPorts    []HostPort
	Security     SandboxSecurity
}

// SandboxSecurity are the privileges of a sandbox.
type SandboxSecurity struct {
	HostNetwork, HostPID, HostIPC bool
	SharePID                      bool // containers share one process namespace
	Privileged                    bool
	RunAsUser, RunAsGroup         *int64
	SupplementalGroups            []int64
	Seccomp                       Seccomp
}

// DNS is what /etc/resolv.conf says.
type DNS struct {
	Servers, Searches, Options []string
}

// HostPort maps a port of the machine to one of the pod.
type HostPort struct {
	Protocol                string // TCP, UDP or SCTP
	ContainerPort, HostPort int32
	HostIP                  string
}

// Seccomp names a profile.
type Seccomp struct {
	// Type is RuntimeDefault, Unconfined or Localhost.
	Type string
	// Localhost is the profile's path with type Localhost.
	Localhost string
}

// ContainerSpec describes a container.
type ContainerSpec struct {
	Pod         PodRef
	Name        string
	Attempt     uint32 // counts instances of one container
	Image       string // as the user wrote it
	ImageID     string // what Image resolved to
	Command     []string
	Args        []string
	WorkingDir  string
	Env         []EnvVar
	Mounts      []Mount
	Devices     []string
	Labels      map[string]string
	Annotations map[string]string
	// LogPath is relative to the sandbox's LogDirectory.
	LogPath               string
	Stdin, StdinOnce, TTY bool
	Resources             Resources
	Security              ContainerSecurity
	StopSignal            string
}

// EnvVar is one environment variable.
type EnvVar struct{ Name, Value string }

// Mount binds a path of the machine into a container.
type Mount struct {
	ContainerPath, HostPath string
	ReadOnly                bool
	// Propagation is None (or empty), HostToContainer or Bidirectional.
	Propagation string
}

// Resources limit a container; zero means no limit.
type Resources struct {
	CPUShares, CPUPeriod, CPUQuota int64
	MemoryLimit                    int64
	OOMScoreAdj                    int64
	Unified                        map[string]string
}

// ContainerSecurity are the privileges of a container.
type ContainerSecurity struct {
	HostNetwork, HostPID, HostIPC bool
	SharePID                      bool
	// TargetID is the container whose processes this one sees; empty for its own only.
	TargetID                   string
	Privileged                 bool
	RunAsUser, RunAsGroup      *int64
	ReadOnlyRootFS             bool
	NoNewPrivileges            bool
	AddCapabilities            []string
	DropCapabilities           []string
	SupplementalGroups         []int64
	Seccomp                    Seccomp
	MaskedPaths, ReadOnlyPaths []string
}

// Sandbox is one that exists.
type Sandbox struct {
	ID          string
	Pod         PodRef
	Attempt     uint32
	Ready       bool
	CreatedAt   time.Time
	IPs         []string
	Labels      map[string]string
	Annotations map[string]string
}

// State of a container.
type State string

// The states.
const (
	Created State = "created"
	Running State = "running"
	Exited  State = "exited"
	Unknown State = "unknown"
)

// Container is one that exists.
type Container struct {
	ID          string
	SandboxID   string
	Pod         PodRef
	Name        string
	Attempt     uint32
	State       State
	CreatedAt   time.Time
	StartedAt   time.Time
	FinishedAt  time.Time
	ExitCode    int32
	Reason      string
	Message     string
	Image       string
	ImageID     string
	LogPath     string
	Labels      map[string]string
	Annotations map[string]string
}

// Image is a local image.
type Image struct {
	ID      string
	Names   []string // tags
	Digests []string
	Size    uint64
	// User the image runs as: a uid, or a name when UID is nil.
	UID    *int64
	User   string
	Pinned bool
}

// Credentials for a registry.
type Credentials struct{ Username, Password, Auth, ServerAddress, IdentityToken string }

// StreamOptions connect a process; nil streams are not connected.
type StreamOptions struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	TTY            bool
	// Resize delivers terminal sizes; may be nil. Closed by the caller.
	Resize <-chan TerminalSize
}

// TerminalSize in characters.
type TerminalSize struct{ Width, Height uint16 }

// Status of the runtime.
type Status struct {
	Name, Version         string
	Ready, NetworkReady   bool
	Reason, NetworkReason string
}

// Event says that something of a pod changed; it is a hint to look, not a fact.
type Event struct {
	Pod         PodRef
	ContainerID string
	SandboxID   string
}

// Stats of one running container, of which there is one instance.
type Stats struct {
	Pod            PodRef
	Container      string
	CPUNanoseconds uint64
	MemoryBytes    uint64 // working set
	Time           time.Time
}

// Labels by which containers of ours are found again; the names that other tools know.
const (
	LabelPodName       = "io.kubernetes.pod.name"
	LabelPodNamespace  = "io.kubernetes.pod.namespace"
	LabelPodUID        = "io.kubernetes.pod.uid"
	LabelContainerName = "io.kubernetes.container.name"
)
