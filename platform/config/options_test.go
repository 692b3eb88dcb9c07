package config_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kijabi.dev/platform/config"
	configv1 "kijabi.dev/platform/config/v1"
)

const optionsHead = "apiVersion: kijabi.dev/v1\nkind: MemberOptions\n"

func TestMemberOptions(t *testing.T) {
	for name, test := range map[string]struct {
		file string
		want []string // parts of the error, all of them; none for no error
	}{
		"nothing said": {"", nil},
		"everything said": {`
network: {podCIDR: 10.10.0.0/16, serviceCIDR: 10.11.0.0/20, dnsAddress: 10.11.0.53, clusterDomain: prod.example, nodePortFirst: 31000, nodePortLast: 31999}
directories: {state: /data/kijabi, containerd: /images, etcd: /fast/etcd}
etcd: {quotaBytes: 8589934592}
masters: {replaceDeadAfter: 0s}
vip: {addresses: [10.0.0.10, "fd00::10"], interface: eth1}
node:
  labels: {disk: ssd, example.com/rack: a1, topology.kubernetes.io/zone: z1}
  taints: [{key: gpu, value: "yes", effect: NoExecute}]
  schedulable: true
dns: {upstream: [192.0.2.1, "192.0.2.2:5353"]}
`, nil},
		"directories inside the state directory": {"directories: {state: /data, containerd: /data/containerd, etcd: /data/etcd}", nil},
		"one range is said":                      {"network: {serviceCIDR: 172.20.0.0/16}", nil},
		"unknown field":                          {"networks: {}", []string{`unknown field "networks"`}},
		"ranges overlap":                         {"network: {podCIDR: 10.0.0.0/8}", []string{"network.serviceCIDR: 10.96.0.0/16 overlaps network.podCIDR 10.0.0.0/8"}},
		"pod range too small":                    {"network: {podCIDR: 10.1.0.0/25}", []string{"network.podCIDR: 10.1.0.0/25 is too small", "/24"}},
		"service range too small":                {"network: {serviceCIDR: 10.1.0.0/29}", []string{"network.serviceCIDR: 10.1.0.0/29 must be between /8 and /28"}},
		"range begins inside":                    {"network: {podCIDR: 10.1.2.3/16}", []string{"network.podCIDR: 10.1.2.3/16 begins inside its range: write 10.1.0.0/16"}},
		"no range":                               {"network: {podCIDR: pods}", []string{`network.podCIDR: "pods" is no range`}},
		"IPv6":                                   {"network: {podCIDR: fd00::/48}", []string{"network.podCIDR: fd00::/48 is not IPv4"}},
		"DNS outside":                            {"network: {dnsAddress: 10.97.0.10}", []string{"network.dnsAddress: 10.97.0.10 is not in network.serviceCIDR 10.96.0.0/16"}},
		"DNS is the API":                         {"network: {dnsAddress: 10.96.0.1}", []string{"network.dnsAddress: 10.96.0.1 is taken"}},
		"bad domain":                             {"network: {clusterDomain: Cluster_Local}", []string{`network.clusterDomain: "Cluster_Local"`}},
		"node ports reversed":                    {"network: {nodePortFirst: 32000, nodePortLast: 31000}", []string{"network.nodePortFirst: 32000 to nodePortLast 31000"}},
		"node ports over ours":                   {"network: {nodePortFirst: 10000}", []string{"holds port", "which Kijabi itself uses"}},
		"relative path":                          {"directories: {state: data}", []string{`directories.state: "data" is no absolute, plain path`}},
		"path with dots":                         {"directories: {etcd: /data/../etc}", []string{"directories.etcd"}},
		"path of the system":                     {"directories: {containerd: /run/images}", []string{"directories.containerd: /run/images is below /run"}},
		"etcd in containerd":                     {"directories: {containerd: /data, etcd: /data/etcd}", []string{"directories.etcd: /data/etcd and directories.containerd /data lie in each other"}},
		"state in containerd":                    {"directories: {state: /data/state, containerd: /data}", []string{"directories.containerd: /data holds directories.state /data/state"}},
		"quota too small":                        {"etcd: {quotaBytes: 1000}", []string{"etcd.quotaBytes: 1000 is too small", "268435456"}},
		"separate etcd":                          {"etcd: {endpoints: [\"https://10.0.0.21:2379\", \"https://[fd00::1]:2379\"], caFile: /etc/etcd/ca.crt, certFile: /etc/etcd/c.crt, keyFile: /etc/etcd/c.key}", nil},
		"separate etcd in clear":                 {"etcd: {endpoints: [\"http://10.0.0.21:2379\", 10.0.0.21]}", []string{`etcd.endpoints[0]: "http://10.0.0.21:2379" is no URL like https://`, "etcd.endpoints[1]", "etcd.caFile: is required", "etcd.certFile", "etcd.keyFile"}},
		"certificate of no etcd":                 {"etcd: {certFile: c.crt}", []string{"etcd.certFile: is for a separate etcd"}},
		"both kinds of etcd":                     {"etcd: {endpoints: [\"https://e:2379\"], caFile: /a, certFile: /b, keyFile: /c, quotaBytes: 268435456}\ndirectories: {etcd: /fast}", []string{"etcd.quotaBytes: a separate etcd", "--quota-backend-bytes", "directories.etcd: a separate etcd"}},
		"replaced too soon":                      {"masters: {replaceDeadAfter: 3s}", []string{"masters.replaceDeadAfter: 3s is too short", "10s", "0s for never"}},
		"certificates too short":                 {"masters: {certificateLife: 1m}", []string{"masters.certificateLife: 1m0s is too short", "2m"}},
		"replaced before it is dead":             {"masters: {replaceDeadAfter: -1m}", []string{"masters.replaceDeadAfter: -1m0s is too short"}},
		"virtual address is none":                {"vip: {addresses: [vip.example, 127.0.0.9]}", []string{`vip.addresses: "vip.example"`, `vip.addresses: "127.0.0.9"`}},
		"two of a family":                        {"vip: {addresses: [10.0.0.10, 10.0.0.11]}", []string{"vip.addresses: 10.0.0.10 and 10.0.0.11 are of the same family"}},
		"virtual address of a service":           {"vip: {addresses: [10.96.0.77]}", []string{"vip.addresses: 10.96.0.77 lies in network.serviceCIDR 10.96.0.0/16"}},
		"label of the cluster":                   {"node: {labels: {node-role.kubernetes.io/worker: \"\"}}", []string{"node.labels[node-role.kubernetes.io/worker]", "prefix of your own"}},
		"label key":                              {"node: {labels: {\"a b\": c}}", []string{`node.labels[a b]: key "a b"`}},
		"label value":                            {"node: {labels: {a: \"b c\"}}", []string{`node.labels[a]: value "b c"`}},
		"taint":                                  {"node: {taints: [{key: a, effect: NoSchedule}, {key: \"-\", effect: Never}]}", []string{"node.taints[1].key", `node.taints[1].effect: "Never"`}},
		"resolver":                               {"dns: {upstream: [192.0.2.1, dns.example]}", []string{`dns.upstream[1]: "dns.example"`}},
		"all at once": {"network: {podCIDR: x, dnsAddress: nowhere}\netcd: {quotaBytes: 1}\ndirectories: {state: z}",
			[]string{"network.podCIDR", "network.dnsAddress", "etcd.quotaBytes", "directories.state"}},
	} {
		t.Run(name, func(t *testing.T) {
			var options configv1.MemberOptions
			err := config.Parse([]byte(optionsHead+test.file), &options)
			if (err == nil) != (len(test.want) == 0) {
				t.Fatalf("got %v, want %q", err, test.want)
			}
			for _, part := range test.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error lacks %q:\n%v", part, err)
				}
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %q", err)
			}
		})
	}
}

