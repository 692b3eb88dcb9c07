package horizontalpodautoscaler

import (
	"math"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/utils/ptr"
)

// How use is judged where an autoscaler does not say; Kubernetes' defaults.
const (
	defaultTolerance     = 0.1
	cpuInitialization    = 5 * time.Minute
	readinessDelay       = 30 * time.Second
	downscaleStabilizing = 5 * time.Minute
	longestWindow        = time.Hour // that a stabilization may have
	longestPeriod        = 30 * time.Minute
)

// recommendation is a number of pods that metrics asked for at some time.
type recommendation struct {
	replicas int32
	at       time.Time
}

// change is a change of size that was made.
type change struct {
	by int32 // pods added, negative if removed
	at time.Time
}

// history is what is remembered of an autoscaler. It begins anew with a new leader.
type history struct {
	recommendations []recommendation
	changes         []change
}

// since drops what no window reaches any more.
func (h history) since(now time.Time) history {
	var out history
	for _, r := range h.recommendations {
		if r.at.After(now.Add(-longestWindow)) {
			out.recommendations = append(out.recommendations, r)
		}
	}
	for _, c := range h.changes {
		if c.at.After(now.Add(-longestPeriod)) {
			out.changes = append(out.changes, c)
		}
	}
	return out
}

// rules are the autoscaler's, with the defaults where it has none.
func rules(hpa *autoscalingv2.HorizontalPodAutoscaler) (up, down autoscalingv2.HPAScalingRules) {
	if b := hpa.Spec.Behavior; b != nil {
		up, down = ptr.Deref(b.ScaleUp, up), ptr.Deref(b.ScaleDown, down)
	}
	if up.Policies == nil {
		up.Policies = []autoscalingv2.HPAScalingPolicy{
			{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 15},
			{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15},
		}
	}
	if down.Policies == nil {
		down.Policies = []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15}}
	}
	return up, down
}

// stabilize keeps the size as long as recent recommendations disagree: it grows no further
// than the lowest of those in the window for growing and shrinks no further than the
// highest of those in the window for shrinking.
func stabilize(h history, up, down autoscalingv2.HPAScalingRules, current, wanted int32, now time.Time) int32 {
	lowest, highest := wanted, wanted
	upWindow := time.Duration(ptr.Deref(up.StabilizationWindowSeconds, 0)) * time.Second
	downWindow := downscaleStabilizing
	if down.StabilizationWindowSeconds != nil {
		downWindow = time.Duration(*down.StabilizationWindowSeconds) * time.Second
	}
	for _, r := range h.recommendations {
		if r.at.After(now.Add(-upWindow)) {
			lowest = min(lowest, r.replicas)
		}
		if r.at.After(now.Add(-downWindow)) {
			highest = max(highest, r.replicas)
		}
	}
	return min(max(current, lowest), highest)
}

// atPeriodStart is how many pods there were a period ago, by what was changed since.
func atPeriodStart(h history, current int32, period int32, now time.Time) int32 {
	for _, c := range h.changes {
		if c.at.After(now.Add(-time.Duration(period) * time.Second)) {
			current -= c.by
		}
	}
	return current
}

// mostUp is how many pods the policies allow to grow to.
func mostUp(h history, up autoscalingv2.HPAScalingRules, current int32, now time.Time) int32 {
	return limit(h, up, current, now, func(start int32, p autoscalingv2.HPAScalingPolicy) int32 {
		if p.Type == autoscalingv2.PodsScalingPolicy {
			return start + p.Value
		}
		return int32(math.Ceil(float64(start) * (1 + float64(p.Value)/100)))
	}, func(a, b int32) bool { return a > b })
}

// leastDown is how few pods the policies allow to shrink to.
func leastDown(h history, down autoscalingv2.HPAScalingRules, current int32, now time.Time) int32 {
	return limit(h, down, current, now, func(start int32, p autoscalingv2.HPAScalingPolicy) int32 {
		if p.Type == autoscalingv2.PodsScalingPolicy {
			return start - p.Value
		}
		return int32(float64(start) * (1 - float64(p.Value)/100))
	}, func(a, b int32) bool { return a < b })
}

// limit applies policies; further says which of two limits allows the greater change.
func limit(h history, r autoscalingv2.HPAScalingRules, current int32, now time.Time,
	allow func(start int32, p autoscalingv2.HPAScalingPolicy) int32, further func(a, b int32) bool,
) int32 {
	choose := ptr.Deref(r.SelectPolicy, autoscalingv2.MaxChangePolicySelect)
	if choose == autoscalingv2.DisabledPolicySelect {
		return current
	}
	out := current
	for i, p := range r.Policies {
		proposed := allow(atPeriodStart(h, current, p.PeriodSeconds, now), p)
		if i == 0 || further(proposed, out) == (choose == autoscalingv2.MaxChangePolicySelect) {
			out = proposed
		}
	}
	return out
}

// bounded keeps a size within the autoscaler's bounds and policies, and says why it is
// not the wanted one.
func bounded(h history, up, down autoscalingv2.HPAScalingRules, current, wanted, least, most int32, now time.Time) (size int32, reason, message string) {
	switch {
	case wanted > current:
		limit, reason, message := most, "TooManyReplicas", "the desired replica count is more than the maximum replica count"
		if rate := max(current, mostUp(h, up, current, now)); rate < limit {
			limit, reason, message = rate, "ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate"
		}
		if wanted > limit {
			return limit, reason, message
		}
	case wanted < current:
		limit, reason, message := least, "TooFewReplicas", "the desired replica count is less than the minimum replica count"
		if rate := min(current, leastDown(h, down, current, now)); rate > limit {
			limit, reason, message = rate, "ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate"
		}
		if wanted < limit {
			return limit, reason, message
		}
	}
	return wanted, "DesiredWithinRange", "the desired count is within the acceptable range"
}
