package loops

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
	objectv1pb "kijabi.dev/proto/gen/kijabi/object/v1"
	"kijabi.dev/test/harness"
)

// TestScaling runs what keeps workloads at their size, on one master with three nodes.
func TestScaling(tt *testing.T) {
	t := harness.Begin(tt)
	s := newStack(t, "controller-manager", "scheduler")
	k := newKubelets(t, s)
	var load atomic.Uint64 // millicores of all pods together
	for i := range 3 {
		if err := s.register(t.Context(), hollowNode(nodeName(i), "64")); err != nil {
			t.Fatal(err)
		}
		k.beat(t, nodeName(i))
		k.well(t, nodeName(i))
		k.serve(t, nodeName(i), func(_ *corev1.Pod, running int) uint64 { return load.Load() / uint64(running) })
	}
	t.Run("ReplicationController", func(t *harness.T) { testReplicationController(t, s) })
	t.Run("Adoption", func(t *harness.T) { testAdoption(t, s) })
	t.Run("ScaledMidway", func(t *harness.T) { testScaledMidway(t, s) })
	t.Run("Drain", func(t *harness.T) { testDrain(t, s) })
	t.Run("Autoscaler", func(t *harness.T) { testAutoscaler(t, s, &load) })
}

// eventSays says whether an event tells of something.
func eventSays(t *harness.T, s *stack, ns, reason, message string) func() error {
	return func() error {
		var all []string
		for _, event := range list[*corev1.Event](t, s, ns) {
			if event.Reason == reason && strings.Contains(event.Message, message) {
				return nil
			}
			all = append(all, event.Reason+": "+event.Message)
		}
		return fmt.Errorf("no event %s: %q among %q", reason, message, all)
	}
}

func testReplicationController(t *harness.T, s *stack) {
	ns := namespace(t, s, "rc")
	labels := map[string]string{"app": "old"}
	rc := create(t, s, &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "old"},
		Spec: corev1.ReplicationControllerSpec{
			Replicas: ptr.To[int32](3), Selector: labels,
			Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podSpec("10m")},
		},
	})
	is := func(n int32) func() error {
		return func() error {
			rc, err := get[*corev1.ReplicationController](s, ns, "old")
			if err == nil && (rc.Status.ReadyReplicas != n || rc.Status.Replicas != n || rc.Status.ObservedGeneration != rc.Generation) {
				err = fmt.Errorf("status %+v", rc.Status)
			}
			return err
		}
	}
	harness.Eventually(t, patience, "three pods", is(3))
	for _, pod := range list[*corev1.Pod](t, s, ns) {
		if owner := metav1.GetControllerOf(pod); owner == nil || owner.UID != rc.UID || owner.Kind != "ReplicationController" {
			t.Errorf("pod %s belongs to %+v", pod.Name, owner)
		}
	}
	harness.Eventually(t, patience, "it is told", eventSays(t, s, ns, "SuccessfulCreate", "Created pod: old-"))
	change(t, s, ns, "old", "", func(rc *corev1.ReplicationController) { rc.Spec.Replicas = ptr.To[int32](1) })
	harness.Eventually(t, patience, "one pod", is(1))

	// A quota that is full is shown as a condition, and no more once there is room.
	create(t, s, &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "few"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("2")}},
	})
	change(t, s, ns, "old", "", func(rc *corev1.ReplicationController) { rc.Spec.Replicas = ptr.To[int32](4) })
	fails := func(want bool) func() error {
		return func() error {
			rc, err := get[*corev1.ReplicationController](s, ns, "old")
			if err != nil {
				return err
			}
			for _, c := range rc.Status.Conditions {
				if c.Type == corev1.ReplicationControllerReplicaFailure && want {
					if c.Reason != "FailedCreate" || !strings.Contains(c.Message, "quota") {
						return fmt.Errorf("condition %+v", c)
					}
					return nil
				}
			}
			if want == (len(rc.Status.Conditions) == 0) {
				return fmt.Errorf("conditions %+v", rc.Status.Conditions)
			}
			return nil
		}
	}
	harness.Eventually(t, patience, "the quota is told", fails(true))
	change(t, s, ns, "old", "", func(rc *corev1.ReplicationController) { rc.Spec.Replicas = ptr.To[int32](2) })
	harness.Eventually(t, patience, "there is room", is(2))
	harness.Eventually(t, patience, "no failure is left", fails(false))
}

