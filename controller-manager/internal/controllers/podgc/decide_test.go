package podgc

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestJudge(t *testing.T) {
	pod := func(node string, phase corev1.PodPhase, grace *int64) *corev1.Pod {
		p := &corev1.Pod{Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: phase}}
		if grace != nil {
			p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &metav1.Time{}, grace
		}
		return p
	}
	node := func(ready corev1.ConditionStatus, taints ...string) *corev1.Node {
		n := &corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}}}
		for _, key := range taints {
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoExecute})
		}
		return n
	}
	soon, already := ptr.To[int64](30), ptr.To[int64](0)
	well, silent, off := node(corev1.ConditionTrue), node(corev1.ConditionUnknown), node(corev1.ConditionUnknown, corev1.TaintNodeOutOfService)
	for name, test := range map[string]struct {
		pod  *corev1.Pod
		node *corev1.Node
		want fate
	}{
		"waits for a node":             {pod("", corev1.PodPending, nil), nil, stays},
		"deleted before it had one":    {pod("", corev1.PodPending, already), nil, unbound},
		"that, ended":                  {pod("", corev1.PodFailed, already), nil, stays},
		"runs":                         {pod("n", corev1.PodRunning, nil), well, stays},
		"stops":                        {pod("n", corev1.PodRunning, soon), well, stays},
		"node gone":                    {pod("n", corev1.PodRunning, nil), nil, homeless},
		"node gone while it stops":     {pod("n", corev1.PodRunning, soon), nil, homeless},
		"finished, node gone":          {pod("n", corev1.PodSucceeded, nil), nil, homeless},
		"ended, held by its job":       {pod("n", corev1.PodFailed, already), nil, stays},
		"node silent":                  {pod("n", corev1.PodRunning, soon), silent, stays},
		"node off":                     {pod("n", corev1.PodRunning, soon), off, abandoned},
		"node off, pod may stay":       {pod("n", corev1.PodRunning, nil), off, stays},
		"node said to be off, is well": {pod("n", corev1.PodRunning, soon), node(corev1.ConditionTrue, corev1.TaintNodeOutOfService), stays},
	} {
		if got := judge(test.pod, test.node); got != test.want {
			t.Errorf("%s: %d, not %d", name, got, test.want)
		}
	}
}

func TestExcess(t *testing.T) {
	pod := func(name string, age time.Duration, reason string) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(time.Unix(1e9, 0).Add(-age))},
			Status:     corev1.PodStatus{Phase: corev1.PodFailed, Reason: reason},
		}
	}
	leaving := pod("leaving", 9*time.Hour, "")
	leaving.DeletionTimestamp = &metav1.Time{}
	pods := []*corev1.Pod{pod("new", 1, ""), pod("old", time.Hour, ""), leaving, pod("older", 2*time.Hour, ""), pod("evicted", time.Minute, "Evicted")}
	for threshold, want := range map[int]string{-1: "", 4: "", 3: "evicted", 2: "evicted older", 0: "evicted older old new"} {
		var got []string
		for _, p := range excess(pods, threshold) {
			got = append(got, p.Name)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("above %d: %v, not %s", threshold, got, want)
		}
	}
}
