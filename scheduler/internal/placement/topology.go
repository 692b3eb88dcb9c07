package placement

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Required pod affinity, anti-affinity and topology spread are counted anew for
// each pod that uses them, or that meets a pod with anti-affinity: right first; the
// counters that make it fast can come later behind the same functions.

// domain is a value of a topology label.
type domain struct{ key, value string }

// podTerms is what pod affinity demands of a pod's node.
type podTerms struct {
	require []affinityTerm  // each must be met by the node's domain
	refuse  map[domain]bool // domains that hold a pod it must not meet
	clash   map[domain]bool // domains of pods that must not meet it
}

// affinityTerm is one required affinity term with the domains that meet it.
type affinityTerm struct {
	key string
	met map[string]bool
	// self is true when no pod matches yet but the pod itself would: the first of a group.
	self bool
}

func termMatches(term *corev1.PodAffinityTerm, owner, other *corev1.Pod) bool {
	selector, err := metav1.LabelSelectorAsSelector(term.LabelSelector)
	if err != nil {
		return false
	}
	// A namespace selector cannot be resolved to names here; empty means all.
	inNamespace := slices.Contains(term.Namespaces, other.Namespace) ||
		len(term.Namespaces) == 0 && term.NamespaceSelector == nil && owner.Namespace == other.Namespace ||
		term.NamespaceSelector != nil && len(term.NamespaceSelector.MatchLabels)+len(term.NamespaceSelector.MatchExpressions) == 0
	return inNamespace && selector.Matches(labels.Set(other.Labels))
}

func requiredAffinity(pod *corev1.Pod) []corev1.PodAffinityTerm {
	if a := pod.Spec.Affinity; a != nil && a.PodAffinity != nil {
		return a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	}
	return nil
}

func requiredAntiAffinity(pod *corev1.Pod) []corev1.PodAffinityTerm {
	if a := pod.Spec.Affinity; a != nil && a.PodAntiAffinity != nil {
		return a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	}
	return nil
}

// podTermsFor counts where a pod's terms are met, and whose terms refuse it.
func (c *Cluster) podTermsFor(pod *corev1.Pod) *podTerms {
	out := &podTerms{refuse: map[domain]bool{}, clash: map[domain]bool{}}
	affinity, anti := requiredAffinity(pod), requiredAntiAffinity(pod)
	for i := range affinity {
		out.require = append(out.require, affinityTerm{key: affinity[i].TopologyKey, met: map[string]bool{}})
	}
	for _, other := range c.exclusive {
		n := c.nodes[other.node]
		if n.object == nil {
			continue
		}
		theirs := requiredAntiAffinity(other.pod)
		for i := range theirs {
			if value, ok := n.object.Labels[theirs[i].TopologyKey]; ok && termMatches(&theirs[i], other.pod, pod) {
				out.clash[domain{theirs[i].TopologyKey, value}] = true
			}
		}
	}
	if len(affinity)+len(anti) == 0 {
		return out
	}
	for _, n := range c.order {
		for _, other := range n.pods {
			for i := range affinity {
				if value, ok := n.object.Labels[affinity[i].TopologyKey]; ok && termMatches(&affinity[i], pod, other.pod) {
					out.require[i].met[value] = true
				}
			}
			for i := range anti {
				if value, ok := n.object.Labels[anti[i].TopologyKey]; ok && termMatches(&anti[i], pod, other.pod) {
					out.refuse[domain{anti[i].TopologyKey, value}] = true
				}
			}
		}
	}
	for i := range affinity {
		out.require[i].self = len(out.require[i].met) == 0 && termMatches(&affinity[i], pod, pod)
	}
	return out
}

func podAffinity(p *prepared, n *node) []string {
	for i := range p.terms.require {
		term := &p.terms.require[i]
		value, ok := n.object.Labels[term.key]
		if !ok || !term.met[value] && !term.self {
			return []string{"node(s) didn't match pod affinity rules"}
		}
	}
	for d := range p.terms.refuse {
		if n.object.Labels[d.key] == d.value {
			return []string{"node(s) didn't match pod anti-affinity rules"}
		}
	}
	for d := range p.terms.clash {
		if n.object.Labels[d.key] == d.value {
			return []string{"node(s) didn't satisfy existing pods anti-affinity rules"}
		}
	}
	return nil
}

// spreadRule is one DoNotSchedule constraint with its counts.
type spreadRule struct {
	key     string
	maxSkew int
	counts  map[string]int
	least   int
	self    int // 1 when the pod matches its own selector
}

// spreadFor counts matching pods of each domain among the nodes the pod may use.
func (c *Cluster) spreadFor(p *prepared) []spreadRule {
	var rules []spreadRule
	for i := range p.pod.Spec.TopologySpreadConstraints {
		constraint := &p.pod.Spec.TopologySpreadConstraints[i]
		if constraint.WhenUnsatisfiable != corev1.DoNotSchedule {
			continue
		}
		selector, err := metav1.LabelSelectorAsSelector(constraint.LabelSelector)
		if err != nil {
			continue // validation has refused it
		}
		rule := spreadRule{key: constraint.TopologyKey, maxSkew: int(constraint.MaxSkew), counts: map[string]int{}}
		if selector.Matches(labels.Set(p.pod.Labels)) {
			rule.self = 1
		}
		for _, n := range c.order {
			value, ok := n.object.Labels[rule.key]
			if !ok || len(affinity(p, n)) > 0 {
				continue
			}
			rule.counts[value] += 0
			for _, other := range n.pods {
				if other.pod.Namespace == p.pod.Namespace && other.pod.DeletionTimestamp == nil && selector.Matches(labels.Set(other.pod.Labels)) {
					rule.counts[value]++
				}
			}
		}
		first := true
		for _, count := range rule.counts {
			if first || count < rule.least {
				rule.least, first = count, false
			}
		}
		if constraint.MinDomains != nil && len(rule.counts) < int(*constraint.MinDomains) {
			rule.least = 0
		}
		rules = append(rules, rule)
	}
	return rules
}

func spread(p *prepared, n *node) []string {
	for i := range p.spread {
		rule := &p.spread[i]
		value, ok := n.object.Labels[rule.key]
		if !ok {
			return []string{"node(s) didn't match pod topology spread constraints (missing required label)"}
		}
		if rule.counts[value]+rule.self-rule.least > rule.maxSkew {
			return []string{"node(s) didn't match pod topology spread constraints"}
		}
	}
	return nil
}
