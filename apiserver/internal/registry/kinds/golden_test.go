package kinds_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	strictjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"kijabi.dev/apiserver/internal/registry/kinds"
	"kijabi.dev/platform/kube/object"
)

// golden is the table of one kind. A row changes the base manifest by edits of the form
// "path = YAML value", separated by " & "; a value of ~ removes the field.
type golden struct {
	resource string
	// version of the kind; empty for the preferred one.
	version string
	base    string
	// defaults holds edits and what the defaulted object then has, in the same form.
	defaults []row
	// invalid holds edits and the errors ("path: Type") of a create, separated by ", ".
	invalid []row
	// valid holds edits that are accepted.
	valid []string
	// update holds edits of the stored base object and the errors of the update; empty for accepted ones.
	update []row
	// status does so for updates of the status subresource.
	status []row
}

type row struct{ edit, want string }

func kindOf(t *testing.T, resource string) *kinds.Kind {
	t.Helper()
	return kindIn(t, resource, "")
}

func kindIn(t *testing.T, resource, version string) *kinds.Kind {
	t.Helper()
	for _, kind := range kinds.Default() {
		if kind.GVR.GroupResource().String() == resource && (version == "" || kind.GVR.Version == version) {
			return kind
		}
	}
	t.Fatalf("no kind %s", resource)
	return nil
}

var segment = regexp.MustCompile(`\['([^']*)'\]|\[(\d+)\]|([^.\[\]]+)`)

// set changes a value in a JSON tree; missing parents are made.
func set(t *testing.T, root any, path string, value any) any {
	t.Helper()
	var keys []any
	for _, m := range segment.FindAllStringSubmatch(path, -1) {
		switch {
		case m[2] != "":
			n, _ := strconv.Atoi(m[2])
			keys = append(keys, n)
		case m[1] != "":
			keys = append(keys, m[1])
		default:
			keys = append(keys, m[3])
		}
	}
	return setAt(root, keys, value)
}

func setAt(node any, keys []any, value any) any {
	if len(keys) == 0 {
		return value
	}
	switch key := keys[0].(type) {
	case int:
		list, _ := node.([]any)
		for len(list) <= key {
			list = append(list, nil)
		}
		list[key] = setAt(list[key], keys[1:], value)
		return list
	case string:
		m, _ := node.(map[string]any)
		if m == nil {
			m = map[string]any{}
		}
		if value == nil && len(keys) == 1 {
			delete(m, key)
		} else {
			m[key] = setAt(m[key], keys[1:], value)
		}
		return m
	}
	return node
}

func lookup(node any, path string) any {
	for _, m := range segment.FindAllStringSubmatch(path, -1) {
		switch {
		case m[2] != "":
			list, _ := node.([]any)
			n, _ := strconv.Atoi(m[2])
			if n >= len(list) {
				return nil
			}
			node = list[n]
		default:
			key := m[1] + m[3]
			tree, _ := node.(map[string]any)
			node = tree[key]
		}
	}
	return node
}

type assignment struct {
	path  string
	value any
}

func assignments(t *testing.T, text string) []assignment {
	t.Helper()
	var out []assignment
	if text == "" {
		return nil
	}
	for _, part := range strings.Split(text, " & ") {
		path, literal, ok := strings.Cut(part, " = ")
		if !ok {
			t.Fatalf("%q is no edit", part)
		}
		var value any
		if literal != "~" {
			if err := yaml.Unmarshal([]byte(literal), &value); err != nil {
				t.Fatalf("%q: %v", part, err)
			}
		}
		out = append(out, assignment{strings.TrimSpace(path), value})
	}
	return out
}

// manifest decodes the base with edits into a typed object, as a door does.
func (g *golden) manifest(t *testing.T, kind *kinds.Kind, from any, edits string) object.Object {
	t.Helper()
	var tree any
	if from == nil {
		if err := yaml.Unmarshal([]byte(g.base), &tree); err != nil {
			t.Fatal(err)
		}
	} else {
		text, err := json.Marshal(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &tree); err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range assignments(t, edits) {
		tree = set(t, tree, a.path, a.value)
	}
	text, err := json.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	obj := kind.New()
	strict, err := strictjson.UnmarshalStrict(text, obj)
	if err != nil || len(strict) > 0 {
		t.Fatalf("%s: %v %v", edits, err, strict)
	}
	return obj
}

func create(kind *kinds.Kind, obj object.Object) field.ErrorList {
	obj.SetUID("1")
	if kind.Default != nil {
		kind.Default(obj)
	}
	if kind.PrepareForCreate != nil {
		kind.PrepareForCreate(obj)
	}
	errs := validation.ValidateObjectMetaAccessor(obj, kind.Namespaced, kind.ValidateName, field.NewPath("metadata"))
	if kind.Validate != nil {
		errs = append(errs, kind.Validate(obj)...)
	}
	if kind.ValidateCreate != nil {
		errs = append(errs, kind.ValidateCreate(obj)...)
	}
	return errs
}

func update(kind *kinds.Kind, obj, old object.Object) field.ErrorList {
	if kind.Default != nil {
		kind.Default(obj)
	}
	if kind.PrepareForUpdate != nil {
		kind.PrepareForUpdate(obj, old)
	}
	errs := validation.ValidateObjectMetaAccessorUpdate(obj, old, field.NewPath("metadata"))
	if kind.Validate != nil {
		errs = append(errs, kind.Validate(obj)...)
	}
	if kind.ValidateUpdate != nil {
		errs = append(errs, kind.ValidateUpdate(obj, old)...)
	}
	return errs
}

// brief lists errors by path and type, each once.
func brief(errs field.ErrorList) string {
	var out []string
	for _, err := range errs {
		out = append(out, fmt.Sprintf("%s: %s", err.Field, string(err.Type)))
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), ", ")
}

