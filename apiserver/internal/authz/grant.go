package authz

import (
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/platform/kube/object"
)

// Grant decides whether a user may store a role or binding (old is nil for a new one): no
// one can grant more than they hold themselves, unless they may "escalate" the role or
// "bind" to it. Of a request for a certificate it decides whether the user may approve it, or
// sign it, for its signer. It answers from memory, so that the single writer may call it.
// Errors are *apierrors.StatusError.
func (a *Authorizer) Grant(user string, groups []string, obj, old object.Object) error {
	if slices.Contains(groups, GroupAdmins) {
		return nil
	}
	switch role := obj.(type) {
	case *rbacv1.Role:
		return a.grantRules(user, groups, role, rolesResource, role.Rules)
	case *rbacv1.ClusterRole:
		was, _ := old.(*rbacv1.ClusterRole)
		if role.AggregationRule != nil || was != nil && was.AggregationRule != nil {
			return a.grantAggregation(user, groups, role)
		}
		return a.grantRules(user, groups, role, clusterRolesResource, role.Rules)
	case *rbacv1.RoleBinding:
		return a.grantRole(user, groups, role, roleBindingsResource, role.RoleRef)
	case *rbacv1.ClusterRoleBinding:
		return a.grantRole(user, groups, role, clusterRoleBindingsResource, role.RoleRef)
	case *certificatesv1.CertificateSigningRequest:
		if was, ok := old.(*certificatesv1.CertificateSigningRequest); ok {
			return a.grantCertificate(user, groups, role, was)
		}
	}
	return nil
}

const (
	requestsResource = "certificatesigningrequests." + certificatesv1.GroupName
	signersResource  = "signers." + certificatesv1.GroupName
)

// grantCertificate looks at what a change does to a request: whether it decides about it or
// answers it, and whether the user may do that for the signer or for all of its domain.
func (a *Authorizer) grantCertificate(user string, groups []string, request, old *certificatesv1.CertificateSigningRequest) error {
	may := func(verb string) error {
		signer := request.Spec.SignerName
		domain, _, _ := strings.Cut(signer, "/")
		if a.may(user, groups, verb, signersResource, "", signer) || a.may(user, groups, verb, signersResource, "", domain+"/*") {
			return nil
		}
		return apierrors.NewForbidden(schema.ParseGroupResource(requestsResource), request.Name, fmt.Errorf(
			"user not permitted to %s requests with signerName %q", verb, signer))
	}
	for _, condition := range request.Status.Conditions {
		if slices.ContainsFunc(old.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool { return c == condition }) {
			continue
		}
		verb := ""
		switch condition.Type {
		case certificatesv1.CertificateApproved, certificatesv1.CertificateDenied:
			verb = "approve"
		case certificatesv1.CertificateFailed:
			verb = "sign"
		default:
			continue
		}
		if err := may(verb); err != nil {
			return err
		}
	}
	if !slices.Equal(request.Status.Certificate, old.Status.Certificate) {
		return may("sign")
	}
	return nil
}

// Create authorizes the creation of an object from memory, for the single writer.
func (a *Authorizer) Create(user string, groups []string, resource schema.GroupResource, namespace, name string) error {
	attr := Attributes{User: user, Groups: groups, Verb: "create", Resource: resource, Namespace: namespace, Name: name}
	if a.allows(&attr) {
		return nil
	}
	return a.forbidden(&attr)
}

// may is Authorize without reads and messages.
func (a *Authorizer) may(user string, groups []string, verb, resource, namespace, name string) bool {
	return a.allows(&Attributes{
		User: user, Groups: groups, Verb: verb, Resource: schema.ParseGroupResource(resource), Namespace: namespace, Name: name,
	})
}

func (a *Authorizer) grantRules(user string, groups []string, role object.Object, resource string, rules []rbacv1.PolicyRule) error {
	if a.may(user, groups, "escalate", resource, role.GetNamespace(), role.GetName()) {
		return nil
	}
	return a.holdsAll(user, groups, role, resource, rules)
}

// grantAggregation: an aggregated role takes up rules that others write later, so only who
// holds everything may make one.
func (a *Authorizer) grantAggregation(user string, groups []string, role *rbacv1.ClusterRole) error {
	if a.may(user, groups, "escalate", clusterRolesResource, "", role.Name) {
		return nil
	}
	held, _ := a.Rules(user, groups, "")
	if len(uncovered(held, everything())) > 0 {
		return apierrors.NewForbidden(schema.ParseGroupResource(clusterRolesResource), role.Name, message("must have cluster-admin privileges to use an aggregationRule"))
	}
	return nil
}

