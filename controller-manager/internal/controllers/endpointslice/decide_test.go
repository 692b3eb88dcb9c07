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

func nowhere(string) string { return "" }

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
	}, nowhere, nil)
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
	}, nowhere, nil)
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
	if p := decide(svc, pods, nowhere, slices); len(p.create)+len(p.update)+len(p.remove) > 0 {
		t.Errorf("a second decision wants %d creates, %d updates, %d deletes", len(p.create), len(p.update), len(p.remove))
	}
	pods[17] = pod("p017", "10.0.0.18", false)
	if p := decide(svc, pods, nowhere, slices); len(p.update) != 1 || len(p.create)+len(p.remove) > 0 {
		t.Errorf("one pod's change wants %d creates, %d updates, %d deletes", len(p.create), len(p.update), len(p.remove))
	}
	slices = settle(t, svc, nil, slices)
	if len(slices) != 1 || len(slices[0].Endpoints) != 0 {
		t.Errorf("without pods %d slices are left", len(slices))
	}
}

func settle(t *testing.T, svc *corev1.Service, pods []*corev1.Pod, have []*discoveryv1.EndpointSlice) []*discoveryv1.EndpointSlice {
	t.Helper()
	p := decide(svc, pods, nowhere, have)
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

func TestEndpointsSayWhereTheyAre(t *testing.T) {
	zone := func(node string) string { return map[string]string{"node": "z1"}[node] }
	lost := pod("lost", "10.0.0.2", true)
	lost.Spec.NodeName = "other"
	for distribution, want := range map[string]struct{ zones, nodes int }{
		"": {}, "PreferClose": {1, 0}, "PreferSameZone": {1, 0}, "PreferSameNode": {1, 2},
	} {
		svc := service(intstr.FromInt32(80))
		if distribution != "" {
			svc.Spec.TrafficDistribution = &distribution
		}
		p := decide(svc, []*corev1.Pod{pod("p", "10.0.0.1", true), lost, pod("unready", "10.0.0.3", false)}, zone, nil)
		zones, nodes := 0, 0
		for _, e := range p.create[0].Endpoints {
			if wantZone := zone(*e.NodeName); ptr.Deref(e.Zone, "") != wantZone {
				t.Errorf("%s is in zone %v, want %s", e.TargetRef.Name, e.Zone, wantZone)
			}
			if e.Hints == nil {
				continue
			}
			if !*e.Conditions.Ready {
				t.Errorf("%s: hints %v though it is not ready", e.TargetRef.Name, e.Hints)
			}
			zones, nodes = zones+len(e.Hints.ForZones), nodes+len(e.Hints.ForNodes)
		}
		if zones != want.zones || nodes != want.nodes {
			t.Errorf("%q: %d zones and %d nodes, want %v", distribution, zones, nodes, want)
		}
	}
}

func TestUnreadyOnesArePublishedWhereTheyMustBe(t *testing.T) {
	svc := service(intstr.FromInt32(80))
	svc.Spec.PublishNotReadyAddresses = true
	leaving := pod("leaving", "10.0.0.3", true)
	leaving.DeletionTimestamp = ptr.To(metav1.Now())
	p := decide(svc, []*corev1.Pod{pod("unready", "10.0.0.2", false), leaving}, nowhere, nil)
	for _, e := range p.create[0].Endpoints {
		if !*e.Conditions.Ready || *e.Conditions.Terminating != (e.TargetRef.Name == "leaving") || *e.Conditions.Serving != (e.TargetRef.Name == "leaving") {
			t.Errorf("%s: %+v", e.TargetRef.Name, e.Conditions)
		}
	}
}

func TestLabelsOfSlices(t *testing.T) {
	svc := service(intstr.FromInt32(80))
	svc.Labels = map[string]string{"app": "web", corev1.IsHeadlessService: "forged", discoveryv1.LabelManagedBy: "forged"}
	have := decide(svc, nil, nowhere, nil).create[0]
	if _, headless := have.Labels[corev1.IsHeadlessService]; headless || have.Labels["app"] != "web" || have.Labels[discoveryv1.LabelManagedBy] != managedBy {
		t.Errorf("labels %v", have.Labels)
	}
	svc.Spec.ClusterIP = corev1.ClusterIPNone
	p := decide(svc, nil, nowhere, []*discoveryv1.EndpointSlice{have})
	if len(p.update) != 1 {
		t.Fatalf("a service that has become headless: %+v", p)
	}
	if value, headless := p.update[0].Labels[corev1.IsHeadlessService]; !headless || value != "" {
		t.Errorf("labels %v", p.update[0].Labels)
	}
}

// A slice tells when the first of what it newly publishes happened, and nothing when it does not know.
func TestTriggerTime(t *testing.T) {
	svc := service(intstr.FromInt32(80))
	at := func(seconds int64) metav1.Time { return metav1.Unix(seconds, 0) }
	svc.CreationTimestamp = at(100)
	since := func(name, ip string, ready bool, seconds int64) *corev1.Pod {
		p := pod(name, ip, ready)
		p.Status.Conditions[0].LastTransitionTime = at(seconds)
		return p
	}
	told := func(slice *discoveryv1.EndpointSlice) string {
		return slice.Annotations[corev1.EndpointsLastChangeTriggerTime]
	}
	text := func(seconds int64) string { return at(seconds).UTC().Format("2006-01-02T15:04:05.999999999Z07:00") }
	old, young := since("old", "10.0.0.1", true, 50), since("young", "10.0.0.2", true, 120)
	first := decide(svc, []*corev1.Pod{old}, nowhere, nil).create[0]
	if told(first) != text(100) {
		t.Errorf("a new service: %q", told(first))
	}
	second := decide(svc, []*corev1.Pod{old, young}, nowhere, []*discoveryv1.EndpointSlice{first}).update[0]
	if told(second) != text(120) {
		t.Errorf("a pod that has come: %q", told(second))
	}
	third := decide(svc, []*corev1.Pod{old, since("young", "10.0.0.2", false, 130)}, nowhere, []*discoveryv1.EndpointSlice{second}).update[0]
	if told(third) != text(130) {
		t.Errorf("a pod that is unready: %q", told(third))
	}
	if fourth := decide(svc, []*corev1.Pod{old}, nowhere, []*discoveryv1.EndpointSlice{third}).update[0]; told(fourth) != "" {
		t.Errorf("a pod that is gone: %q", told(fourth))
	}
}

func TestBothFamilies(t *testing.T) {
	svc := service(intstr.FromInt32(80))
	svc.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	both := pod("both", "10.0.0.1", true)
	both.Status.PodIPs = []corev1.PodIP{{IP: "10.0.0.1"}, {IP: "fd00::1"}}
	p := decide(svc, []*corev1.Pod{both, pod("one", "10.0.0.2", true)}, nowhere, nil)
	have := map[discoveryv1.AddressType]int{}
	for _, slice := range p.create {
		have[slice.AddressType] += len(slice.Endpoints)
	}
	if len(p.create) != 2 || have[discoveryv1.AddressTypeIPv4] != 2 || have[discoveryv1.AddressTypeIPv6] != 1 {
		t.Errorf("endpoints by family %v in %d slices", have, len(p.create))
	}
	if again := decide(svc, []*corev1.Pod{both, pod("one", "10.0.0.2", true)}, nowhere, p.create); len(again.create)+len(again.update)+len(again.remove) > 0 {
		t.Errorf("decided again: %+v", again)
	}
}
