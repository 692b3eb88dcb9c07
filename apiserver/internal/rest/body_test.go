package rest

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

const configMaps = "/api/v1/namespaces/default/configmaps"

// unwrap reads a protobuf answer.
func (a answer) unwrap(t *testing.T, gvk schema.GroupVersionKind, into interface{ Unmarshal([]byte) error }) {
	t.Helper()
	if got := a.header.Get("Content-Type"); got != mediaProtobuf {
		t.Fatalf("content type %q: %s", got, a.body)
	}
	var envelope runtime.Unknown
	if !bytes.HasPrefix(a.body, []byte(protobufMagic)) {
		t.Fatalf("no magic: %q", a.body)
	}
	if err := envelope.Unmarshal(a.body[4:]); err != nil {
		t.Fatal(err)
	}
	if got := schema.FromAPIVersionAndKind(envelope.APIVersion, envelope.Kind); got != gvk {
		t.Fatalf("kind %v, want %v", got, gvk)
	}
	if err := into.Unmarshal(envelope.Raw); err != nil {
		t.Fatal(err)
	}
}

func TestOneObjectInEveryForm(t *testing.T) {
	h := newHarness(t)
	if a := h.call("POST", configMaps, configMapX); a.code != 201 {
		t.Fatalf("%d %s", a.code, a.body)
	}
	const one = configMaps + "/x"
	h.call("GET", one, "").contains(t, `"kind":"ConfigMap"`, `"apiVersion":"v1"`, `"resourceVersion":"101"`)
	h.call("GET", one+"?pretty=true", "").contains(t, "\n  \"kind\"")
	h.call("GET", one, "", "Accept: application/yaml").contains(t, "kind: ConfigMap\n", "  k: v\n")
	h.call("GET", one, "", "Accept: text/html, */*;q=0.8").contains(t, `"kind":"ConfigMap"`)
	table := "Accept: application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"
	a := h.call("GET", one, "", table)
	a.contains(t, `"kind":"Table"`, `"apiVersion":"meta.k8s.io/v1"`, `"cells":["x",1,`, `"kind":"PartialObjectMetadata"`)
	h.call("GET", one, "", strings.ReplaceAll(table, "v=v1;", "v=v1beta1;")).contains(t, `"apiVersion":"meta.k8s.io/v1beta1"`)
	h.call("GET", one+"?includeObject=Object", "", table).contains(t, `"object":{"kind":"ConfigMap"`)
	h.call("GET", one+"?includeObject=None", "", table).contains(t, `"object":null`)
	h.call("GET", one, "", "Accept: application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1").contains(t, `"kind":"PartialObjectMetadata"`, `"name":"x"`)

	var cm corev1.ConfigMap
	gvk := corev1.SchemeGroupVersion.WithKind("ConfigMap")
	h.call("GET", one, "", "Accept: application/vnd.kubernetes.protobuf,application/json").unwrap(t, gvk, &cm)
	if cm.Data["k"] != "v" || cm.ResourceVersion != "101" {
		t.Errorf("%+v", cm)
	}
	var partial metav1.PartialObjectMetadata
	h.call("GET", one, "", "Accept: application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1").unwrap(t, metaKind("v1", "PartialObjectMetadata"), &partial)
	if partial.Name != "x" || partial.ResourceVersion != "101" || partial.Labels["a"] != "b" {
		t.Errorf("%+v", partial)
	}
	if a := h.call("GET", one, "", "Accept: image/png"); a.code != 406 {
		t.Errorf("%d", a.code)
	}
	missing := h.call("GET", configMaps+"/y", "", "Accept: application/vnd.kubernetes.protobuf")
	var status metav1.Status
	missing.unwrap(t, schema.GroupVersionKind{Version: "v1", Kind: "Status"}, &status)
	if missing.code != 404 || status.Reason != metav1.StatusReasonNotFound || status.Details.Name != "y" {
		t.Errorf("%d %+v", missing.code, status)
	}
}

// YAML takes fewer characters than JSON; one object with others would hide all of its list.
func TestYAMLOfAnyText(t *testing.T) {
	h := newHarness(t)
	const text = "\x7f\u0085\u009f\ufeff\uffff\u2028😀"
	encoded, err := json.Marshal(text)
	h.must(err)
	owners := `[{"manager":"m","operation":"Update","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{"f:\ud83d\ude00":{},"f:\ud83d":{}}}]`
	if a := h.call("POST", configMaps, `{"metadata":{"name":"x","managedFields":`+owners+`},"data":{"a":`+string(encoded)+`}}`); a.code != 201 {
		t.Fatalf("%d %s", a.code, a.body)
	}
	const accept = "Accept: application/yaml"
	var cm corev1.ConfigMap
	h.must(yaml.Unmarshal(h.call("GET", configMaps+"/x", "", accept).body, &cm))
	var list corev1.ConfigMapList
	h.must(yaml.Unmarshal(h.call("GET", configMaps, "", accept).body, &list))
	if len(list.Items) != 1 {
		t.Fatalf("%d objects are listed", len(list.Items))
	}
	for _, got := range []corev1.ConfigMap{cm, list.Items[0]} {
		if got.Data["a"] != text || !strings.Contains(string(got.ManagedFields[0].FieldsV1.GetRawBytes()), "f:😀") {
			t.Errorf("%q, %s", got.Data["a"], got.ManagedFields[0].FieldsV1.GetRawBytes())
		}
	}
}

