package kinds_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/apiserver/internal/registry/kinds"
	"kijabi.dev/platform/kube/object"
)

func TestTableIsConsistent(t *testing.T) {
	seen := map[schema.GroupVersionResource]bool{}
	for _, kind := range kinds.Default() {
		if seen[kind.GVR] {
			t.Errorf("%s is there twice", kind.GVR)
		}
		seen[kind.GVR] = true
		if !slices.IsSorted(kind.Verbs) || !slices.IsSortedFunc(kind.Subresources, func(a, b kinds.Subresource) int { return compare(a.Name, b.Name) }) {
			t.Errorf("%s: verbs or subresources are not sorted", kind.GVR)
		}
		for _, sub := range kind.Subresources {
			if !slices.IsSorted(sub.Verbs) {
				t.Errorf("%s/%s: verbs are not sorted", kind.GVR, sub.Name)
			}
			if _, ok := object.KindFor(sub.GVK); !ok {
				t.Errorf("%s/%s: bodies of kind %s cannot travel", kind.GVR, sub.Name, sub.GVK)
			}
		}
		if kind.HasSubresource("status") != (kind.PrepareForStatusUpdate != nil) {
			t.Errorf("%s: status subresource without its function, or the other way round", kind.GVR)
		}
		if approvable := kind.HasSubresource("approval"); approvable != (kind.PrepareForApproval != nil) || approvable != (kind.ValidateApproval != nil) {
			t.Errorf("%s: approval subresource without its functions, or the other way round", kind.GVR)
		}
		if kind.HasSubresource("scale") != (kind.Scale != nil) {
			t.Errorf("%s: scale subresource without its function, or the other way round", kind.GVR)
		}
		if kind.View != (kind.StoredAs != nil) {
			t.Errorf("%s: a view that is stored, or the other way round", kind.GVR)
		}
		// An empty object must not upset anything.
		obj := kind.New()
		if row := kind.Row(obj, time.Now()); len(row) != len(kind.Columns) {
			t.Errorf("%s: %d cells for %d columns", kind.GVR, len(row), len(kind.Columns))
		}
		if kind.Fields != nil {
			for name := range kind.Fields(obj) {
				if kind.StoredAs == nil && !slices.Contains(kind.SelectableFields, name) {
					t.Errorf("%s: field %s cannot be selected", kind.GVR, name)
				}
			}
		}
	}
	for _, kind := range object.Kinds() {
		// The row of definitions is that of package customkinds.
		if kind.NewList != nil && !seen[kind.GVR] && kind.GVK.Kind != "CustomResourceDefinition" {
			t.Errorf("%s travels but is not served", kind.GVR)
		}
	}
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func TestPodRow(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	base := func() *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "web", CreationTimestamp: metav1.NewTime(now.Add(-90 * time.Minute))},
			Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "a"}, {Name: "b"}}},
			Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.244.0.2"},
		}
	}
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	for _, c := range []struct {
		name   string
		change func(p *corev1.Pod)
		want   string
	}{
		{"plain", func(*corev1.Pod) {}, "[web 0/2 Running 0 90m 10.244.0.2 n1 <none> <none>]"},
		{"ready", func(p *corev1.Pod) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "a", Ready: true, State: running}, {Name: "b", Ready: true, State: running}}
		}, "[web 2/2 Running 0 90m 10.244.0.2 n1 <none> <none>]"},
		{"restarted", func(p *corev1.Pod) {
			ended := &corev1.ContainerStateTerminated{FinishedAt: metav1.NewTime(now.Add(-5 * time.Minute))}
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "a", RestartCount: 3, LastTerminationState: corev1.ContainerState{Terminated: ended}, State: running, Ready: true}}
		}, "[web 1/2 Running 3 (5m ago) 90m 10.244.0.2 n1 <none> <none>]"},
		{"crashing", func(p *corev1.Pod) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "a", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}}}
		}, "[web 0/2 CrashLoopBackOff 0 90m 10.244.0.2 n1 <none> <none>]"},
		{"failed", func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodFailed
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "a", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 2}}}}
		}, "[web 0/2 ExitCode:2 0 90m 10.244.0.2 n1 <none> <none>]"},
		{"initializing", func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "i"}, {Name: "j"}}
			p.Status.Phase = corev1.PodPending
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "i", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}, {Name: "j", State: running}}
		}, "[web 0/2 Init:1/2 0 90m 10.244.0.2 n1 <none> <none>]"},
		{"terminating", func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: now} }, "[web 0/2 Terminating 0 90m 10.244.0.2 n1 <none> <none>]"},
		{"evicted", func(p *corev1.Pod) { p.Status.Phase, p.Status.Reason = corev1.PodFailed, "Evicted" }, "[web 0/2 Evicted 0 90m 10.244.0.2 n1 <none> <none>]"},
	} {
		p := base()
		c.change(p)
		if got := fmt.Sprint(kindOf(t, "pods").Row(p, now)); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}
