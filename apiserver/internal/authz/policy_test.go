package authz_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"kijabi.dev/apiserver/internal/authz"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
)

// decode reads manifests separated by "---".
func decode(t testing.TB, manifests string) []object.Object {
	t.Helper()
	var out []object.Object
	for _, text := range strings.Split(manifests, "---\n") {
		var head metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(text), &head); err != nil {
			t.Fatal(err)
		}
		kind, ok := object.KindFor(schema.GroupVersionKind{Group: rbacv1.GroupName, Version: "v1", Kind: head.Kind})
		if !ok {
			t.Fatalf("no kind %q", head.Kind)
		}
		obj := kind.New()
		if err := yaml.UnmarshalStrict([]byte(text), obj); err != nil {
			t.Fatal(err)
		}
		out = append(out, obj)
	}
	return out
}

func record(t testing.TB, obj object.Object) *store.Record {
	t.Helper()
	kind, err := object.KindOfObject(obj)
	if err != nil {
		t.Fatal(err)
	}
	value, err := obj.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return &store.Record{Key: store.Key{Resource: kind.GroupResource().String(), Namespace: obj.GetNamespace(), Name: obj.GetName()}, Value: value}
}

// policyOf is a policy that holds the objects.
func policyOf(t testing.TB, objects ...object.Object) *authz.Policy {
	t.Helper()
	p := authz.NewPolicy()
	p.Reset(func(yield func(*store.Record) bool) {
		for _, obj := range objects {
			if !yield(record(t, obj)) {
				return
			}
		}
	})
	return p
}

func apply(t testing.TB, p *authz.Policy, kind store.EventType, objects ...object.Object) {
	t.Helper()
	events := make([]store.Event, 0, len(objects))
	for _, obj := range objects {
		events = append(events, store.Event{Type: kind, Record: record(t, obj)})
	}
	p.Begin()
	p.Apply(events)
}

const manifests = `kind: ClusterRole
metadata: {name: pod-reader}
rules:
- {apiGroups: [""], resources: [pods, pods/log], verbs: [get, list, watch]}
- {nonResourceURLs: [/metrics, /debug/*], verbs: [get]}
---
kind: ClusterRole
metadata: {name: scaler}
rules: [{apiGroups: [apps], resources: ['*/scale'], verbs: ['*']}]
---
kind: ClusterRole
metadata: {name: namespace-reader}
rules: [{apiGroups: [""], resources: [namespaces], verbs: [get]}]
---
kind: Role
metadata: {name: editor, namespace: a}
rules:
- {apiGroups: ["", apps], resources: [configmaps, deployments], verbs: [create, update]}
- {apiGroups: [""], resources: [secrets], resourceNames: [one, two], verbs: [get, list, watch, delete]}
---
kind: ClusterRoleBinding
metadata: {name: ops-read-pods}
roleRef: {kind: ClusterRole, name: pod-reader}
subjects: [{kind: Group, name: ops}, {kind: Group, name: ops}]
---
kind: RoleBinding
metadata: {name: jane-reads-pods, namespace: a}
roleRef: {kind: ClusterRole, name: pod-reader}
subjects: [{kind: User, name: jane}]
---
kind: RoleBinding
metadata: {name: jane-reads-the-namespace, namespace: a}
roleRef: {kind: ClusterRole, name: namespace-reader}
subjects: [{kind: User, name: jane}]
---
kind: RoleBinding
metadata: {name: editors, namespace: a}
roleRef: {kind: Role, name: editor}
subjects: [{kind: ServiceAccount, name: robot}, {kind: ServiceAccount, name: robot, namespace: b}, {kind: User, name: jane}]
---
kind: ClusterRoleBinding
metadata: {name: scalers}
roleRef: {kind: ClusterRole, name: scaler}
subjects: [{kind: Group, name: 'system:serviceaccounts:b'}]
---
kind: ClusterRoleBinding
metadata: {name: dangling}
roleRef: {kind: ClusterRole, name: nowhere}
subjects: [{kind: User, name: joe}]
---
kind: RoleBinding
metadata: {name: other-kind, namespace: a}
roleRef: {kind: Role, name: pod-reader}
subjects: [{kind: User, name: joe}]
`