func TestBodies(t *testing.T) {
	h := newHarness(t)
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "pb"}, Data: map[string]string{"a": "b"}}
	raw, err := cm.Marshal()
	h.must(err)
	gvk := corev1.SchemeGroupVersion.WithKind("ConfigMap")
	a := h.call("POST", configMaps, string(protobufBody(gvk, raw)), "Content-Type: application/vnd.kubernetes.protobuf", "Accept: application/vnd.kubernetes.protobuf")
	var back corev1.ConfigMap
	a.unwrap(t, gvk, &back)
	if a.code != 201 || back.UID == "" || back.Namespace != "default" || back.Data["a"] != "b" {
		t.Errorf("%d %+v", a.code, back)
	}
	if a := h.call("POST", configMaps, "kind: ConfigMap\napiVersion: v1\nmetadata: {generateName: y-}\n", "Content-Type: application/yaml"); a.code != 201 {
		t.Errorf("%d %s", a.code, a.body)
	}
	for _, c := range []struct {
		name, body, contentType string
		code                    int
		says                    string
	}{
		{"other kind", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"}}`, mediaJSON, 400, "kind in the data (Pod) does not match"},
		{"other version", `{"apiVersion":"v2","kind":"ConfigMap","metadata":{"name":"x"}}`, mediaJSON, 400, "API version in the data (v2) does not match"},
		{"other namespace", `{"metadata":{"name":"x","namespace":"z"}}`, mediaJSON, 400, "namespace of the provided object"},
		{"no json", `{`, mediaJSON, 400, "cannot be handled as a ConfigMap"},
		{"wrong type", `{"metadata":{"name":1}}`, mediaJSON, 400, "cannot be handled as a ConfigMap"},
		{"no magic", `{}`, mediaProtobuf, 400, "not Kubernetes protobuf"},
		{"cut short", string(protobufBody(gvk, raw)[:len(raw)]), mediaProtobuf, 400, "protobuf"},
		{"cbor", `{}`, "application/cbor", 415, "unknown format"},
		{"empty", ``, mediaJSON, 400, "ConfigMap"},
		{"too large", `{"data":{"a":"` + strings.Repeat("x", maxBodyBytes) + `"}}`, mediaJSON, 413, "limit is 3145728"},
	} {
		a := h.call("POST", configMaps, c.body, "Content-Type: "+c.contentType)
		if s := a.status(t); a.code != c.code || !strings.Contains(s.Message, c.says) {
			t.Errorf("%s: %d %q", c.name, a.code, s.Message)
		}
	}
}

func TestFieldValidation(t *testing.T) {
	h := newHarness(t)
	const body = `{"metadata":{"name":"%s"},"spec":{"foo":1,"replicas":1,"replicas":2}}`
	const path = "/apis/apps/v1/namespaces/default/deployments"
	strict := h.call("POST", path+"?fieldValidation=Strict", fmt.Sprintf(body, "a")).status(t)
	if strict.Code != 400 || !strings.Contains(strict.Message, `strict decoding error: `) || !strings.Contains(strict.Message, `unknown field "spec.foo"`) || !strings.Contains(strict.Message, `duplicate field "spec.replicas"`) {
		t.Errorf("%+v", strict)
	}
	warned := h.call("POST", path, fmt.Sprintf(body, "b"))
	if got := warned.header.Values("Warning"); warned.code != 201 || len(got) != 2 || !strings.Contains(strings.Join(got, ","), `299 - "unknown field \"spec.foo\""`) {
		t.Errorf("%d %q", warned.code, got)
	}
	ignored := h.call("POST", path+"?fieldValidation=Ignore", fmt.Sprintf(body, "c"))
	if ignored.code != 201 || len(ignored.header.Values("Warning")) != 0 {
		t.Errorf("%d %v", ignored.code, ignored.header)
	}
	if a := h.call("POST", path+"?fieldValidation=Maybe", fmt.Sprintf(body, "d")); a.code != 422 {
		t.Errorf("%d", a.code)
	}
}

