package registry_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"kijabi.dev/apiserver/internal/admission/dynamic/dynamictest"
	"kijabi.dev/apiserver/internal/admission/expression"
	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/platform/kube/object"
)

// stored creates an object of a YAML text.
func (m *master) stored(t testing.TB, into object.Object, text string) {
	t.Helper()
	if err := m.tryStored(t, into, text); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
}

func (m *master) tryStored(t testing.TB, into object.Object, text string) error {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(text), into); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	kind, err := object.KindOfObject(into)
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.Create(t.Context(), admin, registry.Ref{Resource: kind.GVR, Namespace: into.GetNamespace()}, into, registry.WriteOptions{})
	return err
}

// policy stores a policy about ConfigMaps, and its binding; spec and binding are what each has
// beside that.
func (m *master) policy(t testing.TB, name, spec, binding string) {
	t.Helper()
	m.stored(t, &admissionregistrationv1.ValidatingAdmissionPolicy{}, `
metadata: {name: `+name+`}
spec:
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: ["*"], resources: [configmaps]}]}
`+spec)
	if !strings.Contains(binding, "validationActions") {
		binding += "\n  validationActions: [Deny]"
	}
	m.stored(t, &admissionregistrationv1.ValidatingAdmissionPolicyBinding{}, `
metadata: {name: `+name+`-binding}
spec:
  policyName: `+name+`
`+binding)
}

