// Package v1 holds the configuration files of every component, version kijabi.dev/v1.
//
// One YAML file a component lives in /etc/kijabi. The files are written by
// `kijabi master init`, `kijabi master join` and `kijabi node join`, and read
// strictly by the component at start: an unknown field or a missing required one
// is an error that names it. The `kijabi` command and the components share these
// types, so neither can drift.
package v1

import (
	"fmt"
	"net/url"
	"path/filepath"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// APIVersion of every configuration file.
const APIVersion = "kijabi.dev/v1"

// Ports of the components. docs/operate.md says who connects to which.
const (
	PortREST                   = 6443
	PortGRPC                   = 6444
	PortPeer                   = 7443
	PortEtcdPeer               = 2380
	PortScheduler              = 10259
	PortControllerManager      = 10257
	PortCloudControllerManager = 10258
	PortCloudProvider          = 10260
	PortKubelet                = 10250
	PortKubeProxy              = 10256
	PortNetworkAgent           = 10261
	PortDNS                    = 10262
)

// Directories every machine uses.
const (
	ConfigDir = "/etc/kijabi"
	StateDir  = "/var/lib/kijabi"
	RunDir    = "/run/kijabi"
	PKIDir    = StateDir + "/pki"
	LogDir    = "/var/log/kijabi"
)

// TypeMeta begins every file.
type TypeMeta struct {
	// APIVersion is "kijabi.dev/v1". Required.
	APIVersion string `json:"apiVersion"`
	// Kind is the component's, such as "SchedulerConfiguration". Required.
	Kind string `json:"kind"`
}

// Identity names the files of a component's certificate. All required.
// The component renews the certificate by itself and reloads it when it changes.
type Identity struct {
	// CertFile is the PEM leaf certificate.
	CertFile string `json:"certFile"`
	// KeyFile is its PEM key, mode 0600.
	KeyFile string `json:"keyFile"`
	// CAFile is the PEM bundle of cluster CAs that peers are checked against.
	CAFile string `json:"caFile"`
}

// Common is shared by all components.
type Common struct {
	TypeMeta `json:",inline"`
	// NodeName is the machine's name. Required.
	NodeName string `json:"nodeName"`
	// ListenAddress is host:port of the component's own gRPC service (health,
	// reflection and its API). Required.
	ListenAddress string `json:"listenAddress"`
	// Identity of the component. Required.
	Identity Identity `json:"identity"`
	// LogLevel is debug, info, warn or error; default info.
	LogLevel string `json:"logLevel,omitempty"`
}

// Network holds the cluster's address ranges; the same on every machine.
type Network struct {
	// PodCIDR is the range of all pods, default 10.244.0.0/16.
	PodCIDR string `json:"podCIDR"`
	// ServiceCIDR is the range of service addresses, default 10.96.0.0/16.
	ServiceCIDR string `json:"serviceCIDR"`
	// DNSAddress is the address of the cluster's DNS, default 10.96.0.10.
	DNSAddress string `json:"dnsAddress"`
	// ClusterDomain is the DNS domain, default cluster.local.
	ClusterDomain string `json:"clusterDomain"`
	// NodePortFirst and NodePortLast bound node ports, default 30000 to 32767.
	NodePortFirst int32 `json:"nodePortFirst"`
	NodePortLast  int32 `json:"nodePortLast"`
}

// DefaultNetwork returns the default ranges.
func DefaultNetwork() Network {
	return Network{
		PodCIDR: "10.244.0.0/16", ServiceCIDR: "10.96.0.0/16", DNSAddress: "10.96.0.10",
		ClusterDomain: "cluster.local", NodePortFirst: 30000, NodePortLast: 32767,
	}
}

// APIServerConfiguration configures the apiserver.
type APIServerConfiguration struct {
	// Common.ListenAddress is the gRPC door, host:6444.
	Common `json:",inline"`
	// RESTAddress is host:port of the REST door, host:6443. Required.
	RESTAddress string `json:"restAddress"`
	// PeerAddress is host:port for the other masters, host:7443. Required.
	PeerAddress string `json:"peerAddress"`
	// AdvertiseAddress is the machine's IP that others dial. Required.
	AdvertiseAddress string `json:"advertiseAddress"`
	// DataDir holds etcd and raft data. Required.
	DataDir string `json:"dataDir"`
	// PKIDir holds the cluster's CAs with their keys (ca, peer-ca, front-proxy-ca, service-account)
	// and encryption.key, the keys that Secrets are sealed with at rest: the first seals, all open.
	// A change of that file is noticed without a restart. Required.
	PKIDir string `json:"pkiDir"`
	// ClusterID is fixed by `kijabi master init`. Required.
	ClusterID string `json:"clusterID"`
	// Peer is the identity on the masters' own port and between etcd members, signed by the peer CA. Required.
	Peer Identity `json:"peer"`
	// Etcd configures the embedded member, or says where a separate etcd is.
	Etcd Etcd `json:"etcd"`
	// Bootstrap is true on the master that `kijabi master init` made: a data
	// directory that is empty forms a new cluster of one. On the others an empty data
	// directory joins through Join.
	Bootstrap bool `json:"bootstrap,omitempty"`
	// Join lists peer addresses (host:7443) of masters to join through when the data directory is empty.
	Join []string `json:"join,omitempty"`
	// Network ranges.
	Network Network `json:"network"`
	// Masters configures what masters do about each other and the cluster's programs.
	Masters Masters `json:"masters,omitzero"`
	// VIP is the virtual address that the leading master holds; the doors answer on it, too.
	VIP VIP `json:"vip,omitzero"`
	// Raft times; zero values mean 200 ms each.
	RaftHeartbeat   metav1.Duration `json:"raftHeartbeat,omitzero"`
	RaftElection    metav1.Duration `json:"raftElection,omitzero"`
	RaftLeaderLease metav1.Duration `json:"raftLeaderLease,omitzero"`
	// EventTTL is how long Events live, default 1h.
	EventTTL metav1.Duration `json:"eventTTL,omitzero"`
	// PodSecurity is the Pod Security Standard of namespaces whose labels name none:
	// privileged, baseline or restricted; default baseline. kube-system is privileged.
	PodSecurity string `json:"podSecurity,omitempty"`
	// DefaultTolerationSeconds is how long pods that do not say otherwise stay on a node that is
	// not ready or cannot be reached; 0 means 30.
	DefaultTolerationSeconds int64 `json:"defaultTolerationSeconds,omitempty"`
	// EncryptedResources are sealed at rest besides secrets, such as "configmaps" or
	// "widgets.example.com". What is taken off the list stays sealed until it is next written.
	EncryptedResources []string `json:"encryptedResources,omitempty"`
	// StorageKeyLost lets the apiserver start although its keys open none of the sealed objects,
	// which are then set aside: for a cluster whose encryption.key is lost for good.
	StorageKeyLost bool `json:"storageKeyLost,omitempty"`
	// Audit configures the audit log of the doors.
	Audit Audit `json:"audit,omitzero"`
	// ManifestsDir holds YAML files whose objects are kept applied, default
	// /etc/kijabi/manifests; empty: none are. A directory that is not there changes nothing.
	ManifestsDir string `json:"manifestsDir,omitempty"`
	// Snapshots configures the copies that are made of the cluster's objects; the same on all masters.
	Snapshots Snapshots `json:"snapshots,omitzero"`
	// MaxRequestsInFlight bounds the requests that are served at once, divided among priority
	// levels; those of administrators and of masters' programs do not count. 0 means 600.
	MaxRequestsInFlight int `json:"maxRequestsInFlight,omitempty"`
	// MaxConnectionsPerUser bounds authenticated connections per user identity; 0 means 256.
	MaxConnectionsPerUser int `json:"maxConnectionsPerUser,omitempty"`
}

// Masters configures what masters do about each other and the cluster's programs. It should be
// the same on all.
type Masters struct {
	// ReplaceDeadAfter is how long a voting master must have been dead, as the leader sees it,
	// before a spare that has caught up takes its place. Default 5m; 0s means never. Less
	// than 10s is refused: a restart must not cost a master its vote.
	ReplaceDeadAfter *metav1.Duration `json:"replaceDeadAfter,omitempty"`
	// CertificateLife is how long the certificates live that masters issue to the cluster's
	// programs, which renew them after two thirds of it. Default 24h; less than 2m is refused:
	// who renews must have time to try again. Who is away for longer comes back by its key.
	CertificateLife *metav1.Duration `json:"certificateLife,omitempty"`
}

const (
	defaultReplaceDeadAfter = 5 * time.Minute
	minReplaceDeadAfter     = 10 * time.Second

	defaultCertificateLife = 24 * time.Hour
	minCertificateLife     = 2 * time.Minute
)

// ReplaceAfter is ReplaceDeadAfter or its default; 0 means never.
func (m Masters) ReplaceAfter() time.Duration {
	if m.ReplaceDeadAfter == nil {
		return defaultReplaceDeadAfter
	}
	return m.ReplaceDeadAfter.Duration
}

// LeafLife is CertificateLife or its default.
func (m Masters) LeafLife() time.Duration {
	if m.CertificateLife == nil {
		return defaultCertificateLife
	}
	return m.CertificateLife.Duration
}

func (m Masters) check(f *faults) {
	if life := m.LeafLife(); life < minCertificateLife {
		f.add("masters.certificateLife", "%s is too short: give at least %s", life, minCertificateLife)
	}
	if after := m.ReplaceAfter(); after != 0 && after < minReplaceDeadAfter {
		f.add("masters.replaceDeadAfter", "%s is too short: give at least %s, or 0s for never", after, minReplaceDeadAfter)
	}
}

// Validate tells every fault on one line, each with its field.
func (c *APIServerConfiguration) Validate() error {
	var f faults
	c.Masters.check(&f)
	c.VIP.check(&f, c.Network)
	c.Etcd.check(&f)
	return f.err()
}

func (e Etcd) check(f *faults) {
	e.SeparateEtcd.check(f)
	for _, field := range []struct {
		name string
		set  bool
	}{{"etcd.peerURL", e.PeerURL != ""}, {"etcd.dataDir", e.DataDir != ""}, {"etcd.quotaBytes", e.QuotaBytes != 0}} {
		if e.Separate() && field.set {
			f.add(field.name, "is for an embedded member, and etcd.endpoints names a separate etcd: leave out one of them")
		}
	}
	if !e.Separate() && e.PeerURL == "" {
		f.add("etcd.peerURL", "is required, unless etcd.endpoints names a separate etcd")
	}
}

func (e SeparateEtcd) check(f *faults) {
	files := []struct{ name, path string }{{"etcd.caFile", e.CAFile}, {"etcd.certFile", e.CertFile}, {"etcd.keyFile", e.KeyFile}}
	for _, file := range files {
		switch {
		case e.Separate() && file.path == "":
			f.add(file.name, "is required with etcd.endpoints")
		case !e.Separate() && file.path != "":
			f.add(file.name, "is for a separate etcd, and etcd.endpoints is empty")
		case file.path != "" && !filepath.IsAbs(file.path):
			f.add(file.name, "%q is no absolute path", file.path)
		}
	}
	for i, endpoint := range e.Endpoints {
		at, err := url.Parse(endpoint)
		if err != nil || at.Scheme != "https" || at.Hostname() == "" || at.Port() == "" || at.User != nil || at.Path+at.RawQuery+at.Fragment != "" {
			f.add(fmt.Sprintf("etcd.endpoints[%d]", i), "%q is no URL like https://10.0.0.21:2379", endpoint)
		}
	}
}

// Audit configures the audit log: one line of JSON for every request, without its content.
type Audit struct {
	// Disabled turns it off.
	Disabled bool `json:"disabled,omitempty"`
	// File, default audit/audit.log in the apiserver's data directory. Full files lie beside it.
	File string `json:"file,omitempty"`
	// MaxFileBytes of one file, default 100 MiB.
	MaxFileBytes int64 `json:"maxFileBytes,omitempty"`
	// MaxFiles kept besides the present one, default 10.
	MaxFiles int `json:"maxFiles,omitempty"`
}

// Snapshots configures the encrypted copies that are made of all objects, one for the whole
// cluster each time.
type Snapshots struct {
	// Disabled ends scheduled snapshots; they can still be made by hand.
	Disabled bool `json:"disabled,omitempty"`
	// Interval between two, default 1h, at least 1m.
	Interval metav1.Duration `json:"interval,omitzero"`
	// Directory for them on the master that makes them, default /var/lib/kijabi/snapshots
	// (snapshots beside the apiserver's data directory). Not used with S3.
	Directory string `json:"directory,omitempty"`
	// S3 keeps them in a bucket instead.
	S3 *S3 `json:"s3,omitempty"`
	// KeepHourly is the number of hours of which the newest is kept, default 24.
	KeepHourly int `json:"keepHourly,omitempty"`
	// KeepDaily is the number of days of which the newest is kept, default 7.
	KeepDaily int `json:"keepDaily,omitempty"`
}

// S3 is a bucket of an S3-compatible store.
type S3 struct {
	// Endpoint is host or host:port. Required.
	Endpoint string `json:"endpoint"`
	// Region of the bucket; asked for if empty.
	Region string `json:"region,omitempty"`
	// Bucket must exist. Required.
	Bucket string `json:"bucket"`
	// Prefix of keys, default the cluster's ID.
	Prefix string `json:"prefix,omitempty"`
	// CredentialsFile holds accessKey, secretKey and, if need be, sessionToken as YAML. Required.
	CredentialsFile string `json:"credentialsFile"`
	// CAFile is the PEM bundle of CAs that the store's certificate is checked against; default the system's.
	CAFile string `json:"caFile,omitempty"`
	// Insecure talks without TLS, as to a store on the same machine.
	Insecure bool `json:"insecure,omitempty"`
}

// Etcd configures the embedded etcd member, or says where a separate etcd is.
type Etcd struct {
	// PeerURL others dial, https://ip:2380. Required without Endpoints.
	PeerURL string `json:"peerURL,omitempty"`
	// DataDir holds the database, default etcd in the apiserver's data directory.
	DataDir string `json:"dataDir,omitempty"`
	// QuotaBytes bounds what the database has in use, default a quarter of its disk between 256 MiB
	// and 8 GiB. The smallest of the masters counts.
	QuotaBytes int64 `json:"quotaBytes,omitempty"`
	// HistoryRetention is how long revisions are kept, default 24h.
	HistoryRetention metav1.Duration `json:"historyRetention,omitzero"`

	SeparateEtcd `json:",inline"`
}

// SeparateEtcd is an etcd that runs in processes or containers of its own, for this cluster alone.
// All masters of a cluster use the same one.
type SeparateEtcd struct {
	// Endpoints are the client URLs of its members, https://host:2379. With them the apiserver embeds
	// no member, and PeerURL, DataDir and QuotaBytes must not be set.
	Endpoints []string `json:"endpoints,omitempty"`
	// CAFile is the PEM bundle of CAs that etcd's certificates are checked against, CertFile and KeyFile
	// what the apiserver proves itself by; a change is noticed without a restart. Required with Endpoints.
	CAFile   string `json:"caFile,omitempty"`
	CertFile string `json:"certFile,omitempty"`
	KeyFile  string `json:"keyFile,omitempty"`
}

// Separate says whether there is one.
func (e SeparateEtcd) Separate() bool { return len(e.Endpoints) > 0 }

// Identity is what the apiserver proves itself by towards it.
func (e SeparateEtcd) Identity() Identity {
	return Identity{CertFile: e.CertFile, KeyFile: e.KeyFile, CAFile: e.CAFile}
}

// SchedulerConfiguration configures the scheduler.
type SchedulerConfiguration struct {
	Common `json:",inline"`
	// APIServer is host:port of the local apiserver's gRPC door. Required.
	APIServer string `json:"apiServer"`
}

// ControllerManagerConfiguration configures the controller-manager.
type ControllerManagerConfiguration struct {
	Common `json:",inline"`
	// APIServer is host:port of the local apiserver's gRPC door. Required.
	APIServer string `json:"apiServer"`
	// Network ranges; the pod range is divided among nodes.
	Network Network `json:"network"`
	// NodeMaskSize is the prefix length of a node's pod range, default 24.
	NodeMaskSize int `json:"nodeMaskSize,omitempty"`
	// NodeUnreachableAfter is the silence after which a node leaves traffic, default 4s.
	NodeUnreachableAfter metav1.Duration `json:"nodeUnreachableAfter,omitzero"`
	// AutoscalerSyncPeriod is how often autoscalers measure and decide, default 15s.
	AutoscalerSyncPeriod metav1.Duration `json:"autoscalerSyncPeriod,omitzero"`
	// FinishedPodsKept is how many finished pods are kept, default 12500; the oldest go first.
	// Less than 0 keeps all.
	FinishedPodsKept int `json:"finishedPodsKept,omitempty"`
	// ClusterCAFile is published in every namespace as kube-root-ca.crt.
	ClusterCAFile string `json:"clusterCAFile"`
}

// CloudControllerManagerConfiguration configures the cloud-controller-manager.
type CloudControllerManagerConfiguration struct {
	Common `json:",inline"`
	// APIServer is host:port of the local apiserver's gRPC door. Required.
	APIServer string `json:"apiServer"`
	// Provider is where the provider's CloudProviderService listens: host:port, or unix:///path. Required.
	Provider string `json:"provider"`
}

// CloudProviderLocalConfiguration configures the provider "local".
type CloudProviderLocalConfiguration struct {
	Common `json:",inline"`
	// APIServer is host:port of the local apiserver's gRPC door, where the provider's
	// certificate is renewed. Required.
	APIServer string `json:"apiServer"`
	// Zone and Region are put on every node; empty means none.
	Zone   string `json:"zone,omitempty"`
	Region string `json:"region,omitempty"`
}

// KubeletConfiguration configures the kubelet.
type KubeletConfiguration struct {
	Common `json:",inline"`
	// APIServers are host:port of every known apiserver's gRPC door. At least one.
	// The kubelet learns of others and keeps them in its data directory.
	APIServers []string `json:"apiServers"`
	// NodeIP is the machine's address. Required.
	NodeIP string `json:"nodeIP"`
	// DataDir holds pods' files and the snapshots, default /var/lib/kijabi/kubelet. Directories
	// of persistent volumes are beside it, in "volumes", so that they outlive it.
	DataDir string `json:"dataDir"`
	// ContainerRuntimeEndpoint is the CRI socket, unix:///run/kijabi/containerd/containerd.sock. Required.
	ContainerRuntimeEndpoint string `json:"containerRuntimeEndpoint"`
	// CNIConfigDir is where the network configuration is awaited before pods start. Required.
	CNIConfigDir string `json:"cniConfigDir"`
	// CgroupRoot below which pods' cgroups live, default "/kijabi".
	CgroupRoot string `json:"cgroupRoot,omitempty"`
	// Labels and Taints the node registers with.
	Labels map[string]string `json:"labels,omitempty"`
	Taints []Taint           `json:"taints,omitempty"`
	// Network ranges; the kubelet needs DNS address and domain.
	Network Network `json:"network"`
	// MaxPods, default 110.
	MaxPods int64 `json:"maxPods,omitempty"`
}

// Taint is a node taint.
type Taint struct {
	// Key of the taint. Required.
	Key string `json:"key"`
	// Value may be empty.
	Value string `json:"value,omitempty"`
	// Effect is NoSchedule, PreferNoSchedule or NoExecute. Required.
	Effect string `json:"effect"`
}

// KubeProxyConfiguration configures kube-proxy.
type KubeProxyConfiguration struct {
	Common `json:",inline"`
	// APIServers are host:port of every known apiserver's gRPC door. At least one.
	APIServers []string `json:"apiServers"`
	// NodeIP is the machine's address. Required.
	NodeIP string `json:"nodeIP"`
	// DataDir holds the snapshot, default /var/lib/kijabi/kube-proxy.
	DataDir string `json:"dataDir"`
	// Network ranges.
	Network Network `json:"network"`
}

// NetworkAgentConfiguration configures the network agent.
type NetworkAgentConfiguration struct {
	Common `json:",inline"`
	// APIServers are host:port of every known apiserver's gRPC door. At least one.
	APIServers []string `json:"apiServers"`
	// NodeIP is the machine's address. Required.
	NodeIP string `json:"nodeIP"`
	// DataDir holds the snapshot, default /var/lib/kijabi/network-agent.
	DataDir string `json:"dataDir"`
	// CNIConfigDir the CNI configuration is written to. Required.
	CNIConfigDir string `json:"cniConfigDir"`
	// Mode is "auto" (routes on one L2, VXLAN otherwise), "routes" or "vxlan". Default auto.
	Mode string `json:"mode,omitempty"`
	// Network ranges.
	Network Network `json:"network"`
}

// DNSConfiguration configures the node's DNS server.
type DNSConfiguration struct {
	Common `json:",inline"`
	// APIServers are host:port of every known apiserver's gRPC door. At least one.
	APIServers []string `json:"apiServers"`
	// DataDir holds the snapshot, default /var/lib/kijabi/dns.
	DataDir string `json:"dataDir"`
	// Upstream resolvers; empty means those of /etc/resolv.conf.
	Upstream []string `json:"upstream,omitempty"`
	// Network ranges.
	Network Network `json:"network"`
}
