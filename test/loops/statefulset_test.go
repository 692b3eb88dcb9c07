package loops

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/pki"
	"kijabi.dev/test/harness"
)

// TestStatefulSets runs what users are promised of pods with names.
func TestStatefulSets(tt *testing.T) {
	t := harness.Begin(tt)
	s := newStack(t, "controller-manager", "scheduler")
	k := newKubelets(t, s)
	for i := range 3 {
		if err := s.register(t.Context(), hollowNode(nodeName(i), "64")); err != nil {
			t.Fatal(err)
		}
		k.beat(t, nodeName(i))
	}
	t.Run("Order", func(t *harness.T) { testSetOrder(t, s) })
	t.Run("Update", func(t *harness.T) { testSetUpdate(t, s) })
	t.Run("Parallel", func(t *harness.T) { testSetParallel(t, s) })
	t.Run("Claims", func(t *harness.T) { testSetClaims(t, s) })
	t.Run("KilledNode", func(t *harness.T) { testSetKilledNode(t, s, k) })
}

// webSet is a small web server with stable names.
func webSet(ns string, replicas int32) *appsv1.StatefulSet {
	labels := map[string]string{"app": "nginx"}
	set := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"},
		Spec: appsv1.StatefulSetSpec{
			ServiceName: "nginx", Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podSpec("10m")},
		},
	}
	set.Spec.Template.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, Name: "web"}}
	return set
}

// setReady says whether all pods of a StatefulSet are there, as kubectl rollout status does,
// and how many are of its newest template.
func setReady(s *stack, ns string, updated int32) func() error {
	return func() error {
		set, err := get[*appsv1.StatefulSet](s, ns, "web")
		if err != nil {
			return err
		}
		st, want := set.Status, *set.Spec.Replicas
		if st.ObservedGeneration < set.Generation || st.Replicas != want || st.ReadyReplicas != want || st.AvailableReplicas != want || st.UpdatedReplicas != updated {
			return fmt.Errorf("%d wanted, %d updated: %+v", want, updated, st)
		}
		if (updated == want) != (st.CurrentRevision == st.UpdateRevision) {
			return fmt.Errorf("%d of %d updated, current %s, update %s", updated, want, st.CurrentRevision, st.UpdateRevision)
		}
		return nil
	}
}

// followSet watches a namespace: no name has two pods, and pods come and go in order.
func followSet(t *harness.T, s *stack, ns string) *history {
	t.Helper()
	return follow(t, s, ns, func(before, after *corev1.Pod, all map[types.UID]*corev1.Pod) string {
		byName := map[string]*corev1.Pod{}
		for _, pod := range all {
			if byName[pod.Name] != nil {
				return "two pods have the name"
			}
			byName[pod.Name] = pod
		}
		if before == nil && after != nil {
			for i := 0; after.Name != fmt.Sprintf("web-%d", i); i++ {
				if first := byName[fmt.Sprintf("web-%d", i)]; first == nil || !isReady(first) || first.DeletionTimestamp != nil {
					return fmt.Sprintf("it was created before web-%d was ready", i)
				}
			}
		}
		return ""
	})
}

