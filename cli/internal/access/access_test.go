package access

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/tools/clientcmd"

	"kijabi.dev/platform/pki"
)

// newAccess makes an access directory whose certificate lives for life.
func newAccess(t *testing.T, name string, life time.Duration, masters ...Master) *Access {
	t.Helper()
	a := &Access{Dir: filepath.Join(t.TempDir(), name), Cluster: Cluster{Name: name, Masters: masters}}
	if err := os.MkdirAll(a.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	ca, err := pki.NewCA("test", 0)
	if err != nil {
		t.Fatal(err)
	}
	request := pki.Subject(pki.ComponentAdmin, "")
	request.Life = life
	cert, key, err := ca.Issue(request)
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string][]byte{a.Files().CertFile: cert, a.Files().KeyFile: key, a.Files().CAFile: ca.CertificatePEM()} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Save(Owner{os.Getuid(), os.Getgid()}); err != nil {
		t.Fatal(err)
	}
	return a
}

func TestKubeconfigKeepsOtherClusters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kubeconfig")
	own := Owner{os.Getuid(), os.Getgid()}
	one := newAccess(t, "one", 0, Master{"m1", "1.1.1.1:6444", "1.1.1.1:6443"}, Master{"m2", "1.1.1.2:6444", "1.1.1.2:6443"})
	two := newAccess(t, "two", 0, Master{"m1", "2.2.2.1:6444", "2.2.2.1:6443"})
	for _, a := range []*Access{one, two, one} { // twice: entries are replaced
		if err := a.WriteKubeconfig(path, "/opt/kijabi", own); err != nil {
			t.Fatal(err)
		}
	}
	config, err := clientcmd.LoadFromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	servers := map[string]string{}
	for name, cluster := range config.Clusters {
		servers[name] = cluster.Server
	}
	want := map[string]string{
		"one": "https://1.1.1.1:6443", "m1@one": "https://1.1.1.1:6443", "m2@one": "https://1.1.1.2:6443",
		"two": "https://2.2.2.1:6443", "m1@two": "https://2.2.2.1:6443",
	}
	if diff := cmp.Diff(want, servers); diff != "" || config.CurrentContext != "one" {
		t.Errorf("current %s, servers %s", config.CurrentContext, diff)
	}
	exec := config.AuthInfos["one"].Exec
	if exec == nil || exec.Command != "/opt/kijabi" || !cmp.Equal(exec.Args, []string{"credential", "--cluster", "one"}) {
		t.Errorf("exec = %+v", exec)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode: %v, %v", info, err)
	}
	if err := one.RemoveKubeconfig(path, own); err != nil {
		t.Fatal(err)
	}
	if config, err = clientcmd.LoadFromFile(path); err != nil || len(config.Contexts) != 2 || config.CurrentContext != "" {
		t.Errorf("after removal: %+v, %v", config, err)
	}
	if err := two.RemoveKubeconfig(path, own); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("empty kubeconfig is left: %v", err)
	}
}

func TestKubeconfigNamesTheVirtualAddress(t *testing.T) {
	path, own := filepath.Join(t.TempDir(), "kubeconfig"), Owner{os.Getuid(), os.Getgid()}
	a := newAccess(t, "one", 0, Master{"m1", "1.1.1.1:6444", "1.1.1.1:6443"})
	a.Cluster.VIP = Doors([]string{"1.1.1.100", "fd00::100"})
	if err := a.WriteKubeconfig(path, "kijabi", own); err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.LoadFromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := config.Clusters["one"].Server; got != "https://1.1.1.100:6443" || a.Cluster.VIP[1] != "[fd00::100]:6443" {
		t.Errorf("server = %s of %v", got, a.Cluster.VIP)
	}
	if got := config.Clusters["m1@one"].Server; got != "https://1.1.1.1:6443" {
		t.Errorf("server of the master = %s", got)
	}
}

func TestRepairKubeconfig(t *testing.T) {
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	alive := listener.Addr().String()
	a := newAccess(t, "one", 0, Master{"dead", "127.0.0.1:1", "127.0.0.1:1"}, Master{"alive", alive, alive})
	path, own := filepath.Join(t.TempDir(), "kubeconfig"), Owner{os.Getuid(), os.Getgid()}
	if err := a.WriteKubeconfig(path, "kijabi", own); err != nil {
		t.Fatal(err)
	}
	server := func() string {
		if err := a.RepairKubeconfig(path, own); err != nil {
			t.Fatal(err)
		}
		config, err := clientcmd.LoadFromFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return config.Clusters["one"].Server
	}
	if got := server(); got != "https://"+alive {
		t.Errorf("server = %s, want the living master", got)
	}
	virtual, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	vip := virtual.Addr().String()
	a.Cluster.VIP = []string{"127.0.0.1:1", vip}
	if got := server(); got != "https://"+vip {
		t.Errorf("server = %s, want the virtual address that answers", got)
	}
	_ = virtual.Close()
	if got := server(); got != "https://"+alive {
		t.Errorf("server = %s, want a master while the virtual address does not answer", got)
	}
	_ = listener.Close()
	if got := server(); got != "https://"+alive {
		t.Errorf("server = %s; nothing should change while no master lives", got)
	}
}

func TestConnectNamesEveryMasterThatIsDown(t *testing.T) {
	a := newAccess(t, "one", 0, Master{"m1", "127.0.0.1:1", "127.0.0.1:1"}, Master{"m2", "127.0.0.1:2", "127.0.0.1:2"})
	_, _, err := a.Connect(t.Context())
	if err == nil || !strings.Contains(err.Error(), "m1 (127.0.0.1:1): connection refused") || !strings.Contains(err.Error(), "m2") {
		t.Errorf("connect = %v", err)
	}
}

func TestRenewFailureMattersOnlyAfterExpiry(t *testing.T) {
	down := Master{"m1", "127.0.0.1:1", "127.0.0.1:1"}
	// Backdated by five minutes, a life of one minute is past two thirds at once.
	if err := newAccess(t, "one", time.Minute, down).Renew(t.Context()); err != nil {
		t.Errorf("a certificate that is still valid: %v", err)
	}
	expired := newAccess(t, "one", time.Millisecond, down)
	err := expired.Renew(t.Context())
	if err == nil || !strings.Contains(err.Error(), "has expired") || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("an expired certificate: %v", err)
	}
}

func TestLearn(t *testing.T) {
	m := func(name string) Master { return Master{Name: name, GRPC: name + ":6444"} }
	a := &Access{Cluster: Cluster{Masters: []Master{m("b"), m("a")}}}
	if !a.Learn([]Master{m("a"), m("b"), m("c")}, []Node{{"n", "1.1.1.1"}}) {
		t.Error("nothing learned")
	}
	if want := []Master{m("b"), m("a"), m("c")}; !cmp.Equal(a.Cluster.Masters, want) {
		t.Errorf("masters = %v, want %v", a.Cluster.Masters, want)
	}
	if a.Learn([]Master{m("a"), m("b"), m("c")}, nil) || a.Learn(nil, nil) {
		t.Error("learned the same again")
	}
}

func TestFindExplains(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	t.Setenv("SUDO_UID", "")
	t.Setenv("KIJABI_ACCESS", "")
	if _, err := Find(""); err == nil || !strings.Contains(err.Error(), "kijabi up") {
		t.Errorf("find = %v", err)
	}
}
