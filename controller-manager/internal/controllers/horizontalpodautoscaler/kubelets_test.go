package horizontalpodautoscaler

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/types/known/timestamppb"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	kubeletv1pb "kijabi.dev/proto/gen/kijabi/kubelet/v1"
)

// node answers for one kubelet: a container "main" that uses so much.
type node struct {
	mu    sync.Mutex
	cpu   uint64
	at    time.Time
	fails error
	asked int
}

func (n *node) ask(_ context.Context, name string) (*kubeletv1pb.StatsResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked++
	if n.fails != nil {
		return nil, n.fails
	}
	return &kubeletv1pb.StatsResponse{Pods: []*kubeletv1pb.PodStats{{
		Name: "web", Uid: "uid-" + name, Containers: []*kubeletv1pb.ContainerStats{{Name: "main", Use: &kubeletv1pb.ResourceUse{
			CpuNanoseconds: n.cpu, MemoryBytes: 1000, Time: timestamppb.New(n.at),
		}}},
	}}}, nil
}

func (n *node) uses(cpu time.Duration, at time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cpu, n.at = uint64(cpu), at
}

func TestUseOfPods(t *testing.T) {
	n := &node{}
	k := NewKubelets(KubeletsConfig{Ask: n.ask, Every: time.Minute, Clock: clock.RealClock{}, Log: zap.NewNop()})
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web", UID: types.UID("uid-n1")},
		Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "main"}}},
	}
	read := func(resource corev1.ResourceName, container string) string {
		got, err := k.Resource(resource, container, []*corev1.Pod{pod, {ObjectMeta: metav1.ObjectMeta{Name: "waits"}}})
		if err != nil {
			return err.Error()
		}
		return fmt.Sprint(got["web"].Value, " over ", got["web"].Window)
	}
	is := func(when, have, want string) {
		t.Helper()
		if have != want {
			t.Errorf("%s: %q, want %q", when, have, want)
		}
	}
	none := errNoResourceMetrics.Error()
	is("before a node was asked", read(corev1.ResourceCPU, ""), none)
	n.uses(10*time.Second, now)
	k.askAll(t.Context(), true)
	is("CPU after one answer", read(corev1.ResourceCPU, ""), none)
	is("memory after one answer", read(corev1.ResourceMemory, ""), "1000000 over 0s")
	k.askAll(t.Context(), true)
	if n.asked != 1 {
		t.Errorf("asked %d times", n.asked)
	}
	n.uses(12*time.Second, now.Add(10*time.Second))
	k.askAll(t.Context(), false)
	is("CPU after two", read(corev1.ResourceCPU, ""), "200 over 10s")
	is("of one container", read(corev1.ResourceCPU, "main"), "200 over 10s")
	is("of a container that is not there", read(corev1.ResourceCPU, "side"), none)
	k.askAll(t.Context(), false)
	is("when the node has read nothing new", read(corev1.ResourceCPU, ""), "200 over 10s")
	n.uses(time.Second, now.Add(20*time.Second))
	k.askAll(t.Context(), false)
	is("of a container that began anew", read(corev1.ResourceCPU, ""), none)
	n.uses(2*time.Second, now.Add(30*time.Second))
	k.askAll(t.Context(), false)
	is("a period later", read(corev1.ResourceCPU, ""), "100 over 10s")
	pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: "side"})
	is("of a pod with a container that is not measured", read(corev1.ResourceCPU, ""), none)
	n.fails = errors.New("node n1 is not connected to any master")
	k.askAll(t.Context(), false)
	if got := read(corev1.ResourceCPU, ""); !strings.HasPrefix(got, none) || !strings.HasSuffix(got, "any master") {
		t.Errorf("of a node that is not there: %q", got)
	}
	if _, err := k.Resource("disk", "", nil); err == nil {
		t.Error("use of a resource that nobody measures")
	}
}
