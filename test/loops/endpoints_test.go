package loops

import (
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/test/harness"
)

// endpoints are a service's addresses and whether they are ready.
func endpoints(t *harness.T, s *stack, ns, service string) map[string]bool {
	t.Helper()
	have := map[string]bool{}
	for _, slice := range list[*discoveryv1.EndpointSlice](t, s, ns) {
		if slice.Labels[discoveryv1.LabelServiceName] != service {
			continue
		}
		for _, endpoint := range slice.Endpoints {
			have[endpoint.Addresses[0]] = endpoint.Conditions.Ready != nil && *endpoint.Conditions.Ready
		}
	}
	return have
}

// published says whether a service's endpoints are what its pods say, and how many are ready.
func published(t *harness.T, s *stack, ns, app string, ready int) func() error {
	t.Helper()
	return func() error {
		want := map[string]bool{}
		n := 0
		for _, pod := range list[*corev1.Pod](t, s, ns) {
			if pod.Labels["app"] != app || pod.Status.PodIP == "" {
				continue
			}
			want[pod.Status.PodIP] = isReady(pod) && pod.DeletionTimestamp == nil
			if want[pod.Status.PodIP] {
				n++
			}
		}
		if have := endpoints(t, s, ns, app); n != ready || !maps.Equal(have, want) {
			return fmt.Errorf("endpoints %v, pods %v, want %d ready", have, want, ready)
		}
		return nil
	}
}

func testEndpoints(t *harness.T, s *stack) {
	ns := namespace(t, s, "endpoints")
	create(t, s, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Name: "http", Port: 80}}},
	})
	create(t, s, deployment(ns, "web", 4))
	create(t, s, deployment(ns, "other", 2))
	harness.Eventually(t, patience, "all pods are endpoints", published(t, s, ns, "web", 4))

	var pod *corev1.Pod
	for _, candidate := range list[*corev1.Pod](t, s, ns) {
		if candidate.Labels["app"] == "web" {
			pod = candidate
		}
	}
	change(t, s, ns, pod.Name, "", func(p *corev1.Pod) { p.Annotations = map[string]string{unreadyAnnotation: "yes"} })
	harness.Eventually(t, patience, "a pod that is not Ready is no ready endpoint", published(t, s, ns, "web", 3))
	change(t, s, ns, pod.Name, "", func(p *corev1.Pod) { p.Annotations = nil })
	harness.Eventually(t, patience, "it is again", published(t, s, ns, "web", 4))
	s.remove(t, pod, client.DeleteOptions{})
	harness.Eventually(t, patience, "a deleted pod's address goes", func() error {
		if _, there := endpoints(t, s, ns, "web")[pod.Status.PodIP]; there {
			return fmt.Errorf("%s is there", pod.Status.PodIP)
		}
		return nil
	})
	harness.Eventually(t, patience, "its replacement comes", published(t, s, ns, "web", 4))

	s.remove(t, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"}}, client.DeleteOptions{})
	harness.Eventually(t, patience, "slices go with their service", func() error {
		if n := len(list[*discoveryv1.EndpointSlice](t, s, ns)); n > 0 {
			return fmt.Errorf("%d slices", n)
		}
		return nil
	})
}
