package election_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"

	"kijabi.dev/platform/election"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/pki/pkitest"
	"kijabi.dev/platform/rpc"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const deadline = 20 * time.Second

// master is a local apiserver that says what a test sends it.
type master struct {
	mastersv1pb.UnimplementedMastersServiceServer

	opened chan string // component of each stream
	say    chan *mastersv1pb.WatchLeaderResponse
	cut    chan struct{}
}

func (m *master) WatchLeader(req *mastersv1pb.WatchLeaderRequest, out grpc.ServerStreamingServer[mastersv1pb.WatchLeaderResponse]) error {
	select {
	case m.opened <- req.GetComponent():
	case <-out.Context().Done():
		return out.Context().Err()
	}
	for {
		select {
		case msg := <-m.say:
			if err := out.Send(msg); err != nil {
				return err
			}
		case <-m.cut:
			return errors.New("cut")
		case <-out.Context().Done():
			return out.Context().Err()
		}
	}
}

// fixture is a running elector with the events of its task.
type fixture struct {
	*master
	t       *testing.T
	elector *election.Elector
	started chan uint64
	ended   chan uint64
	result  chan error // what a running task returns when told to
	while   chan error // what WhileLeader returned
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	ca := pkitest.NewCA(t)
	f := &fixture{
		t: t, started: make(chan uint64), ended: make(chan uint64), result: make(chan error), while: make(chan error, 1),
		master: &master{opened: make(chan string), say: make(chan *mastersv1pb.WatchLeaderResponse), cut: make(chan struct{})},
	}
	server, err := rpc.NewServer(rpc.ServerConfig{
		Identity: pkitest.Identity(t, ca, pki.ComponentAPIServer, "m1"), Log: zaptest.NewLogger(t), GracePeriod: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	mastersv1pb.RegisterMastersServiceServer(server, f.master)
	listener, err := rpc.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := rpc.Dial(listener.Addr().String(), pkitest.Identity(t, ca, pki.ComponentScheduler, "m1"))
	if err != nil {
		t.Fatal(err)
	}
	f.elector = election.New(election.Config{
		Masters: mastersv1pb.NewMastersServiceClient(conn), Component: "scheduler", Log: zaptest.NewLogger(t),
	})
	group := lifecycle.NewGroup(context.WithoutCancel(t.Context()))
	group.Go(func(ctx context.Context) error { return server.Serve(ctx, listener) })
	group.Go(f.elector.Run)
	group.Go(func(ctx context.Context) error {
		f.while <- f.elector.WhileLeader(f.task)(ctx)
		return nil
	})
	t.Cleanup(func() {
		group.Cancel()
		if err := errors.Join(group.Wait(), conn.Close()); err != nil {
			t.Error(err)
		}
	})
	if got := receive(t, f.opened); got != "scheduler" {
		t.Fatalf("the stream is of %q", got)
	}
	return f
}

// task reports when it starts and ends, with its epoch.
func (f *fixture) task(ctx context.Context) error {
	epoch := rpc.EpochFrom(ctx)
	select {
	case f.started <- epoch:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-f.result:
		return err
	case <-ctx.Done():
		select {
		case f.ended <- epoch:
		case <-time.After(deadline): // the test has ended and nobody listens
		case <-f.t.Context().Done():
		}
		return ctx.Err()
	}
}

func (f *fixture) lead(epoch uint64) {
	f.t.Helper()
	f.tell(&mastersv1pb.WatchLeaderResponse{Leader: "m1", Epoch: epoch, Leading: true})
}

func (f *fixture) tell(msg *mastersv1pb.WatchLeaderResponse) {
	f.t.Helper()
	select {
	case f.say <- msg:
	case <-time.After(deadline):
		f.t.Fatal("nobody listens to the master")
	}
}

func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case value := <-from:
		return value
	case <-time.After(deadline):
		t.Fatal("timeout")
		panic("unreachable")
	}
}

func (f *fixture) wantStart(epoch uint64) {
	f.t.Helper()
	if got := receive(f.t, f.started); got != epoch {
		f.t.Fatalf("started under epoch %d, want %d", got, epoch)
	}
}

func (f *fixture) wantEnd(epoch uint64) {
	f.t.Helper()
	if got := receive(f.t, f.ended); got != epoch {
		f.t.Fatalf("ended epoch %d, want %d", got, epoch)
	}
}

func TestTaskRunsOnlyWhileItsMasterLeads(t *testing.T) {
	f := newFixture(t)
	f.tell(&mastersv1pb.WatchLeaderResponse{Leader: "m2", Epoch: 5})
	f.lead(7) // the master has taken over
	f.wantStart(7)
	if !f.elector.Leading() {
		t.Error("not leading")
	}
	f.tell(&mastersv1pb.WatchLeaderResponse{Leader: "m2", Epoch: 9})
	f.wantEnd(7)
	if state, _ := f.elector.State(); state != (election.State{Leader: "m2", Epoch: 9}) {
		t.Errorf("state is %+v", state)
	}
	f.lead(11)
	f.wantStart(11)
}

func TestNewEpochRestartsTheTaskAfterTheOldEnded(t *testing.T) {
	f := newFixture(t)
	f.lead(3)
	f.wantStart(3)
	f.lead(4)
	select {
	case <-f.started:
		t.Fatal("started before the old run had ended")
	case epoch := <-f.ended:
		if epoch != 3 {
			t.Fatalf("ended epoch %d", epoch)
		}
	case <-time.After(deadline):
		t.Fatal("timeout")
	}
	f.wantStart(4)
}

func TestBrokenStreamEndsTheTaskAtOnce(t *testing.T) {
	f := newFixture(t)
	f.lead(3)
	f.wantStart(3)
	f.cut <- struct{}{}
	f.wantEnd(3)
	receive(t, f.opened) // it comes back by itself
	if f.elector.Leading() {
		t.Error("leads before the new stream said so")
	}
	f.lead(3)
	f.wantStart(3)
}

func TestRepeatedMessageDisturbsNothing(t *testing.T) {
	f := newFixture(t)
	f.lead(3)
	f.wantStart(3)
	f.lead(3)
	f.lead(3)
	f.tell(&mastersv1pb.WatchLeaderResponse{Leader: "m1", Epoch: 3})
	f.wantEnd(3) // once, by the last message: the repetitions restarted nothing
}

func TestEpochZeroLeadsNothing(t *testing.T) {
	f := newFixture(t)
	f.tell(&mastersv1pb.WatchLeaderResponse{Leader: "m1", Leading: true})
	f.lead(1)
	f.wantStart(1)
}

func TestFinishedTaskWaitsForTheNextEpoch(t *testing.T) {
	f := newFixture(t)
	f.lead(3)
	f.wantStart(3)
	f.result <- nil
	f.lead(3)
	f.lead(4)
	f.wantStart(4)
}

func TestFailedTaskIsReported(t *testing.T) {
	f := newFixture(t)
	f.lead(3)
	f.wantStart(3)
	broken := errors.New("broken")
	f.result <- broken
	if err := receive(t, f.while); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}
