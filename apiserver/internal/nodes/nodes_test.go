package nodes_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/clock"
	testclock "k8s.io/utils/clock/testing"

	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
	kubeletv1pb "kijabi.dev/proto/gen/kijabi/kubelet/v1"
	nodev1pb "kijabi.dev/proto/gen/kijabi/node/v1"
)

// answers says whether a node is reached from a master and by which tunnel.
func answers(t *testing.T, m *master, node, mark string) func() error {
	t.Helper()
	return func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		conn, err := m.hub.Node(ctx, node)
		if err != nil {
			return err
		}
		res, err := kubeletv1pb.NewKubeletServiceClient(conn).Stats(ctx, &kubeletv1pb.StatsRequest{})
		if err != nil {
			return rpc.FromStatus(err)
		}
		if got := res.GetPods()[0].GetName(); got != mark {
			return fmt.Errorf("answered by %s", got)
		}
		return nil
	}
}

// converse holds a conversation over a forwarded port as a proxy does, which ends on the
// node once this side leaves.
func converse(t *testing.T, kubelet kubeletv1pb.KubeletServiceClient) {
	t.Helper()
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	stream, err := kubelet.PortForward(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&kubeletv1pb.PortForwardRequest{Message: &kubeletv1pb.PortForwardRequest_Start{Start: &kubeletv1pb.PortForwardStart{Port: 80, PodAddress: true}}}); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		sent := strings.Repeat(fmt.Sprint(i), 1000)
		if err := stream.Send(&kubeletv1pb.PortForwardRequest{Message: &kubeletv1pb.PortForwardRequest_Data{Data: []byte(sent)}}); err != nil {
			t.Fatal(err)
		}
		if res, err := stream.Recv(); err != nil || string(res.GetData()) != sent {
			t.Fatalf("echo %d: %d bytes, %v", i, len(res.GetData()), err)
		}
	}
	leave()
	eventually(t, "the node's end of the connection is closed", func() error {
		if n := forwards.Load(); n != 0 {
			return fmt.Errorf("%d are open", n)
		}
		return nil
	})
}

// streams runs every shape of call over a connection to a node.
func streams(t *testing.T, conn grpc.ClientConnInterface) {
	t.Helper()
	kubelet := kubeletv1pb.NewKubeletServiceClient(conn)
	logs, err := kubelet.Logs(t.Context(), &kubeletv1pb.LogsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for {
		chunk, err := logs.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		total += len(chunk.GetData())
	}
	if total != chunks*chunkBytes {
		t.Errorf("log of %d bytes, want %d", total, chunks*chunkBytes)
	}

	refused, err := kubelet.Logs(t.Context(), &kubeletv1pb.LogsRequest{Previous: true})
	if err == nil {
		_, err = refused.Recv()
	}
	if !apierrors.IsNotFound(rpc.FromStatus(err)) {
		t.Errorf("an error of the node arrives as %v", err)
	}

	exec, err := kubelet.Exec(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		sent := fmt.Sprint(i)
		if err := exec.Send(&kubeletv1pb.ExecRequest{Message: &kubeletv1pb.ExecRequest_Stdin{Stdin: []byte(sent)}}); err != nil {
			t.Fatal(err)
		}
		res, err := exec.Recv()
		if err != nil || string(res.GetStdout()) != sent {
			t.Fatalf("echo of %s is %q, %v", sent, res.GetStdout(), err)
		}
	}
	if err := exec.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if res, err := exec.Recv(); err != nil || res.GetExitCode() != 7 {
		t.Errorf("exit code %v, %v", res, err)
	}

	page, err := kubelet.Page(t.Context(), &kubeletv1pb.PageRequest{Page: kubeletv1pb.PageName_PAGE_NAME_METRICS})
	if err != nil {
		t.Fatal(err)
	}
	total = 0
	for {
		piece, err := page.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if total == 0 && piece.GetContentType() != "PAGE_NAME_METRICS" {
			t.Errorf("content type %q", piece.GetContentType())
		}
		total += len(piece.GetData())
	}
	if total != chunks*chunkBytes {
		t.Errorf("page of %d bytes, want %d", total, chunks*chunkBytes)
	}

	converse(t, kubelet)
	if _, err := exec.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the exit code: %v", err)
	}
}

