package daemonset

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// affinity is what a template requires of nodes, parsed once for all of them.
type affinity struct {
	selector labels.Selector // of labels; nil admits all
	// terms of which one must hold; nil admits all.
	terms []term
}

// term holds if all of it does. One that asks for nothing, or cannot be parsed, never does.
type term struct {
	labels labels.Selector
	names  []corev1.NodeSelectorRequirement // on a node's name
}

func newAffinity(spec *corev1.PodSpec) affinity {
	var a affinity
	if len(spec.NodeSelector) > 0 {
		a.selector = labels.SelectorFromSet(spec.NodeSelector)
	}
	if spec.Affinity == nil || spec.Affinity.NodeAffinity == nil || spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return a
	}
	given := spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	a.terms = make([]term, 0, len(given))
	for i := range given {
		if len(given[i].MatchExpressions) == 0 && len(given[i].MatchFields) == 0 {
			continue
		}
		byLabels, err := selectorOfNodes(given[i].MatchExpressions)
		if err != nil {
			continue
		}
		a.terms = append(a.terms, term{labels: byLabels, names: given[i].MatchFields})
	}
	return a
}

func selectorOfNodes(requirements []corev1.NodeSelectorRequirement) (labels.Selector, error) {
	selector := labels.NewSelector()
	for _, r := range requirements {
		var op selection.Operator
		switch r.Operator {
		case corev1.NodeSelectorOpIn:
			op = selection.In
		case corev1.NodeSelectorOpNotIn:
			op = selection.NotIn
		case corev1.NodeSelectorOpExists:
			op = selection.Exists
		case corev1.NodeSelectorOpDoesNotExist:
			op = selection.DoesNotExist
		case corev1.NodeSelectorOpGt:
			op = selection.GreaterThan
		case corev1.NodeSelectorOpLt:
			op = selection.LessThan
		default:
			return nil, fmt.Errorf("unknown operator %q", r.Operator)
		}
		requirement, err := labels.NewRequirement(r.Key, op, r.Values)
		if err != nil {
			return nil, err
		}
		selector = selector.Add(*requirement)
	}
	return selector, nil
}

// admits says whether a node is as required.
func (a affinity) admits(node *corev1.Node) bool {
	if a.selector != nil && !a.selector.Matches(labels.Set(node.Labels)) {
		return false
	}
	if a.terms == nil {
		return true
	}
	for _, t := range a.terms {
		if t.labels.Matches(labels.Set(node.Labels)) && admitsName(t.names, node.Name) {
			return true
		}
	}
	return false
}

// admitsName says whether all requirements on fields hold; the name is the only field there is.
func admitsName(requirements []corev1.NodeSelectorRequirement, name string) bool {
	for _, r := range requirements {
		in := r.Operator == corev1.NodeSelectorOpIn
		if r.Key != nameField || !in && r.Operator != corev1.NodeSelectorOpNotIn || slices.Contains(r.Values, name) != in {
			return false
		}
	}
	return true
}