// TestPolicies: a ConfigMap with data {key: value} is created by jane in the namespace default.
func TestPolicies(t *testing.T) {
	params := `
  paramKind: {apiVersion: v1, kind: ConfigMap}
  validations: [{expression: "params == null || object.data.key == params.data.want"}]`
	for _, of := range []struct {
		what, spec, binding string
		want                string // in the error; empty: created
		code                int32
		warning, annotation string
	}{
		{what: "holds", spec: `  validations: [{expression: "object.data.key == 'value'"}]`},
		{what: "fails", spec: `  validations: [{expression: "object.data.key == 'other'"}]`, code: 422,
			want: `configmaps "a" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'p-binding' denied request: failed expression: object.data.key == 'other'`},
		{what: "message", spec: `  validations: [{expression: "false", message: "never"}]`, want: "denied request: never", code: 422},
		{what: "message expression", spec: `  validations: [{expression: "false", message: "never", messageExpression: "'not ' + object.data.key"}]`, want: "denied request: not value", code: 422},
		{what: "message expression that fails", spec: `  validations: [{expression: "false", message: "never", messageExpression: "object.nothing"}]`, want: "denied request: never", code: 422},
		{what: "reason", spec: `  validations: [{expression: "false", reason: Forbidden}]`, want: "denied request", code: 403},
		{what: "error", spec: `  validations: [{expression: "object.nothing == 1"}]`, want: "expression 'object.nothing == 1' resulted in error: no such key: nothing", code: 422},
		{what: "ignored error", spec: "  failurePolicy: Ignore\n" + `  validations: [{expression: "object.nothing == 1"}]`},
		{what: "variables", spec: `
  variables: [{name: count, expression: "size(object.data)"}, {name: twice, expression: "variables.count * 2"}]
  validations: [{expression: "variables.twice == 3", messageExpression: "'it is ' + string(variables.twice)"}]`, want: "it is 2", code: 422},
		{what: "condition not met", spec: `
  matchConditions: [{name: other, expression: "object.metadata.name == 'other'"}]
  validations: [{expression: "false"}]`},
		{what: "condition met", spec: `
  matchConditions: [{name: other, expression: "request.userInfo.username == 'jane'"}]
  validations: [{expression: "false", message: met}]`, want: "met", code: 422},
		{what: "namespace", spec: `  validations: [{expression: "namespaceObject.metadata.labels['kubernetes.io/metadata.name'] == 'default'"}]`},
		{what: "rights", spec: `  validations: [{expression: "authorizer.group('').resource('secrets').namespace('default').check('get').allowed() && !authorizer.requestResource.check('delete').allowed()"}]`},
		{what: "param", spec: params, binding: `  paramRef: {name: fits, namespace: settings, parameterNotFoundAction: Deny}`},
		{what: "param that differs", spec: params, binding: `  paramRef: {name: differs, namespace: settings, parameterNotFoundAction: Deny}`, want: "failed expression", code: 422},
		{what: "param that is missing", spec: params, binding: `  paramRef: {name: nothing, namespace: settings, parameterNotFoundAction: Deny}`, want: "no params found", code: 422},
		{what: "param that may be missing", spec: params, binding: `  paramRef: {name: nothing, namespace: settings, parameterNotFoundAction: Allow}`},
		{what: "param of the own namespace", spec: params, binding: `  paramRef: {name: fits, parameterNotFoundAction: Deny}`, want: "no params found", code: 422},
		{what: "params by label", spec: params, binding: `  paramRef: {selector: {matchLabels: {a: b}}, namespace: settings, parameterNotFoundAction: Deny}`, want: "failed expression", code: 422},
		{what: "custom param", spec: `
  paramKind: {apiVersion: example.com/v1, kind: Widget}
  validations: [{expression: "params.spec.most == 10", message: "most"}, {expression: "params.spec.replicas == 3"}]`,
			binding: `  paramRef: {name: w, namespace: default, parameterNotFoundAction: Deny}`},
		{what: "param of another version", spec: `
  paramKind: {apiVersion: example.com/v1beta1, kind: Widget}
  validations: [{expression: "params.spec.replicas == 3 && params.apiVersion == 'example.com/v1beta1'"}]`,
			binding: `  paramRef: {name: w, namespace: default, parameterNotFoundAction: Deny}`},
		{what: "param of no kind", spec: `
  paramKind: {apiVersion: example.com/v1, kind: Nothing}
  validations: [{expression: "true"}]`, binding: `  paramRef: {name: w, parameterNotFoundAction: Allow}`, want: "is not served", code: 422},
		{what: "warning", spec: `  validations: [{expression: "false", message: hm}]`, binding: `  validationActions: [Warn]`,
			warning: "Validation failed for ValidatingAdmissionPolicy 'p' with binding 'p-binding': hm"},
		{what: "audit", spec: `  validations: [{expression: "true"}, {expression: "false", message: hm}]`, binding: `  validationActions: [Audit]`,
			annotation: `{validation.policy.admission.k8s.io/validation_failure [{"message":"hm","policy":"p","binding":"p-binding","expressionIndex":1,"validationActions":["Audit"]}]}`},
		{what: "audit annotation", spec: `  auditAnnotations: [{key: key, valueExpression: "object.data.key"}, {key: none, valueExpression: "null"}]`, annotation: `{p/key value}`},
		{what: "denied and warned", spec: `  validations: [{expression: "false", message: hm}]`, binding: `  validationActions: [Deny, Audit]`, want: "hm", code: 422, annotation: "validation_failure"},
		{what: "binding of other objects", spec: `  validations: [{expression: "false"}]`, binding: `  matchResources: {objectSelector: {matchLabels: {a: b}}}`},
		{what: "binding of other namespaces", spec: `  validations: [{expression: "false"}]`, binding: `  matchResources: {namespaceSelector: {matchLabels: {a: b}}}`},
		{what: "binding of other resources", spec: `  validations: [{expression: "false"}]`, binding: `  matchResources: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: ["*"], resources: [configmaps], resourceNames: [other]}]}`},
		{what: "excluded by the binding", spec: `  validations: [{expression: "false"}]`, binding: `  matchResources: {excludeResourceRules: [{apiGroups: [""], apiVersions: [v1], operations: ["*"], resources: [configmaps], resourceNames: [a]}]}`},
		{what: "too costly", spec: `  validations: [{expression: "[1,2,3,4,5,6,7,8,9,10].all(a, [1,2,3,4,5,6,7,8,9,10].all(b, [1,2,3,4,5,6,7,8,9,10].all(c, [1,2,3,4,5,6,7,8,9,10].all(d, [1,2,3,4,5,6,7,8,9,10].all(e, [1,2,3,4,5,6,7,8,9,10].all(f, a+b+c+d+e+f > 0))))))"}]`, want: "cost", code: 422},
	} {
		t.Run(of.what, func(t *testing.T) {
			t.Parallel()
			m := leader(t, func(cfg *registry.Config) {
				cfg.Dynamic.Rights = func(_ context.Context, r expression.Right) error {
					if r.User == "jane" && r.Verb == "get" && r.Resource == "secrets" && r.Namespace == "default" {
						return nil
					}
					return errors.New("no")
				}
			})
			m.namespace(t, "settings")
			m.stored(t, &corev1.ConfigMap{}, `{metadata: {name: fits, namespace: settings, labels: {a: b}}, data: {want: value}}`)
			m.stored(t, &corev1.ConfigMap{}, `{metadata: {name: differs, namespace: settings, labels: {a: b}}, data: {want: other}}`)
			m.define(t, parsed(t, widgets))
			m.createWidget(t, "w", `{"spec":{"replicas":3}}`)
			m.policy(t, "p", of.spec, of.binding)
			jane := registry.Caller{User: "jane"}
			result, err := m.Do(t.Context(), jane, registry.Operation{Verb: registry.VerbCreate, Ref: at("configmaps", "default", ""), Object: configMap("a")})
			var status apierrors.APIStatus
			switch {
			case of.want == "" && err != nil:
				t.Fatal(err)
			case of.want != "" && (!errors.As(err, &status) || !strings.Contains(err.Error(), of.want) || status.Status().Code != of.code):
				t.Fatalf("%v, want %d %s", err, of.code, of.want)
			}
			if got := strings.Join(result.Warnings, "\n"); got != of.warning {
				t.Errorf("warnings %q, want %q", got, of.warning)
			}
			if got := fmt.Sprint(result.Annotations); !strings.Contains(got, of.annotation) || of.annotation == "" && len(result.Annotations) > 0 {
				t.Errorf("annotations %s, want %s", got, of.annotation)
			}
		})
	}
}

