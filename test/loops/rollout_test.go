package loops

import (
	"fmt"
	"math/rand/v2"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/test/harness"
)

func podSpec(cpu string) corev1.PodSpec {
	return corev1.PodSpec{Containers: []corev1.Container{{
		Name: "main", Image: "image:1",
		Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}},
	}}}
}

func deployment(ns, name string, replicas int32) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podSpec("10m")},
		},
	}
}

// rolledOut says whether all pods of a Deployment are of its newest template and available.
func rolledOut(s *stack, ns, name string) func() error {
	return func() error {
		d, err := get[*appsv1.Deployment](s, ns, name)
		if err != nil {
			return err
		}
		st, want := d.Status, *d.Spec.Replicas
		if st.ObservedGeneration < d.Generation || st.Replicas != want || st.UpdatedReplicas != want || st.AvailableReplicas != want {
			return fmt.Errorf("of %d: %d in all, %d updated, %d available; observed %d of %d", want, st.Replicas, st.UpdatedReplicas, st.AvailableReplicas, st.ObservedGeneration, d.Generation)
		}
		return nil
	}
}

// testExactlyOnce kills the controller-manager while it makes pods: there are never
// more than were asked for, not even for a moment.
func testExactlyOnce(t *harness.T, s *stack) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprintf("Seed%d", seed), func(t *harness.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			ns := namespace(t, s, fmt.Sprintf("once-%d", seed))
			h := follow(t, s, ns, nil)
			first := int32(300 + random.IntN(400)) // more than one batch of writes
			d := deployment(ns, "web", first)
			d.Spec.Template.Spec.SchedulerName = "nobody" // they need not run
			create(t, s, d)
			// At no pod yet, between two batches, or somewhere in one.
			killAt := random.IntN(int(first))
			h.until(t, "some pods", func(all map[types.UID]*corev1.Pod) bool { return len(all) >= killAt })
			s.restart(t, "controller-manager")
			h.until(t, "all pods", func(all map[types.UID]*corev1.Pod) bool { return len(all) >= int(first) })

			more := first + int32(300+random.IntN(100))
			change(t, s, ns, "web", "", func(d *appsv1.Deployment) { d.Spec.Replicas = &more })
			s.kill("controller-manager")
			s.start(t, "controller-manager")
			h.until(t, "all further pods", func(all map[types.UID]*corev1.Pod) bool { return len(all) >= int(more) })
			// The set has seen them all and has nothing left to do.
			harness.Eventually(t, patience, "the set counts its pods", func() error {
				d, err := get[*appsv1.Deployment](s, ns, "web")
				if err == nil && (d.Status.ObservedGeneration < d.Generation || d.Status.Replicas != more) {
					err = fmt.Errorf("status %+v", d.Status)
				}
				return err
			})
			if n := h.total(); n != int(more) {
				t.Errorf("%d pods were created, %d asked for", n, more)
			}
			if sets := list[*appsv1.ReplicaSet](t, s, ns); len(sets) != 1 {
				t.Errorf("%d ReplicaSets for one template", len(sets))
			}
			s.remove(t, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"}}, client.DeleteOptions{})
			h.until(t, "all pods are collected", func(all map[types.UID]*corev1.Pod) bool { return len(all) == 0 })
			if n := h.total(); n != int(more) {
				t.Errorf("%d pods were created while the deployment was deleted", n-int(more))
			}
		})
	}
}

