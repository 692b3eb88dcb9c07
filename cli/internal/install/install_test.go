package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"google.golang.org/protobuf/types/known/durationpb"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/platform/config"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
	certificatev1pb "kijabi.dev/proto/gen/kijabi/certificate/v1"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"
	objectv1pb "kijabi.dev/proto/gen/kijabi/object/v1"

	"kijabi.dev/cli/internal/machine/supervisor"
	"kijabi.dev/cli/internal/output"
)

// world is what the stand-ins of all machines share: the roster and the tokens.
type world struct {
	mu      sync.Mutex
	tokens  map[string]certificatev1pb.TokenRole // by whole token
	members []*mastersv1pb.Member
	pki     map[string][]byte
	network configv1.Network
	quota   int64
	replace *durationpb.Duration // after which a dead voter is replaced
	life    *durationpb.Duration // of certificates
	broken  string               // a program that never becomes healthy
	refusal string               // of removals
	busy    int                  // removals that are refused for the moment
	nodes   map[string]*corev1.Node
}

// apiserverStandIn answers what an installation asks an apiserver.
type apiserverStandIn struct {
	certificatev1pb.UnimplementedCertificateServiceServer
	mastersv1pb.UnimplementedMastersServiceServer
	objectv1pb.UnimplementedObjectServiceServer

	world *world
	ca    *pki.CA
	id    string
}

func (a *apiserverStandIn) CreateToken(_ context.Context, in *certificatev1pb.CreateTokenRequest) (*certificatev1pb.CreateTokenResponse, error) {
	a.world.mu.Lock()
	defer a.world.mu.Unlock()
	letter := map[certificatev1pb.TokenRole]string{
		certificatev1pb.TokenRole_TOKEN_ROLE_MASTER: "m", certificatev1pb.TokenRole_TOKEN_ROLE_NODE: "n",
	}[in.GetRole()]
	token := fmt.Sprintf("kijabi.%s.id%d.secret.%s", letter, len(a.world.tokens), pki.Pin(a.ca.CertificatePEM()))
	a.world.tokens[token] = in.GetRole()
	return &certificatev1pb.CreateTokenResponse{Token: token}, nil
}

func (a *apiserverStandIn) Issue(_ context.Context, in *certificatev1pb.IssueRequest) (*certificatev1pb.IssueResponse, error) {
	a.world.mu.Lock()
	defer a.world.mu.Unlock()
	if _, ok := a.world.tokens[in.GetToken()]; !ok {
		return nil, apierrors.NewForbidden(schema.GroupResource{Resource: "certificates"}, in.GetName(), errors.New("the token has expired"))
	}
	csr, err := pki.ParseCSR(in.GetCertificateRequest())
	if err != nil {
		return nil, err
	}
	request := pki.Subject(in.GetComponent(), in.GetName())
	request.IPs = append(request.IPs, csr.IPAddresses...)
	cert, err := a.ca.SignCSR(in.GetCertificateRequest(), request)
	return &certificatev1pb.IssueResponse{Certificate: cert, CaBundle: a.ca.CertificatePEM()}, err
}

func (a *apiserverStandIn) Status(context.Context, *mastersv1pb.StatusRequest) (*mastersv1pb.StatusResponse, error) {
	a.world.mu.Lock()
	defer a.world.mu.Unlock()
	return &mastersv1pb.StatusResponse{ClusterId: a.id, Leader: a.world.members[0].GetName(), Epoch: 7, Members: slices.Clone(a.world.members), Network: a.world.ranges()}, nil
}

func (a *apiserverStandIn) Join(_ context.Context, in *mastersv1pb.JoinRequest) (*mastersv1pb.JoinResponse, error) {
	a.world.mu.Lock()
	defer a.world.mu.Unlock()
	a.world.members = append(a.world.members, &mastersv1pb.Member{
		Name: in.GetName(), PeerAddress: in.GetPeerAddress(), GrpcAddress: in.GetGrpcAddress(),
		RestAddress: in.GetRestAddress(), Role: mastersv1pb.MemberRole_MEMBER_ROLE_VOTER,
	})
	return &mastersv1pb.JoinResponse{ClusterId: a.id, Members: slices.Clone(a.world.members), Pki: a.world.pki, Network: a.world.ranges(), EtcdQuotaBytes: a.world.quota, ReplaceDeadAfter: a.world.replace, CertificateLife: a.world.life}, nil
}

