package rest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// certificates is a definition as controllers have them: conditions as a list map, nested
// objects, a status, columns, a rule.
const certificates = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: certs.pki.example.com, annotations: {controller-gen.kubebuilder.io/version: v0.19.0}}
spec:
  group: pki.example.com
  scope: Namespaced
  names: {plural: certs, singular: cert, kind: Cert, listKind: CertList, shortNames: [crt], categories: [pki]}
  versions:
  - name: v1alpha1
    served: true
    storage: false
    deprecated: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}
    additionalPrinterColumns:
    - {name: Ready, type: string, jsonPath: '.status.conditions[?(@.type == "Ready")].status'}
    - {name: Secret, type: string, jsonPath: .spec.secretName}
    - {name: Replicas, type: integer, jsonPath: .spec.replicas, priority: 1}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    selectableFields: [{jsonPath: .spec.secretName}]
    schema:
      openAPIV3Schema:
        type: object
        description: A certificate that somebody wants.
        required: [spec]
        properties:
          apiVersion: {type: string}
          kind: {type: string}
          metadata: {type: object}
          spec:
            type: object
            description: What is wanted.
            required: [secretName]
            x-kubernetes-validations:
            - {rule: "!has(self.usages) || self.usages.size() <= 3", message: "at most three usages"}
            properties:
              secretName: {type: string, minLength: 1, description: Where the key goes.}
              replicas: {type: integer, format: int32, default: 1}
              duration: {type: string, format: duration}
              usages: {type: array, maxItems: 10, items: {type: string, enum: [sign, encrypt, server, client]}, x-kubernetes-list-type: set}
              port: {x-kubernetes-int-or-string: true, anyOf: [{type: integer}, {type: string}]}
              issuerRef:
                type: object
                required: [name]
                properties: {name: {type: string}, kind: {type: string, default: Issuer}}
              template:
                type: object
                x-kubernetes-embedded-resource: true
                x-kubernetes-preserve-unknown-fields: true
          status:
            type: object
            properties:
              replicas: {type: integer}
              conditions:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [type]
                items:
                  type: object
                  required: [type, status]
                  properties: {type: {type: string}, status: {type: string, enum: ["True", "False", Unknown]}, message: {type: string}}
