package registry_test

import (
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/storage/memory"
	"kijabi.dev/platform/kube/object"
)

// widgets is a definition that uses what definitions can do.
const widgets = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, shortNames: [wd], categories: [all]}
  versions:
  - name: v1beta1
    served: true
    storage: false
    deprecated: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {replicas: {type: integer, default: 1}}}}}}
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas, labelSelectorPath: .status.selector}
    additionalPrinterColumns:
    - {name: Replicas, type: integer, jsonPath: .spec.replicas}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    selectableFields: [{jsonPath: .spec.color}]
    schema:
      openAPIV3Schema:
        type: object
        required: [spec]
        x-kubernetes-validations:
        - {rule: "self.spec.replicas <= self.spec.most", message: "replicas must not exceed most"}
        properties:
          spec:
            type: object
            properties:
              replicas: {type: integer, minimum: 0, default: 1}
              most: {type: integer, default: 10}
              color: {type: string, enum: [red, green], x-kubernetes-validations: [{rule: "self == oldSelf", message: "color is immutable"}]}
              free: {type: object, x-kubernetes-preserve-unknown-fields: true}
              template: {type: object, x-kubernetes-embedded-resource: true, x-kubernetes-preserve-unknown-fields: true}
              ports:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items: {type: object, required: [name], properties: {name: {type: string}, port: {type: integer, default: 80}}}
              tags: {type: array, x-kubernetes-list-type: set, items: {type: string}}
          status:
            type: object
            properties: {replicas: {type: integer}, selector: {type: string}, phase: {type: string}}
