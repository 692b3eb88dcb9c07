package rpc_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/pki/pkitest"
	"kijabi.dev/platform/rpc"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"
	objectv1pb "kijabi.dev/proto/gen/kijabi/object/v1"
)

// failover connects to addresses as an administrator, without learning others.
func failover(t *testing.T, ca *pki.CA, addresses []string, change ...func(*rpc.FailoverConfig)) *rpc.Failover {
	t.Helper()
	cfg := rpc.FailoverConfig{
		Addresses: addresses, Identity: pkitest.Identity(t, ca, pki.ComponentAdmin, ""),
		Log: zaptest.NewLogger(t), LearnEvery: -1,
	}
	for _, f := range change {
		f(&cfg)
	}
	conn, err := rpc.DialAny(cfg)
	if err != nil {
		t.Fatalf("dial any: %v", err)
	}
	background(t, conn.Run)
	return conn
}

// answeredBy asks who answers.
func answeredBy(t *testing.T, conn grpc.ClientConnInterface) string {
	t.Helper()
	res, err := mastersv1pb.NewMastersServiceClient(conn).Status(within(t), &mastersv1pb.StatusRequest{})
	if err != nil {
		t.Fatalf("status: %v", err)
	}
	return res.GetAnsweredBy()
}

// pair starts two servers named by their addresses.
func pair(t *testing.T, ca *pki.CA, each func(*service)) map[string]running {
	t.Helper()
	servers := map[string]running{}
	for range 2 {
		svc := &service{}
		each(svc)
		server := start(t, ca, svc)
		svc.name = server.address
		servers[server.address] = server
	}
	return servers
}

func addresses(servers map[string]running) []string {
	var list []string
	for address := range servers {
		list = append(list, address)
	}
	return list
}

func TestFailoverSticksAndMoves(t *testing.T) {
	ca := pkitest.NewCA(t)
	servers := pair(t, ca, func(*service) {})
	conn := failover(t, ca, addresses(servers))
	used := answeredBy(t, conn)
	for range 20 {
		if now := answeredBy(t, conn); now != used {
			t.Fatalf("moved from %s to %s without need", used, now)
		}
	}
	servers[used].stop()
	if now := answeredBy(t, conn); now == used || now != conn.Current() {
		t.Errorf("answered by %s, current is %s", now, conn.Current())
	}
}

func TestFailoverLeavesServerThatStopsServing(t *testing.T) {
	ca := pkitest.NewCA(t)
	servers := pair(t, ca, func(*service) {})
	conn := failover(t, ca, addresses(servers))
	used := answeredBy(t, conn)
	servers[used].SetServing(false)
	eventually(t, "moved", func() bool { return conn.Current() != used && conn.Current() != "" })
	other := conn.Current()
	servers[other].SetServing(false)
	if now := answeredBy(t, conn); now != other {
		t.Errorf("with none serving it uses %q instead of staying with %s", now, other)
	}
}

// A server that answers is alive and seldom asked whether it serves; it is asked all the same.
func TestFailoverLeavesServerThatAnswersAndDoesNotServe(t *testing.T) {
	ca := pkitest.NewCA(t)
	servers := pair(t, ca, func(*service) {})
	conn := failover(t, ca, addresses(servers))
	used := answeredBy(t, conn)
	servers[used].SetServing(false)
	eventually(t, "moved while it was answered", func() bool { return answeredBy(t, conn) != used })
}

// TestFailoverFromSilentServer is a machine that vanished: no reset, no answer.
func TestFailoverFromSilentServer(t *testing.T) {
	ca := pkitest.NewCA(t)
	var held atomic.Int32
	hold := func(svc *service) {
		svc.get = func(ctx context.Context, _ *objectv1pb.GetRequest) (*objectv1pb.GetResponse, error) {
			held.Add(1)
			return &objectv1pb.GetResponse{}, nil
		}
	}
	servers := pair(t, ca, hold)
	list := addresses(servers)
	silent := startProxy(t, list[0])
	servers[list[1]].SetServing(false)
	conn := failover(t, ca, []string{silent.address(), list[1]})
	if used := answeredBy(t, conn); used != list[0] {
		t.Fatalf("answered by %s", used)
	}
	stream, err := mastersv1pb.NewMastersServiceClient(conn).WatchLeader(within(t), &mastersv1pb.WatchLeaderRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	servers[list[1]].SetServing(true)
	silent.freeze()
	began := time.Now()
	if _, err := objectv1pb.NewObjectServiceClient(conn).Get(within(t), &objectv1pb.GetRequest{}); err != nil {
		t.Errorf("a read during the move: %v", err)
	}
	if _, err := stream.Recv(); !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), silent.address()) {
		t.Errorf("the stream ended with %v", err)
	}
	// 1.5 s is the goal; a busy machine may take longer to run the test.
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("moving took %s", took)
	}
	if held.Load() != 1 || conn.Current() != list[1] {
		t.Errorf("%d reads answered, current is %s", held.Load(), conn.Current())
	}
}

