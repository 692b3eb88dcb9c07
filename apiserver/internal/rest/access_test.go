package rest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	authenticationv1 "k8s.io/api/authentication/v1"
)

// post creates an object as administrator.
func (h *harness) post(path, body string) {
	h.t.Helper()
	if a := h.call("POST", path, body); a.code != http.StatusCreated {
		h.t.Fatalf("POST %s: %d %s", path, a.code, a.body)
	}
}

const rbacPath = "/apis/rbac.authorization.k8s.io/v1"

// grant lets a user have a ClusterRole everywhere.
func (h *harness) grant(role, kind, user string) {
	h.t.Helper()
	h.post(rbacPath+"/clusterrolebindings", `{"metadata":{"name":"`+role+`-`+strings.ReplaceAll(user, ":", "-")+`"},
		"roleRef":{"kind":"ClusterRole","name":"`+role+`"},"subjects":[{"kind":"`+kind+`","name":"`+user+`"}]}`)
}

// token asks for a token of the service account default/robot, which it makes if need be.
func (h *harness) token(spec string) string {
	h.t.Helper()
	h.call("POST", "/api/v1/namespaces/default/serviceaccounts", `{"metadata":{"name":"robot"}}`)
	a := h.call("POST", "/api/v1/namespaces/default/serviceaccounts/robot/token", `{"spec":`+spec+`}`)
	var request authenticationv1.TokenRequest
	if err := json.Unmarshal(a.body, &request); err != nil || a.code != http.StatusCreated || request.Status.Token == "" || request.Kind != "TokenRequest" {
		h.t.Fatalf("token: %d %s", a.code, a.body)
	}
	return request.Status.Token
}

func TestServiceAccountTokens(t *testing.T) {
	h := newRealHarness(t)
	h.grant("view", "Group", "system:serviceaccounts:default")
	bearer := "Authorization: Bearer " + h.token(`{}`)
	h.callAs(h.nobody, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", `{}`, bearer).contains(t,
		`"username":"system:serviceaccount:default:robot"`, `"system:serviceaccounts:default"`, `"authentication.kubernetes.io/credential-id":["JTI=`, `"uid":"`)
	for path, want := range map[string]int{
		"/api/v1/namespaces/default/configmaps": 200, "/api/v1/pods": 200, "/api/v1/namespaces/default/secrets": 403,
		"/apis": 200, "/openapi/v2": 200, "/": 403, "/openid/v1/jwks": 200,
	} {
		if a := h.callAs(h.nobody, "GET", path, "", bearer); a.code != want {
			t.Errorf("%s: %d, want %d: %s", path, a.code, want, a.body)
		}
	}
	for _, header := range []string{bearer + "x", "Authorization: Bearer", "Authorization: Basic YTpi", "Authorization: Bearer a.b.c"} {
		for _, path := range []string{"/api", "/api/v1/pods", "/version?x", "/api/v1/namespaces/kube-public/configmaps/cluster-info"} {
			want := http.StatusUnauthorized
			if strings.HasPrefix(path, "/version") {
				want = http.StatusOK
			}
			if a := h.callAs(h.nobody, "GET", path, "", header); a.code != want {
				t.Errorf("%s %s: %d", header, path, a.code)
			}
		}
	}
	// A certificate goes before a token.
	h.call("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", `{}`, bearer).contains(t, `"username":"kubernetes-admin"`)

	// A token that is bound to a pod ends with it, at once.
	h.post("/api/v1/namespaces/default/pods", `{"metadata":{"name":"bound"},"spec":{"serviceAccountName":"robot","containers":[{"name":"c","image":"i"}]}}`)
	ofPod := "Authorization: Bearer " + h.token(`{"boundObjectRef":{"kind":"Pod","apiVersion":"v1","name":"bound"}}`)
	if a := h.callAs(h.nobody, "GET", "/api/v1/pods", "", ofPod); a.code != 200 {
		t.Errorf("token of a pod: %d %s", a.code, a.body)
	}
	h.call("DELETE", "/api/v1/namespaces/default/pods/bound?gracePeriodSeconds=0", "")
	if a := h.callAs(h.nobody, "GET", "/api/v1/pods", "", ofPod); a.code != 401 {
		t.Errorf("token of a pod that is gone: %d", a.code)
	}
	h.call("DELETE", "/api/v1/namespaces/default/serviceaccounts/robot", "")
	if a := h.callAs(h.nobody, "GET", "/api/v1/pods", "", bearer); a.code != 401 {
		t.Errorf("token of an account that is gone: %d", a.code)
	}
}

