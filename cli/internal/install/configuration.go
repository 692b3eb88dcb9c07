package install

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"sigs.k8s.io/yaml"

	"kijabi.dev/platform/config"
	configv1 "kijabi.dev/platform/config/v1"
)

// controlPlane marks a master's node, as label and as taint.
const controlPlane = "node-role.kubernetes.io/control-plane"

// settings decide the content of every configuration file.
type settings struct {
	layout    Layout
	name      string
	address   string
	binDir    string
	clusterID string
	network   configv1.Network
	// said are the machine's options.
	said      configv1.MemberOptions
	master    bool
	bootstrap bool
	// masters are host addresses of the other masters.
	masters []string
}

// apiServers are the gRPC doors, the machine's own first.
func (s settings) apiServers() []string {
	var all []string
	if s.master {
		all = append(all, hostPort(s.address, configv1.PortGRPC))
	}
	for _, master := range s.masters {
		if door := hostPort(master, configv1.PortGRPC); !slices.Contains(all, door) {
			all = append(all, door)
		}
	}
	return all
}

func (s settings) common(c component, kind string) configv1.Common {
	return configv1.Common{
		TypeMeta: configv1.TypeMeta{APIVersion: configv1.APIVersion, Kind: kind},
		NodeName: s.name, ListenAddress: hostPort(s.address, c.port), Identity: s.layout.leaf(c.identity),
	}
}

// configuration returns the content of a program's configuration file.
func (s settings) configuration(c component) ([]byte, error) {
	if c.program == containerd {
		return s.containerd()
	}
	value := s.value(c)
	if err := config.Check(value); err != nil {
		return nil, fmt.Errorf("configuration of %s: %w", c.program, err)
	}
	content, err := yaml.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("configuration of %s: %w", c.program, err)
	}
	return append([]byte(heading(c.program)), content...), nil
}

// heading begins a configuration file.
func heading(program string) string {
	return "# Written by kijabi; read at the start of " + program + ".\n"
}

func (s settings) value(c component) any {
	local := hostPort(s.address, configv1.PortGRPC)
	data := filepath.Join(s.layout.StateDir, c.program)
	switch c.program {
	case apiserver:
		return s.apiserver(c, data)
	case "scheduler":
		return &configv1.SchedulerConfiguration{Common: s.common(c, "SchedulerConfiguration"), APIServer: local}
	case "controller-manager":
		return &configv1.ControllerManagerConfiguration{
			Common: s.common(c, "ControllerManagerConfiguration"), APIServer: local,
			Network: s.network, ClusterCAFile: s.layout.pki("ca.crt"),
		}
	case "cloud-controller-manager":
		return &configv1.CloudControllerManagerConfiguration{
			Common: s.common(c, "CloudControllerManagerConfiguration"), APIServer: local,
			Provider: hostPort(s.address, configv1.PortCloudProvider),
		}
	case cloudProviderLocal:
		return &configv1.CloudProviderLocalConfiguration{Common: s.common(c, "CloudProviderLocalConfiguration"), APIServer: local}
	case "kubelet":
		return s.kubelet(c, data)
	case "kube-proxy":
		return &configv1.KubeProxyConfiguration{
			Common: s.common(c, "KubeProxyConfiguration"), APIServers: s.apiServers(),
			NodeIP: s.address, DataDir: data, Network: s.network,
		}
	case "network-agent":
		return &configv1.NetworkAgentConfiguration{
			Common: s.common(c, "NetworkAgentConfiguration"), APIServers: s.apiServers(),
			NodeIP: s.address, DataDir: data, CNIConfigDir: s.layout.cniConfigDir(), Network: s.network,
		}
	default:
		return &configv1.DNSConfiguration{
			Common: s.common(c, "DNSConfiguration"), APIServers: s.apiServers(), DataDir: data, Network: s.network,
			Upstream: s.said.DNS.Upstream,
		}
	}
}

func (s settings) apiserver(c component, data string) any {
	value := &configv1.APIServerConfiguration{
		Common:           s.common(c, "APIServerConfiguration"),
		RESTAddress:      hostPort(s.address, configv1.PortREST),
		PeerAddress:      hostPort(s.address, configv1.PortPeer),
		AdvertiseAddress: s.address, DataDir: data, PKIDir: filepath.Join(s.layout.StateDir, "pki"),
		ClusterID: s.clusterID, Peer: s.peer(), Network: s.network, Bootstrap: s.bootstrap,
		Masters: s.said.Masters, VIP: s.said.VIP,
		Etcd: configv1.Etcd{
			PeerURL: etcdPeerURL(s.said.Etcd, s.address), DataDir: s.layout.EtcdDir,
			QuotaBytes: s.said.Etcd.QuotaBytes, SeparateEtcd: s.said.Etcd.SeparateEtcd,
		},
	}
	for _, master := range s.masters {
		value.Join = append(value.Join, hostPort(master, configv1.PortPeer))
	}
	return value
}

// etcdPeerURL is where a master's embedded etcd member listens; empty if it embeds none.
func etcdPeerURL(said configv1.EtcdOptions, address string) string {
	if said.Separate() {
		return ""
	}
	return "https://" + hostPort(address, configv1.PortEtcdPeer)
}

// peer is the apiserver's identity towards other masters.
func (s settings) peer() configv1.Identity {
	peer := s.layout.leaf("apiserver-peer")
	peer.CAFile = s.layout.pki("peer-ca.crt")
	return peer
}

func (s settings) kubelet(c component, data string) any {
	value := &configv1.KubeletConfiguration{
		Common: s.common(c, "KubeletConfiguration"), APIServers: s.apiServers(), NodeIP: s.address, DataDir: data,
		ContainerRuntimeEndpoint: "unix://" + s.layout.containerdSocket(),
		CNIConfigDir:             s.layout.cniConfigDir(), Network: s.network,
		Labels: map[string]string{"kubernetes.io/hostname": s.name},
	}
	maps.Copy(value.Labels, s.said.Node.Labels)
	value.Taints = slices.Clone(s.said.Node.Taints)
	if s.master && !s.said.Node.Schedulable {
		value.Taints = append(value.Taints, configv1.Taint{Key: controlPlane, Effect: "NoSchedule"})
	}
	return value
}