// ask is "USER[,GROUP…] VERB [GROUP/]RESOURCE[/SUB] [NAMESPACE/][NAME]", or a path for the resource;
// "-" stands for nothing. A name "?x" is a field selector of that name.
func ask(line string) authz.Attributes {
	words := strings.Fields(line)
	who := strings.Split(words[0], ",")
	attr := authz.Attributes{User: who[0], Groups: who[1:], Verb: words[1]}
	if strings.HasPrefix(words[2], "/") {
		attr.Path = words[2]
		return attr
	}
	resource, sub, _ := strings.Cut(words[2], ":")
	attr.Subresource = sub
	attr.Resource = schema.ParseGroupResource(resource)
	if len(words) > 3 {
		namespace, name, ok := strings.Cut(words[3], "/")
		if !ok {
			namespace, name = "", words[3]
		}
		attr.Namespace = namespace
		if selected, ok := strings.CutPrefix(name, "?"); ok {
			attr.FieldSelector = "metadata.name=" + selected
		} else {
			attr.Name = name
		}
	}
	return attr
}

func TestPolicy(t *testing.T) {
	authorizer := authz.New(authz.Config{Pods: podsFixture{}, Policy: policyOf(t, decode(t, manifests)...)})
	const robot = "system:serviceaccount:b:robot,system:serviceaccounts,system:serviceaccounts:b,system:authenticated"
	for line, want := range map[string]bool{
		// Cluster-wide bindings reach everywhere, roles' rules no further than they say.
		"joe,ops get pods a/web":        true,
		"joe,ops list pods":             true,
		"joe,ops get pods:log a/web":    true,
		"joe,ops get pods:exec a/web":   false,
		"joe,ops create pods a/web":     false,
		"joe,ops get pods.apps a/web":   false,
		"joe,ops get services a/web":    false,
		"joe get pods a/web":            false,
		"ops get pods a/web":            false, // a user named like the group
		"ops,joe get pods a/web":        false,
		"joe,ops get /metrics":          true,
		"joe,ops get /metrics/x":        false,
		"joe,ops get /debug/":           true,
		"joe,ops get /debug/pprof/heap": true,
		"joe,ops get /debug":            false,
		"joe,ops post /metrics":         false,
		"joe,ops get /":                 false,
		"nobody get /metrics":           false,
		// A binding in a namespace reaches that one only, and no paths.
		"jane list pods a/":                     true,
		"jane list pods b/":                     false,
		"jane list pods":                        false,
		"jane get /metrics":                     false,
		"jane get namespaces a":                 true,
		"jane get namespaces b":                 false,
		"jane list namespaces":                  false,
		"jane create configmaps a/":             true,
		"jane create deployments.apps a/":       true,
		"jane create deployments.extensions a/": false,
		"jane delete configmaps a/x":            false,
		// Names of objects.
		"jane get secrets a/one":               true,
		"jane get secrets a/three":             false,
		"jane delete secrets a/two":            true,
		"jane list secrets a/":                 false,
		"jane list secrets a/?one":             true,
		"jane watch secrets a/?two":            true,
		"jane list secrets a/?three":           false,
		"jane deletecollection secrets a/?one": false,
		"jane get secrets b/one":               false,
		// Service accounts, with and without a namespace of their own.
		"system:serviceaccount:a:robot create configmaps a/": true,
		robot + " create configmaps a/":                      true,
		robot + " create configmaps b/":                      false,
		"system:serviceaccount:c:robot create configmaps a/": false,
		robot + " update deployments.apps:scale c/web":       true,
		robot + " update statefulsets.apps:scale c/web":      true,
		robot + " update deployments.apps c/web":             false,
		robot + " update deployments.apps:status c/web":      false,
		robot + " update replicationcontrollers:scale c/web": false,
		// Roles that are not there, or are of another kind.
		"joe get pods a/x": false,
		// Administrators need no role; component certificates keep theirs.
		"root,system:masters get /anything":                         true,
		"root,system:masters escalate clusterroles.x y":             true,
		"kijabi:dns,kijabi:role:dns list services":                  true,
		"kijabi:dns,kijabi:role:dns list secrets":                   false,
		"kijabi:dns,kijabi:role:dns get /metrics":                   false,
		"kijabi:dns,kijabi:role:dns,ops get /metrics":               true,
		"system:node:n1,kijabi:role:node get /metrics":              false,
		"kijabi:apiserver:m1,kijabi:role:apiserver get /metrics":    false,
		"kijabi:apiserver:m1,kijabi:role:apiserver get secrets a/x": true,
	} {
		if err := authorizer.Authorize(t.Context(), ask(line)); (err == nil) != want {
			t.Errorf("%s: allowed %v, want %v: %v", line, err == nil, want, err)
		}
	}
}