// A watch lasts no longer than the right to it and the token it is made with.
func TestWatchesEndWithTheirRights(t *testing.T) {
	h := newRealHarness(t)
	h.grant("view", "Group", "system:serviceaccounts:default")
	h.grant("view", "User", "eve")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	watch := func(client *http.Client, path string, headers ...string) func() string {
		t.Helper()
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, h.http.URL+path+"?watch=1", nil)
		h.must(err)
		for _, line := range headers {
			name, value, _ := strings.Cut(line, ": ")
			r.Header.Set(name, value)
		}
		resp, err := client.Do(r)
		h.must(err)
		t.Cleanup(func() { _ = resp.Body.Close() })
		if resp.StatusCode != 200 {
			t.Fatalf("%s: %d", path, resp.StatusCode)
		}
		return func() string {
			t.Helper()
			data, err := io.ReadAll(resp.Body)
			h.must(err)
			lines := strings.Split(strings.TrimSpace(string(data)), "\n")
			return lines[len(lines)-1]
		}
	}
	h.post(rbacPath+"/clusterroles", `{"metadata":{"name":"as-eve"},"rules":[{"apiGroups":[""],"resources":["users"],"verbs":["impersonate"],"resourceNames":["eve"]}]}`)
	h.grant("as-eve", "User", "system:serviceaccount:default:robot")
	byActing := watch(h.nobody, "/api/v1/configmaps", "Authorization: Bearer "+h.token(`{}`), "Impersonate-User: eve")
	byToken := watch(h.nobody, "/api/v1/configmaps", "Authorization: Bearer "+h.token(`{}`))
	byBinding := watch(h.admin, "/api/v1/configmaps", "Impersonate-User: eve")
	h.call("DELETE", rbacPath+"/clusterrolebindings/as-eve-system-serviceaccount-default-robot", "")
	if last := byActing(); !strings.Contains(last, `"type":"ERROR"`) || !strings.Contains(last, `"code":403`) {
		t.Errorf("the right to impersonate is gone: %s", last)
	}
	h.call("DELETE", "/api/v1/namespaces/default/serviceaccounts/robot", "")
	if last := byToken(); !strings.Contains(last, `"type":"ERROR"`) || !strings.Contains(last, `"code":401`) {
		t.Errorf("the token is gone: %s", last)
	}
	h.call("DELETE", rbacPath+"/clusterrolebindings/view-eve", "")
	if last := byBinding(); !strings.Contains(last, `"type":"ERROR"`) || !strings.Contains(last, `"code":403`) {
		t.Errorf("the binding is gone: %s", last)
	}
}

// So does a stream into a pod.
func TestStreamsEndWithTheirRights(t *testing.T) {
	h := newRealHarness(t)
	kubelet := h.node()
	h.server.reauthorizeEvery = 10 * time.Millisecond
	h.grant("edit", "User", "kubernetes-admin") // whom the node of this harness serves
	dialer := websocket.Dialer{TLSClientConfig: h.http1(), Subprotocols: []string{"v4.channel.k8s.io"}}
	conn, resp, err := dialer.DialContext(t.Context(), "wss"+strings.TrimPrefix(h.http.URL, "https")+podP+"/exec?command=sh&command=-c&command=echo+started%3Bexec+sleep+100&stdout=true",
		http.Header{"Impersonate-User": {"kubernetes-admin"}})
	h.must(err)
	_ = resp.Body.Close()
	t.Cleanup(func() { _ = conn.Close() })
	for seen := ""; !strings.Contains(seen, "started"); {
		_, data, err := conn.ReadMessage()
		h.must(err)
		seen += string(data)
	}
	h.call("DELETE", rbacPath+"/clusterrolebindings/edit-kubernetes-admin", "")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	h.must(waitFor(ctx, kubelet.read(func() bool { return kubelet.canceled == 1 })))
}

