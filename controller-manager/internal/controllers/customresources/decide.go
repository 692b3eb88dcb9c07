package customresources

import (
	"slices"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

// plan is what a definition needs.
type plan struct {
	// askAgain: it has not got its names, and may get them now.
	askAgain bool
	// empty: the objects of its kind must go before it does.
	empty bool
	// mayHaveObjects is true once the kind was served.
	mayHaveObjects bool
}

func decide(crd definition) plan {
	if crd.DeletionTimestamp == nil {
		return plan{askAgain: waits(crd)}
	}
	return plan{
		empty:          slices.Contains(crd.Finalizers, apiextensionsv1.CustomResourceCleanupFinalizer),
		mayHaveObjects: holds(crd, apiextensionsv1.Established),
	}
}

// waits tells whether a definition has not got the names it wants.
func waits(crd definition) bool {
	return crd.DeletionTimestamp == nil && slices.ContainsFunc(crd.Status.Conditions, func(c apiextensionsv1.CustomResourceDefinitionCondition) bool {
		return c.Type == apiextensionsv1.NamesAccepted && c.Status == apiextensionsv1.ConditionFalse
	})
}

func holds(crd definition, condition apiextensionsv1.CustomResourceDefinitionConditionType) bool {
	return slices.ContainsFunc(crd.Status.Conditions, func(c apiextensionsv1.CustomResourceDefinitionCondition) bool {
		return c.Type == condition && c.Status == apiextensionsv1.ConditionTrue
	})
}
