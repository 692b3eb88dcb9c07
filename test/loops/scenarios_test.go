package loops

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/test/harness"
)

func replicaSet(ns, name string, replicas int32) *appsv1.ReplicaSet {
	d := deployment(ns, name, replicas)
	return &appsv1.ReplicaSet{ObjectMeta: d.ObjectMeta, Spec: appsv1.ReplicaSetSpec{Replicas: d.Spec.Replicas, Selector: d.Spec.Selector, Template: d.Spec.Template}}
}

// has says whether a ReplicaSet says that so many pods are there and ready.
func (c *scene) has(name string, replicas int32) func() error {
	return func() error {
		set, err := get[*appsv1.ReplicaSet](c.stack, c.ns, name)
		if err == nil && (set.Status.ObservedGeneration < set.Generation || set.Status.Replicas != replicas || set.Status.ReadyReplicas != replicas) {
			err = fmt.Errorf("status %+v", set.Status)
		}
		return err
	}
}

// playReplicaSet makes a set, takes a pod from it, and makes it larger and smaller.
func playReplicaSet(t *harness.T, c *scene) {
	namespace(t, c.stack, c.ns)
	create(t, c.stack, replicaSet(c.ns, "web", 4))
	harness.Eventually(t, patience, "4 pods", c.has("web", 4))
	victim := list[*corev1.Pod](t, c.stack, c.ns)[0]
	c.remove(t, victim, client.DeleteOptions{UID: victim.UID})
	harness.Eventually(t, patience, "the deleted pod goes", func() error {
		pod, err := get[*corev1.Pod](c.stack, c.ns, victim.Name)
		if apierrors.IsNotFound(err) || err == nil && pod.UID != victim.UID {
			return nil
		}
		return errors.Join(err, errors.New("it is there"))
	})
	harness.Eventually(t, patience, "4 pods again", func() error {
		ready := 0
		for _, pod := range list[*corev1.Pod](t, c.stack, c.ns) {
			if isReady(pod) && pod.DeletionTimestamp == nil {
				ready++
			}
		}
		if ready != 4 {
			return fmt.Errorf("%d pods", ready)
		}
		return c.has("web", 4)()
	})
	for _, n := range []int32{6, 3} {
		change(t, c.stack, c.ns, "web", "", func(set *appsv1.ReplicaSet) { set.Spec.Replicas = &n })
		harness.Eventually(t, patience, fmt.Sprintf("%d pods", n), c.has("web", n))
	}
}

func setLine(set *appsv1.ReplicaSet) string {
	return fmt.Sprintf("set of image %s, wants %d, has %d, ready %d, available %d, observed %t, revision %s", set.Spec.Template.Spec.Containers[0].Image,
		ptr.Deref(set.Spec.Replicas, 0), set.Status.Replicas, set.Status.ReadyReplicas, set.Status.AvailableReplicas,
		set.Status.ObservedGeneration == set.Generation, set.Annotations["deployment.kubernetes.io/revision"])
}

func endOfReplicaSet(t *harness.T, c *scene) []string {
	return append(lines(list[*appsv1.ReplicaSet](t, c.stack, c.ns), setLine), lines(list[*corev1.Pod](t, c.stack, c.ns), podLine)...)
}

// playDeployment rolls a second template out.
func playDeployment(t *harness.T, c *scene) {
	namespace(t, c.stack, c.ns)
	create(t, c.stack, deployment(c.ns, "web", 4))
	harness.Eventually(t, patience, "first rollout", rolledOut(c.stack, c.ns, "web"))
	change(t, c.stack, c.ns, "web", "", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "image:2" })
	harness.Eventually(t, 2*patience, "second rollout", rolledOut(c.stack, c.ns, "web"))
}

func endOfDeployment(t *harness.T, c *scene) []string {
	out := lines(list[*appsv1.Deployment](t, c.stack, c.ns), func(d *appsv1.Deployment) string {
		conditions := lines(d.Status.Conditions, func(condition appsv1.DeploymentCondition) string {
			return fmt.Sprintf("%s=%s %s", condition.Type, condition.Status, condition.Reason)
		})
		return fmt.Sprintf("deployment has %d, updated %d, ready %d, available %d, revision %s, %s", d.Status.Replicas, d.Status.UpdatedReplicas,
			d.Status.ReadyReplicas, d.Status.AvailableReplicas, d.Annotations["deployment.kubernetes.io/revision"], strings.Join(conditions, ", "))
	})
	return append(out, endOfReplicaSet(t, c)...)
}

