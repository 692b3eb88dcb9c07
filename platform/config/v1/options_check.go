package v1

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// faults gathers what is wrong, so that all of it is told at once.
type faults []string

func (f *faults) add(field, format string, args ...any) {
	*f = append(*f, field+": "+fmt.Sprintf(format, args...))
}

// err is all faults in one line, nil if there are none.
func (f faults) err() error {
	if len(f) == 0 {
		return nil
	}
	return errors.New(strings.Join(f, "; "))
}

// Validate tells every fault of the options on one line, each with its field.
func (o *MemberOptions) Validate() error {
	var f faults
	if o.AdvertiseAddress != "" {
		if _, err := netip.ParseAddr(o.AdvertiseAddress); err != nil {
			f.add("advertiseAddress", "%q is no IP address", o.AdvertiseAddress)
		}
	}
	o.Network.check(&f)
	o.Directories.check(&f)
	if q := o.Etcd.QuotaBytes; q != 0 && q < MinQuotaBytes {
		f.add("etcd.quotaBytes", "%d is too small: give at least %d (256 MiB), or leave it out for a quarter of the disk", q, MinQuotaBytes)
	}
	o.checkSeparateEtcd(&f)
	o.Node.check(&f)
	for i, text := range o.DNS.Upstream {
		if _, err := netip.ParseAddr(text); err == nil {
			continue
		}
		if _, err := netip.ParseAddrPort(text); err != nil {
			f.add(fmt.Sprintf("dns.upstream[%d]", i), "%q is neither an IP nor IP:port", text)
		}
	}
	o.Masters.check(&f)
	o.VIP.check(&f, o.Network.WithDefaults())
	return f.err()
}

func (o *MemberOptions) checkSeparateEtcd(f *faults) {
	o.Etcd.check(f)
	if !o.Etcd.Separate() {
		return
	}
	if o.Etcd.QuotaBytes != 0 {
		f.add("etcd.quotaBytes", "a separate etcd (etcd.endpoints) is bounded by its own --quota-backend-bytes: leave it out")
	}
	if o.Directories.Etcd != "" {
		f.add("directories.etcd", "a separate etcd (etcd.endpoints) has its own directory: leave it out")
	}
}

// Limits of ranges: a pod range holds at least one node's, a service range at least 16
// addresses, of which the first and the DNS address are taken.
const (
	minServiceBits = 8
	maxServiceBits = 28
	minNodePorts   = 10
)

func (n Network) check(f *faults) {
	n = n.WithDefaults()
	pods, podsOK := n.checkRange(f, "network.podCIDR", n.PodCIDR)
	services, servicesOK := n.checkRange(f, "network.serviceCIDR", n.ServiceCIDR)
	if podsOK && pods.Bits() > NodeMaskSize {
		f.add("network.podCIDR", "%s is too small: every node takes a /%d of it", n.PodCIDR, NodeMaskSize)
	}
	if servicesOK && (services.Bits() < minServiceBits || services.Bits() > maxServiceBits) {
		f.add("network.serviceCIDR", "%s must be between /%d and /%d", n.ServiceCIDR, minServiceBits, maxServiceBits)
	}
	if podsOK && servicesOK && pods.Overlaps(services) {
		f.add("network.serviceCIDR", "%s overlaps network.podCIDR %s: pods and services need ranges of their own", n.ServiceCIDR, n.PodCIDR)
	}
	address, err := netip.ParseAddr(n.DNSAddress)
	switch {
	case !servicesOK && n.DNSAddress == "":
	case err != nil:
		f.add("network.dnsAddress", "%q is no IP address", n.DNSAddress)
	case !servicesOK:
	case !services.Contains(address):
		f.add("network.dnsAddress", "%s is not in network.serviceCIDR %s", n.DNSAddress, n.ServiceCIDR)
	case address == services.Addr() || address == n.APIAddress():
		f.add("network.dnsAddress", "%s is taken: the first addresses of network.serviceCIDR are the range itself and the API", n.DNSAddress)
	}
	if !domainPattern().MatchString(n.ClusterDomain) {
		f.add("network.clusterDomain", "%q is no DNS domain in small letters", n.ClusterDomain)
	}
	n.checkNodePorts(f)
}

// checkRange reads an IPv4 range whose address is its first.
func (Network) checkRange(f *faults, field, text string) (netip.Prefix, bool) {
	prefix, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		f.add(field, "%q is no range like 10.0.0.0/16", text)
	case !prefix.Addr().Is4():
		f.add(field, "%s is not IPv4", text)
	case prefix != prefix.Masked():
		f.add(field, "%s begins inside its range: write %s", text, prefix.Masked())
	default:
		return prefix, true
	}
	return netip.Prefix{}, false
}