func TestTokenRequests(t *testing.T) {
	h := newRealHarness(t)
	h.post("/api/v1/namespaces/default/serviceaccounts", `{"metadata":{"name":"robot"}}`)
	path := "/api/v1/namespaces/default/serviceaccounts/robot/token"
	for _, c := range []struct {
		path, body string
		code       int
		text       string
	}{
		{path, `{"spec":{"expirationSeconds":10}}`, 422, "less than 10 minutes"},
		{path, `{"spec":{"boundObjectRef":{"kind":"Pod","apiVersion":"v1","name":"x"}}}`, 404, `pods \"x\" not found`},
		{path, `{"metadata":{"name":"other"}}`, 400, "does not match the name on the URL"},
		{path, `{"kind":"Pod","apiVersion":"v1"}`, 400, ""},
		{strings.Replace(path, "robot", "other", 1), `{}`, 404, `serviceaccounts \"other\" not found`},
		{strings.Replace(path, "default", "nowhere", 1), `{}`, 404, "not found"},
	} {
		if a := h.call("POST", c.path, c.body); a.code != c.code || !strings.Contains(string(a.body), c.text) {
			t.Errorf("%s %s: %d %s", c.path, c.body, a.code, a.body)
		}
	}
	if a := h.call("GET", path, ""); a.code != 405 {
		t.Errorf("GET: %d", a.code)
	}
	a := h.call("POST", path+"?dryRun=All", `{}`)
	if a.code != 201 || !strings.Contains(string(a.body), `"token":""`) {
		t.Errorf("a dry run made a token: %d %s", a.code, a.body)
	}
	// Making tokens is a right of its own.
	h.grant("view", "User", "eve")
	if a := h.call("POST", path, `{}`, "Impersonate-User: eve"); a.code != 403 {
		t.Errorf("who may read makes tokens: %d", a.code)
	}
	h.grant("edit", "User", "ann")
	if a := h.call("POST", path, `{}`, "Impersonate-User: ann"); a.code != 201 {
		t.Errorf("who may edit makes none: %d %s", a.code, a.body)
	}
}

func TestTokenReview(t *testing.T) {
	h := newRealHarness(t)
	const path = "/apis/authentication.k8s.io/v1/tokenreviews"
	token, other := h.token(`{}`), h.token(`{"audiences":["vault"]}`)
	h.call("POST", path, `{"spec":{"token":"`+token+`"}}`).contains(t, `"authenticated":true`, `"username":"system:serviceaccount:default:robot"`, `"audiences":["https://kubernetes.default.svc.cluster.local"]`)
	h.call("POST", path, `{"spec":{"token":"`+other+`"}}`).contains(t, `"user":{}`, `invalid for the target audiences`)
	h.call("POST", path, `{"spec":{"token":"`+other+`","audiences":["x","vault"]}}`).contains(t, `"authenticated":true`, `"audiences":["vault"]`)
	h.call("POST", path, `{"spec":{"token":"x"}}`).contains(t, `"user":{}`, `"error":"invalid bearer token`)
	if a := h.call("POST", path, `{"spec":{}}`); a.code != 400 {
		t.Errorf("no token: %d", a.code)
	}
	if a := h.callAs(h.nobody, "POST", path, `{"spec":{"token":"`+token+`"}}`, "Authorization: Bearer "+token); a.code != 403 {
		t.Errorf("anybody asks about tokens: %d", a.code)
	}
}

func TestIssuerDiscovery(t *testing.T) {
	h := newRealHarness(t)
	token := h.token(`{}`)
	a := h.call("GET", "/.well-known/openid-configuration", "")
	a.contains(t, `"issuer":"https://kubernetes.default.svc.cluster.local"`, `"jwks_uri":"https://kubernetes.default.svc.cluster.local/openid/v1/jwks"`, `"ES256"`)
	if got := a.header.Get("Content-Type"); got != "application/json" {
		t.Errorf("content type %q", got)
	}
	keys := h.callAs(h.nobody, "GET", "/openid/v1/jwks", "", "Authorization: Bearer "+token)
	keys.contains(t, `"kty":"EC"`, `"crv":"P-256"`)
	if got := keys.header.Get("Content-Type"); got != "application/jwk-set+json" {
		t.Errorf("content type %q", got)
	}
	head, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[0])
	h.must(err)
	var header struct{ Kid string }
	h.must(json.Unmarshal(head, &header))
	keys.contains(t, `"kid":"`+header.Kid+`"`)
	for _, path := range []string{"/.well-known/openid-configuration", "/openid/v1/jwks"} {
		if a := h.callAs(h.nobody, "GET", path, ""); a.code != 401 {
			t.Errorf("anonymous %s: %d", path, a.code)
		}
		if a := h.call("GET", path, "", "Impersonate-User: eve"); a.code != 403 {
			t.Errorf("user %s: %d", path, a.code)
		}
		if a := h.call("POST", path, ""); a.code != 405 {
			t.Errorf("POST %s: %d", path, a.code)
		}
	}
}

