package loops

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
	"kijabi.dev/test/harness"
)

const machine = "m1"

// stack is one master of processes on a loopback address.
type stack struct {
	dir     string
	address string // IP
	ca      *pki.CA
	admin   *grpc.ClientConn
	api     *client.Client

	mu       sync.Mutex
	programs map[string]*program
}

// program is a process; done waits until it has ended.
type program struct {
	cmd  *exec.Cmd
	done sync.WaitGroup
}

// newStack starts an apiserver and the given programs beside it.
func newStack(t *harness.T, programs ...string) *stack {
	t.Helper()
	// Of 127.0.0.0/8 every address is this host's; a random one has its ports to itself.
	var random [2]byte
	if _, err := rand.Read(random[:]); err != nil {
		t.Fatal(err)
	}
	s := &stack{dir: t.TempDir(), address: fmt.Sprintf("127.78.%d.%d", random[0], 1+random[1]%254), programs: map[string]*program{}}
	s.certificates(t)
	admin, err := rpc.Dial(s.at(configv1.PortGRPC), s.identity(t, pki.ComponentAdmin, "admin"))
	if err != nil {
		t.Fatal(err)
	}
	s.admin, s.api = admin, client.New(admin)
	t.Cleanup(func() {
		_ = admin.Close()
		for name := range s.programs {
			s.kill(name)
		}
		if t.Failed() {
			s.logs(t)
		}
	})
	s.configure(t)
	s.start(t, "apiserver")
	for _, name := range programs {
		s.start(t, name)
	}
	harness.Eventually(t, time.Minute, "the apiserver serves", func() error {
		_, err := get[*corev1.Namespace](s, "", "default")
		return err
	})
	return s
}

func (s *stack) at(port int) string { return net.JoinHostPort(s.address, strconv.Itoa(port)) }

func (s *stack) path(name string) string { return filepath.Join(s.dir, name) }

