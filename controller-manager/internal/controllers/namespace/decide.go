package namespace

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// found is what an attempt to empty a namespace came upon.
type found struct {
	// undiscovered says why the kinds that users define are not known; nil if they are.
	undiscovered error
	// failed are lists and deletions that failed.
	failed []error
	// left counts what is still there, by resource.
	left map[schema.GroupVersionResource]int
	// held counts what waits for finalizers, by finalizer.
	held map[string]int
}

// empty tells whether nothing is in the namespace any more, as far as can be known.
func (f *found) empty() bool {
	return f.undiscovered == nil && len(f.failed) == 0 && len(f.left) == 0
}

// total is the number of objects that are left.
func (f *found) total() int {
	n := 0
	for _, count := range f.left {
		n += count
	}
	return n
}

// How soon a namespace that still holds something is looked at anew: pods take time to stop,
// and nothing tells when the last object of any kind is gone. Looking costs what is there.
const (
	againFirst  = 200 * time.Millisecond
	againObject = time.Millisecond
	againMost   = 3 * time.Second
)

// again is when to look again.
func (f *found) again() time.Duration {
	return min(againFirst+time.Duration(f.total())*againObject, againMost)
}

// conditions of a namespace that is being deleted, in Kubernetes' words. A condition that
// stays keeps its time. It is pure.
func conditions(before []corev1.NamespaceCondition, f *found, now metav1.Time) []corev1.NamespaceCondition {
	discovery := condition(corev1.NamespaceDeletionDiscoveryFailure, f.undiscovered != nil, "DiscoveryFailed", "", "ResourcesDiscovered", "All resources successfully discovered")
	if f.undiscovered != nil {
		discovery.Message = "Discovery failed for some groups, 1 failing: " + f.undiscovered.Error()
	}
	var failures []string
	for _, err := range f.failed {
		failures = append(failures, err.Error())
	}
	var left, held []string
	for gvr, n := range f.left {
		left = append(left, fmt.Sprintf("%s.%s has %d resource instances", gvr.Resource, gvr.Group, n))
	}
	slices.Sort(left)
	for _, finalizer := range slices.Sorted(maps.Keys(f.held)) {
		held = append(held, fmt.Sprintf("%s in %d resource instances", finalizer, f.held[finalizer]))
	}
	want := []corev1.NamespaceCondition{
		discovery,
		// Groups and versions of definitions are validated, so none fails to parse.
		condition(corev1.NamespaceDeletionGVParsingFailure, false, "", "", "ParsedGroupVersions", "All legacy kube types successfully parsed"),
		condition(corev1.NamespaceDeletionContentFailure, len(failures) > 0, "ContentDeletionFailed",
			fmt.Sprintf("Failed to delete all resource types, %d remaining: %s", len(failures), strings.Join(failures, ", ")),
			"ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
		condition(corev1.NamespaceContentRemaining, len(left) > 0, "SomeResourcesRemain", "Some resources are remaining: "+strings.Join(left, ", "),
			"ContentRemoved", "All content successfully removed"),
		condition(corev1.NamespaceFinalizersRemaining, len(held) > 0, "SomeFinalizersRemain",
			"Some content in the namespace has finalizers remaining: "+strings.Join(held, ", "),
			"ContentHasNoFinalizers", "All content-preserving finalizers finished"),
	}
	out := slices.Clone(before)
	for _, one := range want {
		one.LastTransitionTime = now
		at := slices.IndexFunc(out, func(c corev1.NamespaceCondition) bool { return c.Type == one.Type })
		if at < 0 {
			out = append(out, one)
			continue
		}
		if out[at].Status == one.Status {
			one.LastTransitionTime = out[at].LastTransitionTime
		}
		out[at] = one
	}
	return out
}

func condition(kind corev1.NamespaceConditionType, holds bool, reason, message, noReason, noMessage string) corev1.NamespaceCondition {
	if holds {
		return corev1.NamespaceCondition{Type: kind, Status: corev1.ConditionTrue, Reason: reason, Message: message}
	}
	return corev1.NamespaceCondition{Type: kind, Status: corev1.ConditionFalse, Reason: noReason, Message: noMessage}
}