// TestPoliciesSeeEveryWrite: updates with the old object, deletions, and what they are not bound to.
func TestPoliciesSeeEveryWrite(t *testing.T) {
	m := leader(t)
	must[*corev1.ConfigMap](t)(m.Create(t.Context(), admin, at("configmaps", "default", ""), configMap("a"), registry.WriteOptions{}))
	m.policy(t, "unbound", `  validations: [{expression: "false"}]`, `  matchResources: {objectSelector: {matchLabels: {never: never}}}`)
	m.policy(t, "frozen", `
  validations:
  - {expression: "request.operation != 'UPDATE' || object.data.key == oldObject.data.key", message: "key is immutable"}
  - {expression: "request.operation != 'DELETE' || has(oldObject.data.deletable)", message: "not deletable"}`, "")
	patch := func(text string) error {
		_, err := m.Patch(t.Context(), admin, at("configmaps", "default", "a"), types.MergePatchType, []byte(text), registry.WriteOptions{})
		return err
	}
	remove := func() error {
		_, _, err := m.Delete(t.Context(), admin, at("configmaps", "default", "a"), metav1.DeleteOptions{})
		return err
	}
	if err := patch(`{"data":{"key":"other"}}`); err == nil || !strings.Contains(err.Error(), "key is immutable") {
		t.Errorf("%v", err)
	}
	if err := remove(); err == nil || !strings.Contains(err.Error(), "not deletable") {
		t.Errorf("%v", err)
	}
	if err := patch(`{"data":{"deletable":"yes"}}`); err != nil {
		t.Error(err)
	}
	if err := remove(); err != nil {
		t.Error(err)
	}
	// Two policies that refuse: the first by name is told, both are causes.
	m.policy(t, "a", `  validations: [{expression: "false", message: first}, {expression: "false", message: second}]`, "")
	_, err := m.Create(t.Context(), admin, at("configmaps", "default", ""), configMap("b"), registry.WriteOptions{})
	var status apierrors.APIStatus
	if !errors.As(err, &status) || !strings.HasSuffix(err.Error(), "first") || len(status.Status().Details.Causes) != 2 {
		t.Errorf("%+v", err)
	}
	// Policies are about kube-system as well: they answer at once.
	m.namespace(t, "kube-system")
	system := configMap("c")
	system.Namespace = "kube-system"
	if _, err := m.Create(t.Context(), admin, at("configmaps", "kube-system", ""), system, registry.WriteOptions{}); err == nil {
		t.Error("a policy does not see kube-system")
	}
}

