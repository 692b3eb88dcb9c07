package rest

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/apiserver/internal/registry"
)

const configMapX = `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","labels":{"a":"b"}},"data":{"k":"v"}}`

func TestOnlyHealthAndVersionAreOpen(t *testing.T) {
	h := newHarness(t)
	for path, want := range map[string]int{
		"/livez": 200, "/readyz?verbose": 200, "/healthz": 200, "/version": 200, "/readyz/nothing": 404,
		"/": 401, "/api": 401, "/apis": 401, "/openapi/v2": 401, "/openapi/v3": 401, "/api/v1/pods": 401, "/nonsense": 401,
	} {
		if a := h.callAs(h.nobody, "GET", path, ""); a.code != want {
			t.Errorf("%s: %d, want %d: %s", path, a.code, want, a.body)
		}
	}
	a := h.callAs(h.nobody, "GET", "/version", "")
	a.contains(t, `"gitVersion":"v1.37.2+kijabi.0.1"`, `"major":"1"`, `"minor":"37"`)
	if h.call("GET", "/api/v1/pods", "").header.Get("Audit-Id") == "" {
		t.Error("no Audit-Id")
	}
}

func TestFailedCheckIsNamedWithoutItsReason(t *testing.T) {
	h := newHarness(t)
	h.server.cfg.Checks = []Check{{Name: "store", Check: func() error { return errors.New("secret detail") }}}
	a := h.callAs(h.nobody, "GET", "/readyz", "")
	a.contains(t, "[-]store failed", "readyz check failed")
	if a.code != 500 || strings.Contains(string(a.body), "secret") {
		t.Errorf("%d %s", a.code, a.body)
	}
	if a := h.callAs(h.nobody, "GET", "/livez", ""); a.code != 200 {
		t.Errorf("livez must not mind what a restart does not heal: %d", a.code)
	}
	if a := h.callAs(h.nobody, "GET", "/readyz?exclude=store", ""); a.code != 200 {
		t.Errorf("excluded check counts: %d", a.code)
	}
}

func TestAuthorizerIsAskedWhatIsDone(t *testing.T) {
	h := newHarness(t)
	h.createPod("p", "", "c")
	for _, c := range []struct{ method, path, asked string }{
		{"GET", "/api/v1/namespaces/default/pods/p", "get pods default p"},
		{"GET", "/api/v1/namespaces/default/pods", "list pods default "},
		{"GET", "/api/v1/pods", "list pods  "},
		{"GET", "/api/v1/pods?watch=1&resourceVersion=1", "watch pods  "},
		{"GET", "/api/v1/namespaces/default", "get namespaces  default"},
		{"PUT", "/api/v1/namespaces/default/finalize", "update namespaces/finalize  default"},
		{"DELETE", "/apis/apps/v1/namespaces/d/deployments", "deletecollection deployments d "},
		{"PATCH", "/apis/apps/v1/namespaces/d/deployments/w/scale", "patch deployments/scale d w"},
		{"GET", "/api/v1/namespaces/default/pods/p/exec", "create pods/exec default p"},
		{"POST", "/api/v1/namespaces/default/pods/p/portforward", "create pods/portforward default p"},
		{"GET", "/api/v1/namespaces/default/pods/p/log", "get pods/log default p"},
		{"GET", "/api/v1/namespaces/default/pods/p/proxy/x", "get pods/proxy default p"},
		{"HEAD", "/api/v1/namespaces/default/pods/http:p:80/proxy", "get pods/proxy default http:p:80"},
		{"POST", "/api/v1/namespaces/default/services/p/proxy/x", "create services/proxy default p"},
		{"PUT", "/api/v1/namespaces/default/services/p/proxy/x", "update services/proxy default p"},
		{"PATCH", "/api/v1/namespaces/default/services/p/proxy/x", "patch services/proxy default p"},
		{"DELETE", "/api/v1/namespaces/default/services/p/proxy/x", "delete services/proxy default p"},
		{"OPTIONS", "/api/v1/namespaces/default/pods/p/proxy/x", "options pods/proxy default p"},
		{"GET", "/api/v1/nodes/n/proxy/logs/", "get nodes/proxy  n"},
		{"GET", "/api/v1/nodes/n/proxy/metrics", "get nodes/metrics  n"},
		{"GET", "/api/v1/nodes/n/proxy/metrics/resource/", "get nodes/metrics  n"},
		{"GET", "/api/v1/nodes/n/proxy/stats/summary", "get nodes/stats  n"},
		{"GET", "/api/v1/nodes/n/proxy/pods", "get nodes/pods  n"},
		{"GET", "/api/v1/nodes/n/proxy/healthz", "get nodes/healthz  n"},
		{"GET", "/api/v1/nodes/n:10250/proxy/configz", "get nodes/configz  n:10250"},
		{"POST", "/api/v1/nodes/n/proxy/pods", "create nodes/proxy  n"},
	} {
		h.call(c.method, c.path, "")
		want := "kubernetes-admin " + c.asked
		if !slices.Contains(h.authorizer.asked, want) {
			t.Errorf("%s %s: asked %q, want %q", c.method, c.path, h.authorizer.asked[len(h.authorizer.asked)-1], want)
		}
	}
	h.authorizer.deny = func(_, verb, _ string) bool { return verb == "list" }
	a := h.call("GET", "/api/v1/pods", "")
	if s := a.status(t); a.code != 403 || s.Reason != metav1.StatusReasonForbidden {
		t.Errorf("%d %+v", a.code, s)
	}
}