func testSetOrder(t *harness.T, s *stack) {
	ns := namespace(t, s, "set-order")
	followSet(t, s, ns)
	create(t, s, webSet(ns, 3))
	harness.Eventually(t, patience, "three pods", setReady(s, ns, 3))
	for i, pod := range podsNamed(t, s, ns, "web-0", "web-1", "web-2") {
		if pod.Spec.Hostname != pod.Name || pod.Spec.Subdomain != "nginx" || pod.Labels["statefulset.kubernetes.io/pod-name"] != pod.Name || pod.Labels["apps.kubernetes.io/pod-index"] != fmt.Sprint(i) {
			t.Errorf("%s: host %s.%s, labels %v", pod.Name, pod.Spec.Hostname, pod.Spec.Subdomain, pod.Labels)
		}
	}
	harness.Eventually(t, patience, "events tell of it", eventTold(t, s, ns, "SuccessfulCreate", "create Pod web-2 in StatefulSet web successful"))

	// The last goes first, and the next one only once it has gone.
	var gone []string
	follow(t, s, ns, func(_, after *corev1.Pod, all map[types.UID]*corev1.Pod) string {
		if after == nil || after.DeletionTimestamp == nil || slices.Contains(gone, after.Name) {
			return ""
		}
		gone = append(gone, after.Name)
		if want := fmt.Sprintf("web-%d", len(all)-1); after.Name != want {
			return fmt.Sprintf("it is deleted while there are %d", len(all))
		}
		return ""
	})
	scaleSet(t, s, ns, 1)
	harness.Eventually(t, patience, "one pod", setReady(s, ns, 1))
	harness.Eventually(t, patience, "events tell of it", eventTold(t, s, ns, "SuccessfulDelete", "delete Pod web-1 in StatefulSet web successful"))

	// A pod that is not ready halts both growing and shrinking.
	scaleSet(t, s, ns, 3)
	harness.Eventually(t, patience, "three pods again", setReady(s, ns, 3))
	change(t, s, ns, "web-0", "", func(p *corev1.Pod) { p.Annotations = map[string]string{unreadyAnnotation: "yes"} })
	harness.Eventually(t, patience, "one is not ready", func() error {
		set, err := get[*appsv1.StatefulSet](s, ns, "web")
		if err == nil && set.Status.ReadyReplicas != 2 {
			err = fmt.Errorf("%+v", set.Status)
		}
		return err
	})
	scaleSet(t, s, ns, 1)
	harness.Eventually(t, patience, "the set has seen it", setObserved(s, ns))
	if pods := list[*corev1.Pod](t, s, ns); len(pods) != 3 || pods[2].DeletionTimestamp != nil {
		t.Errorf("it shrinks to %d pods although web-0 is not ready", len(pods))
	}
	change(t, s, ns, "web-0", "", func(p *corev1.Pod) { p.Annotations = nil })
	harness.Eventually(t, patience, "one pod", setReady(s, ns, 1))
	s.remove(t, webSet(ns, 0), client.DeleteOptions{})
	harness.Eventually(t, patience, "its pods go with it", func() error {
		if n := len(list[*corev1.Pod](t, s, ns)); n > 0 {
			return fmt.Errorf("%d pods", n)
		}
		return nil
	})
}

func scaleSet(t *harness.T, s *stack, ns string, replicas int32) {
	t.Helper()
	change(t, s, ns, "web", "", func(set *appsv1.StatefulSet) { set.Spec.Replicas = &replicas })
}

func setObserved(s *stack, ns string) func() error {
	return func() error {
		set, err := get[*appsv1.StatefulSet](s, ns, "web")
		if err == nil && set.Status.ObservedGeneration < set.Generation {
			err = fmt.Errorf("observed %d of %d", set.Status.ObservedGeneration, set.Generation)
		}
		return err
	}
}

func podsNamed(t *harness.T, s *stack, ns string, names ...string) []*corev1.Pod {
	t.Helper()
	var pods []*corev1.Pod
	for _, name := range names {
		pod, err := get[*corev1.Pod](s, ns, name)
		if err != nil {
			t.Fatal(err)
		}
		pods = append(pods, pod)
	}
	return pods
}

// eventTold says whether an event with a reason and a message was written.
func eventTold(t *harness.T, s *stack, ns, reason, message string) func() error {
	return func() error {
		var others []string
		for _, event := range list[*corev1.Event](t, s, ns) {
			if event.Reason == reason && event.Message == message {
				return nil
			}
			others = append(others, event.Reason+": "+event.Message)
		}
		return fmt.Errorf("not among %q", others)
	}
}