// testAdoption lets a Deployment go without its set: the next one takes it over.
func testAdoption(t *harness.T, s *stack) {
	ns := namespace(t, s, "adoption")
	create(t, s, deployment(ns, "web", 2))
	harness.Eventually(t, patience, "first rollout", rolledOut(s, ns, "web"))
	before := list[*appsv1.ReplicaSet](t, s, ns)[0]
	pods := list[*corev1.Pod](t, s, ns)
	s.remove(t, deployment(ns, "web", 2), client.DeleteOptions{Propagation: metav1.DeletePropagationOrphan})
	harness.Eventually(t, patience, "the deployment is gone", gone[*appsv1.Deployment](s, ns, "web"))
	d := create(t, s, deployment(ns, "web", 2))
	harness.Eventually(t, patience, "the next deployment has what it needs", rolledOut(s, ns, "web"))
	after := list[*appsv1.ReplicaSet](t, s, ns)
	if len(after) != 1 || after[0].UID != before.UID || metav1.GetControllerOf(after[0]).UID != d.UID {
		t.Errorf("sets %v", after)
	}
	for _, pod := range pods {
		if have, err := get[*corev1.Pod](s, ns, pod.Name); err != nil || have.UID != pod.UID {
			t.Errorf("pod %s was not kept: %v", pod.Name, err)
		}
	}
}

// testScaledMidway scales a rollout that is stuck.
func testScaledMidway(t *harness.T, s *stack) {
	ns := namespace(t, s, "midway")
	d := deployment(ns, "web", 10)
	d.Annotations = map[string]string{"kubernetes.io/change-cause": "the beginning"}
	d.Spec.Strategy = appsv1.DeploymentStrategy{
		Type:          appsv1.RollingUpdateDeploymentStrategyType,
		RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: ptr.To(intstr.FromInt32(3)), MaxUnavailable: ptr.To(intstr.FromInt32(2))},
	}
	create(t, s, d)
	harness.Eventually(t, patience, "first rollout", rolledOut(s, ns, "web"))
	change(t, s, ns, "web", "", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = brokenImage })
	sizes := func(old, fresh int32) func() error {
		return func() error {
			have := map[bool]int32{}
			for _, set := range list[*appsv1.ReplicaSet](t, s, ns) {
				have[set.Spec.Template.Spec.Containers[0].Image == brokenImage] += set.Status.Replicas
			}
			if have[false] != old || have[true] != fresh {
				return fmt.Errorf("%d old pods and %d new ones", have[false], have[true])
			}
			return nil
		}
	}
	harness.Eventually(t, patience, "it is stuck", sizes(8, 5))
	change(t, s, ns, "web", "", func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](15) })
	harness.Eventually(t, patience, "both sets grow", sizes(11, 7))
	harness.Eventually(t, patience, "it is told", eventSays(t, s, ns, "ScalingReplicaSet", "from 8 to 11"))
	change(t, s, ns, "web", "", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "image:1" })
	harness.Eventually(t, patience, "it goes back", rolledOut(s, ns, "web"))
	for _, set := range list[*appsv1.ReplicaSet](t, s, ns) {
		if a := set.Annotations; set.Spec.Template.Spec.Containers[0].Image == "image:1" &&
			(a["deployment.kubernetes.io/revision"] != "3" || a["deployment.kubernetes.io/revision-history"] != "1" || a["kubernetes.io/change-cause"] != "the beginning") {
			t.Errorf("annotations %v", a)
		}
	}
}

