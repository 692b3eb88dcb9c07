package expression

import (
	"context"

	"github.com/google/cel-go/common/types/ref"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/cel/library"
)

// Right is what an expression asks about: an operation on a resource, or on a path.
type Right struct {
	User                                                      string
	Groups                                                    []string
	Verb, Group, Resource, Subresource, Namespace, Name, Path string
}

// Rights answers from memory whether somebody may do something; nil means yes.
type Rights func(ctx context.Context, right Right) error

// Authorize implements authorizer.UnconditionalAuthorizer.
func (may Rights) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	right := Right{User: a.GetUser().GetName(), Groups: a.GetUser().GetGroups(), Verb: a.GetVerb()}
	if a.IsResourceRequest() {
		right.Group, right.Resource, right.Subresource = a.GetAPIGroup(), a.GetResource(), a.GetSubresource()
		right.Namespace, right.Name = a.GetNamespace(), a.GetName()
	} else {
		right.Path = a.GetPath()
	}
	if may == nil {
		return authorizer.DecisionNoOpinion, "nobody knows about rights here", nil
	}
	if err := may(ctx, right); err != nil {
		return authorizer.DecisionNoOpinion, err.Error(), nil //nolint:nilerr // a refusal is an answer
	}
	return authorizer.DecisionAllow, "", nil
}

// Who is the user whose rights expressions ask about.
type Who struct {
	User, UID string
	Groups    []string
	Extra     map[string][]string
}

// Target is what a request is about.
type Target struct {
	Resource                     schema.GroupVersionResource
	Subresource, Namespace, Name string
}

var _ library.Resource = Target{}

// GetResource implements library.Resource.
func (t Target) GetResource() schema.GroupVersionResource { return t.Resource }

// GetName implements library.Resource.
func (t Target) GetName() string { return t.Name }

// GetNamespace implements library.Resource.
func (t Target) GetNamespace() string { return t.Namespace }

// GetSubresource implements library.Resource.
func (t Target) GetSubresource() string { return t.Subresource }

// Of returns the values of "authorizer" and "authorizer.requestResource".
func (may Rights) Of(who Who, target Target) (all, own ref.Val) {
	info := &user.DefaultInfo{Name: who.User, UID: who.UID, Groups: who.Groups, Extra: who.Extra}
	return library.NewAuthorizerVal(info, may), library.NewResourceAuthorizerVal(info, may, target)
}
