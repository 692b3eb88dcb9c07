package registry_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	certificatesv1 "k8s.io/api/certificates/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/apiserver/internal/authz"
	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/storage/memory"
	"kijabi.dev/apiserver/internal/store"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/pki"
)

// noPods: no node has any.
type noPods struct{}

func (noPods) NodeOf(string, string) string               { return "" }
func (noPods) UsedOn(string, string, string, string) bool { return false }
func (noPods) KeptOn(string, string) bool                 { return false }

// guarded is a registry that leads and asks the policy of its own objects.
type guarded struct {
	*master
	authorizer *authz.Authorizer
}

func guardedLeader(t testing.TB) guarded {
	t.Helper()
	s, err := store.New(store.Config{Name: "m1", Backend: memory.New(), Indexer: registry.NewIndexer(nil), Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	policy := authz.NewPolicy()
	s.Observe(policy)
	authorizer := authz.New(authz.Config{Pods: noPods{}, Policy: policy})
	engine, err := registry.New(registry.Config{Store: s, Network: configv1.DefaultNetwork(), Log: zap.NewNop(), Access: authorizer})
	if err != nil {
		t.Fatal(err)
	}
	group := lifecycle.NewGroup(context.Background())
	group.Go(s.Run)
	t.Cleanup(func() {
		group.Cancel()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
	})
	m := &master{Engine: engine, store: s, group: group}
	m.lead(t)
	m.namespace(t, "default")
	return guarded{m, authorizer}
}

func roleOf(name string, rules ...rbacv1.PolicyRule) *rbacv1.Role {
	return &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Rules: rules}
}

func clusterRoleOf(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}
}

func bindingOf(name, kind, role, user string) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: role},
		Subjects:   []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: user}},
	}
}

func grants(verb, resource string, names ...string) rbacv1.PolicyRule {
	group := ""
	if resource == "roles" || resource == "clusterroles" {
		group = rbacv1.GroupName
	}
	return rbacv1.PolicyRule{Verbs: []string{verb}, APIGroups: []string{group}, Resources: []string{resource}, ResourceNames: names}
}

func refOf(obj object.Object) registry.Ref {
	kind, _ := object.KindOfObject(obj)
	return registry.Ref{Resource: kind.GVR, Namespace: obj.GetNamespace(), Name: obj.GetName()}
}

// put creates objects as administrator.
func (g guarded) put(t testing.TB, objects ...object.Object) {
	t.Helper()
	for _, obj := range objects {
		if _, err := g.Create(t.Context(), admin, refOf(obj), obj, registry.WriteOptions{}); err != nil {
			t.Fatalf("%T %s: %v", obj, obj.GetName(), err)
		}
	}
}

// jane may read pods in the namespace default, bind the role "free" and escalate the role "loose".
func (g guarded) jane(t testing.TB) registry.Caller {
	t.Helper()
	g.put(t,
		roleOf("janes", grants("get", "pods"), grants("list", "pods"), grants("get", "secrets", "one"), grants("bind", "roles", "free"), grants("escalate", "roles", "loose")),
		bindingOf("janes", "Role", "janes", "jane"),
		roleOf("free", grants("delete", "nodes")), roleOf("tight", grants("delete", "pods")), roleOf("loose"), roleOf("small", grants("get", "pods")),
		clusterRoleOf("wide", grants("get", "pods"), rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: []string{"/metrics"}}),
	)
	return registry.Caller{User: "jane", Groups: []string{"system:authenticated"}, UserAgent: "test/1"}
}

const denied = `is forbidden: user "jane" (groups=["system:authenticated"]) is attempting to grant RBAC permissions not currently held:` + "\n"

