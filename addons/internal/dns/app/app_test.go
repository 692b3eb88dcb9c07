package app_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"go.uber.org/zap/zaptest"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
	"kijabi.dev/platform/sockets/socketstest"
	objectv1pb "kijabi.dev/proto/gen/kijabi/object/v1"
)

const (
	door    = "127.0.0.1:6444"
	server  = "10.96.0.10"
	cluster = `apiVersion: kijabi.dev/v1
kind: DNSConfiguration
nodeName: node-1
listenAddress: 127.0.0.1:10262
identity: {certFile: DIR/dns.crt, keyFile: DIR/dns.key, caFile: DIR/ca.crt}
apiServers: ["` + door + `"]
dataDir: DIR/data
upstream: ["` + server + `"]
network: {podCIDR: 10.244.0.0/16, serviceCIDR: 10.96.0.0/16, dnsAddress: ` + server + `, clusterDomain: cluster.local, nodePortFirst: 30000, nodePortLast: 32767}
`
)

// apiserver is an ObjectService that knows a Service with an address, and a headless
// one with an endpoint.
type apiserver struct {
	objectv1pb.UnimplementedObjectServiceServer

	t *testing.T
}

func (a apiserver) Watch(req *objectv1pb.WatchRequest, out grpc.ServerStreamingServer[objectv1pb.WatchResponse]) error {
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{
			Namespace: "shop", Name: name, UID: types.UID(name), ResourceVersion: "4",
			Labels: map[string]string{discoveryv1.LabelServiceName: name},
		}
	}
	objects := []object.Object{&discoveryv1.EndpointSlice{
		ObjectMeta: meta("db"), AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.244.1.9"}}},
	}}
	if req.GetResource().GetResource() == "services" {
		objects = []object.Object{
			&corev1.Service{ObjectMeta: meta("web"), Spec: corev1.ServiceSpec{ClusterIP: "10.96.1.2", ClusterIPs: []string{"10.96.1.2"}}},
			&corev1.Service{ObjectMeta: meta("db"), Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone}},
		}
	}
	message := &objectv1pb.WatchResponse{Progress: "5", InitialEventsEnd: true}
	for _, obj := range objects {
		packed, err := object.Pack(obj)
		if err != nil {
			a.t.Error(err)
		}
		message.Events = append(message.Events, &objectv1pb.WatchEvent{Type: objectv1pb.EventType_EVENT_TYPE_ADDED, Object: packed})
	}
	if err := out.Send(message); err != nil {
		return err
	}
	<-out.Context().Done()
	return nil
}

// TestProgram runs the program in a network namespace of its own: it answers from an
// apiserver, from memory when that is gone, from its snapshot after it ended by a
// signal, also what was asked meanwhile. Making a namespace needs root.
func TestProgram(t *testing.T) {
	// Sockets and children of this thread live in the new namespace. The thread is
	// never unlocked, so that it ends with the test.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("new network namespace: %v", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "dns")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "kijabi.dev/addons/cmd/dns").CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	identity := certificates(t, dir)
	writeFile(t, filepath.Join(dir, "dns.yaml"), []byte(strings.ReplaceAll(cluster, "DIR", dir)))

	stopMasters := serve(t, identity)
	manager := socketstest.New(t)
	running := start(t, manager, program, dir)
	waitFor(t, "an answer from the apiserver", answers)
	for _, name := range []string{"services.snapshot", "endpointslices.snapshot"} {
		waitFor(t, name, func() bool { _, err := os.Stat(filepath.Join(dir, "data", name)); return err == nil })
	}
	if got := ask("example.com.", dns.TypeA); got == nil || got.Rcode != dns.RcodeRefused {
		t.Errorf("a name outside, with itself as the only resolver: %v", got)
	}

	stopMasters()
	if !answers() {
		t.Error("no answer once the masters are away")
	}
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGKILL, syscall.SIGTERM} {
		var pending []*dns.Conn
		if signal == syscall.SIGTERM {
			pending = append(pending, question(t, "udp"), question(t, "tcp"), question(t, "udp"), question(t, "tcp"))
		}
		if err := running.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		if err := running.Wait(); err != nil && signal == syscall.SIGTERM {
			t.Errorf("the program ended with %v", err)
		}
		if !hasAddress(t, lo) {
			t.Errorf("%s is not on lo after %s", server, signal)
		}
		pending = append(pending, question(t, "udp"), question(t, "tcp"))
		running = start(t, manager, program, dir)
		for i, conn := range pending {
			if reply, err := conn.ReadMsg(); err != nil || len(reply.Answer) != 1 {
				t.Errorf("answer to question %d around %s: %v, %v", i, signal, reply, err)
			}
			_ = conn.Close()
		}
		waitFor(t, "an answer from the snapshot", answers)
	}
	if err := running.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := running.Wait(); err != nil {
		t.Errorf("the program ended with %v", err)
	}
}

