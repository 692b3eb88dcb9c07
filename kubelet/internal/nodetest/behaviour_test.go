package nodetest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"kijabi.dev/kubelet/internal/logs"
	"kijabi.dev/kubelet/internal/podworker"
)

func main(pod *corev1.Pod) *corev1.ContainerStatus {
	if pod == nil || len(pod.Status.ContainerStatuses) == 0 {
		return &corev1.ContainerStatus{}
	}
	return &pod.Status.ContainerStatuses[0]
}

func terminated(pod *corev1.Pod) *corev1.ContainerStateTerminated {
	if end := main(pod).State.Terminated; end != nil {
		return end
	}
	return main(pod).LastTerminationState.Terminated
}

func logOf(t *testing.T, k *kubelet, pod *corev1.Pod, container string, attempt uint32) string {
	t.Helper()
	path := podworker.LogPath(k.node, refOf(pod), container, attempt)
	var out strings.Builder
	if err := logs.Read(t.Context(), path, logs.Options{}, &out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestRunToCompletion(t *testing.T) {
	c, k := begin(t)
	p := pod("job", "exit", "3", "so long")
	p.Spec.RestartPolicy = corev1.RestartPolicyNever
	c.create(p)
	done := c.await(t, "job", "failed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if end := terminated(done); end == nil || end.ExitCode != 3 || end.Reason != "Error" || end.Message != "so long" {
		t.Fatalf("ended with %+v", end)
	}
	if got := logOf(t, k, done, "main", 0); got != "so long\n" {
		t.Fatalf("log %q", got)
	}
	p = pod("good", "print", "hello", "$(WHO)")
	p.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
	p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "WHO", Value: "world"}}
	c.create(p)
	done = c.await(t, "good", "succeeded", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded })
	if got := logOf(t, k, done, "main", 0); got != "hello world\n" {
		t.Fatalf("log %q", got)
	}
	if terminated(done).Reason != "Completed" {
		t.Fatalf("reason %q", terminated(done).Reason)
	}
}

func TestCrashBacksOff(t *testing.T) {
	c, k := begin(t)
	c.create(pod("crash", "exit", "1"))
	p := c.await(t, "crash", "backing off", func(p *corev1.Pod) bool {
		return main(p).State.Waiting != nil && main(p).State.Waiting.Reason == "CrashLoopBackOff"
	})
	if main(p).RestartCount != 1 || p.Status.Phase != corev1.PodRunning || main(p).LastTerminationState.Terminated == nil {
		t.Fatalf("status %+v", p.Status)
	}
	if got := logOf(t, k, p, "main", 1); got != "" {
		t.Fatalf("log %q", got)
	}
}

func TestInitContainersAndSidecar(t *testing.T) {
	c, k := begin(t)
	always := corev1.ContainerRestartPolicyAlways
	p := pod("init", "cat", "/shared/made")
	p.Spec.RestartPolicy = corev1.RestartPolicyNever
	p.Spec.Volumes = []corev1.Volume{{Name: "shared", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	mount := []corev1.VolumeMount{{Name: "shared", MountPath: "/shared"}}
	p.Spec.Containers[0].VolumeMounts = mount
	p.Spec.InitContainers = []corev1.Container{
		{Name: "first", Image: testImage, Args: []string{"write", "/shared/made", "by init"}, VolumeMounts: mount},
		{
			Name: "beside", Image: testImage, Args: []string{"serve"}, RestartPolicy: &always,
			StartupProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8080)}}},
		},
		{Name: "last", Image: testImage, Args: []string{"print", "after the sidecar"}},
	}
	c.create(p)
	done := c.await(t, "init", "succeeded", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded })
	if got := logOf(t, k, done, "main", 0); got != "by init" && got != "by init\n" {
		t.Fatalf("log %q", got)
	}
	c.await(t, "init", "without its sidecar", func(p *corev1.Pod) bool { return p.Status.InitContainerStatuses[1].State.Terminated != nil })
}

func TestFailedInitFailsThePod(t *testing.T) {
	c, _ := begin(t)
	p := pod("badinit", "serve")
	p.Spec.RestartPolicy = corev1.RestartPolicyNever
	p.Spec.InitContainers = []corev1.Container{{Name: "first", Image: testImage, Args: []string{"exit", "1"}}}
	c.create(p)
	done := c.await(t, "badinit", "failed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if main(done).State.Waiting == nil || main(done).State.Waiting.Reason != "PodInitializing" {
		t.Fatalf("main container %+v", main(done).State)
	}
}

