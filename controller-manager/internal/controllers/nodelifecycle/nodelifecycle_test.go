package nodelifecycle

import (
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
)

var now = metav1.NewTime(time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC))

func node(readiness corev1.ConditionStatus, taints ...corev1.Taint) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "node"}, Spec: corev1.NodeSpec{Taints: taints},
		Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: readiness}}},
	}
}

func TestTaintsFollowReadiness(t *testing.T) {
	earlier := metav1.NewTime(now.Add(-time.Minute))
	own := corev1.Taint{Key: "mine", Effect: corev1.TaintEffectNoSchedule}
	old := corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute, TimeAdded: &earlier}
	pressed := node(corev1.ConditionTrue, own)
	for _, c := range []corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure, corev1.NodeNetworkUnavailable} {
		pressed.Status.Conditions = append(pressed.Status.Conditions, corev1.NodeCondition{Type: c, Status: corev1.ConditionTrue})
	}
	pressed.Spec.Unschedulable = true
	relieved := node(corev1.ConditionTrue, taintsFor(pressed, false, now)...)
	relieved.Status.Conditions = append(relieved.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionFalse})
	administrators := corev1.Taint{Key: corev1.TaintNodeMemoryPressure, Effect: corev1.TaintEffectNoExecute}
	tests := map[string]struct {
		node        *corev1.Node
		unreachable bool
		want        map[string]bool // key/effect
	}{
		"ready: only foreign taints stay": {node(corev1.ConditionTrue, own, old), false, map[string]bool{"mine/NoSchedule": true}},
		"not ready":                       {node(corev1.ConditionFalse), false, map[string]bool{"node.kubernetes.io/not-ready/NoSchedule": true, "node.kubernetes.io/not-ready/NoExecute": true}},
		"under pressure and cordoned": {pressed, false, map[string]bool{
			"mine/NoSchedule": true, "node.kubernetes.io/memory-pressure/NoSchedule": true, "node.kubernetes.io/disk-pressure/NoSchedule": true,
			"node.kubernetes.io/pid-pressure/NoSchedule": true, "node.kubernetes.io/network-unavailable/NoSchedule": true, "node.kubernetes.io/unschedulable/NoSchedule": true,
		}},
		"relieved and uncordoned":    {relieved, false, map[string]bool{"mine/NoSchedule": true}},
		"another effect is not ours": {node(corev1.ConditionTrue, administrators), false, map[string]bool{"node.kubernetes.io/memory-pressure/NoExecute": true}},
		"unreachable":                {node(corev1.ConditionUnknown, own), true, map[string]bool{"mine/NoSchedule": true, "node.kubernetes.io/unreachable/NoSchedule": true, "node.kubernetes.io/unreachable/NoExecute": true}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := taintsFor(test.node, test.unreachable, now)
			if len(got) != len(test.want) {
				t.Errorf("taints %v", got)
			}
			for _, taint := range got {
				if !test.want[taint.Key+"/"+string(taint.Effect)] {
					t.Errorf("unexpected taint %v", taint)
				}
			}
		})
	}
	for _, taint := range taintsFor(node(corev1.ConditionUnknown, old), true, now) {
		if taint.Effect == corev1.TaintEffectNoExecute && !taint.TimeAdded.Equal(&earlier) {
			t.Errorf("a taint that stays lost its time: %v", taint.TimeAdded)
		}
	}
}

func TestEvictionTime(t *testing.T) {
	taint := corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute, TimeAdded: &now}
	tolerate := func(key string, seconds *int64) corev1.Toleration {
		return corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: seconds}
	}
	tests := map[string]struct {
		tolerations []corev1.Toleration
		evict       bool
		after       time.Duration
	}{
		"without toleration at once":    {nil, true, 0},
		"after its toleration":          {[]corev1.Toleration{tolerate(taint.Key, ptr.To[int64](30))}, true, 30 * time.Second},
		"after the shortest of several": {[]corev1.Toleration{tolerate(taint.Key, ptr.To[int64](30)), tolerate("", ptr.To[int64](5))}, true, 5 * time.Second},
		"never if tolerated for ever":   {[]corev1.Toleration{tolerate(taint.Key, nil)}, false, 0},
		"other keys do not help":        {[]corev1.Toleration{tolerate("other", nil)}, true, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{Tolerations: test.tolerations}}
			due, evict := evictionTime(pod, node(corev1.ConditionUnknown, taint), now.Add(-time.Hour))
			if evict != test.evict || evict && due.Sub(now.Time) != test.after {
				t.Errorf("evict %v after %s", evict, due.Sub(now.Time))
			}
		})
	}
}

