package rest

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"kijabi.dev/apiserver/internal/audit/audittest"
	"kijabi.dev/apiserver/internal/metrics"
	"kijabi.dev/apiserver/internal/traffic"
)

func TestRequestsAreAudited(t *testing.T) {
	h := newRealHarness(t)
	h.allMayAll()
	log := audittest.Open(t)
	h.server.cfg.Traffic = traffic.New(traffic.Config{Audit: log.Log, Clock: h.clock})

	const canary = "canary-of-a-secret"
	secret := fmt.Sprintf(`{"metadata":{"name":"s"},"data":{"k":%q,"bad key %s":""}}`, base64.StdEncoding.EncodeToString([]byte(canary)), canary)
	good := fmt.Sprintf(`{"metadata":{"name":"s"},"data":{"k":%q}}`, base64.StdEncoding.EncodeToString([]byte(canary)))
	var answers []answer
	call := func(client *http.Client, method, path, body string, headers ...string) {
		t.Helper()
		answers = append(answers, h.callAs(client, method, path, body, headers...))
	}
	call(h.admin, "POST", "/api/v1/namespaces/default/secrets", secret)
	call(h.admin, "POST", "/api/v1/namespaces/default/secrets", good)
	call(h.admin, "GET", "/api/v1/namespaces/default/secrets/none", "")
	call(h.admin, "GET", "/api/v1/pods?labelSelector=a%3Db", "", "Impersonate-User: jane")
	call(h.admin, "GET", "/api/v1/pods?watch=true&timeoutSeconds=0&resourceVersion=nonsense", "")
	call(h.admin, "DELETE", "/api/v1/namespaces/default/secrets/s", "")
	call(h.nobody, "GET", "/api/v1/nodes", "", "User-Agent: stranger")
	call(h.admin, "GET", "/apis", "")
	call(h.admin, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", `{"spec":{"nonResourceAttributes":{"path":"/x","verb":"get"}}}`)
	h.call("GET", "/readyz", "") // not audited
	h.authorizer.deny = func(_, _, resource string) bool { return resource == "deployments" }
	call(h.admin, "GET", "/apis/apps/v1/namespaces/default/deployments/d", "")

	events, content := log.Events(len(answers))
	if len(events) != len(answers) {
		t.Errorf("%d events for %d requests", len(events), len(answers))
	}
	if bytes.Contains(content, []byte(canary)) || bytes.Contains(content, []byte(base64.StdEncoding.EncodeToString([]byte(canary)))) {
		t.Errorf("the log holds the content of a secret: %s", content)
	}
	type line struct {
		verb, resource, namespace, name, user, as string
		code                                      int
		reason, decision                          string
	}
	want := []line{
		{"create", "secrets", "default", "", "kubernetes-admin", "", 422, "Invalid", "allow"},
		{"create", "secrets", "default", "", "kubernetes-admin", "", 201, "", "allow"},
		{"get", "secrets", "default", "none", "kubernetes-admin", "", 404, "NotFound", "allow"},
		{"list", "pods", "", "", "kubernetes-admin", "jane", 200, "", "allow"},
		{"watch", "pods", "", "", "kubernetes-admin", "", 400, "BadRequest", "allow"},
		{"delete", "secrets", "default", "s", "kubernetes-admin", "", 200, "", "allow"},
		{"list", "nodes", "", "", "system:anonymous", "", 401, "Unauthorized", "forbid"},
		{"get", "", "", "", "kubernetes-admin", "", 200, "", "allow"},
		{"create", "selfsubjectaccessreviews", "", "", "kubernetes-admin", "", 201, "", ""},
		{"get", "deployments", "default", "d", "kubernetes-admin", "", 403, "Forbidden", "forbid"},
	}
	for i, e := range events {
		got := line{
			e.Verb, e.ObjectRef.Resource, e.ObjectRef.Namespace, e.ObjectRef.Name, e.User.Username, e.ImpersonatedUser.Username,
			e.ResponseStatus.Code, e.ResponseStatus.Reason, e.Annotations["authorization.k8s.io/decision"],
		}
		if i < len(want) && got != want[i] {
			t.Errorf("event %d: %+v, want %+v", i, got, want[i])
		}
		if id := answers[i].header.Get("Audit-Id"); id == "" || e.AuditID != id {
			t.Errorf("event %d has the id %q, its client was told %q", i, e.AuditID, id)
		}
		if !slices.Equal(e.SourceIPs, []string{"127.0.0.1"}) {
			t.Errorf("event %d comes from %v", i, e.SourceIPs)
		}
	}
	if got := events[3].RequestURI; got != "/api/v1/pods?labelSelector=a%3Db" {
		t.Errorf("URI %q", got)
	}
	if got := events[6].UserAgent; got != "stranger" {
		t.Errorf("user agent %q", got)
	}
}

func TestRequestsAreCounted(t *testing.T) {
	h := newRealHarness(t)
	m := metrics.New()
	known := func(target traffic.Target) bool { return target.Resource == "pods" && target.Subresource == "" }
	h.server.cfg.Traffic = traffic.New(traffic.Config{Metrics: m, Known: known, Clock: h.clock})
	h.server.cfg.Metrics = m.Handler()

	h.call("GET", "/api/v1/namespaces/default/pods", "")
	h.call("GET", "/api/v1/namespaces/default/pods/none", "")
	h.call("GET", "/api/v1/made/up/by/a/client", "")
	h.call("BREW", "/coffee", "")
	h.call("GET", "/version", "")
	watched := h.call("GET", "/api/v1/pods?watch=true&timeoutSeconds=1", "")
	if watched.code != http.StatusOK {
		t.Errorf("watch: %d", watched.code)
	}
	a := h.call("GET", "/metrics", "")
	if a.code != http.StatusOK || !strings.HasPrefix(a.header.Get("Content-Type"), "text/plain") {
		t.Fatalf("%d %s", a.code, a.header.Get("Content-Type"))
	}
	const labels = `component="apiserver",door="rest",dry_run="",group="",`
	a.contains(t,
		`apiserver_request_total{code="200",`+labels+`resource="pods",scope="namespace",subresource="",verb="LIST",version="v1"} 1`,
		`apiserver_request_total{code="404",`+labels+`resource="pods",scope="resource",subresource="",verb="GET",version="v1"} 1`,
		`apiserver_request_total{code="404",`+labels+`resource="",scope="",subresource="",verb="GET",version=""} 1`,
		`apiserver_request_total{code="405",`+labels+`resource="",scope="",subresource="",verb="other",version=""} 1`,
		`apiserver_request_total{code="200",`+labels+`resource="",scope="",subresource="",verb="GET",version=""} 1`,
		`apiserver_request_total{code="200",`+labels+`resource="pods",scope="cluster",subresource="",verb="WATCH",version="v1"} 1`,
		`apiserver_current_inflight_requests{request_kind="readOnly"} 1`, // this very one
		`apiserver_longrunning_requests{component="apiserver",door="rest",group="",resource="pods",scope="cluster",subresource="",verb="WATCH",version="v1"} 0`)

	if a := h.callAs(h.nobody, "GET", "/metrics", ""); a.code != http.StatusUnauthorized {
		t.Errorf("nobody reads metrics: %d", a.code)
	}
	a = h.call("GET", "/metrics", "", "Impersonate-User: jane")
	if a.code != http.StatusForbidden {
		t.Errorf("jane reads metrics: %d", a.code)
	}
	a.contains(t, `User \"jane\" cannot get path \"/metrics\"`)
}

func TestMetricsOfOtherPrograms(t *testing.T) {
	answers := true
	h := newHarness(t, func(s *Server) {
		s.cfg.Programs = map[string]Page{"controller-manager": func(context.Context) (string, []byte, error) {
			if !answers {
				return "", nil, errors.New("connection refused")
			}
			return "text/plain; version=0.0.4", []byte("workqueue_depth 7\n"), nil
		}}
	})
	const path = "/metrics/controller-manager"
	a := h.call("GET", path, "")
	if a.code != http.StatusOK || string(a.body) != "workqueue_depth 7\n" || a.header.Get("Content-Type") != "text/plain; version=0.0.4" {
		t.Errorf("%d %q %s", a.code, a.header.Get("Content-Type"), a.body)
	}
	if a := h.call("GET", path, "", "Impersonate-User: watcher", "Impersonate-Group: system:monitoring"); a.code != http.StatusOK {
		t.Errorf("who monitors: %d %s", a.code, a.body)
	}
	for _, refused := range []struct {
		answer answer
		want   int
	}{
		{h.call("GET", path, "", "Impersonate-User: jane"), http.StatusForbidden},
		{h.callAs(h.nobody, "GET", path, ""), http.StatusUnauthorized},
		{h.call("POST", path, ""), http.StatusMethodNotAllowed},
		{h.call("GET", "/metrics/else", ""), http.StatusNotFound},
	} {
		if refused.answer.code != refused.want {
			t.Errorf("%d %s, want %d", refused.answer.code, refused.answer.body, refused.want)
		}
	}
	answers = false
	a = h.call("GET", path, "")
	if a.code != http.StatusServiceUnavailable {
		t.Errorf("a program that is away: %d", a.code)
	}
	a.contains(t, "the controller-manager of this master does not tell its metrics: connection refused")
}

// A master that ends says so to whoever balances load, while it still answers.
func TestReadinessEndsWithTheServer(t *testing.T) {
	h := newHarness(t)
	if a := h.call("GET", "/readyz?verbose", ""); a.code != http.StatusOK || !strings.Contains(string(a.body), "[+]shutdown ok\n") {
		t.Errorf("%d %s", a.code, a.body)
	}
	h.server.Close()
	for path, want := range map[string]int{
		"/readyz": http.StatusInternalServerError, "/readyz/shutdown": http.StatusInternalServerError, "/readyz/ping": http.StatusOK,
		"/readyz?exclude=shutdown": http.StatusOK, "/livez": http.StatusOK, "/livez/ping": http.StatusOK, "/livez/shutdown": http.StatusNotFound,
	} {
		if a := h.call("GET", path, ""); a.code != want {
			t.Errorf("%s: %d %s, want %d", path, a.code, a.body, want)
		}
	}
}

// A stream is in the log from its beginning: it may outlast the apiserver.
func TestStreamsAreAuditedWhenTheyBegin(t *testing.T) {
	h := newHarness(t)
	h.node()
	log := audittest.Open(t)
	h.server.cfg.Traffic = traffic.New(traffic.Config{Audit: log.Log, Clock: h.clock})
	conn := h.websocket(podP+"/exec?command=sh&command=-c&command=echo+started%3Bexec+sleep+100&stdout=true", "v4.channel.k8s.io")
	events, _ := log.Events(1)
	if e := events[0]; len(events) != 1 || e.Stage != "ResponseStarted" || e.ResponseStatus.Code != http.StatusSwitchingProtocols ||
		e.Verb != "create" || e.ObjectRef.Subresource != "exec" || e.ObjectRef.Name != "p" || !strings.Contains(e.RequestURI, "command=sh") {
		t.Errorf("%+v", events)
	}
	_ = conn.Close()
	events, _ = log.Events(2)
	if e := events[1]; e.Stage != "ResponseComplete" || e.AuditID != events[0].AuditID || e.ResponseStatus.Code != http.StatusSwitchingProtocols {
		t.Errorf("%+v", e)
	}
	// One that is refused has not begun.
	if a := h.call("GET", "/api/v1/namespaces/default/pods/none/log", ""); a.code != http.StatusNotFound {
		t.Errorf("%d %s", a.code, a.body)
	}
	events, _ = log.Events(3)
	if e := events[2]; len(events) != 3 || e.Stage != "ResponseComplete" || e.ResponseStatus.Code != http.StatusNotFound {
		t.Errorf("%+v", events)
	}
}

func TestProfilesAreForAdministrators(t *testing.T) {
	h := newHarness(t)
	h.call("GET", "/debug/pprof/heap?debug=1", "").contains(t, "heap profile: ")
	h.call("GET", "/debug/pprof/", "").contains(t, "goroutine")
	for _, c := range []struct {
		path, as string
		code     int
	}{
		{"/debug/pprof/heap", "Impersonate-User: jane", http.StatusForbidden},
		{"/debug/pprof", "Impersonate-User: jane", http.StatusForbidden},
		{"/debug/pprof/cmdline", "", http.StatusNotFound},
		{"/debug/pprof/nothing", "", http.StatusNotFound},
	} {
		var headers []string
		if c.as != "" {
			headers = append(headers, c.as)
		}
		if a := h.call("GET", c.path, "", headers...); a.code != c.code {
			t.Errorf("%s %s: %d, want %d", c.path, c.as, a.code, c.code)
		}
	}
	if a := h.callAs(h.nobody, "GET", "/debug/pprof/heap", ""); a.code != http.StatusUnauthorized {
		t.Errorf("nobody reads profiles: %d", a.code)
	}
}
