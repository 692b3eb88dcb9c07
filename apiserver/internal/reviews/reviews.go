// Package reviews answers questions about access: who am I, what may I or somebody else
// do, whose token is this. Both doors pass it the objects that are created to ask.
package reviews

import (
	"context"
	"fmt"
	"strings"
	"sync"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/apiserver/internal/authn"
	"kijabi.dev/apiserver/internal/authz"
	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/platform/kube/object"
)

// Authorizer decides about operations; *authz.Authorizer implements it.
type Authorizer interface {
	// Authorize returns nil, or a Forbidden StatusError.
	Authorize(ctx context.Context, attr authz.Attributes) error
	// Rules lists what a user may do in a namespace, and whether that is all.
	Rules(user string, groups []string, namespace string) (rules []rbacv1.PolicyRule, complete bool)
}

// Tokens tells whose a token is; *authn.Tokens implements it.
type Tokens interface {
	Authenticate(ctx context.Context, token string, audiences []string) (authn.User, []string, error)
}

// Reviews answers. It is safe for concurrent use.
type Reviews struct {
	authorizer Authorizer
	tokens     Tokens
}

// New returns Reviews. Without tokens (nil) no token is anybody's.
func New(authorizer Authorizer, tokens Tokens) *Reviews {
	return &Reviews{authorizer: authorizer, tokens: tokens}
}

// Kinds lists the kinds of questions in the order of discovery. The list is shared.
func Kinds() []object.Kind { return questions() }

var questions = sync.OnceValue(func() []object.Kind {
	return []object.Kind{
		object.KindOf[*authenticationv1.SelfSubjectReview](),
		object.KindOf[*authenticationv1.TokenReview](),
		object.KindOf[*authorizationv1.LocalSubjectAccessReview](),
		object.KindOf[*authorizationv1.SelfSubjectAccessReview](),
		object.KindOf[*authorizationv1.SelfSubjectRulesReview](),
		object.KindOf[*authorizationv1.SubjectAccessReview](),
	}
})

// KindOf finds a kind of question by its resource; an empty version means any.
func KindOf(gvr schema.GroupVersionResource) (object.Kind, bool) {
	all := Kinds()
	for i := range all {
		if kind := &all[i]; kind.GVR == gvr || gvr.Version == "" && kind.GroupResource() == gvr.GroupResource() {
			return *kind, true
		}
	}
	return object.Kind{}, false
}

// Answer fills in the status of a question that caller asks in a namespace (empty for
// kinds without). Asking needs the right to create such questions.
func (r *Reviews) Answer(ctx context.Context, caller registry.Caller, namespace string, question object.Object) error {
	kind, err := object.KindOfObject(question)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	if err := r.authorizer.Authorize(ctx, authz.Attributes{
		User: caller.User, Groups: caller.Groups, Verb: "create", Resource: kind.GroupResource(), Namespace: namespace,
	}); err != nil {
		return err
	}
	switch ask := question.(type) {
	case *authenticationv1.SelfSubjectReview:
		ask.Status.UserInfo = authn.User{Name: caller.User, UID: caller.UID, Groups: caller.Groups, Extra: caller.Extra}.Info()
	case *authenticationv1.TokenReview:
		return r.token(ctx, ask)
	case *authorizationv1.SelfSubjectAccessReview:
		ask.Status, err = r.access(ctx, caller.User, caller.Groups, ask.Spec.ResourceAttributes, ask.Spec.NonResourceAttributes)
	case *authorizationv1.SelfSubjectRulesReview:
		if ask.Spec.Namespace == "" {
			return apierrors.NewBadRequest("no namespace on request")
		}
		ask.Status = r.rules(caller, ask.Spec.Namespace)
	case *authorizationv1.SubjectAccessReview:
		ask.Status, err = r.accessOf(ctx, &ask.Spec)
	case *authorizationv1.LocalSubjectAccessReview:
		if a := ask.Spec.ResourceAttributes; a == nil || a.Namespace != namespace {
			return apierrors.NewBadRequest("spec.resourceAttributes.namespace must match the namespace on the URL")
		}
		ask.Status, err = r.accessOf(ctx, &ask.Spec)
	default:
		err = apierrors.NewInternalError(fmt.Errorf("no answer to %T", question))
	}
	return err
}

