package app_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"kijabi.dev/kube-proxy/internal/app"
	"kijabi.dev/kube-proxy/internal/dataplane/dataplanetest"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/pki/pkitest"
	"kijabi.dev/platform/rpc"
	objectv1pb "kijabi.dev/proto/gen/kijabi/object/v1"
	proxyv1pb "kijabi.dev/proto/gen/kijabi/proxy/v1"
)

// asProgram makes the test binary be kube-proxy, so that it can run in a network
// namespace, be killed and be started again.
const asProgram = "KIJABI_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	switch os.Getenv(asProgram) {
	case "run":
		os.Exit(lifecycle.Main("kube-proxy", app.DefaultConfig(), app.Run))
	case "cleanup":
		if err := app.Cleanup(); err != nil {
			_, _ = fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// master is an apiserver that knows what kube-proxy asks.
type master struct {
	objectv1pb.UnimplementedObjectServiceServer

	mu      sync.Mutex
	version uint64
	objects map[string]stored // resource/name
	changed chan struct{}
}

type stored struct {
	resource string
	version  uint64
	object   object.Object
}

func (m *master) put(resource string, obj object.Object) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.version += 1 << 20
	obj = obj.DeepCopyObject().(object.Object)
	obj.SetResourceVersion(object.FormatVersion(m.version))
	m.objects[resource+"/"+obj.GetName()] = stored{resource, m.version, obj}
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *master) Watch(req *objectv1pb.WatchRequest, out grpc.ServerStreamingServer[objectv1pb.WatchResponse]) error {
	var sent uint64
	if v := req.GetResourceVersion(); v != "" {
		var err error
		if sent, err = object.ParseVersion(v); err != nil {
			return err
		}
	}
	initial := req.GetSendInitialEvents()
	for {
		m.mu.Lock()
		res, changed := &objectv1pb.WatchResponse{Progress: object.FormatVersion(m.version), InitialEventsEnd: initial}, m.changed
		for _, s := range m.objects {
			if s.resource != req.GetResource().GetResource() || s.version <= sent {
				continue
			}
			packed, err := object.Pack(s.object)
			if err != nil {
				m.mu.Unlock()
				return err
			}
			res.Events = append(res.Events, &objectv1pb.WatchEvent{Type: objectv1pb.EventType_EVENT_TYPE_ADDED, Object: packed})
		}
		sent, initial = m.version, false
		m.mu.Unlock()
		if err := out.Send(res); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-out.Context().Done():
			return nil
		}
	}
}

// start runs the test binary as kube-proxy in the world's node.
func start(t *testing.T, w *dataplanetest.World, mode string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), asProgram+"="+mode)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	w.Node.Must(t, cmd.Start) // a child is born in the namespace of the thread that makes it
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd
}

func eventually(t *testing.T, what string, ok func() bool) time.Duration {
	t.Helper()
	begin := time.Now()
	for !ok() {
		if time.Since(begin) > 15*time.Second {
			t.Fatalf("in vain: %s", what)
		}
		<-time.After(time.Millisecond) // leaves the processor to what is waited for
	}
	return time.Since(begin)
}

func service() *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "1"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeNodePort, ClusterIP: "10.96.0.20", ClusterIPs: []string{"10.96.0.20"},
			Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80, NodePort: 30080}},
		},
	}
}

func endpoints(ip, node string) *discoveryv1.EndpointSlice {
	name, port, protocol, ready := "http", int32(8080), corev1.ProtocolTCP, true
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "web-1", UID: "2", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &protocol}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{ip}, NodeName: &node, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
	}
}

