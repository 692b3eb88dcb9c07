package dynamic

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/apiserver/internal/admission/expression"
	"kijabi.dev/platform/kube/object"
)

// Check lists what is wrong with the expressions of a configuration that is about to be
// stored; of other objects nothing. old is what is stored; nil for a new one: expressions that
// are not changed are not looked at again.
func Check(obj, old object.Object) field.ErrorList {
	var errs field.ErrorList
	refuse := func(path *field.Path, err error) {
		if err != nil {
			errs = append(errs, field.Invalid(path, "", err.Error()))
		}
	}
	conditions := func(of, before []admissionregistrationv1.MatchCondition, path *field.Path) {
		if !apiequality.Semantic.DeepEqual(of, before) {
			_, err := compileConditions(of, expression.Vars{})
			refuse(path.Child("matchConditions"), err)
		}
	}
	switch obj := obj.(type) {
	case *admissionregistrationv1.ValidatingAdmissionPolicy:
		before, _ := old.(*admissionregistrationv1.ValidatingAdmissionPolicy)
		if before == nil || !apiequality.Semantic.DeepEqual(&obj.Spec, &before.Spec) {
			_, err := compilePolicy(&obj.Spec)
			refuse(field.NewPath("spec"), err)
		}
	case *admissionregistrationv1.MutatingAdmissionPolicy:
		before, _ := old.(*admissionregistrationv1.MutatingAdmissionPolicy)
		if before == nil || !apiequality.Semantic.DeepEqual(&obj.Spec, &before.Spec) {
			_, err := compileMutations(&obj.Spec)
			refuse(field.NewPath("spec"), err)
		}
	case *admissionregistrationv1.MutatingWebhookConfiguration, *admissionregistrationv1.ValidatingWebhookConfiguration:
		was := map[string][]admissionregistrationv1.MatchCondition{}
		if old != nil {
			for _, w := range webhooksOf(old) {
				was[w.name] = w.conditions
			}
		}
		for i, w := range webhooksOf(obj) {
			conditions(w.conditions, was[w.name], field.NewPath("webhooks").Index(i))
		}
	}
	return errs
}
