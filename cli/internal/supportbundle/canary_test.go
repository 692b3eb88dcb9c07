package supportbundle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/anypb"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/pki"
	objectv1pb "kijabi.dev/proto/gen/kijabi/object/v1"

	"kijabi.dev/cli/internal/install"
)

// numbered makes each canary findable.
func numbered(n int) string { return fmt.Sprintf("%s%d", canary, n) }

// planted is a cluster whose every object holds canaries.
func planted() []object.Object {
	spec := corev1.PodSpec{Containers: []corev1.Container{{
		Name: "web", Image: "example/web:1",
		Command: []string{"web", "--password", numbered(1), "--api-key=" + numbered(2), "--name", "kept-option"},
		Env:     []corev1.EnvVar{{Name: "PLAIN_LOOKING", Value: numbered(3)}},
		LivenessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{
			Port: intstr.FromInt32(80), HTTPHeaders: []corev1.HTTPHeader{{Name: "X-Door", Value: numbered(4)}},
		}}},
	}}}
	applied := `{"spec":{"env":[{"name":"X","value":"` + numbered(5) + strings.Repeat(" ", annotationLimit) + `"}]}}`
	meta := metav1.ObjectMeta{
		Name: "web", Namespace: "default", Annotations: map[string]string{
			"kubectl.kubernetes.io/last-applied-configuration": applied, "short": "kept-annotation",
		},
		ManagedFields: []metav1.ManagedFieldsEntry{{Manager: numbered(6)}},
	}
	return []object.Object{
		&corev1.Pod{ObjectMeta: meta, Spec: spec},
		&corev1.Secret{ObjectMeta: meta, Data: map[string][]byte{"a": []byte(numbered(7))}, StringData: map[string]string{"b": numbered(8)}},
		&corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"kept-key": numbered(9)}, BinaryData: map[string][]byte{"c": []byte(numbered(10))}},
		&corev1.Event{ObjectMeta: meta, Message: "mount failed: kept-message, password: " + numbered(11)},
		&corev1.Node{ObjectMeta: meta},
	}
}

// apiStandIn lists the planted objects to whoever asks.
type apiStandIn struct {
	objectv1pb.UnimplementedObjectServiceServer
	asked []string
}

func (a *apiStandIn) List(in *objectv1pb.ListRequest, out grpc.ServerStreamingServer[objectv1pb.ListResponse]) error {
	resource := in.GetResource().GetResource()
	a.asked = append(a.asked, resource)
	var found []*anypb.Any
	for _, obj := range planted() {
		kind, err := object.KindOfObject(obj)
		if err != nil || kind.GVR.Resource != resource {
			continue
		}
		packed, err := object.Pack(obj)
		if err != nil {
			return err
		}
		found = append(found, packed)
	}
	return out.Send(&objectv1pb.ListResponse{Objects: found, ResourceVersion: "7"})
}

