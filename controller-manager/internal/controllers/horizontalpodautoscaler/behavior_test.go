package horizontalpodautoscaler

import (
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"pgregory.net/rapid"
)

func TestStabilization(t *testing.T) {
	minutes := func(n int) time.Time { return now.Add(-time.Duration(n) * time.Minute) }
	h := history{recommendations: []recommendation{{8, minutes(10)}, {6, minutes(4)}, {3, minutes(1)}}}
	window := func(seconds int32) autoscalingv2.HPAScalingRules {
		return autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: &seconds}
	}
	var none autoscalingv2.HPAScalingRules
	for name, test := range map[string]struct {
		up, down        autoscalingv2.HPAScalingRules
		current, wanted int32
		want            int32
	}{
		"it grows at once":                       {none, none, 6, 9, 9},
		"it shrinks to the highest of 5 minutes": {none, none, 8, 2, 6},
		"or at once if told so":                  {none, window(0), 8, 2, 2},
		"or of another time":                     {none, window(120), 8, 2, 3},
		"a long one":                             {none, window(900), 8, 2, 8},
		"growing may wait, too":                  {window(120), none, 2, 9, 3},
		"it stays in between":                    {window(300), none, 5, 9, 5},
	} {
		if got := stabilize(h, test.up, test.down, test.current, test.wanted, now); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
	in := world(hpa(1, 10), 0, 0, 0, 0)
	in.hpa.Spec.Behavior = nil
	in.history.recommendations = append(in.history.recommendations, recommendation{4, minutes(2)})
	if p := decide(in); p.rescale || conditionOf(p, autoscalingv2.AbleToScale) != "True ScaleDownStabilized" {
		t.Errorf("rescale %v, %s", p.rescale, conditionOf(p, autoscalingv2.AbleToScale))
	}
}

// What was recommended a moment ago holds the next decision back.
func TestRecommendationsAreRemembered(t *testing.T) {
	in := world(hpa(1, 10), 100, 100)
	in.hpa.Spec.Behavior = nil
	p := decide(in)
	p.rescaled(in)
	next := world(in.hpa, 0, 0, 0, 0)
	next.history, next.now = p.history, now.Add(time.Minute)
	if q := decide(next); q.rescale {
		t.Errorf("%d pods a minute after 4 were recommended", q.replicas)
	}
	next.now = now.Add(6 * time.Minute)
	if q := decide(next); !q.rescale || q.replicas != 1 {
		t.Errorf("%d pods after 6 minutes", q.replicas)
	}
}

func TestPolicies(t *testing.T) {
	pods := func(n, period int32) autoscalingv2.HPAScalingPolicy {
		return autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: n, PeriodSeconds: period}
	}
	percent := func(n, period int32) autoscalingv2.HPAScalingPolicy {
		return autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: n, PeriodSeconds: period}
	}
	rules := func(choose autoscalingv2.ScalingPolicySelect, policies ...autoscalingv2.HPAScalingPolicy) autoscalingv2.HPAScalingRules {
		return autoscalingv2.HPAScalingRules{SelectPolicy: &choose, Policies: policies}
	}
	h := history{changes: []change{{+4, now.Add(-90 * time.Second)}, {+2, now.Add(-30 * time.Second)}, {-1, now.Add(-10 * time.Second)}}}
	for name, test := range map[string]struct {
		up, down autoscalingv2.HPAScalingRules
		want     [2]int32 // most and least of 10
	}{
		"pods":                {rules(autoscalingv2.MaxChangePolicySelect, pods(4, 5)), rules(autoscalingv2.MaxChangePolicySelect, pods(3, 5)), [2]int32{14, 7}},
		"pods since a minute": {rules(autoscalingv2.MaxChangePolicySelect, pods(4, 60)), rules(autoscalingv2.MaxChangePolicySelect, pods(3, 60)), [2]int32{13, 6}},
		"percent":             {rules(autoscalingv2.MaxChangePolicySelect, percent(25, 5)), rules(autoscalingv2.MaxChangePolicySelect, percent(25, 5)), [2]int32{13, 7}},
		"the greater":         {rules(autoscalingv2.MaxChangePolicySelect, pods(1, 5), percent(50, 5)), rules(autoscalingv2.MaxChangePolicySelect, pods(1, 5), percent(50, 5)), [2]int32{15, 5}},
		"the smaller":         {rules(autoscalingv2.MinChangePolicySelect, pods(1, 5), percent(50, 5)), rules(autoscalingv2.MinChangePolicySelect, percent(50, 5), pods(1, 5)), [2]int32{11, 9}},
		"disabled":            {rules(autoscalingv2.DisabledPolicySelect, pods(4, 5)), rules(autoscalingv2.DisabledPolicySelect, pods(4, 5)), [2]int32{10, 10}},
	} {
		got := [2]int32{mostUp(h, test.up, 10, now), leastDown(h, test.down, 10, now)}
		if got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
	// By default it doubles, or four more.
	in := world(hpa(1, 100), 500, 500)
	in.hpa.Spec.Behavior = nil
	if p := decide(in); p.replicas != 6 || conditionOf(p, autoscalingv2.ScalingLimited) != "True ScaleUpLimit" {
		t.Errorf("%d pods, %s", p.replicas, conditionOf(p, autoscalingv2.ScalingLimited))
	}
}

// Whatever is measured, the size stays within its bounds and moves the way the use says.
func TestSizesAreSane(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		least := rapid.Int32Range(1, 5).Draw(t, "least")
		h := hpa(least, least+rapid.Int32Range(0, 10).Draw(t, "range"))
		if rapid.Bool().Draw(t, "default behaviour") {
			h.Spec.Behavior = nil
		}
		n := rapid.IntRange(1, 20).Draw(t, "pods")
		past, at := history{}, now
		for range rapid.IntRange(1, 40).Draw(t, "rounds") {
			use := make([]int64, n)
			each := rapid.Int64Range(0, 200).Draw(t, "use")
			known := 0
			for i := range use {
				use[i] = each
				if rapid.IntRange(0, 5).Draw(t, "unknown") == 0 {
					use[i] = -1
				} else {
					known++
				}
			}
			in := world(h, use...)
			in.now, in.history = at, past
			p := decide(in)
			got := size(in, p)
			inside := int32(n) >= least && int32(n) <= h.Spec.MaxReplicas
			switch {
			case got < least || got > h.Spec.MaxReplicas:
				t.Fatalf("%d pods", got)
			case inside && known == 0 && got != int32(n):
				t.Fatalf("%d pods became %d and nothing is known", n, got)
			case inside && h.Spec.Behavior != nil && (each > 55 && got < int32(n) || each < 45 && got > int32(n)):
				t.Fatalf("%d pods of use %d became %d", n, each, got)
			}
			if p.rescale {
				p.rescaled(in)
			}
			h.Status, past, n = p.status, p.history, int(got)
			at = at.Add(15 * time.Second)
		}
	})
}

func TestWhatIsRememberedIsBounded(t *testing.T) {
	past, at := history{}, now
	for range 500 {
		in := world(hpa(1, 10), 50)
		in.now, in.history = at, past
		past = decide(in).history
		past.changes = append(past.changes, change{1, at})
		at = at.Add(15 * time.Second)
	}
	if len(past.recommendations) > 241 || len(past.changes) > 122 {
		t.Errorf("%d recommendations and %d changes", len(past.recommendations), len(past.changes))
	}
}