// TestProgram runs kube-proxy against a master, changes the cluster, takes the master
// away, kills kube-proxy and loses all rules.
func TestProgram(t *testing.T) {
	w := dataplanetest.NewWorld(t)
	ca := pkitest.NewCA(t)
	api := &master{objects: map[string]stored{}, changed: make(chan struct{})}
	api.put("services", service())
	api.put("endpointslices", endpoints(dataplanetest.PodAIP, "node"))
	serverID := pkitest.Identity(t, ca, pki.ComponentAPIServer, "node")
	server, err := rpc.NewServer(rpc.ServerConfig{Identity: serverID, Log: zaptest.NewLogger(t), GracePeriod: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	objectv1pb.RegisterObjectServiceServer(server, api)
	var listener net.Listener
	w.Node.Must(t, func() error {
		listener, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp4", dataplanetest.NodeIP+":6444")
		return err
	})
	masterCtx, killMaster := context.WithCancel(t.Context())
	masterGone := make(chan error, 1)
	go func() { masterGone <- server.Serve(masterCtx, listener) }()

	cfg := app.DefaultConfig()
	cfg.TypeMeta = configv1.TypeMeta{APIVersion: configv1.APIVersion, Kind: "KubeProxyConfiguration"}
	cfg.NodeName, cfg.NodeIP, cfg.ListenAddress = "node", dataplanetest.NodeIP, dataplanetest.NodeIP+":10256"
	cfg.Identity = pkitest.Files(t, ca, pki.Subject(pki.ComponentKubeProxy, "node"))
	cfg.APIServers, cfg.DataDir = []string{dataplanetest.NodeIP + ":6444"}, t.TempDir()
	content, err := yaml.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "kube-proxy.yaml")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	servedBy := func(pod string) func() bool {
		return func() bool {
			got, err := w.Client.Ask("tcp4", dataplanetest.NodeIP+":30080")
			return err == nil && got.Server == pod
		}
	}

	proxy := start(t, w, "run", "--config", file)
	t.Logf("served %v after the start", eventually(t, "a node port answers", servedBy("pod-a")))
	api.put("endpointslices", endpoints(dataplanetest.PodCIP, "node-2"))
	t.Logf("changed after %v", eventually(t, "the endpoint moves", servedBy("pod-c")))
	trace(t, w, serverID)

	eventually(t, "snapshots with the service and the new endpoint", func() bool {
		svcs, err1 := os.ReadFile(filepath.Join(cfg.DataDir, "services.snapshot"))
		slices, err2 := os.ReadFile(filepath.Join(cfg.DataDir, "endpointslices.snapshot"))
		return errors.Join(err1, err2) == nil && bytes.Contains(svcs, []byte("10.96.0.20")) && bytes.Contains(slices, []byte(dataplanetest.PodCIP))
	})
	killMaster()
	if err := <-masterGone; err != nil {
		t.Fatalf("master: %v", err)
	}
	if err := proxy.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = proxy.Wait()
	if !servedBy("pod-c")() {
		t.Error("no service while kube-proxy is down")
	}
	cleanup := start(t, w, "cleanup") // as after a reboot: no rules
	if err := cleanup.Wait(); err != nil {
		t.Fatalf("cleanup: %v", err)
	}
	if servedBy("pod-c")() {
		t.Error("served without rules")
	}
	proxy = start(t, w, "run", "--config", file)
	t.Logf("served from the snapshot %v after the start, without a master", eventually(t, "service from the snapshot", servedBy("pod-c")))
	if err := proxy.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := proxy.Wait(); err != nil {
		t.Errorf("end of kube-proxy: %v", err)
	}
	if !servedBy("pod-c")() {
		t.Error("no service after kube-proxy ended")
	}
}

// trace asks kube-proxy itself where a connection would go.
func trace(t *testing.T, w *dataplanetest.World, id *pki.Identity) {
	t.Helper()
	tlsConfig := id.ClientTLS(pki.ServerName(pki.ComponentKubeProxy, "node"))
	tlsConfig.MinVersion = tls.VersionTLS13
	conn, err := grpc.NewClient("passthrough:///"+dataplanetest.NodeIP+":10256", grpc.WithTransportCredentials(credentials.NewTLS(tlsConfig)),
		grpc.WithContextDialer(func(_ context.Context, address string) (net.Conn, error) { return w.Node.Dial("tcp4", address) }))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	res, err := proxyv1pb.NewProxyServiceClient(conn).Trace(t.Context(), &proxyv1pb.TraceRequest{Address: "10.96.0.20", Protocol: "TCP", Port: 80})
	if err != nil || res.GetService() != "default/web:http" || res.GetAction() != "forward" ||
		len(res.GetEndpoints()) != 1 || res.GetEndpoints()[0] != dataplanetest.PodCIP+":8080" {
		t.Errorf("trace: %v, %v", res, err)
	}
}