func TestWriteOptionsReachTheRegistry(t *testing.T) {
	h := newHarness(t)
	h.call("POST", configMaps+"?dryRun=All&fieldManager=me", configMapX, "User-Agent: kubectl/v1 (linux)")
	if o := h.registry.lastWrite; !o.DryRun || o.FieldManager != "me" || o.FieldValidation != "Warn" {
		t.Errorf("%+v", o)
	}
	h.call("PUT", configMaps+"/x", configMapX, "User-Agent: kubectl/v1 (linux)")
	if o := h.registry.lastWrite; o.DryRun || o.FieldManager != "" {
		t.Errorf("%+v", o)
	}
	if c := h.registry.lastCaller; c.User != "kubernetes-admin" || c.UserAgent != "kubectl/v1 (linux)" || c.RequestID == "" || len(c.Groups) != 2 {
		t.Errorf("%+v", c)
	}
	for path, want := range map[string]int{"?dryRun=Some": 422, "?fieldManager=" + strings.Repeat("x", 200): 422} {
		if a := h.call("PUT", configMaps+"/x"+path, configMapX); a.code != want {
			t.Errorf("%s: %d", path[:10], a.code)
		}
	}
	if a := h.call("PUT", configMaps+"/other", configMapX); a.code != 400 {
		t.Errorf("name mismatch: %d", a.code)
	}
	stale := `{"metadata":{"name":"x","resourceVersion":"7"}}`
	if a := h.call("PUT", configMaps+"/x", stale); a.code != 409 || a.status(t).Reason != metav1.StatusReasonConflict {
		t.Errorf("stale: %d", a.code)
	}
}

func TestPatch(t *testing.T) {
	h := newHarness(t)
	h.call("POST", configMaps, configMapX)
	a := h.call("PATCH", configMaps+"/x", `{"data":{"n":"1"}}`, "Content-Type: application/merge-patch+json")
	a.contains(t, `"n":"1"`, `"k":"v"`)
	if a := h.call("PATCH", configMaps+"/x", `{}`, "Content-Type: application/json"); a.code != 415 {
		t.Errorf("%d", a.code)
	}
	if a := h.call("PATCH", configMaps+"/x", `{}`, "Content-Type: application/apply-patch+yaml"); a.code != 422 || !strings.Contains(string(a.body), "fieldManager") {
		t.Errorf("apply without manager: %d %s", a.code, a.body)
	}
	if a := h.call("PATCH", configMaps+"/x?force=true", `{}`, "Content-Type: application/merge-patch+json"); a.code != 422 {
		t.Errorf("forced merge: %d", a.code)
	}
	bad := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {a: b}\nwrong: 1\n"
	if a := h.call("PATCH", configMaps+"/x?fieldManager=m&fieldValidation=Strict", bad, "Content-Type: application/apply-patch+yaml"); a.code != 400 || !strings.Contains(string(a.body), `unknown field`) {
		t.Errorf("strict apply: %d %s", a.code, a.body)
	}
}

func TestDeleteOptions(t *testing.T) {
	h := newHarness(t)
	uid := "some"
	options := &metav1.DeleteOptions{GracePeriodSeconds: new(int64(5)), Preconditions: metav1.NewUIDPreconditions(uid)}
	raw, err := options.Marshal()
	h.must(err)
	encoded := string(protobufBody(appsv1.SchemeGroupVersion.WithKind("DeleteOptions"), raw))
	for _, c := range []struct {
		query, body, contentType string
		code                     int
		check                    func(o metav1.DeleteOptions) bool
	}{
		{"", "", mediaJSON, 200, func(o metav1.DeleteOptions) bool { return o.GracePeriodSeconds == nil && o.PropagationPolicy == nil }},
		{"?gracePeriodSeconds=3&propagationPolicy=Foreground&dryRun=All", "", mediaJSON, 200, func(o metav1.DeleteOptions) bool {
			return *o.GracePeriodSeconds == 3 && *o.PropagationPolicy == "Foreground" && len(o.DryRun) == 1
		}},
		{"?orphanDependents=true", "", mediaJSON, 200, func(o metav1.DeleteOptions) bool { return *o.PropagationPolicy == "Orphan" }},
		{"", `{"kind":"DeleteOptions","apiVersion":"v1","propagationPolicy":"Background","preconditions":{"resourceVersion":"7"}}`, mediaJSON, 200, func(o metav1.DeleteOptions) bool {
			return *o.PropagationPolicy == "Background" && *o.Preconditions.ResourceVersion == "7"
		}},
		{"", encoded, mediaProtobuf, 200, func(o metav1.DeleteOptions) bool {
			return *o.GracePeriodSeconds == 5 && string(*o.Preconditions.UID) == uid
		}},
		{"", `{"propagationPolicy":"Sideways"}`, mediaJSON, 422, nil},
		{"", `{"orphanDependents":true,"propagationPolicy":"Orphan"}`, mediaJSON, 422, nil},
		{"", `{"kind":"Pod"}`, mediaJSON, 400, nil},
		{"?gracePeriodSeconds=soon", "", mediaJSON, 400, nil},
	} {
		h.call("POST", configMaps, configMapX)
		a := h.call("DELETE", configMaps+"/x"+c.query, c.body, "Content-Type: "+c.contentType)
		if a.code != c.code || c.check != nil && !c.check(h.registry.lastDelete) {
			t.Errorf("%s %s: %d %s %+v", c.query, c.body, a.code, a.body, h.registry.lastDelete)
		}
		if c.code == 200 && (a.status(t).Status != "Success" || a.status(t).Details.UID == "") {
			t.Errorf("%s", a.body)
		}
	}
}

