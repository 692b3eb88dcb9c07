package volumes

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// admits says whether a volume can be reached from the node of this name and labels; the
// error says that it cannot, or that the rule makes no sense.
func admits(affinity *corev1.VolumeNodeAffinity, node string, own map[string]string) error {
	if affinity == nil || affinity.Required == nil {
		return nil
	}
	for i := range affinity.Required.NodeSelectorTerms {
		term := &affinity.Required.NodeSelectorTerms[i]
		if len(term.MatchExpressions) == 0 && len(term.MatchFields) == 0 {
			continue // an empty term selects nothing
		}
		byLabel, err := matchesAll(term.MatchExpressions, own)
		if err != nil {
			return err
		}
		byField, err := matchesAll(term.MatchFields, map[string]string{metav1.ObjectNameField: node})
		if err != nil {
			return err
		}
		if byLabel && byField {
			return nil
		}
	}
	return errAffinity
}

func matchesAll(requirements []corev1.NodeSelectorRequirement, values map[string]string) (bool, error) {
	operators := map[corev1.NodeSelectorOperator]selection.Operator{
		corev1.NodeSelectorOpIn: selection.In, corev1.NodeSelectorOpNotIn: selection.NotIn,
		corev1.NodeSelectorOpExists: selection.Exists, corev1.NodeSelectorOpDoesNotExist: selection.DoesNotExist,
		corev1.NodeSelectorOpGt: selection.GreaterThan, corev1.NodeSelectorOpLt: selection.LessThan,
	}
	for i := range requirements {
		operator, known := operators[requirements[i].Operator]
		if !known {
			return false, fmt.Errorf("operator %q is not known", requirements[i].Operator)
		}
		requirement, err := labels.NewRequirement(requirements[i].Key, operator, requirements[i].Values)
		if err != nil {
			return false, fmt.Errorf("node affinity: %w", err)
		}
		if !requirement.Matches(labels.Set(values)) {
			return false, nil
		}
	}
	return true, nil
}
