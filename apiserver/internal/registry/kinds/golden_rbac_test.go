package kinds_test

import (
	"fmt"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestGoldenRBAC(t *testing.T) {
	for _, g := range []golden{roleGolden(), clusterRoleGolden(), roleBindingGolden(), clusterRoleBindingGolden()} {
		t.Run(g.resource, g.run)
	}
}

func roleGolden() golden {
	return golden{
		resource: "roles.rbac.authorization.k8s.io",
		base: `
metadata: {name: reader, namespace: default}
rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]
`,
		valid: []string{
			"metadata.name = system:reader",
			"metadata.name = Reader of (pods)",
			"rules = ~",
			"rules = []",
			"rules[0].verbs = ['*'] & rules[0].resources = ['*'] & rules[0].apiGroups = ['*']",
			"rules[0].resourceNames = [web]",
			"rules[0].resources = [pods/log, '*/scale']",
			"rules[1] = {apiGroups: [apps], resources: [deployments], verbs: [odd]}",
		},
		invalid: []row{
			{"metadata.name = a/b", "metadata.name: FieldValueInvalid"},
			{"metadata.name = a%b", "metadata.name: FieldValueInvalid"},
			{"metadata.name = '..'", "metadata.name: FieldValueInvalid"},
			{"metadata.name = ~", "metadata.name: FieldValueRequired"},
			{"rules[0].verbs = []", "rules[0].verbs: FieldValueRequired"},
			{"rules[0].apiGroups = []", "rules[0].apiGroups: FieldValueRequired"},
			{"rules[0].resources = []", "rules[0].resources: FieldValueRequired"},
			{"rules[0] = {}", "rules[0].apiGroups: FieldValueRequired, rules[0].resources: FieldValueRequired, rules[0].verbs: FieldValueRequired"},
			{"rules[1] = {verbs: [get]}", "rules[1].apiGroups: FieldValueRequired, rules[1].resources: FieldValueRequired"},
			{"rules[0] = {nonResourceURLs: [/healthz], verbs: [get]}", "rules[0].nonResourceURLs: FieldValueInvalid"},
			{"rules[0] = {nonResourceURLs: [/healthz]}", "rules[0].nonResourceURLs: FieldValueInvalid, rules[0].verbs: FieldValueRequired"},
		},
		update: []row{
			{"rules[0].verbs = [get, list]", ""},
			{"rules = []", ""},
			{"rules[0].verbs = []", "rules[0].verbs: FieldValueRequired"},
			{"metadata.name = other", "metadata.name: FieldValueInvalid"},
		},
	}
}

func clusterRoleGolden() golden {
	return golden{
		resource: "clusterroles.rbac.authorization.k8s.io",
		base: `
metadata: {name: reader}
rules: [{apiGroups: [""], resources: [nodes], verbs: [get]}]
`,
		valid: []string{
			"metadata.name = system:aggregate-to-view",
			"rules = [{nonResourceURLs: [/metrics, /debug/*], verbs: [get]}]",
			"rules = [{nonResourceURLs: ['*'], verbs: ['*']}]",
			"rules = ~ & aggregationRule = {clusterRoleSelectors: [{matchLabels: {a: b}}]}",
			"aggregationRule = {clusterRoleSelectors: [{matchExpressions: [{key: a, operator: In, values: [b, c]}]}, {}]}",
		},
		invalid: []row{
			{"metadata.namespace = default", "metadata.namespace: FieldValueForbidden"},
			{"metadata.name = a/b", "metadata.name: FieldValueInvalid"},
			{"rules[0].verbs = ~", "rules[0].verbs: FieldValueRequired"},
			{"rules[0].resources = ~", "rules[0].resources: FieldValueRequired"},
			{"rules[0].nonResourceURLs = [/metrics]", "rules[0].nonResourceURLs: FieldValueInvalid"},
			{"rules[0] = {nonResourceURLs: [/metrics], resourceNames: [a], verbs: [get]}", "rules[0].nonResourceURLs: FieldValueInvalid"},
			{"rules[0] = {nonResourceURLs: [/metrics]}", "rules[0].verbs: FieldValueRequired"},
			{"aggregationRule = {}", "aggregationRule.clusterRoleSelectors: FieldValueRequired"},
			{"aggregationRule = {clusterRoleSelectors: []}", "aggregationRule.clusterRoleSelectors: FieldValueRequired"},
			{"aggregationRule = {clusterRoleSelectors: [{matchLabels: {'a b': c}}]}", "aggregationRule.clusterRoleSelectors[0].matchLabels: FieldValueInvalid"},
			{"aggregationRule = {clusterRoleSelectors: [{}, {matchExpressions: [{key: a, operator: In}]}]}", "aggregationRule.clusterRoleSelectors[1].matchExpressions[0].values: FieldValueRequired"},
			{"aggregationRule = {clusterRoleSelectors: [{matchExpressions: [{key: a, operator: Odd}]}]}", "aggregationRule.clusterRoleSelectors[0].matchExpressions[0].operator: FieldValueInvalid"},
		},
		update: []row{
			{"aggregationRule = {clusterRoleSelectors: [{matchLabels: {a: b}}]}", ""},
			{"aggregationRule = {}", "aggregationRule.clusterRoleSelectors: FieldValueRequired"},
			{"rules[0].apiGroups = ~", "rules[0].apiGroups: FieldValueRequired"},
		},
	}
}

func roleBindingGolden() golden {
	return golden{
		resource: "rolebindings.rbac.authorization.k8s.io",
		base: `
metadata: {name: readers, namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: User, apiGroup: rbac.authorization.k8s.io, name: jane}]
`,
		defaults: []row{
			{"roleRef.apiGroup = ~", "roleRef.apiGroup = rbac.authorization.k8s.io"},
			{"subjects[0].apiGroup = ~", "subjects[0].apiGroup = rbac.authorization.k8s.io"},
			{"subjects[0] = {kind: Group, name: dev}", "subjects[0].apiGroup = rbac.authorization.k8s.io"},
			{"subjects[0] = {kind: ServiceAccount, name: web, namespace: a}", "subjects[0].apiGroup = ~ & subjects[0].namespace = a"},
		},
		valid: []string{
			"subjects = ~",
			"roleRef.kind = ClusterRole & roleRef.name = system:view",
			"subjects[0] = {kind: ServiceAccount, name: web}",
			"subjects[0].name = jane@example.com",
			"metadata.name = system:readers",
		},
		invalid: []row{
			{"roleRef.apiGroup = apps", "roleRef.apiGroup: FieldValueNotSupported"},
			{"roleRef.kind = Deployment", "roleRef.kind: FieldValueNotSupported"},
			{"roleRef.kind = ~", "roleRef.kind: FieldValueNotSupported"},
			{"roleRef.name = ~", "roleRef.name: FieldValueRequired"},
			{"roleRef.name = a/b", "roleRef.name: FieldValueInvalid"},
			{"roleRef = {}", "roleRef.kind: FieldValueNotSupported, roleRef.name: FieldValueRequired"},
			{"subjects[0].name = ~", "subjects[0].name: FieldValueRequired"},
			{"subjects[0].kind = Robot", "subjects[0].kind: FieldValueNotSupported"},
			{"subjects[0].apiGroup = apps", "subjects[0].apiGroup: FieldValueNotSupported"},
			{"subjects[0] = {kind: ServiceAccount, name: web, apiGroup: rbac.authorization.k8s.io}", "subjects[0].apiGroup: FieldValueNotSupported"},
			{"subjects[0] = {kind: ServiceAccount, name: W_}", "subjects[0].name: FieldValueInvalid"},
			{"subjects[1] = {kind: Group}", "subjects[1].name: FieldValueRequired"},
			{"metadata.name = a/b", "metadata.name: FieldValueInvalid"},
		},
		update: []row{
			{"subjects[0].name = joe", ""},
			{"subjects = []", ""},
			{"roleRef.apiGroup = ~", ""},
			{"roleRef.name = other", "roleRef: FieldValueInvalid"},
			{"roleRef.kind = ClusterRole", "roleRef: FieldValueInvalid"},
			{"subjects[0].kind = Robot", "subjects[0].kind: FieldValueNotSupported"},
		},
	}
}

func clusterRoleBindingGolden() golden {
	return golden{
		resource: "clusterrolebindings.rbac.authorization.k8s.io",
		base: `
metadata: {name: readers}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reader}
subjects: [{kind: Group, apiGroup: rbac.authorization.k8s.io, name: dev}]
`,
		defaults: []row{
			{"roleRef.apiGroup = ~", "roleRef.apiGroup = rbac.authorization.k8s.io"},
			{"subjects[0] = {kind: User, name: jane}", "subjects[0].apiGroup = rbac.authorization.k8s.io"},
		},
		valid: []string{
			"subjects = []",
			"subjects[0] = {kind: ServiceAccount, name: web, namespace: a}",
		},
		invalid: []row{
			{"metadata.namespace = default", "metadata.namespace: FieldValueForbidden"},
			{"roleRef.kind = Role", "roleRef.kind: FieldValueNotSupported"},
			{"roleRef.name = '.'", "roleRef.name: FieldValueInvalid"},
			{"subjects[0] = {kind: ServiceAccount, name: web}", "subjects[0].namespace: FieldValueRequired"},
			{"subjects[0] = {kind: ServiceAccount}", "subjects[0].name: FieldValueRequired, subjects[0].namespace: FieldValueRequired"},
			{"subjects[0].kind = ~", "subjects[0].kind: FieldValueNotSupported"},
		},
		update: []row{
			{"subjects[0].name = ops", ""},
			{"roleRef.name = other", "roleRef: FieldValueInvalid"},
		},
	}
}

func TestRBACRows(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	meta := metav1.ObjectMeta{Name: "readers", CreationTimestamp: metav1.NewTime(now.Add(-time.Hour))}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: meta, RoleRef: rbacv1.RoleRef{Kind: "Role", Name: "reader"},
		Subjects: []rbacv1.Subject{
			{Kind: "User", Name: "jane"}, {Kind: "User", Name: "joe"}, {Kind: "Group", Name: "dev"},
			{Kind: "ServiceAccount", Namespace: "a", Name: "web"},
		},
	}
	if got, want := fmt.Sprint(kindOf(t, "rolebindings.rbac.authorization.k8s.io").Row(binding, now)), "[readers Role/reader 60m jane, joe dev a/web]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	role := &rbacv1.ClusterRole{ObjectMeta: meta}
	if got, want := fmt.Sprint(kindOf(t, "clusterroles.rbac.authorization.k8s.io").Row(role, now)), "[readers 2026-11-22T11:00:00Z]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
