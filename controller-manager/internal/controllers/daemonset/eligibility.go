package daemonset

import (
	"slices"
	"strings"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/kube/toleration"
)

// verdict is what a node is to a set.
type verdict struct {
	run  bool // gets a pod
	stay bool // a pod that is there may stay
}

// judge decides on nodes for one template.
type judge struct {
	pod      *corev1.Pod // as the set's pods are, without a node
	affinity affinity
}

func newJudge(set *appsv1.DaemonSet) *judge {
	pod := &corev1.Pod{Spec: *set.Spec.Template.Spec.DeepCopy()}
	tolerate(&pod.Spec)
	return &judge{pod: pod, affinity: newAffinity(&pod.Spec)}
}

// on judges a node. A taint that only keeps pods from coming does not send them away.
func (j *judge) on(node *corev1.Node) verdict {
	if j.pod.Spec.NodeName != "" && j.pod.Spec.NodeName != node.Name {
		return verdict{}
	}
	if !j.affinity.admits(node) {
		return verdict{}
	}
	v := verdict{run: true, stay: true}
	for i := range node.Spec.Taints {
		taint := &node.Spec.Taints[i]
		if taint.Effect == corev1.TaintEffectPreferNoSchedule || toleration.Tolerates(j.pod, taint) {
			continue
		}
		v.run = false
		if taint.Effect == corev1.TaintEffectNoExecute {
			v.stay = false
		}
	}
	return v
}

// tolerate adds what every daemon pod bears: what befalls its node is what it is there for.
func tolerate(spec *corev1.PodSpec) {
	add := func(key string, effect corev1.TaintEffect) {
		want := corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: effect}
		for i := range spec.Tolerations {
			if t := &spec.Tolerations[i]; t.Key == key && t.Effect == effect {
				if t.Operator == corev1.TolerationOpExists || t.Value == "" {
					*t = want // for ever, whatever its seconds were
					return
				}
			}
		}
		spec.Tolerations = append(spec.Tolerations, want)
	}
	add(corev1.TaintNodeNotReady, corev1.TaintEffectNoExecute)
	add(corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute)
	add(corev1.TaintNodeDiskPressure, corev1.TaintEffectNoSchedule)
	add(corev1.TaintNodeMemoryPressure, corev1.TaintEffectNoSchedule)
	add(corev1.TaintNodePIDPressure, corev1.TaintEffectNoSchedule)
	add(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule)
	if spec.HostNetwork {
		add(corev1.TaintNodeNetworkUnavailable, corev1.TaintEffectNoSchedule)
	}
}

// seat is a node's name and what it is to the set in question.
type seat struct {
	node string
	verdict
}

// eligibility remembers verdicts, so that a change of one pod asks a thousand nodes
// nothing. It is safe for concurrent use.
type eligibility struct {
	mu    sync.Mutex
	known map[object.Key]*judged
	asked int // verdicts that were worked out
}

type judged struct {
	uid        types.UID
	generation int64
	judge      *judge
	nodes      map[string]judgedNode
}

type judgedNode struct {
	version string // of the node
	verdict verdict
}

// of judges nodes for a set, those that have changed, or all if the set has. Nodes must be
// all there are. The answer is in the order of names.
func (e *eligibility) of(set *appsv1.DaemonSet, nodes []*corev1.Node) []seat {
	e.mu.Lock()
	defer e.mu.Unlock()
	j := e.judged(set)
	seats := make([]seat, 0, len(nodes))
	for _, node := range nodes {
		seats = append(seats, seat{node.Name, e.verdict(j, node)})
	}
	if len(j.nodes) > len(nodes) { // some are gone
		there := make(map[string]bool, len(nodes))
		for _, node := range nodes {
			there[node.Name] = true
		}
		for name := range j.nodes {
			if !there[name] {
				delete(j.nodes, name)
			}
		}
	}
	slices.SortFunc(seats, func(a, b seat) int { return strings.Compare(a.node, b.node) })
	return seats
}

// judged is what is known of a set. The caller holds mu.
func (e *eligibility) judged(set *appsv1.DaemonSet) *judged {
	key := object.KeyOf(set)
	j := e.known[key]
	if j == nil || j.uid != set.UID || j.generation != set.Generation {
		j = &judged{uid: set.UID, generation: set.Generation, judge: newJudge(set), nodes: map[string]judgedNode{}}
		if e.known == nil {
			e.known = map[object.Key]*judged{}
		}
		e.known[key] = j
	}
	return j
}

// verdict is the known one, if the node is still the same. The caller holds mu.
func (e *eligibility) verdict(j *judged, node *corev1.Node) verdict {
	if known, ok := j.nodes[node.Name]; ok && known.version == node.ResourceVersion {
		return known.verdict
	}
	e.asked++
	v := j.judge.on(node)
	j.nodes[node.Name] = judgedNode{version: node.ResourceVersion, verdict: v}
	return v
}

// differs says whether a node became something else to a set. before or after may be nil.
func (e *eligibility) differs(set *appsv1.DaemonSet, before, after *corev1.Node) bool {
	if before == nil || after == nil {
		return true
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	j := e.judged(set)
	was := e.verdict(j, before)
	return was != e.verdict(j, after)
}

// forget drops a set that is gone.
func (e *eligibility) forget(key object.Key) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.known, key)
}
