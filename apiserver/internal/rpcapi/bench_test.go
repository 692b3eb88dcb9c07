package rpcapi_test

import (
	"fmt"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/apiserver/internal/audit/audittest"
	"kijabi.dev/apiserver/internal/etcdnode"
	"kijabi.dev/apiserver/internal/flowcontrol"
	"kijabi.dev/apiserver/internal/metrics"
	"kijabi.dev/apiserver/internal/rpcapi"
	"kijabi.dev/apiserver/internal/traffic"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/rpc"
	objectv1pb "kijabi.dev/proto/gen/kijabi/object/v1"
)

// etcd starts a member of one.
func etcd(t testing.TB) *etcdnode.Node {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + l.Addr().String()
	_ = l.Close()
	node, err := etcdnode.Start(t.Context(), etcdnode.Config{Name: "m1", Dir: t.TempDir(), PeerURL: url, ClusterToken: "bench", Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(node.Close)
	return node
}

// cpuTime is what this process has used: unlike the elapsed time, it is the same on a busy machine.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		b.Fatal(err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

// guarded has the door do with every call what a real one does.
func guarded(b *testing.B) func(*rpc.ServerConfig) {
	b.Helper()
	control := traffic.New(traffic.Config{
		Audit: audittest.Open(b).Log, Metrics: metrics.New(), Limiter: flowcontrol.New(flowcontrol.Config{}),
		Known: func(traffic.Target) bool { return true },
	})
	return func(cfg *rpc.ServerConfig) { cfg.Surround = rpcapi.Surround(control) }
}

// BenchmarkCreate goes all the way by 64 callers on four connections: client, TLS, door,
// registry, store, etcd. The echo is the same way without what is behind the door.
func BenchmarkCreate(b *testing.B) {
	const callers, conns = 64, 4
	d := openOn(b, etcd(b).Backend(), guarded(b))
	var clients []*client.Client
	var checks []grpc_health_v1.HealthClient
	for range conns {
		conn := d.dial(b, "admin")
		clients, checks = append(clients, client.New(conn)), append(checks, grpc_health_v1.NewHealthClient(conn))
	}
	var next, caller atomic.Int64
	run := func(name string, call func(b *testing.B, conn int) error) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			began := cpuTime(b)
			b.SetParallelism(callers / 2) // two processors
			b.RunParallel(func(pb *testing.PB) {
				conn := int(caller.Add(1)) % conns
				for pb.Next() {
					if err := call(b, conn); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
			b.ReportMetric(float64((cpuTime(b)-began).Microseconds())/float64(b.N), "cpu-µs/op")
		})
	}
	run("echo", func(b *testing.B, conn int) error {
		_, err := checks[conn].Check(b.Context(), &grpc_health_v1.HealthCheckRequest{})
		return err
	})
	create := func(small func(name string) object.Object) func(*testing.B, int) error {
		return func(b *testing.B, conn int) error {
			_, err := clients[conn].Create(b.Context(), small(fmt.Sprintf("bench-%d", next.Add(1))))
			return err
		}
	}
	run("configmap", create(smallConfigMap))
	run("pod", create(smallPod))
}

// BenchmarkFanOut has one writer and 100 watchers on four connections, which do not decode the
// objects. One operation is one event at one watcher.
func BenchmarkFanOut(b *testing.B) {
	const watchers, conns = 100, 4
	d := openOn(b, memoryBackend(), guarded(b))
	var streams []grpc.ServerStreamingClient[objectv1pb.WatchResponse]
	for i := range conns {
		conn := d.dial(b, "admin")
		for range watchers / conns {
			stream, err := objectv1pb.NewObjectServiceClient(conn).Watch(b.Context(), &objectv1pb.WatchRequest{
				Resource: &objectv1pb.Resource{Version: "v1", Resource: "configmaps"}, Namespace: "default", SendInitialEvents: true,
			})
			if err != nil {
				b.Fatal(i, err)
			}
			for {
				if res, err := stream.Recv(); err != nil {
					b.Fatal(err)
				} else if res.GetInitialEventsEnd() {
					break
				}
			}
			streams = append(streams, stream)
		}
	}
	writes := b.N/watchers + 1
	api := client.New(d.dial(b, "admin"))
	began := cpuTime(b)
	b.ResetTimer()
	var readers errgroup.Group
	for _, stream := range streams {
		readers.Go(func() error {
			for seen := 0; seen < writes; {
				res, err := stream.Recv()
				if err != nil {
					return err
				}
				seen += len(res.GetEvents())
			}
			return nil
		})
	}
	for i := range writes {
		if _, err := api.Create(b.Context(), smallConfigMap(fmt.Sprintf("watched-%d", i))); err != nil {
			b.Fatal(err)
		}
	}
	if err := readers.Wait(); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(float64((cpuTime(b)-began).Nanoseconds())/1000/float64(b.N), "cpu-µs/op")
}

func smallConfigMap(name string) object.Object {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"bench": "creates"}},
		Data:       map[string]string{"key": "a value of a length that is common in such maps", "other": "another"},
	}
}

func smallPod(name string) object.Object {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"bench": "creates", "app": "small"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "c", Image: "registry.kijabi.dev/toolbox:1", Command: []string{"/toolbox", "sleep"},
			Ports: []corev1.ContainerPort{{ContainerPort: 8080}},
			Env:   []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "2"}},
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("16Mi"),
			}},
		}}},
	}
}