`

const (
	crdsPath  = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
	certsPath = "/apis/pki.example.com/v1/namespaces/default/certs"
	yamlBody  = "Content-Type: application/yaml"
)

func defined(t *testing.T) *harness {
	t.Helper()
	h := newRealHarness(t)
	a := h.call("POST", crdsPath, certificates, yamlBody)
	if a.code != http.StatusCreated {
		t.Fatalf("define: %d %s", a.code, a.body)
	}
	a.contains(t, `"type":"Established","status":"True"`, `"type":"NamesAccepted","status":"True"`)
	return h
}

func TestKubectlWithDefinedKinds(t *testing.T) {
	h := newRealHarness(t)
	k := newKubectl(h)
	k.feed(certificates, "apply -f -", "customresourcedefinition.apiextensions.k8s.io/certs.pki.example.com created")
	k.ok("wait --for=condition=Established --timeout=5s crd/certs.pki.example.com", "condition met")
	k.ok("api-resources --api-group=pki.example.com", "certs", "crt", "pki.example.com/v1", "true", "Cert")
	k.ok("get crd", "NAME", "CREATED AT", "certs.pki.example.com")
	k.ok("explain cert.spec", "What is wanted.", "secretName", "-required-", "Where the key goes.", "issuerRef")
	k.ok("explain certs.spec.usages", "usages <[]string>")

	const cert = "apiVersion: pki.example.com/v1\nkind: Cert\nmetadata: {name: web, labels: {a: b}}\nspec: {secretName: key, usages: [sign], issuerRef: {name: ca}}\n"
	k.feed(cert, "apply -f -", "cert.pki.example.com/web created")
	k.feed(cert, "apply -f -", "cert.pki.example.com/web unchanged")
	k.feed(strings.Replace(cert, "[sign]", "[sign, client]", 1), "apply -f -", "cert.pki.example.com/web configured")
	k.feed(strings.Replace(cert, "[sign]", "[sign, client]", 1), "diff -f -")
	k.ok("get crt", "NAME", "READY", "SECRET", "AGE", "web", "key")
	k.ok("get certs -o wide", "REPLICAS", "1")
	k.ok("get pki", "web")
	k.ok("get cert web -o jsonpath={.spec.issuerRef.kind}", "Issuer")
	k.ok("get certs --field-selector spec.secretName=key", "web")
	k.ok("get certs --field-selector spec.secretName=other", "No resources found")
	k.ok("describe cert web", "Kind:", "Cert", "Secret Name:  key", "Issuer Ref:")
	if out, good := k.run(strings.Replace(cert, "secretName: key", "secretNmae: key, secretName: key", 1), "apply", "-f", "-"); good || !strings.Contains(out, `unknown field "spec.secretNmae"`) {
		t.Errorf("a misspelt field: %s", out)
	}
	if out, good := k.run(strings.Replace(cert, "[sign]", "[sing]", 1), "apply", "-f", "-"); good || !strings.Contains(out, `spec.usages[0]: Unsupported value: "sing"`) {
		t.Errorf("a value that is none: %s", out)
	}
	k.feed(strings.Replace(cert, "web", "two", 1), "apply --server-side --field-manager me -f -", "cert.pki.example.com/two serverside-applied")
	k.ok("get cert two -o yaml --show-managed-fields", "manager: me", "f:secretName")
	k.ok("scale cert/web --replicas=3", "scaled")
	k.ok("get cert web -o jsonpath={.spec.replicas}", "3")
	k.ok(`patch cert web --subresource=status --type=merge -p {"status":{"conditions":[{"type":"Ready","status":"True"}]}}`, "patched")
	k.ok("wait --for=condition=Ready --timeout=5s cert/web", "condition met")
	k.ok("get cert web", "True")
	k.ok("label cert web x=y", "labeled")
	k.ok("annotate cert web x=y", "annotated")
	k.ok("get certs.v1alpha1.pki.example.com", "Warning: pki.example.com/v1alpha1 Cert is deprecated", "web")
	k.ok("delete cert web two", `"web" deleted`, `"two" deleted`)
	// A second definition of another shape, applied on the server, as large ones must be.
	k.feed(strings.NewReplacer("certs", "clusters", "singular: cert", "singular: cluster", "kind: Cert", "kind: Cluster", "listKind: CertList", "listKind: ClusterList", "Namespaced", "Cluster", "[crt]", "[cl]").Replace(certificates),
		"apply --server-side -f -", "serverside-applied")
	k.feed("apiVersion: pki.example.com/v1\nkind: Cluster\nmetadata: {generateName: c-}\nspec: {secretName: key}\n", "create -f -", "cluster.pki.example.com/c-", "created")
	k.ok("get clusters", "c-")
}

func TestDoorsOfDefinedKinds(t *testing.T) {
	h := defined(t)
	const protobuf = "application/vnd.kubernetes.protobuf"
	body := `{"apiVersion":"pki.example.com/v1","kind":"Cert","metadata":{"name":"a"},"spec":{"secretName":"s","nope":1}}`
	a := h.call("POST", certsPath, body)
	if a.code != 201 || a.header.Get("Warning") != `299 - "unknown field \"spec.nope\""` {
		t.Errorf("create: %d, warning %q, %s", a.code, a.header.Get("Warning"), a.body)
	}
	for name, c := range map[string]struct {
		method, path, body string
		headers            []string
		code               int
		texts              []string
	}{
		"strict":           {"POST", certsPath + "?fieldValidation=Strict", strings.Replace(body, `"a"`, `"b"`, 1), nil, 400, []string{`strict decoding error: unknown field \"spec.nope\"`}},
		"repeated field":   {"POST", certsPath + "?fieldValidation=Strict", `{"apiVersion":"pki.example.com/v1","kind":"Cert","metadata":{"name":"b"},"spec":{"secretName":"s","secretName":"t"}}`, nil, 400, []string{`duplicate field \"spec.secretName\"`}},
		"other kind":       {"POST", certsPath, strings.Replace(body, `"Cert"`, `"Cret"`, 1), nil, 400, []string{"does not match"}},
		"no kind":          {"POST", certsPath, `{"metadata":{"name":"b"}}`, nil, 400, []string{"'Kind' is missing"}},
		"bad metadata":     {"POST", certsPath, `{"apiVersion":"pki.example.com/v1","kind":"Cert","metadata":{"name":7}}`, nil, 400, nil},
		"protobuf body":    {"POST", certsPath, "k8s\x00", []string{"Content-Type: " + protobuf}, 415, nil},
		"protobuf only":    {"GET", certsPath + "/a", "", []string{"Accept: " + protobuf}, 406, nil},
		"protobuf first":   {"GET", certsPath + "/a", "", []string{"Accept: " + protobuf + ",application/json"}, 200, []string{`"kind":"Cert"`, `"replicas":1`}},
		"yaml":             {"GET", certsPath + "/a", "", []string{"Accept: application/yaml"}, 200, []string{"kind: Cert", "secretName: s"}},
		"strategic":        {"PATCH", certsPath + "/a", "{}", []string{"Content-Type: application/strategic-merge-patch+json"}, 415, []string{"application/merge-patch+json"}},
		"list":             {"GET", certsPath, "", nil, 200, []string{`"kind":"CertList","apiVersion":"pki.example.com/v1"`, `"items":[{"apiVersion":"pki.example.com/v1","kind":"Cert"`}},
		"metadata":         {"GET", certsPath, "", []string{"Accept: application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"}, 200, []string{`"kind":"PartialObjectMetadataList"`, `"name":"a"`}},
		"deprecated":       {"GET", strings.Replace(certsPath, "v1", "v1alpha1", 1) + "/a", "", nil, 200, []string{`"apiVersion":"pki.example.com/v1alpha1"`}},
		"unknown version":  {"GET", strings.Replace(certsPath, "v1", "v2", 1), "", nil, 404, nil},
		"unknown resource": {"GET", "/apis/pki.example.com/v1/crets", "", nil, 404, nil},
		"scale":            {"GET", certsPath + "/a/scale", "", nil, 200, []string{`"kind":"Scale"`, `"replicas":1`}},
		"bad definition":   {"POST", crdsPath, strings.Replace(certificates, "storage: true", "storage: false", 1), []string{yamlBody}, 422, []string{"storage"}},
	} {
		a := h.call(c.method, c.path, c.body, c.headers...)
		if a.code != c.code {
			t.Errorf("%s: %d, want %d: %s", name, a.code, c.code, a.body)
		}
		a.contains(t, c.texts...)
	}
	meta := h.call("GET", certsPath+"/a", "", "Accept: "+protobuf+";as=PartialObjectMetadata;g=meta.k8s.io;v=v1")
	unknown, err := openProtobuf(meta.body)
	if err != nil {
		t.Fatal(err)
	}
	var partial metav1.PartialObjectMetadata
	if err := partial.Unmarshal(unknown.Raw); err != nil || partial.Name != "a" || partial.ResourceVersion == "" || unknown.Kind != "PartialObjectMetadata" {
		t.Errorf("metadata in protobuf: %v %+v", err, partial.ObjectMeta)
	}
}

