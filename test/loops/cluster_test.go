package loops

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/test/harness"
)

// TestCluster runs what the loops promise about the cluster as a whole.
func TestCluster(tt *testing.T) {
	t := harness.Begin(tt)
	s := newStack(t, "controller-manager", "scheduler")
	k := newKubelets(t, s)
	t.Run("Certificates", func(t *harness.T) { testCertificates(t, s) })
	t.Run("TokenSecrets", func(t *harness.T) { testTokenSecrets(t, s) })
	t.Run("AggregatedRoles", func(t *harness.T) { testAggregatedRoles(t, s) })
	t.Run("OldEndpoints", func(t *harness.T) { testOldEndpoints(t, s) })
	t.Run("Taints", func(t *harness.T) { testTaints(t, s, k) })
	t.Run("NodeLeases", func(t *harness.T) { testNodeLeases(t, s, k) })
	t.Run("NearEndpoints", func(t *harness.T) { testNearEndpoints(t, s, k) })
	t.Run("Quota", func(t *harness.T) { testQuota(t, s) })
	t.Run("Addons", func(t *harness.T) { testAddons(t, s) })
	t.Run("FullNamespace", func(t *harness.T) { testFullNamespace(t, s) })
}

// joinAs registers a node that is heard before it is known, as one with a kubelet is.
func (k *kubelets) joinAs(t *harness.T, node *corev1.Node) {
	t.Helper()
	k.beat(t, node.Name)
	if err := k.s.register(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	k.well(t, node.Name)
}

func testAggregatedRoles(t *harness.T, s *stack) {
	rule := rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{"example.com"}, Resources: []string{"widgets"}}
	has := func(role string, want bool) func() error {
		return func() error {
			have, err := get[*rbacv1.ClusterRole](s, "", role)
			if err != nil {
				return err
			}
			if got := slices.ContainsFunc(have.Rules, func(r rbacv1.PolicyRule) bool { return slices.Contains(r.Resources, "widgets") }); got != want {
				return fmt.Errorf("%s has the rule: %v", role, got)
			}
			return nil
		}
	}
	create(t, s, &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: "see-widgets", Labels: map[string]string{"rbac.authorization.k8s.io/aggregate-to-view": "true"}}, Rules: []rbacv1.PolicyRule{rule},
	})
	for _, role := range []string{"view", "edit", "admin"} {
		harness.Eventually(t, patience, role+" takes up the rule", has(role, true))
	}
	change(t, s, "", "view", "", func(r *rbacv1.ClusterRole) { r.Rules = nil })
	harness.Eventually(t, patience, "rules that somebody removed come back", has("view", true))
	s.remove(t, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "see-widgets"}}, client.DeleteOptions{})
	for _, role := range []string{"view", "edit", "admin"} {
		harness.Eventually(t, patience, role+" gives it up", has(role, false))
	}
}

func testQuota(t *harness.T, s *stack) {
	ns := namespace(t, s, "quota")
	create(t, s, &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "all"},
		Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{
			"pods": resource.MustParse("3"), "requests.cpu": resource.MustParse("1"), "count/configmaps": resource.MustParse("10"), "services.nodeports": resource.MustParse("2"),
		}},
	})
	uses := func(want map[corev1.ResourceName]string) func() error {
		return func() error {
			quota, err := get[*corev1.ResourceQuota](s, ns, "all")
			if err != nil {
				return err
			}
			for name, text := range want {
				used, hard := quota.Status.Used[name], quota.Status.Hard[name]
				if used.Cmp(resource.MustParse(text)) != 0 || hard.IsZero() {
					err = errors.Join(err, fmt.Errorf("%s: %s of %s", name, used.String(), hard.String()))
				}
			}
			return err
		}
	}
	const soon = time.Second // what "kubectl describe quota" shows
	for i := range 2 {
		create(t, s, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprintf("p%d", i)}, Spec: podSpec("250m")})
	}
	create(t, s, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "s"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80}}},
	})
	harness.Eventually(t, soon, "what is used shows", uses(map[corev1.ResourceName]string{"pods": "2", "requests.cpu": "500m", "count/configmaps": "1", "services.nodeports": "1"}))
	s.remove(t, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "p0"}}, client.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)})
	harness.Eventually(t, soon, "what is freed shows", uses(map[corev1.ResourceName]string{"pods": "1", "requests.cpu": "250m"}))
	change(t, s, ns, "p1", "status", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })
	harness.Eventually(t, soon, "a pod that has ended uses nothing", uses(map[corev1.ResourceName]string{"pods": "0", "requests.cpu": "0"}))
}