func TestRefusalsSayWhy(t *testing.T) {
	authorizer := authz.New(authz.Config{Pods: podsFixture{}, Policy: policyOf(t, decode(t, manifests)...)})
	for line, want := range map[string]string{
		"nobody list pods":                  `pods is forbidden: User "nobody" cannot list resource "pods" in API group "" at the cluster scope`,
		"nobody get pods:log a/x":           `pods "x" is forbidden: User "nobody" cannot get resource "pods/log" in API group "" in the namespace "a"`,
		"nobody patch deployments.apps a/x": `deployments.apps "x" is forbidden: User "nobody" cannot patch resource "deployments" in API group "apps" in the namespace "a"`,
		"nobody get /metrics":               `forbidden: User "nobody" cannot get path "/metrics"`,
		"joe list pods":                     `pods is forbidden: User "joe" cannot list resource "pods" in API group "" at the cluster scope: RBAC: clusterrole.rbac.authorization.k8s.io "nowhere" not found`,
		"joe get pods a/x":                  `pods "x" is forbidden: User "joe" cannot get resource "pods" in API group "" in the namespace "a": RBAC: [clusterrole.rbac.authorization.k8s.io "nowhere" not found, role.rbac.authorization.k8s.io "pod-reader" not found]`,
	} {
		if err := authorizer.Authorize(t.Context(), ask(line)); err == nil || err.Error() != want {
			t.Errorf("%s:\n got %v\nwant %s", line, err, want)
		}
	}
}

// What is committed holds at once, and no longer than it is there.
func TestPolicyFollowsTheStore(t *testing.T) {
	p := policyOf(t)
	authorizer := authz.New(authz.Config{Pods: podsFixture{}, Policy: p})
	may := func(line string, want bool) {
		t.Helper()
		if err := authorizer.Authorize(t.Context(), ask(line)); (err == nil) != want {
			t.Errorf("%s: allowed %v, want %v", line, err == nil, want)
		}
	}
	parts := decode(t, `kind: ClusterRole
metadata: {name: r}
rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]
---
kind: RoleBinding
metadata: {name: b, namespace: a}
roleRef: {kind: ClusterRole, name: r}
subjects: [{kind: User, name: jane}, {kind: User, name: joe}]
---
kind: RoleBinding
metadata: {name: b, namespace: a}
roleRef: {kind: ClusterRole, name: r}
subjects: [{kind: User, name: joe}]
---
kind: ClusterRole
metadata: {name: r}
rules: [{apiGroups: [""], resources: [pods], verbs: [list]}]
`)
	apply(t, p, store.Added, parts[1])
	may("jane get pods a/x", false)
	apply(t, p, store.Added, parts[0])
	may("jane get pods a/x", true)
	apply(t, p, store.Modified, parts[2])
	may("jane get pods a/x", false)
	may("joe get pods a/x", true)
	apply(t, p, store.Modified, parts[3])
	may("joe get pods a/x", false)
	may("joe list pods a/", true)
	apply(t, p, store.Deleted, parts[2])
	may("joe list pods a/", false)
	apply(t, p, store.Added, parts[2])
	may("joe list pods a/", true)
	apply(t, p, store.Deleted, parts[3])
	may("joe list pods a/", false)
	p.Reset(func(func(*store.Record) bool) {})
	apply(t, p, store.Added, parts[3])
	may("joe list pods a/", false) // the binding went with the reset
}

