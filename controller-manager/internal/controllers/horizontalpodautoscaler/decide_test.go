package horizontalpodautoscaler

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

var now = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

// hpa scales by 50 % of the CPU that pods request, without waiting to shrink.
func hpa(least, most int32) *autoscalingv2.HorizontalPodAutoscaler {
	return &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web", Generation: 1},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			MinReplicas: &least, MaxReplicas: most, Metrics: []autoscalingv2.MetricSpec{utilization(50)},
			Behavior: &autoscalingv2.HorizontalPodAutoscalerBehavior{
				ScaleUp: &autoscalingv2.HPAScalingRules{
					Policies: []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PodsScalingPolicy, Value: 1000, PeriodSeconds: 15}},
				},
				ScaleDown: &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: ptr.To[int32](0)},
			},
		},
	}
}

func utilization(percent int32) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
		Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &percent},
	}}
}

func external(target autoscalingv2.MetricTarget) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{
		Metric: autoscalingv2.MetricIdentifier{Name: "queue"}, Target: target,
	}}
}

func value(v string) autoscalingv2.MetricTarget {
	return autoscalingv2.MetricTarget{Type: autoscalingv2.ValueMetricType, Value: ptr.To(resource.MustParse(v))}
}

func average(v string) autoscalingv2.MetricTarget {
	return autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: ptr.To(resource.MustParse(v))}
}

// world builds an input of pods that request 100m each; use is in thousandths of a core,
// -1 for a pod of which nothing is known.
func world(h *autoscalingv2.HorizontalPodAutoscaler, use ...int64) input {
	in := input{
		hpa: h, now: now, readings: make([]reading, len(h.Spec.Metrics)),
		scale: &autoscalingv1.Scale{
			Spec:   autoscalingv1.ScaleSpec{Replicas: int32(len(use))},
			Status: autoscalingv1.ScaleStatus{Replicas: int32(len(use)), Selector: "app=web"},
		},
		history: history{recommendations: []recommendation{{int32(len(use)), now.Add(-50 * time.Minute)}}},
	}
	samples := map[string]Sample{}
	for i, milli := range use {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("p", i)},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")},
			}}}},
			Status: corev1.PodStatus{
				Phase: corev1.PodRunning, StartTime: &metav1.Time{Time: now.Add(-time.Hour)},
				Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-time.Hour))}},
			},
		}
		in.pods = append(in.pods, pod)
		if milli >= 0 {
			samples[pod.Name] = Sample{Value: milli, Time: now, Window: 15 * time.Second}
		}
	}
	for i := range in.readings {
		in.readings[i].pods = samples
	}
	return in
}

func conditionOf(p plan, t autoscalingv2.HorizontalPodAutoscalerConditionType) string {
	for _, c := range p.status.Conditions {
		if c.Type == t {
			return string(c.Status) + " " + c.Reason
		}
	}
	return "none"
}

func size(in input, p plan) int32 {
	if p.rescale {
		return p.replicas
	}
	return in.scale.Spec.Replicas
}

