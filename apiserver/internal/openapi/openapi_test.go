package openapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	openapiv2 "github.com/google/gnostic-models/openapiv2"
	openapiv3 "github.com/google/gnostic-models/openapiv3"
	"google.golang.org/protobuf/proto"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func documents() *Documents {
	all := []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
	deployments := appsv1.SchemeGroupVersion.WithResource("deployments")
	return New(Config{
		Version: "v1",
		Resources: []Resource{
			{GVR: corev1.SchemeGroupVersion.WithResource("pods"), GVK: corev1.SchemeGroupVersion.WithKind("Pod"), Namespaced: true, Verbs: all, Type: reflect.TypeFor[corev1.Pod](), ListType: reflect.TypeFor[corev1.PodList]()},
			{GVR: corev1.SchemeGroupVersion.WithResource("nodes"), GVK: corev1.SchemeGroupVersion.WithKind("Node"), Verbs: all, Type: reflect.TypeFor[corev1.Node](), ListType: reflect.TypeFor[corev1.NodeList]()},
			{GVR: deployments, GVK: appsv1.SchemeGroupVersion.WithKind("Deployment"), Namespaced: true, Verbs: all, Type: reflect.TypeFor[appsv1.Deployment](), ListType: reflect.TypeFor[appsv1.DeploymentList]()},
			{GVR: deployments, GVK: autoscalingv1.SchemeGroupVersion.WithKind("Scale"), Subresource: "scale", Parent: "Deployment", Namespaced: true, Verbs: []string{"get", "update"}, Type: reflect.TypeFor[autoscalingv1.Scale]()},
			{GVR: corev1.SchemeGroupVersion.WithResource("pods"), GVK: corev1.SchemeGroupVersion.WithKind("PodProxyOptions"), Subresource: "proxy", Parent: "Pod", Namespaced: true},
			{GVR: corev1.SchemeGroupVersion.WithResource("nodes"), GVK: corev1.SchemeGroupVersion.WithKind("NodeProxyOptions"), Subresource: "proxy", Parent: "Node"},
		},
		Extra: []reflect.Type{reflect.TypeFor[metav1.Status]()},
	})
}

