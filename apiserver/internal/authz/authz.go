// Package authz decides who may do what to which object. Both doors ask it before
// they call the registry, once for every operation of a request.
//
// It denies by default. Administrators (group system:masters) may do everything;
// each component has an allow-list; a node reaches its own objects and those its
// pods name, no others.
package authz

import (
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Groups that carry rights; in certificates they are organizations.
const (
	GroupAdmins    = "system:masters"
	groupRole      = "kijabi:role:"
	nodeUserPrefix = "system:node:"
)

// Attributes describe one operation.
type Attributes struct {
	User   string
	Groups []string
	// Verb is Kubernetes': get, list, watch, create, update, patch, delete, deletecollection.
	Verb        string
	Resource    schema.GroupResource
	Subresource string
	Namespace   string
	Name        string
	// FieldSelector of a list or watch.
	FieldSelector string
}

// Pods tells where pods run and what they use. Implemented in package app, over the store.
type Pods interface {
	// NodeOf returns the node a pod is bound to, empty if none or no such pod.
	NodeOf(namespace, name string) string
	// UsedOn says whether a pod bound to the node names the object; resource is
	// "configmaps", "secrets" or "serviceaccounts".
	UsedOn(node, resource, namespace, name string) bool
}

// Authorizer decides. It is safe for concurrent use.
type Authorizer struct{ pods Pods }

// New returns an authorizer that asks pods for what nodes may reach.
func New(pods Pods) *Authorizer { return &Authorizer{pods: pods} }

// Authorize returns nil, or a Forbidden StatusError that names user, verb and object.
func (a *Authorizer) Authorize(attr Attributes) error {
	if slices.Contains(attr.Groups, GroupAdmins) {
		return nil
	}
	for _, group := range attr.Groups {
		role, ok := strings.CutPrefix(group, groupRole)
		if !ok {
			continue
		}
		if role == "node" && a.node(attr) {
			return nil
		}
		for _, r := range allowed[role] {
			if r.admits(attr) {
				return nil
			}
		}
	}
	return forbidden(attr)
}

// rule admits verbs on resources; "*" stands for all. A resource is written
// "pods", "deployments.apps" or "pods/status".
type rule struct{ verbs, resources []string }

func (r rule) admits(attr Attributes) bool {
	resource := attr.Resource.String()
	if attr.Subresource != "" {
		resource += "/" + attr.Subresource
	}
	return matches(r.verbs, attr.Verb) && matches(r.resources, resource)
}

func matches(list []string, value string) bool {
	return slices.Contains(list, value) || slices.Contains(list, "*")
}

var (
	read        = []string{"get", "list", "watch"}
	write       = []string{"create", "update", "patch", "delete"}
	emitsEvents = rule{[]string{"create", "update", "patch"}, []string{"events", "events.events.k8s.io"}}
	routing     = rule{read, []string{"nodes", "services", "endpointslices.discovery.k8s.io", "namespaces"}}
)

// allowed lists what each role may do, besides nodes, whose rights depend on their pods.
var allowed = map[string][]rule{
	// An apiserver acts for the cluster itself: bootstrap objects, leases of nodes.
	"apiserver": {{[]string{"*"}, []string{"*"}}},
	// Loops create and collect objects of every kind, but run nothing inside pods.
	"controller-manager": {
		{append(read, "create", "update", "patch", "delete", "deletecollection"), []string{
			"namespaces", "nodes", "pods", "services", "configmaps", "secrets", "serviceaccounts", "events",
			"deployments.apps", "replicasets.apps", "leases.coordination.k8s.io",
			"endpointslices.discovery.k8s.io", "events.events.k8s.io",
		}},
		{[]string{"get", "update", "patch"}, []string{
			"namespaces/status", "namespaces/finalize", "nodes/status", "pods/status", "services/status",
			"deployments.apps/status", "deployments.apps/scale", "replicasets.apps/status", "replicasets.apps/scale",
		}},
	},
	"scheduler": {
		{read, []string{"nodes", "pods", "namespaces", "services", "replicasets.apps"}},
		{[]string{"create"}, []string{"pods/binding"}},
		{[]string{"update", "patch"}, []string{"pods/status"}},
		{[]string{"delete"}, []string{"pods"}},
		emitsEvents,
	},
	"cloud-controller-manager": {
		{read, []string{"nodes", "services", "endpointslices.discovery.k8s.io"}},
		{write, []string{"nodes"}},
		{[]string{"update", "patch"}, []string{"nodes/status", "services", "services/status"}},
		emitsEvents,
	},
	"kube-proxy":    {routing, emitsEvents},
	"dns":           {routing, emitsEvents},
	"network-agent": {routing, emitsEvents},
}

// node decides for a kubelet, which may only touch what its own pods need.
func (a *Authorizer) node(attr Attributes) bool {
	self, ok := strings.CutPrefix(attr.User, nodeUserPrefix)
	if !ok || self == "" {
		return false
	}
	reads := slices.Contains(read, attr.Verb)
	switch attr.Resource.String() {
	case "nodes":
		return reads && attr.Subresource == "" ||
			attr.Name == self && slices.Contains([]string{"create", "update", "patch"}, attr.Verb) ||
			attr.Name == self && attr.Verb == "get"
	case "pods":
		switch {
		case attr.Verb == "list" || attr.Verb == "watch":
			return attr.Subresource == "" && requires(attr.FieldSelector, "spec.nodeName", self)
		case attr.Verb == "get" && attr.Subresource == "",
			attr.Verb == "delete" && attr.Subresource == "",
			(attr.Verb == "update" || attr.Verb == "patch") && attr.Subresource == "status":
			return a.pods.NodeOf(attr.Namespace, attr.Name) == self
		}
		return false
	case "configmaps", "secrets":
		if !reads || attr.Subresource != "" || attr.Namespace == "" {
			return false
		}
		name := attr.Name
		if attr.Verb != "get" {
			name = named(attr.FieldSelector)
		}
		return name != "" && a.pods.UsedOn(self, attr.Resource.Resource, attr.Namespace, name)
	case "services":
		return reads && attr.Subresource == ""
	case "leases.coordination.k8s.io":
		return attr.Namespace == "kube-node-lease" && attr.Name == self
	case "events", "events.events.k8s.io":
		return slices.Contains(emitsEvents.verbs, attr.Verb)
	}
	return false
}

// requires says whether a field selector demands field=value.
func requires(selector, field, value string) bool {
	parsed, err := fields.ParseSelector(selector)
	if err != nil {
		return false
	}
	got, found := parsed.RequiresExactMatch(field)
	return found && got == value
}

// named returns the name a field selector demands, empty if none.
func named(selector string) string {
	parsed, err := fields.ParseSelector(selector)
	if err != nil {
		return ""
	}
	name, _ := parsed.RequiresExactMatch("metadata.name")
	return name
}

func forbidden(attr Attributes) error {
	resource := attr.Resource.Resource
	if attr.Subresource != "" {
		resource += "/" + attr.Subresource
	}
	scope := "at the cluster scope"
	if attr.Namespace != "" {
		scope = fmt.Sprintf("in the namespace %q", attr.Namespace)
	}
	return apierrors.NewForbidden(schema.GroupResource{Group: attr.Resource.Group, Resource: resource}, attr.Name,
		fmt.Errorf("user %q cannot %s resource %q in API group %q %s", attr.User, attr.Verb, resource, attr.Resource.Group, scope))
}
