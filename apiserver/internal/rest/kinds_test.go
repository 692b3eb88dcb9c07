package rest

import (
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/apiserver/internal/registry/kinds"
)

// Whatever is in the table is listed as a Table, named by discovery and documented.
func TestEveryKindIsServed(t *testing.T) {
	h := newRealHarness(t)
	groups := map[schema.GroupVersion]string{}
	for _, kind := range kinds.Default() {
		gv := kind.GVR.GroupVersion()
		root := "/apis/" + gv.String()
		if gv.Group == "" {
			root = "/api/" + gv.Version
		}
		groups[gv] = root
		a := h.call("GET", root+"/"+kind.GVR.Resource, "", "Accept: application/json;as=Table;v=v1;g=meta.k8s.io")
		var table metav1.Table
		if err := json.Unmarshal(a.body, &table); err != nil || a.code != http.StatusOK {
			t.Errorf("%s: %d %v", kind.GVR, a.code, err)
		}
		if len(table.ColumnDefinitions) != len(kind.Columns) {
			t.Errorf("%s: %d columns, want %d", kind.GVR, len(table.ColumnDefinitions), len(kind.Columns))
		}
		var list metav1.APIResourceList
		h.must(json.Unmarshal(h.call("GET", root, "").body, &list))
		named := func(name string) bool {
			return slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == name })
		}
		if !named(kind.GVR.Resource) {
			t.Errorf("%s: not discovered", kind.GVR)
		}
		for _, sub := range kind.Subresources {
			if !sub.Stream && !named(kind.GVR.Resource+"/"+sub.Name) {
				t.Errorf("%s/%s: not discovered", kind.GVR, sub.Name)
			}
		}
	}
	reference, operation := regexp.MustCompile(`"#/components/schemas/([^"]+)"`), regexp.MustCompile(`"operationId":"([^"]+)"`)
	for gv, root := range groups {
		a := h.call("GET", "/openapi/v3"+root, "")
		var doc struct {
			Components struct{ Schemas map[string]any }
		}
		if err := json.Unmarshal(a.body, &doc); err != nil || a.code != http.StatusOK {
			t.Errorf("%s: %d %v", gv, a.code, err)
		}
		for _, ref := range reference.FindAllSubmatch(a.body, -1) {
			if _, ok := doc.Components.Schemas[string(ref[1])]; !ok {
				t.Errorf("%s: %s leads nowhere", gv, ref[1])
			}
		}
		seen := map[string]bool{}
		for _, id := range operation.FindAllSubmatch(a.body, -1) {
			if seen[string(id[1])] {
				t.Errorf("%s: operation %s is there twice", gv, id[1])
			}
			seen[string(id[1])] = true
		}
	}
	h.call("GET", "/openapi/v3/apis/certificates.k8s.io/v1", "").contains(t, `"replaceCertificatesV1CertificateSigningRequestApproval"`, `"certificates_v1"`)
	h.call("GET", "/openapi/v3/apis/flowcontrol.apiserver.k8s.io/v1", "").contains(t, `"readFlowcontrolApiserverV1FlowSchemaStatus"`, `"flowcontrolApiserver_v1"`)
}