func TestTokenOverWebSocket(t *testing.T) {
	h := newRealHarness(t)
	h.node()
	h.grant("edit", "Group", "system:serviceaccounts:default")
	token := h.token(`{}`)
	protocol := bearerProtocol + base64.RawURLEncoding.EncodeToString([]byte(token))
	config := h.http1()
	config.Certificates = nil
	conn := h.websocketAs(config, podP+"/exec?command=true&stdout=true", protocol, "v4.channel.k8s.io")
	if conn.Subprotocol() != "v4.channel.k8s.io" {
		t.Errorf("protocol %q", conn.Subprotocol())
	}
	// The node of this harness serves the administrator only, and says who asked.
	if out := collect(t, conn); !strings.Contains(out[3], `user:\"system:serviceaccount:default:robot\"`) {
		t.Errorf("%q", out)
	}
	for name, protocols := range map[string][]string{
		"alone": {protocol}, "twice": {protocol, protocol, "v4.channel.k8s.io"}, "none": {"v4.channel.k8s.io"},
		"no base64": {bearerProtocol + "***", "v4.channel.k8s.io"}, "wrong": {bearerProtocol + "AAAA", "v4.channel.k8s.io"},
	} {
		dialer := websocket.Dialer{TLSClientConfig: config, Subprotocols: protocols}
		_, resp, err := dialer.DialContext(t.Context(), "wss"+strings.TrimPrefix(h.http.URL, "https")+podP+"/exec?command=true&stdout=true", nil)
		if err == nil || resp == nil || resp.StatusCode != 401 {
			t.Errorf("%s: %v %v", name, err, resp)
			continue
		}
		_ = resp.Body.Close()
	}
}

func TestStrangers(t *testing.T) {
	h := newRealHarness(t)
	h.post("/api/v1/namespaces/kube-public/configmaps", `{"metadata":{"name":"cluster-info"},"data":{"kubeconfig":"x"}}`)
	h.post("/api/v1/namespaces/kube-public/configmaps", `{"metadata":{"name":"other"}}`)
	h.post("/api/v1/namespaces/default/configmaps", `{"metadata":{"name":"cluster-info"}}`)
	for path, want := range map[string]int{
		"/api/v1/namespaces/kube-public/configmaps/cluster-info": 200, "/api/v1/namespaces/kube-public/configmaps/other": 401,
		"/api/v1/namespaces/kube-public/configmaps": 401, "/api/v1/namespaces/default/configmaps/cluster-info": 401, "/api/v1/namespaces/kube-public": 401,
		"/livez": 200, "/readyz/ping": 200, "/version": 200, "/api": 401, "/metrics": 401, "/": 401, "/openapi/v2": 401,
		"/apis/apiextensions.k8s.io/v1/customresourcedefinitions": 401, "/api/v1/nothings": 401,
	} {
		if a := h.callAs(h.nobody, "GET", path, ""); a.code != want {
			t.Errorf("%s: %d, want %d", path, a.code, want)
		}
	}
	for _, path := range []string{"/apis/authentication.k8s.io/v1/selfsubjectreviews", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "/apis/authentication.k8s.io/v1/tokenreviews"} {
		if a := h.callAs(h.nobody, "POST", path, `{}`); a.code != 401 {
			t.Errorf("%s: %d", path, a.code)
		}
	}
	if a := h.callAs(h.nobody, "GET", "/api/v1/pods", "", "Impersonate-User: kubernetes-admin", "Impersonate-Group: system:masters"); a.code != 401 {
		t.Errorf("a stranger impersonates: %d", a.code)
	}
	if a := h.call("GET", "/api/v1/namespaces/kube-public/configmaps", "", "Impersonate-User: eve"); a.code != 200 {
		t.Errorf("who is known reads kube-public: %d", a.code)
	}
}