// failing answers UNAVAILABLE once and counts the calls.
type failing struct {
	mu    sync.Mutex
	calls []string
}

func (f *failing) call(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	caller, _ := rpc.CallerFrom(ctx)
	f.calls = append(f.calls, caller.RequestID)
	if len(f.calls) == 1 {
		return apierrors.NewServiceUnavailable("no leader is known")
	}
	return nil
}

func TestOnlyRepeatableCallsAreSentAgain(t *testing.T) {
	ca := pkitest.NewCA(t)
	read, write, transfer := &failing{}, &failing{}, &failing{}
	server := start(t, ca, &service{
		status: func(ctx context.Context) (*mastersv1pb.StatusResponse, error) {
			return &mastersv1pb.StatusResponse{}, read.call(ctx)
		},
		get: func(ctx context.Context, _ *objectv1pb.GetRequest) (*objectv1pb.GetResponse, error) {
			return &objectv1pb.GetResponse{}, write.call(ctx)
		},
		transfer: transfer.call,
	})
	conn := failover(t, ca, []string{server.address})
	masters, objects := mastersv1pb.NewMastersServiceClient(conn), objectv1pb.NewObjectServiceClient(conn)
	if _, err := masters.Status(within(t), &mastersv1pb.StatusRequest{}); err != nil {
		t.Errorf("a read: %v", err)
	}
	if _, err := objects.Get(within(t), &objectv1pb.GetRequest{}); err != nil {
		t.Errorf("a call of ObjectService: %v", err)
	}
	if _, err := masters.Transfer(within(t), &mastersv1pb.TransferRequest{}); !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), "no leader is known") {
		t.Errorf("a call that must not be repeated: %v", err)
	}
	for name, f := range map[string]*failing{"read": read, "object": write} {
		if len(f.calls) != 2 || f.calls[0] == "" || f.calls[0] != f.calls[1] {
			t.Errorf("%s: the attempts' request ids are %q, want two equal ones", name, f.calls)
		}
	}
	if len(transfer.calls) != 1 {
		t.Errorf("a call that must not be repeated was made %d times", len(transfer.calls))
	}
}

func TestCallsThatWereNotSentMoveOn(t *testing.T) {
	ca := pkitest.NewCA(t)
	servers := pair(t, ca, func(*service) {})
	conn := failover(t, ca, addresses(servers))
	used := answeredBy(t, conn)
	servers[used].stop()
	res, err := mastersv1pb.NewMastersServiceClient(conn).Transfer(within(t), &mastersv1pb.TransferRequest{})
	if err != nil || res.GetLeader() == used {
		t.Errorf("got %v, %v", res, err)
	}
}

func TestNoAPIServer(t *testing.T) {
	ca := pkitest.NewCA(t)
	server := start(t, ca, &service{})
	server.stop()
	conn := failover(t, ca, []string{server.address}, func(cfg *rpc.FailoverConfig) { cfg.RetryFor = 300 * time.Millisecond })
	masters := mastersv1pb.NewMastersServiceClient(conn)
	_, err := masters.Status(within(t), &mastersv1pb.StatusRequest{})
	if !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), server.address) {
		t.Errorf("got %v", err)
	}
	if _, err = masters.WatchLeader(within(t), &mastersv1pb.WatchLeaderRequest{}); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("stream: got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = masters.Status(ctx, &mastersv1pb.StatusRequest{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
}

