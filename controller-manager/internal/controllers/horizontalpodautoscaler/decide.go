package horizontalpodautoscaler

import (
	"errors"
	"fmt"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// input is all that a decision depends on.
type input struct {
	hpa      *autoscalingv2.HorizontalPodAutoscaler
	scale    *autoscalingv1.Scale
	pods     []*corev1.Pod // that the scale selects
	readings []reading     // of the autoscaler's metrics, in their order
	// ambiguous says that another autoscaler scales the same pods.
	ambiguous string
	history   history
	now       time.Time
}

// event is something to tell users.
type event struct{ severity, reason, message string }

// plan is what an autoscaler does.
type plan struct {
	// replicas is the size to set; rescale is false if there is none to be set.
	replicas int32
	rescale  bool
	reason   string // of the change
	status   autoscalingv2.HorizontalPodAutoscalerStatus
	history  history
	events   []event
}

// decide compares what pods use with what they should. It is pure.
func decide(in input) plan {
	hpa, current := in.hpa, in.scale.Spec.Replicas
	p := plan{status: *hpa.Status.DeepCopy(), history: in.history.since(in.now)}
	p.status.ObservedGeneration = ptr.To(hpa.Generation)
	p.status.CurrentReplicas, p.status.DesiredReplicas = current, current
	if len(p.history.recommendations) == 0 {
		// The size that is found was somebody's decision: it is not left at once.
		p.history.recommendations = append(p.history.recommendations, recommendation{current, in.now})
	}
	p.set(in.now, autoscalingv2.AbleToScale, true, "SucceededGetScale", "the HPA controller was able to get the target's current scale")
	least, most := ptr.Deref(hpa.Spec.MinReplicas, 1), hpa.Spec.MaxReplicas
	wanted := current
	switch {
	case current == 0 && !scaledToZero(hpa):
		p.status.CurrentMetrics = nil
		p.set(in.now, autoscalingv2.ScalingActive, false, "ScalingDisabled", "scaling is disabled since the replica count of the target is zero")
	case current > most:
		wanted, p.reason = most, "Current number of replicas above Spec.MaxReplicas"
		p.status.CurrentMetrics = nil
	case current < least:
		wanted, p.reason = least, "Current number of replicas below Spec.MinReplicas"
		p.status.CurrentMetrics = nil
	default:
		var ok bool
		if wanted, ok = p.measure(in); !ok {
			return p
		}
		wanted = p.normalize(in, wanted, least, most)
	}
	if wanted != current {
		p.rescale, p.replicas, p.status.DesiredReplicas = true, wanted, wanted
	}
	return p
}

// rescaled notes that the planned size was set.
func (p *plan) rescaled(in input) {
	p.set(in.now, autoscalingv2.AbleToScale, true, "SucceededRescale", fmt.Sprintf("the HPA controller was able to update the target scale to %d", p.replicas))
	p.history.changes = append(p.history.changes, change{p.replicas - in.scale.Spec.Replicas, in.now})
	p.status.LastScaleTime = ptr.To(metav1.NewTime(in.now.Truncate(time.Second)))
	if p.replicas == 0 && ptr.Deref(in.hpa.Spec.MinReplicas, 1) == 0 {
		p.set(in.now, autoscalingv2.ScaledToZero, true, "ScaledToZero", "the HPA controller scaled the workload to zero")
	} else if ptr.Deref(in.hpa.Spec.MinReplicas, 1) == 0 || scaledToZero(in.hpa) {
		p.set(in.now, autoscalingv2.ScaledToZero, false, "NotScaledToZero", "the HPA controller did not scale the workload to zero")
	}
	p.tell(corev1.EventTypeNormal, "SuccessfulRescale", fmt.Sprintf("New size: %d; reason: %s", p.replicas, p.reason))
}

// failed notes that the planned size could not be set.
func (p *plan) failed(in input, err error) {
	p.status.DesiredReplicas = in.scale.Spec.Replicas
	p.set(in.now, autoscalingv2.AbleToScale, false, "FailedUpdateScale", fmt.Sprintf("the HPA controller was unable to update the target scale: %v", err))
	p.tell(corev1.EventTypeWarning, "FailedRescale", fmt.Sprintf("New size: %d; reason: %s; error: %v", p.replicas, p.reason, err))
}

// measure asks the metrics; the largest of their answers wins. While one of them fails
// nothing shrinks, and nothing happens when all do.
func (p *plan) measure(in input) (wanted int32, ok bool) {
	if in.scale.Status.Selector == "" {
		p.inactive(in.now, "InvalidSelector", "the HPA target's scale is missing a selector")
		p.tell(corev1.EventTypeWarning, "SelectorRequired", "selector is required")
		return 0, false
	}
	if in.ambiguous != "" {
		p.inactive(in.now, "AmbiguousSelector", in.ambiguous)
		p.tell(corev1.EventTypeWarning, "AmbiguousSelector", in.ambiguous)
		return 0, false
	}
	name := ""
	var bad []proposal
	p.status.CurrentMetrics = nil
	for _, proposal := range in.propose() {
		p.status.CurrentMetrics = append(p.status.CurrentMetrics, proposal.status)
		switch {
		case proposal.err != nil:
			p.tell(corev1.EventTypeWarning, proposal.reason, proposal.err.Error())
			bad = append(bad, proposal)
		case name == "" || proposal.replicas > wanted:
			wanted, name = proposal.replicas, proposal.name
		}
	}
	all := len(in.hpa.Spec.Metrics)
	if len(bad) == all || len(bad) > 0 && wanted < in.scale.Spec.Replicas {
		err := errors.New("the autoscaler has no metrics")
		if all > 0 {
			err = bad[0].err
			p.inactive(in.now, bad[0].reason, fmt.Sprintf("the HPA was unable to compute the replica count: %v", err))
		}
		p.tell(corev1.EventTypeWarning, "FailedComputeMetricsReplicas", fmt.Sprintf("invalid metrics (%d invalid out of %d), first error is: %v", len(bad), all, err))
		return 0, false
	}
	p.set(in.now, autoscalingv2.ScalingActive, true, "ValidMetricFound", "the HPA was able to successfully calculate a replica count from "+name)
	switch {
	case wanted > in.scale.Spec.Replicas:
		p.reason = name + " above target"
	case wanted < in.scale.Spec.Replicas:
		p.reason = "All metrics below target"
	}
	return wanted, true
}

// normalize applies the autoscaler's behaviour and bounds to what the metrics ask for, and
// remembers that they did.
func (p *plan) normalize(in input, wanted, least, most int32) int32 {
	up, down := rules(in.hpa)
	current := in.scale.Spec.Replicas
	stable := stabilize(p.history, up, down, current, wanted, in.now)
	p.history.recommendations = append(p.history.recommendations, recommendation{wanted, in.now})
	switch {
	case stable == wanted:
		p.set(in.now, autoscalingv2.AbleToScale, true, "ReadyForNewScale", "recommended size matches current size")
	case wanted >= current:
		p.set(in.now, autoscalingv2.AbleToScale, true, "ScaleUpStabilized", "recent recommendations were lower than current one, applying the lowest recent recommendation")
	default:
		p.set(in.now, autoscalingv2.AbleToScale, true, "ScaleDownStabilized", "recent recommendations were higher than current one, applying the highest recent recommendation")
	}
	size, reason, message := bounded(p.history, up, down, current, stable, least, most, in.now)
	p.set(in.now, autoscalingv2.ScalingLimited, size != stable, reason, message)
	return size
}

// scaledToZero says whether the autoscaler itself has removed all pods, and may bring them back.
func scaledToZero(hpa *autoscalingv2.HorizontalPodAutoscaler) bool {
	for _, c := range hpa.Status.Conditions {
		if c.Type == autoscalingv2.ScaledToZero {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func (p *plan) inactive(now time.Time, reason, message string) {
	p.set(now, autoscalingv2.ScalingActive, false, reason, message)
}

func (p *plan) tell(severity, reason, message string) {
	p.events = append(p.events, event{severity, reason, message})
}

func (p *plan) set(now time.Time, t autoscalingv2.HorizontalPodAutoscalerConditionType, holds bool, reason, message string) {
	p.status.Conditions = setCondition(p.status.Conditions, now, t, holds, reason, message)
}

// setCondition changes a condition in place; its time is that of the last change of its status.
func setCondition(conditions []autoscalingv2.HorizontalPodAutoscalerCondition, now time.Time, t autoscalingv2.HorizontalPodAutoscalerConditionType, holds bool, reason, message string) []autoscalingv2.HorizontalPodAutoscalerCondition {
	status := corev1.ConditionFalse
	if holds {
		status = corev1.ConditionTrue
	}
	fresh := autoscalingv2.HorizontalPodAutoscalerCondition{
		Type: t, Status: status, Reason: reason, Message: message, LastTransitionTime: metav1.NewTime(now.Truncate(time.Second)),
	}
	for i := range conditions {
		if conditions[i].Type == t {
			if conditions[i].Status == status {
				fresh.LastTransitionTime = conditions[i].LastTransitionTime
			}
			conditions[i] = fresh
			return conditions
		}
	}
	return append(conditions, fresh)
}
