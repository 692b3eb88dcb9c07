package nodetest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// inside runs a command in the pod's only container.
func inside(t *testing.T, k *kubelet, pod *corev1.Pod, command ...string) string {
	t.Helper()
	output, code, err := k.runtime.ExecSync(t.Context(), containerOf(t, k, pod).ID, append([]string{"/workload"}, command...), 0)
	if err != nil || code != 0 {
		t.Fatalf("%q: %s %d %v", command, output, code, err)
	}
	return string(output)
}

func TestHostNetworkAndMemory(t *testing.T) {
	c, k := begin(t)
	size, yes := resource.MustParse("4Mi"), true
	p := pod("host", "sleep")
	p.Spec.HostNetwork, p.Spec.HostPID = true, true
	p.Spec.HostAliases = []corev1.HostAlias{{IP: "192.0.2.7", Hostnames: []string{"alias"}}}
	p.Spec.Volumes = []corev1.Volume{{Name: "m", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{
		Medium: corev1.StorageMediumMemory, SizeLimit: &size,
	}}}}
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "m", MountPath: "/m"}}
	p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: &yes}
	c.create(p)
	up := c.await(t, "host", "ready", ready)
	if up.Status.PodIP != up.Status.HostIP || up.Status.PodIP == "" {
		t.Fatalf("addresses %s and %s", up.Status.PodIP, up.Status.HostIP)
	}
	if mounts := inside(t, k, up, "cat", "/proc/self/mounts"); !strings.Contains(mounts, " /m tmpfs ") || !strings.Contains(mounts, "size=4096k") {
		t.Fatalf("mounts %s", mounts)
	}
	if hosts := inside(t, k, up, "cat", "/etc/hosts"); !strings.Contains(hosts, "192.0.2.7\talias") {
		t.Fatalf("hosts %q", hosts)
	}
	if devices := inside(t, k, up, "cat", "/proc/1/net/dev"); devices != inside(t, k, up, "cat", "/proc/net/dev") || strings.Contains(devices, "eth0") {
		t.Fatalf("not the machine's network: %s", devices)
	}
}

func TestDefaultsAreSafe(t *testing.T) {
	c, k := begin(t)
	c.create(pod("plain", "sleep"))
	up := c.await(t, "plain", "ready", ready)
	status := inside(t, k, up, "cat", "/proc/1/status")
	if !strings.Contains(status, "Seccomp:\t2") {
		t.Fatalf("no seccomp filter: %s", status)
	}
	if limits := inside(t, k, up, "cat", "/proc/1/cgroup"); !strings.Contains(limits, "pod"+string(up.UID)) {
		t.Fatalf("not in the pod's cgroup: %s", limits)
	}
}

// TestBurst starts many pods at once; each must come up, none twice.
func TestBurst(t *testing.T) {
	c, k := begin(t)
	const count = 20
	began := time.Now()
	for i := range count {
		c.create(pod(fmt.Sprintf("burst-%d", i), "sleep"))
	}
	for i := range count {
		c.await(t, fmt.Sprintf("burst-%d", i), "ready", ready)
	}
	t.Logf("%d pods in %v", count, time.Since(began).Round(time.Millisecond))
	sandboxes, err := k.runtime.ListSandboxes(t.Context(), "")
	if err != nil || len(sandboxes) != count {
		t.Fatalf("%d sandboxes for %d pods: %v", len(sandboxes), count, err)
	}
	for i := range count {
		if s := main(c.get(fmt.Sprintf("burst-%d", i))); s.RestartCount != 0 {
			t.Fatalf("restarted: %+v", s)
		}
	}
	for i := range count {
		c.delete(fmt.Sprintf("burst-%d", i), 1)
	}
	for i := range count {
		c.await(t, fmt.Sprintf("burst-%d", i), "gone", gone)
	}
}