const aggregated = `kind: ClusterRole
metadata: {name: admin}
aggregationRule: {clusterRoleSelectors: [{matchLabels: {to-admin: "true"}}]}
---
kind: ClusterRole
metadata: {name: view, labels: {to-admin: "true"}}
aggregationRule: {clusterRoleSelectors: [{matchLabels: {to-view: "true"}}, {matchExpressions: [{key: also, operator: Exists}]}]}
rules: [{apiGroups: ['*'], resources: ['*'], verbs: ['*']}]
---
kind: ClusterRoleBinding
metadata: {name: admins}
roleRef: {kind: ClusterRole, name: admin}
subjects: [{kind: User, name: jane}]
---
kind: ClusterRole
metadata: {name: pods, labels: {to-view: "true"}}
rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]
---
kind: ClusterRole
metadata: {name: pods-too, labels: {also: x}}
rules: [{apiGroups: [""], resources: [pods], verbs: [get]}, {apiGroups: [""], resources: [nodes], verbs: [get]}]
---
kind: ClusterRole
metadata: {name: round, labels: {to-view: "true"}}
aggregationRule: {clusterRoleSelectors: [{matchLabels: {to-admin: "true"}}]}
`

func TestAggregation(t *testing.T) {
	parts := decode(t, aggregated)
	p := policyOf(t, parts[:3]...)
	authorizer := authz.New(authz.Config{Pods: podsFixture{}, Policy: p})
	may := func(line string, want bool) {
		t.Helper()
		if err := authorizer.Authorize(t.Context(), ask(line)); (err == nil) != want {
			t.Errorf("%s: allowed %v, want %v", line, err == nil, want)
		}
	}
	may("jane get pods a/x", false) // what view says of itself does not count
	if got := p.Outdated(); !slices.Equal(got, []string{"view"}) {
		t.Errorf("outdated: %v", got)
	}
	apply(t, p, store.Added, parts[3])
	may("jane get pods a/x", true)
	apply(t, p, store.Added, parts[4])
	may("jane get nodes x", true)
	apply(t, p, store.Added, parts[5]) // roles that select each other end in the same rules
	may("jane get nodes x", true)
	rule := parts[0].(*rbacv1.ClusterRole).AggregationRule
	want := []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get"}},
		{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get"}},
	}
	if diff := cmp.Diff(want, p.Aggregated("admin", rule)); diff != "" {
		t.Error(diff)
	}
	if got := p.Outdated(); !slices.Equal(got, []string{"admin", "round", "view"}) {
		t.Errorf("outdated: %v", got)
	}
	apply(t, p, store.Deleted, parts[4])
	may("jane get nodes x", false)
	unlabelled := parts[3].DeepCopyObject().(*rbacv1.ClusterRole)
	unlabelled.Labels = nil
	apply(t, p, store.Modified, unlabelled)
	may("jane get pods a/x", false)
}

// A refusal is checked against fresh memory, once.
func TestRefusalsAreChecked(t *testing.T) {
	p := policyOf(t)
	asked := 0
	authorizer := authz.New(authz.Config{Pods: podsFixture{}, Policy: p, Refresh: func(context.Context) bool {
		asked++
		apply(t, p, store.Added, decode(t, manifests)...)
		return true
	}})
	if err := authorizer.Authorize(t.Context(), ask("system:anonymous,ops get pods a/x")); err == nil || asked != 0 {
		t.Errorf("anonymous callers may not cause reads: %v, asked %d times", err, asked)
	}
	for range 2 {
		if err := authorizer.Authorize(t.Context(), ask("joe,ops get pods a/x")); err != nil || asked != 1 {
			t.Errorf("%v, asked %d times", err, asked)
		}
	}
}

