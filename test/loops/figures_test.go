package loops

import (
	"context"
	"errors"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
	"kijabi.dev/platform/tunnel"
	kubeletv1pb "kijabi.dev/proto/gen/kijabi/kubelet/v1"
	nodev1pb "kijabi.dev/proto/gen/kijabi/node/v1"
	"kijabi.dev/test/harness"
)

// figures answers for a hollow node's kubelet what its pods use.
type figures struct {
	kubeletv1pb.UnimplementedKubeletServiceServer

	k    *kubelets
	node string
	// use returns the millicores that a pod uses now, of so many that run in its namespace.
	use func(pod *corev1.Pod, running int) uint64

	last map[types.UID]burnt
}

// burnt is what a pod had used at a time.
type burnt struct {
	nanoseconds uint64
	at          time.Time
}

// Stats is asked by one apiserver for one controller-manager, one after the other.
func (f *figures) Stats(ctx context.Context, _ *kubeletv1pb.StatsRequest) (*kubeletv1pb.StatsResponse, error) {
	page, err := client.List[*corev1.Pod](ctx, f.k.s.api, client.ListOptions{})
	if err != nil {
		return nil, err
	}
	pods := page.Items
	now, out := time.Now(), &kubeletv1pb.StatsResponse{}
	running := map[string]int{}
	for _, pod := range pods {
		if pod.Status.Phase == corev1.PodRunning && pod.DeletionTimestamp == nil {
			running[pod.Namespace]++
		}
	}
	f.k.mu.Lock()
	defer f.k.mu.Unlock()
	for _, pod := range pods {
		if pod.Spec.NodeName != f.node || pod.Status.Phase != corev1.PodRunning || pod.DeletionTimestamp != nil {
			continue
		}
		before, ok := f.last[pod.UID]
		if !ok {
			before = burnt{at: now}
		}
		total := burnt{before.nanoseconds + f.use(pod, running[pod.Namespace])*uint64(now.Sub(before.at))/1000, now}
		f.last[pod.UID] = total
		out.Pods = append(out.Pods, &kubeletv1pb.PodStats{
			Namespace: pod.Namespace, Name: pod.Name, Uid: string(pod.UID),
			Containers: []*kubeletv1pb.ContainerStats{{Name: "main", Use: &kubeletv1pb.ResourceUse{
				CpuNanoseconds: total.nanoseconds, MemoryBytes: 64 << 20, Time: timestamppb.New(now),
			}}},
		})
	}
	return out, nil
}

// serve lets masters ask a hollow node's kubelet for figures, until the test ends.
func (k *kubelets) serve(t *harness.T, node string, use func(pod *corev1.Pod, running int) uint64) {
	t.Helper()
	conn, err := rpc.Dial(k.s.at(configv1.PortGRPC), k.s.identity(t, pki.ComponentKubelet, node))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(k.ctx)
	stream, err := nodev1pb.NewNodeServiceClient(conn).Tunnel(ctx)
	if err != nil {
		t.Fatal(err)
	}
	through := tunnel.ClientConn(stream, cancel)
	server := grpc.NewServer()
	kubeletv1pb.RegisterKubeletServiceServer(server, &figures{k: k, node: node, use: use, last: map[types.UID]burnt{}})
	stop := context.AfterFunc(ctx, server.Stop)
	k.done.Go(func() {
		defer func() { _ = conn.Close() }()
		defer stop()
		err := server.Serve(tunnel.Listener(through))
		if !errors.Is(err, net.ErrClosed) && !errors.Is(err, grpc.ErrServerStopped) {
			k.fail(err)
		}
	})
}