// setImages are those of a set's pods, in order.
func setImages(t *harness.T, s *stack, ns string) string {
	t.Helper()
	var out []string
	for _, pod := range list[*corev1.Pod](t, s, ns) {
		out = append(out, strings.TrimPrefix(pod.Spec.Containers[0].Image, "image:"))
	}
	return strings.Join(out, " ")
}

func testSetUpdate(t *harness.T, s *stack) {
	ns := namespace(t, s, "set-update")
	followSet(t, s, ns)
	create(t, s, webSet(ns, 3))
	harness.Eventually(t, patience, "three pods", setReady(s, ns, 3))
	partition := func(n int32) {
		change(t, s, ns, "web", "", func(set *appsv1.StatefulSet) { set.Spec.UpdateStrategy.RollingUpdate.Partition = &n })
	}
	image := func(name string) {
		change(t, s, ns, "web", "", func(set *appsv1.StatefulSet) { set.Spec.Template.Spec.Containers[0].Image = name })
	}
	partition(2)
	image("image:2")
	harness.Eventually(t, patience, "the canary", setReady(s, ns, 1))
	if have := setImages(t, s, ns); have != "1 1 2" {
		t.Errorf("images %s", have)
	}
	// Below the partition a pod comes back as it was.
	s.remove(t, podsNamed(t, s, ns, "web-0")[0], client.DeleteOptions{})
	harness.Eventually(t, patience, "the deleted pod comes back", func() error {
		if have := setImages(t, s, ns); have != "1 1 2" {
			return fmt.Errorf("images %s", have)
		}
		return setReady(s, ns, 1)()
	})
	partition(0)
	harness.Eventually(t, patience, "the whole update", setReady(s, ns, 3))

	// A template that never becomes ready is stuck with the last pod, and giving it up helps.
	image(brokenImage)
	harness.Eventually(t, patience, "the broken update stops at its first pod", func() error {
		set, err := get[*appsv1.StatefulSet](s, ns, "web")
		if err == nil && (set.Status.UpdatedReplicas != 1 || set.Status.ReadyReplicas != 2) {
			err = fmt.Errorf("%+v", set.Status)
		}
		return err
	})
	image("image:2")
	harness.Eventually(t, patience, "it is given up", setReady(s, ns, 3))

	// The history is what kubectl makes of it, and goes back to a template by it.
	k := newKubectl(t, s)
	if said := k(t, "-n", ns, "rollout", "status", "statefulset/web"); !strings.Contains(said, "roll out complete: 3 new pods") {
		t.Errorf("rollout status: %s", said)
	}
	if have := revisionsIn(k(t, "-n", ns, "rollout", "history", "statefulset/web")); have != "1 3 4" {
		t.Errorf("revisions %s", have)
	}
	if said := k(t, "-n", ns, "rollout", "history", "statefulset/web", "--revision=1"); !strings.Contains(said, "image:1") {
		t.Errorf("revision 1: %s", said)
	}
	if said := k(t, "-n", ns, "rollout", "undo", "statefulset/web", "--to-revision=4"); !strings.Contains(said, "skipped rollback") {
		t.Errorf("undone to what it is: %s", said)
	}
	k(t, "-n", ns, "rollout", "undo", "statefulset/web", "--to-revision=1")
	harness.Eventually(t, patience, "the first template again", setReady(s, ns, 3))
	if have := setImages(t, s, ns); have != "1 1 1" {
		t.Errorf("images %s", have)
	}
	if have := revisionsIn(k(t, "-n", ns, "rollout", "history", "statefulset/web")); have != "3 4 5" {
		t.Errorf("revisions %s", have)
	}
	k(t, "-n", ns, "rollout", "restart", "statefulset/web")
	harness.Eventually(t, patience, "restarted", setReady(s, ns, 3))
	change(t, s, ns, "web", "", func(set *appsv1.StatefulSet) { set.Spec.RevisionHistoryLimit = ptr.To[int32](0) })
	harness.Eventually(t, patience, "no history", func() error {
		if n := len(list[*appsv1.ControllerRevision](t, s, ns)); n != 1 {
			return fmt.Errorf("%d revisions", n)
		}
		return nil
	})
	harness.Eventually(t, patience, "all as before", setReady(s, ns, 3))
}

