// Package install makes a machine a member of a cluster and takes it out again.
//
// It checks the machine, obtains certificates, writes configuration and units, starts
// the programs and waits until they are healthy. The same steps run on a virtual
// machine under systemd and in the machines of `kijabi up`; only the service manager
// differs. A step that fails undoes those before it.
package install

import (
	"cmp"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"time"

	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/pki"
)

// Layout says where a member keeps its files.
type Layout struct {
	// ConfigDir holds one configuration file a program, and the administrator's access.
	ConfigDir string
	// StateDir holds certificates and data.
	StateDir string
	// RunDir holds sockets.
	RunDir string
	// ContainerdDir holds images and containers; empty means one in StateDir.
	ContainerdDir string
	// EtcdDir holds a master's database; empty means one in StateDir.
	EtcdDir string
}

// DefaultLayout is the layout of every real machine.
func DefaultLayout() Layout {
	return Layout{ConfigDir: configv1.ConfigDir, StateDir: configv1.StateDir, RunDir: configv1.RunDir}
}

func (l Layout) pki(name string) string { return filepath.Join(l.StateDir, "pki", name) }

// leafDir holds the certificates of this machine's programs.
func (l Layout) leafDir() string { return filepath.Join(l.StateDir, "identity") }

func (l Layout) containerdDir() string {
	return cmp.Or(l.ContainerdDir, filepath.Join(l.StateDir, containerd))
}

func (l Layout) etcdDir() string {
	return cmp.Or(l.EtcdDir, filepath.Join(l.StateDir, apiserver, "etcd"))
}

func (l Layout) leaf(component string) configv1.Identity {
	return configv1.Identity{
		CertFile: filepath.Join(l.leafDir(), component+".crt"),
		KeyFile:  filepath.Join(l.leafDir(), component+".key"),
		CAFile:   l.pki("ca.crt"),
	}
}

// AdminDir is the access of root on a master; see package access.
func (l Layout) AdminDir() string { return filepath.Join(l.ConfigDir, "admin") }

func (l Layout) member() string { return filepath.Join(l.StateDir, "member.json") }

func (l Layout) config(program string) string {
	if program == containerd {
		return filepath.Join(l.ConfigDir, "containerd.toml")
	}
	return filepath.Join(l.ConfigDir, program+".yaml")
}

func (l Layout) containerdSocket() string {
	return filepath.Join(l.RunDir, "containerd", "containerd.sock")
}

func (l Layout) cniConfigDir() string { return filepath.Join(l.StateDir, "cni", "net.d") }

const (
	containerd         = "containerd"
	apiserver          = "apiserver"
	cloudProviderLocal = "cloud-provider-local"
	dns                = "dns"
	networkAgent       = "network-agent"
)

// component is a program of a member.
type component struct {
	// program is the name of binary, unit and configuration file.
	program string
	// identity is the component's name in its certificate; empty when it has none.
	identity pki.Component
	// port of its own service; 0 when it has none.
	port int
	// masterOnly programs run on masters only.
	masterOnly bool
	// after names units started before.
	after []string
	// keepChildren: containers outlive a restart of the program.
	keepChildren bool
	// keepSockets is how many sockets may outlive a restart of the program.
	keepSockets int
	// profile is how systemd confines it.
	profile profile
}

// profile is how a service manager that can confines a program. Our supervisor cannot.
type profile struct {
	// sandboxed programs see only what they need of the machine. What mounts volumes or
	// starts containers must see it as it is.
	sandboxed bool
	// capabilities that a sandboxed program keeps; those that have one talk netlink.
	capabilities []string
	// data: it has a directory of its own in the state directory.
	data bool
	// waitsFor names programs without which it does not start. A node's programs wait
	// for no master, since they work and restart without one.
	waitsFor []string
	// waitsForOthers: whether it gets ready depends on other machines.
	waitsForOthers bool
	// memoryHigh is the use of memory that is out of the ordinary.
	memoryHigh string
	// stopTimeout, if it differs from 10 s.
	stopTimeout time.Duration
}