func TestSizeByUtilization(t *testing.T) {
	notReady := func(since time.Duration, started time.Duration) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.StartTime = &metav1.Time{Time: now.Add(-started)}
			p.Status.Conditions[0].Status = corev1.ConditionFalse
			p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(now.Add(-since))
		}
	}
	for name, test := range map[string]struct {
		use    []int64
		change map[int]func(*corev1.Pod)
		want   int32
	}{
		"as it should be":                        {use: []int64{50, 50}, want: 2},
		"within the tolerance":                   {use: []int64{55, 55}, want: 2},
		"a little above":                         {use: []int64{56, 56}, want: 3},
		"within the tolerance, below":            {use: []int64{45, 46}, want: 2},
		"twice as much":                          {use: []int64{100, 100}, want: 4},
		"little":                                 {use: []int64{10, 10, 10, 10}, want: 1},
		"nothing":                                {use: []int64{0, 0, 0}, want: 1},
		"no more than the most":                  {use: []int64{1000, 1000}, want: 10},
		"unknown ones use nothing when it grows": {use: []int64{100, 100, -1, -1}, want: 4},
		"unknown ones use all they request when it shrinks": {use: []int64{10, 10, -1, -1}, want: 4},
		"unknown ones dampen":                               {use: []int64{200, 200, -1}, want: 8},
		"starting ones dampen":                              {use: []int64{100, 100, 100}, change: map[int]func(*corev1.Pod){2: notReady(time.Minute, time.Minute)}, want: 4},
		"starting ones do not shrink it":                    {use: []int64{10, 10, 90}, change: map[int]func(*corev1.Pod){2: notReady(time.Minute, time.Minute)}, want: 1},
		"unready ones of old count":                         {use: []int64{100, 100, 100}, change: map[int]func(*corev1.Pod){2: notReady(time.Minute, time.Hour)}, want: 6},
		"never ready ones do not":                           {use: []int64{100, 100, 100}, change: map[int]func(*corev1.Pod){2: notReady(time.Hour-10*time.Second, time.Hour)}, want: 4},
		"failed and ending ones are none": {use: []int64{100, 500, 500}, change: map[int]func(*corev1.Pod){
			1: func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, 2: func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: now} },
		}, want: 2},
		"pending ones dampen": {use: []int64{150, -1, -1}, change: map[int]func(*corev1.Pod){
			1: func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }, 2: func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending },
		}, want: 3},
	} {
		t.Run(name, func(t *testing.T) {
			in := world(hpa(1, 10), test.use...)
			for i, change := range test.change {
				change(in.pods[i])
			}
			if p := decide(in); size(in, p) != test.want {
				t.Errorf("%d pods, want %d; %s", size(in, p), test.want, conditionOf(p, autoscalingv2.ScalingActive))
			}
		})
	}
}

func TestReasonsAndStatus(t *testing.T) {
	in := world(hpa(1, 10), 100, 100)
	p := decide(in)
	p.rescaled(in)
	if p.reason != "cpu resource utilization (percentage of request) above target" || len(p.events) != 1 ||
		p.events[0] != (event{corev1.EventTypeNormal, "SuccessfulRescale", "New size: 4; reason: cpu resource utilization (percentage of request) above target"}) {
		t.Errorf("reason %q, events %+v", p.reason, p.events)
	}
	current := p.status.CurrentMetrics[0].Resource.Current
	if *current.AverageUtilization != 100 || current.AverageValue.String() != "100m" || p.status.DesiredReplicas != 4 || p.status.CurrentReplicas != 2 || p.status.LastScaleTime == nil {
		t.Errorf("status %+v", p.status)
	}
	if got := conditionOf(p, autoscalingv2.AbleToScale) + ", " + conditionOf(p, autoscalingv2.ScalingActive) + ", " + conditionOf(p, autoscalingv2.ScalingLimited); got !=
		"True SucceededRescale, True ValidMetricFound, False DesiredWithinRange" {
		t.Error(got)
	}
	p = decide(in)
	p.failed(in, errors.New("no"))
	if conditionOf(p, autoscalingv2.AbleToScale) != "False FailedUpdateScale" || p.status.DesiredReplicas != 2 || !strings.HasSuffix(p.events[0].message, "error: no") {
		t.Errorf("%+v, %+v", p.status, p.events)
	}
	in = world(hpa(1, 10), 10, 10)
	if p := decide(in); p.reason != "All metrics below target" {
		t.Errorf("reason %q", p.reason)
	}
	in = world(hpa(1, 3), 500, 500)
	if p := decide(in); conditionOf(p, autoscalingv2.ScalingLimited) != "True TooManyReplicas" || p.replicas != 3 {
		t.Errorf("%d, %s", p.replicas, conditionOf(p, autoscalingv2.ScalingLimited))
	}
	in = world(hpa(2, 3), 0, 0, 0)
	if p := decide(in); conditionOf(p, autoscalingv2.ScalingLimited) != "True TooFewReplicas" || p.replicas != 2 {
		t.Errorf("%d, %s", p.replicas, conditionOf(p, autoscalingv2.ScalingLimited))
	}
}

