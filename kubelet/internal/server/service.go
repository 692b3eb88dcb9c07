// Package server serves KubeletService: logs, exec, attach, port-forward, figures of this
// machine's pods and the pages that tools read, to apiservers that call through the tunnel.
package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/timestamppb"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/kubelet/internal/logs"
	"kijabi.dev/kubelet/internal/runtime"
	"kijabi.dev/kubelet/internal/status"
	"kijabi.dev/platform/logging"
	kubeletv1pb "kijabi.dev/proto/gen/kijabi/kubelet/v1"
)

// Config of a Service; every field is required.
type Config struct {
	Runtime runtime.Runtime
	// Pod finds a pod of this machine, nil if there is none.
	Pod func(namespace, name string) *corev1.Pod
	// Pods lists the pods of this machine. They are shared and not changed.
	Pods func() []*corev1.Pod
	// Restart ends the given instances, by name of their container, and has them replaced;
	// user asked for it. False if the pod is not of this machine any more.
	Restart func(pod *corev1.Pod, instances map[string]string, user string) bool
	// NodeUse returns the machine's own figures.
	NodeUse func() (*kubeletv1pb.ResourceUse, error)
	// NodeName and NodeIP are the machine's; at NodeIP listen pods that share its network.
	NodeName, NodeIP string
	// BootTime is since when the machine runs.
	BootTime time.Time
	// Configuration is what the kubelet runs with, as /configz shows it in JSON. No secrets.
	Configuration any
	Log           *zap.Logger
}

// Service implements KubeletService.
type Service struct {
	kubeletv1pb.UnsafeKubeletServiceServer

	cfg     Config
	process prometheus.Gatherer
}

var _ kubeletv1pb.KubeletServiceServer = (*Service)(nil)

// New returns the service.
func New(cfg Config) *Service { return &Service{cfg: cfg, process: processMetrics()} }

// piece bounds what one message carries.
const piece = 32 << 10

// find resolves a target to its pod and container name.
func (s *Service) find(target *kubeletv1pb.Target) (*corev1.Pod, string, error) {
	pod := s.cfg.Pod(target.GetNamespace(), target.GetPod())
	if pod == nil || target.GetUid() != "" && target.GetUid() != string(pod.UID) {
		return nil, "", apierrors.NewNotFound(corev1.Resource("pods"), target.GetPod())
	}
	name := target.GetContainer()
	if name == "" {
		if len(pod.Spec.Containers) != 1 {
			return nil, "", apierrors.NewBadRequest(fmt.Sprintf("pod %s has several containers: name one of them", pod.Name))
		}
		name = pod.Spec.Containers[0].Name
	}
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers, status.EphemeralContainers(pod)} {
		for i := range list {
			if list[i].Name == name {
				return pod, name, nil
			}
		}
	}
	return nil, "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, pod.Name))
}

// instances returns a container's instances, newest first.
func (s *Service) instances(ctx context.Context, pod *corev1.Pod, name string) ([]runtime.Container, error) {
	all, err := s.cfg.Runtime.ListContainers(ctx, string(pod.UID))
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(c runtime.Container) bool { return c.Name != name })
	slices.SortFunc(all, func(a, b runtime.Container) int { return b.CreatedAt.Compare(a.CreatedAt) })
	return all, nil
}

func (s *Service) running(ctx context.Context, target *kubeletv1pb.Target) (runtime.Container, error) {
	pod, name, err := s.find(target)
	if err != nil {
		return runtime.Container{}, err
	}
	all, err := s.instances(ctx, pod, name)
	if err != nil {
		return runtime.Container{}, err
	}
	for i := range all {
		if all[i].State == runtime.Running {
			return all[i], nil
		}
	}
	return runtime.Container{}, apierrors.NewBadRequest(fmt.Sprintf("container %s of pod %s is not running", name, pod.Name))
}