func TestPathsThatNameNothing(t *testing.T) {
	h := newHarness(t)
	for _, c := range []struct {
		method, path string
		code         int
	}{
		{"GET", "/api/v1/nothings", 404},
		{"GET", "/apis/apps/v2/deployments", 404},
		{"GET", "/api/v1/pods/p", 404},
		{"GET", "/api/v1/namespaces/d/nodes", 404},
		{"GET", "/api/v1/namespaces/d/pods/p/nothing", 404},
		{"GET", "/api/v1/nodes/n/proxy/stats", 404},
		{"GET", "/openapi/v4", 404},
		{"POST", "/api/v1/pods", 405},
		{"POST", "/api/v1/namespaces/d/pods/p", 405},
		{"PUT", "/api/v1/namespaces/d/pods", 405},
		{"DELETE", "/api/v1/namespaces/d/pods/p/log", 405},
	} {
		if a := h.call(c.method, c.path, ""); a.code != c.code || a.status(t).Kind != "Status" {
			t.Errorf("%s %s: %d, want %d: %s", c.method, c.path, a.code, c.code, a.body)
		}
	}
}

func TestImpersonation(t *testing.T) {
	h := newHarness(t)
	a := h.call("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", `{}`, "Impersonate-User: eve", "Impersonate-Group: dev")
	a.contains(t, `"username":"eve"`, `"dev"`)
	if a.code != 201 || strings.Contains(string(a.body), "masters") {
		t.Errorf("%d %s", a.code, a.body)
	}
	h.authorizer.deny = func(_, verb, resource string) bool { return verb == "impersonate" && resource == "groups" }
	if a := h.call("GET", "/api/v1/pods", "", "Impersonate-User: eve", "Impersonate-Group: dev"); a.code != 403 {
		t.Errorf("group impersonated without right: %d", a.code)
	}
	if a := h.call("GET", "/api/v1/pods", "", "Impersonate-Group: dev"); a.code != 400 {
		t.Errorf("group alone: %d", a.code)
	}
}

func TestOtherSitesAreRefused(t *testing.T) {
	h := newHarness(t)
	if a := h.call("POST", "/api/v1/namespaces/default/configmaps", configMapX, "Sec-Fetch-Site: cross-site"); a.code != 403 {
		t.Errorf("write from another site: %d", a.code)
	}
	if a := h.callAs(h.oldHTTP(), "GET", "/api/v1/namespaces/default/pods/p/exec", "", "Sec-Fetch-Site: cross-site", "Connection: Upgrade", "Upgrade: websocket"); a.code != 403 {
		t.Errorf("stream from another site: %d", a.code)
	}
}

func TestAccessReviews(t *testing.T) {
	h := newHarness(t)
	h.authorizer.deny = func(user, verb, resource string) bool {
		return verb == "delete" || user == "eve" && verb == "create" && resource == "pods"
	}
	review := func(verb string) string {
		return `{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview","spec":{"resourceAttributes":{"verb":"` + verb + `","resource":"pods","namespace":"default"}}}`
	}
	const path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
	h.call("POST", path, review("get")).contains(t, `"allowed":true`)
	h.call("POST", path, review("delete")).contains(t, `"allowed":false`, "cannot delete")
	h.call("POST", path, `{"spec":{"nonResourceAttributes":{"verb":"get","path":"/version"}}}`).contains(t, `"allowed":true`)
	if a := h.call("POST", path, `{"spec":{}}`); a.code != 400 {
		t.Errorf("empty review: %d", a.code)
	}
	h.call("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", `{"spec":{"user":"eve","groups":["system:masters"],"resourceAttributes":{"verb":"create","resource":"pods"}}}`).contains(t, `"allowed":false`)
	rules := "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
	h.call("POST", rules, `{"spec":{"namespace":"default"}}`).contains(t, `"verbs":["*"],"apiGroups":["*"],"resources":["*"]`, `"incomplete":false`)
	h.call("POST", rules, `{"spec":{"namespace":"default"}}`, "Impersonate-User: bob").contains(t,
		`{"verbs":["create"],"apiGroups":["authentication.k8s.io"],"resources":["selfsubjectreviews"]}`, `"nonResourceURLs":["/api",`, `"incomplete":false`)
	h.call("POST", rules, `{"spec":{"namespace":"default"}}`, "Impersonate-User: system:node:n", "Impersonate-Group: kijabi:role:node").contains(t, `"incomplete":true`)
	h.call("POST", rules, `{"spec":{}}`).contains(t, "no namespace on request")
	local := "/apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews"
	h.call("POST", local, `{"spec":{"user":"bob","groups":["system:masters"],"resourceAttributes":{"namespace":"default","verb":"create","resource":"pods"}}}`).contains(t, `"allowed":true`)
	if a := h.call("POST", local, `{"spec":{"user":"bob","resourceAttributes":{"namespace":"other","verb":"create","resource":"pods"}}}`); a.code != 400 {
		t.Errorf("other namespace: %d", a.code)
	}
}