// checkNodePorts keeps node ports away from those of our own programs.
func (n Network) checkNodePorts(f *faults) {
	first, last := n.NodePortFirst, n.NodePortLast
	if first < 1 || last > 65535 || last-first+1 < minNodePorts {
		f.add("network.nodePortFirst", "%d to nodePortLast %d is no range of at least %d ports", first, last, minNodePorts)
		return
	}
	for _, port := range []int32{
		PortREST, PortGRPC, PortPeer, PortEtcdPeer, PortScheduler, PortControllerManager, PortCloudControllerManager,
		PortCloudProvider, PortKubelet, PortKubeProxy, PortNetworkAgent, PortDNS,
	} {
		if first <= port && port <= last {
			f.add("network.nodePortFirst", "%d to nodePortLast %d holds port %d, which Kijabi itself uses", first, last, port)
			return
		}
	}
}

func (d Directories) check(f *faults) {
	for _, dir := range []struct{ field, path string }{
		{"directories.state", d.State}, {"directories.containerd", d.Containerd}, {"directories.etcd", d.Etcd},
	} {
		if dir.path == "" {
			continue
		}
		if !filepath.IsAbs(dir.path) || filepath.Clean(dir.path) != dir.path || dir.path == "/" {
			f.add(dir.field, "%q is no absolute, plain path like /data/kijabi", dir.path)
			continue
		}
		for _, system := range []string{ConfigDir, LogDir, "/boot", "/dev", "/home", "/proc", "/root", "/run", "/sys", "/tmp", "/usr"} {
			if within(dir.path, system) {
				f.add(dir.field, "%s is below %s, which is not for data: choose another", dir.path, system)
			}
		}
	}
	d = d.WithDefaults()
	if within(d.State, d.Containerd) {
		f.add("directories.containerd", "%s holds directories.state %s: choose another", d.Containerd, d.State)
	}
	if within(d.State, d.Etcd) {
		f.add("directories.etcd", "%s holds directories.state %s: choose another", d.Etcd, d.State)
	}
	if within(d.Containerd, d.Etcd) || within(d.Etcd, d.Containerd) {
		f.add("directories.etcd", "%s and directories.containerd %s lie in each other", d.Etcd, d.Containerd)
	}
}

func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

func (n NodeOptions) check(f *faults) {
	keys := make([]string, 0, len(n.Labels))
	for key := range n.Labels {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		field := fmt.Sprintf("node.labels[%s]", key)
		if problem := keyProblem(key); problem != "" {
			f.add(field, "%s", problem)
		} else if reserved(key) {
			f.add(field, "the cluster itself sets labels of kubernetes.io: choose a key with a prefix of your own, or topology.kubernetes.io/zone")
		}
		if value := n.Labels[key]; value != "" && (len(value) > 63 || !namePattern().MatchString(value)) {
			f.add(field, "value %q is no label value (letters, digits, '-', '_', '.', at most 63)", value)
		}
	}
	for i, taint := range n.Taints {
		field := fmt.Sprintf("node.taints[%d]", i)
		if problem := keyProblem(taint.Key); problem != "" {
			f.add(field+".key", "%s", problem)
		}
		if value := taint.Value; value != "" && (len(value) > 63 || !namePattern().MatchString(value)) {
			f.add(field+".value", "%q is no label value (letters, digits, '-', '_', '.', at most 63)", value)
		}
		if !slices.Contains([]string{"NoSchedule", "PreferNoSchedule", "NoExecute"}, taint.Effect) {
			f.add(field+".effect", "%q is none of NoSchedule, PreferNoSchedule, NoExecute", taint.Effect)
		}
	}
}

// keyProblem says what is wrong with a label's or taint's key, "" if nothing.
func keyProblem(key string) string {
	name := key
	if prefix, rest, found := strings.Cut(key, "/"); found {
		name = rest
		if len(prefix) > 253 || !domainPattern().MatchString(prefix) {
			return fmt.Sprintf("key %q has a prefix that is no DNS domain", key)
		}
	}
	if len(name) > 63 || !namePattern().MatchString(name) {
		return fmt.Sprintf("key %q is none of the form name or example.com/name", key)
	}
	return ""
}

// reserved reports whether a kubelet may not give itself the label.
func reserved(key string) bool {
	prefix, _, found := strings.Cut(key, "/")
	if !found {
		return false
	}
	for _, domain := range []string{"kubernetes.io", "k8s.io"} {
		if prefix == domain || strings.HasSuffix(prefix, "."+domain) {
			return !slices.Contains([]string{"topology.kubernetes.io", "node.kubernetes.io"}, prefix)
		}
	}
	return false
}

func domainPattern() *regexp.Regexp {
	return regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
}

func namePattern() *regexp.Regexp {
	return regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`)
}