func TestWatchOfDefinedKind(t *testing.T) {
	h := defined(t)
	r, err := http.NewRequestWithContext(t.Context(), "GET", h.http.URL+"/apis/pki.example.com/v1/certs?watch=true&fieldSelector=spec.secretName%3Ds&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true", nil)
	h.must(err)
	resp, err := h.admin.Do(r)
	h.must(err)
	defer func() { _ = resp.Body.Close() }()
	lines := bufio.NewScanner(resp.Body)
	next := func(texts ...string) {
		t.Helper()
		if !lines.Scan() {
			t.Fatal("the watch ended", lines.Err())
		}
		for _, text := range texts {
			if !strings.Contains(lines.Text(), text) {
				t.Errorf("event lacks %q: %s", text, lines.Text())
			}
		}
	}
	next(`"type":"BOOKMARK"`, `"kind":"Cert"`, metav1.InitialEventsAnnotationKey)
	for _, secret := range []string{"s", "other"} {
		h.post(certsPath, fmt.Sprintf(`{"apiVersion":"pki.example.com/v1","kind":"Cert","metadata":{"name":%q},"spec":{"secretName":%q}}`, secret, secret))
	}
	next(`"type":"ADDED"`, `"apiVersion":"pki.example.com/v1"`, `"name":"s"`)
	h.call("PATCH", certsPath+"/other", `{"spec":{"secretName":"s"}}`, "Content-Type: application/merge-patch+json")
	next(`"type":"ADDED"`, `"name":"other"`)
	h.call("PATCH", certsPath+"/s", `{"spec":{"secretName":"t"}}`, "Content-Type: application/merge-patch+json")
	next(`"type":"DELETED"`, `"name":"s"`)
}