// panicking stands for a defect behind the door.
type panicking struct{ registry.Registry }

func (panicking) Kinds() []*registry.Kind { return nil }

func TestPanicBecomesAnError(t *testing.T) {
	h := newHarness(t)
	h.server.cfg.Registry = panicking{}
	a := h.call("GET", "/api/v1/pods", "")
	if s := a.status(t); a.code != 500 || s.Reason != metav1.StatusReasonInternalError {
		t.Errorf("%d %s", a.code, a.body)
	}
}

func TestDiscovery(t *testing.T) {
	h := newHarness(t)
	accept := "Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList;profile=nopeer,application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
	a := h.call("GET", "/apis", "", accept)
	a.contains(t, `"kind":"APIGroupDiscoveryList"`, `"apiVersion":"apidiscovery.k8s.io/v2"`, `"resource":"deployments"`, `"subresource":"scale"`, `"shortNames":["deploy"]`)
	if got := a.header.Get("Content-Type"); got != "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList" {
		t.Errorf("content type %q", got)
	}
	if again := h.call("GET", "/apis", "", accept, "If-None-Match: "+a.header.Get("ETag")); again.code != http.StatusNotModified {
		t.Errorf("unchanged discovery: %d", again.code)
	}
	h.call("GET", "/api", "", accept).contains(t, `"resource":"pods"`, `"subresource":"log"`)
	h.call("GET", "/api", "").contains(t, `"kind":"APIVersions"`)
	h.call("GET", "/apis", "").contains(t, `"kind":"APIGroupList"`, `"groupVersion":"apps/v1"`)
	h.call("GET", "/apis/apps", "").contains(t, `"preferredVersion":{"groupVersion":"apps/v1","version":"v1"}`)
	core := h.call("GET", "/api/v1", "")
	core.contains(t, `"kind":"APIResourceList"`, `"name":"pods/exec"`, `"kind":"PodExecOptions"`, `"categories":["all"]`)
	for name, kind := range map[string]string{"pods/proxy": "Pod", "services/proxy": "Service", "nodes/proxy": "Node"} {
		core.contains(t, `"name":"`+name+`"`, `"kind":"`+kind+`ProxyOptions","verbs":["create","delete","get","patch","update"]`)
	}
	var list metav1.APIResourceList
	h.must(json.Unmarshal(h.call("GET", "/apis/apps/v1", "").body, &list))
	i := slices.IndexFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == "deployments/scale" })
	if i < 0 || list.APIResources[i].Group != "autoscaling" || list.APIResources[i].Kind != "Scale" {
		t.Errorf("scale: %+v", list.APIResources)
	}
}

func TestOpenAPI(t *testing.T) {
	h := newHarness(t)
	var index struct {
		Paths map[string]struct {
			URL string `json:"serverRelativeURL"`
		}
	}
	h.must(json.Unmarshal(h.call("GET", "/openapi/v3", "").body, &index))
	url := index.Paths["apis/apps/v1"].URL
	if !strings.HasPrefix(url, "/openapi/v3/apis/apps/v1?hash=") {
		t.Fatalf("index: %+v", index)
	}
	doc := h.call("GET", url, "")
	doc.contains(t, `"io.k8s.api.apps.v1.Deployment"`, `"x-kubernetes-list-map-keys":["name"]`, `"x-kubernetes-patch-merge-key":"name"`, `"fieldValidation"`)
	if doc.header.Get("ETag") == "" || !strings.Contains(doc.header.Get("Cache-Control"), "immutable") {
		t.Errorf("headers %v", doc.header)
	}
	if again := h.call("GET", url, "", "If-None-Match: "+doc.header.Get("ETag")); again.code != http.StatusNotModified {
		t.Errorf("unchanged document: %d", again.code)
	}
	if old := h.call("GET", "/openapi/v3/apis/apps/v1?hash=OLD", ""); old.code != 200 || string(old.body) != string(doc.body) {
		t.Errorf("an old hash must lead to the document of today: %d", old.code)
	}
	pb := h.call("GET", "/openapi/v2", "", "Accept: application/com.github.proto-openapi.spec.v2@v1.0+protobuf")
	if got := pb.header.Get("Content-Type"); got != "application/com.github.proto-openapi.spec.v2.v1.0+protobuf" || pb.code != 200 {
		t.Errorf("%d %q", pb.code, got)
	}
	h.call("GET", "/openapi/v2", "").contains(t, `"swagger":"2.0"`, `"/api/v1/namespaces/{namespace}/services/{name}/proxy/{path}":`, `"connectCoreV1GetNodeProxyWithPath"`)
}