// An administrator's taint has no time until this loop notes one.
func TestTaintsOfAdministratorsGetATime(t *testing.T) {
	evicts := corev1.Taint{Key: "out", Effect: corev1.TaintEffectNoExecute}
	bars := corev1.Taint{Key: "out", Effect: corev1.TaintEffectNoSchedule}
	got := taintsFor(node(corev1.ConditionTrue, evicts, bars), false, now)
	if len(got) != 2 || got[0].TimeAdded == nil || !got[0].TimeAdded.Equal(&now) || got[1].TimeAdded != nil {
		t.Errorf("taints %v", got)
	}
	pod := &corev1.Pod{Spec: corev1.PodSpec{Tolerations: []corev1.Toleration{{Key: "out", Operator: corev1.TolerationOpExists, TolerationSeconds: ptr.To[int64](20)}}}}
	for _, n := range []*corev1.Node{node(corev1.ConditionTrue, evicts), node(corev1.ConditionTrue, got...)} {
		if due, evict := evictionTime(pod, n, now.Time); !evict || due.Sub(now.Time) != 20*time.Second {
			t.Errorf("evict %v after %s", evict, due.Sub(now.Time))
		}
	}
}

// A cluster that has shrunk must not take its former nodes for a storm: it would never again
// replace a dead node's pods.
func TestDeletedNodesAreNoStorm(t *testing.T) {
	clk := clocktesting.NewFakePassiveClock(now.Time)
	l := NewLiveness(nil, clk, zap.NewNop())
	for name, silence := range map[string]time.Duration{"a": 0, "b": 0, "dead": time.Minute, "gone-1": time.Minute, "gone-2": time.Minute, "gone-3": time.Minute} {
		l.heard[name] = now.Add(-silence)
	}
	if share := l.silentShare(time.Second, func(string) bool { return true }); share != 4.0/6 {
		t.Errorf("of six nodes %v are silent, want two thirds", share)
	}
	if share := l.silentShare(time.Second, func(node string) bool { return !strings.HasPrefix(node, "gone") }); share != 1.0/3 {
		t.Errorf("of three nodes %v are silent, want a third", share)
	}
}

// The status of a node that returns may come before the word that it is heard: the node must
// not be called silent again, which would last until its kubelet writes the next status.
func TestStatusIsASignOfLife(t *testing.T) {
	clk := clocktesting.NewFakePassiveClock(now.Time)
	l := NewLiveness(nil, clk, zap.NewNop())
	l.heard["node"], l.fresh = now.Add(-time.Minute), true
	silence := func() time.Duration {
		t.Helper()
		s, known := l.Silence("node")
		if !known {
			t.Fatal("nothing is known of the node")
		}
		return s
	}
	written := now.Add(-time.Hour) // by a clock of its own
	l.posted("node", written)
	if got := silence(); got != time.Minute {
		t.Errorf("a status of unknown age was taken for a sign of life: silent for %s", got)
	}
	l.posted("node", written.Add(time.Second))
	if got := silence(); got != 0 {
		t.Errorf("silent for %s, though its kubelet has just written a status", got)
	}
	clk.SetTime(now.Add(5 * time.Second))
	l.posted("node", written.Add(time.Second)) // another write of the object
	if got := silence(); got != 5*time.Second {
		t.Errorf("silent for %s, 5s after the last status", got)
	}
	l.forget("node")
	if _, known := l.Silence("node"); known || len(l.posts) > 0 {
		t.Error("a node that is no more is still known")
	}
}

// A storm is logged when it begins and when it ends, however many nodes are looked at.
func TestStormsAreLoggedOnce(t *testing.T) {
	core, logged := observer.New(zap.InfoLevel)
	log := zap.New(core)
	var told transitions
	for range 2 {
		for range 100 {
			told.note(true, log)
		}
		if !told.last() {
			t.Error("the storm is not noted")
		}
		for range 100 {
			told.note(false, log)
		}
	}
	var levels []zapcore.Level
	for _, entry := range logged.All() {
		levels = append(levels, entry.Level)
	}
	if !slices.Equal(levels, []zapcore.Level{zap.WarnLevel, zap.InfoLevel, zap.WarnLevel, zap.InfoLevel}) {
		t.Errorf("logged at %v", levels)
	}
}