func testOldEndpoints(t *harness.T, s *stack) {
	ns := namespace(t, s, "old")
	port := []corev1.ServicePort{{Name: "http", Port: 80}}
	create(t, s, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: port}})
	var pods []*corev1.Pod
	for i, ready := range []corev1.ConditionStatus{corev1.ConditionTrue, corev1.ConditionFalse} {
		spec := podSpec("1m")
		spec.NodeName = "nowhere" // past the scheduler, which writes the status of pods that wait
		pod := create(t, s, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprintf("p%d", i), Labels: map[string]string{"app": "web"}}, Spec: spec})
		change(t, s, ns, pod.Name, "status", func(p *corev1.Pod) {
			p.Status.Phase, p.Status.PodIP, p.Status.PodIPs = corev1.PodRunning, fmt.Sprintf("10.9.9.%d", 1+i), []corev1.PodIP{{IP: fmt.Sprintf("10.9.9.%d", 1+i)}}
			p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: ready, LastTransitionTime: metav1.Now()})
		})
		pods = append(pods, pod)
	}
	shows := func(name, want string) func() error {
		return func() error {
			have, err := get[*corev1.Endpoints](s, ns, name) //nolint:staticcheck // clients still have it
			if err != nil {
				return err
			}
			text := ""
			for _, subset := range have.Subsets {
				for _, a := range subset.Addresses {
					text += a.IP + " "
				}
				for _, a := range subset.NotReadyAddresses {
					text += "(" + a.IP + ") "
				}
				text += fmt.Sprint(subset.Ports[0].Port)
			}
			if text != want {
				return fmt.Errorf("endpoints %q, want %q", text, want)
			}
			return nil
		}
	}
	harness.Eventually(t, patience, "Endpoints show the pods of a service", shows("web", "10.9.9.1 (10.9.9.2) 80"))
	s.remove(t, pods[1], client.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)})
	harness.Eventually(t, patience, "a pod that goes is gone there", shows("web", "10.9.9.1 80"))
	s.remove(t, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"}}, client.DeleteOptions{})
	harness.Eventually(t, patience, "Endpoints go with their service", gone[*corev1.Endpoints](s, ns, "web")) //nolint:staticcheck // clients still have it

	// What users write for a service without a selector becomes slices.
	create(t, s, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "db"}, Spec: corev1.ServiceSpec{Ports: port}})
	own := create(t, s, &corev1.Endpoints{ //nolint:staticcheck // clients still have it
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "db"},
		Subsets: []corev1.EndpointSubset{{ //nolint:staticcheck // clients still have it
			Addresses: []corev1.EndpointAddress{{IP: "192.0.2.10"}}, Ports: []corev1.EndpointPort{{Name: "http", Port: 5432}},
		}},
	})
	mirrored := func(want ...string) func() error {
		return func() error {
			var have []string
			for _, slice := range list[*discoveryv1.EndpointSlice](t, s, ns) {
				if slice.Labels[discoveryv1.LabelServiceName] == "db" && slice.Labels[discoveryv1.LabelManagedBy] == "endpointslicemirroring-controller.k8s.io" {
					for _, e := range slice.Endpoints {
						have = append(have, e.Addresses...)
					}
				}
			}
			slices.Sort(have)
			if !slices.Equal(have, want) {
				return fmt.Errorf("mirrored %v, want %v", have, want)
			}
			return nil
		}
	}
	harness.Eventually(t, patience, "Endpoints are mirrored", mirrored("192.0.2.10"))
	change(t, s, ns, "db", "", func(e *corev1.Endpoints) { //nolint:staticcheck // clients still have it
		e.Subsets[0].Addresses = append(e.Subsets[0].Addresses, corev1.EndpointAddress{IP: "192.0.2.11"})
	})
	harness.Eventually(t, patience, "their changes, too", mirrored("192.0.2.10", "192.0.2.11"))
	s.remove(t, own, client.DeleteOptions{})
	harness.Eventually(t, patience, "and their end", mirrored())
}

func testNearEndpoints(t *harness.T, s *stack, k *kubelets) {
	near := hollowNode("near", "64")
	near.Labels[corev1.LabelTopologyZone] = "z1"
	k.joinAs(t, near)
	ns := namespace(t, s, "near")
	create(t, s, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80}}, TrafficDistribution: ptr.To(corev1.ServiceTrafficDistributionPreferSameZone),
		},
	})
	create(t, s, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "p", Labels: map[string]string{"app": "web"}}, Spec: podSpec("1m")})
	harness.Eventually(t, patience, "the pod is bound", func() error {
		have, err := get[*corev1.Pod](s, ns, "p")
		if err == nil && have.Spec.NodeName == "" {
			err = errors.New("it is not")
		}
		return err
	})
	zoned := func(zone string) func() error {
		return func() error {
			var others []string
			for _, slice := range list[*discoveryv1.EndpointSlice](t, s, ns) {
				for _, e := range slice.Endpoints {
					if ptr.Deref(e.Zone, "") == zone && e.Hints != nil && len(e.Hints.ForZones) == 1 && e.Hints.ForZones[0].Name == zone {
						return nil
					}
					others = append(others, fmt.Sprintf("zone %s, hints %v", ptr.Deref(e.Zone, ""), e.Hints))
				}
			}
			return fmt.Errorf("endpoints %q", others)
		}
	}
	harness.Eventually(t, patience, "its endpoint is for its zone", zoned("z1"))
	change(t, s, "", "near", "", func(n *corev1.Node) { n.Labels[corev1.LabelTopologyZone] = "z2" })
	harness.Eventually(t, patience, "a node that comes to another zone takes its endpoints with it", zoned("z2"))
}