func (r *Reviews) token(ctx context.Context, ask *authenticationv1.TokenReview) error {
	if ask.Spec.Token == "" {
		return apierrors.NewBadRequest("token is required for TokenReview in authentication")
	}
	ask.Status = authenticationv1.TokenReviewStatus{}
	if r.tokens == nil {
		ask.Status.Error = "no tokens are issued here"
		return nil
	}
	user, audiences, err := r.tokens.Authenticate(ctx, ask.Spec.Token, ask.Spec.Audiences)
	if err != nil {
		ask.Status.Error = err.Error()
		return nil
	}
	ask.Status = authenticationv1.TokenReviewStatus{Authenticated: true, User: user.Info(), Audiences: audiences}
	return nil
}

// accessOf answers about somebody else.
func (r *Reviews) accessOf(ctx context.Context, spec *authorizationv1.SubjectAccessReviewSpec) (authorizationv1.SubjectAccessReviewStatus, error) {
	if spec.User == "" && len(spec.Groups) == 0 {
		return authorizationv1.SubjectAccessReviewStatus{}, apierrors.NewBadRequest("at least one of spec.user and spec.groups must be specified")
	}
	return r.access(ctx, spec.User, spec.Groups, spec.ResourceAttributes, spec.NonResourceAttributes)
}

func (r *Reviews) access(ctx context.Context, user string, groups []string, resource *authorizationv1.ResourceAttributes, path *authorizationv1.NonResourceAttributes) (authorizationv1.SubjectAccessReviewStatus, error) {
	if (resource == nil) == (path == nil) {
		return authorizationv1.SubjectAccessReviewStatus{}, apierrors.NewBadRequest("exactly one of spec.resourceAttributes and spec.nonResourceAttributes must be specified")
	}
	attr := authz.Attributes{User: user, Groups: groups}
	if path != nil {
		attr.Verb, attr.Path = strings.ToLower(path.Verb), path.Path
	} else {
		attr.Verb, attr.Resource = resource.Verb, schema.GroupResource{Group: resource.Group, Resource: resource.Resource}
		attr.Subresource, attr.Namespace, attr.Name = resource.Subresource, resource.Namespace, resource.Name
		attr.FieldSelector = fieldSelector(resource.FieldSelector)
	}
	if attr.Path == "" && path != nil {
		return authorizationv1.SubjectAccessReviewStatus{}, apierrors.NewBadRequest("spec.nonResourceAttributes.path must be specified")
	}
	err := r.authorizer.Authorize(ctx, attr)
	switch {
	case err == nil:
		return authorizationv1.SubjectAccessReviewStatus{Allowed: true}, nil
	case apierrors.IsForbidden(err):
		return authorizationv1.SubjectAccessReviewStatus{Reason: err.Error()}, nil
	default:
		return authorizationv1.SubjectAccessReviewStatus{}, fmt.Errorf("authorize %s: %w", attr.Verb, err)
	}
}

// fieldSelector writes what a question says of a selection as requests do.
func fieldSelector(asked *authorizationv1.FieldSelectorAttributes) string {
	if asked == nil {
		return ""
	}
	if asked.RawSelector != "" {
		return asked.RawSelector
	}
	var parts []string
	for _, one := range asked.Requirements {
		if one.Operator == "In" && len(one.Values) == 1 {
			parts = append(parts, one.Key+"="+one.Values[0])
		}
	}
	return strings.Join(parts, ",")
}

// rules lists what a caller may do in a namespace. Rights to single objects, such as a node's, do not show.
func (r *Reviews) rules(caller registry.Caller, namespace string) authorizationv1.SubjectRulesReviewStatus {
	rules, complete := r.authorizer.Rules(caller.User, caller.Groups, namespace)
	status := authorizationv1.SubjectRulesReviewStatus{
		ResourceRules: []authorizationv1.ResourceRule{}, NonResourceRules: []authorizationv1.NonResourceRule{}, Incomplete: !complete,
	}
	for _, rule := range rules {
		if len(rule.Resources) > 0 {
			status.ResourceRules = append(status.ResourceRules, authorizationv1.ResourceRule{
				Verbs: rule.Verbs, APIGroups: rule.APIGroups, Resources: rule.Resources, ResourceNames: rule.ResourceNames,
			})
		}
		if len(rule.NonResourceURLs) > 0 {
			status.NonResourceRules = append(status.NonResourceRules, authorizationv1.NonResourceRule{Verbs: rule.Verbs, NonResourceURLs: rule.NonResourceURLs})
		}
	}
	return status
}
