package resources

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/kubelet/internal/runtime"
)

func container(cpuRequest, cpuLimit, memoryRequest, memoryLimit string) corev1.Container {
	c := corev1.Container{Name: "c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{}, Limits: corev1.ResourceList{}}}
	for _, entry := range []struct {
		list  corev1.ResourceList
		name  corev1.ResourceName
		value string
	}{
		{c.Resources.Requests, "cpu", cpuRequest}, {c.Resources.Limits, "cpu", cpuLimit},
		{c.Resources.Requests, "memory", memoryRequest}, {c.Resources.Limits, "memory", memoryLimit},
	} {
		if entry.value != "" {
			entry.list[entry.name] = resource.MustParse(entry.value)
		}
	}
	return c
}

func TestContainerLimits(t *testing.T) {
	for _, row := range []struct {
		name string
		c    corev1.Container
		want runtime.Resources
		qos  corev1.PodQOSClass
	}{
		{"nothing", container("", "", "", ""), runtime.Resources{CPUShares: 2, OOMScoreAdj: 1000}, corev1.PodQOSBestEffort},
		{"guaranteed", container("500m", "500m", "1Gi", "1Gi"), runtime.Resources{CPUShares: 512, CPUPeriod: 100000, CPUQuota: 50000, MemoryLimit: 1 << 30, OOMScoreAdj: 2}, corev1.PodQOSGuaranteed},
		{"only limits", container("", "2", "", "1Gi"), runtime.Resources{CPUShares: 2048, CPUPeriod: 100000, CPUQuota: 200000, MemoryLimit: 1 << 30, OOMScoreAdj: 2}, corev1.PodQOSGuaranteed},
		{"burstable", container("100m", "", "2Gi", ""), runtime.Resources{CPUShares: 102, OOMScoreAdj: 500}, corev1.PodQOSBurstable},
	} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{row.c}}}
		got := ContainerLimits(pod, &row.c, 4<<30)
		if fmt.Sprint(got) != fmt.Sprint(row.want) {
			t.Errorf("%s: %+v, want %+v", row.name, got, row.want)
		}
		if qos := QOSClass(pod); qos != row.qos {
			t.Errorf("%s: class %s, want %s", row.name, qos, row.qos)
		}
	}
}

// TestCgroups works on the machine's real hierarchy.
func TestCgroups(t *testing.T) {
	root := fmt.Sprintf("/kijabi-test-%d", os.Getpid())
	cgroups, err := NewCgroups("/sys/fs/cgroup", root, 77)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, controller := range append(cgroups.controllers, "") {
			_ = os.Remove(filepath.Join("/sys/fs/cgroup", controller, root))
		}
	})
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{UID: types.UID("u1")},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{container("250m", "500m", "", "64Mi"), container("250m", "500m", "", "64Mi")}},
	}
	for range 2 { // idempotent
		if err := cgroups.Create(pod); err != nil {
			t.Fatal(err)
		}
	}
	controller, file := "pids", "pids.max"
	if cgroups.unified {
		controller = ""
	}
	data, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", controller, cgroups.Parent(pod), file))
	if err != nil || strings.TrimSpace(string(data)) != "77" {
		t.Fatalf("%s = %q, %v", file, data, err)
	}
	if uids, err := cgroups.List(); err != nil || len(uids) != 1 || uids[0] != "u1" {
		t.Fatalf("list %v %v", uids, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for range 2 {
		if err := cgroups.Remove(ctx, "u1"); err != nil {
			t.Fatal(err)
		}
	}
	if uids, err := cgroups.List(); err != nil || len(uids) != 0 {
		t.Fatalf("left %v %v", uids, err)
	}
}
