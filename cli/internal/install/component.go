// Package install makes a machine a member of a cluster and takes it out again.
//
// It checks the machine, obtains certificates, writes configuration and units, starts
// the programs and waits until they are healthy. The same steps run on a virtual
// machine under systemd and in the machines of `kijabi up`; only the service manager
// differs. A step that fails undoes those before it.
package install

import (
	"fmt"
	"net"
	"path/filepath"
	"strconv"

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
}

// DefaultLayout is the layout of every real machine.
func DefaultLayout() Layout {
	return Layout{ConfigDir: configv1.ConfigDir, StateDir: configv1.StateDir, RunDir: configv1.RunDir}
}

func (l Layout) pki(name string) string { return filepath.Join(l.StateDir, "pki", name) }

func (l Layout) leaf(component string) configv1.Identity {
	return configv1.Identity{
		CertFile: filepath.Join(l.StateDir, "identity", component+".crt"),
		KeyFile:  filepath.Join(l.StateDir, "identity", component+".key"),
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
}

// components lists the programs of a member in the order they start.
func components(master bool) []component {
	all := []component{
		{program: containerd, keepChildren: true},
		{program: apiserver, identity: pki.ComponentAPIServer, port: configv1.PortGRPC, masterOnly: true},
		{program: "scheduler", identity: pki.ComponentScheduler, port: configv1.PortScheduler, masterOnly: true, after: []string{apiserver}},
		{program: "controller-manager", identity: pki.ComponentControllerManager, port: configv1.PortControllerManager, masterOnly: true, after: []string{apiserver}},
		{program: cloudProviderLocal, identity: pki.ComponentCloudProvider, port: configv1.PortCloudProvider, masterOnly: true, after: []string{apiserver}},
		{program: "cloud-controller-manager", identity: pki.ComponentCloudControllerManager, port: configv1.PortCloudControllerManager, masterOnly: true, after: []string{apiserver, cloudProviderLocal}},
		{program: "network-agent", identity: pki.ComponentNetworkAgent, port: configv1.PortNetworkAgent, after: []string{apiserver}},
		{program: "kube-proxy", identity: pki.ComponentKubeProxy, port: configv1.PortKubeProxy, after: []string{apiserver}},
		{program: "dns", identity: pki.ComponentDNS, port: configv1.PortDNS, after: []string{apiserver}},
		{program: "kubelet", identity: pki.ComponentKubelet, port: configv1.PortKubelet, after: []string{containerd, apiserver}, keepChildren: true},
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
