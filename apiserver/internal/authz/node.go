package authz

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/fields"
)

// node decides for a kubelet, which may only touch what its own pods need.
func (a *Authorizer) node(attr *Attributes) bool {
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
			return a.cfg.Pods.NodeOf(attr.Namespace, attr.Name) == self
		}
		return false
	case "configmaps", "secrets", "persistentvolumeclaims":
		if !reads || attr.Subresource != "" || attr.Namespace == "" {
			return false
		}
		name := attr.Name
		if attr.Verb != "get" {
			name = named(attr.FieldSelector)
		}
		return name != "" && a.cfg.Pods.UsedOn(self, attr.Resource.Resource, attr.Namespace, name)
	case "persistentvolumes":
		switch {
		case !reads || attr.Subresource != "":
			return false
		case attr.Verb == "get":
			return attr.Name != "" && (a.cfg.Pods.UsedOn(self, attr.Resource.Resource, "", attr.Name) || a.cfg.Pods.KeptOn(self, attr.Name))
		}
		// Whoever watches a name hears of what gets it later: only pods' volumes, therefore.
		name := named(attr.FieldSelector)
		return name != "" && a.cfg.Pods.UsedOn(self, attr.Resource.Resource, "", name)
	case "serviceaccounts":
		// Which pod the token is bound to, the registry looks at.
		return attr.Verb == "create" && attr.Subresource == "token" &&
			a.cfg.Pods.UsedOn(self, attr.Resource.Resource, attr.Namespace, attr.Name)
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