func TestNobodyGrantsMoreThanTheyHold(t *testing.T) {
	g := guardedLeader(t)
	jane := g.jane(t)
	aggregating := clusterRoleOf("all")
	aggregating.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{}}}
	everywhere := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "x"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "wide"},
	}
	for _, c := range []struct {
		name string
		obj  object.Object
		want string // empty for success
	}{
		{"less", roleOf("r1", grants("get", "pods")), ""},
		{"as much", roleOf("r2", rbacv1.PolicyRule{Verbs: []string{"list", "get"}, APIGroups: []string{""}, Resources: []string{"pods"}}), ""},
		{"one object of all", roleOf("r3", grants("get", "pods", "web")), ""},
		{"the same object", roleOf("r4", grants("get", "secrets", "one")), ""},
		{"all objects of one", roleOf("r5", grants("get", "secrets")), `roles.rbac.authorization.k8s.io "r5" ` + denied + `{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}`},
		{"another object", roleOf("r6", grants("get", "secrets", "two")), denied + `{APIGroups:[""], Resources:["secrets"], ResourceNames:["two"], Verbs:["get"]}`},
		{"another verb", roleOf("r7", rbacv1.PolicyRule{Verbs: []string{"get", "delete", "watch"}, APIGroups: []string{""}, Resources: []string{"pods"}}), denied + `{APIGroups:[""], Resources:["pods"], Verbs:["delete" "watch"]}`},
		{"a subresource", roleOf("r8", grants("get", "pods/log")), denied + `{APIGroups:[""], Resources:["pods/log"], Verbs:["get"]}`},
		{"everything", roleOf("r9", grants("*", "*")), denied + `{APIGroups:[""], Resources:["*"], Verbs:["*"]}`},
		{"in the whole cluster", clusterRoleOf("r1", grants("get", "pods")), `clusterroles.rbac.authorization.k8s.io "r1" ` + denied},
		{"by aggregation", aggregating, `clusterroles.rbac.authorization.k8s.io "all" is forbidden: must have cluster-admin privileges to use an aggregationRule`},
		{"a name to escalate is no new role", roleOf("loose", grants("*", "*")), `already exists`},
		{"bind a held role", bindingOf("b1", "Role", "small", "joe"), ""},
		{"bind one's own role", bindingOf("b2", "Role", "janes", "joe"), ""},
		{"bind by right", bindingOf("b3", "Role", "free", "joe"), ""},
		{"bind a larger role", bindingOf("b4", "Role", "tight", "joe"), `rolebindings.rbac.authorization.k8s.io "b4" ` + denied + `{APIGroups:[""], Resources:["pods"], Verbs:["delete"]}`},
		{"bind a cluster role with paths", bindingOf("b5", "ClusterRole", "wide", "joe"), denied + `{NonResourceURLs:["/metrics"], Verbs:["get"]}`},
		{"bind what is not there", bindingOf("b6", "Role", "nowhere", "joe"), `roles.rbac.authorization.k8s.io "nowhere" not found`},
		{"bind everywhere", everywhere, `clusterrolebindings.rbac.authorization.k8s.io "x" ` + denied + `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}` + "\n" + `{NonResourceURLs:["/metrics"], Verbs:["get"]}`},
	} {
		for _, dry := range []bool{true, false} {
			_, err := g.Create(t.Context(), jane, refOf(c.obj), c.obj.DeepCopyObject().(object.Object), registry.WriteOptions{DryRun: dry})
			switch {
			case c.want == "" && err != nil:
				t.Errorf("%s (dry run %v): %v", c.name, dry, err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("%s (dry run %v):\n got %v\nwant %s", c.name, dry, err, c.want)
			}
		}
	}
}