func (g *golden) run(t *testing.T) {
	kind := kindIn(t, g.resource, g.version)
	base := func(edits string) object.Object {
		obj := g.manifest(t, kind, nil, edits)
		if errs := create(kind, obj); len(errs) > 0 {
			t.Errorf("%q is refused: %v", edits, errs)
		}
		obj.SetResourceVersion("1")
		return obj
	}
	base("")
	for _, edits := range g.valid {
		base(edits)
	}
	for _, r := range g.defaults {
		obj := base(r.edit)
		text, err := json.Marshal(obj)
		if err != nil {
			t.Fatal(err)
		}
		var tree any
		if err := json.Unmarshal(text, &tree); err != nil {
			t.Fatal(err)
		}
		for _, want := range assignments(t, r.want) {
			got, _ := json.Marshal(lookup(tree, want.path))
			expected, _ := json.Marshal(want.value)
			if string(got) != string(expected) {
				t.Errorf("defaults of %q: %s is %s, want %s", r.edit, want.path, got, expected)
			}
		}
		// What has been defaulted must not change when it is defaulted again.
		again := obj.DeepCopyObject().(object.Object)
		if kind.Default != nil {
			kind.Default(again)
		}
		if twice, _ := json.Marshal(again); string(twice) != string(text) {
			t.Errorf("defaulting %q twice differs:\n%s\n%s", r.edit, text, twice)
		}
	}
	for _, r := range g.invalid {
		if got := brief(create(kind, g.manifest(t, kind, nil, r.edit))); got != r.want {
			t.Errorf("create %q:\n got %s\nwant %s", r.edit, got, r.want)
		}
	}
	for _, r := range g.update {
		// A row may change the base first: "edits => edits".
		first, then, ok := strings.Cut(r.edit, " => ")
		if !ok {
			first, then = "", r.edit
		}
		old := base(first)
		if got := brief(update(kind, g.manifest(t, kind, old, then), old)); got != r.want {
			t.Errorf("update %q:\n got %s\nwant %s", r.edit, got, r.want)
		}
	}
	for _, r := range g.status {
		first, then, ok := strings.Cut(r.edit, " => ")
		if !ok {
			first, then = "", r.edit
		}
		old := base(first)
		obj := g.manifest(t, kind, old, then)
		kind.PrepareForStatusUpdate(obj, old)
		if got := brief(kind.ValidateStatusUpdate(obj, old)); got != r.want {
			t.Errorf("status %q:\n got %s\nwant %s", r.edit, got, r.want)
		}
	}
	t.Logf("%s: %d rows", g.resource, 1+len(g.valid)+len(g.defaults)+len(g.invalid)+len(g.update)+len(g.status))
}

func TestGolden(t *testing.T) {
	for _, g := range []golden{
		podGolden(), serviceGolden(), deploymentGolden(), replicaSetGolden(), configMapGolden(), secretGolden(), namespaceGolden(),
		nodeGolden(), leaseGolden(), endpointSliceGolden(), eventGolden(), newEventGolden(), serviceAccountGolden(),
		statefulSetGolden(), daemonSetGolden(), controllerRevisionGolden(), replicationControllerGolden(), podTemplateGolden(),
		jobGolden(), cronJobGolden(), autoscalerGolden(), oldAutoscalerGolden(), disruptionBudgetGolden(), priorityClassGolden(), runtimeClassGolden(),
		persistentVolumeGolden(), persistentVolumeClaimGolden(), storageClassGolden(), volumeAttributesClassGolden(), volumeAttachmentGolden(),
		csiDriverGolden(), csiNodeGolden(), csiStorageCapacityGolden(),
		ingressGolden(), ingressClassGolden(), networkPolicyGolden(), ipAddressGolden(), serviceCIDRGolden(), endpointsGolden(),
		limitRangeGolden(), resourceQuotaGolden(), certificateSigningRequestGolden(t),
		mutatingWebhookGolden(), validatingWebhookGolden(), mutatingPolicyGolden(), validatingPolicyGolden(),
		mutatingBindingGolden(), validatingBindingGolden(), flowSchemaGolden(), priorityLevelGolden(),
	} {
		t.Run(strings.TrimRight(g.resource+"/"+g.version, "/"), g.run)
	}
}
