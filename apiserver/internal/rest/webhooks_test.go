package rest

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"

	"kijabi.dev/apiserver/internal/admission/dynamic/dynamictest"
	"kijabi.dev/apiserver/internal/audit/audittest"
	"kijabi.dev/apiserver/internal/traffic"
)

const webhookConfigurations = "/apis/admissionregistration.k8s.io/v1/"

// hook is a webhook's configuration as charts write it.
func hook(kind, name string, w *dynamictest.Webhook, rules, more string) string {
	return fmt.Sprintf(`{"apiVersion":"admissionregistration.k8s.io/v1","kind":%q,"metadata":{"name":%q},"webhooks":[{
		"name":"%s.example.com","admissionReviewVersions":["v1"],"sideEffects":"None","rules":[%s],
		"clientConfig":{"url":%q,"caBundle":%q}%s}]}`,
		kind, name, name, rules, w.URL(), base64.StdEncoding.EncodeToString(w.CA()), more)
}

// TestWebhooksOfACustomKind is what an operator such as cert-manager does: it defines a kind,
// completes and checks its objects by webhooks, and its users see what those say.
func TestWebhooksOfACustomKind(t *testing.T) {
	h := newRealHarness(t)
	log := audittest.Open(t)
	h.server.cfg.Traffic = traffic.New(traffic.Config{Audit: log.Log, Clock: h.clock})
	completes, checks := dynamictest.Serve(t), dynamictest.Serve(t)
	const rules = `{"apiGroups":["pki.example.com"],"apiVersions":["v1"],"operations":["CREATE","UPDATE"],"resources":["certs"]}`
	do := func(code int, method, path, body string, headers ...string) answer {
		t.Helper()
		a := h.call(method, path, body, headers...)
		if a.code != code {
			t.Fatalf("%s %s: %d, want %d: %s", method, path, a.code, code, a.body)
		}
		return a
	}
	do(201, "PATCH", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/certs.pki.example.com?fieldManager=helm", certificates, "Content-Type: application/apply-patch+yaml")
	do(201, "POST", webhookConfigurations+"mutatingwebhookconfigurations", hook("MutatingWebhookConfiguration", "completes", completes, rules, ""))
	do(201, "POST", webhookConfigurations+"validatingwebhookconfigurations", hook("ValidatingWebhookConfiguration", "checks", checks, rules+
		`,{"apiGroups":[""],"apiVersions":["v1"],"operations":["CONNECT"],"resources":["pods/exec","services/proxy"]}`, ""))
	completes.Set(dynamictest.Patch(`[{"op":"add","path":"/spec/usages","value":["sign"]}]`))
	checks.Set(func(q *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		switch {
		case q.Operation == admissionv1.Connect:
			return dynamictest.Deny("no shells")(q)
		case strings.Contains(string(q.Object.Raw), "forbidden"):
			answer := dynamictest.Deny("this name is not yours")(q)
			answer.Warnings = []string{"ask the team"}
			return answer
		}
		return &admissionv1.AdmissionResponse{Allowed: true, Warnings: []string{"kept for a year"}, AuditAnnotations: map[string]string{"checked": "yes"}}
	})

	const certs = "/apis/pki.example.com/v1/namespaces/default/certs"
	cert := func(name string) string {
		return fmt.Sprintf(`{"apiVersion":"pki.example.com/v1","kind":"Cert","metadata":{"name":"a"},"spec":{"secretName":%q}}`, name)
	}
	made := do(201, "POST", certs, cert("s"))
	if !strings.Contains(string(made.body), `"usages":["sign"]`) || !slices.Equal(made.header.Values("Warning"), []string{`299 - "kept for a year"`}) {
		t.Errorf("%s\n%v", made.body, made.header)
	}
	do(200, "PATCH", certs+"/a?dryRun=All", `{"spec":{"secretName":"t"}}`, "Content-Type: application/merge-patch+json")
	do(200, "PATCH", certs+"/a?fieldManager=kubectl&force=true", cert("u"), "Content-Type: application/apply-patch+yaml")
	refused := do(403, "PATCH", certs+"/a", `{"spec":{"secretName":"forbidden"}}`, "Content-Type: application/merge-patch+json")
	if !strings.Contains(string(refused.body), `admission webhook \"checks.example.com\" denied the request: this name is not yours`) || refused.header.Get("Warning") != `299 - "ask the team"` {
		t.Errorf("%s\n%v", refused.body, refused.header)
	}
	var seen []string
	for _, q := range checks.Seen() {
		seen = append(seen, fmt.Sprintf("%s %t %t", q.Operation, *q.DryRun, strings.Contains(string(q.Object.Raw), "sign")))
	}
	if want := []string{"CREATE false true", "UPDATE true true", "UPDATE false true", "UPDATE false true"}; !slices.Equal(seen, want) {
		t.Errorf("asked %q, want %q", seen, want)
	}

	do(201, "POST", "/api/v1/namespaces/default/pods", `{"metadata":{"name":"p"},"spec":{"nodeName":"n","containers":[{"name":"c","image":"i"}]}}`)
	exec := do(403, "GET", "/api/v1/namespaces/default/pods/p/exec?command=sh&stdout=true&container=c", "")
	proxied := do(403, "GET", "/api/v1/namespaces/default/services/kubernetes/proxy/a/b", "")
	if !strings.Contains(string(exec.body), "no shells") || !strings.Contains(string(proxied.body), "no shells") {
		t.Errorf("%s %s", exec.body, proxied.body)
	}
	asked := checks.Seen()
	if len(asked) != 2 || asked[0].SubResource != "exec" || asked[0].Kind.Kind != "PodExecOptions" || asked[0].Name != "p" || asked[0].Namespace != "default" ||
		!strings.Contains(string(asked[0].Object.Raw), `"command":["sh"]`) || asked[1].Kind.Kind != "ServiceProxyOptions" || !strings.Contains(string(asked[1].Object.Raw), `"path":"/a/b"`) {
		t.Errorf("asked about connections: %+v", asked)
	}

	events, _ := log.Events(10)
	i := slices.IndexFunc(events, func(e audittest.Event) bool { return e.Verb == "create" && e.ObjectRef.Resource == "certs" })
	if i < 0 || events[i].Annotations["checks.example.com/checked"] != "yes" || !strings.Contains(events[i].Annotations["mutation.webhook.admission.k8s.io/round_0_index_0"], `"mutated":true`) {
		t.Errorf("audited: %+v", events)
	}

	// It is dead, and everything can still be put right.
	checks.Close()
	dead := do(http.StatusInternalServerError, "POST", certs, strings.Replace(cert("s"), `"a"`, `"b"`, 1))
	if !strings.Contains(string(dead.body), "failed calling webhook") {
		t.Errorf("%s", dead.body)
	}
	do(200, "DELETE", webhookConfigurations+"validatingwebhookconfigurations/checks", "")
	do(201, "POST", certs, strings.Replace(cert("s"), `"a"`, `"b"`, 1))
}
