package loops

import (
	"encoding/json"
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"kijabi.dev/platform/kube/object"
	"kijabi.dev/test/harness"
)

// crews define a kind of users that has a size.
const crews = `{
	"metadata": {"name": "crews.example.com"},
	"spec": {
		"group": "example.com", "scope": "Namespaced",
		"names": {"plural": "crews", "singular": "crew", "kind": "Crew", "listKind": "CrewList"},
		"versions": [{
			"name": "v1", "served": true, "storage": true,
			"schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
			"subresources": {"scale": {
				"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"
			}}
		}]
	}
}`

// testCustomSizes lets a budget and an autoscaler go by the size of something that users
// have defined.
func testCustomSizes(t *harness.T, s *stack) {
	ns := namespace(t, s, "crews")
	definitions, ok := object.KindFor(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
	if !ok {
		t.Fatal("definitions are no kind")
	}
	definition := definitions.New()
	if err := json.Unmarshal([]byte(crews), definition); err != nil {
		t.Fatal(err)
	}
	create(t, s, definition)
	kind := object.CustomKind(schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Crew"}, "crews", true)
	crew := &object.Custom{Resource: "crews"}
	if err := crew.FromUnstructured(map[string]any{
		"apiVersion": "example.com/v1", "kind": "Crew", "metadata": map[string]any{"namespace": ns, "name": "night"},
		"spec": map[string]any{"replicas": int64(5)}, "status": map[string]any{"replicas": int64(2), "selector": "app=night"},
	}); err != nil {
		t.Fatal(err)
	}
	var stored object.Object
	harness.Eventually(t, patience, "the kind is served", func() (err error) {
		ctx, cancel := contextOf(t)
		defer cancel()
		stored, err = s.api.Create(ctx, crew)
		return err
	})
	for i := range 2 {
		member := pod(ns, fmt.Sprint("member-", i), "10m")
		member.Labels = map[string]string{"app": "night"}
		member.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(stored, kind.GVK)}
		create(t, s, member)
	}
	create(t, s, &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "night"},
		Spec: policyv1.PodDisruptionBudgetSpec{
			MaxUnavailable: ptr.To(intstr.FromString("80%")), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "night"}},
		},
	})
	budget := func(expected, desired, allowed int32) func() error {
		return func() error {
			pdb, err := get[*policyv1.PodDisruptionBudget](s, ns, "night")
			if err == nil && (pdb.Status.ExpectedPods != expected || pdb.Status.DesiredHealthy != desired || pdb.Status.DisruptionsAllowed != allowed) {
				err = fmt.Errorf("status %+v", pdb.Status)
			}
			return err
		}
	}
	harness.Eventually(t, patience, "the budget expects a crew of five", budget(5, 1, 1))

	create(t, s, &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "night"},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "example.com/v1", Kind: "Crew", Name: "night"},
			MaxReplicas:    3,
			Metrics: []autoscalingv2.MetricSpec{{
				Type: autoscalingv2.ResourceMetricSourceType,
				Resource: &autoscalingv2.ResourceMetricSource{
					Name: corev1.ResourceMemory, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: ptr.To[int32](50)},
				},
			}},
		},
	})
	harness.Eventually(t, patience, "the autoscaler makes it three", func() error {
		ctx, cancel := contextOf(t)
		defer cancel()
		have, err := s.api.GetSubresource(ctx, kind, object.Key{Namespace: ns, Name: "night"}, "scale")
		if err != nil {
			return err
		}
		if scale := have.(*autoscalingv1.Scale); scale.Spec.Replicas != 3 {
			return fmt.Errorf("%d", scale.Spec.Replicas)
		}
		return nil
	})
	harness.Eventually(t, patience, "it is told", eventSays(t, s, ns, "SuccessfulRescale", "New size: 3; reason: Current number of replicas above Spec.MaxReplicas"))
	harness.Eventually(t, patience, "a metric without requests is named", eventSays(t, s, ns, "FailedGetResourceMetric", "missing request for memory in container main of Pod member-"))
}