// playEndpoints makes two Services of the same pods, takes away a pod's readiness, a pod and a Service.
func playEndpoints(t *harness.T, c *scene) {
	namespace(t, c.stack, c.ns)
	for _, name := range []string{"web", "gone"} {
		create(t, c.stack, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: c.ns, Name: name},
			Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Name: "http", Port: 80}}},
		})
	}
	for i := range 3 {
		one := pod(c.ns, fmt.Sprintf("pod-%d", i), "10m")
		one.Labels = map[string]string{"app": "web"}
		create(t, c.stack, one)
	}
	harness.Eventually(t, patience, "all pods are endpoints", published(t, c.stack, c.ns, "web", 3))
	change(t, c.stack, c.ns, "pod-0", "", func(p *corev1.Pod) { p.Annotations = map[string]string{unreadyAnnotation: "yes"} })
	harness.Eventually(t, patience, "an endpoint is not ready", published(t, c.stack, c.ns, "web", 2))
	c.remove(t, pod(c.ns, "pod-1", "10m"), client.DeleteOptions{})
	c.remove(t, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: c.ns, Name: "gone"}}, client.DeleteOptions{})
	harness.Eventually(t, patience, "an endpoint goes", published(t, c.stack, c.ns, "web", 1))
}

func endOfEndpoints(t *harness.T, c *scene) []string {
	names := map[string]string{}
	for _, pod := range list[*corev1.Pod](t, c.stack, c.ns) {
		names[pod.Status.PodIP] = pod.Name
	}
	var out []string
	for _, service := range []string{"web", "gone"} {
		for ip, ready := range endpoints(t, c.stack, c.ns, service) {
			out = append(out, fmt.Sprintf("endpoint of %s: %s, ready %t", service, names[ip], ready))
		}
	}
	slices.Sort(out)
	return out
}

// playNamespace fills a namespace and deletes it.
func playNamespace(t *harness.T, c *scene) {
	namespace(t, c.stack, c.ns)
	for i := range 3 {
		create(t, c.stack, configMap(c.ns, fmt.Sprintf("plain-%d", i)))
	}
	create(t, c.stack, deployment(c.ns, "web", 2))
	harness.Eventually(t, patience, "the deployment has its pods", rolledOut(c.stack, c.ns, "web"))
	c.remove(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: c.ns}}, client.DeleteOptions{})
	harness.Eventually(t, 2*patience, "the namespace goes", gone[*corev1.Namespace](c.stack, "", c.ns))
}

func endOfNamespace(t *harness.T, c *scene) []string {
	out := lines(list[*corev1.ConfigMap](t, c.stack, c.ns), func(m *corev1.ConfigMap) string { return m.Name })
	return append(append(out, endOfReplicaSet(t, c)...), lines(list[*corev1.ServiceAccount](t, c.stack, c.ns), func(a *corev1.ServiceAccount) string { return a.Name })...)
}

// playGarbage deletes three owners, each in another way.
func playGarbage(t *harness.T, c *scene) {
	namespace(t, c.stack, c.ns)
	own := func(name string, owners ...*corev1.ConfigMap) *corev1.ConfigMap {
		m := configMap(c.ns, name)
		for _, owner := range owners {
			m.OwnerReferences = append(m.OwnerReferences, ownedBy(owner))
		}
		return create(t, c.stack, m)
	}
	background, foreground, orphan, stays := own("background"), own("foreground"), own("orphan"), own("stays")
	chain := own("background-1", background)
	own("background-2", chain)
	own("foreground-1", foreground)
	own("foreground-2", foreground)
	own("orphan-1", orphan)
	own("orphan-2", orphan)
	own("shared", background, stays)
	for owner, how := range map[*corev1.ConfigMap]metav1.DeletionPropagation{
		background: metav1.DeletePropagationBackground, foreground: metav1.DeletePropagationForeground, orphan: metav1.DeletePropagationOrphan,
	} {
		c.remove(t, owner, client.DeleteOptions{Propagation: how})
	}
	for _, name := range []string{"background", "background-1", "background-2", "foreground", "foreground-1", "foreground-2", "orphan"} {
		harness.Eventually(t, patience, name+" goes", gone[*corev1.ConfigMap](c.stack, c.ns, name))
	}
}