func testTaints(t *harness.T, s *stack, k *kubelets) {
	k.joinAs(t, hollowNode("tainted", "64"))
	has := func(want ...string) func() error {
		return func() error {
			node, err := get[*corev1.Node](s, "", "tainted")
			if err == nil && !slices.Equal(taints(node), want) {
				err = fmt.Errorf("taints %v, want %v", taints(node), want)
			}
			return err
		}
	}
	pressure := func(status corev1.ConditionStatus) {
		change(t, s, "", "tainted", "status", func(n *corev1.Node) {
			n.Status.Conditions = slices.DeleteFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeMemoryPressure })
			n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeMemoryPressure, Status: status})
		})
	}
	pressure(corev1.ConditionTrue)
	harness.Eventually(t, patience, "a node under pressure takes no more pods", has("node.kubernetes.io/memory-pressure:NoSchedule"))
	pressure(corev1.ConditionFalse)
	harness.Eventually(t, patience, "it does afterwards", has())
	change(t, s, "", "tainted", "", func(n *corev1.Node) { n.Spec.Unschedulable = true })
	harness.Eventually(t, patience, "a cordoned node is tainted", has("node.kubernetes.io/unschedulable:NoSchedule"))
	change(t, s, "", "tainted", "", func(n *corev1.Node) { n.Spec.Unschedulable = false })
	harness.Eventually(t, patience, "an uncordoned one is not", has())

	// kubectl taint node tainted out=x:NoExecute
	ns := namespace(t, s, "tainted")
	bears := func(name string, tolerations ...corev1.Toleration) {
		p := pod(ns, name, "1m")
		p.Spec.Tolerations = tolerations
		if err := bind(t, s, create(t, s, p), "tainted"); err != nil {
			harness.Eventually(t, patience, "the scheduler has bound it", bound(s, ns, name, "tainted"))
		}
	}
	tolerates := func(seconds *int64) corev1.Toleration {
		return corev1.Toleration{Key: "out", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: seconds}
	}
	bears("none")
	bears("forever", tolerates(nil))
	bears("while", tolerates(ptr.To[int64](4)))
	bears("long", tolerates(ptr.To[int64](3600)))
	since := time.Now()
	change(t, s, "", "tainted", "", func(n *corev1.Node) {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "out", Value: "x", Effect: corev1.TaintEffectNoExecute})
	})
	harness.Eventually(t, patience, "a pod that does not bear the taint goes", gone[*corev1.Pod](s, ns, "none"))
	harness.Eventually(t, patience, "one that bears it for a while goes then", gone[*corev1.Pod](s, ns, "while"))
	if after := time.Since(since); after < 3*time.Second { // times are whole seconds
		t.Errorf("it went after %s", after)
	}
	for _, name := range []string{"forever", "long"} {
		if p, err := get[*corev1.Pod](s, ns, name); err != nil || p.DeletionTimestamp != nil {
			t.Errorf("pod %s: %v, it is %v", name, err, p)
		}
	}
	// A taint that goes in time evicts nobody.
	change(t, s, "", "tainted", "", func(n *corev1.Node) { n.Spec.Taints = nil })
	harness.Eventually(t, patience, "the taint is gone", has())
	stays := corev1.Toleration{Key: "stays", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}
	leaves := stays
	leaves.TolerationSeconds = ptr.To[int64](7)
	bears("saved", tolerates(ptr.To[int64](5)), stays)
	bears("witness", tolerates(nil), leaves)
	change(t, s, "", "tainted", "", func(n *corev1.Node) {
		n.Spec.Taints = []corev1.Taint{{Key: "out", Effect: corev1.TaintEffectNoExecute}, {Key: "stays", Effect: corev1.TaintEffectNoExecute}}
	})
	change(t, s, "", "tainted", "", func(n *corev1.Node) {
		n.Spec.Taints = slices.DeleteFunc(n.Spec.Taints, func(taint corev1.Taint) bool { return taint.Key == "out" })
	})
	harness.Eventually(t, patience, "the pod that bears the other taint for longer goes", gone[*corev1.Pod](s, ns, "witness"))
	if p, err := get[*corev1.Pod](s, ns, "saved"); err != nil || p.DeletionTimestamp != nil {
		t.Errorf("pod saved: %v, it is %v", err, p)
	}
}