// Logs implements KubeletService.
func (s *Service) Logs(request *kubeletv1pb.LogsRequest, out kubeletv1pb.KubeletService_LogsServer) error {
	ctx := out.Context()
	pod, name, err := s.find(request.GetTarget())
	if err != nil {
		return err
	}
	all, err := s.instances(ctx, pod, name)
	if err != nil {
		return err
	}
	index := 0
	if request.GetPrevious() {
		index = 1
	}
	if index >= len(all) {
		if request.GetPrevious() {
			return apierrors.NewBadRequest(fmt.Sprintf("previous terminated container %q in pod %q not found", name, pod.Name))
		}
		return apierrors.NewBadRequest(fmt.Sprintf("container %q in pod %q is waiting to start", name, pod.Name))
	}
	id := all[index].ID
	container, err := s.cfg.Runtime.Container(ctx, id)
	if err != nil {
		return err
	}
	options := logs.Options{
		Follow: request.GetFollow(), Timestamps: request.GetTimestamps(), Tail: request.TailLines,
		LimitBytes: request.GetLimitBytes(),
		Running: func() bool {
			now, err := s.cfg.Runtime.Container(ctx, id)
			return err == nil && (now.State == runtime.Running || now.State == runtime.Created)
		},
	}
	if request.GetSince() != nil {
		options.Since = request.GetSince().AsTime()
	}
	switch request.GetStream() {
	case "Stdout":
		options.Stream = "stdout"
	case "Stderr":
		options.Stream = "stderr"
	}
	writer := &gatherer{send: func(data []byte) error { return out.Send(&kubeletv1pb.LogsResponse{Data: data}) }, immediate: options.Follow}
	err = logs.Read(ctx, container.LogPath, options, writer)
	if errors.Is(err, fs.ErrNotExist) {
		return apierrors.NewNotFound(corev1.Resource("pods/log"), pod.Name)
	}
	return errors.Join(err, writer.flush())
}

// gatherer joins lines to messages of a good size unless somebody reads along.
type gatherer struct {
	send      func([]byte) error
	immediate bool
	buffer    []byte
}

func (g *gatherer) Write(p []byte) (int, error) {
	g.buffer = append(g.buffer, p...)
	if g.immediate || len(g.buffer) >= piece {
		return len(p), g.flush()
	}
	return len(p), nil
}

func (g *gatherer) flush() error {
	for len(g.buffer) > 0 {
		n := min(len(g.buffer), piece)
		if err := g.send(g.buffer[:n]); err != nil {
			return err
		}
		g.buffer = g.buffer[n:]
	}
	g.buffer = nil
	return nil
}

// Stats implements KubeletService.
func (s *Service) Stats(ctx context.Context, _ *kubeletv1pb.StatsRequest) (*kubeletv1pb.StatsResponse, error) {
	stats, err := s.cfg.Runtime.Stats(ctx)
	if err != nil {
		return nil, err
	}
	node, err := s.cfg.NodeUse()
	if err != nil {
		return nil, err
	}
	response := &kubeletv1pb.StatsResponse{Node: node}
	pods := map[string]*kubeletv1pb.PodStats{}
	for i := range stats {
		st := &stats[i]
		pod := pods[st.Pod.UID]
		if pod == nil {
			pod = &kubeletv1pb.PodStats{Namespace: st.Pod.Namespace, Name: st.Pod.Name, Uid: st.Pod.UID}
			pods[st.Pod.UID] = pod
			response.Pods = append(response.Pods, pod)
		}
		pod.Containers = append(pod.Containers, &kubeletv1pb.ContainerStats{Name: st.Container, Use: &kubeletv1pb.ResourceUse{
			CpuNanoseconds: st.CPUNanoseconds, MemoryBytes: st.MemoryBytes, Time: timestamppb.New(st.Time),
		}})
	}
	return response, nil
}

