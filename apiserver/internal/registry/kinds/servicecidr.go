package kinds

import (
	"net/netip"
	"strings"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/platform/kube/object"
)

func serviceCIDR() *Kind {
	kind := object.KindOf[*networkingv1.ServiceCIDR]()
	return &Kind{
		Kind: kind, Singular: "servicecidr", Verbs: standardVerbs(),
		Subresources: []Subresource{statusSubresource(kind)},
		Columns:      []metav1.TableColumnDefinition{nameColumn(), column("CIDRs", "string", "Ranges of service addresses"), ageColumn()},
		Row: rowOf(func(c *networkingv1.ServiceCIDR, now time.Time) []any {
			return []any{c.Name, strings.Join(c.Spec.CIDRs, ","), age(c.CreationTimestamp, now)}
		}),
		ValidateName:     validation.NameIsDNSSubdomain,
		PrepareForCreate: on(func(c *networkingv1.ServiceCIDR) { c.Status = networkingv1.ServiceCIDRStatus{} }),
		PrepareForUpdate: onBoth(func(c, old *networkingv1.ServiceCIDR) { c.Status = old.Status }),
		PrepareForStatusUpdate: onBoth(func(c, old *networkingv1.ServiceCIDR) {
			c.Spec = old.Spec
			keepStatusMetadata(&c.ObjectMeta, &old.ObjectMeta, false)
		}),
		Validate: check(func(c *networkingv1.ServiceCIDR) field.ErrorList {
			return validateServiceCIDRs(c.Spec.CIDRs, field.NewPath("spec", "cidrs"))
		}),
		ValidateUpdate: checkBoth(validateServiceCIDRUpdate),
		ValidateStatusUpdate: checkBoth(func(c, _ *networkingv1.ServiceCIDR) field.ErrorList {
			return metavalidation.ValidateConditions(c.Status.Conditions, field.NewPath("status", "conditions"))
		}),
	}
}

func validateServiceCIDRs(cidrs []string, path *field.Path) field.ErrorList {
	switch n := len(cidrs); {
	case n == 0:
		return field.ErrorList{field.Required(path, "at least one CIDR required")}
	case n > 2:
		return field.ErrorList{field.Invalid(path, cidrs, "may only hold up to 2 values")}
	}
	var errs field.ErrorList
	for i, cidr := range cidrs {
		errs = append(errs, utilvalidation.IsValidCIDR(path.Index(i), cidr)...)
	}
	if len(cidrs) == 2 && len(errs) == 0 {
		first, second := netip.MustParsePrefix(cidrs[0]), netip.MustParsePrefix(cidrs[1])
		if first.Addr().Is4() == second.Addr().Is4() {
			errs = append(errs, field.Invalid(path, cidrs, "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"))
		}
	}
	return errs
}

// validateServiceCIDRUpdate keeps the ranges; one of the other family may be added.
func validateServiceCIDRUpdate(c, old *networkingv1.ServiceCIDR) field.ErrorList {
	path := field.NewPath("spec", "cidrs")
	if len(c.Spec.CIDRs) != len(old.Spec.CIDRs) && !(len(old.Spec.CIDRs) == 1 && len(c.Spec.CIDRs) == 2) {
		return field.ErrorList{field.Invalid(path, c.Spec.CIDRs, validation.FieldImmutableErrorMsg)}
	}
	var errs field.ErrorList
	for i := range old.Spec.CIDRs {
		errs = append(errs, validation.ValidateImmutableField(c.Spec.CIDRs[i], old.Spec.CIDRs[i], path.Index(i))...)
	}
	return errs
}