// question asks without waiting for the answer.
func question(t *testing.T, network string) *dns.Conn {
	t.Helper()
	conn, err := net.Dial(network, net.JoinHostPort(server, "53")) //nolint:noctx // a socket of this thread's namespace
	if err != nil {
		t.Fatal(err)
	}
	asked := &dns.Conn{Conn: conn}
	if err := asked.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := asked.WriteMsg(new(dns.Msg).SetQuestion("web.shop.svc.cluster.local.", dns.TypeA)); err != nil {
		t.Fatal(err)
	}
	return asked
}

// certificates writes the files of the program's identity and returns the apiserver's.
func certificates(t *testing.T, dir string) *pki.Identity {
	t.Helper()
	ca, err := pki.NewCA("test", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.Issue(pki.Subject("dns", "node-1"))
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "dns.crt"), cert)
	writeFile(t, filepath.Join(dir, "dns.key"), key)
	writeFile(t, filepath.Join(dir, "ca.crt"), ca.CertificatePEM())
	if cert, key, err = ca.Issue(pki.Subject("apiserver", "master-1")); err != nil {
		t.Fatal(err)
	}
	identity, err := pki.NewIdentity(cert, key, ca.CertificatePEM())
	if err != nil {
		t.Fatal(err)
	}
	return identity
}

func writeFile(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// serve runs an apiserver in this thread's namespace until stop.
func serve(t *testing.T, identity *pki.Identity) (stop func()) {
	t.Helper()
	gateway, err := rpc.NewServer(rpc.ServerConfig{Identity: identity, Log: zaptest.NewLogger(t)})
	if err != nil {
		t.Fatal(err)
	}
	objectv1pb.RegisterObjectServiceServer(gateway, apiserver{t: t})
	listener, err := net.Listen("tcp", door) //nolint:noctx // resolved in this thread's namespace
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- gateway.Serve(ctx, listener) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("apiserver: %v", err)
		}
	}
}

// start runs the program; the test's end kills it if it still runs.
func start(t *testing.T, manager *socketstest.Manager, program, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, "--config", filepath.Join(dir, "dns.yaml"))
	cmd.Stderr = testWriter{t}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	manager.Start(cmd)
	return cmd
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// ask returns the answer, or nil when there is none.
func ask(name string, qtype uint16) *dns.Msg {
	client := &dns.Client{Timeout: time.Second}
	reply, _, err := client.Exchange(new(dns.Msg).SetQuestion(name, qtype), net.JoinHostPort(server, "53"))
	if err != nil {
		return nil
	}
	return reply
}

// answers says whether all that the apiserver knows is answered.
func answers() bool {
	for _, test := range []struct {
		name  string
		qtype uint16
		want  string
	}{
		{"web.shop.svc.cluster.local.", dns.TypeA, "10.96.1.2"},
		{"2.1.96.10.in-addr.arpa.", dns.TypePTR, "web.shop.svc.cluster.local."},
		{"db.shop.svc.cluster.local.", dns.TypeA, "10.244.1.9"},
		{"9.1.244.10.in-addr.arpa.", dns.TypePTR, "10-244-1-9.db.shop.svc.cluster.local."},
	} {
		reply := ask(test.name, test.qtype)
		if reply == nil || len(reply.Answer) != 1 || dns.Field(reply.Answer[0], 1) != test.want {
			return false
		}
	}
	return true
}

func hasAddress(t *testing.T, link netlink.Link) bool {
	t.Helper()
	list, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(list, func(a netlink.Addr) bool { return a.IP.String() == server })
}

func waitFor(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("no %s", strings.TrimPrefix(strings.TrimPrefix(what, "an "), "a "))
		}
	}
}
