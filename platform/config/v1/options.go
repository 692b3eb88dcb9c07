package v1

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"path/filepath"
)

// OptionsFile is where the options of a machine are looked for by default.
const OptionsFile = ConfigDir + "/options.yaml"

// MemberOptions is what may be decided about a machine before it becomes a member: the
// file of `--options` for `kijabi master init`, `kijabi master join` and `kijabi node
// join`. Every field has a default. It is read then and never again.
type MemberOptions struct {
	TypeMeta `json:",inline"`
	// Name of the machine in the cluster, default its host name.
	Name string `json:"name,omitempty"`
	// AdvertiseAddress is the IP that other machines reach this one at, default that of
	// the default route.
	AdvertiseAddress string `json:"advertiseAddress,omitempty"`
	// Network ranges of a new cluster. `kijabi master init` fixes them; machines that
	// join learn them from the masters, and a join is refused if this file says otherwise.
	Network Network `json:"network,omitzero"`
	// Directories for data.
	Directories Directories `json:"directories,omitzero"`
	// Etcd configures a master's database.
	Etcd EtcdOptions `json:"etcd,omitzero"`
	// Masters configures what masters do about each other and the cluster's programs. A master
	// that joins takes over theirs if it is not said.
	Masters Masters `json:"masters,omitzero"`
	// VIP is the masters' virtual address. `kijabi master init` takes its addresses; masters that join
	// learn them, and a join is refused if this file says others.
	VIP VIP `json:"vip,omitzero"`
	// Node describes the Node that this machine registers as.
	Node NodeOptions `json:"node,omitzero"`
	// DNS configures this machine's DNS server.
	DNS DNSOptions `json:"dns,omitzero"`
}

// Directories says where a machine keeps its data. All are absolute; they must be empty
// or not exist, since `kijabi reset` empties them.
type Directories struct {
	// State holds everything that is not said otherwise, default /var/lib/kijabi.
	State string `json:"state,omitempty"`
	// Containerd holds images and containers, default containerd in the state directory.
	Containerd string `json:"containerd,omitempty"`
	// Etcd holds a master's database, default apiserver/etcd in the state directory.
	Etcd string `json:"etcd,omitempty"`
}

// WithDefaults returns the directories with what is not said filled in.
func (d Directories) WithDefaults() Directories {
	d.State = cmp.Or(d.State, StateDir)
	d.Containerd = cmp.Or(d.Containerd, filepath.Join(d.State, "containerd"))
	d.Etcd = cmp.Or(d.Etcd, filepath.Join(d.State, "apiserver", "etcd"))
	return d
}

// EtcdOptions configures a master's database.
type EtcdOptions struct {
	// QuotaBytes bounds what it has in use, default a quarter of its disk between 256 MiB and 8 GiB;
	// at least 256 MiB. The smallest of the masters counts. A master that joins takes
	// that of the masters if it is not said.
	QuotaBytes int64 `json:"quotaBytes,omitempty"`

	SeparateEtcd `json:",inline"`
}

// NodeOptions describes the Node of a machine.
type NodeOptions struct {
	// Labels it registers with. Those of kubernetes.io and k8s.io say what a machine is,
	// and are set by the cluster, but for topology.kubernetes.io and node.kubernetes.io.
	Labels map[string]string `json:"labels,omitempty"`
	// Taints it registers with.
	Taints []Taint `json:"taints,omitempty"`
	// Schedulable lets a master run pods; without it a master is tainted
	// node-role.kubernetes.io/control-plane:NoSchedule. Nodes always run pods.
	Schedulable bool `json:"schedulable,omitempty"`
}

// DNSOptions configures a machine's DNS server.
type DNSOptions struct {
	// Upstream resolvers, IP or IP:port; none means those of /etc/resolv.conf.
	Upstream []string `json:"upstream,omitempty"`
}

// MinQuotaBytes is the smallest database that a cluster can work with.
const MinQuotaBytes = 256 << 20

// NodeMaskSize is the prefix length of one node's pod range.
const NodeMaskSize = 24

// dnsIndex is the place of the DNS address in the service range, if it is not said.
const dnsIndex = 10

// WithDefaults returns the ranges with what is not said filled in. The DNS address is the
// tenth of the service range.
func (n Network) WithDefaults() Network {
	standard := DefaultNetwork()
	n.PodCIDR = cmp.Or(n.PodCIDR, standard.PodCIDR)
	n.ClusterDomain = cmp.Or(n.ClusterDomain, standard.ClusterDomain)
	n.NodePortFirst = cmp.Or(n.NodePortFirst, standard.NodePortFirst)
	n.NodePortLast = cmp.Or(n.NodePortLast, standard.NodePortLast)
	n.ServiceCIDR = cmp.Or(n.ServiceCIDR, standard.ServiceCIDR)
	if n.DNSAddress == "" {
		if services, err := netip.ParsePrefix(n.ServiceCIDR); err == nil && services.Addr().Is4() {
			n.DNSAddress = nth(services, dnsIndex).String()
		}
	}
	return n
}

// APIAddress is the service address of the API, the first of the service range; invalid
// if the range is.
func (n Network) APIAddress() netip.Addr {
	services, err := netip.ParsePrefix(n.ServiceCIDR)
	if err != nil {
		return netip.Addr{}
	}
	return services.Masked().Addr().Next()
}

// nth is the address of number n in an IPv4 range.
func nth(prefix netip.Prefix, n uint32) netip.Addr {
	base := prefix.Masked().Addr().As4()
	var raw [4]byte
	binary.BigEndian.PutUint32(raw[:], binary.BigEndian.Uint32(base[:])+n)
	return netip.AddrFrom4(raw)
}

// Differences lists the fields in which what is said in n differs from cluster, each as
// "field is X, the cluster's Y".
func (n Network) Differences(cluster Network) []string {
	var found []string
	for _, field := range []struct {
		name        string
		mine, their any
		said        bool
	}{
		{"podCIDR", n.PodCIDR, cluster.PodCIDR, n.PodCIDR != ""},
		{"serviceCIDR", n.ServiceCIDR, cluster.ServiceCIDR, n.ServiceCIDR != ""},
		{"dnsAddress", n.DNSAddress, cluster.DNSAddress, n.DNSAddress != ""},
		{"clusterDomain", n.ClusterDomain, cluster.ClusterDomain, n.ClusterDomain != ""},
		{"nodePortFirst", n.NodePortFirst, cluster.NodePortFirst, n.NodePortFirst != 0},
		{"nodePortLast", n.NodePortLast, cluster.NodePortLast, n.NodePortLast != 0},
	} {
		if field.said && field.mine != field.their {
			found = append(found, fmt.Sprintf("network.%s is %v, the cluster's %v", field.name, field.mine, field.their))
		}
	}
	return found
}