// certificates makes the CAs and what each program proves itself with.
func (s *stack) certificates(t *harness.T) {
	t.Helper()
	cas := map[string]*pki.CA{}
	for _, base := range []string{"ca", "peer-ca", "front-proxy-ca"} {
		ca, err := pki.NewCA("loops-"+base, time.Hour)
		if err == nil {
			err = ca.Save(s.dir, base)
		}
		if err != nil {
			t.Fatal(err)
		}
		cas[base] = ca
	}
	s.ca = cas["ca"]
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	text, err := pki.EncodeKey(key)
	if err == nil {
		err = os.WriteFile(s.path("service-account.key"), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, component := range []string{pki.ComponentAPIServer, pki.ComponentScheduler, pki.ComponentControllerManager, pki.ComponentCloudControllerManager} {
		s.issue(t, s.ca, component, component)
	}
	s.issue(t, cas["peer-ca"], pki.ComponentAPIServer, "peer")
}

func (s *stack) issue(t *harness.T, ca *pki.CA, component, base string) {
	t.Helper()
	request := pki.Subject(component, machine)
	request.IPs = append(request.IPs, net.ParseIP(s.address))
	request.Life = time.Hour
	cert, key, err := ca.Issue(request)
	if err != nil {
		t.Fatal(err)
	}
	for ending, content := range map[string][]byte{".crt": cert, ".key": key} {
		if err := os.WriteFile(s.path(base+ending), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// identity is the certificate of a component of any machine, for the test's own use.
func (s *stack) identity(t *harness.T, component, of string) *pki.Identity {
	t.Helper()
	request := pki.Subject(component, of)
	request.Life = time.Hour
	cert, key, err := s.ca.Issue(request)
	if err != nil {
		t.Fatal(err)
	}
	id, err := pki.NewIdentity(cert, key, s.ca.CertificatePEM())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (s *stack) files(base, ca string) configv1.Identity {
	return configv1.Identity{CertFile: s.path(base + ".crt"), KeyFile: s.path(base + ".key"), CAFile: s.path(ca + ".crt")}
}

// configure writes the programs' configurations. JSON is YAML.
func (s *stack) configure(t *harness.T) {
	t.Helper()
	common := func(name, kind string, port int) configv1.Common {
		return configv1.Common{
			TypeMeta: configv1.TypeMeta{APIVersion: configv1.APIVersion, Kind: kind},
			NodeName: machine, ListenAddress: s.at(port), Identity: s.files(name, "ca"), LogLevel: "debug",
		}
	}
	network := configv1.DefaultNetwork()
	for name, value := range map[string]any{
		"apiserver": &configv1.APIServerConfiguration{
			Common:      common("apiserver", "APIServerConfiguration", configv1.PortGRPC),
			RESTAddress: s.at(configv1.PortREST), PeerAddress: s.at(configv1.PortPeer), AdvertiseAddress: s.address,
			DataDir: s.path("data"), PKIDir: s.dir, ManifestsDir: s.path("manifests"), ClusterID: "loops", Peer: s.files("peer", "peer-ca"), Bootstrap: true,
			Network: network, Etcd: configv1.Etcd{PeerURL: "https://" + s.at(configv1.PortEtcdPeer)},
		},
		"scheduler": &configv1.SchedulerConfiguration{
			Common: common("scheduler", "SchedulerConfiguration", configv1.PortScheduler), APIServer: s.at(configv1.PortGRPC),
		},
		"controller-manager": &configv1.ControllerManagerConfiguration{
			Common:    common("controller-manager", "ControllerManagerConfiguration", configv1.PortControllerManager),
			APIServer: s.at(configv1.PortGRPC), Network: network, ClusterCAFile: s.path("ca.crt"),
			AutoscalerSyncPeriod: metav1.Duration{Duration: time.Second},
		},
		"cloud-controller-manager": &configv1.CloudControllerManagerConfiguration{
			Common:    common("cloud-controller-manager", "CloudControllerManagerConfiguration", configv1.PortCloudControllerManager),
			APIServer: s.at(configv1.PortGRPC), Provider: s.at(configv1.PortCloudProvider),
		},
	} {
		content, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(s.path(name+".yaml"), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// start starts a program; its log goes to a file that is shown when the test fails.
func (s *stack) start(t *harness.T, name string) {
	t.Helper()
	log, err := os.OpenFile(s.path(name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), filepath.Join(harness.Programs(t), name), "--config", s.path(name+".yaml"))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // nothing outlives the test
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	p := &program{cmd: cmd}
	p.done.Go(func() { _ = cmd.Wait() })
	s.mu.Lock()
	s.programs[name] = p
	s.mu.Unlock()
}

// kill ends a program as kill -9 does and waits until it is gone.
func (s *stack) kill(name string) {
	s.mu.Lock()
	p := s.programs[name]
	s.mu.Unlock()
	if p == nil {
		return
	}
	_ = p.cmd.Process.Kill() // it may have ended
	p.done.Wait()
}

// restart kills a program and starts it anew.
func (s *stack) restart(t *harness.T, name string) {
	t.Helper()
	s.kill(name)
	s.start(t, name)
}

// logs shows the end of each program's log.
func (s *stack) logs(t *harness.T) {
	t.Helper()
	for name := range s.programs {
		content, err := os.ReadFile(s.path(name + ".log"))
		if err != nil {
			t.Log(err)
			continue
		}
		if dir := os.Getenv("KIJABI_LOOPS_LOGS"); dir != "" {
			_ = os.WriteFile(filepath.Join(dir, name+".log"), content, 0o600)
		}
		t.Logf("%s:\n%s", name, content[max(0, len(content)-4000):])
	}
}

// request is the bound on one call.
const request = 20 * time.Second

func get[T object.Object](s *stack, namespace, name string) (T, error) {
	ctx, cancel := context.WithTimeout(context.Background(), request)
	defer cancel()
	return client.Get[T](ctx, s.api, object.Key{Namespace: namespace, Name: name})
}

func list[T object.Object](t *harness.T, s *stack, namespace string) []T {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), request)
	defer cancel()
	page, err := client.List[T](ctx, s.api, client.ListOptions{Namespace: namespace})
	if err != nil {
		t.Fatal(err)
	}
	return page.Items
}

// create stores an object and returns it as stored.
func create[T object.Object](t *harness.T, s *stack, obj T) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), request)
	defer cancel()
	stored, err := s.api.Create(ctx, obj)
	if err != nil {
		t.Fatalf("create %T %s: %v", obj, object.KeyOf(obj), err)
	}
	return stored.(T)
}

func (s *stack) remove(t *harness.T, obj object.Object, opts client.DeleteOptions) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), request)
	defer cancel()
	if err := s.api.Delete(ctx, obj, opts); err != nil {
		t.Fatalf("delete %T %s: %v", obj, object.KeyOf(obj), err)
	}
}

// change reads an object, lets f change it and writes it, until nobody else wrote
// in between.
func change[T object.Object](t *harness.T, s *stack, namespace, name, subresource string, f func(T)) {
	t.Helper()
	harness.Eventually(t, time.Minute, fmt.Sprintf("change of %s/%s", namespace, name), func() error {
		ctx, cancel := context.WithTimeout(t.Context(), request)
		defer cancel()
		obj, err := get[T](s, namespace, name)
		if err != nil {
			return err
		}
		f(obj)
		_, err = s.api.UpdateSubresource(ctx, obj, subresource)
		return err
	})
}