// serveStandIn returns how to reach it.
func serveStandIn(t *testing.T, api *apiStandIn) func(context.Context) (*grpc.ClientConn, error) {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	objectv1pb.RegisterObjectServiceServer(server, api)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return func(context.Context) (*grpc.ClientConn, error) {
		return grpc.NewClient("passthrough:///"+listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	}
}

// plantedMachine is the files of a member, with canaries wherever they could be.
func plantedMachine(t *testing.T) MachineOptions {
	t.Helper()
	dir := t.TempDir()
	o := MachineOptions{
		Layout: install.Layout{ConfigDir: filepath.Join(dir, "etc"), StateDir: filepath.Join(dir, "lib"), RunDir: filepath.Join(dir, "run")},
		LogDir: filepath.Join(dir, "log"), Since: time.Now().Add(-time.Hour),
		Member: install.Member{Name: "vm1", Address: "127.0.77.210", Master: true, ClusterID: "abc", BinDir: filepath.Join(dir, "bin")},
	}
	key := "-----BEGIN PRIVATE KEY-----\n" + numbered(20) + "\n-----END PRIVATE KEY-----\n"
	now := time.Now().UTC()
	line := func(when time.Time, text string) string {
		return `{"level":"info","time":"` + when.Format(time.RFC3339Nano) + `","message":"` + text + `"}` + "\n"
	}
	for path, content := range map[string]string{
		"etc/apiserver.yaml":        "# join with kijabi.m.abc." + numbered(21) + ".00ff\nkept: setting\npassword: " + numbered(22) + "\n",
		"etc/containerd.toml":       "kept = \"toml\"\n[auth]\npassword = \"" + numbered(23) + "\"\n",
		"etc/units/kubelet.yaml":    "name: kubelet\nenv: [API_TOKEN=" + numbered(24) + "]\n",
		"etc/admin/kubeconfig":      numbered(25),
		"etc/notes.txt":             numbered(26),
		"lib/pki/ca.key":            key,
		"lib/identity/kubelet.key":  key,
		"lib/member.json":           `{"name":"vm1"}`,
		"lib/kubelet/pods/a/secret": numbered(27),
		"run/kubeconfig":            "client-key-data: LS0tLS1CRUdJTi" + numbered(28),
		"log/kubelet.log.1":         line(now.Add(-2*time.Hour), "too-old-line") + line(now.Add(-time.Minute), "kept-rotated-line"),
		"log/kubelet.log": line(now, "kept-line Authorization: Bearer "+numbered(29)) + line(now, strings.ReplaceAll(key, "\n", `\n`)) +
			line(now, "issue failed for kijabi.n.tokenid."+numbered(30)+".ff00"),
		"log/pods/web/0.log": numbered(31),
	} {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// The supervisor's socket says that the logs are files; nobody answers there.
	if err := os.WriteFile(o.socket(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ca, err := pki.NewCA("test", 0)
	if err != nil {
		t.Fatal(err)
	}
	cert, secret, err := ca.Issue(pki.Subject(pki.ComponentAdmin, ""))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"user.crt": cert, "user.key": secret, "ca.crt": ca.CertificatePEM()} {
		if err := os.WriteFile(filepath.Join(o.Layout.AdminDir(), name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

func TestNoSecretIsInTheBundle(t *testing.T) {
	api := &apiStandIn{}
	connect := serveStandIn(t, api)
	cluster := Cluster(ClusterOptions{
		Connect: connect,
		Status: func(context.Context) (any, error) {
			return map[string]string{"leader": "vm1", "token": numbered(40)}, nil
		},
		Metrics: func(context.Context) (map[string][]byte, error) {
			return map[string][]byte{"vm1": []byte("kept_metric{verb=\"GET\"} 7\n")}, errors.New("vm2: no answer")
		},
	})
	o := plantedMachine(t)
	var packed bytes.Buffer
	_, err := Write(t.Context(), &packed, "bundle", Header{Created: time.Now(), Machine: "vm1"}, append(Machine(o), cluster...))
	if err != nil {
		t.Fatal(err)
	}
	files, manifest := unpack(t, packed.Bytes(), "bundle")
	var whole strings.Builder
	for path, content := range files {
		whole.WriteString(path + "\n" + content + "\n")
		if at := strings.Index(content, canary); at >= 0 {
			t.Errorf("%s: …%s…", path, content[max(0, at-60):min(len(content), at+20)])
		}
		if strings.HasSuffix(path, ".key") || strings.Contains(path, "secrets") || strings.Contains(content, "PRIVATE KEY") {
			t.Errorf("the bundle holds %s", path)
		}
	}
	for _, kept := range []string{
		"kept: setting", "kept = \"toml\"", "name: kubelet", "kept-option", "PLAIN_LOOKING", "kept-annotation", "kept-key",
		"kept-message", "kept-line", "kept-rotated-line", "kijabi.m.abc.", "tokenid", `"leader": "vm1"`, "user.crt", "kept_metric{verb=\"GET\"} 7", "vm2: no answer",
	} {
		if !strings.Contains(whole.String(), kept) {
			t.Errorf("%q is not in the bundle", kept)
		}
	}
	if strings.Contains(whole.String(), "too-old-line") {
		t.Error("a line older than --since is in the bundle")
	}
	for _, resource := range api.asked {
		if resource == "secrets" {
			t.Error("Secrets were asked for")
		}
	}
	for _, path := range []string{"preflight.json", "certificates.json", "health.json", "network/routes.txt", "network/packetfilter.json", "system/meminfo.txt", "system/cgroups.txt", "disk.json", "cluster/pods.json", "cluster/events.json"} {
		if files[path] == "" {
			t.Errorf("%s is missing; %+v", path, manifest.Missing)
		}
	}
	t.Logf("%d files, missing: %+v", len(files), manifest.Missing)
}

func TestWithoutCluster(t *testing.T) {
	down := func(context.Context) (*grpc.ClientConn, error) { return nil, errors.New("no master answers") }
	files, manifest := write(t, usual(), append([]Collector{{Name: "versions", Collect: entries(Entry{Path: "versions.txt", Content: []byte("x")})}},
		Cluster(ClusterOptions{Connect: down, Node: "vm1"})...)...)
	if files["versions.txt"] == "" || reasonOf(manifest, "objects of the cluster") != "no master answers" {
		t.Errorf("%+v", manifest)
	}
}
