package rest

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/registry/kinds"
)

// collection is the path of a kind's collection, in the namespace default.
func collection(k *registry.Kind) string {
	path := "/apis/" + k.GVR.Group + "/" + k.GVR.Version
	if k.GVR.Group == "" {
		path = "/api/" + k.GVR.Version
	}
	if k.Namespaced {
		path += "/namespaces/default"
	}
	return path + "/" + k.GVR.Resource
}

// The workload kinds over JSON, as manifests have them: created, shown and deleted.
func TestWorkloads(t *testing.T) {
	h := newRealHarness(t)
	const pod = `{"metadata":{"labels":{"app":"x"}},"spec":{"restartPolicy":"POLICY","containers":[{"name":"x","image":"x:1"}]}}`
	always, never := strings.Replace(pod, "POLICY", "Always", 1), strings.Replace(pod, "POLICY", "Never", 1)
	const selector = `"selector":{"matchLabels":{"app":"x"}}`
	const target = `"scaleTargetRef":{"apiVersion":"apps/v1","kind":"Deployment","name":"x"},"maxReplicas":3`
	for _, c := range []struct{ resource, version, rest string }{
		{"statefulsets.apps", "", `"spec":{` + selector + `,"serviceName":"x","template":` + always + `,"volumeClaimTemplates":[{"metadata":{"name":"data"},"spec":{}}]}`},
		{"daemonsets.apps", "", `"spec":{` + selector + `,"template":` + always + `}`},
		{"controllerrevisions.apps", "", `"revision":3,"data":{"a":"b"}`},
		{"replicationcontrollers", "", `"spec":{"template":` + always + `}`},
		{"podtemplates", "", `"template":` + always},
		{"jobs.batch", "", `"spec":{"template":` + never + `}`},
		{"cronjobs.batch", "", `"spec":{"schedule":"@daily","jobTemplate":{"spec":{"template":` + never + `}}}`},
		{"horizontalpodautoscalers.autoscaling", "v2", `"spec":{` + target + `}`},
		{"horizontalpodautoscalers.autoscaling", "v1", `"spec":{` + target + `,"targetCPUUtilizationPercentage":50}`},
		{"poddisruptionbudgets.policy", "", `"spec":{"minAvailable":"50%",` + selector + `}`},
		{"priorityclasses.scheduling.k8s.io", "", `"value":7`},
		{"runtimeclasses.node.k8s.io", "", `"handler":"runsc","scheduling":{"nodeSelector":{"a":"b"}}`},
	} {
		for _, k := range kinds.Default() {
			if k.GVR.GroupResource().String() != c.resource || c.version != "" && k.GVR.Version != c.version {
				continue
			}
			body := `{"apiVersion":"` + k.GVK.GroupVersion().String() + `","kind":"` + k.GVK.Kind + `","metadata":{"name":"x"},` + c.rest + `}`
			if a := h.call("POST", collection(k)+"?fieldValidation=Strict", body); a.code != http.StatusCreated {
				t.Errorf("%s: %d %s", k.GVR, a.code, a.body)
				continue
			}
			var table metav1.Table
			h.must(json.Unmarshal(h.call("GET", collection(k)+"/x", "", "Accept: application/json;as=Table;v=v1;g=meta.k8s.io").body, &table))
			if len(table.Rows) != 1 || table.Rows[0].Cells[0] != "x" || len(table.Rows[0].Cells) != len(table.ColumnDefinitions) {
				t.Errorf("%s: %+v", k.GVR, table.Rows)
			}
			a := h.call("GET", collection(k), "")
			a.contains(t, `"name":"x"`)
			if c.resource == "statefulsets.apps" {
				var list appsv1.StatefulSetList
				h.must(json.Unmarshal(a.body, &list))
				if list.Items[0].Spec.VolumeClaimTemplates[0].Kind != "PersistentVolumeClaim" {
					t.Errorf("claims in a list: %s", a.body)
				}
			}
			if k.Scale != nil {
				h.call("GET", collection(k)+"/x/scale", "").contains(t, `"kind":"Scale"`, `"selector":"app=x"`)
			}
			if a := h.call("DELETE", collection(k)+"/x?propagationPolicy=Background", ""); a.code != http.StatusOK {
				t.Errorf("%s: %d %s", k.GVR, a.code, a.body)
			}
		}
	}
}

// What clients need of an eviction that is refused: the cause, and no hint to try again at once.
func TestRefusedEviction(t *testing.T) {
	h := newRealHarness(t)
	const pods, budgets = "/api/v1/namespaces/default/pods", "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
	merge := "Content-Type: application/merge-patch+json"
	for _, a := range []answer{
		h.call("POST", pods, `{"metadata":{"name":"x","labels":{"app":"x"}},"spec":{"containers":[{"name":"x","image":"x:1"}]}}`),
		h.call("PATCH", pods+"/x/status", `{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}`, merge),
		h.call("POST", budgets, `{"metadata":{"name":"x"},"spec":{"selector":{}}}`),
	} {
		if a.code/100 != 2 {
			t.Fatalf("%d %s", a.code, a.body)
		}
	}
	const eviction = `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"x"}}`
	a := h.call("POST", pods+"/x/eviction", eviction)
	a.contains(t, `"reason":"TooManyRequests"`, `"reason":"DisruptionBudget"`, "is still being processed by the server")
	if a.code != http.StatusTooManyRequests || a.header.Get("Retry-After") != "10" {
		t.Errorf("unseen budget: %d %v", a.code, a.header)
	}
	h.call("PATCH", budgets+"/x/status", `{"status":{"observedGeneration":1}}`, merge)
	a = h.call("POST", pods+"/x/eviction", eviction)
	a.contains(t, `"reason":"DisruptionBudget"`, "needs 0 healthy pods and has 0 currently")
	if a.code != http.StatusTooManyRequests || a.header.Get("Retry-After") != "" {
		t.Errorf("no disruption allowed: %d %v", a.code, a.header)
	}
}

// Clients older than policy/v1 evict by the version before it, in both encodings.
func TestEvictionOfTheFormerVersion(t *testing.T) {
	h := newRealHarness(t)
	const pods = "/api/v1/namespaces/default/pods"
	eviction := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "x"}}
	raw, err := eviction.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := (&runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "policy/v1beta1", Kind: "Eviction"}, Raw: raw}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for media, body := range map[string]string{
		"application/json":                    `{"apiVersion":"policy/v1beta1","kind":"Eviction","metadata":{"name":"x"}}`,
		"application/yaml":                    "apiVersion: policy/v1beta1\nkind: Eviction\nmetadata: {name: x}\n",
		"application/vnd.kubernetes.protobuf": protobufMagic + string(envelope),
	} {
		if a := h.call("POST", pods, `{"metadata":{"name":"x"},"spec":{"containers":[{"name":"x","image":"x:1"}]}}`); a.code != http.StatusCreated {
			t.Fatalf("%d %s", a.code, a.body)
		}
		if a := h.call("POST", pods+"/x/eviction", body, "Content-Type: "+media); a.code != http.StatusCreated {
			t.Errorf("%s: %d %s", media, a.code, a.body)
		}
		if a := h.call("GET", pods+"/x", ""); a.code != http.StatusNotFound {
			t.Errorf("%s: the pod is still there: %d", media, a.code)
		}
	}
	const other = `{"apiVersion":"policy/v1alpha1","kind":"Eviction","metadata":{"name":"x"}}`
	if a := h.call("POST", pods+"/x/eviction", other); a.code != http.StatusBadRequest {
		t.Errorf("a version that never was: %d %s", a.code, a.body)
	}
}