// evict asks the eviction API to let a pod go.
func evict(ctx context.Context, s *stack, pod *corev1.Pod) error {
	packed, err := object.Pack(&policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name}})
	if err != nil {
		return err
	}
	kind := object.KindOf[*corev1.Pod]()
	_, err = objectv1pb.NewObjectServiceClient(s.admin).Create(ctx, &objectv1pb.CreateRequest{
		Reference: &objectv1pb.Reference{
			Resource:  &objectv1pb.Resource{Version: kind.GVR.Version, Resource: kind.GVR.Resource},
			Namespace: pod.Namespace, Name: pod.Name,
		},
		Subresource: "eviction", Object: packed,
	})
	return err
}

// testDrain empties two nodes at once: never are fewer pods ready than the budget says.
func testDrain(t *harness.T, s *stack) {
	const replicas, least = 9, 7 // 70 % of 9, rounded up
	ns := namespace(t, s, "drain")
	settled := false // guarded by the history's lock
	h := follow(t, s, ns, func(_, _ *corev1.Pod, all map[types.UID]*corev1.Pod) string {
		ready := 0
		for _, pod := range all {
			if pod.DeletionTimestamp == nil && isReady(pod) {
				ready++
			}
		}
		if settled && ready < least {
			return fmt.Sprintf("%d pods are ready, the budget wants %d", ready, least)
		}
		return ""
	})
	d := deployment(ns, "web", replicas)
	create(t, s, d)
	create(t, s, &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"},
		Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: ptr.To(intstr.FromString("70%")), Selector: d.Spec.Selector},
	})
	harness.Eventually(t, patience, "first rollout", rolledOut(s, ns, "web"))
	harness.Eventually(t, patience, "the budget is counted", func() error {
		pdb, err := get[*policyv1.PodDisruptionBudget](s, ns, "web")
		if err != nil {
			return err
		}
		st := pdb.Status
		if st.ExpectedPods != replicas || st.DesiredHealthy != least || st.CurrentHealthy != replicas || st.DisruptionsAllowed != replicas-least ||
			st.ObservedGeneration != pdb.Generation || !meta.IsStatusConditionTrue(st.Conditions, policyv1.DisruptionAllowedCondition) {
			return fmt.Errorf("status %+v", st)
		}
		return nil
	})
	h.mu.Lock()
	settled = true
	h.mu.Unlock()

	drained := []string{nodeName(0), nodeName(1)}
	for _, node := range drained {
		change(t, s, "", node, "", func(n *corev1.Node) { n.Spec.Unschedulable = true })
	}
	var refused atomic.Int64
	var drains sync.WaitGroup
	for _, node := range drained {
		drains.Go(func() {
			harness.Eventually(t, 2*patience, "node "+node+" is empty", func() error {
				left := 0
				for _, pod := range list[*corev1.Pod](t, s, ns) {
					if pod.Spec.NodeName != node || pod.DeletionTimestamp != nil {
						continue
					}
					left++
					ctx, cancel := context.WithTimeout(t.Context(), request)
					err := evict(ctx, s, pod)
					cancel()
					switch {
					case apierrors.IsTooManyRequests(err):
						refused.Add(1)
					case err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err):
						return err
					}
				}
				if left > 0 {
					return fmt.Errorf("%d pods are left", left)
				}
				return nil
			})
		})
	}
	drains.Wait()
	harness.Eventually(t, patience, "all pods run elsewhere", rolledOut(s, ns, "web"))
	harness.Eventually(t, patience, "the budget forgets who went", func() error {
		pdb, err := get[*policyv1.PodDisruptionBudget](s, ns, "web")
		if err == nil && (len(pdb.Status.DisruptedPods) > 0 || pdb.Status.DisruptionsAllowed != replicas-least) {
			err = fmt.Errorf("status %+v", pdb.Status)
		}
		return err
	})
	if refused.Load() == 0 {
		t.Errorf("no eviction was refused: the budget was not put to the test")
	}
	for _, node := range drained {
		change(t, s, "", node, "", func(n *corev1.Node) { n.Spec.Unschedulable = false })
	}
}

