package placement

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"kijabi.dev/platform/kube/toleration"
)

// Verdict is one node's answer for a pod.
type Verdict struct {
	Node string
	// Reasons that refuse the pod; none when it fits.
	Reasons []string
	// Score of a fitting node, 0 to 100.
	Score float64
}

// Decision is where a pod goes and why.
type Decision struct {
	// Node chosen; empty when none fits.
	Node string
	// Verdicts of all nodes, by name.
	Verdicts []Verdict
	// Volumes has to be carried out before the pod is bound; nil if there is nothing to do.
	Volumes *VolumePlan
	// Refused is why no node at all can take the pod, whatever the nodes say.
	Refused string
}

// Decide chooses a node for a pod. Of equally good nodes the one with the fewest
// pods wins, then the first by name, so that a decision can be repeated.
func (c *Cluster) Decide(pod *corev1.Pod) Decision {
	decision := Decision{Verdicts: make([]Verdict, 0, len(c.order))}
	demands, refused := c.storage.needs(pod)
	if refused != "" {
		decision.Refused = refused
		for _, n := range c.order {
			decision.Verdicts = append(decision.Verdicts, Verdict{Node: n.name, Reasons: []string{refused}})
		}
		return decision
	}
	p := c.prepare(pod)
	p.claims = demands
	siblings := c.siblingsOf(ownerOf(pod))
	var best *node
	var bestScore float64
	for _, n := range c.order {
		verdict := Verdict{Node: n.name, Reasons: refusals(p, n)}
		if len(verdict.Reasons) == 0 {
			verdict.Score = score(p, n, siblings[n])
			if best == nil || verdict.Score > bestScore || verdict.Score == bestScore && len(n.pods) < len(best.pods) {
				best, bestScore = n, verdict.Score
			}
		}
		decision.Verdicts = append(decision.Verdicts, verdict)
	}
	if best != nil {
		decision.Node = best.name
		decision.Volumes, _ = demands.plan(best)
	}
	return decision
}

// refusals asks a node's filters.
func refusals(p *prepared, n *node) []string {
	for _, refuses := range filters {
		if reasons := refuses(p, n); len(reasons) > 0 {
			return reasons
		}
	}
	return nil
}

func (c *Cluster) prepare(pod *corev1.Pod) *prepared {
	p := &prepared{pod: pod, requests: Requests(pod), ports: hostPorts(pod), affinity: nodeaffinity.GetRequiredNodeAffinity(pod)}
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil {
		if terms, err := nodeaffinity.NewPreferredSchedulingTerms(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution); err == nil {
			p.preferred = terms
		}
	}
	p.terms = c.podTermsFor(pod)
	p.spread = c.spreadFor(p)
	return p
}

// Weights of the scores.
const (
	weightFree     = 1.0
	weightBalance  = 0.5
	weightSiblings = 2.0
	weightAffinity = 2.0
	weightTaints   = 3.0
)

// score rates a fitting node from 0 to 100: free resources after the pod is there
// (least allocated), even use of CPU and memory, few pods of the same owner, preferred affinity
// and no PreferNoSchedule taints.
func score(p *prepared, n *node, siblings int) float64 {
	var shares []float64
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		if total := n.allocatable[name]; total > 0 {
			want := p.requests[name]
			if want == 0 {
				want = nominal[name]
			}
			shares = append(shares, min(1, float64(n.requested[name]+want)/float64(total)))
		}
	}
	free, balance := 1.0, 1.0
	if len(shares) > 0 {
		sum := 0.0
		for _, share := range shares {
			sum += 1 - share
		}
		free = sum / float64(len(shares))
	}
	if len(shares) == 2 {
		balance = 1 - abs(shares[0]-shares[1])
	}
	preferred := 0.0
	if p.preferred != nil {
		preferred = min(1, float64(p.preferred.Score(n.object))/100)
	}
	avoided := 0
	for i := range n.object.Spec.Taints {
		if taint := &n.object.Spec.Taints[i]; taint.Effect == corev1.TaintEffectPreferNoSchedule && !toleration.Tolerates(p.pod, taint) {
			avoided++
		}
	}
	total := weightFree*free + weightBalance*balance + weightSiblings/float64(1+siblings) + weightAffinity*preferred + weightTaints/float64(1+avoided)
	return 100 * total / (weightFree + weightBalance + weightSiblings + weightAffinity + weightTaints)
}

// nominal is what a pod without requests counts for in scores, as in Kubernetes.
var nominal = Resources{corev1.ResourceCPU: 100, corev1.ResourceMemory: 200 << 20}

func abs(x float64) float64 { return max(x, -x) }

func ownerOf(pod *corev1.Pod) string {
	if owner := metav1.GetControllerOfNoCopy(pod); owner != nil {
		return string(owner.UID)
	}
	return ""
}

// Summary says in one line why a pod fits nowhere, as kube-scheduler words it.
func (d Decision) Summary() string {
	if d.Node != "" && d.Volumes != nil {
		names := make([]string, 0, len(d.Volumes.Claims))
		for _, claim := range d.Volumes.Claims {
			names = append(names, claim.Name)
		}
		return fmt.Sprintf("assigned to %s as soon as its claims are bound: %s", d.Node, strings.Join(names, ", "))
	}
	if d.Node != "" {
		return fmt.Sprintf("assigned to %s", d.Node)
	}
	if len(d.Verdicts) == 0 {
		return "no nodes available to schedule pods"
	}
	if d.Refused != "" {
		return fmt.Sprintf("0/%d nodes are available: %s.", len(d.Verdicts), d.Refused)
	}
	counts := map[string]int{}
	for _, verdict := range d.Verdicts {
		for _, reason := range verdict.Reasons {
			counts[reason]++
		}
	}
	reasons := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(counts[b]-counts[a], strings.Compare(a, b))
	})
	parts := make([]string, 0, len(reasons))
	for _, reason := range reasons {
		parts = append(parts, fmt.Sprintf("%d %s", counts[reason], reason))
	}
	return fmt.Sprintf("0/%d nodes are available: %s.", len(d.Verdicts), strings.Join(parts, ", "))
}
