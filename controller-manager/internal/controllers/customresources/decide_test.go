package customresources

import (
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestDecide(t *testing.T) {
	now := metav1.Now()
	with := func(deleting bool, finalizers []string, conditions ...apiextensionsv1.CustomResourceDefinitionCondition) definition {
		crd := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "a", Finalizers: finalizers}}
		if deleting {
			crd.DeletionTimestamp = &now
		}
		crd.Status.Conditions = conditions
		return crd
	}
	cleanup := []string{apiextensionsv1.CustomResourceCleanupFinalizer}
	refused := apiextensionsv1.CustomResourceDefinitionCondition{Type: apiextensionsv1.NamesAccepted, Status: apiextensionsv1.ConditionFalse}
	served := apiextensionsv1.CustomResourceDefinitionCondition{Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionTrue}
	for name, c := range map[string]struct {
		crd  definition
		want plan
	}{
		"served":                  {with(false, nil, served), plan{}},
		"waits for its names":     {with(false, nil, refused), plan{askAgain: true}},
		"deleted":                 {with(true, cleanup, served), plan{empty: true, mayHaveObjects: true}},
		"deleted before served":   {with(true, cleanup, refused), plan{empty: true}},
		"waits for somebody else": {with(true, []string{"example.com/other"}, served), plan{mayHaveObjects: true}},
	} {
		if got := decide(c.crd); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}
