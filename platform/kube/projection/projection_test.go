package projection

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"
	"weak"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// usual is a pod of a Deployment as the apiserver stores it.
func usual(n int) *corev1.Pod {
	name := fmt.Sprintf("web-%05d", n)
	now := metav1.NewTime(time.Unix(1_790_000_000, 0))
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: name, GenerateName: "web-", UID: types.UID(fmt.Sprintf("0b9f3c2e-0000-4000-8000-%012d", n)), ResourceVersion: fmt.Sprint(1_000_000 + n),
			Labels:          map[string]string{"app": "web", "pod-template-hash": "abcdef"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web-abcdef", UID: "set", Controller: ptr.To(true), BlockOwnerDeletion: ptr.To(true)}},
			ManagedFields:   []metav1.ManagedFieldsEntry{{Manager: "controller-manager", FieldsV1: metav1.NewFieldsV1(strings.Repeat("f", 700))}},
		},
		Spec: corev1.PodSpec{
			NodeName: fmt.Sprintf("node-%03d", n%100), NodeSelector: map[string]string{"disk": "ssd"},
			Tolerations: []corev1.Toleration{{Key: "node.kubernetes.io/not-ready", TolerationSeconds: ptr.To[int64](30)}},
			Volumes:     []corev1.Volume{{Name: "token-" + name}, {Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data-" + name}}}},
			Containers: []corev1.Container{{
				Name: "main", Image: "web:1", Command: []string{"/web"}, Env: []corev1.EnvVar{{Name: "A", Value: "b"}}, VolumeMounts: []corev1.VolumeMount{{Name: "token-" + name, MountPath: "/token"}},
				Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")}}, Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 80}},
				LivenessProbe: &corev1.Probe{PeriodSeconds: 10},
			}},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, HostIP: "10.0.0.1", PodIP: fmt.Sprintf("10.244.%d.%d", n/250, n%250),
			ContainerStatuses: []corev1.ContainerStatus{{Name: "main", Ready: true, RestartCount: 1, ImageID: "sha256:d2a84f4b8b650937ec8f73cd8be2c74add5a911ba64df27458ed8229da804a26", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}}}},
		},
	}
	for _, condition := range []corev1.PodConditionType{corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady, corev1.PodScheduled} {
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: condition, Status: corev1.ConditionTrue, LastTransitionTime: now})
	}
	return pod
}

func TestKeepsWhatLoopsRead(t *testing.T) {
	p := NewPods()
	for n := range 3 { // the second and third share with the first
		pod, whole := usual(n), usual(n)
		load := p.Keep(pod)
		if again := load(); again != pod {
			t.Error("another pod while the first is in use")
		}
		check(t, pod, whole)
		reduced := pod.DeepCopy()
		runtime.KeepAlive(pod)
		pod = nil
		runtime.GC() // nobody uses it: it is made again
		made := load()
		check(t, made, whole)
		if !equality.Semantic.DeepEqual(made, reduced) {
			t.Errorf("made again\n%+v, was\n%+v", made, reduced)
		}
	}
}

func check(t *testing.T, pod, whole *corev1.Pod) {
	t.Helper()
	switch {
	case pod.Name != whole.Name || pod.UID != whole.UID || pod.ResourceVersion != whole.ResourceVersion || pod.Namespace != whole.Namespace:
		t.Errorf("identity %+v", pod.ObjectMeta)
	case len(pod.Labels) != 2 || metav1.GetControllerOf(pod).UID != "set" || pod.ManagedFields != nil:
		t.Errorf("metadata %+v", pod.ObjectMeta)
	case pod.Spec.NodeName != whole.Spec.NodeName || pod.Spec.Tolerations[0].Key != whole.Spec.Tolerations[0].Key || pod.Spec.NodeSelector["disk"] != "ssd":
		t.Errorf("where it runs %+v", pod.Spec)
	case len(pod.Spec.Volumes) != 1 || pod.Spec.Volumes[0].PersistentVolumeClaim.ClaimName != "data-"+pod.Name:
		t.Errorf("claims %+v", pod.Spec.Volumes)
	case pod.Spec.Containers[0].Resources.Requests.Cpu().String() != "100m" || pod.Spec.Containers[0].Ports[0].ContainerPort != 80 || pod.Spec.Containers[0].Env != nil:
		t.Errorf("containers %+v", pod.Spec.Containers)
	case pod.Status.PodIP != whole.Status.PodIP || len(pod.Status.Conditions) != 2 || pod.Status.ContainerStatuses[0].RestartCount != 1:
		t.Errorf("status %+v", pod.Status)
	}
}

func TestPodsAlikeShareAndOthersDoNot(t *testing.T) {
	p := NewPods()
	a, b, c := usual(1), usual(2), usual(3)
	c.Labels["app"], c.Spec.Containers[0].Image = "other", "other:1"
	for _, pod := range []*corev1.Pod{a, b, c} {
		p.Keep(pod)
	}
	if &a.Spec.Containers[0] != &b.Spec.Containers[0] || &a.OwnerReferences[0] != &b.OwnerReferences[0] {
		t.Error("pods of one template are kept apart")
	}
	if c.Spec.Containers[0].Image != "other:1" || c.Labels["app"] != "other" || a.Labels["app"] != "web" {
		t.Errorf("another pod became %v %v", c.Spec.Containers[0].Image, c.Labels)
	}
}

func TestFailedPodsKeepAllConditions(t *testing.T) {
	pod := usual(1)
	pod.Status.Phase = corev1.PodFailed
	NewPods().Keep(pod)
	if len(pod.Status.Conditions) != 5 {
		t.Errorf("conditions %+v", pod.Status.Conditions)
	}
}

// BenchmarkKeep reports the bytes that a kept pod takes; BenchmarkMakeAgain how long making one takes.
func BenchmarkKeep(b *testing.B) {
	p := NewPods()
	kept := make([]func() *corev1.Pod, 0, b.N)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for n := range b.N {
		kept = append(kept, p.Keep(usual(n)))
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(b.N), "kept-B/op")
	runtime.KeepAlive(kept)
}

func BenchmarkMakeAgain(b *testing.B) {
	k := &kept{spec: &corev1.PodSpec{}, meta: &metav1.ObjectMeta{}}
	load := NewPods().Keep(usual(1))
	own := load()
	own.Spec = corev1.PodSpec{NodeName: own.Spec.NodeName}
	encoded, err := own.Marshal()
	if err != nil {
		b.Fatal(err)
	}
	k.rest = encoded
	for b.Loop() {
		k.whole = weak.Pointer[corev1.Pod]{}
		k.pod()
	}
}