// testRollout updates, gets stuck, goes back.
func testRollout(t *harness.T, s *stack) {
	const replicas, most, least = 10, 13, 8 // maxSurge 25% up, maxUnavailable 25% down
	ns := namespace(t, s, "rollout")
	settled := false // guarded by the history's lock
	h := follow(t, s, ns, func(_, _ *corev1.Pod, all map[types.UID]*corev1.Pod) string {
		live, ready := 0, 0
		for _, pod := range all {
			if pod.DeletionTimestamp != nil {
				continue
			}
			live++
			if isReady(pod) {
				ready++
			}
		}
		if live > most || settled && ready < least {
			return fmt.Sprintf("%d pods, %d of them Ready; allowed are at most %d and at least %d", live, ready, most, least)
		}
		return ""
	})
	create(t, s, deployment(ns, "web", replicas))
	harness.Eventually(t, patience, "first rollout", rolledOut(s, ns, "web"))
	h.mu.Lock()
	settled = true
	h.mu.Unlock()
	image := func(name string) {
		change(t, s, ns, "web", "", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = name })
	}
	images := func() map[string]int32 {
		wanted := map[string]int32{}
		for _, set := range list[*appsv1.ReplicaSet](t, s, ns) {
			wanted[set.Spec.Template.Spec.Containers[0].Image] += *set.Spec.Replicas
		}
		return wanted
	}
	image("image:2")
	harness.Eventually(t, patience, "update", rolledOut(s, ns, "web"))
	if have := images(); have["image:2"] != replicas || have["image:1"] != 0 {
		t.Errorf("after the update: %v", have)
	}
	image(brokenImage)
	harness.Eventually(t, patience, "the broken update stops where it must", func() error {
		have := images()
		if have[brokenImage] != most-least || have["image:2"] != least {
			return fmt.Errorf("%v", have)
		}
		return nil
	})
	image("image:2")
	harness.Eventually(t, patience, "rollback", rolledOut(s, ns, "web"))
	if have := images(); have["image:2"] != replicas || have[brokenImage] != 0 || len(have) != 3 {
		t.Errorf("after the rollback: %v", have)
	}
	revisions := map[string]string{}
	for _, set := range list[*appsv1.ReplicaSet](t, s, ns) {
		revisions[set.Spec.Template.Spec.Containers[0].Image] = set.Annotations["deployment.kubernetes.io/revision"]
	}
	if revisions["image:1"] != "1" || revisions[brokenImage] != "3" || revisions["image:2"] != "4" {
		t.Errorf("revisions %v", revisions)
	}
	// A pod that is deleted is replaced.
	pods := list[*corev1.Pod](t, s, ns)
	h.mu.Lock()
	settled = false // the deletion is the test's
	h.mu.Unlock()
	s.remove(t, pods[0], client.DeleteOptions{})
	harness.Eventually(t, patience, "the deleted pod is gone", func() error {
		pod, err := get[*corev1.Pod](s, ns, pods[0].Name)
		if err == nil && pod.UID == pods[0].UID {
			return fmt.Errorf("it is there")
		}
		return nil
	})
	harness.Eventually(t, patience, "and replaced", rolledOut(s, ns, "web"))
	started := time.Now()
	s.remove(t, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"}}, client.DeleteOptions{Propagation: metav1.DeletePropagationForeground})
	harness.Eventually(t, patience, "deployment", gone[*appsv1.Deployment](s, ns, "web"))
	if left := len(list[*appsv1.ReplicaSet](t, s, ns)) + len(list[*corev1.Pod](t, s, ns)); left > 0 {
		t.Errorf("%d sets and pods outlive a deployment deleted in the foreground (%s)", left, time.Since(started))
	}
}

// testRecreate holds back an old pod's end: no new one may run beside it.
func testRecreate(t *harness.T, s *stack) {
	ns := namespace(t, s, "recreate")
	follow(t, s, ns, func(_, _ *corev1.Pod, all map[types.UID]*corev1.Pod) string {
		images := map[string]int{}
		for _, pod := range all {
			images[pod.Spec.Containers[0].Image]++
		}
		if len(images) > 1 {
			return fmt.Sprintf("pods of two revisions at once: %v", images)
		}
		return ""
	})
	d := deployment(ns, "web", 3)
	d.Spec.Strategy.Type = appsv1.RecreateDeploymentStrategyType
	d.Spec.Template.Finalizers = []string{"example.com/keep"}
	create(t, s, d)
	harness.Eventually(t, patience, "first rollout", rolledOut(s, ns, "web"))
	old := list[*corev1.Pod](t, s, ns)
	change(t, s, ns, "web", "", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "image:2" })
	for _, pod := range old {
		harness.Eventually(t, patience, "an old pod is being deleted", func() error {
			have, err := get[*corev1.Pod](s, ns, pod.Name)
			if err == nil && have.DeletionTimestamp == nil {
				err = fmt.Errorf("%s is not", pod.Name)
			}
			return err
		})
	}
	harness.Eventually(t, patience, "the deployment knows that they still run", func() error {
		for _, set := range list[*appsv1.ReplicaSet](t, s, ns) {
			if set.Status.Replicas == 0 && set.Status.TerminatingReplicas != nil && *set.Status.TerminatingReplicas == 3 {
				return nil
			}
		}
		return fmt.Errorf("no set counts 3 terminating pods")
	})
	for _, pod := range old {
		change(t, s, ns, pod.Name, "", func(p *corev1.Pod) { p.Finalizers = nil })
	}
	harness.Eventually(t, patience, "new pods start once the old ones are gone", rolledOut(s, ns, "web"))
	for _, pod := range list[*corev1.Pod](t, s, ns) {
		change(t, s, ns, pod.Name, "", func(p *corev1.Pod) { p.Finalizers = nil })
	}
}