func (a *apiserverStandIn) Remove(_ context.Context, in *mastersv1pb.RemoveRequest) (*mastersv1pb.RemoveResponse, error) {
	if in.GetPlanOnly() {
		a.world.mu.Lock()
		defer a.world.mu.Unlock()
		n := int32(len(a.world.members))
		return &mastersv1pb.RemoveResponse{
			Before: &mastersv1pb.Quorum{Voters: n, Living: n, Needed: n/2 + 1}, After: &mastersv1pb.Quorum{Voters: n - 1, Living: n - 1, Needed: (n-1)/2 + 1},
			Alive: true, Role: mastersv1pb.MemberRole_MEMBER_ROLE_VOTER, Refusal: a.world.refusal,
		}, nil
	}
	if a.world.isBusy() {
		return nil, apierrors.NewServiceUnavailable("leadership moves")
	}
	if !a.world.removeMember(in.GetName()) {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "masters"}, in.GetName())
	}
	return &mastersv1pb.RemoveResponse{}, nil
}

func (w *world) isBusy() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.busy--
	return w.busy >= 0
}

func (a *apiserverStandIn) Get(_ context.Context, in *objectv1pb.GetRequest) (*objectv1pb.GetResponse, error) {
	a.world.mu.Lock()
	defer a.world.mu.Unlock()
	packed, err := object.Pack(a.world.node(in.GetReference().GetName()))
	return &objectv1pb.GetResponse{Object: packed}, err
}

// node is a Node of a master until it was written to.
func (w *world) node(name string) *corev1.Node {
	if node := w.nodes[name]; node != nil {
		return node
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{controlPlane: "", "disk": "ssd"}}}
	node.Spec.Taints = []corev1.Taint{{Key: controlPlane, Effect: corev1.TaintEffectNoSchedule}, {Key: "gpu", Effect: corev1.TaintEffectNoExecute}}
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	return node
}

func (a *apiserverStandIn) Update(_ context.Context, in *objectv1pb.UpdateRequest) (*objectv1pb.UpdateResponse, error) {
	a.world.mu.Lock()
	defer a.world.mu.Unlock()
	obj, err := object.Unpack(in.GetObject())
	if err != nil {
		return nil, err
	}
	node := obj.(*corev1.Node)
	a.world.nodes[node.Name] = node
	return &objectv1pb.UpdateResponse{Object: in.GetObject()}, nil
}

func (a *apiserverStandIn) Patch(_ context.Context, in *objectv1pb.PatchRequest) (*objectv1pb.PatchResponse, error) {
	packed, err := object.Pack(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: in.GetReference().GetName()}})
	return &objectv1pb.PatchResponse{Object: packed}, err
}

// standInServices is a service manager whose programs are servers in this process. A
// program starts from nothing but its configuration and certificate on disk, so that
// both are checked.
type standInServices struct {
	t      *testing.T
	world  *world
	layout Layout
	units  map[string]supervisor.Unit
	ends   map[string]func()
}

var _ Services = (*standInServices)(nil)

func (s *standInServices) Install(_ context.Context, units []supervisor.Unit) error {
	for _, unit := range units {
		if err := unit.Validate(); err != nil {
			return err
		}
		s.units[unit.Name] = unit
	}
	return nil
}

func (s *standInServices) Start(ctx context.Context, name string) error {
	unit, ok := s.units[name]
	if !ok {
		return fmt.Errorf("unit %s is not installed", name)
	}
	if unit.Exec[1] != "--config" {
		return fmt.Errorf("unit %s runs %v", name, unit.Exec)
	}
	if name == containerd {
		return s.startContainerd()
	}
	common, serve, err := s.load(name, unit.Exec[2])
	if err != nil {
		return err
	}
	id, err := pki.OpenIdentity(common.Identity)
	if err != nil {
		return err
	}
	server, err := rpc.NewServer(rpc.ServerConfig{Address: common.ListenAddress, Identity: id, Log: zap.NewNop(), MaxConnectionsPerUser: 100})
	if err != nil {
		return err
	}
	serve(server)
	server.SetServing(name != s.world.broken)
	listener, err := rpc.Listen(ctx, common.ListenAddress)
	if err != nil {
		return err
	}
	serveCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- server.Serve(serveCtx, listener) }()
	s.ends[name] = func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	}
	return nil
}

func (s *standInServices) startContainerd() error {
	if err := os.MkdirAll(filepath.Dir(s.layout.containerdSocket()), 0o755); err != nil {
		return err
	}
	listener, err := new(net.ListenConfig).Listen(context.Background(), "unix", s.layout.containerdSocket())
	if err != nil {
		return err
	}
	s.ends[containerd] = func() { _ = listener.Close() }
	return nil
}

