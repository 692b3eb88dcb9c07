package rest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/platform/rpc"
	kubeletv1pb "kijabi.dev/proto/gen/kijabi/kubelet/v1"
)

// fakeKubelet runs commands on this machine instead of in a container.
type fakeKubelet struct {
	kubeletv1pb.UnimplementedKubeletServiceServer
	mu       sync.Mutex
	sizes    []string
	logs     []*kubeletv1pb.LogsRequest
	canceled int
	// forwards counts connections under way.
	forwards int
	starts   []*kubeletv1pb.PortForwardStart
	pages    []*kubeletv1pb.PageRequest
	restarts []*kubeletv1pb.RestartRequest
}

// node adds a node with a fake kubelet and a pod on it.
func (h *harness) node() *fakeKubelet {
	h.t.Helper()
	listener := bufconn.Listen(1 << 20)
	kubelet := &fakeKubelet{}
	server := grpc.NewServer()
	kubeletv1pb.RegisterKubeletServiceServer(server, kubelet)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	h.t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			h.t.Errorf("kubelet: %v", err)
		}
	})
	conn, err := grpc.NewClient("passthrough:node", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	h.must(err)
	h.t.Cleanup(func() { _ = conn.Close() })
	h.nodes.conns["n1"] = conn
	h.createPod("p", "n1", "c")
	return kubelet
}

func (h *harness) createPod(name, node string, containers ...string) {
	h.t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{NodeName: node}}
	for _, c := range containers {
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: c, Image: "i"})
	}
	body, err := json.Marshal(pod)
	h.must(err)
	if a := h.call("POST", "/api/v1/namespaces/default/pods", string(body)); a.code != http.StatusCreated {
		h.t.Fatalf("create pod %s: %d %s", name, a.code, a.body)
	}
}

func (k *fakeKubelet) note(f func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f()
}

func (k *fakeKubelet) read(f func() bool) func() bool {
	return func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return f()
	}
}

// Logs sends three lines; a followed log then waits for its end.
func (k *fakeKubelet) Logs(r *kubeletv1pb.LogsRequest, out kubeletv1pb.KubeletService_LogsServer) error {
	k.note(func() { k.logs = append(k.logs, r) })
	if r.GetPrevious() {
		return status.Error(codes.NotFound, "previous terminated container \"c\" in pod \"p\" not found")
	}
	for i := range 3 {
		if err := out.Send(&kubeletv1pb.LogsResponse{Data: fmt.Appendf(nil, "line %d\n", i)}); err != nil {
			return err
		}
	}
	if r.GetFollow() {
		<-out.Context().Done()
		k.note(func() { k.canceled++ })
	}
	return nil
}

// Exec runs the command here.
func (k *fakeKubelet) Exec(stream kubeletv1pb.KubeletService_ExecServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	if start.GetTarget().GetContainer() != "c" || start.GetTarget().GetUid() == "" || start.GetCaller().GetUser() != "kubernetes-admin" {
		return status.Errorf(codes.InvalidArgument, "unexpected start %v", start)
	}
	if start.GetCommand()[0] == "missing" {
		return status.Error(codes.NotFound, "executable not found")
	}
	cmd := exec.CommandContext(stream.Context(), start.GetCommand()[0], start.GetCommand()[1:]...) //nolint:gosec // a test
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	var mu sync.Mutex
	send := func(m *kubeletv1pb.ExecResponse) error {
		mu.Lock()
		defer mu.Unlock()
		return stream.Send(m)
	}
	cmd.Stdout = sender(func(p []byte) error {
		return send(&kubeletv1pb.ExecResponse{Message: &kubeletv1pb.ExecResponse_Stdout{Stdout: p}})
	})
	cmd.Stderr = sender(func(p []byte) error {
		return send(&kubeletv1pb.ExecResponse{Message: &kubeletv1pb.ExecResponse_Stderr{Stderr: p}})
	})
	if err := cmd.Start(); err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	if !start.GetStdin() {
		_ = stdin.Close()
	}
	go func() {
		defer func() { _ = stdin.Close() }()
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			switch m := m.GetMessage().(type) {
			case *kubeletv1pb.ExecRequest_Stdin:
				_, _ = stdin.Write(m.Stdin)
			case *kubeletv1pb.ExecRequest_StdinClose:
				_ = stdin.Close()
			case *kubeletv1pb.ExecRequest_Resize:
				k.note(func() { k.sizes = append(k.sizes, fmt.Sprintf("%dx%d", m.Resize.GetWidth(), m.Resize.GetHeight())) })
			}
		}
	}()
	var exit *exec.ExitError
	err = cmd.Wait()
	if stream.Context().Err() != nil {
		k.note(func() { k.canceled++ })
		return stream.Context().Err()
	}
	if err != nil && !errors.As(err, &exit) {
		return status.Error(codes.Internal, err.Error())
	}
	return send(&kubeletv1pb.ExecResponse{Message: &kubeletv1pb.ExecResponse_ExitCode{ExitCode: int32(cmd.ProcessState.ExitCode())}}) //nolint:gosec // small
}