// components lists the programs of a member in the order they start.
func components(master bool) []component {
	local := []string{apiserver} // of a master's programs that stand and fall with it
	standby := func(memory string) profile { return profile{sandboxed: true, waitsFor: local, memoryHigh: memory} }
	network := func(memory string, more ...string) profile {
		return profile{sandboxed: true, data: true, capabilities: append([]string{"CAP_NET_ADMIN"}, more...), memoryHigh: memory}
	}
	all := []component{
		{program: containerd, keepChildren: true, profile: profile{stopTimeout: 30 * time.Second}},
		{
			program: apiserver, identity: pki.ComponentAPIServer, port: configv1.PortGRPC, masterOnly: true,
			profile: profile{sandboxed: true, data: true, waitsForOthers: true, memoryHigh: "75%", stopTimeout: 20 * time.Second},
		},
		{program: "scheduler", identity: pki.ComponentScheduler, port: configv1.PortScheduler, masterOnly: true, after: local, profile: standby("50%")},
		{program: "controller-manager", identity: pki.ComponentControllerManager, port: configv1.PortControllerManager, masterOnly: true, after: local, profile: standby("50%")},
		{program: cloudProviderLocal, identity: pki.ComponentCloudProvider, port: configv1.PortCloudProvider, masterOnly: true, after: local, profile: standby("256M")},
		{program: "cloud-controller-manager", identity: pki.ComponentCloudControllerManager, port: configv1.PortCloudControllerManager, masterOnly: true, after: []string{apiserver, cloudProviderLocal}, profile: standby("512M")},
		{program: networkAgent, identity: pki.ComponentNetworkAgent, port: configv1.PortNetworkAgent, after: local, profile: network("512M")},
		{program: "kube-proxy", identity: pki.ComponentKubeProxy, port: configv1.PortKubeProxy, after: local, profile: network("1G")},
		{program: dns, identity: pki.ComponentDNS, port: configv1.PortDNS, after: local, keepSockets: 4, profile: network("1G", "CAP_NET_BIND_SERVICE")},
		{
			program: "kubelet", identity: pki.ComponentKubelet, port: configv1.PortKubelet, after: []string{containerd, apiserver}, keepChildren: true,
			profile: profile{waitsFor: []string{containerd}, stopTimeout: 30 * time.Second},
		},
	}
	var wanted []component
	for _, c := range all {
		if master || !c.masterOnly {
			wanted = append(wanted, c)
		}
	}
	return wanted
}

// ports are the TCP ports that a member's programs listen on.
func ports(master bool) []int {
	var all []int
	for _, c := range components(master) {
		if c.port != 0 {
			all = append(all, c.port)
		}
	}
	if master {
		all = append(all, configv1.PortREST, configv1.PortPeer, configv1.PortEtcdPeer)
	}
	return all
}

// Programs lists the files that the bin directory must hold.
func Programs() []string {
	var all []string
	for _, c := range components(true) {
		all = append(all, c.program)
	}
	return append(all, "containerd-shim-runc-v2", "ctr", "runc",
		"cni/bridge", "cni/host-local", "cni/loopback", "cni/portmap", "cni/ptp")
}

// Endpoint is the address of a program's own service, for health checks.
type Endpoint struct {
	// Component is the program's name.
	Component string
	// Address is host:port.
	Address string
	// ServerName that its certificate proves.
	ServerName string
}

// Endpoints returns the services of a member called machine at address.
func Endpoints(master bool, machine, address string) []Endpoint {
	var all []Endpoint
	for _, c := range components(master) {
		if c.port == 0 {
			continue
		}
		all = append(all, Endpoint{
			Component: c.program, Address: hostPort(address, c.port),
			ServerName: pki.ServerName(c.identity, machine),
		})
	}
	return all
}

func hostPort(address string, port int) string { return net.JoinHostPort(address, strconv.Itoa(port)) }

// withPort adds the default port to HOST, or keeps HOST:PORT.
func withPort(address string, port int) (string, error) {
	if address == "" {
		return "", fmt.Errorf("address of a master is missing: give HOST or HOST:%d", port)
	}
	if _, _, err := net.SplitHostPort(address); err == nil {
		return address, nil
	}
	return hostPort(address, port), nil
}

// Units lists the names of a member's units, in the order they start.
func Units(master bool) []string { return unitNames(master) }
