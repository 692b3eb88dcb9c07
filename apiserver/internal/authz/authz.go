// Package authz decides who may do what to which object. Both doors ask it before
// they call the registry, once for every operation of a request.
//
// It denies by default. Administrators (group system:masters) may do everything;
// each component has an allow-list; a node reaches its own objects and those its
// pods name, no others; everybody has what roles and their bindings grant (RBAC).
package authz

import (
	"context"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Names that carry rights; groups are organizations in certificates.
const (
	GroupAdmins          = "system:masters"
	GroupAuthenticated   = "system:authenticated"
	GroupUnauthenticated = "system:unauthenticated"
	UserAnonymous        = "system:anonymous"
	groupRole            = "kijabi:role:"
	nodeUserPrefix       = "system:node:"
)

// Attributes describe one operation, on a resource or on a path.
type Attributes struct {
	User   string
	Groups []string
	// Verb is Kubernetes': get, list, watch, create, update, patch, delete,
	// deletecollection, and special ones such as impersonate, bind, escalate. For a path, the
	// method in lower case.
	Verb        string
	Resource    schema.GroupResource
	Subresource string
	Namespace   string
	Name        string
	// FieldSelector of a list or watch.
	FieldSelector string
	// Path of a request that concerns no resource, such as "/version"; the fields about
	// resources are empty then.
	Path string
}

// name is the object that is meant: a list or watch may select one by its name.
func (attr *Attributes) name() string {
	if attr.Name == "" && attr.FieldSelector != "" && (attr.Verb == "list" || attr.Verb == "watch") {
		return named(attr.FieldSelector)
	}
	return attr.Name
}

// namespace is where bindings apply: a Namespace itself belongs to the one it makes.
func (attr *Attributes) namespace() string {
	if attr.Namespace == "" && attr.Resource.Resource == "namespaces" && attr.Resource.Group == "" {
		return attr.Name
	}
	return attr.Namespace
}

// Pods tells where pods run and what they use. Implemented in package app, over the store.
type Pods interface {
	// NodeOf returns the node a pod is bound to, empty if none or no such pod.
	NodeOf(namespace, name string) string
	// UsedOn says whether a pod bound to the node names the object; resource is
	// "configmaps", "secrets", "serviceaccounts", "persistentvolumeclaims", or
	// "persistentvolumes", which pods name by their claims.
	UsedOn(node, resource, namespace, name string) bool
	// KeptOn says whether a PersistentVolume is a directory of the node that its kubelet
	// made, or does not exist: then the kubelet may remove the directory.
	KeptOn(node, name string) bool
}

// Config of an Authorizer.
type Config struct {
	// Pods is asked for what nodes may reach. Required.
	Pods Pods
	// Policy holds roles and bindings. Required.
	Policy *Policy
	// Refresh brings this master's memory up to date and returns true, or returns false if
	// it has been so all along. It is asked before an operation is refused: the right to
	// it may have been granted on another master a moment ago. Optional.
	Refresh func(ctx context.Context) bool
	// Prove brings this master's memory up to date for a request that reads, which then
	// needs no further proof with the context returned; errors are StatusErrors. Optional.
	Prove func(ctx context.Context) (context.Context, error)
}

// Authorizer decides. It is safe for concurrent use.
type Authorizer struct{ cfg Config }

// New returns an authorizer.
func New(cfg Config) *Authorizer { return &Authorizer{cfg: cfg} }

// Authorize returns nil, or a Forbidden StatusError that names user, verb and object.
func (a *Authorizer) Authorize(ctx context.Context, attr Attributes) error {
	if a.allows(&attr) {
		return nil
	}
	if a.cfg.Refresh != nil && attr.User != "" && attr.User != UserAnonymous && a.cfg.Refresh(ctx) && a.allows(&attr) {
		return nil
	}
	return a.forbidden(&attr)
}

// Lasting tells whether the rights of a user with these groups are the same at any time:
// those of administrators and components, which no binding gives. Whoever serves a long
// stream to somebody else asks again now and then.
func Lasting(groups []string) bool {
	return slices.ContainsFunc(groups, func(group string) bool {
		return group == GroupAdmins || strings.HasPrefix(group, groupRole)
	})
}

// Admit authorizes a request at a door, by all that was committed before it began, and
// returns the context to perform it with. Reads prove their memory first, since this master
// may not have heard yet of a right that is gone; a write's caller is authorized again by the
// master that performs it. A short request only: see Authorize for others.
func (a *Authorizer) Admit(ctx context.Context, attr Attributes) (context.Context, error) {
	if a.cfg.Prove != nil && !Lasting(attr.Groups) && attr.User != UserAnonymous && slices.Contains(read, attr.Verb) {
		proven, err := a.cfg.Prove(ctx)
		if err != nil {
			return ctx, err
		}
		ctx = proven
	}
	return ctx, a.Authorize(ctx, attr)
}

func (a *Authorizer) allows(attr *Attributes) bool {
	if slices.Contains(attr.Groups, GroupAdmins) {
		return true
	}
	for _, group := range attr.Groups {
		role, ok := strings.CutPrefix(group, groupRole)
		if ok && (role == "node" && attr.Path == "" && a.node(attr) || component(role, attr)) {
			return true
		}
	}
	return a.cfg.Policy.allows(attr)
}

// Rules lists what a user may do in a namespace. It is not complete for nodes, whose
// rights depend on their pods.
func (a *Authorizer) Rules(user string, groups []string, namespace string) (rules []rbacv1.PolicyRule, complete bool) {
	complete = true
	if slices.Contains(groups, GroupAdmins) {
		rules = append(rules, everything()...)
	}
	for _, group := range groups {
		role, ok := strings.CutPrefix(group, groupRole)
		if !ok {
			continue
		}
		complete = complete && role != "node"
		rules = append(rules, componentRules(role)...)
	}
	return append(rules, a.cfg.Policy.rulesFor(user, groups, namespace)...), complete
}

func everything() []rbacv1.PolicyRule {
	all := []string{"*"}
	return []rbacv1.PolicyRule{{Verbs: all, APIGroups: all, Resources: all}, {Verbs: all, NonResourceURLs: all}}
}

func (a *Authorizer) forbidden(attr *Attributes) error {
	if attr.Path != "" {
		return apierrors.NewForbidden(schema.GroupResource{}, "", message(fmt.Sprintf("User %q cannot %s path %q", attr.User, attr.Verb, attr.Path)))
	}
	resource := attr.Resource.Resource
	if attr.Subresource != "" {
		resource += "/" + attr.Subresource
	}
	scope := "at the cluster scope"
	if namespace := attr.namespace(); namespace != "" {
		scope = fmt.Sprintf("in the namespace %q", namespace)
	}
	text := fmt.Sprintf("User %q cannot %s resource %q in API group %q %s", attr.User, attr.Verb, resource, attr.Resource.Group, scope)
	switch missing := a.cfg.Policy.unmade(attr); len(missing) {
	case 0:
	case 1:
		text += ": RBAC: " + missing[0]
	default:
		text += ": RBAC: [" + strings.Join(missing, ", ") + "]"
	}
	return apierrors.NewForbidden(attr.Resource, attr.Name, message(text))
}

// message is a text of Kubernetes' wording as an error.
type message string

func (m message) Error() string { return string(m) }
