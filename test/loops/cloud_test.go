package loops

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
	cloudv1pb "kijabi.dev/proto/gen/kijabi/cloud/v1"
	"kijabi.dev/test/harness"
)

// cloud is a provider that answers as a test says.
type cloud struct {
	cloudv1pb.UnimplementedCloudProviderServiceServer

	mu     sync.Mutex
	asked  map[string]int
	answer func(node string, attempt int) (*cloudv1pb.GetInstanceResponse, error)
}

func (c *cloud) GetInstance(_ context.Context, req *cloudv1pb.GetInstanceRequest) (*cloudv1pb.GetInstanceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked[req.GetNode()]++
	return c.answer(req.GetNode(), c.asked[req.GetNode()])
}

func (c *cloud) times(node string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked[node]
}

// TestCloud runs the cloud-controller-manager against a provider whose answers are errors, too.
func TestCloud(tt *testing.T) {
	t := harness.Begin(tt)
	const failures = 5
	provider := &cloud{asked: map[string]int{}, answer: func(node string, attempt int) (*cloudv1pb.GetInstanceResponse, error) {
		switch {
		case node == "gone":
			return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "instances"}, node)
		case node == "refused":
			return nil, apierrors.NewBadRequest("the account may not ask")
		case node == "slow" && attempt <= failures:
			return nil, apierrors.NewServiceUnavailable("the cloud has a bad day")
		}
		state := cloudv1pb.InstanceState_INSTANCE_STATE_RUNNING
		if node == "off" {
			state = cloudv1pb.InstanceState_INSTANCE_STATE_SHUTDOWN
		}
		return &cloudv1pb.GetInstanceResponse{ProviderId: "test://" + node, InstanceType: "big", Zone: "z1", Region: "r1", State: state}, nil
	}}
	s := newStack(t)
	server, err := rpc.NewServer(rpc.ServerConfig{
		Identity: s.identity(t, pki.ComponentCloudProvider, machine), Log: zap.NewNop(), GracePeriod: time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	cloudv1pb.RegisterCloudProviderServiceServer(server, provider)
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", s.at(configv1.PortCloudProvider))
	if err != nil {
		t.Fatal(err)
	}
	group := lifecycle.NewGroup(context.WithoutCancel(t.Context()))
	group.Go(func(ctx context.Context) error { return server.Serve(ctx, listener) })
	t.Cleanup(func() {
		group.Cancel()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
	})
	for _, name := range []string{"gone", "refused", "slow", "off", "plain"} {
		node := hollowNode(name, "1")
		node.Spec.Taints = []corev1.Taint{{Key: "node.cloudprovider.kubernetes.io/uninitialized", Value: "true", Effect: corev1.TaintEffectNoSchedule}}
		if err := s.register(t.Context(), node); err != nil {
			t.Fatal(err)
		}
	}
	s.start(t, "cloud-controller-manager")

	initialized := func(name string, taints ...string) func() error {
		return func() error {
			node, err := get[*corev1.Node](s, "", name)
			if err != nil {
				return err
			}
			var have []string
			for _, taint := range node.Spec.Taints {
				have = append(have, taint.Key)
			}
			if node.Spec.ProviderID != "test://"+name || node.Labels[corev1.LabelTopologyZone] != "z1" || node.Labels[corev1.LabelTopologyRegion] != "r1" ||
				node.Labels[corev1.LabelInstanceTypeStable] != "big" || fmt.Sprint(have) != fmt.Sprint(taints) {
				return fmt.Errorf("provider id %q, labels %v, taints %v", node.Spec.ProviderID, node.Labels, have)
			}
			return nil
		}
	}
	harness.Eventually(t, patience, "a machine is described", initialized("plain"))
	harness.Eventually(t, patience, "one that is switched off takes no pods", initialized("off", "node.cloudprovider.kubernetes.io/shutdown"))
	harness.Eventually(t, patience, "the node of a machine that is gone goes", gone[*corev1.Node](s, "", "gone"))
	harness.Eventually(t, patience, "UNAVAILABLE is tried again", initialized("slow"))
	if n := provider.times("slow"); n < failures+1 {
		t.Errorf("answered after %d calls", n)
	}
	// An error that is no NOT_FOUND never removes a node.
	harness.Eventually(t, patience, "a refusal is tried again, ever more rarely", func() error {
		if n := provider.times("refused"); n < 4 {
			return fmt.Errorf("asked %d times", n)
		}
		return nil
	})
	if node, err := get[*corev1.Node](s, "", "refused"); err != nil || node.DeletionTimestamp != nil || node.Spec.ProviderID != "" {
		t.Errorf("node that the provider refuses to describe: %v, %v", node, err)
	}
	// A taint that comes back is taken away again, without a restart.
	change(t, s, "", "plain", "", func(n *corev1.Node) {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "node.cloudprovider.kubernetes.io/uninitialized", Effect: corev1.TaintEffectNoSchedule, TimeAdded: &metav1.Time{Time: time.Now()}})
	})
	harness.Eventually(t, patience, "the loop follows the node", initialized("plain"))
}