// PortForward implements KubeletService.
func (s *Service) PortForward(stream kubeletv1pb.KubeletService_PortForwardServer) error {
	ctx := stream.Context()
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	if start == nil || start.GetPort() == 0 || start.GetPort() > 65535 {
		return apierrors.NewBadRequest("the first message must carry start with a port from 1 to 65535")
	}
	target := start.GetTarget()
	s.audit("portforward", start.GetCaller(), target)
	pod := s.cfg.Pod(target.GetNamespace(), target.GetPod())
	if pod == nil || target.GetUid() != "" && target.GetUid() != string(pod.UID) {
		return apierrors.NewNotFound(corev1.Resource("pods"), target.GetPod())
	}
	sandboxes, err := s.cfg.Runtime.ListSandboxes(ctx, string(pod.UID))
	if err != nil {
		return err
	}
	at := slices.IndexFunc(sandboxes, func(sandbox runtime.Sandbox) bool { return sandbox.Ready })
	if at < 0 {
		return apierrors.NewBadRequest(fmt.Sprintf("pod %s is not running", pod.Name))
	}
	if start.GetPodAddress() {
		return s.connect(stream, pod, sandboxes[at].ID, start.GetPort())
	}
	reader, writer := io.Pipe()
	var group errgroup.Group // ends with the stream
	group.Go(func() error {
		for {
			message, err := stream.Recv()
			if err != nil {
				return writer.CloseWithError(eof(err))
			}
			if _, err := writer.Write(message.GetData()); err != nil {
				return err
			}
		}
	})
	return s.cfg.Runtime.PortForward(ctx, sandboxes[at].ID, start.GetPort(), &duplex{
		Reader: reader, close: reader.Close,
		Writer: sender(func(data []byte) error { return stream.Send(&kubeletv1pb.PortForwardResponse{Data: data}) }),
	})
}

// dialTimeout bounds connecting to a pod of this machine.
const dialTimeout = 10 * time.Second

// connect joins a stream to a port at the pod's own address.
func (s *Service) connect(stream kubeletv1pb.KubeletService_PortForwardServer, pod *corev1.Pod, sandboxID string, port uint32) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	sandbox, err := s.cfg.Runtime.Sandbox(ctx, sandboxID)
	if err != nil {
		return err
	}
	host := s.cfg.NodeIP
	if !pod.Spec.HostNetwork {
		if len(sandbox.IPs) == 0 {
			return apierrors.NewServiceUnavailable(fmt.Sprintf("pod %s has no address yet", pod.Name))
		}
		host = sandbox.IPs[0]
	}
	conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
	if err != nil {
		return apierrors.NewServiceUnavailable(fmt.Sprintf("connect to pod %s: %v", pod.Name, err))
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	var group errgroup.Group // ends with the stream
	group.Go(func() error {
		for {
			message, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				if half, ok := conn.(interface{ CloseWrite() error }); ok {
					return half.CloseWrite()
				}
				return nil
			}
			if err != nil {
				cancel()
				return nil //nolint:nilerr // the caller is gone
			}
			if _, err := conn.Write(message.GetData()); err != nil {
				return err // what the pod still says is read to its end
			}
		}
	})
	_, err = io.CopyBuffer(sender(func(data []byte) error { return stream.Send(&kubeletv1pb.PortForwardResponse{Data: data}) }),
		struct{ io.Reader }{conn}, make([]byte, piece))
	if err != nil && stream.Context().Err() == nil {
		return apierrors.NewServiceUnavailable(fmt.Sprintf("connection to pod %s: %v", pod.Name, err))
	}
	return nil
}

type duplex struct {
	io.Reader
	io.Writer
	close func() error
}

func (d *duplex) Close() error { return d.close() }

// sender makes messages of what is written.
type sender func([]byte) error

func (send sender) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		n := min(len(p), piece)
		if err := send(p[:n]); err != nil {
			return written, err
		}
		written, p = written+n, p[n:]
	}
	return written, nil
}

func eof(err error) error {
	if errors.Is(err, io.EOF) {
		return nil // CloseWithError(nil) is io.EOF for the reader
	}
	return err
}

// audit records who reached into a container. The command stays out: its arguments
// may hold secrets.
func (s *Service) audit(verb string, caller *kubeletv1pb.Caller, target *kubeletv1pb.Target) {
	s.cfg.Log.Info("audit", zap.String("verb", verb), logging.User(caller.GetUser()), logging.RequestID(caller.GetRequestId()),
		logging.Pod(target.GetNamespace(), target.GetPod()), zap.String("container", target.GetContainer()))
}
