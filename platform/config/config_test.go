package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"kijabi.dev/platform/config"
	configv1 "kijabi.dev/platform/config/v1"
)

const scheduler = `
apiVersion: kijabi.dev/v1
kind: SchedulerConfiguration
nodeName: m1
listenAddress: 10.0.0.1:10259
identity: {certFile: /c, keyFile: /k, caFile: /ca}
apiServer: 127.0.0.1:6444
`

func TestParse(t *testing.T) {
	tests := map[string]struct {
		change func(string) string
		want   string // part of the error; empty for none
	}{
		"complete":          {func(s string) string { return s }, ""},
		"optional field":    {func(s string) string { return s + "logLevel: debug\n" }, ""},
		"unknown field":     {func(s string) string { return s + "colour: red\n" }, `unknown field "colour"`},
		"unknown in nested": {func(s string) string { return strings.Replace(s, "certFile", "certfile", 1) }, "certfile"},
		"repeated field":    {func(s string) string { return s + "nodeName: m2\n" }, "nodeName"},
		"missing field":     {func(s string) string { return strings.Replace(s, "nodeName: m1\n", "", 1) }, "nodeName"},
		"missing in nested": {func(s string) string { return strings.Replace(s, "keyFile: /k, ", "", 1) }, "identity.keyFile"},
		"wrong version":     {func(s string) string { return strings.Replace(s, "kijabi.dev/v1", "v1", 1) }, `apiVersion is "v1"`},
		"wrong kind":        {func(s string) string { return strings.Replace(s, "Scheduler", "Kubelet", 1) }, `want "SchedulerConfiguration"`},
		"wrong type":        {func(s string) string { return strings.Replace(s, "nodeName: m1", "nodeName: [m1]", 1) }, "nodeName"},
		"no YAML":           {func(string) string { return "\t" }, "yaml"},
		"empty":             {func(string) string { return "" }, "apiVersion"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := config.Parse([]byte(test.change(scheduler)), &configv1.SchedulerConfiguration{})
			switch {
			case test.want == "" && err != nil:
				t.Errorf("got %v", err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
		})
	}
}

func TestAllMissingFieldsAreNamed(t *testing.T) {
	err := config.Parse([]byte("apiVersion: kijabi.dev/v1\nkind: KubeProxyConfiguration\n"), &configv1.KubeProxyConfiguration{Network: configv1.DefaultNetwork()})
	want := "required and not set: nodeName, listenAddress, identity.certFile, identity.keyFile, identity.caFile, apiServers, nodeIP, dataDir"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestDefaultsStayUnlessReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kubelet.yaml")
	content := strings.Replace(scheduler, "Scheduler", "Kubelet", 1)
	content = strings.Replace(content, "apiServer: 127.0.0.1:6444", `
apiServers: ["127.0.0.1:6444"]
nodeIP: 10.0.0.1
containerRuntimeEndpoint: unix:///run/c.sock
cniConfigDir: /etc/cni/net.d
network: {clusterDomain: other.local}
`, 1)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	got := configv1.KubeletConfiguration{DataDir: "/default", MaxPods: 110, Network: configv1.DefaultNetwork()}
	if err := config.Load(path, &got); err != nil {
		t.Fatal(err)
	}
	if got.DataDir != "/default" || got.MaxPods != 110 || got.Network.PodCIDR != "10.244.0.0/16" || got.Network.ClusterDomain != "other.local" {
		t.Errorf("got %+v", got)
	}
	got.Taints = []configv1.Taint{{Key: "a", Effect: "NoSchedule"}, {Key: "b"}}
	if err := config.Check(&got); err == nil || !strings.Contains(err.Error(), "taints[1].effect") {
		t.Errorf("a taint without effect: %v", err)
	}
}

// TestWrittenFilesAreReadBack holds the promise to whoever writes the files.
func TestWrittenFilesAreReadBack(t *testing.T) {
	want := configv1.ControllerManagerConfiguration{
		Common: configv1.Common{
			TypeMeta: configv1.TypeMeta{APIVersion: configv1.APIVersion, Kind: "ControllerManagerConfiguration"},
			NodeName: "m1", ListenAddress: ":1", Identity: configv1.Identity{CertFile: "c", KeyFile: "k", CAFile: "a"},
		},
		APIServer: ":2", Network: configv1.DefaultNetwork(), ClusterCAFile: "ca",
		NodeUnreachableAfter: metav1.Duration{Duration: 4 * time.Second},
	}
	data, err := yaml.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got configv1.ControllerManagerConfiguration
	if err := config.Parse(data, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
}

// validated has a rule beyond presence.
type validated struct {
	Port int `json:"port,omitempty"`
}

// Validate wants a port.
func (v *validated) Validate() error {
	if v.Port > 65535 {
		return errors.New("port is too large")
	}
	return nil
}

func TestValidatorIsAsked(t *testing.T) {
	if err := config.Parse([]byte("port: 70000"), &validated{}); err == nil || err.Error() != "port is too large" {
		t.Errorf("got %v", err)
	}
	if err := config.Parse([]byte("port: 70"), &validated{}); err != nil {
		t.Errorf("got %v", err)
	}
}

func TestMisuse(t *testing.T) {
	if err := config.Parse(nil, validated{}); err == nil {
		t.Error("a struct that is no pointer was accepted")
	}
	if err := config.Load(filepath.Join(t.TempDir(), "none"), &validated{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}
