package endpointslice

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func service(target intstr.IntOrString) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web", UID: "service"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: target}}},
	}
}

func pod(name, ip string, isReady bool, ports ...corev1.ContainerPort) *corev1.Pod {
	status := corev1.ConditionFalse
	if isReady {
		status = corev1.ConditionTrue
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name, UID: types.UID(name)},
		Spec:       corev1.PodSpec{NodeName: "node", Containers: []corev1.Container{{Ports: ports}}},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: ip,
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: status}},
		},
	}
}

func TestEndpointsSayWhatPodsAre(t *testing.T) {
	leaving := pod("leaving", "10.0.0.3", true)
	leaving.DeletionTimestamp = ptr.To(metav1.Now())
	finished := pod("finished", "10.0.0.4", false)
	finished.Status.Phase = corev1.PodSucceeded
	p := decide(service(intstr.FromInt32(8080)), []*corev1.Pod{
		pod("ready", "10.0.0.1", true), pod("unready", "10.0.0.2", false), leaving, finished, pod("addressless", "", true),
	}, nil)
	if len(p.create) != 1 || len(p.create[0].Endpoints) != 3 || *p.create[0].Ports[0].Port != 8080 {
		t.Fatalf("created %+v", p.create)
	}
	want := map[string]string{"ready": "true true false", "unready": "false false false", "leaving": "false true true"}
	for _, e := range p.create[0].Endpoints {
		got := fmt.Sprint(*e.Conditions.Ready, *e.Conditions.Serving, *e.Conditions.Terminating)
		if got != want[e.TargetRef.Name] {
			t.Errorf("%s is %s, want %s", e.TargetRef.Name, got, want[e.TargetRef.Name])
		}
	}
}

func TestNamedPortsSplitSlices(t *testing.T) {
	p := decide(service(intstr.FromString("web")), []*corev1.Pod{
		pod("p1", "10.0.0.1", true, corev1.ContainerPort{Name: "web", ContainerPort: 1000}),
		pod("p2", "10.0.0.2", true, corev1.ContainerPort{Name: "web", ContainerPort: 2000}),
		pod("p3", "10.0.0.3", true, corev1.ContainerPort{Name: "web", ContainerPort: 1000}),
	}, nil)
	sizes := map[int32]int{}
	for _, slice := range p.create {
		sizes[*slice.Ports[0].Port] = len(slice.Endpoints)
	}
	if len(p.create) != 2 || sizes[1000] != 2 || sizes[2000] != 1 {
		t.Errorf("sizes %v", sizes)
	}
}

// A thousand pods come and go: every pod is in exactly one slice, no slice is too
// large, one pod's change touches one slice, and a repeated decision changes nothing.
func TestSlicesFillAndStay(t *testing.T) {
	svc := service(intstr.FromInt32(8080))
	var pods []*corev1.Pod
	for i := range 250 {
		pods = append(pods, pod(fmt.Sprintf("p%03d", i), fmt.Sprintf("10.0.%d.%d", i/200, i%200+1), true))
	}
	slices := settle(t, svc, pods, nil)
	if len(slices) != 3 {
		t.Fatalf("%d slices", len(slices))
	}
	if p := decide(svc, pods, slices); len(p.create)+len(p.update)+len(p.remove) > 0 {
		t.Errorf("a second decision wants %d creates, %d updates, %d deletes", len(p.create), len(p.update), len(p.remove))
	}
	pods[17] = pod("p017", "10.0.0.18", false)
	if p := decide(svc, pods, slices); len(p.update) != 1 || len(p.create)+len(p.remove) > 0 {
		t.Errorf("one pod's change wants %d creates, %d updates, %d deletes", len(p.create), len(p.update), len(p.remove))
	}
	slices = settle(t, svc, nil, slices)
	if len(slices) != 1 || len(slices[0].Endpoints) != 0 {
		t.Errorf("without pods %d slices are left", len(slices))
	}
}

func settle(t *testing.T, svc *corev1.Service, pods []*corev1.Pod, have []*discoveryv1.EndpointSlice) []*discoveryv1.EndpointSlice {
	t.Helper()
	p := decide(svc, pods, have)
	byName := map[string]*discoveryv1.EndpointSlice{}
	for _, list := range [][]*discoveryv1.EndpointSlice{have, p.create, p.update} {
		for _, slice := range list {
			byName[slice.Name] = slice
		}
	}
	for _, slice := range p.remove {
		delete(byName, slice.Name)
	}
	seen := map[types.UID]bool{}
	var out []*discoveryv1.EndpointSlice
	for _, slice := range byName {
		if len(slice.Endpoints) > sliceSize {
			t.Errorf("slice %s holds %d", slice.Name, len(slice.Endpoints))
		}
		for _, e := range slice.Endpoints {
			if seen[e.TargetRef.UID] {
				t.Errorf("%s is in two slices", e.TargetRef.Name)
			}
			seen[e.TargetRef.UID] = true
		}
		out = append(out, slice)
	}
	if len(seen) != len(pods) {
		t.Errorf("%d of %d pods are in slices", len(seen), len(pods))
	}
	return out
}