// load reads a program's configuration as the program does.
func (s *standInServices) load(name, path string) (configv1.Common, func(*rpc.Server), error) {
	switch name {
	case apiserver:
		var c configv1.APIServerConfiguration
		if err := config.Load(path, &c); err != nil {
			return c.Common, nil, err
		}
		if _, err := pki.OpenIdentity(c.Peer); err != nil {
			return c.Common, nil, err
		}
		ca, err := pki.LoadCA(filepath.Join(c.PKIDir, "ca.crt"), filepath.Join(c.PKIDir, "ca.key"))
		if err != nil {
			return c.Common, nil, err
		}
		if c.Bootstrap {
			s.world.found(c)
		} else if len(c.Join) == 0 {
			return c.Common, nil, errors.New("apiserver has nobody to join")
		}
		return c.Common, func(server *rpc.Server) {
			standIn := &apiserverStandIn{world: s.world, ca: ca, id: c.ClusterID}
			certificatev1pb.RegisterCertificateServiceServer(server, standIn)
			mastersv1pb.RegisterMastersServiceServer(server, standIn)
			objectv1pb.RegisterObjectServiceServer(server, standIn)
		}, nil
	default:
		return s.loadOther(name, path)
	}
}

func (s *standInServices) loadOther(name, path string) (configv1.Common, func(*rpc.Server), error) {
	var common configv1.Common
	var err error
	switch name {
	case "scheduler":
		var c configv1.SchedulerConfiguration
		err = config.Load(path, &c)
		common = c.Common
	case "controller-manager":
		var c configv1.ControllerManagerConfiguration
		err = config.Load(path, &c)
		common = c.Common
	case "cloud-controller-manager":
		var c configv1.CloudControllerManagerConfiguration
		err = config.Load(path, &c)
		common = c.Common
	case cloudProviderLocal:
		var c configv1.CloudProviderLocalConfiguration
		err = config.Load(path, &c)
		common = c.Common
	case "kubelet":
		var c configv1.KubeletConfiguration
		err = config.Load(path, &c)
		common = c.Common
	case "kube-proxy":
		var c configv1.KubeProxyConfiguration
		err = config.Load(path, &c)
		common = c.Common
	case "network-agent":
		var c configv1.NetworkAgentConfiguration
		err = config.Load(path, &c)
		common = c.Common
	case "dns":
		var c configv1.DNSConfiguration
		err = config.Load(path, &c)
		common = c.Common
	default:
		err = fmt.Errorf("unknown program %s", name)
	}
	return common, func(*rpc.Server) {}, err
}

// ranges are what the founder was configured with.
func (w *world) ranges() *mastersv1pb.Network {
	return &mastersv1pb.Network{
		PodCidr: w.network.PodCIDR, ServiceCidr: w.network.ServiceCIDR, DnsAddress: w.network.DNSAddress,
		ClusterDomain: w.network.ClusterDomain, NodePortFirst: w.network.NodePortFirst, NodePortLast: w.network.NodePortLast,
	}
}

// removeMember takes a master off the roster, if it is on it.
func (w *world) removeMember(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := len(w.members)
	w.members = slices.DeleteFunc(w.members, func(m *mastersv1pb.Member) bool { return m.GetName() == name })
	return len(w.members) < before
}

// found makes the roster of a new cluster.
func (w *world) found(c configv1.APIServerConfiguration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.members = []*mastersv1pb.Member{{
		Name: c.NodeName, PeerAddress: c.PeerAddress, GrpcAddress: c.ListenAddress, RestAddress: c.RESTAddress,
		Role: mastersv1pb.MemberRole_MEMBER_ROLE_VOTER,
	}}
	w.network, w.quota, w.replace, w.life = c.Network, c.Etcd.QuotaBytes, durationpb.New(c.Masters.ReplaceAfter()), durationpb.New(c.Masters.LeafLife())
	w.pki = map[string][]byte{}
	for _, name := range []string{"ca.crt", "ca.key", "peer-ca.crt", "peer-ca.key", "front-proxy-ca.crt", "front-proxy-ca.key", "service-account.key", "service-account.pub", pki.StorageKeyFile} {
		w.pki[name], _ = os.ReadFile(filepath.Join(c.PKIDir, name))
	}
}

func (s *standInServices) Stop(_ context.Context, name string) error {
	if end, ok := s.ends[name]; ok {
		delete(s.ends, name)
		end()
	}
	return nil
}

func (s *standInServices) Remove(_ context.Context, names []string) error {
	for _, name := range names {
		delete(s.units, name)
	}
	return nil
}

func (s *standInServices) LogHint(name string) string { return name + ".log" }