// newKubectl returns kubectl, as the administrator's kijabi runs it; it must succeed.
func newKubectl(t *harness.T, s *stack) func(t *harness.T, args ...string) string {
	t.Helper()
	s.issue(t, s.ca, pki.ComponentAdmin, "admin")
	config := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Config", "current-context": "loops",
		"clusters": [{"name": "loops", "cluster": {"server": "https://%s", "certificate-authority": %q}}],
		"users": [{"name": "admin", "user": {"client-certificate": %q, "client-key": %q}}],
		"contexts": [{"name": "loops", "context": {"cluster": "loops", "user": "admin"}}]}`,
		s.at(configv1.PortREST), s.path("ca.crt"), s.path("admin.crt"), s.path("admin.key"))
	if err := os.WriteFile(s.path("kubeconfig"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return func(t *harness.T, args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, filepath.Join(harness.Programs(t), "kijabi"), append([]string{"kubectl"}, args...)...)
		cmd.Env = append(os.Environ(), "KUBECONFIG="+s.path("kubeconfig"), "HOME="+s.dir)
		said, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("kubectl %v: %v\n%s", args, err, said)
		}
		return string(said)
	}
}

// revisionsIn are the numbers that kubectl rollout history lists.
func revisionsIn(said string) string {
	var out []string
	for line := range strings.Lines(said) {
		if fields := strings.Fields(line); len(fields) > 0 {
			if _, err := strconv.Atoi(fields[0]); err == nil {
				out = append(out, fields[0])
			}
		}
	}
	return strings.Join(out, " ")
}

// testSetParallel: all pods at once, though none is ever ready; and a template that repairs
// them is not held up by them.
func testSetParallel(t *harness.T, s *stack) {
	ns := namespace(t, s, "set-parallel")
	set := webSet(ns, 5)
	set.Spec.PodManagementPolicy = appsv1.ParallelPodManagement
	set.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: 3}
	set.Spec.Template.Spec.Containers[0].Image = brokenImage
	create(t, s, set)
	harness.Eventually(t, patience, "five pods that are not ready", func() error {
		set, err := get[*appsv1.StatefulSet](s, ns, "web")
		if err == nil && (set.Status.Replicas != 5 || set.Status.ReadyReplicas != 0) {
			err = fmt.Errorf("%+v", set.Status)
		}
		return err
	})
	change(t, s, ns, "web", "", func(set *appsv1.StatefulSet) { set.Spec.Template.Spec.Containers[0].Image = "image:2" })
	harness.Eventually(t, patience, "repaired", setReady(s, ns, 5))
	podsNamed(t, s, ns, "web-3", "web-7")
	s.remove(t, set, client.DeleteOptions{})
}

func testSetClaims(t *harness.T, s *stack) {
	ns := namespace(t, s, "set-claims")
	claimed := func(policy appsv1.PersistentVolumeClaimRetentionPolicyType) *appsv1.StatefulSet {
		set := webSet(ns, 3)
		set.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{
			ObjectMeta: metav1.ObjectMeta{Name: "www"},
			Spec: corev1.PersistentVolumeClaimSpec{
				AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
			},
		}}
		set.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: policy, WhenScaled: policy}
		return set
	}
	claims := func(want ...string) func() error {
		return func() error {
			var have []string
			for _, claim := range list[*corev1.PersistentVolumeClaim](t, s, ns) {
				if claim.DeletionTimestamp == nil {
					have = append(have, claim.Name)
				}
			}
			if !slices.Equal(have, want) {
				return fmt.Errorf("claims %v, want %v", have, want)
			}
			return nil
		}
	}
	create(t, s, claimed(appsv1.RetainPersistentVolumeClaimRetentionPolicyType))
	harness.Eventually(t, patience, "three pods", setReady(s, ns, 3))
	if err := claims("www-web-0", "www-web-1", "www-web-2")(); err != nil {
		t.Error(err)
	}
	if pod := podsNamed(t, s, ns, "web-1")[0]; pod.Spec.Volumes[0].PersistentVolumeClaim == nil || pod.Spec.Volumes[0].PersistentVolumeClaim.ClaimName != "www-web-1" {
		t.Errorf("volumes %+v", pod.Spec.Volumes)
	}
	harness.Eventually(t, patience, "events tell of it", eventTold(t, s, ns, "SuccessfulCreate", "create Claim www-web-0 Pod web-0 in StatefulSet web success"))
	scaleSet(t, s, ns, 1)
	harness.Eventually(t, patience, "one pod", setReady(s, ns, 1))
	if err := claims("www-web-0", "www-web-1", "www-web-2")(); err != nil {
		t.Errorf("kept claims: %v", err)
	}
	kept, err := get[*corev1.PersistentVolumeClaim](s, ns, "www-web-1")
	if err != nil {
		t.Fatal(err)
	}

	// From now on claims go with the pods that are scaled away, and with the set.
	change(t, s, ns, "web", "", func(set *appsv1.StatefulSet) {
		set.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: "Delete", WhenScaled: "Delete"}
	})
	scaleSet(t, s, ns, 3)
	harness.Eventually(t, patience, "three pods again", setReady(s, ns, 3))
	if again, err := get[*corev1.PersistentVolumeClaim](s, ns, "www-web-1"); err != nil || again.UID != kept.UID {
		t.Errorf("web-1 has another claim than before: %v", err)
	}
	scaleSet(t, s, ns, 2)
	harness.Eventually(t, patience, "the claim goes with its pod", claims("www-web-0", "www-web-1"))
	scaleSet(t, s, ns, 3)
	harness.Eventually(t, patience, "a new pod has a new claim", setReady(s, ns, 3))
	s.remove(t, webSet(ns, 0), client.DeleteOptions{})
	harness.Eventually(t, patience, "all claims go with the set", claims())
}

// testSetKilledNode: the pod of a node that is silent may still run, so nobody gets its name
// until the node confirms its end.
func testSetKilledNode(t *harness.T, s *stack, k *kubelets) {
	ns := namespace(t, s, "set-killed")
	followSet(t, s, ns)
	set := webSet(ns, 3)
	set.Spec.Template.Spec.Tolerations = []corev1.Toleration{{
		Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To[int64](1),
	}}
	create(t, s, set)
	harness.Eventually(t, patience, "three pods", setReady(s, ns, 3))
	victim := podsNamed(t, s, ns, "web-1")[0]
	k.silence(victim.Spec.NodeName)
	harness.Eventually(t, 2*patience, "the pod of the silent node is evicted", func() error {
		pod, err := get[*corev1.Pod](s, ns, "web-1")
		if err == nil && pod.DeletionTimestamp == nil {
			err = fmt.Errorf("it is not")
		}
		return err
	})
	// The loop looks again, and lets it be.
	change(t, s, ns, "web", "", func(set *appsv1.StatefulSet) { set.Spec.MinReadySeconds = 1 })
	harness.Eventually(t, patience, "the set has seen it", setObserved(s, ns))
	if pod := podsNamed(t, s, ns, "web-1")[0]; pod.UID != victim.UID || pod.Spec.NodeName != victim.Spec.NodeName {
		t.Errorf("web-1 runs again on %s while %s has not confirmed its end", pod.Spec.NodeName, victim.Spec.NodeName)
	}
	started := time.Now()
	k.revive(t, victim.Spec.NodeName)
	harness.Eventually(t, patience, "all are there again", setReady(s, ns, 3))
	if pod := podsNamed(t, s, ns, "web-1")[0]; pod.UID == victim.UID {
		t.Errorf("web-1 is still the evicted one, %s after its node came back", time.Since(started))
	}
}
