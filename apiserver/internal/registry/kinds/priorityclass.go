package kinds

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/platform/kube/object"
)

const (
	// systemPriorityPrefix begins the names of the classes that Kubernetes defines.
	systemPriorityPrefix = "system-"
	// highestUserPriority is what users may give at most; above it are the system's classes.
	highestUserPriority = 1_000_000_000
)

// systemPriority returns the value of a class that Kubernetes defines.
func systemPriority(name string) (int32, bool) {
	switch name {
	case "system-cluster-critical":
		return 2 * highestUserPriority, true
	case "system-node-critical":
		return 2*highestUserPriority + 1000, true
	}
	return 0, false
}

func priorityClass() *Kind {
	return &Kind{
		Kind: object.KindOf[*schedulingv1.PriorityClass](), Singular: "priorityclass", ShortNames: []string{"pc"}, Verbs: standardVerbs(),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Value", "integer", "Priority of pods of the class"),
			column("Global-Default", "boolean", "Whether pods without a class get this one"), ageColumn(),
			column("PreemptionPolicy", "string", "Whether pods of the class push others out"),
		},
		Row: rowOf(func(p *schedulingv1.PriorityClass, now time.Time) []any {
			return []any{p.Name, int64(p.Value), p.GlobalDefault, age(p.CreationTimestamp, now), string(valueOf(p.PreemptionPolicy))}
		}),
		ValidateName: validation.NameIsDNSSubdomain,
		Default: on(func(p *schedulingv1.PriorityClass) {
			setDefaultPtr(&p.PreemptionPolicy, corev1.PreemptLowerPriority)
		}),
		// Its generation is 1 and stays so: what a class means does not change.
		SpecEqual:      func(object.Object, object.Object) bool { return true },
		Validate:       check(validatePriorityClass),
		ValidateUpdate: checkBoth(validatePriorityClassUpdate),
	}
}

func validatePriorityClass(p *schedulingv1.PriorityClass) field.ErrorList {
	var errs field.ErrorList
	if strings.HasPrefix(p.Name, systemPriorityPrefix) {
		if value, known := systemPriority(p.Name); !known || p.Value != value || p.GlobalDefault {
			errs = append(errs, field.Forbidden(field.NewPath("metadata", "name"), "priority class names with '"+systemPriorityPrefix+"' prefix are reserved for system use only"))
		}
	} else if p.Value > highestUserPriority {
		errs = append(errs, field.Forbidden(field.NewPath("value"), fmt.Sprintf("maximum allowed value of a user defined priority is %d", highestUserPriority)))
	}
	switch policy := valueOf(p.PreemptionPolicy); policy {
	case corev1.PreemptLowerPriority, corev1.PreemptNever:
	case "":
		errs = append(errs, field.Required(field.NewPath("preemptionPolicy"), ""))
	default:
		errs = append(errs, field.NotSupported(field.NewPath("preemptionPolicy"), policy, []corev1.PreemptionPolicy{corev1.PreemptLowerPriority, corev1.PreemptNever}))
	}
	return errs
}

func validatePriorityClassUpdate(p, old *schedulingv1.PriorityClass) field.ErrorList {
	var errs field.ErrorList
	if p.Value != old.Value {
		errs = append(errs, field.Forbidden(field.NewPath("value"), "may not be changed in an update."))
	}
	return append(errs, validation.ValidateImmutableField(p.PreemptionPolicy, old.PreemptionPolicy, field.NewPath("preemptionPolicy"))...)
}