func text(t *testing.T, doc *Document, err error) []byte {
	t.Helper()
	if err != nil || doc == nil {
		t.Fatalf("%v %v", doc, err)
	}
	var b bytes.Buffer
	if _, err := doc.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// property finds a property of a definition.
func property(t *testing.T, definitions map[string]definition, name, field string) definition {
	t.Helper()
	p := definitions[name].Properties[field]
	if p == nil {
		t.Fatalf("%s has no %s", name, field)
	}
	return *p
}

func TestDefinitions(t *testing.T) {
	d := documents()
	var doc struct {
		Components struct{ Schemas map[string]definition }
		Paths      map[string]any
	}
	v3, err := d.V3("api/v1", false)
	raw := text(t, v3, err)
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	schemas := doc.Components.Schemas
	const spec = "io.k8s.api.core.v1.PodSpec"
	if !slices.Contains(schemas[spec].Required, "containers") || slices.Contains(schemas[spec].Required, "nodeName") {
		t.Errorf("required: %v", schemas[spec].Required)
	}
	containers := property(t, schemas, spec, "containers")
	if containers.ListType != "map" || !slices.Equal(containers.ListMapKeys, []string{"name"}) || containers.PatchMergeKey != "name" || containers.PatchStrategy != "merge" || containers.Description == "" {
		t.Errorf("containers: %+v", containers)
	}
	protocol := property(t, schemas, "io.k8s.api.core.v1.ContainerPort", "protocol")
	if string(protocol.Default) != `"TCP"` || !slices.Contains(protocol.Enum, "SCTP") {
		t.Errorf("protocol: %+v", protocol)
	}
	if selector := schemas["io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector"]; selector.MapType != "atomic" {
		t.Errorf("selector: %+v", selector)
	}
	if q := schemas["io.k8s.apimachinery.pkg.api.resource.Quantity"]; len(q.OneOf) != 2 {
		t.Errorf("quantity: %+v", q)
	}
	if kinds := schemas["io.k8s.api.core.v1.Pod"].GVKs; len(kinds) != 1 || kinds[0].Kind != "Pod" {
		t.Errorf("kinds: %+v", kinds)
	}
	for _, path := range []string{"/api/v1/pods", "/api/v1/namespaces/{namespace}/pods", "/api/v1/namespaces/{namespace}/pods/{name}", "/api/v1/nodes/{name}"} {
		if doc.Paths[path] == nil {
			t.Errorf("no path %s", path)
		}
	}
	for _, ref := range regexp.MustCompile(`"#/components/schemas/([^"]+)"`).FindAllSubmatch(raw, -1) {
		if _, ok := schemas[string(ref[1])]; !ok {
			t.Errorf("%s leads nowhere", ref[0])
		}
	}
}

func TestEncodings(t *testing.T) {
	d := documents()
	pb, err := d.V3("apis/apps/v1", true)
	var v3 openapiv3.Document
	if err := proto.Unmarshal(text(t, pb, err), &v3); err != nil {
		t.Fatal(err)
	}
	plain, err := d.V3("apis/apps/v1", false)
	if err != nil || plain.ETag != pb.ETag {
		t.Errorf("one hash for both encodings: %v", err)
	}
	pb, err = d.V2(true)
	var v2 openapiv2.Document
	if err := proto.Unmarshal(text(t, pb, err), &v2); err != nil {
		t.Fatal(err)
	}
	if len(v2.GetPaths().GetPath()) == 0 || len(v2.GetDefinitions().GetAdditionalProperties()) < 100 {
		t.Errorf("%d paths", len(v2.GetPaths().GetPath()))
	}
	if none, err := d.V3("apis/none/v1", false); none != nil || err != nil {
		t.Errorf("%v %v", none, err)
	}
	index, err := d.IndexV3()
	if err != nil || !strings.Contains(string(index), `"apis/apps/v1":{"serverRelativeURL":"/openapi/v3/apis/apps/v1?hash=`+plain.ETag) {
		t.Errorf("%s %v", index, err)
	}
}

func TestProxies(t *testing.T) {
	d := documents()
	type operation struct {
		ID     string                                `json:"operationId"`
		Action string                                `json:"x-kubernetes-action"`
		Kind   gvk                                   `json:"x-kubernetes-group-version-kind"`
		Answer map[string]map[string]json.RawMessage `json:"responses"`
	}
	v3, err := d.V3("api/v1", false)
	v3text := text(t, v3, err)
	v2, err := d.V2(false)
	for dialect, raw := range map[string][]byte{"v3": v3text, "v2": text(t, v2, err)} {
		var doc struct {
			Paths map[string]map[string]json.RawMessage
		}
		if err := json.Unmarshal(raw, &doc); err != nil {
			t.Fatal(err)
		}
		for path, want := range map[string]string{
			"/api/v1/namespaces/{namespace}/pods/{name}/proxy":        "connectCoreV1%sNamespacedPodProxy",
			"/api/v1/namespaces/{namespace}/pods/{name}/proxy/{path}": "connectCoreV1%sNamespacedPodProxyWithPath",
			"/api/v1/nodes/{name}/proxy":                              "connectCoreV1%sNodeProxy",
			"/api/v1/nodes/{name}/proxy/{path}":                       "connectCoreV1%sNodeProxyWithPath",
		} {
			for _, method := range []string{"Get", "Head", "Post", "Put", "Patch", "Delete", "Options"} {
				var op operation
				if err := json.Unmarshal(doc.Paths[path][strings.ToLower(method)], &op); err != nil {
					t.Fatalf("%s %s %s: %v", dialect, method, path, err)
				}
				if op.ID != strings.Replace(want, "%s", method, 1) || op.Action != "connect" || !strings.HasSuffix(op.Kind.Kind, "ProxyOptions") || op.Answer["200"] == nil {
					t.Errorf("%s %s %s: %+v", dialect, method, path, op)
				}
			}
			if !strings.Contains(string(doc.Paths[path]["parameters"]), `"name":"name"`) {
				t.Errorf("%s %s: %s", dialect, path, doc.Paths[path]["parameters"])
			}
		}
	}
}

// An index of many kinds that users have defined.
func BenchmarkIndexOfDefinedKinds(b *testing.B) {
	var resources []Resource
	for i := range 1000 {
		gv := schema.GroupVersion{Group: fmt.Sprintf("g%d.example.com", i), Version: "v1"}
		resources = append(resources, Resource{
			GVR: gv.WithResource("widgets"), GVK: gv.WithKind("Widget"), Namespaced: true,
			Verbs: []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"},
			Custom: &Custom{Kind: &struct{}{}, Name: fmt.Sprintf("com.example.g%d.v1.Widget", i), Schema: func(bool) (json.RawMessage, error) {
				return json.RawMessage(`{"type":"object"}`), nil
			}},
		})
	}
	for b.Loop() {
		documents := New(Config{Version: "v1", Resources: resources, Extra: []reflect.Type{reflect.TypeFor[metav1.Status](), reflect.TypeFor[metav1.DeleteOptions]()}})
		if _, err := documents.IndexV3(); err != nil {
			b.Fatal(err)
		}
	}
}