// TestPoliciesThatAreRefused: what does not compile is not stored.
func TestPoliciesThatAreRefused(t *testing.T) {
	m := leader(t)
	for spec, want := range map[string]string{
		`  validations: [{expression: "object."}]`:                                                             "validation 0",
		`  validations: [{expression: "1"}]`:                                                                   "must evaluate",
		`  validations: [{expression: "params.x"}]`:                                                            "undeclared",
		`  validations: [{expression: "true", messageExpression: "1"}]`:                                        "messageExpression",
		"  variables: [{name: a, expression: \"nothing\"}]\n  validations: [{expression: \"true\"}]":           "variable",
		"  matchConditions: [{name: a, expression: \"variables.x\"}]\n  validations: [{expression: \"true\"}]": "match condition",
		`  auditAnnotations: [{key: a, valueExpression: "1"}]`:                                                 "audit annotation",
	} {
		err := m.tryStored(t, &admissionregistrationv1.ValidatingAdmissionPolicy{}, `
metadata: {name: bad}
spec:
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: ["*"], resources: [configmaps]}]}
`+spec)
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want that it is invalid because of the %s", spec, err, want)
		}
	}
}

// TestMutatingPolicies: a Deployment is created by them.
func TestMutatingPolicies(t *testing.T) {
	const apply, patch = "patchType: ApplyConfiguration, applyConfiguration: ", "patchType: JSONPatch, jsonPatch: "
	for _, of := range []struct {
		what, spec, binding string
		want                string // in the JSON that is stored, or in the error after "error: "
	}{
		{what: "apply", spec: `  mutations: [{` + apply + `{expression: "Object{metadata: Object.metadata{labels: Object.metadata.labels{team: 'red'}}, spec: Object.spec{replicas: object.spec.replicas + 1}}"}}]`,
			want: `"labels":{"team":"red"}` + "\n" + `"replicas":2`},
		{what: "apply to a list by key", spec: `  mutations: [{` + apply + `{expression: "Object{spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{containers: object.spec.template.spec.containers.map(c, Object.spec.template.spec.containers{name: c.name, env: [Object.spec.template.spec.containers.env{name: 'A', value: 'b'}]})}}}}"}}]`,
			want: `"image":"web:1","env":[{"name":"A","value":"b"}]`},
		{what: "patch", spec: `  mutations: [{` + patch + `{expression: "[JSONPatch{op: 'add', path: '/metadata/annotations', value: {'a/b': 'c'}}, JSONPatch{op: 'test', path: '/spec/replicas', value: 1}]"}}]`,
			want: `"annotations":{"a/b":"c"}`},
		{what: "one sees what another did", spec: `
  variables: [{name: count, expression: "object.spec.replicas"}]
  mutations: [{` + apply + `{expression: "Object{spec: Object.spec{replicas: variables.count + 1}}"}}, {` + apply + `{expression: "Object{spec: Object.spec{replicas: variables.count + 1}}"}}]`, want: `"replicas":3`},
		{what: "params", spec: `
  paramKind: {apiVersion: v1, kind: ConfigMap}
  mutations: [{` + apply + `{expression: "Object{spec: Object.spec{replicas: int(params.data.count)}}"}}]`,
			binding: `  paramRef: {name: c, parameterNotFoundAction: Deny}`, want: `"replicas":5`},
		{what: "condition", spec: `
  matchConditions: [{name: a, expression: "false"}]
  mutations: [{` + apply + `{expression: "Object{spec: Object.spec{replicas: 9}}"}}]`, want: `"replicas":1`},
		{what: "unknown field", spec: `  mutations: [{` + apply + `{expression: "Object{spec: Object.spec{nothing: 1}}"}}]`, want: "error: MutatingAdmissionPolicy 'p' with binding 'b' denied request: mutation 0"},
		{what: "ignored", spec: "  failurePolicy: Ignore\n" + `  mutations: [{` + apply + `{expression: "Object{spec: Object.spec{nothing: 1}}"}}]`, want: `"replicas":1`},
		{what: "rename", spec: `  mutations: [{` + apply + `{expression: "Object{metadata: Object.metadata{name: 'other'}}"}}]`, want: "error: renames"},
		{what: "what is not valid", spec: `  mutations: [{` + apply + `{expression: "Object{spec: Object.spec{replicas: -1}}"}}]`, want: "error: must be greater than or equal to 0"},
	} {
		t.Run(of.what, func(t *testing.T) {
			t.Parallel()
			m := leader(t)
			m.stored(t, &corev1.ConfigMap{}, `{metadata: {name: c, namespace: default}, data: {count: "5"}}`)
			m.stored(t, &admissionregistrationv1.MutatingAdmissionPolicy{}, `
metadata: {name: p}
spec:
  reinvocationPolicy: Never
  matchConstraints: {resourceRules: [{apiGroups: [apps], apiVersions: [v1], operations: [CREATE], resources: [deployments]}]}
`+of.spec)
			m.stored(t, &admissionregistrationv1.MutatingAdmissionPolicyBinding{}, "metadata: {name: b}\nspec:\n  policyName: p\n"+of.binding)
			made, err := m.Create(t.Context(), admin, at("deployments", "default", ""), deployment("d"), registry.WriteOptions{FieldManager: "jane"})
			if cause, fails := strings.CutPrefix(of.want, "error: "); fails {
				if err == nil || !strings.Contains(err.Error(), cause) {
					t.Errorf("%v, want an error that says %q", err, cause)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			text, err := json.Marshal(made)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range strings.Split(of.want, "\n") {
				if !strings.Contains(string(text), want) {
					t.Errorf("made %s, want %s", text, want)
				}
			}
			if owned := string(made.GetManagedFields()[0].FieldsV1.GetRawBytes()); strings.Contains(owned, "f:team") || strings.Contains(owned, "f:env") {
				t.Errorf("jane owns what she has not written: %s", owned)
			}
		})
	}
}

// TestMutatingPolicyOfACustomKind, and a webhook that sees what it has done.
func TestMutatingPolicyOfACustomKind(t *testing.T) {
	m := leader(t)
	m.define(t, parsed(t, widgets))
	w := dynamictest.Serve(t)
	m.mutating(t, "w", w)
	m.stored(t, &admissionregistrationv1.MutatingAdmissionPolicy{}, `
metadata: {name: p}
spec:
  reinvocationPolicy: IfNeeded
  matchConstraints: {resourceRules: [{apiGroups: [example.com], apiVersions: [v1], operations: ["CREATE", "UPDATE"], resources: [widgets]}]}
  mutations: [{patchType: ApplyConfiguration, applyConfiguration: {expression: "Object{spec: Object.spec{replicas: object.spec.replicas < 4 ? object.spec.replicas + 1 : object.spec.replicas, ports: [Object.spec.ports{name: 'a'}]}}"}}]
`)
	m.stored(t, &admissionregistrationv1.MutatingAdmissionPolicyBinding{}, "metadata: {name: b}\nspec: {policyName: p}")
	w.Set(dynamictest.Patch(`[{"op":"add","path":"/spec/color","value":"red"}]`))
	made := m.createWidget(t, "w", `{"spec":{"replicas":2}}`)
	if got := content(t, made); got != `{"spec":{"color":"red","most":10,"ports":[{"name":"a","port":80}],"replicas":4}}` {
		t.Errorf("%s: want that the policy had its turn before and after the webhook", got)
	}
	if seen := w.Seen(); len(seen) != 1 || !strings.Contains(string(seen[0].Object.Raw), `"replicas":3`) {
		t.Errorf("the webhook saw %s", seen[0].Object.Raw)
	}
	if err := m.tryStored(t, &admissionregistrationv1.MutatingAdmissionPolicy{}, `
metadata: {name: bad}
spec:
  reinvocationPolicy: Never
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}]}
  mutations: [{patchType: ApplyConfiguration, applyConfiguration: {expression: "Other{}"}}]
`); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "mutation 0") {
		t.Errorf("%v", err)
	}
}