func TestImpersonationInFull(t *testing.T) {
	h := newRealHarness(t)
	const whoami = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
	for _, c := range []struct {
		headers []string
		texts   []string
	}{
		{[]string{"Impersonate-User: eve"}, []string{`"username":"eve","groups":["system:authenticated"]`}},
		{[]string{"Impersonate-User: eve", "Impersonate-Group: system:authenticated"}, []string{`"groups":["system:authenticated"]`}},
		{[]string{"Impersonate-User: eve", "Impersonate-Uid: 12", "Impersonate-Extra-Scopes: view", "Impersonate-Extra-Example.com%2fa: b"}, []string{`"uid":"12"`, `"extra":{"example.com/a":["b"],"scopes":["view"]}`}},
		{[]string{"Impersonate-User: system:serviceaccount:default:robot"}, []string{`"groups":["system:serviceaccounts","system:serviceaccounts:default","system:authenticated"]`}},
		{[]string{"Impersonate-User: system:serviceaccount:default:robot", "Impersonate-Group: dev"}, []string{`"groups":["dev","system:authenticated"]`}},
	} {
		a := h.call("POST", whoami, `{}`, c.headers...)
		a.contains(t, c.texts...)
		if a.code != 201 {
			t.Errorf("%q: %d %s", c.headers, a.code, a.body)
		}
	}
	for _, headers := range [][]string{{"Impersonate-Group: dev"}, {"Impersonate-Uid: 1"}, {"Impersonate-Extra-A: b"}} {
		if a := h.call("POST", whoami, `{}`, headers...); a.code != 400 {
			t.Errorf("%q: %d", headers, a.code)
		}
	}
	// Each part is a right of its own. robot may be eve, of group dev, uid 12, with scope view.
	h.post(rbacPath+"/clusterroles", `{"metadata":{"name":"be-eve"},"rules":[
		{"verbs":["impersonate"],"apiGroups":[""],"resources":["users"],"resourceNames":["eve"]},
		{"verbs":["impersonate"],"apiGroups":[""],"resources":["groups"],"resourceNames":["dev"]},
		{"verbs":["impersonate"],"apiGroups":["authentication.k8s.io"],"resources":["uids"],"resourceNames":["12"]},
		{"verbs":["impersonate"],"apiGroups":["authentication.k8s.io"],"resources":["userextras/scopes"],"resourceNames":["view"]}]}`)
	h.grant("be-eve", "Group", "system:serviceaccounts:default")
	bearer := "Authorization: Bearer " + h.token(`{}`)
	for _, c := range []struct {
		code    int
		headers []string
	}{
		{201, []string{"Impersonate-User: eve"}},
		{201, []string{"Impersonate-User: eve", "Impersonate-Group: dev", "Impersonate-Uid: 12", "Impersonate-Extra-Scopes: view"}},
		{403, []string{"Impersonate-User: bob"}},
		{403, []string{"Impersonate-User: eve", "Impersonate-Group: system:masters"}},
		{403, []string{"Impersonate-User: eve", "Impersonate-Uid: 13"}},
		{403, []string{"Impersonate-User: eve", "Impersonate-Extra-Scopes: admin"}},
		{403, []string{"Impersonate-User: eve", "Impersonate-Extra-Other: view"}},
		{403, []string{"Impersonate-User: system:serviceaccount:default:robot"}},
	} {
		if a := h.callAs(h.nobody, "POST", whoami, `{}`, append(c.headers, bearer)...); a.code != c.code {
			t.Errorf("%q: %d, want %d: %s", c.headers, a.code, c.code, a.body)
		}
	}
	// The right to be any service account of a namespace comes with edit there.
	h.post(rbacPath+"/namespaces/default/rolebindings", `{"metadata":{"name":"e"},"roleRef":{"kind":"ClusterRole","name":"edit"},"subjects":[{"kind":"ServiceAccount","name":"robot"}]}`)
	for account, want := range map[string]int{"default:other": 201, "kube-system:other": 403} {
		if a := h.callAs(h.nobody, "POST", whoami, `{}`, bearer, "Impersonate-User: system:serviceaccount:"+account); a.code != want {
			t.Errorf("%s: %d, want %d", account, a.code, want)
		}
	}
}

func TestEscalationOverREST(t *testing.T) {
	h := newRealHarness(t)
	h.post(rbacPath+"/namespaces/default/rolebindings", `{"metadata":{"name":"a"},"roleRef":{"kind":"ClusterRole","name":"admin"},"subjects":[{"kind":"User","name":"ann"}]}`)
	as := "Impersonate-User: ann"
	roles := rbacPath + "/namespaces/default/roles"
	if a := h.call("POST", roles, `{"metadata":{"name":"r"},"rules":[{"verbs":["get"],"apiGroups":[""],"resources":["secrets"]}]}`, as); a.code != 201 {
		t.Errorf("%d %s", a.code, a.body)
	}
	a := h.call("POST", roles, `{"metadata":{"name":"n"},"rules":[{"verbs":["get"],"apiGroups":[""],"resources":["nodes"]}]}`, as)
	a.contains(t, `attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"get\"]}`)
	if a.code != 403 {
		t.Errorf("%d", a.code)
	}
	if a := h.call("PATCH", roles+"/r", `{"rules":[{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}]}`, as, "Content-Type: application/merge-patch+json"); a.code != 403 {
		t.Errorf("%d %s", a.code, a.body)
	}
	if a := h.call("POST", rbacPath+"/namespaces/default/rolebindings", `{"metadata":{"name":"c"},"roleRef":{"kind":"ClusterRole","name":"cluster-admin"},"subjects":[{"kind":"User","name":"ann"}]}`, as); a.code != 403 {
		t.Errorf("%d %s", a.code, a.body)
	}
}