func TestTunnel(t *testing.T) {
	c := newCluster(t, clock.RealClock{})
	m := c.master(t, "m1")
	node := c.connect(t, m, "n1", "first")
	eventually(t, "the node is reached", answers(t, m, "n1", "first"))
	conn, err := m.hub.Node(t.Context(), "n1")
	if err != nil {
		t.Fatal(err)
	}
	streams(t, conn)

	node.close()
	eventually(t, "it is not, once it is gone", func() error {
		_, err := m.hub.Node(t.Context(), "n1")
		if !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), "last heard") {
			return fmt.Errorf("error %w", err)
		}
		return nil
	})
	if _, err := m.hub.Node(t.Context(), "never"); !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), "node never is not connected to any master") {
		t.Errorf("a node nobody knows: %v", err)
	}
}

// A node that moves to another master is heard there before its tunnel is open: who looks for it
// at that moment is not turned away.
func TestNodeThatIsMovingIsAwaited(t *testing.T) {
	c := newCluster(t, clock.RealClock{})
	m := c.master(t, "m1")
	m.directory.Hear("n1", false)
	found := make(chan error, 1)
	go func() {
		_, err := m.hub.Node(t.Context(), "n1")
		found <- err
	}()
	select {
	case err := <-found:
		t.Fatalf("answered before the node was there: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	c.connect(t, m, "n1", "first")
	if err := <-found; err != nil {
		t.Error(err)
	}
}

func TestNewerTunnelReplacesOlder(t *testing.T) {
	c := newCluster(t, clock.RealClock{})
	m := c.master(t, "m1")
	first := c.connect(t, m, "n1", "first")
	eventually(t, "the first tunnel", answers(t, m, "n1", "first"))
	c.connect(t, m, "n1", "second")
	eventually(t, "the second tunnel", answers(t, m, "n1", "second"))
	select {
	case <-first.ended:
	case <-time.After(30 * time.Second):
		t.Fatal("the first tunnel was not ended")
	}
	// Its end must not take the second one away.
	if err := answers(t, m, "n1", "second")(); err != nil {
		t.Error(err)
	}
	if seen, _ := m.directory.Find("n1"); !seen.Tunnel {
		t.Errorf("the directory says %+v", seen)
	}
}

func TestRelay(t *testing.T) {
	c := newCluster(t, clock.RealClock{})
	holder, other := c.master(t, "m1"), c.master(t, "m2")
	node := c.connect(t, holder, "n1", "tunnel")
	eventually(t, "the node is reached through the other master", answers(t, other, "n1", "tunnel"))
	conn, err := other.hub.Node(t.Context(), "n1")
	if err != nil {
		t.Fatal(err)
	}
	streams(t, conn)

	// A caller that leaves ends the call on the node, too: its echo would block for ever.
	ctx, cancel := context.WithCancel(t.Context())
	exec, err := kubeletv1pb.NewKubeletServiceClient(conn).Exec(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := exec.Send(&kubeletv1pb.ExecRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := exec.Recv(); err != nil {
		t.Fatal(err)
	}
	cancel()

	node.close()
	eventually(t, "the directory tells everybody that it is gone", func() error {
		if seen, _ := other.directory.Find("n1"); seen.Tunnel {
			return errors.New("it still has a tunnel")
		}
		return nil
	})
	if _, err := other.hub.Node(t.Context(), "n1"); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("node that is gone: %v", err)
	}
	// Until the directory does, the holder says so; it does not send the call on to a third.
	if _, err := kubeletv1pb.NewKubeletServiceClient(conn).Stats(t.Context(), &kubeletv1pb.StatsRequest{}); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("relayed to a master that lost the node: %v", err)
	}
	c.connect(t, other, "n2", "elsewhere")
	eventually(t, "a second node", answers(t, holder, "n2", "elsewhere"))
	holder.directory.Hear("n2", true) // wrong on purpose
	if err := answers(t, other, "n2", "elsewhere")(); err != nil {
		t.Errorf("a master that holds the tunnel itself asks another: %v", err)
	}
	if _, err := holder.hub.Node(t.Context(), "n2"); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("a master that believes to hold a tunnel it does not: %v", err)
	}
	c.mu.Lock()
	delete(c.peers, "m2")
	c.mu.Unlock()
	other.directory.Hear("n2", true)
	if _, err := holder.hub.Node(t.Context(), "n2"); !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), "master m2, which is not reached") {
		t.Errorf("through a master that is not reached: %v", err)
	}
}