type sender func(p []byte) error

func (s sender) Write(p []byte) (int, error) { return len(p), s(append([]byte{}, p...)) }

// Attach echoes.
func (k *fakeKubelet) Attach(stream kubeletv1pb.KubeletService_AttachServer) error {
	if _, err := stream.Recv(); err != nil {
		return err
	}
	if err := stream.Send(&kubeletv1pb.AttachResponse{Message: &kubeletv1pb.AttachResponse_Stdout{Stdout: []byte("attached\n")}}); err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if err != nil || m.GetStdinClose() {
			return nil
		}
		if data := m.GetStdin(); len(data) > 0 {
			if err := stream.Send(&kubeletv1pb.AttachResponse{Message: &kubeletv1pb.AttachResponse_Stdout{Stdout: data}}); err != nil {
				return err
			}
		}
	}
}

// PortForward dials the port on this machine.
func (k *fakeKubelet) PortForward(stream kubeletv1pb.KubeletService_PortForwardServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	k.note(func() { k.forwards, k.starts = k.forwards+1, append(k.starts, first.GetStart()) })
	defer k.note(func() { k.forwards-- })
	conn, err := (&net.Dialer{}).DialContext(stream.Context(), "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(first.GetStart().GetPort()))))
	if err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(stream.Context(), func() { _ = conn.Close() })()
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				if tcp, ok := conn.(*net.TCPConn); ok {
					_ = tcp.CloseWrite()
				}
				return
			}
			if _, err := conn.Write(m.GetData()); err != nil {
				return
			}
		}
	}()
	_, err = io.Copy(sender(func(p []byte) error { return stream.Send(&kubeletv1pb.PortForwardResponse{Data: p}) }), conn)
	return err
}

// Page answers with the name of what was asked for, in two pieces.
func (k *fakeKubelet) Page(r *kubeletv1pb.PageRequest, out kubeletv1pb.KubeletService_PageServer) error {
	k.note(func() { k.pages = append(k.pages, r) })
	if r.GetPage() == kubeletv1pb.PageName_PAGE_NAME_CONFIGZ {
		return status.Error(codes.Unavailable, "no configuration today")
	}
	if err := out.Send(&kubeletv1pb.PageResponse{ContentType: "text/x-page", Data: []byte("page ")}); err != nil {
		return err
	}
	return out.Send(&kubeletv1pb.PageResponse{Data: []byte(r.GetPage().String())})
}

// Restart notes what it was asked, and refuses container "once".
func (k *fakeKubelet) Restart(_ context.Context, r *kubeletv1pb.RestartRequest) (*kubeletv1pb.RestartResponse, error) {
	k.note(func() { k.restarts = append(k.restarts, r) })
	names := r.GetContainers()
	if len(names) == 0 {
		names = []string{"c"}
	}
	answer := &kubeletv1pb.RestartResponse{}
	for _, name := range names {
		if name == "once" {
			return nil, rpc.ToStatus(apierrors.NewBadRequest("container once of pod p has restartPolicy Never: it would not be started again"))
		}
		answer.Containers = append(answer.Containers, &kubeletv1pb.RestartedContainer{Name: name, ContainerId: "containerd://" + name})
	}
	return answer, nil
}