// A read is decided by what memory holds once it is proven.
func TestReadsAreProvenFirst(t *testing.T) {
	parts := decode(t, manifests)
	p := policyOf(t, parts...)
	type key struct{}
	proofs := 0
	authorizer := authz.New(authz.Config{Pods: podsFixture{}, Policy: p, Prove: func(ctx context.Context) (context.Context, error) {
		proofs++
		apply(t, p, store.Deleted, parts[4]) // the binding of the group ops
		return context.WithValue(ctx, key{}, true), nil
	}})
	for _, line := range []string{"root,system:masters get pods a/x", "kijabi:dns,kijabi:role:dns list services", "jane create configmaps a/"} {
		if ctx, err := authorizer.Admit(t.Context(), ask(line)); err != nil || proofs != 0 || ctx.Value(key{}) != nil {
			t.Errorf("%s: %v, %d proofs", line, err, proofs)
		}
	}
	if _, err := authorizer.Admit(t.Context(), ask("system:anonymous get pods a/x")); err == nil || proofs != 0 {
		t.Errorf("anonymous callers may not cause reads: %v", err)
	}
	if _, err := authorizer.Admit(t.Context(), ask("joe,ops get pods a/x")); err == nil || proofs != 1 {
		t.Errorf("admitted by a binding that is gone, %d proofs", proofs)
	}
	if ctx, err := authorizer.Admit(t.Context(), ask("jane get pods a/x")); err != nil || ctx.Value(key{}) == nil {
		t.Errorf("the proof is lost: %v", err)
	}
}

// BenchmarkAuthorize checks a service account's request in a cluster of 500 namespaces and
// 2,000 bindings.
func BenchmarkAuthorize(b *testing.B) {
	objects := authz.Defaults()
	for i := range 500 {
		objects = append(objects, decode(b, fmt.Sprintf(`kind: Role
metadata: {name: r, namespace: n%[1]d}
rules: [{apiGroups: [""], resources: [configmaps, secrets], verbs: [get, list, watch]}, {apiGroups: [apps], resources: [deployments], verbs: ['*']}]
---
kind: RoleBinding
metadata: {name: b, namespace: n%[1]d}
roleRef: {kind: Role, name: r}
subjects: [{kind: ServiceAccount, name: robot}, {kind: Group, name: dev}]
---
kind: RoleBinding
metadata: {name: admin, namespace: n%[1]d}
roleRef: {kind: ClusterRole, name: admin}
subjects: [{kind: User, name: owner-%[1]d}]
---
kind: RoleBinding
metadata: {name: view, namespace: n%[1]d}
roleRef: {kind: ClusterRole, name: view}
subjects: [{kind: Group, name: 'system:serviceaccounts:n%[1]d'}]
---
kind: ClusterRoleBinding
metadata: {name: view-%[1]d}
roleRef: {kind: ClusterRole, name: view}
subjects: [{kind: User, name: owner-%[1]d}]
`, i))...)
	}
	authorizer := authz.New(authz.Config{Pods: podsFixture{}, Policy: policyOf(b, objects...)})
	for name, line := range map[string]string{
		"granted": "system:serviceaccount:n7:robot,system:serviceaccounts,system:serviceaccounts:n7,system:authenticated update deployments.apps n7/web",
		"view":    "system:serviceaccount:n7:x,system:serviceaccounts,system:serviceaccounts:n7,system:authenticated list endpointslices.discovery.k8s.io n7/",
		"admin":   "owner-7,system:authenticated create rolebindings.rbac.authorization.k8s.io n7/",
	} {
		b.Run(name, func(b *testing.B) {
			attr := ask(line)
			b.ReportAllocs()
			for b.Loop() {
				if err := authorizer.Authorize(b.Context(), attr); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