func TestLists(t *testing.T) {
	h := newHarness(t)
	for i := range 5 {
		body := fmt.Sprintf(`{"metadata":{"name":"c%d","labels":{"n":"%d"}},"data":{"big":%q}}`, i, i, strings.Repeat("x", 50_000))
		if a := h.call("POST", configMaps, body); a.code != 201 {
			t.Fatal(a.code)
		}
	}
	var list corev1.ConfigMapList
	h.must(json.Unmarshal(h.call("GET", configMaps+"?limit=2", "").body, &list))
	if len(list.Items) != 2 || list.Continue == "" || *list.RemainingItemCount != 3 || list.Kind != "ConfigMapList" || list.Items[0].Kind != "" {
		t.Errorf("first page: %d %+v", len(list.Items), list.ListMeta)
	}
	next := list.Continue
	list = corev1.ConfigMapList{}
	a := h.call("GET", configMaps+"?limit=10&continue="+next, "", "Accept: application/vnd.kubernetes.protobuf")
	a.unwrap(t, corev1.SchemeGroupVersion.WithKind("ConfigMapList"), &list)
	if len(list.Items) != 3 || list.Continue != "" || list.ResourceVersion != "105" || list.Items[0].Name != "c2" {
		t.Errorf("second page: %d %+v", len(list.Items), list.ListMeta)
	}
	var partial metav1.PartialObjectMetadataList
	h.call("GET", configMaps, "", "Accept: application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1").unwrap(t, metaKind("v1", "PartialObjectMetadataList"), &partial)
	if len(partial.Items) != 5 || partial.Items[4].Labels["n"] != "4" {
		t.Errorf("%+v", partial)
	}
	h.call("GET", configMaps+"?labelSelector=n%3D3&fieldSelector=metadata.name%3Dc3", "", "Accept: application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1").contains(t, `"kind":"PartialObjectMetadataList"`, `"name":"c3"`)
	var table metav1.Table
	h.must(json.Unmarshal(h.call("GET", configMaps, "", "Accept: application/json;as=Table;v=v1;g=meta.k8s.io").body, &table))
	if len(table.Rows) != 5 || len(table.Rows[0].Cells) != len(table.ColumnDefinitions) || table.ResourceVersion == "" {
		t.Errorf("%+v", table)
	}
	h.call("GET", configMaps, "", "Accept: application/yaml").contains(t, "kind: ConfigMapList\n")
	for _, query := range []string{"labelSelector=!!", "fieldSelector=a", "limit=x", "resourceVersionMatch=Exact", "includeObject=All", "sendInitialEvents=true"} {
		if a := h.call("GET", configMaps+"?"+query, ""); a.code != 400 && a.code != 422 {
			t.Errorf("%s: %d", query, a.code)
		}
	}
	if a := h.call("DELETE", configMaps+"?labelSelector=n%3D3", ""); a.code != 200 {
		t.Errorf("%d", a.code)
	}
	if a := h.call("GET", configMaps+"/c3", ""); a.code != 404 {
		t.Errorf("%d", a.code)
	}
}

func TestLargeAnswersAreCompressed(t *testing.T) {
	h := newHarness(t)
	body := fmt.Sprintf(`{"metadata":{"name":"c"},"data":{"big":%q}}`, strings.Repeat("x", 2*compressAboveBytes))
	h.call("POST", configMaps, body)
	a := h.call("GET", configMaps, "", "Accept-Encoding: gzip") // set by hand: net/http leaves the answer compressed
	if a.header.Get("Content-Encoding") != "gzip" {
		t.Fatalf("%v", a.header)
	}
	r, err := gzip.NewReader(bytes.NewReader(a.body))
	h.must(err)
	plain, err := io.ReadAll(r)
	h.must(err)
	if !json.Valid(plain) || len(plain) < 2*compressAboveBytes {
		t.Errorf("%d bytes", len(plain))
	}
	small := h.call("GET", "/api/v1/namespaces", "", "Accept-Encoding: gzip")
	if small.header.Get("Content-Encoding") != "" || small.header.Get("Content-Length") == "" || small.code != http.StatusOK {
		t.Errorf("%d %v", small.code, small.header)
	}
}