// machineOf returns options for a machine at 127.0.77.<n>: the whole range is this host's.
func machineOf(t *testing.T, w *world, name string, n int) (Options, *standInServices) {
	t.Helper()
	dir := t.TempDir()
	layout := Layout{ConfigDir: filepath.Join(dir, "etc"), StateDir: filepath.Join(dir, "lib"), RunDir: filepath.Join(dir, "run")}
	bin := filepath.Join(dir, "bin")
	for _, program := range Programs() {
		path := filepath.Join(bin, program)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	services := &standInServices{t: t, world: w, layout: layout, units: map[string]supervisor.Unit{}, ends: map[string]func(){}}
	t.Cleanup(func() {
		for name := range services.ends {
			_ = services.Stop(context.Background(), name)
		}
	})
	return Options{
		Layout: layout, Name: name, Address: "127.0.77." + strconv.Itoa(n), BinDir: bin,
		Services: services, Timeout: 20 * time.Second,
		IgnorePreflight: []string{"address-scope"}, // others do not reach 127.0.77.0/24
	}, services
}

// filesBelow lists all files of a layout.
func filesBelow(t *testing.T, layout Layout) []string {
	t.Helper()
	var found []string
	for _, dir := range []string{layout.ConfigDir, layout.StateDir} {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && !entry.IsDir() {
				found = append(found, path)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return found
}

func newWorld() *world {
	return &world{tokens: map[string]certificatev1pb.TokenRole{}, nodes: map[string]*corev1.Node{}}
}

func TestInitAndJoin(t *testing.T) {
	w, ctx := newWorld(), t.Context()
	first, _ := machineOf(t, w, "vm1", 1)
	var said bytes.Buffer
	first.Progress = output.NewProgress(&said)
	founded, err := InitMaster(ctx, first)
	if err != nil {
		t.Fatalf("init: %v\n%s", err, said.String())
	}
	second, _ := machineOf(t, w, "vm2", 2)
	if err := JoinMaster(ctx, Invitation{founded.Address, founded.MasterToken}, second); err != nil {
		t.Fatalf("master join: %v", err)
	}
	node, services := machineOf(t, w, "vm4", 4)
	if err := JoinNode(ctx, Invitation{founded.Address + ":6444", founded.NodeToken}, node); err != nil {
		t.Fatalf("node join: %v", err)
	}

	member, ok, err := ReadMember(node.Layout)
	if err != nil || !ok || member.Master || member.ClusterID == "" {
		t.Errorf("member = %+v, %v, %v", member, ok, err)
	}
	var kubelet configv1.KubeletConfiguration
	if err := config.Load(node.Layout.config("kubelet"), &kubelet); err != nil {
		t.Fatal(err)
	}
	if want := []string{"127.0.77.1:6444", "127.0.77.2:6444"}; !cmp.Equal(kubelet.APIServers, want) {
		t.Errorf("the node knows masters %v, want %v", kubelet.APIServers, want)
	}
	for _, path := range filesBelow(t, node.Layout) {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(path, ".key") && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %s", path, info.Mode())
		}
		if strings.HasSuffix(path, "ca.key") {
			t.Errorf("a node holds %s", path)
		}
	}
	shared := func(o Options, name string) []byte {
		content, err := os.ReadFile(o.Layout.pki(name))
		if err != nil {
			t.Fatal(err)
		}
		return content
	}
	if !bytes.Equal(shared(first, "service-account.key"), shared(second, "service-account.key")) {
		t.Error("the masters sign service account tokens with different keys")
	}
	if !bytes.Equal(shared(first, pki.StorageKeyFile), shared(second, pki.StorageKeyFile)) {
		t.Error("the masters seal Secrets with different keys")
	}
	if keys, err := pki.ParseStorageKeys(shared(first, pki.StorageKeyFile)); err != nil || len(keys) != 1 {
		t.Errorf("%d storage keys: %v", len(keys), err)
	}

	t.Run("second init", func(t *testing.T) {
		if _, err := InitMaster(ctx, first); err == nil || !strings.Contains(err.Error(), "already master vm1 of cluster "+member.ClusterID) || !strings.Contains(err.Error(), "kijabi reset") {
			t.Errorf("second init = %v", err)
		}
	})
	t.Run("master again", func(t *testing.T) {
		err := JoinMaster(ctx, Invitation{founded.Address, founded.MasterToken}, second)
		if err == nil || !strings.Contains(err.Error(), "already master vm2") || !strings.Contains(err.Error(), "kijabi reset") {
			t.Errorf("second join = %v", err)
		}
	})
	t.Run("again", func(t *testing.T) {
		err := JoinNode(ctx, Invitation{founded.Address, founded.NodeToken}, node)
		if err == nil || !strings.Contains(err.Error(), "already node vm4") || !strings.Contains(err.Error(), "kijabi reset") {
			t.Errorf("second join = %v", err)
		}
	})
	t.Run("reset", func(t *testing.T) {
		if err := Reset(ctx, ResetOptions{Layout: node.Layout, Services: services}); err != nil {
			t.Fatal(err)
		}
		if left := filesBelow(t, node.Layout); len(left) != 0 || len(services.units) != 0 || len(services.ends) != 0 {
			t.Errorf("reset leaves %v, %v", left, services.units)
		}
	})
}

func TestJoinRefused(t *testing.T) {
	w, ctx := newWorld(), t.Context()
	first, _ := machineOf(t, w, "vm1", 11)
	founded, err := InitMaster(ctx, first)
	if err != nil {
		t.Fatal(err)
	}
	other, err := pki.NewCA("another cluster", 0)
	if err != nil {
		t.Fatal(err)
	}
	busy, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.77.15:10250")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = busy.Close() }()
	expired := strings.Replace(founded.NodeToken, "secret", "other", 1)
	foreign := strings.Join(append(strings.Split(founded.NodeToken, ".")[:4], pki.Pin(other.CertificatePEM())), ".")
	for _, test := range []struct {
		name   string
		at     string
		token  string
		n      int
		change func(*Options)
		want   []string
	}{
		{name: "no token", want: []string{"token is missing", "kijabi token create"}},
		{name: "garbled token", token: "kijabi.n.x", want: []string{"not of the form"}},
		{name: "token of the other role", token: founded.MasterToken, want: []string{"is for masters", "--role node"}},
		{name: "expired token", token: expired, want: []string{"has expired", "kijabi token create --role node"}},
		{name: "another cluster's token", token: foreign, want: []string{"another pin"}},
		{name: "nobody there", at: "127.0.77.99", token: founded.NodeToken, want: []string{"connection refused", "127.0.77.99:6444"}},
		{name: "busy port", token: founded.NodeToken, n: 15, want: []string{"port 10250", "busy"}},
		{name: "loopback address", token: founded.NodeToken, change: func(o *Options) { o.IgnorePreflight = nil }, want: []string{"loopback", "--ignore-preflight address-scope"}},
		{name: "check that does not exist", token: founded.NodeToken, change: func(o *Options) { o.IgnorePreflight = []string{"prots"} }, want: []string{`"prots"`, "address-scope"}},
		{name: "foreign address", token: founded.NodeToken, change: func(o *Options) { o.Address = "203.0.113.9" }, want: []string{"203.0.113.9", "does not belong"}},
		{name: "bad name", token: founded.NodeToken, change: func(o *Options) { o.Name = "Big Machine" }, want: []string{"Big Machine", "--name"}},
		{name: "missing program", token: founded.NodeToken, change: func(o *Options) {
			if err := os.Remove(filepath.Join(o.BinDir, "runc")); err != nil {
				t.Fatal(err)
			}
		}, want: []string{"runc", "make build"}},
		{name: "sick program", token: founded.NodeToken, change: func(o *Options) {
			w.broken, o.Timeout = "dns", 2*time.Second
		}, want: []string{"dns", "not_serving", "dns.log"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w.broken = ""
			if test.n == 0 {
				test.n = 14
			}
			o, services := machineOf(t, w, "vm9", test.n)
			if test.change != nil {
				test.change(&o)
			}
			at := founded.Address
			if test.at != "" {
				at = test.at
			}
			err := JoinNode(ctx, Invitation{at, test.token}, o)
			if err == nil {
				t.Fatal("joined")
			}
			for _, part := range test.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not mention %q", err, part)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("error has several lines: %q", err)
			}
			if left := filesBelow(t, o.Layout); len(left) != 0 || len(services.units) != 0 || len(services.ends) != 0 {
				t.Errorf("left behind: %v, %v", left, services.units)
			}
		})
	}
}

func TestMasterThatFailsLeavesTheRoster(t *testing.T) {
	w, ctx := newWorld(), t.Context()
	first, _ := machineOf(t, w, "vm1", 21)
	founded, err := InitMaster(ctx, first)
	if err != nil {
		t.Fatal(err)
	}
	second, services := machineOf(t, w, "vm2", 22)
	w.broken, second.Timeout = "scheduler", 2*time.Second
	if err := JoinMaster(ctx, Invitation{founded.Address, founded.MasterToken}, second); err == nil {
		t.Fatal("joined")
	}
	if len(w.members) != 1 || len(filesBelow(t, second.Layout)) != 0 || len(services.ends) != 0 {
		t.Errorf("left behind: roster %v, files %v", w.members, filesBelow(t, second.Layout))
	}
}