`

func parsed(t testing.TB, text string) *apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	crd := &apiextensionsv1.CustomResourceDefinition{}
	if err := yaml.UnmarshalStrict([]byte(text), crd); err != nil {
		t.Fatal(err)
	}
	return crd
}

func (m *master) define(t testing.TB, crd *apiextensionsv1.CustomResourceDefinition) *apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	return must[*apiextensionsv1.CustomResourceDefinition](t)(m.Create(t.Context(), admin, at("customresourcedefinitions", "", ""), crd, none))
}

func widgetAt(version, name string, subresource ...string) registry.Ref {
	ref := registry.Ref{Resource: schema.GroupVersionResource{Group: "example.com", Version: version, Resource: "widgets"}, Namespace: "default", Name: name}
	if len(subresource) > 0 {
		ref.Subresource = subresource[0]
	}
	return ref
}

// widget makes a widget of a JSON text of all but its kind and metadata.
func widget(t testing.TB, version, name, content string) *object.Custom {
	t.Helper()
	c, _, err := object.DecodeCustom(fmt.Appendf(nil, `{"apiVersion":"example.com/%s","kind":"Widget","metadata":{"name":%q}%s`, version, name, strings.Replace(strings.Replace(content, "{", ",", 1), ",}", "}", 1)))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (m *master) createWidget(t testing.TB, name, content string) *object.Custom {
	t.Helper()
	return must[*object.Custom](t)(m.Create(t.Context(), admin, widgetAt("v1", ""), widget(t, "v1", name, content), none))
}

func content(t testing.TB, obj object.Object) string {
	t.Helper()
	text, err := json.Marshal(obj.DeepCopyObject().(*object.Custom).Content())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func condition(crd *apiextensionsv1.CustomResourceDefinition, of apiextensionsv1.CustomResourceDefinitionConditionType) string {
	for _, c := range crd.Status.Conditions {
		if c.Type == of {
			return string(c.Status) + " " + c.Reason
		}
	}
	return ""
}

// What the answer to the creation says is served at once.
func TestDefinedKindIsServedAtOnce(t *testing.T) {
	m := leader(t)
	before := len(m.Kinds())
	crd := m.define(t, parsed(t, widgets))
	if got := condition(crd, apiextensionsv1.Established); got != "True InitialNamesAccepted" {
		t.Errorf("established: %q", got)
	}
	if got := condition(crd, apiextensionsv1.NamesAccepted); got != "True NoConflicts" {
		t.Errorf("names: %q", got)
	}
	if crd.Status.AcceptedNames.ListKind != "WidgetList" || !slices.Equal(crd.Status.StoredVersions, []string{"v1"}) || crd.Generation != 1 {
		t.Errorf("status %+v, generation %d", crd.Status, crd.Generation)
	}
	if got := len(m.Kinds()) - before; got != 2 {
		t.Fatalf("%d kinds are new", got)
	}
	preferred, err := m.Kind(schema.GroupVersionResource{Group: "example.com", Resource: "widgets"})
	if err != nil || preferred.GVK.Version != "v1" {
		t.Errorf("preferred %v, %v", preferred, err)
	}
	made := m.createWidget(t, "a", `{"spec":{"ports":[{"name":"web"}],"unknown":1,"free":{"x":[1]}},"status":{"phase":"x"},"other":2}`)
	if got, want := content(t, made), `{"spec":{"free":{"x":[1]},"most":10,"ports":[{"name":"web","port":80}],"replicas":1}}`; got != want {
		t.Errorf("stored\n%s, want\n%s", got, want)
	}
	if made.Generation != 1 || made.UID == "" || made.ResourceVersion == "" {
		t.Errorf("metadata %+v", made.ObjectMeta)
	}
	record, err := m.Get(t.Context(), widgetAt("v1", "a"))
	if err != nil {
		t.Fatal(err)
	}
	stored, err := object.Decode(preferred.Kind, record.Value)
	if err != nil || stored.GetResourceVersion() != made.ResourceVersion || content(t, stored) != content(t, made) {
		t.Errorf("read %v, %v", stored, err)
	}
}

func TestCustomObjectsAreValidated(t *testing.T) {
	m := leader(t)
	m.define(t, parsed(t, widgets))
	for name, c := range map[string]struct{ content, want string }{
		"type":      {`{"spec":{"replicas":"x"}}`, "spec.replicas: Invalid value"},
		"required":  {`{}`, "spec: Required value"},
		"enum":      {`{"spec":{"color":"blue"}}`, `spec.color: Unsupported value: "blue"`},
		"rule":      {`{"spec":{"replicas":11}}`, "replicas must not exceed most"},
		"set":       {`{"spec":{"tags":["a","a"]}}`, "spec.tags[1]: Duplicate value"},
		"map":       {`{"spec":{"ports":[{"name":"a"},{"name":"a"}]}}`, "spec.ports[1]: Duplicate value"},
		"embedded":  {`{"spec":{"template":{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a/b"}}}}`, "spec.template.metadata.name"},
		"no kind":   {`{"spec":{"template":{"apiVersion":"v1"}}}`, "spec.template.kind: Required value"},
		"bad scale": {`{"spec":{"replicas":-1}}`, "spec.replicas"},
	} {
		_, err := m.Create(t.Context(), admin, widgetAt("v1", ""), widget(t, "v1", "bad", c.content), none)
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	m.createWidget(t, "a", `{"spec":{"color":"red"}}`)
	_, err := m.Patch(t.Context(), admin, widgetAt("v1", "a"), types.MergePatchType, []byte(`{"spec":{"color":"green"}}`), none)
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "color is immutable") {
		t.Errorf("transition: %v", err)
	}
	// Another kind's message is not let in, nor a custom one for a kind that is built in.
	if _, err := m.Create(t.Context(), admin, widgetAt("v1", ""), configMap("a"), none); !apierrors.IsBadRequest(err) {
		t.Errorf("a ConfigMap as widget: %v", err)
	}
	fake := widget(t, "v1", "a", `{"spec":{}}`)
	fake.APIVersion, fake.Kind = "v1", "ConfigMap"
	if _, err := m.Create(t.Context(), admin, at("configmaps", "default", ""), fake, none); !apierrors.IsBadRequest(err) {
		t.Errorf("a custom object as ConfigMap: %v", err)
	}
}

func TestCustomSubresources(t *testing.T) {
	m := leader(t)
	m.define(t, parsed(t, widgets))
	made := m.createWidget(t, "a", `{"spec":{"replicas":2}}`)

	status := made.DeepCopyObject().(*object.Custom)
	status.Content()["status"] = map[string]any{"replicas": int64(2), "selector": "app=a"}
	status.Content()["spec"] = map[string]any{"replicas": int64(9)}
	status.Labels = map[string]string{"new": "label"}
	updated := must[*object.Custom](t)(m.Update(t.Context(), admin, widgetAt("v1", "a", "status"), status, none))
	if got, want := content(t, updated), `{"spec":{"most":10,"replicas":2},"status":{"replicas":2,"selector":"app=a"}}`; got != want || updated.Generation != 1 || len(updated.Labels) > 0 {
		t.Errorf("status update left %s, want %s (generation %d, labels %v)", got, want, updated.Generation, updated.Labels)
	}

	spec := updated.DeepCopyObject().(*object.Custom)
	spec.Content()["spec"].(map[string]any)["replicas"] = int64(3)
	spec.Content()["status"] = map[string]any{"phase": "forged"}
	updated = must[*object.Custom](t)(m.Update(t.Context(), admin, widgetAt("v1", "a"), spec, none))
	if got, want := content(t, updated), `{"spec":{"most":10,"replicas":3},"status":{"replicas":2,"selector":"app=a"}}`; got != want || updated.Generation != 2 {
		t.Errorf("update left %s, want %s (generation %d)", got, want, updated.Generation)
	}
	labelled := must[*object.Custom](t)(m.Patch(t.Context(), admin, widgetAt("v1", "a"), types.JSONPatchType, []byte(`[{"op":"add","path":"/metadata/labels","value":{"a":"b"}}]`), none))
	if labelled.Generation != 2 || labelled.Labels["a"] != "b" {
		t.Errorf("a label makes generation %d", labelled.Generation)
	}

	record, err := m.Get(t.Context(), widgetAt("v1", "a", "scale"))
	if err != nil {
		t.Fatal(err)
	}
	scale := decodeScale(t, record.Value)
	if scale.Spec.Replicas != 3 || scale.Status.Replicas != 2 || scale.Status.Selector != "app=a" {
		t.Errorf("scale %+v", scale)
	}
	if _, err := m.Patch(t.Context(), admin, widgetAt("v1", "a", "scale"), types.MergePatchType, []byte(`{"spec":{"replicas":5}}`), none); err != nil {
		t.Fatal(err)
	}
	if got := content(t, get[*object.Custom](t, m, widgetAt("v1", "a"))); !strings.Contains(got, `"replicas":5`) {
		t.Errorf("scaled: %s", got)
	}
	if _, err := m.Patch(t.Context(), admin, widgetAt("v1", "a", "scale"), types.MergePatchType, []byte(`{"spec":{"replicas":11}}`), none); !apierrors.IsInvalid(err) {
		t.Errorf("a scale that breaks a rule: %v", err)
	}
}

// Versions show the same objects, and stored ones follow the schema of today.
func TestCustomVersions(t *testing.T) {
	m := leader(t)
	crd := m.define(t, parsed(t, widgets))
	m.createWidget(t, "a", `{"spec":{"color":"red","replicas":4}}`)
	old := get[*object.Custom](t, m, widgetAt("v1beta1", "a"))
	if got, want := content(t, old), `{"spec":{"replicas":4}}`; got != want || old.APIVersion != "example.com/v1beta1" {
		t.Errorf("in the other version %s %s", old.APIVersion, got)
	}
	made := must[*object.Custom](t)(m.Create(t.Context(), admin, widgetAt("v1beta1", ""), widget(t, "v1beta1", "b", `{"spec":{}}`), none))
	if made.APIVersion != "example.com/v1beta1" {
		t.Errorf("created as %s", made.APIVersion)
	}
	if got, want := content(t, get[*object.Custom](t, m, widgetAt("v1", "b"))), `{"spec":{"most":10,"replicas":1}}`; got != want {
		t.Errorf("stored %s, want %s", got, want)
	}
	list, err := m.List(t.Context(), widgetAt("v1beta1", ""), registry.ListOptions{})
	if err != nil || len(list.Records) != 2 {
		t.Fatal(list, err)
	}

	// A new default shows in what was stored before; a field that is no longer known does not.
	changed := crd.DeepCopy()
	spec := changed.Spec.Versions[1].Schema.OpenAPIV3Schema.Properties["spec"]
	delete(spec.Properties, "color")
	spec.Properties["shape"] = apiextensionsv1.JSONSchemaProps{Type: "string", Default: &apiextensionsv1.JSON{Raw: []byte(`"round"`)}}
	changed.Spec.Versions[1].SelectableFields = nil
	changed.Spec.Versions[1].Schema.OpenAPIV3Schema.Properties["spec"] = spec
	must[*apiextensionsv1.CustomResourceDefinition](t)(m.Update(t.Context(), admin, at("customresourcedefinitions", "", crd.Name), changed, none))
	if got, want := content(t, get[*object.Custom](t, m, widgetAt("v1", "a"))), `{"spec":{"most":10,"replicas":4,"shape":"round"}}`; got != want {
		t.Errorf("read %s, want %s", got, want)
	}
}

func TestCustomFieldSelectors(t *testing.T) {
	m := leader(t)
	m.define(t, parsed(t, widgets))
	m.createWidget(t, "a", `{"spec":{"color":"red"}}`)
	m.createWidget(t, "b", `{"spec":{"color":"green"}}`)
	m.createWidget(t, "c", `{"spec":{}}`)
	for selector, want := range map[string]string{"spec.color=red": "a", "spec.color!=red": "b c", "spec.color=": "c", "metadata.name=b": "b"} {
		list, err := m.List(t.Context(), widgetAt("v1", ""), registry.ListOptions{Fields: selector})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, r := range list.Records {
			names = append(names, r.Key.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s: %q, want %q", selector, got, want)
		}
	}
	if _, err := m.List(t.Context(), widgetAt("v1", ""), registry.ListOptions{Fields: "spec.replicas=1"}); !apierrors.IsBadRequest(err) {
		t.Errorf("a field that is not selectable: %v", err)
	}
}

func TestCustomPatches(t *testing.T) {
	m := leader(t)
	m.define(t, parsed(t, widgets))
	m.createWidget(t, "a", `{"spec":{}}`)
	if _, err := m.Patch(t.Context(), admin, widgetAt("v1", "a"), types.StrategicMergePatchType, []byte(`{}`), none); apierrors.ReasonForError(err) != metav1.StatusReasonUnsupportedMediaType {
		t.Errorf("strategic merge: %v", err)
	}
	r, err := m.Do(t.Context(), admin, registry.Operation{
		Verb: registry.VerbPatch, Ref: widgetAt("v1", "a"), PatchType: types.MergePatchType, Patch: []byte(`{"spec":{"nope":1,"replicas":2}}`),
		Options: registry.WriteOptions{FieldValidation: metav1.FieldValidationWarn},
	})
	if err != nil || !slices.Equal(r.Warnings, []string{`unknown field "spec.nope"`}) {
		t.Errorf("warnings %q, %v", r.Warnings, err)
	}
	strict := registry.WriteOptions{FieldValidation: metav1.FieldValidationStrict}
	if _, err := m.Patch(t.Context(), admin, widgetAt("v1", "a"), types.MergePatchType, []byte(`{"spec":{"nope":1}}`), strict); err == nil || !strings.Contains(err.Error(), `unknown field "spec.nope"`) {
		t.Errorf("strict: %v", err)
	}
}

func TestCustomApply(t *testing.T) {
	m := leader(t)
	m.define(t, parsed(t, widgets))
	apply := func(manager, content string, force bool) (*object.Custom, error) {
		text := fmt.Sprintf(`{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"a"},%s`, strings.TrimPrefix(content, "{"))
		obj, err := m.Patch(t.Context(), admin, widgetAt("v1", "a"), types.ApplyPatchType, []byte(text), registry.WriteOptions{FieldManager: manager, Force: force})
		if err != nil {
			return nil, err
		}
		return obj.(*object.Custom), nil
	}
	made, err := apply("one", `{"spec":{"ports":[{"name":"web","port":1}],"replicas":2}}`, false)
	if err != nil || made.Generation != 1 {
		t.Fatal(made, err)
	}
	if _, err := apply("two", `{"spec":{"replicas":3}}`, false); !apierrors.IsConflict(err) {
		t.Errorf("a field of somebody else: %v", err)
	}
	both, err := apply("two", `{"spec":{"ports":[{"name":"tls","port":2}]}}`, false)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := content(t, both), `{"spec":{"most":10,"ports":[{"name":"web","port":1},{"name":"tls","port":2}],"replicas":2}}`; got != want {
		t.Errorf("merged %s, want %s", got, want)
	}
	less, err := apply("one", `{"spec":{"replicas":2}}`, false)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := content(t, less), `{"spec":{"most":10,"ports":[{"name":"tls","port":2}],"replicas":2}}`; got != want {
		t.Errorf("left %s, want %s", got, want)
	}
	if len(less.ManagedFields) != 2 {
		t.Errorf("managed fields %v", less.ManagedFields)
	}
	if _, err := apply("one", `{"spec":{"nope":2}}`, false); err == nil || !strings.Contains(err.Error(), "field not declared in schema") {
		t.Errorf("an unknown field: %v", err)
	}
	// Definitions are applied, too.
	crd := parsed(t, widgets)
	crd.TypeMeta = metav1.TypeMeta{APIVersion: "apiextensions.k8s.io/v1", Kind: "CustomResourceDefinition"}
	text, err := json.Marshal(map[string]any{"apiVersion": crd.APIVersion, "kind": crd.Kind, "metadata": map[string]any{"name": crd.Name}, "spec": crd.Spec})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Patch(t.Context(), admin, at("customresourcedefinitions", "", crd.Name), types.ApplyPatchType, text, registry.WriteOptions{FieldManager: "helm", Force: true}); err != nil {
		t.Errorf("apply a definition: %v", err)
	}
}

// Whoever writes owns what was written; a write that changes nothing changes nothing of that.
func TestCustomManagedFields(t *testing.T) {
	m := leader(t)
	m.define(t, parsed(t, widgets))
	made := m.createWidget(t, "a", `{"spec":{"replicas":2}}`)
	if len(made.ManagedFields) != 1 || made.ManagedFields[0].Manager != "test" || made.ManagedFields[0].Operation != metav1.ManagedFieldsOperationUpdate {
		t.Fatalf("managed fields %v", made.ManagedFields)
	}
	by := registry.WriteOptions{FieldManager: "other"}
	status := must[*object.Custom](t)(m.Patch(t.Context(), admin, widgetAt("v1", "a", "status"), types.MergePatchType, []byte(`{"status":{"phase":"x"}}`), by))
	if len(status.ManagedFields) != 2 || status.ManagedFields[1].Subresource != "status" && status.ManagedFields[0].Subresource != "status" {
		t.Errorf("managed fields %v", status.ManagedFields)
	}
	same := must[*object.Custom](t)(m.Patch(t.Context(), admin, widgetAt("v1", "a", "status"), types.MergePatchType, []byte(`{"status":{"phase":"x"}}`), by))
	if same.ResourceVersion != status.ResourceVersion {
		t.Error("a write that changes nothing makes a version")
	}
	if same := must[*object.Custom](t)(m.Update(t.Context(), admin, widgetAt("v1", "a"), same.DeepCopyObject().(*object.Custom), none)); same.ResourceVersion != status.ResourceVersion {
		t.Error("an update that changes nothing makes a version")
	}
	applied := `{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"a"},"spec":{"replicas":3}}`
	if _, err := m.Patch(t.Context(), admin, widgetAt("v1", "a"), types.ApplyPatchType, []byte(applied), by); !apierrors.IsConflict(err) {
		t.Errorf("apply over who created it: %v", err)
	}
}

func TestNamesOfDefinitions(t *testing.T) {
	m := leader(t)
	crds := at("customresourcedefinitions", "", "")
	m.define(t, parsed(t, widgets))
	second := parsed(t, strings.NewReplacer("widgets.example.com", "gadgets.example.com", "plural: widgets", "plural: gadgets", "singular: widget", "singular: gadget").Replace(widgets))
	made := m.define(t, second)
	if got := condition(made, apiextensionsv1.NamesAccepted); got != "False ListKindConflict" {
		t.Errorf("names: %q", got)
	}
	if got := condition(made, apiextensionsv1.Established); got != "False NotAccepted" {
		t.Errorf("established: %q", got)
	}
	if _, err := m.Kind(schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "gadgets"}); !apierrors.IsNotFound(err) {
		t.Errorf("it is served: %v", err)
	}
	for name, c := range map[string]struct{ from, to, want string }{
		"built-in group": {"example.com", "rbac.authorization.k8s.io", "are built in"},
		"no dot":         {"example.com", "apps", "spec.group"},
		"unapproved":     {"example.com", "things.k8s.io", "api-approved.kubernetes.io"},
		"webhook":        {"scope: Namespaced", "scope: Namespaced\n  conversion: {strategy: Webhook, webhook: {conversionReviewVersions: [v1], clientConfig: {url: 'https://a.example.com'}}}", "Unsupported value: \"Webhook\""},
		"reference":      {"properties: {spec: {type: object,", "properties: {spec: {$ref: '#/x', type: object,", "$ref"},
		"column":         {"jsonPath: .spec.replicas}", "jsonPath: '.spec['}", "jsonPath"},
		"dear rule":      {"self.spec.replicas <= self.spec.most", "self.spec.tags.all(x, self.spec.tags.all(y, self.spec.tags.all(z, x.matches(y + z))))", "cost"},
		"bad rule":       {"self.spec.replicas <= self.spec.most", "self.spec.nope", "compilation failed"},
		"bad default":    {"default: 10", "default: ten", "default"},
	} {
		crd := parsed(t, strings.ReplaceAll(widgets, c.from, c.to))
		_, err := m.Create(t.Context(), admin, crds, crd, none)
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	deep := apiextensionsv1.JSONSchemaProps{Type: "object"}
	for range 200 {
		deep = apiextensionsv1.JSONSchemaProps{Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{"x": deep}}
	}
	bomb := parsed(t, strings.ReplaceAll(widgets, "example.com", "bomb.example.com"))
	bomb.Spec.Versions[0].Schema.OpenAPIV3Schema = &deep
	if _, err := m.Create(t.Context(), admin, crds, bomb, none); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "levels deep") {
		t.Errorf("a deep schema: %v", err)
	}

	// The conflict is over once the other is gone and anybody writes the status.
	_, _, err := m.Delete(t.Context(), admin, at("customresourcedefinitions", "", "widgets.example.com"), metav1.DeleteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Patch(t.Context(), admin, at("customresourcedefinitions", "", "widgets.example.com"), types.MergePatchType, []byte(`{"metadata":{"finalizers":[]}}`), none); err != nil {
		t.Fatal(err)
	}
	current := get[*apiextensionsv1.CustomResourceDefinition](t, m, at("customresourcedefinitions", "", made.Name))
	after := must[*apiextensionsv1.CustomResourceDefinition](t)(m.Update(t.Context(), admin, at("customresourcedefinitions", "", made.Name, "status"), current, none))
	if got := condition(after, apiextensionsv1.Established); got != "True InitialNamesAccepted" {
		t.Errorf("established: %q", got)
	}
	if _, err := m.Kind(schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "gadgets"}); err != nil {
		t.Error(err)
	}
}

// Of definitions that want the same names at once, one gets them, even within a batch.
func TestNamesAreGivenOnce(t *testing.T) {
	m := leader(t)
	var ops []registry.Operation
	for i := range 5 {
		plural := fmt.Sprintf("w%ds", i)
		text := strings.NewReplacer("widgets.example.com", plural+".example.com", "plural: widgets", "plural: "+plural, "singular: widget", fmt.Sprintf("singular: w%d", i), "shortNames: [wd], ", "").Replace(widgets)
		ops = append(ops, registry.Operation{Verb: registry.VerbCreate, Ref: at("customresourcedefinitions", "", ""), Object: parsed(t, text)})
	}
	done := make(chan error, len(ops))
	for _, op := range ops {
		go func() {
			_, err := m.Do(t.Context(), admin, op)
			done <- err
		}()
	}
	for range ops {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	established := 0
	for _, kind := range m.Kinds() {
		if kind.GVK.Kind == "Widget" && kind.GVK.Version == "v1" {
			established++
		}
	}
	if established != 1 {
		t.Errorf("%d definitions got the kind Widget", established)
	}
}

func TestDeletedDefinitionLetsNothingIn(t *testing.T) {
	m := leader(t)
	m.define(t, parsed(t, widgets))
	m.createWidget(t, "a", `{"spec":{}}`)
	obj, gone, err := m.Delete(t.Context(), admin, at("customresourcedefinitions", "", "widgets.example.com"), metav1.DeleteOptions{})
	if err != nil || gone {
		t.Fatal(gone, err)
	}
	crd := obj.(*apiextensionsv1.CustomResourceDefinition)
	if got := condition(crd, apiextensionsv1.Terminating); got != "True InstanceDeletionPending" || !slices.Contains(crd.Finalizers, "customresourcecleanup.apiextensions.k8s.io") {
		t.Errorf("terminating: %q, finalizers %v", got, crd.Finalizers)
	}
	if _, err := m.Create(t.Context(), admin, widgetAt("v1", ""), widget(t, "v1", "b", `{"spec":{}}`), none); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "create not allowed while custom resource definition is terminating") {
		t.Errorf("create: %v", err)
	}
	if n, err := m.DeleteCollection(t.Context(), admin, widgetAt("v1", ""), metav1.DeleteOptions{}, registry.ListOptions{}); n != 1 || err != nil {
		t.Errorf("deleted %d, %v", n, err)
	}
	if _, err := m.Patch(t.Context(), admin, at("customresourcedefinitions", "", crd.Name), types.MergePatchType, []byte(`{"metadata":{"finalizers":[]}}`), none); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Kind(widgetAt("v1", "").Resource); !apierrors.IsNotFound(err) {
		t.Errorf("the kind is still served: %v", err)
	}
}

// Followers serve what the leader defined, once they have caught up with it.
func TestFollowersServeDefinedKinds(t *testing.T) {
	backend := memory.New()
	first, way := start(t, "m1", backend, nil), &hop{}
	first.lead(t)
	way.to = first
	follower := start(t, "m2", backend, way)
	first.namespace(t, "default")
	first.define(t, parsed(t, widgets))
	if err := follower.Current(t.Context()); err != nil {
		t.Fatal(err)
	}
	made := must[*object.Custom](t)(follower.Create(t.Context(), admin, widgetAt("v1", ""), widget(t, "v1", "a", `{"spec":{}}`), none))
	if got := content(t, get[*object.Custom](t, follower, widgetAt("v1", "a"))); got != content(t, made) {
		t.Errorf("the follower shows %s", got)
	}
	// A store that starts later reads objects before it knows their kind.
	third := start(t, "m3", backend, way)
	eventually(t, "the third has loaded", func() bool {
		record, err := third.Get(t.Context(), widgetAt("v1", "a"))
		return err == nil && record.Index.UID == made.UID
	})
}

func decodeScale(t testing.TB, value []byte) *autoscalingv1.Scale {
	t.Helper()
	scale := &autoscalingv1.Scale{}
	if err := scale.Unmarshal(value); err != nil {
		t.Fatal(err)
	}
	return scale
}

func TestQuotaCountsCustomObjects(t *testing.T) {
	m := leader(t)
	m.define(t, parsed(t, widgets))
	m.createWidget(t, "a", `{"spec":{}}`)
	quota := &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "few", Namespace: "default"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"count/widgets.example.com": resource.MustParse("2")}},
	}
	must[*corev1.ResourceQuota](t)(m.Create(t.Context(), admin, at("resourcequotas", "default", ""), quota, none))
	m.createWidget(t, "b", `{"spec":{}}`)
	if _, err := m.Create(t.Context(), admin, widgetAt("v1", ""), widget(t, "v1", "c", `{"spec":{}}`), none); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "exceeded quota: few") {
		t.Errorf("a third: %v", err)
	}
}

// Definitions that nobody uses cost little: no schema is made ready for use.
func BenchmarkDefinitions(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		m := leader(b)
		text := parsed(b, widgets)
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		b.StartTimer()
		for i := range 1000 {
			crd := text.DeepCopy()
			crd.Name, crd.Spec.Group = fmt.Sprintf("widgets.g%d.example.com", i), fmt.Sprintf("g%d.example.com", i)
			m.define(b, crd)
		}
		b.StopTimer()
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/1000, "heap-B/definition")
		b.StartTimer()
	}
}
