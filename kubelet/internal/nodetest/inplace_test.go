package nodetest

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	kubeletv1pb "kijabi.dev/proto/gen/kijabi/kubelet/v1"
)

// TestRestartInPlace: same pod, address and volumes; hooks run, counts rise.
func TestRestartInPlace(t *testing.T) {
	c, k := begin(t)
	c.bind("data", "nodetest")
	p := claiming("web", "data", "serve")
	p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{
		Command: []string{"/workload", "write", "/data/farewell", "bye"},
	}}}
	p.Spec.Containers = append(p.Spec.Containers, corev1.Container{
		Name: "beside", Image: testImage, ImagePullPolicy: corev1.PullIfNotPresent, Args: []string{"sleep"},
		VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: "/data"}},
	})
	c.create(p)
	before := c.await(t, "web", "ready", ready)
	client := dial(t, k)
	caller := &kubeletv1pb.Caller{User: "alice"}
	answer, err := client.Restart(t.Context(), &kubeletv1pb.RestartRequest{Target: target("web"), Caller: caller, Containers: []string{"main"}})
	if err != nil || len(answer.GetContainers()) != 1 || answer.GetContainers()[0].GetContainerId() != main(before).ContainerID {
		t.Fatalf("%v %v", answer, err)
	}
	after := c.await(t, "web", "restarted", func(p *corev1.Pod) bool { return ready(p) && main(p).RestartCount == 1 })
	end := main(after).LastTerminationState.Terminated
	if after.UID != before.UID || after.Status.PodIP != before.Status.PodIP || end == nil || end.ContainerID != main(before).ContainerID {
		t.Errorf("%+v, was %+v", after.Status, before.Status)
	}
	if other := after.Status.ContainerStatuses[1]; other.RestartCount != 0 || other.ContainerID != before.Status.ContainerStatuses[1].ContainerID {
		t.Errorf("the other container was restarted, too: %+v", other)
	}
	list, err := k.runtime.ListContainers(t.Context(), string(after.UID))
	if err != nil {
		t.Fatal(err)
	}
	for i := range list {
		if list[i].Name == "beside" {
			if output, _, err := k.runtime.ExecSync(t.Context(), list[i].ID, []string{"/workload", "cat", "/data/farewell"}, 0); err != nil || string(output) != "bye" {
				t.Errorf("the hook left %q %v", output, err)
			}
		}
	}
	if !c.said("web Restarting: Container main is restarted in place, as alice asked") {
		t.Errorf("events %q", c.events)
	}
	if _, err := client.Restart(t.Context(), &kubeletv1pb.RestartRequest{Target: target("web"), Caller: caller}); err != nil {
		t.Fatal(err)
	}
	c.await(t, "web", "restarted as a whole", func(p *corev1.Pod) bool {
		return ready(p) && main(p).RestartCount == 2 && p.Status.ContainerStatuses[1].RestartCount == 1
	})
}

func TestRestartsThatAreRefused(t *testing.T) {
	c, k := begin(t)
	once := pod("once", "sleep")
	once.Spec.RestartPolicy = corev1.RestartPolicyNever
	c.create(once)
	c.create(pod("always", "sleep"))
	c.await(t, "once", "ready", ready)
	c.await(t, "always", "ready", ready)
	client := dial(t, k)
	for pod, row := range map[string]struct {
		containers []string
		want       string
	}{
		"once": {nil, "container main of pod once has restartPolicy Never: it would not be started again"}, "none": {nil, "not found"},
		"always": {[]string{"main", "other"}, "not among the containers and sidecars of pod always: other"},
	} {
		_, err := client.Restart(t.Context(), &kubeletv1pb.RestartRequest{Target: target(pod), Containers: row.containers})
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want %s", pod, err, row.want)
		}
	}
	if status := main(c.get("once")); status.RestartCount != 0 || status.State.Running == nil {
		t.Errorf("status %+v", status)
	}
}
