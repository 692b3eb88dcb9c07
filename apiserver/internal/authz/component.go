package authz

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"

	"kijabi.dev/platform/kube/object"
)

// rule admits verbs on resources; "*" stands for all. A resource is written
// "pods", "deployments.apps" or "pods/status".
type rule struct{ verbs, resources []string }

// defined stands for the kinds that users have defined, in groups whose names have a dot,
// without their subresources; definedScale for their sizes. No resource is called so.
const (
	defined      = "(defined)"
	definedScale = defined + "/scale"
)

func (r rule) admits(attr *Attributes) bool {
	resource := attr.Resource.String()
	if strings.Contains(attr.Resource.Group, ".") && (slices.Contains(r.resources, defined) || slices.Contains(r.resources, definedScale)) {
		if _, builtIn := object.KindForResource(attr.Resource); !builtIn {
			resource = defined
		}
	}
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

// stored lists the resources of every kind that has objects: a namespace that goes away
// may hold any.
func stored() []string {
	var out []string
	for _, kind := range object.Kinds() {
		if kind.NewList != nil {
			out = append(out, kind.GroupResource().String())
		}
	}
	return out
}

// allowed lists what each role may do, besides nodes, whose rights depend on their pods.
var allowed = map[string][]rule{
	// An apiserver acts for the cluster itself: bootstrap objects, leases of nodes.
	"apiserver": {{[]string{"*"}, []string{"*"}}},
	// Loops collect objects of every kind, with their namespace or their owner, but run
	// nothing inside pods.
	"controller-manager": {
		{append(read, "update", "patch", "delete", "deletecollection"), append(stored(), defined)},
		{append(read, "create", "update", "patch", "delete", "deletecollection"), []string{
			"namespaces", "nodes", "pods", "services", "configmaps", "secrets", "serviceaccounts", "events",
			"deployments.apps", "replicasets.apps", "controllerrevisions.apps", "jobs.batch", "leases.coordination.k8s.io",
			"endpointslices.discovery.k8s.io", "endpoints", "events.events.k8s.io",
			"persistentvolumes", "persistentvolumeclaims", "volumeattachments.storage.k8s.io",
		}},
		{[]string{"get", "update", "patch"}, []string{
			"persistentvolumes/status", "persistentvolumeclaims/status",
			"namespaces/status", "namespaces/finalize", "nodes/status", "pods/status", "services/status",
			"customresourcedefinitions.apiextensions.k8s.io/status",
			"deployments.apps/status", "deployments.apps/scale", "replicasets.apps/status", "replicasets.apps/scale",
			"statefulsets.apps/status", "daemonsets.apps/status",
			"replicationcontrollers/status", "replicationcontrollers/scale", "statefulsets.apps/scale", definedScale,
			"poddisruptionbudgets.policy/status", "horizontalpodautoscalers.autoscaling/status",
			"jobs.batch/status", "cronjobs.batch/status",
		}},
	},
	"scheduler": {
		{read, []string{"nodes", "pods", "namespaces", "services", "replicasets.apps", "storageclasses.storage.k8s.io"}},
		// It reserves volumes for claims and says for which node a volume is to be made.
		{append(read, "update", "patch"), []string{"persistentvolumes", "persistentvolumeclaims"}},
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

// component decides for the holder of a component's role.
func component(role string, attr *Attributes) bool {
	for _, r := range allowed[role] {
		if attr.Path == "" && r.admits(attr) {
			return true
		}
	}
	return false
}

// componentRules lists what a component's role allows as rules of a role.
func componentRules(role string) []rbacv1.PolicyRule {
	var out []rbacv1.PolicyRule
	for _, r := range allowed[role] {
		for _, resource := range r.resources {
			if strings.HasPrefix(resource, defined) {
				continue // no rule can say it
			}
			name, sub, _ := strings.Cut(resource, "/")
			name, group, _ := strings.Cut(name, ".")
			if resource == "*" {
				group = "*"
			}
			if sub != "" {
				name += "/" + sub
			}
			out = append(out, rbacv1.PolicyRule{Verbs: slices.Clone(r.verbs), APIGroups: []string{group}, Resources: []string{name}})
		}
	}
	return out
}
