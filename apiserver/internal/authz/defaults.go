package authz

import (
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/platform/kube/object"
)

// defaultLabel marks the roles and bindings that every cluster has.
const defaultLabel = "kubernetes.io/bootstrapping"

// aggregateTo labels a role whose rules another one takes up.
func aggregateTo(role string) string { return "rbac.authorization.k8s.io/aggregate-to-" + role }

func ruleOf(verbs, groups, resources []string, names ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: verbs, APIGroups: groups, Resources: resources, ResourceNames: names}
}

func pathRule(paths ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: paths}
}

func defaultMeta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: namespace, Name: name, Labels: map[string]string{defaultLabel: "rbac-defaults"},
		Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"},
	}
}

func clusterRole(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{ObjectMeta: defaultMeta("", name), Rules: rules}
}

// labelled adds labels to a default role.
func labelled(role *rbacv1.ClusterRole, labels ...string) *rbacv1.ClusterRole {
	for _, label := range labels {
		role.Labels[label] = "true"
	}
	return role
}

// collecting is a role made of those that are labelled for it.
func collecting(name string, labels ...string) *rbacv1.ClusterRole {
	role := labelled(clusterRole(name), labels...)
	role.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{
		{MatchLabels: map[string]string{aggregateTo(name): "true"}},
	}}
	return role
}

func groups(names ...string) []rbacv1.Subject {
	var out []rbacv1.Subject
	for _, name := range names {
		out = append(out, rbacv1.Subject{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: name})
	}
	return out
}

func roleRef(kind, name string) rbacv1.RoleRef {
	return rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: name}
}

// bound gives a default ClusterRole to groups.
func bound(role string, names ...string) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{ObjectMeta: defaultMeta("", role), RoleRef: roleRef("ClusterRole", role), Subjects: groups(names...)}
}

// Defaults lists the roles and bindings that every cluster begins with. Users rely on the
// names of Kubernetes; components and nodes need none of them, their rights are their own.
func Defaults() []object.Object {
	var out []object.Object
	for _, role := range defaultRoles() {
		out = append(out, role)
	}
	return append(out, defaultBindings()...)
}

func defaultRoles() []*rbacv1.ClusterRole { return append(userRoles(), certificateRoles()...) }

// certificateRoles are for who asks for certificates and who approves them; nobody has them
// unless an administrator says so.
func certificateRoles() []*rbacv1.ClusterRole {
	const prefix, group = "system:certificates.k8s.io:", certificatesv1.GroupName
	roles := []*rbacv1.ClusterRole{
		clusterRole(prefix+"certificatesigningrequests:nodeclient", ruleOf([]string{"create"}, []string{group}, []string{"certificatesigningrequests/nodeclient"})),
		clusterRole(prefix+"certificatesigningrequests:selfnodeclient", ruleOf([]string{"create"}, []string{group}, []string{"certificatesigningrequests/selfnodeclient"})),
	}
	for _, signer := range []string{
		certificatesv1.KubeAPIServerClientSignerName, certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.KubeletServingSignerName,
	} {
		roles = append(roles, clusterRole(prefix+strings.TrimPrefix(signer, "kubernetes.io/")+"-approver",
			ruleOf([]string{"approve"}, []string{group}, []string{"signers"}, signer)))
	}
	return roles
}

