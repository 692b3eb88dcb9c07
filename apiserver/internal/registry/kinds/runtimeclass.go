package kinds

import (
	"time"

	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/platform/kube/object"
)

func runtimeClass() *Kind {
	return &Kind{
		Kind: object.KindOf[*nodev1.RuntimeClass](), Singular: "runtimeclass", Verbs: standardVerbs(),
		Columns: []metav1.TableColumnDefinition{nameColumn(), column("Handler", "string", "Configuration of the container runtime that runs the pods"), ageColumn()},
		Row: rowOf(func(r *nodev1.RuntimeClass, now time.Time) []any {
			return []any{r.Name, r.Handler, age(r.CreationTimestamp, now)}
		}),
		ValidateName: validation.NameIsDNSSubdomain,
		Validate:     check(validateRuntimeClass),
		ValidateUpdate: checkBoth(func(r, old *nodev1.RuntimeClass) field.ErrorList {
			return validation.ValidateImmutableField(r.Handler, old.Handler, field.NewPath("handler"))
		}),
	}
}

func validateRuntimeClass(r *nodev1.RuntimeClass) field.ErrorList {
	var errs field.ErrorList
	for _, msg := range validation.NameIsDNSLabel(r.Handler, false) {
		errs = append(errs, field.Invalid(field.NewPath("handler"), r.Handler, msg))
	}
	if r.Overhead != nil {
		errs = append(errs, validateResourceList(r.Overhead.PodFixed, field.NewPath("overhead", "podFixed"))...)
	}
	if r.Scheduling == nil {
		return errs
	}
	path := field.NewPath("scheduling")
	errs = append(errs, metavalidation.ValidateLabels(r.Scheduling.NodeSelector, path.Child("nodeSelector"))...)
	errs = append(errs, validateTolerations(r.Scheduling.Tolerations, path.Child("tolerations"))...)
	seen := map[string]bool{}
	for i := range r.Scheduling.Tolerations {
		text := r.Scheduling.Tolerations[i].String()
		if seen[text] {
			errs = append(errs, field.Duplicate(path.Child("tolerations").Index(i), r.Scheduling.Tolerations[i]))
		}
		seen[text] = true
	}
	return errs
}