func TestBoundsGoBeforeMetrics(t *testing.T) {
	for name, test := range map[string]struct {
		use    int
		want   int32
		reason string
	}{
		"too few":  {1, 2, "Current number of replicas below Spec.MinReplicas"},
		"too many": {9, 5, "Current number of replicas above Spec.MaxReplicas"},
		"none":     {0, 0, ""},
	} {
		in := world(hpa(2, 5), make([]int64, test.use)...)
		in.readings[0].err = errors.New("unknown")
		if p := decide(in); size(in, p) != test.want || p.reason != test.reason {
			t.Errorf("%s: %d pods because %q", name, size(in, p), p.reason)
		}
	}
	in := world(hpa(2, 5))
	if p := decide(in); conditionOf(p, autoscalingv2.ScalingActive) != "False ScalingDisabled" {
		t.Error(conditionOf(p, autoscalingv2.ScalingActive))
	}
}

func TestSeveralMetrics(t *testing.T) {
	h := hpa(1, 10)
	h.Spec.Metrics = append(h.Spec.Metrics, external(average("2")))
	broken := errors.New("no metrics API for external metrics is registered")
	for name, test := range map[string]struct {
		use   int64
		queue int64
		err   error
		want  int32
	}{
		"the largest wins":             {use: 60, queue: 20, want: 10},
		"the first may be it":          {use: 200, queue: 2, want: 8},
		"a broken one stops shrinking": {use: 10, err: broken, want: 2},
		"but not growing":              {use: 100, err: broken, want: 4},
		"and not staying as large":     {use: 50, err: broken, want: 2},
	} {
		in := world(h, test.use, test.use)
		in.readings[1] = reading{values: []int64{test.queue * 1000}, err: test.err}
		p := decide(in)
		if size(in, p) != test.want {
			t.Errorf("%s: %d pods, want %d", name, size(in, p), test.want)
		}
		if name == "a broken one stops shrinking" && (conditionOf(p, autoscalingv2.ScalingActive) != "False FailedGetExternalMetric" || p.events[1].reason != "FailedComputeMetricsReplicas") {
			t.Errorf("%s, %+v", conditionOf(p, autoscalingv2.ScalingActive), p.events)
		}
	}
}

func TestFailuresAreNamed(t *testing.T) {
	pods := autoscalingv2.MetricSpec{Type: autoscalingv2.PodsMetricSourceType, Pods: &autoscalingv2.PodsMetricSource{Metric: autoscalingv2.MetricIdentifier{Name: "requests"}, Target: average("1")}}
	object := autoscalingv2.MetricSpec{Type: autoscalingv2.ObjectMetricSourceType, Object: &autoscalingv2.ObjectMetricSource{
		DescribedObject: autoscalingv2.CrossVersionObjectReference{Kind: "Service", Name: "web"}, Metric: autoscalingv2.MetricIdentifier{Name: "hits"}, Target: value("1"),
	}}
	container := autoscalingv2.MetricSpec{Type: autoscalingv2.ContainerResourceMetricSourceType, ContainerResource: &autoscalingv2.ContainerResourceMetricSource{
		Name: corev1.ResourceCPU, Container: "main", Target: autoscalingv2.MetricTarget{AverageUtilization: ptr.To[int32](50)},
	}}
	for want, spec := range map[string]autoscalingv2.MetricSpec{
		"FailedGetResourceMetric": utilization(50), "FailedGetPodsMetric": pods, "FailedGetObjectMetric": object,
		"FailedGetExternalMetric": external(value("1")), "FailedGetContainerResourceMetric": container,
		"InvalidMetricSourceType": {Type: "Odd"},
	} {
		h := hpa(1, 10)
		h.Spec.Metrics = []autoscalingv2.MetricSpec{spec}
		in := world(h, 50)
		in.readings[0].err = errors.New("the cause")
		p := decide(in)
		if conditionOf(p, autoscalingv2.ScalingActive) != "False "+want || p.rescale || p.events[0].reason != want ||
			want != "InvalidMetricSourceType" && !strings.HasSuffix(p.events[0].message, "the cause") {
			t.Errorf("%s: %s, %+v", want, conditionOf(p, autoscalingv2.ScalingActive), p.events)
		}
	}
	in := world(hpa(1, 10), 50)
	in.pods[0].Spec.Containers[0].Resources.Requests = nil
	if p := decide(in); p.events[0].message != "failed to get cpu utilization: missing request for cpu in container main of Pod p0" {
		t.Errorf("%+v", p.events)
	}
	in = world(hpa(1, 10), 50)
	in.scale.Status.Selector = ""
	if p := decide(in); conditionOf(p, autoscalingv2.ScalingActive) != "False InvalidSelector" {
		t.Error(conditionOf(p, autoscalingv2.ScalingActive))
	}
	in = world(hpa(1, 10), 500)
	in.ambiguous = "two"
	if p := decide(in); conditionOf(p, autoscalingv2.ScalingActive) != "False AmbiguousSelector" || p.rescale {
		t.Error(conditionOf(p, autoscalingv2.ScalingActive))
	}
}