// testAutoscaler loads a Deployment's pods and takes the load away again.
func testAutoscaler(t *harness.T, s *stack, load *atomic.Uint64) {
	ns := namespace(t, s, "autoscaler")
	d := deployment(ns, "web", 1)
	d.Spec.Template.Spec = podSpec("100m")
	create(t, s, d)
	harness.Eventually(t, patience, "first rollout", rolledOut(s, ns, "web"))
	hpa := create(t, s, &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"},
			MinReplicas:    ptr.To[int32](1), MaxReplicas: 3,
			Metrics: []autoscalingv2.MetricSpec{{
				Type: autoscalingv2.ResourceMetricSourceType,
				Resource: &autoscalingv2.ResourceMetricSource{
					Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: ptr.To[int32](50)},
				},
			}},
			Behavior: &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleDown: &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: ptr.To[int32](3)}},
		},
	})
	load.Store(150) // 50 % of 100m are 50m: three pods
	state := func() (*autoscalingv2.HorizontalPodAutoscaler, error) {
		return get[*autoscalingv2.HorizontalPodAutoscaler](s, ns, hpa.Name)
	}
	size := func(n int32) func() error {
		return func() error {
			d, err := get[*appsv1.Deployment](s, ns, "web")
			if err == nil && (*d.Spec.Replicas != n || d.Status.ReadyReplicas != n) {
				err = fmt.Errorf("%d pods asked for, %d ready", *d.Spec.Replicas, d.Status.ReadyReplicas)
				if hpa, getErr := state(); getErr == nil {
					err = fmt.Errorf("%w; conditions %+v, metrics %v", err, hpa.Status.Conditions, hpa.Status.CurrentMetrics)
				}
			}
			return err
		}
	}
	harness.Eventually(t, patience, "three pods share the load", size(3))
	harness.Eventually(t, patience, "it is told", eventSays(t, s, ns, "SuccessfulRescale", "New size: 3; reason: cpu resource utilization (percentage of request) above target"))
	is := func(want autoscalingv2.HorizontalPodAutoscalerConditionType, status corev1.ConditionStatus, reason string) func() error {
		return func() error {
			hpa, err := state()
			if err != nil {
				return err
			}
			for _, c := range hpa.Status.Conditions {
				if c.Type == want && c.Status == status && c.Reason == reason {
					return nil
				}
			}
			return fmt.Errorf("no %s %s %s among %+v", want, status, reason, hpa.Status.Conditions)
		}
	}
	harness.Eventually(t, patience, "its metric is found", is(autoscalingv2.ScalingActive, corev1.ConditionTrue, "ValidMetricFound"))
	load.Store(0)
	harness.Eventually(t, patience, "one pod is enough", size(1))
	harness.Eventually(t, patience, "it is told", eventSays(t, s, ns, "SuccessfulRescale", "New size: 1; reason: All metrics below target"))

	// Metrics that nobody serves stop it and are named.
	change(t, s, ns, hpa.Name, "", func(h *autoscalingv2.HorizontalPodAutoscaler) {
		h.Spec.Metrics = []autoscalingv2.MetricSpec{{
			Type: autoscalingv2.PodsMetricSourceType,
			Pods: &autoscalingv2.PodsMetricSource{
				Metric: autoscalingv2.MetricIdentifier{Name: "requests"},
				Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: ptr.To(resource.MustParse("1"))},
			},
		}}
	})
	harness.Eventually(t, patience, "nobody serves the metric", is(autoscalingv2.ScalingActive, corev1.ConditionFalse, "FailedGetPodsMetric"))
	harness.Eventually(t, patience, "it is told", eventSays(t, s, ns, "FailedGetPodsMetric", "no metrics API for custom metrics is registered"))
}
