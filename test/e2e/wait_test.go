package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/test/harness"
)

// get reads an object; it may not exist.
func get[T object.Object](c *cluster, namespace, name string) (T, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return client.Get[T](ctx, c.api, object.Key{Namespace: namespace, Name: name})
}

// list reads the objects of a namespace that a label selector selects.
func list[T object.Object](c *cluster, namespace, selector string) ([]T, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	page, err := client.List[T](ctx, c.api, client.ListOptions{Namespace: namespace, LabelSelector: selector})
	return page.Items, err
}

// listPods lists the pods that are not being deleted.
func (c *cluster) listPods(namespace, selector string) ([]*corev1.Pod, error) {
	all, err := list[*corev1.Pod](c, namespace, selector)
	return slices.DeleteFunc(all, func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil }), err
}

// pods is listPods, which must succeed.
func (c *cluster) pods(t *harness.T, namespace, selector string) []*corev1.Pod {
	t.Helper()
	pods, err := c.listPods(namespace, selector)
	if err != nil {
		t.Fatalf("list pods of %s: %v", namespace, err)
	}
	return pods
}

func isReady(pod *corev1.Pod) bool { return harness.PodReady(pod) == corev1.ConditionTrue }

// awaitPod waits until a pod is as check wants it.
func (c *cluster) awaitPod(t *harness.T, limit time.Duration, namespace, name, what string, check func(*corev1.Pod) bool) *corev1.Pod {
	t.Helper()
	var pod *corev1.Pod
	harness.Eventually(t, limit, fmt.Sprintf("pod %s/%s %s", namespace, name, what), func() error {
		var err error
		if pod, err = get[*corev1.Pod](c, namespace, name); err != nil {
			return err
		}
		if !check(pod) {
			return fmt.Errorf("its status is: %s", describe(pod))
		}
		return nil
	})
	return pod
}

// describe is a pod's status in a line.
func describe(pod *corev1.Pod) string {
	text := []string{"phase " + string(pod.Status.Phase), "node " + pod.Spec.NodeName}
	if pod.Status.Reason != "" {
		text = append(text, pod.Status.Reason, pod.Status.Message)
	}
	for _, c := range pod.Status.Conditions {
		text = append(text, strings.TrimSpace(fmt.Sprintf("%s=%s %s %s", c.Type, c.Status, c.Reason, c.Message)))
	}
	for _, s := range append(slices.Clone(pod.Status.InitContainerStatuses), pod.Status.ContainerStatuses...) {
		state := "running"
		switch {
		case s.State.Waiting != nil:
			state = "waiting: " + s.State.Waiting.Reason + " " + s.State.Waiting.Message
		case s.State.Terminated != nil:
			state = fmt.Sprintf("terminated: %s, exit code %d", s.State.Terminated.Reason, s.State.Terminated.ExitCode)
		}
		text = append(text, fmt.Sprintf("%s %s (ready %t, %d restarts)", s.Name, state, s.Ready, s.RestartCount))
	}
	return strings.Join(text, "; ")
}

func describeAll(pods []*corev1.Pod) string {
	var texts []string
	for _, pod := range pods {
		texts = append(texts, pod.Name+": "+describe(pod))
	}
	return strings.Join(texts, " | ")
}

// awaitDeployment waits until a Deployment is rolled out with this many Ready pods.
func (c *cluster) awaitDeployment(t *harness.T, limit time.Duration, namespace, name string, replicas int32) {
	t.Helper()
	harness.Eventually(t, limit, fmt.Sprintf("deployment %s/%s has %d Ready pods", namespace, name, replicas), func() error {
		d, err := get[*appsv1.Deployment](c, namespace, name)
		if err != nil {
			return err
		}
		s := d.Status
		if s.ObservedGeneration < d.Generation || *d.Spec.Replicas != replicas || s.UpdatedReplicas != replicas ||
			s.Replicas != replicas || s.ReadyReplicas != replicas || s.AvailableReplicas != replicas {
			return fmt.Errorf("wanted %d, observed generation %d of %d, %d updated, %d in all, %d ready, %d available",
				*d.Spec.Replicas, s.ObservedGeneration, d.Generation, s.UpdatedReplicas, s.Replicas, s.ReadyReplicas, s.AvailableReplicas)
		}
		return nil
	})
}

// awaitEvent waits for an event about an object.
func (c *cluster) awaitEvent(t *harness.T, namespace, object, reason, message string) {
	t.Helper()
	harness.Eventually(t, 20*time.Second, fmt.Sprintf("event %s %q about %s", reason, message, object), func() error {
		events, err := list[*corev1.Event](c, namespace, "")
		if err != nil {
			return err
		}
		var seen []string
		for _, e := range events {
			if e.InvolvedObject.Name != object {
				continue
			}
			if e.Reason == reason && strings.Contains(e.Message, message) {
				return nil
			}
			seen = append(seen, e.Reason+": "+e.Message)
		}
		return fmt.Errorf("there are: %s", strings.Join(seen, "; "))
	})
}

// namespace makes a namespace for one step and removes it afterwards.
func (c *cluster) namespace(t *harness.T, name string) string {
	t.Helper()
	c.Kubectl(t, "create", "namespace", name)
	t.Cleanup(func() {
		if !t.Failed() { // it is looked at otherwise
			c.Kubectl(t, "delete", "namespace", name, "--wait=false")
		}
	})
	return name
}