func endOfGarbage(t *harness.T, c *scene) []string {
	return lines(list[*corev1.ConfigMap](t, c.stack, c.ns), func(m *corev1.ConfigMap) string {
		return fmt.Sprintf("%s, %d owners, finalizers %v, deleted %t", m.Name, len(m.OwnerReferences), m.Finalizers, m.DeletionTimestamp != nil)
	})
}

// ownNode taints a node that is one scenario's own.
const ownNode = "loops.kijabi.dev/own"

// playEviction lets a node fall silent with two pods that can run nowhere else.
func playEviction(t *harness.T, c *scene) {
	namespace(t, c.stack, c.ns)
	node := hollowNode(c.ns, "64")
	node.Spec.Taints = []corev1.Taint{{Key: ownNode, Effect: corev1.TaintEffectNoSchedule}} // other scenarios' pods go elsewhere
	if err := c.register(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	c.k.beat(t, c.ns)
	t.Cleanup(func() { // no node is silent for longer than the test of it
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), request)
		defer cancel()
		if err := c.api.Delete(ctx, node, client.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	set := replicaSet(c.ns, "web", 2)
	set.Spec.Template.Spec.NodeSelector = map[string]string{"kubernetes.io/hostname": c.ns}
	set.Spec.Template.Spec.Tolerations = []corev1.Toleration{
		{Key: ownNode, Operator: corev1.TolerationOpExists},
		{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To[int64](1)},
	}
	create(t, c.stack, set)
	harness.Eventually(t, patience, "2 pods", c.has("web", 2))
	c.k.silence(c.ns)
	harness.Eventually(t, 2*patience, "they are evicted and others wait in their place", func() error {
		deleted, waiting := 0, 0
		for _, pod := range list[*corev1.Pod](t, c.stack, c.ns) {
			switch {
			case pod.DeletionTimestamp != nil:
				deleted++
			case pod.Spec.NodeName == "":
				waiting++
			}
		}
		if deleted != 2 || waiting != 2 {
			return fmt.Errorf("%d deleted, %d waiting", deleted, waiting)
		}
		return nil
	})
}

func endOfEviction(t *harness.T, c *scene) []string {
	node, err := get[*corev1.Node](c.stack, "", c.ns)
	if err != nil {
		t.Fatal(err)
	}
	return append(endOfReplicaSet(t, c), fmt.Sprintf("node ready %s, taints %v, pods in a range %t", harness.NodeReady(node), taints(node), node.Spec.PodCIDR != ""))
}

// playAccounts takes away and changes what every namespace has.
func playAccounts(t *harness.T, c *scene) {
	namespace(t, c.stack, c.ns)
	there := func() error {
		_, err := get[*corev1.ServiceAccount](c.stack, c.ns, "default")
		_, rootErr := get[*corev1.ConfigMap](c.stack, c.ns, "kube-root-ca.crt")
		return errors.Join(err, rootErr)
	}
	harness.Eventually(t, patience, "account and root CA", there)
	c.remove(t, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: c.ns, Name: "default"}}, client.DeleteOptions{})
	harness.Eventually(t, patience, "the account is there again", there)
	c.remove(t, configMap(c.ns, "kube-root-ca.crt"), client.DeleteOptions{})
	harness.Eventually(t, patience, "the root CA is there again", there)
	change(t, c.stack, c.ns, "kube-root-ca.crt", "", func(m *corev1.ConfigMap) { m.Data = map[string]string{"ca.crt": "forged", "more": "x"} })
}

func endOfAccounts(t *harness.T, c *scene) []string {
	out := lines(list[*corev1.ConfigMap](t, c.stack, c.ns), func(m *corev1.ConfigMap) string {
		return fmt.Sprintf("%s, keys %v, right CA %t", m.Name, slices.Sorted(maps.Keys(m.Data)), m.Data["ca.crt"] == string(c.ca.CertificatePEM()))
	})
	return append(out, lines(list[*corev1.ServiceAccount](t, c.stack, c.ns), func(a *corev1.ServiceAccount) string { return "account " + a.Name })...)
}