// The controller-manager asks its own apiserver for a node's figures, wherever that is connected.
func TestStats(t *testing.T) {
	c := newCluster(t, clock.RealClock{})
	holder, other := c.master(t, "m1"), c.master(t, "m2")
	c.connect(t, holder, "n1", "tunnel")
	for name, m := range map[string]*master{"the holder": holder, "another master": other} {
		manager := c.dial(t, m, pki.ComponentControllerManager, "m1")
		eventually(t, "figures by "+name, func() error {
			res, err := manager.Stats(t.Context(), &nodev1pb.StatsRequest{Node: "n1"})
			if err != nil {
				return err
			}
			if got := res.GetStats().GetPods()[0].GetName(); got != "tunnel" {
				return fmt.Errorf("answered by %s", got)
			}
			return nil
		})
		if _, err := manager.Stats(t.Context(), &nodev1pb.StatsRequest{Node: "n9"}); !apierrors.IsServiceUnavailable(err) {
			t.Errorf("%s, a node that is not there: %v", name, err)
		}
		if _, err := manager.Stats(t.Context(), &nodev1pb.StatsRequest{}); !apierrors.IsBadRequest(err) {
			t.Errorf("%s, no node: %v", name, err)
		}
	}
	for _, component := range []pki.Component{pki.ComponentKubelet, pki.ComponentScheduler} {
		if _, err := c.dial(t, holder, component, "n1").Stats(t.Context(), &nodev1pb.StatsRequest{Node: "n1"}); !apierrors.IsForbidden(err) {
			t.Errorf("asked by %s: %v", component, err)
		}
	}
}