func TestEveryWayOfWritingIsGuarded(t *testing.T) {
	g := guardedLeader(t)
	jane := g.jane(t)
	ctx := t.Context()
	larger := `{"rules":[{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}]}`
	apply := `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"Role","metadata":{"name":"NAME"},"rules":[{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}]}`
	small := refOf(roleOf("small"))
	fresh := refOf(roleOf("fresh"))
	options := registry.WriteOptions{FieldManager: "m"}
	for name, write := range map[string]func() error{
		"update": func() error {
			_, err := g.Update(ctx, jane, small, roleOf("small", grants("*", "*")), options)
			return err
		},
		"merge patch": func() error {
			_, err := g.Patch(ctx, jane, small, types.MergePatchType, []byte(larger), options)
			return err
		},
		"json patch": func() error {
			_, err := g.Patch(ctx, jane, small, types.JSONPatchType, []byte(`[{"op":"replace","path":"/rules/0/verbs","value":["*"]}]`), options)
			return err
		},
		"apply": func() error {
			_, err := g.Patch(ctx, jane, small, types.ApplyPatchType, []byte(strings.Replace(apply, "NAME", "small", 1)), registry.WriteOptions{FieldManager: "m", Force: true})
			return err
		},
		"apply a new one": func() error {
			g.put(t, roleOf("maker", grants("create", "roles")), bindingOf("maker", "Role", "maker", "jane"))
			_, err := g.Patch(ctx, jane, fresh, types.ApplyPatchType, []byte(strings.Replace(apply, "NAME", "fresh", 1)), options)
			return err
		},
		"transaction": func() error {
			_, err := g.Transact(ctx, jane, []registry.Operation{
				{Verb: registry.VerbCreate, Ref: refOf(configMap("c")), Object: configMap("c")},
				{Verb: registry.VerbCreate, Ref: fresh, Object: roleOf("fresh", grants("*", "*"))},
			}, false)
			return err
		},
		"independent transaction": func() error {
			results, err := g.Transact(ctx, jane, []registry.Operation{
				{Verb: registry.VerbCreate, Ref: refOf(configMap("d")), Object: configMap("d")},
				{Verb: registry.VerbCreate, Ref: fresh, Object: roleOf("fresh", grants("*", "*"))},
			}, true)
			if err != nil || results[0].Err != nil {
				t.Errorf("the other operation failed: %v %v", err, results)
			}
			return results[1].Err
		},
	} {
		if err := write(); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "attempting to grant") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, ok := g.store.Get(store.Key{Resource: "configmaps", Namespace: "default", Name: "c"}); ok {
		t.Error("half a transaction was committed")
	}
	// What grants nothing more goes through, and so does a role that may be escalated.
	if _, err := g.Patch(ctx, jane, small, types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b"}}}`), options); err != nil {
		t.Error(err)
	}
	if _, err := g.Patch(ctx, jane, refOf(roleOf("loose")), types.MergePatchType, []byte(larger), options); err != nil {
		t.Error(err)
	}
	// Writing what is there already changes nothing.
	if _, err := g.Patch(ctx, jane, refOf(roleOf("tight")), types.MergePatchType, []byte(`{"rules":[{"verbs":["delete"],"apiGroups":[""],"resources":["pods"]}]}`), options); err != nil {
		t.Error(err)
	}
	// A right that is gone cannot be passed on, even if it was there when the write began.
	if _, _, err := g.Delete(ctx, admin, refOf(bindingOf("janes", "", "", "")), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Create(ctx, jane, fresh, roleOf("fresh", grants("get", "pods")), options); !apierrors.IsForbidden(err) {
		t.Errorf("after losing the right: %v", err)
	}
}

// The right to patch is no right to create, though an apply may do either.
func TestApplyCreatesByRight(t *testing.T) {
	g := guardedLeader(t)
	g.put(t, roleOf("patcher", grants("patch", "configmaps")), bindingOf("patcher", "Role", "patcher", "jane"), configMap("there"))
	jane := registry.Caller{User: "jane"}
	apply := func(name string) error {
		text := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"` + name + `"},"data":{"a":"b"}}`
		_, err := g.Patch(t.Context(), jane, refOf(configMap(name)), types.ApplyPatchType, []byte(text), registry.WriteOptions{FieldManager: "m"})
		return err
	}
	if err := apply("there"); err != nil {
		t.Error(err)
	}
	if err := apply("new"); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `User "jane" cannot create resource "configmaps"`) {
		t.Errorf("%v", err)
	}
	g.put(t, roleOf("creator", grants("create", "configmaps")), bindingOf("creator", "Role", "creator", "jane"))
	if err := apply("new"); err != nil {
		t.Error(err)
	}
}

func TestReferencesOfBindingsStay(t *testing.T) {
	g := guardedLeader(t)
	g.jane(t)
	_, err := g.Update(t.Context(), admin, refOf(bindingOf("janes", "", "", "")), bindingOf("janes", "Role", "tight", "jane"), registry.WriteOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "cannot change roleRef") {
		t.Errorf("%v", err)
	}
}

func TestAggregatedRolesShowTheirRules(t *testing.T) {
	g := guardedLeader(t)
	sum := clusterRoleOf("sum", grants("*", "*"))
	sum.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"to": "sum"}}}}
	created := must[*rbacv1.ClusterRole](t)(g.Create(t.Context(), admin, refOf(sum), sum, registry.WriteOptions{}))
	if len(created.Rules) != 0 {
		t.Errorf("rules of its own: %v", created.Rules)
	}
	part := func(name string, rule rbacv1.PolicyRule) *rbacv1.ClusterRole {
		role := clusterRoleOf(name, rule)
		role.Labels = map[string]string{"to": "sum"}
		return role
	}
	shows := func(want ...rbacv1.PolicyRule) {
		t.Helper()
		if diff := cmp.Diff(want, get[*rbacv1.ClusterRole](t, g.master, refOf(sum)).Rules); diff != "" {
			t.Error(diff)
		}
	}
	pods, nodes := grants("get", "pods"), grants("get", "nodes")
	g.put(t, part("b", pods))
	shows(pods)
	g.put(t, part("a", nodes))
	shows(nodes, pods)
	if _, err := g.Patch(t.Context(), admin, refOf(clusterRoleOf("b")), types.MergePatchType, []byte(`{"metadata":{"labels":null}}`), registry.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	shows(nodes)
	// What a client writes into it is replaced in the same write.
	updated := must[*rbacv1.ClusterRole](t)(g.Patch(t.Context(), admin, refOf(sum), types.MergePatchType, []byte(`{"rules":[]}`), registry.WriteOptions{}))
	if diff := cmp.Diff([]rbacv1.PolicyRule{nodes}, updated.Rules); diff != "" {
		t.Error(diff)
	}
	if _, err := g.Transact(t.Context(), admin, []registry.Operation{
		{Verb: registry.VerbDelete, Ref: refOf(clusterRoleOf("a"))},
		{Verb: registry.VerbCreate, Ref: refOf(clusterRoleOf("c")), Object: part("c", pods)},
	}, false); err != nil {
		t.Fatal(err)
	}
	shows(pods)
	if _, err := g.DeleteCollection(t.Context(), admin, registry.Ref{Resource: gvr("clusterroles")}, metav1.DeleteOptions{}, registry.ListOptions{Fields: "metadata.name=c"}); err != nil {
		t.Fatal(err)
	}
	shows()
}

// bootstrap runs a Bootstrap until what it makes is there.
func (g guarded) bootstrap(t *testing.T, done func() bool) {
	t.Helper()
	b := registry.NewBootstrap(registry.BootstrapConfig{
		Engine: g.Engine, Network: configv1.DefaultNetwork(), Endpoints: func() []netip.AddrPort { return nil },
		Defaults: authz.Defaults(), Renew: authz.Renew, Log: zap.NewNop(),
	})
	group := lifecycle.NewGroup(t.Context())
	group.Go(b.Run)
	eventually(t, "bootstrap", done)
	group.Cancel()
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}

func TestDefaultRoles(t *testing.T) {
	g := guardedLeader(t)
	last := authz.Defaults()[len(authz.Defaults())-1]
	exists := func(obj object.Object) bool {
		_, err := g.Get(t.Context(), refOf(obj))
		return err == nil
	}
	g.bootstrap(t, func() bool { return exists(last) })
	view := get[*rbacv1.ClusterRole](t, g.master, refOf(clusterRoleOf("view")))
	edit := get[*rbacv1.ClusterRole](t, g.master, refOf(clusterRoleOf("edit")))
	if len(view.Rules) == 0 || len(edit.Rules) <= len(view.Rules) || edit.Labels["rbac.authorization.k8s.io/aggregate-to-admin"] != "true" {
		t.Errorf("view %d rules, edit %d rules, labels %v", len(view.Rules), len(edit.Rules), edit.Labels)
	}
	g.put(t, bindingOf("eve-views", "ClusterRole", "view", "eve"), bindingOf("ann-admins", "ClusterRole", "admin", "ann"))
	for line, want := range map[string]bool{
		"eve get pods default": true, "eve get secrets default": false, "eve get pods kube-system": false, "eve create pods default": false,
		"ann create pods/exec default": true, "ann get secrets default": true, "ann create rolebindings.rbac.authorization.k8s.io default": true,
		"ann create serviceaccounts/token default": true, "ann delete nodes ": false, "ann create resourcequotas default": false,
		"bob list configmaps kube-public": true, "bob get secrets kube-public": false, "bob create selfsubjectaccessreviews.authorization.k8s.io ": true,
		"bob create subjectaccessreviews.authorization.k8s.io ": false, "bob get pods default": false,
	} {
		words := strings.Split(line, " ")
		resource, sub, _ := strings.Cut(words[2], "/")
		attr := authz.Attributes{
			User: words[0], Groups: []string{"system:authenticated"}, Verb: words[1], Subresource: sub, Namespace: words[3],
			Resource: gvr(resource).GroupResource(),
		}
		if name, group, ok := strings.Cut(resource, "."); ok {
			attr.Resource.Group, attr.Resource.Resource = group, name
		}
		if err := g.authorizer.Authorize(t.Context(), attr); (err == nil) != want {
			t.Errorf("%s: allowed %v, want %v", line, err == nil, want)
		}
	}
	stranger := authz.Attributes{User: authz.UserAnonymous, Groups: []string{authz.GroupUnauthenticated}, Verb: "get"}
	for what, want := range map[string]bool{
		"configmaps kube-public cluster-info": true, "configmaps kube-public other": false, "configmaps kube-system cluster-info": false,
		"secrets kube-public cluster-info": false, "/healthz": true, "/readyz": true, "/version": true, "/api": false, "/apis": false, "/openapi/v2": false, "/": false,
	} {
		attr := stranger
		if words := strings.Fields(what); len(words) == 3 {
			attr.Resource.Resource, attr.Namespace, attr.Name = words[0], words[1], words[2]
		} else {
			attr.Path = what
		}
		if err := g.authorizer.Authorize(t.Context(), attr); (err == nil) != want {
			t.Errorf("anonymous %s: allowed %v, want %v", what, err == nil, want)
		}
	}

	// A new term completes what is there, but for what is marked, and keeps what was added.
	discovery, basic := refOf(clusterRoleOf("system:discovery")), refOf(clusterRoleOf("system:basic-user"))
	for ref, text := range map[registry.Ref]string{
		discovery: `{"rules":[{"verbs":["get"],"nonResourceURLs":["/extra"]}]}`,
		basic:     `{"metadata":{"annotations":{"rbac.authorization.kubernetes.io/autoupdate":"false"}},"rules":[]}`,
	} {
		if _, err := g.Patch(t.Context(), admin, ref, types.MergePatchType, []byte(text), registry.WriteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := g.Delete(t.Context(), admin, refOf(last), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	g.bootstrap(t, func() bool { return exists(last) })
	rules := get[*rbacv1.ClusterRole](t, g.master, discovery).Rules
	if len(rules) < 2 || rules[0].NonResourceURLs[0] != "/extra" {
		t.Errorf("system:discovery: %v", rules)
	}
	if rules := get[*rbacv1.ClusterRole](t, g.master, basic).Rules; len(rules) != 0 {
		t.Errorf("system:basic-user was to be left alone: %v", rules)
	}
}

// Who may write what becomes of a request for a certificate needs the right to do so for its signer.
func TestSignersAreGuarded(t *testing.T) {
	g := guardedLeader(t)
	jane := registry.Caller{User: "jane", Groups: []string{"system:authenticated"}, UserAgent: "test/1"}
	may := func(name, verb, signer string) {
		g.put(t, clusterRoleOf(name, rbacv1.PolicyRule{
			Verbs: []string{verb}, APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"signers"}, ResourceNames: []string{signer},
		}), &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
			Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: "jane"}},
		})
	}
	may("approver", "approve", "example.com/one")
	may("domain", "approve", "example.org/*")
	may("signer", "sign", "example.com/two")
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := pki.NewCSR(key, "somebody")
	if err != nil {
		t.Fatal(err)
	}
	ca, err := pki.NewCA("test", 0)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := ca.SignCSR(csr, pki.LeafRequest{CommonName: "somebody", Client: true})
	if err != nil {
		t.Fatal(err)
	}
	condition := func(kind certificatesv1.RequestConditionType) func(*certificatesv1.CertificateSigningRequest) {
		return func(r *certificatesv1.CertificateSigningRequest) {
			r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: kind, Status: "True", Reason: "Test"})
		}
	}
	signed := func(r *certificatesv1.CertificateSigningRequest) { r.Status.Certificate = certificate }
	for i, c := range []struct {
		signer, subresource string
		change              func(*certificatesv1.CertificateSigningRequest)
		verb                string // that is refused; empty for success
	}{
		{"example.com/one", "approval", condition("Approved"), ""},
		{"example.com/one", "approval", condition("Denied"), ""},
		{"example.com/one", "status", signed, "sign"},
		{"example.com/one", "status", condition("Failed"), "sign"},
		{"example.com/one", "status", condition("Other"), ""},
		{"example.com/two", "approval", condition("Approved"), "approve"},
		{"example.com/two", "approval", condition("Denied"), "approve"},
		{"example.com/two", "status", signed, ""},
		{"example.com/two", "status", condition("Failed"), ""},
		{"example.org/any", "approval", condition("Approved"), ""},
		{"example.net/any", "approval", condition("Approved"), "approve"},
	} {
		name := fmt.Sprintf("r%d", i)
		request := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: csr, SignerName: c.signer, Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth},
		}}
		g.put(t, request)
		stored := get[*certificatesv1.CertificateSigningRequest](t, g.master, at("certificatesigningrequests", "", name))
		c.change(stored)
		_, err := g.Update(t.Context(), jane, at("certificatesigningrequests", "", name, c.subresource), stored, registry.WriteOptions{})
		switch want := fmt.Sprintf("user not permitted to %s requests with signerName %q", c.verb, c.signer); {
		case c.verb == "" && err != nil:
			t.Errorf("%s of %s: %v", c.subresource, c.signer, err)
		case c.verb != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), want)):
			t.Errorf("%s of %s: %v, want %s", c.subresource, c.signer, err, want)
		}
	}
}
