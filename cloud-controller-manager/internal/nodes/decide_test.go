package nodes

import (
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	cloudv1pb "kijabi.dev/proto/gen/kijabi/cloud/v1"
)

func node(providerID string, labels map[string]string, taints ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: labels}, Spec: corev1.NodeSpec{ProviderID: providerID}}
	for _, key := range taints {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoSchedule})
	}
	return n
}

func TestDecide(t *testing.T) {
	const (
		running  = cloudv1pb.InstanceState_INSTANCE_STATE_RUNNING
		shutdown = cloudv1pb.InstanceState_INSTANCE_STATE_SHUTDOWN
		unknown  = cloudv1pb.InstanceState_INSTANCE_STATE_UNSPECIFIED
	)
	mine := map[string]string{"mine": "stays"}
	for name, test := range map[string]struct {
		node     *corev1.Node
		instance *cloudv1pb.GetInstanceResponse
		want     *corev1.Node
	}{
		"a new machine": {
			node("", mine, taintUninitialized, "own"),
			&cloudv1pb.GetInstanceResponse{ProviderId: "cloud://1", InstanceType: "big", Zone: "z", Region: "r", State: running},
			node("cloud://1", map[string]string{
				"mine": "stays", "node.kubernetes.io/instance-type": "big", "topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r",
			}, "own"),
		},
		"a provider id is for ever": {
			node("cloud://1", mine), &cloudv1pb.GetInstanceResponse{ProviderId: "cloud://2", State: running}, node("cloud://1", mine),
		},
		"what the provider does not say stays": {
			node("cloud://1", map[string]string{"topology.kubernetes.io/zone": "by hand"}),
			&cloudv1pb.GetInstanceResponse{State: running},
			node("cloud://1", map[string]string{"topology.kubernetes.io/zone": "by hand"}),
		},
		"what it does say wins": {
			node("cloud://1", map[string]string{"topology.kubernetes.io/zone": "old"}),
			&cloudv1pb.GetInstanceResponse{Zone: "new", State: running},
			node("cloud://1", map[string]string{"topology.kubernetes.io/zone": "new"}),
		},
		"switched off":       {node("cloud://1", mine, "own"), &cloudv1pb.GetInstanceResponse{State: shutdown}, node("cloud://1", mine, "own", taintShutdown)},
		"still switched off": {node("cloud://1", mine, taintShutdown), &cloudv1pb.GetInstanceResponse{State: shutdown}, node("cloud://1", mine, taintShutdown)},
		"on again":           {node("cloud://1", mine, taintShutdown, "own"), &cloudv1pb.GetInstanceResponse{State: running}, node("cloud://1", mine, "own")},
		"in an unknown state, which changes nothing": {
			node("cloud://1", mine, taintShutdown), &cloudv1pb.GetInstanceResponse{State: unknown}, node("cloud://1", mine, taintShutdown),
		},
		"nothing to say": {node("cloud://1", nil), &cloudv1pb.GetInstanceResponse{State: running}, node("cloud://1", nil)},
	} {
		t.Run(name, func(t *testing.T) {
			before := test.node.DeepCopy()
			got := decide(test.node, test.instance)
			if !equality.Semantic.DeepEqual(got, test.want) {
				t.Errorf("got %+v %+v,\nwant %+v %+v", got.Labels, got.Spec, test.want.Labels, test.want.Spec)
			}
			if !reflect.DeepEqual(test.node, before) {
				t.Error("the node of the cache was changed")
			}
		})
	}
}
