package kinds

import (
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/platform/kube/object"
)

// maxControllerName is in bytes.
const maxControllerName = 250

func ingressClass() *Kind {
	return &Kind{
		Kind: object.KindOf[*networkingv1.IngressClass](), Singular: "ingressclass", Verbs: standardVerbs(),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Controller", "string", "Controller of the class"), column("Parameters", "string", "Object that configures it"), ageColumn(),
		},
		Row: rowOf(func(c *networkingv1.IngressClass, now time.Time) []any {
			parameters := "<none>"
			if ref := c.Spec.Parameters; ref != nil {
				parameters = ref.Kind
				if ref.APIGroup != nil {
					parameters += "." + *ref.APIGroup
				}
				parameters += "/" + ref.Name
			}
			return []any{c.Name, c.Spec.Controller, parameters, age(c.CreationTimestamp, now)}
		}),
		ValidateName: validation.NameIsDNSSubdomain,
		Default: on(func(c *networkingv1.IngressClass) {
			if c.Spec.Parameters != nil {
				setDefaultPtr(&c.Spec.Parameters.Scope, networkingv1.IngressClassParametersReferenceScopeCluster)
			}
		}),
		SpecEqual: specEqual(func(c *networkingv1.IngressClass) *networkingv1.IngressClassSpec { return &c.Spec }),
		Validate: check(func(c *networkingv1.IngressClass) field.ErrorList {
			spec := field.NewPath("spec")
			var errs field.ErrorList
			if len(c.Spec.Controller) > maxControllerName {
				errs = append(errs, field.TooLong(spec.Child("controller"), c.Spec.Controller, maxControllerName))
			}
			errs = append(errs, utilvalidation.IsDomainPrefixedPath(spec.Child("controller"), c.Spec.Controller)...)
			if c.Spec.Parameters != nil {
				errs = append(errs, validateIngressParameters(c.Spec.Parameters, spec.Child("parameters"))...)
			}
			return errs
		}),
		ValidateUpdate: checkBoth(func(c, old *networkingv1.IngressClass) field.ErrorList {
			return validation.ValidateImmutableField(c.Spec.Controller, old.Spec.Controller, field.NewPath("spec", "controller"))
		}),
	}
}

func validateIngressParameters(ref *networkingv1.IngressClassParametersReference, at *field.Path) field.ErrorList {
	errs := validateTypedReference(ref.APIGroup, ref.Kind, ref.Name, at)
	switch valueOf(ref.Scope) {
	case networkingv1.IngressClassParametersReferenceScopeNamespace:
		if namespace := valueOf(ref.Namespace); namespace == "" {
			errs = append(errs, field.Required(at.Child("namespace"), "`parameters.scope` is set to 'Namespace'"))
		} else {
			errs = append(errs, validateNamespaceReference(namespace, at.Child("namespace"))...)
		}
	case networkingv1.IngressClassParametersReferenceScopeCluster:
		if ref.Namespace != nil {
			errs = append(errs, field.Forbidden(at.Child("namespace"), "`parameters.scope` is set to 'Cluster'"))
		}
	case "":
		errs = append(errs, field.Required(at.Child("scope"), ""))
	default:
		errs = append(errs, field.NotSupported(at.Child("scope"), *ref.Scope, []string{
			networkingv1.IngressClassParametersReferenceScopeCluster, networkingv1.IngressClassParametersReferenceScopeNamespace,
		}))
	}
	return errs
}