func TestFailoverWorksWithoutRunAndCloses(t *testing.T) {
	ca := pkitest.NewCA(t)
	server := start(t, ca, &service{name: "m1"})
	conn, err := rpc.DialAny(rpc.FailoverConfig{
		Addresses: []string{server.address}, Identity: pkitest.Identity(t, ca, pki.ComponentAdmin, ""), Log: zaptest.NewLogger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Connect(within(t)); err != nil || conn.Current() != server.address {
		t.Errorf("connect: %v, current %q", err, conn.Current())
	}
	if got := answeredBy(t, conn); got != "m1" {
		t.Errorf("answered by %q", got)
	}
	stream, err := mastersv1pb.NewMastersServiceClient(conn).WatchLeader(within(t), &mastersv1pb.WatchLeaderRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = stream.Recv()
	}
	_, err = mastersv1pb.NewMastersServiceClient(conn).Status(within(t), &mastersv1pb.StatusRequest{})
	if status.Code(err) != codes.Canceled {
		t.Errorf("after close: %v", err)
	}
}

func TestFailoverLearnsAndRemembers(t *testing.T) {
	ca := pkitest.NewCA(t)
	var servers map[string]running
	var mu sync.Mutex
	servers = pair(t, ca, func(svc *service) {
		svc.status = func(context.Context) (*mastersv1pb.StatusResponse, error) {
			mu.Lock()
			defer mu.Unlock()
			res := &mastersv1pb.StatusResponse{}
			for _, address := range addresses(servers) {
				res.Members = append(res.Members, &mastersv1pb.Member{GrpcAddress: address, Alive: true})
			}
			return res, nil
		}
	})
	known := addresses(servers)
	slices.Sort(known)
	file := filepath.Join(t.TempDir(), "masters.json")
	conn := failover(t, ca, known[:1], func(cfg *rpc.FailoverConfig) {
		cfg.StateFile, cfg.LearnEvery = file, 20*time.Millisecond
	})
	eventually(t, "both masters are known and kept", func() bool {
		_, err := os.Stat(file)
		return err == nil && len(conn.Addresses()) == 2
	})
	servers[known[0]].stop()
	if err := conn.Connect(within(t)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the learned master is used", func() bool { return conn.Current() == known[1] })

	later := failover(t, ca, []string{known[0]}, func(cfg *rpc.FailoverConfig) { cfg.StateFile = file })
	if diff := cmp.Diff(known, later.Addresses()); diff != "" {
		t.Errorf("addresses after a restart (-want +got):\n%s", diff)
	}
	if err := later.Connect(within(t)); err != nil || later.Current() != known[1] {
		t.Errorf("after a restart: %v, current %q", err, later.Current())
	}
}

func TestDamagedStateFileIsNotFatal(t *testing.T) {
	ca := pkitest.NewCA(t)
	file := filepath.Join(t.TempDir(), "masters.json")
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	conn := failover(t, ca, []string{"127.0.0.1:1"}, func(cfg *rpc.FailoverConfig) { cfg.StateFile = file })
	if got := conn.Addresses(); len(got) != 1 {
		t.Errorf("addresses are %v", got)
	}
}

// TestRenewalFailsNoCall renews short certificates of both sides several times
// while calls are made.
func TestRenewalFailsNoCall(t *testing.T) {
	t.Parallel()
	ca, log := pkitest.NewCA(t), zaptest.NewLogger(t)
	short := func(component string) *pki.Identity {
		req := pki.Subject(component, "m1")
		req.Life = 6 * time.Second // less would not leave time to notice the files
		files := pkitest.Files(t, ca, req)
		id, err := pki.OpenIdentity(files)
		if err != nil {
			t.Fatal(err)
		}
		background(t, id.Run)
		background(t, func(ctx context.Context) error { return pki.RenewWith(ctx, files, pki.SignWith(ca, 0), log) })
		return id
	}
	server := start(t, ca, &service{}, func(cfg *rpc.ServerConfig) { cfg.Identity = short(pki.ComponentAPIServer) })
	id := short(pki.ComponentKubelet)
	plain, err := rpc.Dial(server.address, id)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = plain.Close() }()
	any := failover(t, ca, []string{server.address}, func(cfg *rpc.FailoverConfig) { cfg.Identity = id })
	serials := map[string]bool{}
	for end := time.Now().Add(deadline); len(serials) < 3; {
		serials[id.Leaf().SerialNumber.String()] = true
		for name, conn := range map[string]grpc.ClientConnInterface{"dial": plain, "dial any": any} {
			if _, err := mastersv1pb.NewMastersServiceClient(conn).Status(within(t), &mastersv1pb.StatusRequest{}); err != nil {
				t.Fatalf("%s, after %d renewals: %v", name, len(serials)-1, err)
			}
		}
		if time.Now().After(end) {
			t.Fatalf("only %d certificates in %s", len(serials), deadline)
		}
	}
}

func TestRepeatable(t *testing.T) {
	for method, want := range map[string]bool{
		"/kijabi.object.v1.ObjectService/Create":             true,
		"/kijabi.masters.v1.MastersService/Status":           true,
		"/kijabi.masters.v1.MastersService/Transfer":         false,
		"/kijabi.certificate.v1.CertificateService/Issue":    false,
		"/kijabi.certificate.v1.CertificateService/ListX":    true,
		"/kijabi.certificate.v1.CertificateService/Renew":    true,
		"/kijabi.masters.v1.MastersService/Join":             true,
		"/kijabi.masters.v1.MastersService/Remove":           false,
		"/kijabi.scheduler.v1.SchedulerService/ExplainThing": true,
	} {
		if got := rpc.Repeatable(method); got != want {
			t.Errorf("%s: %v, want %v", method, got, want)
		}
	}
}
