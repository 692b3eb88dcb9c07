package kinds_test

import (
	"encoding/json"
	"strings"
	"testing"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/yaml"
)

// richAutoscaler uses everything that autoscaling/v1 has no fields for.
const richAutoscaler = `
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web, namespace: default, annotations: {a: b}}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  minReplicas: 2
  maxReplicas: 9
  metrics:
  - {type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 70}}}
  - {type: Resource, resource: {name: memory, target: {type: AverageValue, averageValue: 1Gi}}}
  - {type: Pods, pods: {metric: {name: requests, selector: {matchLabels: {verb: get}}}, target: {type: AverageValue, averageValue: "10"}}}
  - {type: Object, object: {describedObject: {kind: Ingress, name: main}, metric: {name: hits}, target: {type: Value, value: 2k}}}
  - {type: External, external: {metric: {name: queue}, target: {type: AverageValue, averageValue: "5"}}}
  - {type: ContainerResource, containerResource: {name: cpu, container: web, target: {type: Utilization, averageUtilization: 60}}}
  behavior:
    scaleDown: {stabilizationWindowSeconds: 60, selectPolicy: Min, tolerance: 50m, policies: [{type: Pods, value: 1, periodSeconds: 30}]}
status:
  observedGeneration: 3
  lastScaleTime: "2026-01-01T00:00:00Z"
  currentReplicas: 3
  desiredReplicas: 4
  currentMetrics:
  - {type: Resource, resource: {name: cpu, current: {averageUtilization: 65, averageValue: 325m}}}
  - {type: Resource, resource: {name: memory, current: {averageValue: 500Mi}}}
  - {type: Pods, pods: {metric: {name: requests, selector: {matchLabels: {verb: get}}}, current: {averageValue: "0"}}}
  - {type: Object, object: {describedObject: {kind: Ingress, name: main}, metric: {name: hits}, current: {value: "0"}}}
  - {type: External, external: {metric: {name: queue}, current: {averageValue: "3"}}}
  - {type: ContainerResource, containerResource: {name: cpu, container: web, current: {averageUtilization: 55, averageValue: 200m}}}
  conditions:
  - {type: AbleToScale, status: "True", reason: ReadyForNewScale, message: ok, lastTransitionTime: "2026-01-01T00:00:00Z"}
`

func TestAutoscalerRoundTrip(t *testing.T) {
	view := kindIn(t, "horizontalpodautoscalers.autoscaling", "v1")
	stored := &autoscalingv2.HorizontalPodAutoscaler{}
	if err := yaml.UnmarshalStrict([]byte(richAutoscaler), stored); err != nil {
		t.Fatal(err)
	}
	before := stored.DeepCopy()
	old := view.FromStored(stored).(*autoscalingv1.HorizontalPodAutoscaler)
	if !apiequality.Semantic.DeepEqual(stored, before) {
		t.Error("converting changed its input")
	}
	if old.Kind != "HorizontalPodAutoscaler" || old.APIVersion != "autoscaling/v1" || *old.Spec.TargetCPUUtilizationPercentage != 70 || *old.Status.CurrentCPUUtilizationPercentage != 65 || len(old.Annotations) != 5 {
		t.Errorf("v1: %+v", old)
	}
	// Clients of autoscaling/v1 read the annotations with its types.
	var metrics []autoscalingv1.MetricSpec
	if err := json.Unmarshal([]byte(old.Annotations["autoscaling.alpha.kubernetes.io/metrics"]), &metrics); err != nil || len(metrics) != 5 || metrics[0].Resource.TargetAverageValue.String() != "1Gi" {
		t.Errorf("metrics: %s %v", old.Annotations["autoscaling.alpha.kubernetes.io/metrics"], err)
	}
	if !strings.Contains(old.Annotations["autoscaling.alpha.kubernetes.io/conditions"], `"reason":"ReadyForNewScale"`) {
		t.Errorf("conditions: %v", old.Annotations)
	}
	again := view.ToStored(old)
	if !apiequality.Semantic.DeepEqual(again, stored) {
		left, _ := yaml.Marshal(again)
		t.Errorf("after a round trip:\n%s\nwant%s", left, richAutoscaler)
	}
}

// An update through the old version neither loses nor forges what only the new one shows.
func TestAutoscalerUpdateThroughV1(t *testing.T) {
	view := kindIn(t, "horizontalpodautoscalers.autoscaling", "v1")
	stored := &autoscalingv2.HorizontalPodAutoscaler{}
	if err := yaml.UnmarshalStrict([]byte(richAutoscaler), stored); err != nil {
		t.Fatal(err)
	}
	old := view.FromStored(stored).(*autoscalingv1.HorizontalPodAutoscaler)
	now := old.DeepCopy()
	now.Spec.MaxReplicas = 20
	now.Annotations["autoscaling.alpha.kubernetes.io/conditions"] = `[{"type":"Forged","status":"True"}]`
	view.Default(now)
	view.PrepareForUpdate(now, old)
	want := stored.DeepCopy()
	want.Spec.MaxReplicas = 20
	got := view.ToStored(now).(*autoscalingv2.HorizontalPodAutoscaler)
	if got.Spec.Behavior.ScaleUp == nil {
		t.Error("the behavior was not completed")
	}
	got.Spec.Behavior.ScaleUp = nil
	if !apiequality.Semantic.DeepEqual(got, want) {
		text, _ := yaml.Marshal(got)
		t.Errorf("stored: %s", text)
	}
}