func TestOtherTargets(t *testing.T) {
	for name, test := range map[string]struct {
		spec   autoscalingv2.MetricSpec
		values []int64 // thousandths
		want   int32
	}{
		"a value is for all":           {external(value("10")), []int64{20_000}, 8},
		"within the tolerance":         {external(value("10")), []int64{10_900}, 4},
		"an average for each":          {external(average("10")), []int64{30_000, 35_000}, 7},
		"an average as it should be":   {external(average("10")), []int64{41_000}, 4},
		"an average of a resource":     {autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{Name: corev1.ResourceMemory, Target: average("25m")}}, nil, 8},
		"an average of a pods' metric": {autoscalingv2.MetricSpec{Type: autoscalingv2.PodsMetricSourceType, Pods: &autoscalingv2.PodsMetricSource{Target: average("25m")}}, nil, 8},
	} {
		h := hpa(1, 10)
		h.Spec.Metrics = []autoscalingv2.MetricSpec{test.spec}
		in := world(h, 50, 50, 50, 50)
		in.readings[0].values = test.values
		if p := decide(in); size(in, p) != test.want {
			t.Errorf("%s: %d pods, want %d", name, size(in, p), test.want)
		}
	}
}

func TestTolerances(t *testing.T) {
	h := hpa(1, 10)
	h.Spec.Behavior.ScaleUp.Tolerance = ptr.To(resource.MustParse("0"))
	h.Spec.Behavior.ScaleDown.Tolerance = ptr.To(resource.MustParse("0.5"))
	for use, want := range map[int64]int32{51: 5, 50: 4, 25: 4, 24: 2} {
		in := world(h, use, use, use, use)
		if p := decide(in); size(in, p) != want {
			t.Errorf("use of %d: %d pods, want %d", use, size(in, p), want)
		}
	}
}

func TestToZeroAndBack(t *testing.T) {
	h := hpa(0, 10)
	h.Spec.Metrics = []autoscalingv2.MetricSpec{external(average("10"))}
	in := world(h, 50)
	in.readings[0].values = []int64{0}
	p := decide(in)
	if !p.rescale || p.replicas != 0 {
		t.Fatalf("%+v", p)
	}
	p.rescaled(in)
	if conditionOf(p, autoscalingv2.ScaledToZero) != "True ScaledToZero" {
		t.Error(conditionOf(p, autoscalingv2.ScaledToZero))
	}
	h.Status = p.status
	in = world(h)
	in.readings[0].values = []int64{25_000}
	if p = decide(in); !p.rescale || p.replicas != 3 {
		t.Fatalf("%+v", p)
	}
	p.rescaled(in)
	if conditionOf(p, autoscalingv2.ScaledToZero) != "False NotScaledToZero" {
		t.Error(conditionOf(p, autoscalingv2.ScaledToZero))
	}
	// Who was set to zero by hand stays there.
	h.Status = p.status
	in = world(h)
	in.readings[0].values = []int64{25_000}
	if p = decide(in); p.rescale || conditionOf(p, autoscalingv2.ScalingActive) != "False ScalingDisabled" {
		t.Errorf("%+v", p)
	}
}
