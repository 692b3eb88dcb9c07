package kinds

import (
	"strings"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/platform/kube/object"
)

func ipAddress() *Kind {
	return &Kind{
		Kind: object.KindOf[*networkingv1.IPAddress](), Singular: "ipaddress", ShortNames: []string{"ip"}, Verbs: standardVerbs(),
		Columns: []metav1.TableColumnDefinition{nameColumn(), column("ParentRef", "string", "Object that has the address"), ageColumn()},
		Row: rowOf(func(a *networkingv1.IPAddress, now time.Time) []any {
			parent := "<none>"
			if ref := a.Spec.ParentRef; ref != nil {
				parent = strings.ToLower(schema.GroupResource{Group: ref.Group, Resource: ref.Resource}.String())
				if ref.Namespace != "" {
					parent += "/" + ref.Namespace
				}
				parent += "/" + ref.Name
			}
			return []any{a.Name, parent, age(a.CreationTimestamp, now)}
		}),
		ValidateName: validateIPName,
		Validate: check(func(a *networkingv1.IPAddress) field.ErrorList {
			at, ref := field.NewPath("spec", "parentRef"), a.Spec.ParentRef
			if ref == nil {
				return field.ErrorList{field.Required(at, "")}
			}
			errs := validateSubdomain(ref.Group, at.Child("group"))
			return append(errs, validatePathSegments(at, segmentField{"resource", ref.Resource, true}, segmentField{"name", ref.Name, true}, segmentField{"namespace", ref.Namespace, false})...)
		}),
		ValidateUpdate: checkBoth(func(a, old *networkingv1.IPAddress) field.ErrorList {
			return validation.ValidateImmutableField(a.Spec.ParentRef, old.Spec.ParentRef, field.NewPath("spec", "parentRef"))
		}),
	}
}

// validateIPName wants an address as it is written canonically, so that there is one name for it.
func validateIPName(name string, _ bool) []string {
	var out []string
	for _, err := range utilvalidation.IsValidIP(field.NewPath(""), name) {
		out = append(out, err.Detail)
	}
	return out
}