func TestEtcdOfAnAPIServer(t *testing.T) {
	beside := configv1.SeparateEtcd{Endpoints: []string{"https://10.0.0.21:2379"}, CAFile: "/a", CertFile: "/b", KeyFile: "/c"}
	for name, test := range map[string]struct {
		etcd configv1.Etcd
		want []string // parts of the error, none for no error
	}{
		"embedded": {configv1.Etcd{PeerURL: "https://10.0.0.11:2380", DataDir: "/fast", QuotaBytes: 1 << 30}, nil},
		"separate": {configv1.Etcd{SeparateEtcd: beside}, nil},
		"neither":  {configv1.Etcd{}, []string{"etcd.peerURL: is required, unless etcd.endpoints"}},
		"both": {configv1.Etcd{PeerURL: "https://10.0.0.11:2380", DataDir: "/fast", QuotaBytes: 1, SeparateEtcd: beside},
			[]string{"etcd.peerURL: is for an embedded member", "etcd.dataDir", "etcd.quotaBytes"}},
		"relative path": {configv1.Etcd{SeparateEtcd: configv1.SeparateEtcd{Endpoints: beside.Endpoints, CAFile: "a", CertFile: "/b", KeyFile: "/c"}},
			[]string{`etcd.caFile: "a" is no absolute path`}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := configv1.APIServerConfiguration{Etcd: test.etcd}
			err := cfg.Validate()
			if (err == nil) != (len(test.want) == 0) {
				t.Fatalf("got %v, want %q", err, test.want)
			}
			for _, part := range test.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error lacks %q:\n%v", part, err)
				}
			}
		})
	}
}

func TestNetworkWithDefaults(t *testing.T) {
	if got := (configv1.Network{}).WithDefaults(); got != configv1.DefaultNetwork() {
		t.Errorf("nothing said gives %+v", got)
	}
	got := configv1.Network{ServiceCIDR: "172.20.4.0/22", NodePortFirst: 31000}.WithDefaults()
	want := configv1.DefaultNetwork()
	want.ServiceCIDR, want.DNSAddress, want.NodePortFirst = "172.20.4.0/22", "172.20.4.10", 31000
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if address := got.APIAddress().String(); address != "172.20.4.1" {
		t.Errorf("the API is at %s", address)
	}
}

func TestNetworkDifferences(t *testing.T) {
	cluster := configv1.DefaultNetwork()
	if found := (configv1.Network{PodCIDR: cluster.PodCIDR}).Differences(cluster); len(found) > 0 {
		t.Errorf("what is said and equal differs: %q", found)
	}
	found := configv1.Network{PodCIDR: "10.1.0.0/16", NodePortLast: 31000}.Differences(cluster)
	want := []string{"network.podCIDR is 10.1.0.0/16, the cluster's 10.244.0.0/16", "network.nodePortLast is 31000, the cluster's 32767"}
	if diff := cmp.Diff(want, found); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