func (a *Authorizer) grantRole(user string, groups []string, binding object.Object, resource string, ref rbacv1.RoleRef) error {
	role, namespace := clusterRolesResource, binding.GetNamespace()
	if ref.Kind == "Role" {
		role = rolesResource
	}
	if a.may(user, groups, "bind", role, namespace, ref.Name) {
		return nil
	}
	rules, ok := a.cfg.Policy.RoleRules(ref, namespace)
	if !ok {
		return apierrors.NewNotFound(schema.ParseGroupResource(role), ref.Name)
	}
	return a.holdsAll(user, groups, binding, resource, rules)
}

func (a *Authorizer) holdsAll(user string, groups []string, obj object.Object, resource string, rules []rbacv1.PolicyRule) error {
	held, _ := a.Rules(user, groups, obj.GetNamespace())
	missing := uncovered(held, rules)
	if len(missing) == 0 {
		return nil
	}
	lines := make([]string, len(missing))
	for i := range missing {
		lines[i] = describe(&missing[i])
	}
	return apierrors.NewForbidden(schema.ParseGroupResource(resource), obj.GetName(), fmt.Errorf(
		"user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s", user, groups, strings.Join(lines, "\n")))
}

// Complete gives an aggregated role the rules that it has; other objects stay as they are.
func (a *Authorizer) Complete(obj object.Object) {
	role, ok := obj.(*rbacv1.ClusterRole)
	if !ok || role.AggregationRule == nil {
		return
	}
	rules := a.cfg.Policy.Aggregated(role.Name, role.AggregationRule)
	if !equality.Semantic.DeepEqual(rules, role.Rules) {
		role.Rules = rules
	}
}

// Outdated names the ClusterRoles that Complete would change.
func (a *Authorizer) Outdated() []string { return a.cfg.Policy.Outdated() }

// Renew adds to a default role or binding what it lacks of what it should be, and tells
// whether that was anything. What users have added stays; what they wish to keep as it is
// they annotate (rbac.authorization.kubernetes.io/autoupdate: "false"). again is true for
// a binding that must be made anew, because it leads to another role.
func Renew(have, want object.Object) (changed, again bool) {
	if have.GetAnnotations()[rbacv1.AutoUpdateAnnotationKey] == "false" {
		return false, false
	}
	labels, moreLabels := withMissing(have.GetLabels(), want.GetLabels())
	annotations, moreAnnotations := withMissing(have.GetAnnotations(), want.GetAnnotations())
	have.SetLabels(labels)
	have.SetAnnotations(annotations)
	changed = moreLabels || moreAnnotations
	switch want := want.(type) {
	case *rbacv1.Role:
		have, _ := have.(*rbacv1.Role)
		missing := uncovered(have.Rules, want.Rules)
		have.Rules = append(have.Rules, missing...)
		return changed || len(missing) > 0, false
	case *rbacv1.ClusterRole:
		have, _ := have.(*rbacv1.ClusterRole)
		if want.AggregationRule != nil {
			missing := have.AggregationRule == nil
			if missing {
				have.AggregationRule = want.AggregationRule.DeepCopy()
			}
			return changed || missing, false
		}
		missing := uncovered(have.Rules, want.Rules)
		have.Rules = append(have.Rules, missing...)
		return changed || len(missing) > 0, false
	case *rbacv1.RoleBinding:
		have, _ := have.(*rbacv1.RoleBinding)
		subjects, more := withSubjects(have.Subjects, want.Subjects)
		have.Subjects = subjects
		return changed || more, have.RoleRef != want.RoleRef
	case *rbacv1.ClusterRoleBinding:
		have, _ := have.(*rbacv1.ClusterRoleBinding)
		subjects, more := withSubjects(have.Subjects, want.Subjects)
		have.Subjects = subjects
		return changed || more, have.RoleRef != want.RoleRef
	}
	return changed, false
}

func withMissing(have, want map[string]string) (map[string]string, bool) {
	more := false
	for key, value := range want {
		if _, ok := have[key]; ok {
			continue
		}
		if have == nil {
			have = map[string]string{}
		}
		have[key], more = value, true
	}
	return have, more
}

func withSubjects(have, want []rbacv1.Subject) ([]rbacv1.Subject, bool) {
	more := false
	for _, one := range want {
		if !slices.Contains(have, one) {
			have, more = append(have, one), true
		}
	}
	return have, more
}