func TestOnlyNodesConnect(t *testing.T) {
	c := newCluster(t, clock.RealClock{})
	m := c.master(t, "m1")
	for _, component := range []string{pki.ComponentScheduler, pki.ComponentControllerManager, pki.ComponentKubeProxy, pki.ComponentAdmin} {
		client := c.dial(t, m, component, "n1")
		stream, err := client.Tunnel(t.Context())
		if err == nil {
			_, err = stream.Recv()
		}
		if !apierrors.IsForbidden(err) {
			t.Errorf("tunnel of %s: %v", component, err)
		}
	}
	stream, err := c.dial(t, m, pki.ComponentKubelet, "n1").WatchLiveness(t.Context(), &nodev1pb.WatchLivenessRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	if !apierrors.IsForbidden(err) {
		t.Errorf("liveness for a node: %v", err)
	}
}

// TestLiveness goes by a clock of its own: a node that beats, one that stops, one
// that never began.
func TestLiveness(t *testing.T) {
	clk := testclock.NewFakeClock(time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC))
	c := newCluster(t, clk)
	c.known = []string{"never", "steady", "stops"}
	m := c.master(t, "m1")
	beats := map[string]nodev1pb.NodeService_HeartbeatClient{}
	beat := func(name string) {
		t.Helper()
		if beats[name] == nil {
			stream, err := c.dial(t, m, pki.ComponentKubelet, name).Heartbeat(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			beats[name] = stream
		}
		if err := beats[name].Send(&nodev1pb.HeartbeatRequest{Sequence: 3}); err != nil {
			t.Fatal(err)
		}
		res, err := beats[name].Recv()
		if err != nil || res.GetSequence() != 3 || res.GetInterval().AsDuration() != time.Second {
			t.Fatalf("answer to a heartbeat: %v, %v", res, err)
		}
	}
	beat("steady")
	beat("stops")
	stream, err := c.dial(t, m, pki.ComponentControllerManager, "m1").WatchLiveness(t.Context(), &nodev1pb.WatchLivenessRequest{})
	if err != nil {
		t.Fatal(err)
	}
	silence := map[string]time.Duration{}
	receive := func() {
		t.Helper()
		res, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, node := range res.GetNodes() {
			silence[node.GetNode()] = node.GetSilence().AsDuration()
		}
	}
	receive()
	if len(silence) != 3 || silence["steady"]+silence["stops"]+silence["never"] != 0 {
		t.Fatalf("first message: %v", silence)
	}
	for second := 1; second <= 4; second++ {
		eventually(t, "the stream waits for the clock", func() error {
			if !clk.HasWaiters() {
				return errors.New("it does not")
			}
			return nil
		})
		clk.Step(500 * time.Millisecond)
		beat("steady")
		clk.Step(500 * time.Millisecond)
		want := time.Duration(second) * time.Second
		for silence["stops"] != want { // what is late is sent every second
			receive()
		}
		// One that was never heard counts from the beginning of this master's term.
		if silence["never"] != want || silence["steady"] > time.Second {
			t.Fatalf("after %s: %v", want, silence)
		}
	}
	beat("stops")
	clk.Step(500 * time.Millisecond)
	for silence["stops"] != 500*time.Millisecond { // its return is sent at once
		receive()
	}
	c.lead(false)
	clk.Step(500 * time.Millisecond)
	for err == nil {
		_, err = stream.Recv()
	}
	if !apierrors.IsServiceUnavailable(err) {
		t.Errorf("liveness of a master that does not lead: %v", err)
	}
}

// TestLeaseOfANodeWithoutConnection: who renews a Lease itself is alive while it holds; the
// Leases that masters write say nothing of that.
func TestLeaseOfANodeWithoutConnection(t *testing.T) {
	clk := testclock.NewFakeClock(time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC))
	c := newCluster(t, clk)
	c.known = []string{"connected", "dead", "renews", "stops"}
	m := c.master(t, "m1")
	c.renew("renews", 3*time.Second, nil)
	c.renew("stops", 3*time.Second, nil)
	c.renew("dead", 3*time.Second, map[string]string{"kijabi.dev/heard": "true"})
	m.directory.Hear("connected", true)
	c.renew("connected", time.Hour, nil)
	stream, err := c.dial(t, m, pki.ComponentControllerManager, "m1").WatchLiveness(t.Context(), &nodev1pb.WatchLivenessRequest{})
	if err != nil {
		t.Fatal(err)
	}
	silence := map[string]time.Duration{}
	receive := func() {
		t.Helper()
		res, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, node := range res.GetNodes() {
			silence[node.GetNode()] = node.GetSilence().AsDuration()
		}
	}
	receive()
	for second := 1; second <= 6; second++ {
		for range 2 {
			eventually(t, "the stream waits for the clock", func() error {
				if !clk.HasWaiters() {
					return errors.New("it does not")
				}
				return nil
			})
			clk.Step(500 * time.Millisecond)
			c.renew("renews", 3*time.Second, nil)
		}
		now := time.Duration(second) * time.Second
		for silence["dead"] != now {
			receive()
		}
		want := map[string]time.Duration{"dead": now, "connected": now, "renews": 0, "stops": max(0, now-3*time.Second)}
		if !maps.Equal(silence, want) {
			t.Fatalf("after %s: %v, want %v", now, silence, want)
		}
	}
}
