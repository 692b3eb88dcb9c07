package namespace

import (
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func resource(group, name string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: group, Version: "v1", Resource: name}
}

func TestConditionsSayWhatBlocks(t *testing.T) {
	const (
		discovery, content    = corev1.NamespaceDeletionDiscoveryFailure, corev1.NamespaceDeletionContentFailure
		remaining, finalizers = corev1.NamespaceContentRemaining, corev1.NamespaceFinalizersRemaining
	)
	for name, test := range map[string]struct {
		found found
		empty bool
		says  map[corev1.NamespaceConditionType]string // messages of those that hold
	}{
		"nothing is left": {found{}, true, nil},
		"pods and what is held": {
			found{
				left: map[schema.GroupVersionResource]int{resource("", "pods"): 2, resource("apps", "deployments"): 1},
				held: map[string]int{"example.com/keep": 1, "example.com/also": 3},
			}, false,
			map[corev1.NamespaceConditionType]string{
				remaining:  "Some resources are remaining: deployments.apps has 1 resource instances, pods. has 2 resource instances",
				finalizers: "Some content in the namespace has finalizers remaining: example.com/also in 3 resource instances, example.com/keep in 1 resource instances",
			},
		},
		"a kind that cannot be deleted": {
			found{failed: []error{errors.New("no")}}, false,
			map[corev1.NamespaceConditionType]string{content: "Failed to delete all resource types, 1 remaining: no"},
		},
		"kinds that are not known": {
			found{undiscovered: errors.New("no")}, false,
			map[corev1.NamespaceConditionType]string{discovery: "Discovery failed for some groups, 1 failing: no"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			early, late := metav1.Unix(100, 0), metav1.Unix(200, 0)
			have := conditions([]corev1.NamespaceCondition{{Type: "Own", Status: corev1.ConditionTrue, Message: "stays"}}, &test.found, early)
			if len(have) != 6 || have[0].Message != "stays" {
				t.Fatalf("conditions %+v", have)
			}
			for _, c := range have[1:] {
				want, holds := test.says[c.Type]
				if (c.Status == corev1.ConditionTrue) != holds || holds && c.Message != want || c.Reason == "" || c.Message == "" || c.LastTransitionTime != early {
					t.Errorf("%+v, want %q", c, want)
				}
			}
			if test.found.empty() != test.empty {
				t.Errorf("empty is %v", !test.empty)
			}
			// What changes tells when, what does not keeps its time.
			for _, c := range conditions(have, &found{}, late)[1:] {
				_, held := test.says[c.Type]
				if c.Status != corev1.ConditionFalse || (c.LastTransitionTime == late) != held {
					t.Errorf("afterwards %+v", c)
				}
			}
		})
	}
}

func TestFullNamespacesAreLookedAtLessOften(t *testing.T) {
	for n, want := range map[int]time.Duration{1: 201 * time.Millisecond, 1000: 1200 * time.Millisecond, 50_000: 3 * time.Second} {
		f := found{left: map[schema.GroupVersionResource]int{resource("", "pods"): n}}
		if got := f.again(); got != want {
			t.Errorf("%d objects: %s, want %s", n, got, want)
		}
	}
}
