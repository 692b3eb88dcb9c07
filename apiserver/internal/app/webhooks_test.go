package app

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"

	"kijabi.dev/apiserver/internal/admission/dynamic/dynamictest"
)

// TestWebhooksOnEveryMaster: whichever master takes a write, its webhooks are asked once, and
// what they say reaches the client and the audit log of that master.
func TestWebhooksOnEveryMaster(t *testing.T) {
	c := newTrio(t)
	w := dynamictest.Serve(t)
	do := func(p *process, method, path, body string) (int, http.Header, string) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), method, "https://"+p.cfg.RESTAddress+path, strings.NewReader(body))
		c.must(err)
		request.Header.Set("Content-Type", "application/json")
		if method == http.MethodPatch {
			request.Header.Set("Content-Type", "application/merge-patch+json")
		}
		response, err := c.web.Do(request)
		c.must(err)
		defer func() { _ = response.Body.Close() }()
		text, err := io.ReadAll(response.Body)
		c.must(err)
		return response.StatusCode, response.Header, string(text)
	}
	code, _, text := do(c.masters[1], "POST", "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations", fmt.Sprintf(`{"metadata":{"name":"m"},"webhooks":[{
		"name":"m.example.com","admissionReviewVersions":["v1"],"sideEffects":"None",
		"rules":[{"apiGroups":[""],"apiVersions":["v1"],"operations":["*"],"resources":["configmaps"]}],
		"clientConfig":{"url":%q,"caBundle":%q}}]}`, w.URL(), base64.StdEncoding.EncodeToString(w.CA())))
	if code != http.StatusCreated {
		t.Fatalf("%d %s", code, text)
	}
	w.Set(func(q *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		answer := &admissionv1.AdmissionResponse{Allowed: true}
		switch {
		case strings.Contains(string(q.Object.Raw), "forbidden"):
			answer = dynamictest.Deny("no")(q)
		case q.Operation != admissionv1.Delete:
			answer = dynamictest.Patch(`[{"op":"add","path":"/data/by","value":"webhook"}]`)(q)
		}
		answer.Warnings, answer.AuditAnnotations = []string{"seen"}, map[string]string{"seen": q.Name}
		return answer
	})
	const maps = "/api/v1/namespaces/default/configmaps"
	for i, p := range c.masters {
		name := fmt.Sprintf("a%d", i)
		for _, step := range []struct {
			method, path, body string
			code               int
			says               string
		}{
			{"POST", maps, `{"metadata":{"name":"` + name + `"},"data":{"a":"b"}}`, http.StatusCreated, `"by":"webhook"`},
			{"PATCH", maps + "/" + name, `{"data":{"by":null}}`, http.StatusOK, `"by":"webhook"`},
			{"PATCH", maps + "/" + name, `{"data":{"forbidden":"x"}}`, http.StatusForbidden, "denied the request: no"},
			{"DELETE", maps + "/" + name, ``, http.StatusOK, name},
		} {
			before := w.Calls()
			code, header, text := do(p, step.method, step.path, step.body)
			if code != step.code || !strings.Contains(text, step.says) || header.Get("Warning") != `299 - "seen"` {
				t.Errorf("%s %s by %s: %d %q %s", step.method, step.path, p.cfg.NodeName, code, header.Values("Warning"), text)
			}
			if calls := w.Calls() - before; calls != 1 {
				t.Errorf("%s %s by %s: asked %d times", step.method, step.path, p.cfg.NodeName, calls)
			}
		}
		c.eventually("the audit log of "+p.cfg.NodeName+" has the annotations", func() error {
			log, err := os.ReadFile(filepath.Join(p.cfg.DataDir, "audit", "audit.log"))
			if n := strings.Count(string(log), `"m.example.com/seen":"`+name+`"`); err == nil && n < 4 {
				return fmt.Errorf("%d of 4", n)
			}
			return err
		})
	}
}
