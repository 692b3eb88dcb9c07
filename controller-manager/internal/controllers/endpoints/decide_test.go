package endpoints

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

func service() *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web", Labels: map[string]string{"app": "web"}}}
}

type state struct{ ready, terminating bool }

// slice has an endpoint of each state, at addresses that begin at first.
func slice(number int32, first int, states ...state) *discoveryv1.EndpointSlice {
	out := &discoveryv1.EndpointSlice{
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("http"), Port: &number, Protocol: ptr.To(corev1.ProtocolTCP)}},
	}
	for i, s := range states {
		n := first + i
		out.Endpoints = append(out.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{fmt.Sprintf("10.%d.%d.%d", n/62500, n/250%250, n%250+1)}, NodeName: ptr.To("n1"),
			Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(s.ready), Serving: ptr.To(s.ready), Terminating: ptr.To(s.terminating)},
			TargetRef:  &corev1.ObjectReference{Kind: "Pod", UID: types.UID(fmt.Sprint(n))},
		})
	}
	return out
}

func many(s state, n int) []state {
	out := make([]state, n)
	for i := range out {
		out[i] = s
	}
	return out
}

var ready, unready, leaving = state{true, false}, state{false, false}, state{false, true} //nolint:gochecknoglobals // states of endpoints

func TestEndpointsAreThoseOfTheSlices(t *testing.T) {
	svc := service()
	published := []*discoveryv1.EndpointSlice{slice(80, 0, ready, unready, leaving), slice(80, 10, ready), slice(90, 20, unready)}
	have := decide(svc, published, nil)
	if len(have.Subsets) != 2 {
		t.Fatalf("subsets %+v", have.Subsets)
	}
	first, second := have.Subsets[0], have.Subsets[1]
	if first.Ports[0].Port != 80 || len(first.Addresses) != 2 || len(first.NotReadyAddresses) != 1 || second.Ports[0].Port != 90 || len(second.NotReadyAddresses) != 1 {
		t.Errorf("subsets %+v", have.Subsets)
	}
	if first.Addresses[0].IP != "10.0.0.1" || *first.Addresses[0].NodeName != "n1" || first.Addresses[0].TargetRef.UID != "0" {
		t.Errorf("address %+v", first.Addresses[0])
	}
	if have.Labels["app"] != "web" || have.Labels[managedByLabel] != managedBy {
		t.Errorf("labels %v", have.Labels)
	}
	// The order of slices and of what is in them does not matter.
	if again := decide(svc, []*discoveryv1.EndpointSlice{published[2], published[1], published[0]}, have); again != nil {
		t.Errorf("decided again: %+v", again)
	}
	forged := have.DeepCopy()
	forged.Subsets[0].Addresses[0].IP = "192.0.2.1"
	if again := decide(svc, published, forged); again == nil || again.Subsets[0].Addresses[0].IP != "10.0.0.1" {
		t.Errorf("what somebody has changed stays: %+v", again)
	}
	if empty := decide(svc, nil, have); empty == nil || len(empty.Subsets) != 0 {
		t.Errorf("without slices: %+v", empty)
	}
	svc.Spec.ClusterIP = corev1.ClusterIPNone
	headless := decide(svc, published, have)
	if headless == nil {
		t.Fatal("a service that has become headless changes nothing")
	}
	if _, ok := headless.Labels[corev1.IsHeadlessService]; !ok {
		t.Errorf("labels %v", headless.Labels)
	}
}

func TestCapacity(t *testing.T) {
	for name, test := range map[string]struct {
		slices         []*discoveryv1.EndpointSlice
		ready, unready int
		over           bool
	}{
		"all fit":               {[]*discoveryv1.EndpointSlice{slice(80, 0, many(ready, 600)...), slice(90, 5000, many(unready, 400)...)}, 600, 400, false},
		"unready ones give way": {[]*discoveryv1.EndpointSlice{slice(80, 0, many(ready, 600)...), slice(90, 5000, many(unready, 500)...)}, 600, 400, true},
		"ready ones fill it":    {[]*discoveryv1.EndpointSlice{slice(80, 0, many(ready, 900)...), slice(90, 5000, many(ready, 300)...), slice(91, 9000, unready)}, 1000, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			have := decide(service(), test.slices, nil)
			r, u := 0, 0
			for _, s := range have.Subsets {
				r, u = r+len(s.Addresses), u+len(s.NotReadyAddresses)
				if len(s.Addresses)+len(s.NotReadyAddresses) == 0 {
					t.Error("a subset is empty, which is invalid")
				}
			}
			if _, over := have.Annotations[corev1.EndpointsOverCapacity]; r != test.ready || u != test.unready || over != test.over {
				t.Errorf("%d ready, %d not, over capacity %v", r, u, over)
			}
			if again := decide(service(), test.slices, have); again != nil {
				t.Error("a second decision differs")
			}
		})
	}
}