func userRoles() []*rbacv1.ClusterRole {
	all, core := []string{"*"}, []string{""}
	change := []string{"create", "delete", "deletecollection", "patch", "update"}
	create := []string{"create"}
	reviews := "authorization.k8s.io"
	discovery := []string{"/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version", "/version/"}
	return []*rbacv1.ClusterRole{
		clusterRole("cluster-admin", ruleOf(all, all, all), rbacv1.PolicyRule{Verbs: all, NonResourceURLs: all}),
		collecting("admin"),
		collecting("edit", aggregateTo("admin")),
		collecting("view", aggregateTo("edit")),
		labelled(clusterRole(
			"system:aggregate-to-admin",
			ruleOf(create, []string{reviews}, []string{"localsubjectaccessreviews"}),
			ruleOf(append(change, read...), []string{rbacv1.GroupName}, []string{"rolebindings", "roles"}),
		), aggregateTo("admin")),
		labelled(clusterRole("system:aggregate-to-edit",
			ruleOf(read, core, []string{"pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "secrets", "services/proxy"}),
			ruleOf([]string{"impersonate"}, core, []string{"serviceaccounts"}),
			ruleOf(change, core, []string{"pods", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy"}),
			ruleOf(create, core, []string{"pods/eviction", "pods/restart"}),
			ruleOf(change, core, []string{
				"configmaps", "endpoints", "events", "persistentvolumeclaims", "replicationcontrollers", "replicationcontrollers/scale",
				"secrets", "serviceaccounts", "services", "services/proxy",
			}),
			ruleOf(create, core, []string{"serviceaccounts/token"}),
			ruleOf(change, []string{"apps"}, []string{
				"daemonsets", "deployments", "deployments/rollback", "deployments/scale", "replicasets", "replicasets/scale",
				"statefulsets", "statefulsets/scale",
			}),
			ruleOf(change, []string{"autoscaling"}, []string{"horizontalpodautoscalers"}),
			ruleOf(change, []string{"batch"}, []string{"cronjobs", "jobs"}),
			ruleOf(change, []string{"policy"}, []string{"poddisruptionbudgets"}),
			ruleOf(change, []string{"networking.k8s.io"}, []string{"ingresses", "networkpolicies"}),
			ruleOf(append(change, read...), []string{"coordination.k8s.io"}, []string{"leases"}),
		), aggregateTo("edit")),
		labelled(clusterRole("system:aggregate-to-view",
			ruleOf(read, core, []string{
				"bindings", "configmaps", "endpoints", "events", "limitranges", "namespaces", "namespaces/status",
				"persistentvolumeclaims", "persistentvolumeclaims/status", "pods", "pods/log", "pods/status",
				"replicationcontrollers", "replicationcontrollers/scale", "replicationcontrollers/status",
				"resourcequotas", "resourcequotas/status", "serviceaccounts", "services", "services/status",
			}),
			ruleOf(read, []string{"discovery.k8s.io"}, []string{"endpointslices"}),
			ruleOf(read, []string{"events.k8s.io"}, []string{"events"}),
			ruleOf(read, []string{"apps"}, []string{
				"controllerrevisions", "daemonsets", "daemonsets/status", "deployments", "deployments/scale", "deployments/status",
				"replicasets", "replicasets/scale", "replicasets/status", "statefulsets", "statefulsets/scale", "statefulsets/status",
			}),
			ruleOf(read, []string{"autoscaling"}, []string{"horizontalpodautoscalers", "horizontalpodautoscalers/status"}),
			ruleOf(read, []string{"batch"}, []string{"cronjobs", "cronjobs/status", "jobs", "jobs/status"}),
			ruleOf(read, []string{"policy"}, []string{"poddisruptionbudgets", "poddisruptionbudgets/status"}),
			ruleOf(read, []string{"networking.k8s.io"}, []string{"ingresses", "ingresses/status", "networkpolicies"}),
		), aggregateTo("view")),
		clusterRole("system:basic-user",
			ruleOf(create, []string{reviews}, []string{"selfsubjectaccessreviews", "selfsubjectrulesreviews"}),
			ruleOf(create, []string{"authentication.k8s.io"}, []string{"selfsubjectreviews"}),
		),
		clusterRole("system:discovery", pathRule(discovery...)),
		clusterRole("system:public-info-viewer", pathRule("/healthz", "/livez", "/readyz", "/version", "/version/")),
		clusterRole("system:monitoring", pathRule(
			"/healthz", "/healthz/*", "/livez", "/livez/*", "/metrics", "/metrics/controller-manager", "/metrics/slis", "/readyz", "/readyz/*",
		)),
		clusterRole("system:service-account-issuer-discovery", pathRule("/.well-known/openid-configuration", "/openid/v1/jwks", "/openid/v1/jwks/")),
		// For add-ons that ask who their callers are and what those may do.
		clusterRole("system:auth-delegator",
			ruleOf(create, []string{"authentication.k8s.io"}, []string{"tokenreviews"}),
			ruleOf(create, []string{reviews}, []string{"subjectaccessreviews"}),
		),
		// For a CoreDNS that runs with a service account.
		clusterRole("system:kube-dns",
			ruleOf([]string{"list", "watch"}, core, []string{"endpoints", "namespaces", "pods", "services"}),
			ruleOf([]string{"list", "watch"}, []string{"discovery.k8s.io"}, []string{"endpointslices"}),
		),
	}
}

func defaultBindings() []object.Object {
	const viewers, clusterInfo = "system:public-viewers", "system:cluster-info-viewers"
	return []object.Object{
		bound("cluster-admin", GroupAdmins),
		bound("system:basic-user", GroupAuthenticated),
		bound("system:discovery", GroupAuthenticated),
		bound("system:public-info-viewer", GroupAuthenticated, GroupUnauthenticated),
		bound("system:monitoring", "system:monitoring"),
		bound("system:service-account-issuer-discovery", "system:serviceaccounts"),
		&rbacv1.ClusterRoleBinding{
			ObjectMeta: defaultMeta("", "system:kube-dns"), RoleRef: roleRef("ClusterRole", "system:kube-dns"),
			Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: metav1.NamespaceSystem, Name: "kube-dns"}},
		},
		// kube-public is for all who are known; what leads to the cluster, for everybody.
		&rbacv1.RoleBinding{
			ObjectMeta: defaultMeta(metav1.NamespacePublic, viewers), RoleRef: roleRef("ClusterRole", "view"),
			Subjects: groups(GroupAuthenticated),
		},
		&rbacv1.Role{
			ObjectMeta: defaultMeta(metav1.NamespacePublic, clusterInfo),
			Rules:      []rbacv1.PolicyRule{ruleOf([]string{"get"}, []string{""}, []string{"configmaps"}, "cluster-info")},
		},
		&rbacv1.RoleBinding{
			ObjectMeta: defaultMeta(metav1.NamespacePublic, clusterInfo), RoleRef: roleRef("Role", clusterInfo),
			Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: UserAnonymous}},
		},
		&rbacv1.Role{
			ObjectMeta: defaultMeta(metav1.NamespaceSystem, "extension-apiserver-authentication-reader"),
			Rules: []rbacv1.PolicyRule{
				ruleOf([]string{"get", "list", "watch"}, []string{""}, []string{"configmaps"}, "extension-apiserver-authentication"),
			},
		},
	}
}
