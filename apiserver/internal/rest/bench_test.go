package rest

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/apiserver/internal/authz"
	"kijabi.dev/apiserver/internal/registry"
)

// counter counts the bytes of an answer.
type counter struct {
	header http.Header
	bytes  int64
}

func (c *counter) Header() http.Header { return c.header }
func (c *counter) WriteHeader(int)     {}
func (c *counter) Write(p []byte) (int, error) {
	c.bytes += int64(len(p))
	return len(p), nil
}

// BenchmarkListAsJSON writes a list of 10,000 small pods, without the network.
func BenchmarkListAsJSON(b *testing.B) {
	const pods = 10_000
	behind := newFakeRegistry()
	resourceOfPods := schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	at := metav1.NewTime(time.Unix(1790000000, 0))
	for i := range pods {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Name: fmt.Sprintf("web-%05d", i), Namespace: "default", UID: "8a6f6a0e-2f0c-4a44-9b52-0123456789ab", CreationTimestamp: at,
				Labels: map[string]string{"app": "web", "pod-template-hash": "5d9c7b6f4d"},
			},
			Spec: corev1.PodSpec{
				Containers: []corev1.Container{{
					Name: "web", Image: "registry.example.com/team/web:v1.2.3", Ports: []corev1.ContainerPort{{ContainerPort: 8080, Protocol: corev1.ProtocolTCP}},
					Resources:    corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("100m"), "memory": resource.MustParse("128Mi")}},
					VolumeMounts: []corev1.VolumeMount{{Name: "token", ReadOnly: true, MountPath: "/var/run/secrets/kubernetes.io/serviceaccount"}},
				}},
				RestartPolicy: corev1.RestartPolicyAlways, DNSPolicy: corev1.DNSClusterFirst, NodeName: "node-1", ServiceAccountName: "default",
			},
			Status: corev1.PodStatus{
				Phase: corev1.PodRunning, StartTime: &at,
				Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: at}, {Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: at}},
			},
		}
		if _, err := behind.put(registry.Ref{Resource: resourceOfPods}, pod); err != nil {
			b.Fatal(err)
		}
	}
	server, err := New(Config{
		Registry: behind, Authorizer: authz.New(authz.Config{Pods: noPods{}, Policy: authz.NewPolicy()}), Nodes: &fakeNodes{}, Log: zap.NewNop(),
	})
	if err != nil {
		b.Fatal(err)
	}
	request := httptest.NewRequestWithContext(b.Context(), http.MethodGet, "/api/v1/namespaces/default/pods", nil)
	asked, err := server.resolve(request, schema.GroupVersion{Version: "v1"}, []string{"namespaces", "default", "pods"})
	if err != nil {
		b.Fatal(err)
	}
	page, err := behind.List(b.Context(), asked.ref, registry.ListOptions{Labels: labels.Everything()})
	if err != nil {
		b.Fatal(err)
	}
	var out *counter
	b.ReportAllocs()
	for b.Loop() {
		out = &counter{header: http.Header{}}
		compressed := newCompressor(out, request)
		if err := server.jsonList(compressed, format{}, asked, page.Records, metav1.ListMeta{}); err != nil {
			b.Fatal(err)
		}
		compressed.close()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/pods, "ns/pod")
	b.ReportMetric(float64(out.bytes)/pods, "json-bytes/pod")
}