// Discovery and documents follow what is defined, and what is documented can be used for
// server-side apply: every reference leads somewhere.
func TestDocumentsOfDefinedKinds(t *testing.T) {
	h := newRealHarness(t)
	before := h.call("GET", "/openapi/v3", "")
	apps := h.call("GET", "/openapi/v3/apis/apps/v1", "").header.Get("Etag")
	const aggregated = "Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
	tag := h.call("GET", "/apis", "", aggregated).header.Get("Etag")
	if a := h.call("POST", crdsPath, certificates, yamlBody); a.code != 201 {
		t.Fatalf("%d %s", a.code, a.body)
	}
	a := h.call("GET", "/apis", "", aggregated)
	a.contains(t, `"name":"pki.example.com"`, `"resource":"certs"`, `"shortNames":["crt"]`, `"categories":["pki"]`, `"subresource":"scale"`)
	if a.header.Get("Etag") == tag {
		t.Error("discovery keeps its tag")
	}
	h.call("GET", "/apis/pki.example.com", "").contains(t, `"preferredVersion":{"groupVersion":"pki.example.com/v1","version":"v1"}`)
	h.call("GET", "/apis/pki.example.com/v1", "").contains(t, `"name":"certs/status"`, `"storageVersionHash"`)
	if a := h.call("GET", "/openapi/v3", ""); string(a.body) == string(before.body) || !strings.Contains(string(a.body), "apis/pki.example.com/v1?hash=") {
		t.Errorf("index %s", a.body)
	}
	if got := h.call("GET", "/openapi/v3/apis/apps/v1", "").header.Get("Etag"); got != apps {
		t.Error("the document of another group changes")
	}
	var doc struct {
		Components struct {
			Schemas map[string]*spec.Schema `json:"schemas"`
		} `json:"components"`
		Paths map[string]any `json:"paths"`
	}
	a = h.call("GET", "/openapi/v3/apis/pki.example.com/v1", "")
	if err := json.Unmarshal(a.body, &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Paths["/apis/pki.example.com/v1/namespaces/{namespace}/certs/{name}/status"] == nil || doc.Components.Schemas["com.example.pki.v1.Cert"] == nil {
		t.Errorf("paths or schemas are missing: %s", a.body[:min(len(a.body), 500)])
	}
	for part := range strings.SplitSeq(string(a.body), `"$ref":"#/components/schemas/`) {
		if name, _, ok := strings.Cut(part, `"`); ok && !strings.HasPrefix(part, "{") && doc.Components.Schemas[name] == nil {
			t.Errorf("nothing is called %q", name)
		}
	}
	if _, err := managedfields.NewTypeConverter(doc.Components.Schemas, false); err != nil {
		t.Errorf("types of the document: %v", err)
	}
	for _, path := range []string{"/openapi/v2", "/openapi/v3/apis/pki.example.com/v1"} {
		for _, accept := range []string{"application/json", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf", "application/com.github.proto-openapi.spec.v3@v1.0+protobuf"} {
			if a := h.call("GET", path, "", "Accept: "+accept); a.code != 200 || !strings.Contains(string(a.body), "Where the key goes.") {
				t.Errorf("%s as %s: %d", path, accept, a.code)
			}
		}
	}
	h.call("DELETE", crdsPath+"/certs.pki.example.com", "")
	h.call("PATCH", crdsPath+"/certs.pki.example.com", `{"metadata":{"finalizers":null}}`, "Content-Type: application/merge-patch+json")
	if a := h.call("GET", "/apis/pki.example.com/v1", ""); a.code != 404 {
		t.Errorf("after the definition is gone: %d %s", a.code, a.body)
	}
}