func TestConfiguration(t *testing.T) {
	c, k := begin(t)
	c.mu.Lock()
	c.configMaps["settings"] = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "settings"}, Data: map[string]string{"color": "blue"}}
	c.mu.Unlock()
	p := pod("config", "serve")
	p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}},
		{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "name", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}}},
	}}}}}
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}, {Name: "v", MountPath: "/one", SubPath: "color"}}
	p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "TOKEN", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
		LocalObjectReference: corev1.LocalObjectReference{Name: "late"}, Key: "token",
	}}}}
	created := c.create(p)
	c.await(t, "config", "waiting for its secret", func(p *corev1.Pod) bool {
		return main(p).State.Waiting != nil && main(p).State.Waiting.Reason == "CreateContainerConfigError"
	})
	c.mu.Lock()
	c.secrets["late"] = &corev1.Secret{Data: map[string][]byte{"token": []byte("x")}}
	c.mu.Unlock()
	k.manager.Refresh(created.UID)
	c.await(t, "config", "ready", ready)
	container, err := k.runtime.ListContainers(t.Context(), string(created.UID))
	if err != nil {
		t.Fatal(err)
	}
	read := func(path string) string {
		output, code, err := k.runtime.ExecSync(t.Context(), container[0].ID, []string{"/workload", "cat", path}, 0)
		if err != nil || code != 0 {
			t.Fatalf("read %s: %s %d %v", path, output, code, err)
		}
		return string(output)
	}
	if read("/v/color") != "blue" || read("/one") != "blue" || read("/v/name") != "config" {
		t.Fatalf("read %q %q %q", read("/v/color"), read("/one"), read("/v/name"))
	}
	if hosts := read("/etc/hosts"); !strings.Contains(hosts, c.get("config").Status.PodIP+"\tconfig\n") {
		t.Fatalf("hosts file %q", hosts)
	}
	if resolver := read("/etc/resolv.conf"); !strings.Contains(resolver, "search default.svc.cluster.local svc.cluster.local cluster.local") {
		t.Fatalf("resolver %q", resolver)
	}
	c.mu.Lock()
	c.configMaps["settings"] = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "settings"}, Data: map[string]string{"color": "green"}}
	c.mu.Unlock()
	k.manager.Refresh(created.UID)
	for deadline := time.Now().Add(10 * time.Second); read("/v/color") != "green"; {
		if time.Now().After(deadline) {
			t.Fatal("the volume is not updated")
		}
	}
	if read("/one") != "blue" {
		t.Fatal("a subPath mount must not change")
	}
}

func TestLivenessRestarts(t *testing.T) {
	c, _ := begin(t)
	p := pod("live", "serve")
	p.Spec.Containers[0].LivenessProbe = &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/file?path=/none", Port: intstr.FromInt32(8080)}},
		PeriodSeconds: 1, FailureThreshold: 1,
	}
	c.create(p)
	c.await(t, "live", "restarted", func(p *corev1.Pod) bool { return main(p).RestartCount >= 1 && main(p).State.Running != nil })
}

func TestGraceIsKept(t *testing.T) {
	c, _ := begin(t)
	p := pod("stubborn", "stubborn")
	p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{
		ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8080)}}, PeriodSeconds: 1,
	}
	c.create(p)
	c.await(t, "stubborn", "ready", ready)
	began := time.Now()
	c.delete("stubborn", 2)
	c.await(t, "stubborn", "gone", gone)
	if took := time.Since(began); took < 1900*time.Millisecond || took > 6*time.Second {
		t.Fatalf("took %v, want a little over the grace of 2 s", took)
	}
}

func TestMemoryLimit(t *testing.T) {
	c, _ := begin(t)
	p := pod("eater", "eat")
	p.Spec.RestartPolicy = corev1.RestartPolicyNever
	p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{"memory": resource.MustParse("32Mi"), "cpu": resource.MustParse("500m")}
	c.create(p)
	done := c.await(t, "eater", "failed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if end := terminated(done); end.Reason != "OOMKilled" || end.ExitCode != 137 {
		t.Fatalf("ended with %+v", end)
	}
}

func TestSecurityContext(t *testing.T) {
	c, k := begin(t)
	user, group, shared := int64(1000), int64(2000), int64(3000)
	p := pod("id", "id")
	p.Spec.RestartPolicy = corev1.RestartPolicyNever
	p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &user, RunAsGroup: &group, FSGroup: &shared}
	c.create(p)
	done := c.await(t, "id", "succeeded", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded })
	if got := logOf(t, k, done, "main", 0); !strings.HasPrefix(got, "1000 2000 [") || !strings.Contains(got, "3000") {
		t.Fatalf("ran as %q", got)
	}
	yes := true
	p = pod("root", "id")
	p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: &yes}
	c.create(p)
	c.await(t, "root", "refused", func(p *corev1.Pod) bool {
		return main(p).State.Waiting != nil && main(p).State.Waiting.Reason == "CreateContainerConfigError"
	})
}

func TestImageThatCannotBeHad(t *testing.T) {
	c, _ := begin(t)
	p := pod("never", "serve")
	p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = "registry.kijabi.dev/none:1", corev1.PullNever
	c.create(p)
	c.await(t, "never", "refused", func(p *corev1.Pod) bool {
		return main(p).State.Waiting != nil && main(p).State.Waiting.Reason == "ErrImageNeverPull"
	})
	p = pod("pull", "serve")
	p.Spec.Containers[0].Image = "127.0.0.1:1/none:1"
	c.create(p)
	c.await(t, "pull", "failing", func(p *corev1.Pod) bool {
		return main(p).State.Waiting != nil && strings.HasPrefix(main(p).State.Waiting.Reason, "ErrImagePull")
	})
}

func TestHooks(t *testing.T) {
	c, _ := begin(t)
	directory := t.TempDir()
	p := pod("hooks", "serve")
	p.Spec.Volumes = []corev1.Volume{{Name: "out", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: directory}}}}
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "out", MountPath: "/out"}}
	p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{
		PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"/workload", "write", "/out/started", "x"}}},
		PreStop:   &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"/workload", "write", "/out/stopping", "x"}}},
	}
	c.create(p)
	c.await(t, "hooks", "ready", ready)
	if _, err := os.Stat(filepath.Join(directory, "started")); err != nil {
		t.Fatal(err)
	}
	c.delete("hooks", 5)
	c.await(t, "hooks", "gone", gone)
	if _, err := os.Stat(filepath.Join(directory, "stopping")); err != nil {
		t.Fatal(err)
	}
}