func testNodeLeases(t *harness.T, s *stack, k *kubelets) {
	if err := s.register(t.Context(), hollowNode("leased", "64")); err != nil {
		t.Fatal(err)
	}
	lease := func(name string) *coordinationv1.Lease {
		return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: name}}
	}
	create(t, s, lease("leased"))
	create(t, s, lease("never"))
	elsewhere := namespace(t, s, "leases")
	other := lease("never")
	other.Namespace = elsewhere
	create(t, s, other)
	harness.Eventually(t, patience, "the Lease of a node that never was goes", gone[*coordinationv1.Lease](s, corev1.NamespaceNodeLease, "never"))
	if _, err := get[*coordinationv1.Lease](s, corev1.NamespaceNodeLease, "leased"); err != nil {
		t.Errorf("the Lease of a node that is there: %v", err)
	}
	s.remove(t, hollowNode("leased", "64"), client.DeleteOptions{})
	harness.Eventually(t, patience, "a node's Lease goes with it", gone[*coordinationv1.Lease](s, corev1.NamespaceNodeLease, "leased"))
	if _, err := get[*coordinationv1.Lease](s, elsewhere, "never"); err != nil {
		t.Errorf("a Lease of another namespace: %v", err)
	}
}

// testFullNamespace deletes a namespace of many pods, which go in bulk.
func testFullNamespace(t *harness.T, s *stack) {
	const count, atOnce = 5000, 250
	ns := namespace(t, s, "full")
	for first := 0; first < count; first += atOnce {
		var ops []client.Op
		for i := range atOnce {
			p := pod(ns, fmt.Sprintf("p%d", first+i), "1m")
			p.Spec.SchedulerName = "nobody"
			ops = append(ops, client.CreateOp(p))
		}
		ctx, cancel := contextOf(t)
		_, err := s.api.Transact(ctx, ops, false)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
	}
	since := time.Now()
	s.remove(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, client.DeleteOptions{})
	harness.Eventually(t, patience, "a namespace of many pods goes", gone[*corev1.Namespace](s, "", ns))
	t.Logf("%d pods and their namespace went in %s", count, time.Since(since).Round(time.Millisecond))
	if left := list[*corev1.Pod](t, s, ns); len(left) > 0 {
		t.Errorf("%d pods outlive their namespace", len(left))
	}
}

// testAddons puts files into the master's directory of manifests and takes them out again.
func testAddons(t *harness.T, s *stack) {
	if err := os.Mkdir(s.path("manifests"), 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(s.path("manifests"), name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	replicas := func(want int32) func() error {
		return func() error {
			d, err := get[*appsv1.Deployment](s, "addons", "dashboard")
			if err == nil && *d.Spec.Replicas != want {
				err = fmt.Errorf("%d replicas, want %d", *d.Spec.Replicas, want)
			}
			return err
		}
	}
	dashboard := func(n int) string {
		return fmt.Sprintf(`apiVersion: v1
kind: Namespace
metadata: {name: addons}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: dashboard, namespace: addons}
spec:
  replicas: %d
  selector: {matchLabels: {app: dashboard}}
  template:
    metadata: {labels: {app: dashboard}}
    spec: {containers: [{name: main, image: "image:1"}]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: dashboard}
rules: [{apiGroups: ["*"], resources: ["*"], verbs: [get]}]
`, n)
	}
	write("dashboard.yaml", dashboard(1))
	harness.Eventually(t, patience, "what a file says is made", replicas(1))
	change(t, s, "addons", "dashboard", "", func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](3) })
	harness.Eventually(t, patience, "what somebody has changed is put right", replicas(1))
	write("dashboard.yaml", dashboard(2))
	harness.Eventually(t, patience, "a file that has changed is applied", replicas(2))
	write("broken.yaml", "{apiVersion: v1, kind: ConfigMap, metadata: {name: x, namespace: nowhere}}")
	harness.Eventually(t, patience, "an event names what is wrong", func() error {
		for _, event := range list[*corev1.Event](t, s, "kube-system") {
			if event.Reason == "ManifestFailed" && strings.Contains(event.Message, "broken.yaml: ConfigMap x: ") {
				return nil
			}
		}
		return errors.New("there is none")
	})
	for _, name := range []string{"dashboard.yaml", "broken.yaml"} {
		if err := os.Remove(filepath.Join(s.path("manifests"), name)); err != nil {
			t.Fatal(err)
		}
	}
	harness.Eventually(t, patience, "what no file says any more goes", gone[*rbacv1.ClusterRole](s, "", "dashboard"))
	harness.Eventually(t, patience, "with its namespace", gone[*corev1.Namespace](s, "", "addons"))
}
