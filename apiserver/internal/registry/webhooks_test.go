package registry_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"

	"kijabi.dev/apiserver/internal/admission"
	"kijabi.dev/apiserver/internal/admission/dynamic/dynamictest"
	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/platform/kube/object"
)

// rule is about all operations on resources of a group.
func rule(group string, resources ...string) admissionregistrationv1.RuleWithOperations {
	return admissionregistrationv1.RuleWithOperations{
		Operations: []admissionregistrationv1.OperationType{"*"},
		Rule:       admissionregistrationv1.Rule{APIGroups: []string{group}, APIVersions: []string{"*"}, Resources: resources},
	}
}

// mutating stores a MutatingWebhookConfiguration with one webhook.
func (m *master) mutating(t testing.TB, name string, server *dynamictest.Webhook, change ...func(*admissionregistrationv1.MutatingWebhook)) {
	t.Helper()
	none := admissionregistrationv1.SideEffectClassNone
	hook := admissionregistrationv1.MutatingWebhook{
		Name: name + ".example.com", ClientConfig: server.Client(), Rules: []admissionregistrationv1.RuleWithOperations{rule("*", "*/*")},
		SideEffects: &none, AdmissionReviewVersions: []string{"v1"},
	}
	for _, c := range change {
		c(&hook)
	}
	must[*admissionregistrationv1.MutatingWebhookConfiguration](t)(m.Create(t.Context(), admin, at("mutatingwebhookconfigurations", "", ""), &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Webhooks: []admissionregistrationv1.MutatingWebhook{hook},
	}, registry.WriteOptions{}))
}

// validating stores a ValidatingWebhookConfiguration with one webhook.
func (m *master) validating(t testing.TB, name string, server *dynamictest.Webhook, change ...func(*admissionregistrationv1.ValidatingWebhook)) {
	t.Helper()
	none := admissionregistrationv1.SideEffectClassNone
	hook := admissionregistrationv1.ValidatingWebhook{
		Name: name + ".example.com", ClientConfig: server.Client(), Rules: []admissionregistrationv1.RuleWithOperations{rule("*", "*/*")},
		SideEffects: &none, AdmissionReviewVersions: []string{"v1"},
	}
	for _, c := range change {
		c(&hook)
	}
	must[*admissionregistrationv1.ValidatingWebhookConfiguration](t)(m.Create(t.Context(), admin, at("validatingwebhookconfigurations", "", ""), &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Webhooks: []admissionregistrationv1.ValidatingWebhook{hook},
	}, registry.WriteOptions{}))
}

func failOpen(w *admissionregistrationv1.ValidatingWebhook) {
	ignore := admissionregistrationv1.Ignore
	w.FailurePolicy = &ignore
}

// questions are what a webhook was asked, in short.
func questions(w *dynamictest.Webhook) []string {
	var out []string
	for _, q := range w.Seen() {
		text := fmt.Sprintf("%s %s %s/%s", q.Operation, strings.TrimSuffix(q.Resource.Resource+"/"+q.SubResource, "/"), q.Namespace, q.Name)
		if len(q.Object.Raw) > 0 {
			text += " new"
		}
		if len(q.OldObject.Raw) > 0 {
			text += " old"
		}
		if q.DryRun != nil && *q.DryRun {
			text += " dry"
		}
		out = append(out, text)
	}
	return out
}

func wantQuestions(t *testing.T, w *dynamictest.Webhook, what string, want ...string) {
	t.Helper()
	if got := questions(w); !slices.Equal(got, want) {
		t.Errorf("%s: asked %q, want %q", what, got, want)
	}
}

func lease(name string) *coordinationv1.Lease {
	return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}}
}

func deployment(name string) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod("x").Spec},
		},
	}
}

// TestEveryWayOfWritingIsAdmitted: whichever way something is written, webhooks see what
// Kubernetes would show them, once each.
func TestEveryWayOfWritingIsAdmitted(t *testing.T) {
	m := leader(t)
	ctx := t.Context()
	changing, checking := dynamictest.Serve(t), dynamictest.Serve(t)
	m.mutating(t, "m", changing)
	m.validating(t, "v", checking)
	opts := registry.WriteOptions{FieldManager: "test"}
	merge := []byte(`{"metadata":{"labels":{"a":"b"}}}`)
	do := func(op registry.Operation) func() error {
		return func() error {
			_, err := m.Do(ctx, admin, op)
			return err
		}
	}
	status := pod("p")
	status.Status.Phase = corev1.PodRunning
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "default"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
	steps := []struct {
		what string
		do   func() error
		want []string
	}{
		{"create", do(registry.Operation{Verb: registry.VerbCreate, Ref: at("pods", "default", ""), Object: pod("p"), Options: opts}), []string{"CREATE pods default/p new"}},
		{"create by generated name", func() error {
			generated := configMap("")
			generated.GenerateName = "g-"
			_, err := m.Create(ctx, admin, at("configmaps", "default", ""), generated, registry.WriteOptions{DryRun: true})
			return err
		}, []string{"CREATE configmaps default/ new dry"}},
		{"patch", do(registry.Operation{Verb: registry.VerbPatch, Ref: at("pods", "default", "p"), PatchType: types.MergePatchType, Patch: merge, Options: opts}), []string{"UPDATE pods default/p new old"}},
		{"status", do(registry.Operation{Verb: registry.VerbUpdate, Ref: at("pods", "default", "p", "status"), Object: status, Options: opts}), []string{"UPDATE pods/status default/p new old"}},
		{"binding", do(registry.Operation{Verb: registry.VerbCreate, Ref: at("pods", "default", "p", "binding"), Object: &corev1.Binding{Target: corev1.ObjectReference{Name: "n"}}}), []string{"CREATE pods/binding default/p new"}},
		{"eviction", do(registry.Operation{Verb: registry.VerbCreate, Ref: at("pods", "default", "p", "eviction"), Object: &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "p"}}}), []string{"CREATE pods/eviction default/p new"}},
		{"apply that creates", do(registry.Operation{Verb: registry.VerbPatch, Ref: at("configmaps", "default", "c"), PatchType: types.ApplyPatchType, Options: opts, Patch: []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"data":{"a":"1"}}`)}), []string{"CREATE configmaps default/c new"}},
		{"apply that updates", do(registry.Operation{Verb: registry.VerbPatch, Ref: at("configmaps", "default", "c"), PatchType: types.ApplyPatchType, Options: opts, Patch: []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"data":{"a":"2"}}`)}), []string{"UPDATE configmaps default/c new old"}},
		{"create of a deployment", do(registry.Operation{Verb: registry.VerbCreate, Ref: at("deployments", "default", ""), Object: deployment("d")}), []string{"CREATE deployments default/d new"}},
		{"scale", do(registry.Operation{Verb: registry.VerbUpdate, Ref: at("deployments", "default", "d", "scale"), Object: &autoscalingv1.Scale{Spec: autoscalingv1.ScaleSpec{Replicas: 2}}}), []string{"UPDATE deployments/scale default/d new old"}},
		{"patch of scale", do(registry.Operation{Verb: registry.VerbPatch, Ref: at("deployments", "default", "d", "scale"), PatchType: types.MergePatchType, Patch: []byte(`{"spec":{"replicas":3}}`)}), []string{"UPDATE deployments/scale default/d new old"}},
		{"create of a service", do(registry.Operation{Verb: registry.VerbCreate, Ref: at("services", "default", ""), Object: service}), []string{"CREATE services default/s new"}},
		{"patch of a service", do(registry.Operation{Verb: registry.VerbPatch, Ref: at("services", "default", "s"), PatchType: types.MergePatchType, Patch: merge}), []string{"UPDATE services default/s new old"}},
		{"apply that creates a service", do(registry.Operation{Verb: registry.VerbPatch, Ref: at("services", "default", "t"), PatchType: types.ApplyPatchType, Options: opts, Patch: []byte(`{"apiVersion":"v1","kind":"Service","metadata":{"name":"t"},"spec":{"ports":[{"port":80}]}}`)}), []string{"CREATE services default/t new"}},
		{"delete of a service", do(registry.Operation{Verb: registry.VerbDelete, Ref: at("services", "default", "s")}), []string{"DELETE services default/s old"}},
		{"create of a namespace", do(registry.Operation{Verb: registry.VerbCreate, Ref: at("namespaces", "", ""), Object: &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}}}), []string{"CREATE namespaces ns/ns new"}},
		{"delete in a dry run", do(registry.Operation{Verb: registry.VerbDelete, Ref: at("configmaps", "default", "c"), Delete: metav1.DeleteOptions{DryRun: []string{"All"}}}), []string{"DELETE configmaps default/c old dry"}},
		{"delete", do(registry.Operation{Verb: registry.VerbDelete, Ref: at("configmaps", "default", "c")}), []string{"DELETE configmaps default/c old"}},
		{"transaction", func() error {
			_, err := m.Transact(ctx, admin, []registry.Operation{
				{Verb: registry.VerbCreate, Ref: at("configmaps", "default", ""), Object: configMap("t1")},
				{Verb: registry.VerbPatch, Ref: at("deployments", "default", "d"), PatchType: types.MergePatchType, Patch: merge},
			}, false)
			return err
		}, []string{"CREATE configmaps default/t1 new", "UPDATE deployments default/d new old"}},
		{"deletion of a collection", func() error {
			n, err := m.DeleteCollection(ctx, admin, at("configmaps", "default", ""), metav1.DeleteOptions{}, registry.ListOptions{})
			if err == nil && n != 1 {
				err = fmt.Errorf("%d deleted", n)
			}
			return err
		}, []string{"DELETE configmaps default/t1 old"}},
		{"exec", func() error {
			options := &corev1.PodExecOptions{Command: []string{"sh"}}
			options.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("PodExecOptions"))
			_, err := m.Connect(ctx, admin, at("pods", "default", "p", "exec"), options)
			return err
		}, []string{"CONNECT pods/exec default/p new"}},
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		for _, w := range []*dynamictest.Webhook{changing, checking} {
			got := questions(w)
			slices.Sort(got)
			if !slices.Equal(got, step.want) {
				t.Errorf("%s: asked %q, want %q", step.what, got, step.want)
			}
		}
	}
	if ip := get[*corev1.Service](t, m, at("services", "default", "t")).Spec.ClusterIP; ip == "" {
		t.Error("the service has no address")
	}
}

// TestQuestion: the whole question, as clients of Kubernetes read it.
func TestQuestion(t *testing.T) {
	m := leader(t)
	w := dynamictest.Serve(t)
	m.validating(t, "v", w)
	caller := registry.Caller{User: "jane", UID: "7", Groups: []string{"devs"}, Extra: map[string][]string{"scopes": {"a"}}, UserAgent: "kubectl/1"}
	must[*corev1.ConfigMap](t)(m.Create(t.Context(), caller, at("configmaps", "default", ""), configMap("a"), registry.WriteOptions{FieldManager: "kubectl"}))
	q := w.Seen()[0]
	if q.UID == "" || q.Kind.Kind != "ConfigMap" || q.RequestKind.Kind != "ConfigMap" || q.Resource.Resource != "configmaps" || q.RequestResource.Version != "v1" {
		t.Errorf("the question is about %+v", q)
	}
	if u := q.UserInfo; u.Username != "jane" || u.UID != "7" || !slices.Equal(u.Groups, []string{"devs"}) || u.Extra["scopes"][0] != "a" {
		t.Errorf("the user is %+v", u)
	}
	var obj corev1.ConfigMap
	if err := json.Unmarshal(q.Object.Raw, &obj); err != nil || obj.Kind != "ConfigMap" || obj.APIVersion != "v1" || obj.UID == "" || obj.Data["key"] != "value" {
		t.Errorf("the object is %s, %v", q.Object.Raw, err)
	}
	var options metav1.CreateOptions
	if err := json.Unmarshal(q.Options.Raw, &options); err != nil || options.Kind != "CreateOptions" || options.FieldManager != "kubectl" {
		t.Errorf("the options are %s, %v", q.Options.Raw, err)
	}
}

// TestMutation: what webhooks change is defaulted, validated, completed by the built-in rules
// and belongs to nobody; what the server keeps cannot be changed.
func TestMutation(t *testing.T) {
	m := leader(t, func(cfg *registry.Config) { cfg.Admission = &admission.Config{} })
	w := dynamictest.Serve(t)
	m.mutating(t, "m", w, func(h *admissionregistrationv1.MutatingWebhook) {
		h.Rules = []admissionregistrationv1.RuleWithOperations{rule("", "pods", "configmaps")}
	})
	w.Set(dynamictest.Patch(`[
		{"op":"add","path":"/spec/containers/-","value":{"name":"side","image":"side:1"}},
		{"op":"add","path":"/metadata/uid","value":"mine"},
		{"op":"add","path":"/metadata/managedFields","value":[]},
		{"op":"add","path":"/metadata/annotations","value":{"injected":"yes"}}]`))
	made := must[*corev1.Pod](t)(m.Create(t.Context(), admin, at("pods", "default", ""), pod("p"), registry.WriteOptions{FieldManager: "jane"}))
	switch side := made.Spec.Containers; {
	case len(side) != 2 || side[1].ImagePullPolicy != corev1.PullIfNotPresent || side[1].TerminationMessagePath == "":
		t.Errorf("the new container was not defaulted: %+v", side)
	case len(side[1].VolumeMounts) != 1:
		t.Errorf("the built-in rules did not see the new container: %+v", side[1].VolumeMounts)
	case made.Annotations["injected"] != "yes":
		t.Errorf("annotations: %v", made.Annotations)
	}
	if made.UID == "mine" || len(made.ManagedFields) != 1 {
		t.Errorf("uid %s, managedFields %v: the webhook has changed what is the server's", made.UID, made.ManagedFields)
	}
	if owned := string(made.ManagedFields[0].FieldsV1.GetRawBytes()); made.ManagedFields[0].Manager != "jane" || strings.Contains(owned, "side") || !strings.Contains(owned, `k:{\"name\":\"web\"}`) {
		t.Errorf("jane owns %s", owned)
	}
	if stored := get[*corev1.Pod](t, m, at("pods", "default", "p")); len(stored.Spec.Containers) != 2 {
		t.Errorf("stored: %+v", stored.Spec.Containers)
	}

	w.Set(dynamictest.Patch(`[{"op":"add","path":"/data","value":{"not/valid":"x"}}]`))
	if _, err := m.Create(t.Context(), admin, at("configmaps", "default", ""), configMap("bad"), registry.WriteOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("%v, want that the patched object is validated", err)
	}
	for patch, want := range map[string]string{
		`[{"op":"replace","path":"/metadata/name","value":"other"}]`:                                                         "renames",
		`[{"op":"replace","path":"/nothing/there","value":1}]`:                                                               "cannot be applied",
		`[{"op":"add","path":"/data","value":7}]`:                                                                            "cannot be applied",
		`[{"op":"replace","path":"","value":null}]`:                                                                          "cannot be applied",
		`[{"op":"replace","path":"","value":[1]}]`:                                                                           "cannot be applied",
		`[{"op":"replace","path":"/metadata","value":null}]`:                                                                 "renames",
		`[{"op":"add","path":"/data/deep","value":` + strings.Repeat(`{"a":`, 2000) + "1" + strings.Repeat("}", 2000) + `}]`: "cannot be applied",
		`{`: "cannot be applied",
	} {
		w.Set(dynamictest.Patch(patch))
		if _, err := m.Create(t.Context(), admin, at("configmaps", "default", ""), configMap("bad"), registry.WriteOptions{}); !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want an error that says %q", patch, err, want)
		}
	}

	// Of a kind that users have defined just as well.
	m.define(t, parsed(t, widgets))
	m.mutating(t, "custom", w, func(h *admissionregistrationv1.MutatingWebhook) {
		h.Rules = []admissionregistrationv1.RuleWithOperations{rule("example.com", "widgets", "widgets/status")}
	})
	for patch, want := range map[string]string{
		`[{"op":"replace","path":"","value":null}]`:               "cannot be applied",
		`[{"op":"replace","path":"/metadata/name","value":"x"}]`:  "renames",
		`[{"op":"add","path":"/metadata/labels","value":7}]`:      "cannot be applied",
		`[{"op":"add","path":"/spec/replicas","value":"many"}]`:   "Invalid value",
		`[{"op":"add","path":"/spec/unknown","value":"dropped"}]`: "",
	} {
		w.Set(dynamictest.Patch(patch))
		_, err := m.Create(t.Context(), admin, widgetAt("v1", ""), widget(t, "v1", "w", `{"spec":{"replicas":1}}`), registry.WriteOptions{})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want an error that says %q", patch, err, want)
		}
	}
	if got := content(t, get[*object.Custom](t, m, widgetAt("v1", "w"))); strings.Contains(got, "unknown") {
		t.Errorf("%s: what the schema does not know was stored", got)
	}

	w.Set(dynamictest.Patch(`[{"op":"add","path":"/data/more","value":"x"}]`))
	must[*corev1.ConfigMap](t)(m.Create(t.Context(), admin, at("configmaps", "default", ""), configMap("a"), registry.WriteOptions{FieldManager: "jane"}))
	patched := must[*corev1.ConfigMap](t)(m.Patch(t.Context(), admin, at("configmaps", "default", "a"), types.MergePatchType, []byte(`{"data":{"more":null,"own":"1"}}`), registry.WriteOptions{FieldManager: "joe"}))
	if patched.Data["more"] != "x" || patched.Data["own"] != "1" {
		t.Errorf("patched to %v", patched.Data)
	}
}

// TestReinvocation: who asks for it sees what others have changed after its turn, once.
func TestReinvocation(t *testing.T) {
	m := leader(t)
	first, second, third := dynamictest.Serve(t), dynamictest.Serve(t), dynamictest.Serve(t)
	maps := func(h *admissionregistrationv1.MutatingWebhook) {
		h.Rules = []admissionregistrationv1.RuleWithOperations{rule("", "configmaps")}
	}
	ifNeeded := func(h *admissionregistrationv1.MutatingWebhook) {
		policy := admissionregistrationv1.IfNeededReinvocationPolicy
		h.ReinvocationPolicy = &policy
	}
	// By name: stored in another order.
	m.mutating(t, "c", third, maps, ifNeeded)
	m.mutating(t, "a", first, maps, ifNeeded)
	m.mutating(t, "b", second, maps)
	must[*corev1.ConfigMap](t)(m.Create(t.Context(), admin, at("configmaps", "default", ""), configMap("quiet"), registry.WriteOptions{}))
	if a, b, c := len(first.Seen()), len(second.Seen()), len(third.Seen()); a != 1 || b != 1 || c != 1 {
		t.Errorf("nothing was changed, but they were asked %d, %d and %d times", a, b, c)
	}
	second.Set(dynamictest.Patch(`[{"op":"add","path":"/data/second","value":"x"}]`))
	made := must[*corev1.ConfigMap](t)(m.Create(t.Context(), admin, at("configmaps", "default", ""), configMap("loud"), registry.WriteOptions{}))
	a, b, c := first.Seen(), second.Seen(), third.Seen()
	if len(a) != 2 || len(b) != 1 || len(c) != 1 {
		t.Fatalf("asked %d, %d and %d times, want 2, 1 and 1", len(a), len(b), len(c))
	}
	if made.Data["second"] != "x" || strings.Contains(string(a[0].Object.Raw), "second") || !strings.Contains(string(a[1].Object.Raw), "second") || !strings.Contains(string(c[0].Object.Raw), "second") {
		t.Error("the order is not that of the names")
	}
}

// TestRefusal: what the client is told.
func TestRefusal(t *testing.T) {
	m := leader(t)
	w := dynamictest.Serve(t)
	m.validating(t, "v", w)
	must[*corev1.ConfigMap](t)(m.Create(t.Context(), admin, at("configmaps", "default", ""), configMap("there"), registry.WriteOptions{}))
	for _, of := range []struct {
		result *metav1.Status
		text   string
		code   int32
	}{
		{&metav1.Status{Message: "no way", Code: 403, Reason: metav1.StatusReasonForbidden}, `admission webhook "v.example.com" denied the request: no way`, 403},
		{&metav1.Status{Message: "no way"}, `admission webhook "v.example.com" denied the request: no way`, 400},
		{&metav1.Status{Reason: "Because"}, `admission webhook "v.example.com" denied the request: Because`, 400},
		{nil, `admission webhook "v.example.com" denied the request without explanation`, 400},
		{&metav1.Status{Message: "later", Code: 503, Reason: metav1.StatusReasonServiceUnavailable}, `admission webhook "v.example.com" denied the request: later`, 500},
		{&metav1.Status{Code: 412, Reason: registry.ReasonFenced}, `admission webhook "v.example.com" denied the request: Fenced`, 500},
		{&metav1.Status{Message: "slow down", Code: 429, Reason: metav1.StatusReasonTooManyRequests}, `admission webhook "v.example.com" denied the request: slow down`, 429},
	} {
		w.Set(func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
			return &admissionv1.AdmissionResponse{Result: of.result, Warnings: []string{"careful"}}
		})
		for what, op := range map[string]registry.Operation{
			"create": {Verb: registry.VerbCreate, Ref: at("configmaps", "default", ""), Object: configMap("new")},
			"patch":  {Verb: registry.VerbPatch, Ref: at("configmaps", "default", "there"), PatchType: types.MergePatchType, Patch: []byte(`{"data":{"a":"b"}}`)},
			"delete": {Verb: registry.VerbDelete, Ref: at("configmaps", "default", "there")},
		} {
			result, err := m.Do(t.Context(), admin, op)
			var status apierrors.APIStatus
			if !errors.As(err, &status) || err.Error() != of.text || status.Status().Code != of.code {
				t.Errorf("%s: %v, want %d %s", what, err, of.code, of.text)
			}
			if !slices.Equal(result.Warnings, []string{"careful"}) {
				t.Errorf("%s: warnings %q", what, result.Warnings)
			}
		}
	}
	if _, err := m.Get(t.Context(), at("configmaps", "default", "new")); !apierrors.IsNotFound(err) {
		t.Errorf("what was refused is there: %v", err)
	}
	get[*corev1.ConfigMap](t, m, at("configmaps", "default", "there"))
	results, err := m.Transact(t.Context(), admin, []registry.Operation{
		{Verb: registry.VerbCreate, Ref: at("configmaps", "kube-node-lease", ""), Object: configMap("x")},
		{Verb: registry.VerbDelete, Ref: at("configmaps", "default", "there")},
	}, true)
	if err != nil || results[0].Err == nil || results[1].Err == nil || !strings.Contains(results[1].Err.Error(), "denied") {
		t.Errorf("%v %v", results, err)
	}
}

// TestWarningsAndAnnotations: they come with the answer, and annotations name who made them.
func TestWarningsAndAnnotations(t *testing.T) {
	m := leader(t)
	w := dynamictest.Serve(t)
	m.mutating(t, "m", w)
	w.Set(func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return &admissionv1.AdmissionResponse{Allowed: true, Warnings: []string{"old form"}, AuditAnnotations: map[string]string{"why": "because"}}
	})
	result, err := m.Do(t.Context(), admin, registry.Operation{Verb: registry.VerbCreate, Ref: at("configmaps", "default", ""), Object: configMap("a")})
	if err != nil || !slices.Equal(result.Warnings, []string{"old form"}) {
		t.Fatalf("%q %v", result.Warnings, err)
	}
	facts := fmt.Sprint(result.Annotations)
	if !strings.Contains(facts, "{m.example.com/why because}") || !strings.Contains(facts, `"mutated":false`) {
		t.Errorf("annotations %s", facts)
	}
}

// TestSelectors: rules, selectors and conditions say who is asked.
func TestSelectors(t *testing.T) {
	red := map[string]string{"team": "red"}
	selector := &metav1.LabelSelector{MatchLabels: red}
	cluster, namespaced := admissionregistrationv1.ClusterScope, admissionregistrationv1.NamespacedScope
	create := func(w *admissionregistrationv1.ValidatingWebhook) {
		w.Rules[0].Operations = []admissionregistrationv1.OperationType{"CREATE"}
	}
	for _, of := range []struct {
		what   string
		change func(*admissionregistrationv1.ValidatingWebhook)
		want   string // of: map, red map, map in red, namespace, pod
	}{
		{"all", func(*admissionregistrationv1.ValidatingWebhook) {}, "map redmap mapinred namespace pod"},
		{"a resource", func(w *admissionregistrationv1.ValidatingWebhook) { w.Rules[0].Resources = []string{"pods"} }, "pod"},
		{"its subresources", func(w *admissionregistrationv1.ValidatingWebhook) { w.Rules[0].Resources = []string{"pods/status"} }, ""},
		{"all of it", func(w *admissionregistrationv1.ValidatingWebhook) { w.Rules[0].Resources = []string{"pods/*"} }, "pod"},
		{"another group", func(w *admissionregistrationv1.ValidatingWebhook) { w.Rules[0].APIGroups = []string{"apps"} }, ""},
		{"deletions", func(w *admissionregistrationv1.ValidatingWebhook) {
			w.Rules[0].Operations = []admissionregistrationv1.OperationType{"DELETE"}
		}, ""},
		{"cluster scope", func(w *admissionregistrationv1.ValidatingWebhook) { w.Rules[0].Scope = &cluster }, "namespace"},
		{"namespaced scope", func(w *admissionregistrationv1.ValidatingWebhook) { w.Rules[0].Scope = &namespaced }, "map redmap mapinred pod"},
		{"labels", func(w *admissionregistrationv1.ValidatingWebhook) { w.ObjectSelector = selector }, "redmap"},
		{"labels of the namespace", func(w *admissionregistrationv1.ValidatingWebhook) { w.NamespaceSelector = selector }, "mapinred"},
		{"conditions", func(w *admissionregistrationv1.ValidatingWebhook) {
			w.MatchConditions = []admissionregistrationv1.MatchCondition{
				{Name: "kind", Expression: `request.kind.kind == "ConfigMap" && request.operation == "CREATE" && oldObject == null`},
				{Name: "label", Expression: `!has(object.metadata.labels)`},
			}
		}, "map mapinred"},
		{"a condition that fails beside one that is not met", func(w *admissionregistrationv1.ValidatingWebhook) {
			w.MatchConditions = []admissionregistrationv1.MatchCondition{{Name: "a", Expression: `object.nothing == 1`}, {Name: "b", Expression: `false`}}
		}, ""},
		{"a user", func(w *admissionregistrationv1.ValidatingWebhook) {
			w.MatchConditions = []admissionregistrationv1.MatchCondition{{Name: "a", Expression: `!("system:masters" in request.userInfo.groups)`}}
		}, ""},
	} {
		t.Run(of.what, func(t *testing.T) {
			t.Parallel()
			m := leader(t)
			must[*corev1.Namespace](t)(m.Create(t.Context(), admin, at("namespaces", "", ""), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "red", Labels: red}}, registry.WriteOptions{}))
			w := dynamictest.Serve(t)
			m.validating(t, "v", w, create, of.change)
			redMap, inRed := configMap("redmap"), configMap("mapinred")
			redMap.Labels, inRed.Namespace = red, "red"
			for _, obj := range []object.Object{configMap("map"), redMap, inRed, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "namespace"}}, pod("pod")} {
				kind, err := object.KindOfObject(obj)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := m.Create(t.Context(), admin, registry.Ref{Resource: kind.GVR, Namespace: obj.GetNamespace()}, obj, registry.WriteOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			var got []string
			for _, q := range w.Seen() {
				got = append(got, q.Name)
			}
			if text := strings.Join(got, " "); text != of.want {
				t.Errorf("asked about %q, want %q", text, of.want)
			}
		})
	}
}

// TestEquivalentVersions: a rule for one version of a kind is about all, unless it says
// otherwise; the webhook sees the version that it knows.
func TestEquivalentVersions(t *testing.T) {
	m := leader(t)
	m.define(t, parsed(t, widgets))
	equivalent, exact, changing := dynamictest.Serve(t), dynamictest.Serve(t), dynamictest.Serve(t)
	scalers := func(w *admissionregistrationv1.ValidatingWebhook) {
		w.Rules = []admissionregistrationv1.RuleWithOperations{rule("autoscaling", "horizontalpodautoscalers"), rule("example.com", "widgets")}
		w.Rules[0].APIVersions, w.Rules[1].APIVersions = []string{"v2"}, []string{"v1"}
	}
	m.validating(t, "equivalent", equivalent, scalers)
	m.validating(t, "exact", exact, scalers, func(w *admissionregistrationv1.ValidatingWebhook) {
		policy := admissionregistrationv1.Exact
		w.MatchPolicy = &policy
	})
	m.mutating(t, "changing", changing, func(w *admissionregistrationv1.MutatingWebhook) {
		w.Rules = []admissionregistrationv1.RuleWithOperations{rule("autoscaling", "horizontalpodautoscalers")}
		w.Rules[0].APIVersions = []string{"v2"}
	})
	changing.Set(dynamictest.Patch(`[{"op":"replace","path":"/spec/maxReplicas","value":7}]`))
	scaler := &autoscalingv1.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: "h", Namespace: "default"},
		Spec:       autoscalingv1.HorizontalPodAutoscalerSpec{MaxReplicas: 3, ScaleTargetRef: autoscalingv1.CrossVersionObjectReference{Kind: "Deployment", Name: "d", APIVersion: "apps/v1"}},
	}
	v1 := registry.Ref{Resource: autoscalingv1.SchemeGroupVersion.WithResource("horizontalpodautoscalers"), Namespace: "default"}
	made := must[*autoscalingv1.HorizontalPodAutoscaler](t)(m.Create(t.Context(), admin, v1, scaler, registry.WriteOptions{}))
	if made.Spec.MaxReplicas != 7 {
		t.Errorf("%d replicas at most: the patch of another version was lost", made.Spec.MaxReplicas)
	}
	must[*object.Custom](t)(m.Create(t.Context(), admin, widgetAt("v1beta1", ""), widget(t, "v1beta1", "w", `{"spec":{"replicas":2}}`), registry.WriteOptions{}))
	seen := equivalent.Seen()
	if len(seen) != 2 || len(exact.Seen()) != 0 {
		t.Fatalf("asked %d times", len(seen))
	}
	for i, group := range []string{"autoscaling/v2", "example.com/v1"} {
		q := seen[i]
		if got := q.Kind.Group + "/" + q.Kind.Version; got != group || q.RequestKind.Version == q.Kind.Version || !strings.Contains(string(q.Object.Raw), `"apiVersion":"`+group+`"`) {
			t.Errorf("asked about %s of %s: %s", got, q.RequestKind, q.Object.Raw)
		}
	}
}

// TestWhatNoWebhookSees: a webhook for everything that never answers stops neither nodes nor
// leaders, nor kube-system, nor its own namespace, nor its own removal.
func TestWhatNoWebhookSees(t *testing.T) {
	m := leader(t)
	for _, name := range []string{"kube-system", "kube-node-lease", "home"} {
		m.namespace(t, name)
	}
	must[*corev1.Node](t)(m.Create(t.Context(), admin, at("nodes", "", ""), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, registry.WriteOptions{}))
	w := dynamictest.Serve(t)
	w.Set(dynamictest.Deny("everything"))
	m.validating(t, "all", w)
	m.mutating(t, "service", w, func(h *admissionregistrationv1.MutatingWebhook) {
		h.ClientConfig = admissionregistrationv1.WebhookClientConfig{Service: &admissionregistrationv1.ServiceReference{Namespace: "home", Name: "hook"}}
		h.MatchConditions = []admissionregistrationv1.MatchCondition{{Name: "home", Expression: `request.namespace == "home"`}}
	})
	in := func(namespace string, obj object.Object) object.Object {
		obj.SetNamespace(namespace)
		return obj
	}
	node := registry.Caller{User: "system:node:n", Groups: []string{"system:nodes"}}
	create := func(caller registry.Caller, obj object.Object) error {
		kind, err := object.KindOfObject(obj)
		if err != nil {
			t.Fatal(err)
		}
		_, err = m.Create(t.Context(), caller, registry.Ref{Resource: kind.GVR, Namespace: obj.GetNamespace()}, obj, registry.WriteOptions{})
		return err
	}
	if err := create(admin, configMap("a")); err == nil || !strings.Contains(err.Error(), "everything") {
		t.Fatalf("%v, want that it is asked about other things", err)
	}
	w.Seen()
	for what, err := range map[string]error{
		"in kube-system":    create(admin, in("kube-system", configMap("a"))),
		"lease":             create(node, in("kube-node-lease", lease("n"))),
		"lease of a leader": create(admin, in("default", lease("leader"))),
		"event": create(admin, &corev1.Event{
			ObjectMeta: metav1.ObjectMeta{Name: "e", Namespace: "default"}, InvolvedObject: corev1.ObjectReference{Namespace: "default", Kind: "Pod", Name: "p"},
		}),
		"configuration": create(admin, &admissionregistrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "another"}}),
		"upkeep":        create(registry.Caller{User: "system:apiserver"}, configMap("b")),
		"kube-system itself": func() error {
			_, err := m.Patch(t.Context(), admin, at("namespaces", "", "kube-system"), types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b"}}}`), registry.WriteOptions{})
			return err
		}(),
		"heartbeat": func() error {
			_, err := m.Patch(t.Context(), node, at("nodes", "", "n", "status"), types.MergePatchType, []byte(`{"status":{"conditions":[{"type":"Ready","status":"True"}]}}`), registry.WriteOptions{})
			return err
		}(),
		"mark of a node that has gone": func() error {
			manager := registry.Caller{User: "kijabi:controller-manager:m1", Groups: []string{"kijabi:role:controller-manager"}, Epoch: m.store.Term().Epoch}
			_, err := m.Patch(t.Context(), manager, at("nodes", "", "n"), types.MergePatchType, []byte(`{"spec":{"taints":[{"key":"node.kubernetes.io/unreachable","effect":"NoExecute"}]}}`), registry.WriteOptions{})
			return err
		}(),
		"removal": func() error {
			_, _, err := m.Delete(t.Context(), admin, at("validatingwebhookconfigurations", "", "all"), metav1.DeleteOptions{})
			return err
		}(),
		"home of the other": create(admin, in("home", configMap("c"))),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	wantQuestions(t, w, "about what no webhook sees")
}

// TestFailures: what a webhook that fails does to a write, by its failurePolicy.
func TestFailures(t *testing.T) {
	m := leader(t)
	closed, open := dynamictest.Serve(t), dynamictest.Serve(t)
	second := int32(1)
	m.validating(t, "closed", closed, func(w *admissionregistrationv1.ValidatingWebhook) {
		w.Rules, w.TimeoutSeconds = []admissionregistrationv1.RuleWithOperations{rule("", "configmaps")}, &second
	})
	m.validating(t, "open", open, failOpen, func(w *admissionregistrationv1.ValidatingWebhook) {
		w.Rules, w.TimeoutSeconds = []admissionregistrationv1.RuleWithOperations{rule("", "pods")}, &second
	})
	answer := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(text)) }
	}
	n := 0
	for what, of := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"error": {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "oops", http.StatusInternalServerError) }, "status 500"},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://127.0.0.1:1/", http.StatusTemporaryRedirect)
		}, "status 307"},
		"no JSON":     {answer("hello"), "read the answer"},
		"no response": {answer(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}`), "no response"},
		"wrong uid":   {answer(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"uid":"x","allowed":true}}`), "answer is to the question"},
		"wrong kind":  {answer(`{"apiVersion":"v1","kind":"Pod","response":{"uid":"x","allowed":true}}`), "answer is of v1 Pod"},
		"deep":        {answer(strings.Repeat(`{"a":`, 5000)), "read the answer"},
		"endless": {func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		}, "longer than"},
		"silence": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "no answer within 1s"},
	} {
		closed.SetRaw(of.answer)
		open.SetRaw(of.answer)
		n++
		_, err := m.Create(t.Context(), admin, at("configmaps", "default", ""), configMap(fmt.Sprintf("a-%d", n)), registry.WriteOptions{})
		if !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), `failed calling webhook "closed.example.com"`) || !strings.Contains(err.Error(), of.want) {
			t.Errorf("%s: %v, want an error that says %q", what, err, of.want)
		}
		result, err := m.Do(t.Context(), admin, registry.Operation{Verb: registry.VerbCreate, Ref: at("pods", "default", ""), Object: pod(fmt.Sprintf("p-%d", n))})
		if err != nil || !strings.Contains(fmt.Sprint(result.Annotations), "failed-open.validating.webhook.admission.k8s.io/round_0_index_1 open.example.com") {
			t.Errorf("%s: %v %v, want that it is let through", what, err, result.Annotations)
		}
		// Nobody's breaker opens in this test.
		closed.Set(dynamictest.Allow)
		open.Set(dynamictest.Allow)
		must[*corev1.ConfigMap](t)(m.Create(t.Context(), admin, at("configmaps", "default", ""), configMap(fmt.Sprintf("b-%d", n)), registry.WriteOptions{}))
		must[*corev1.Pod](t)(m.Create(t.Context(), admin, at("pods", "default", ""), pod(fmt.Sprintf("q-%d", n)), registry.WriteOptions{}))
	}
	closed.Close()
	if _, err := m.Create(t.Context(), admin, at("configmaps", "default", ""), configMap("dead"), registry.WriteOptions{}); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("dead: %v", err)
	}
	other := dynamictest.Serve(t)
	client := other.Client()
	client.CABundle = closed.CA()
	m.validating(t, "foreign", other, func(w *admissionregistrationv1.ValidatingWebhook) {
		w.ClientConfig, w.Rules = client, []admissionregistrationv1.RuleWithOperations{rule("", "secrets")}
	})
	if _, err := m.Create(t.Context(), admin, at("secrets", "default", ""), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}}, registry.WriteOptions{}); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("certificate of another authority: %v", err)
	}
}

// TestConnectionsAreKept: many calls need few connections.
func TestConnectionsAreKept(t *testing.T) {
	m := leader(t)
	w := dynamictest.Serve(t)
	m.validating(t, "v", w)
	for i := range 20 {
		must[*corev1.ConfigMap](t)(m.Create(t.Context(), admin, at("configmaps", "default", ""), configMap(fmt.Sprintf("c-%d", i)), registry.WriteOptions{}))
	}
	if n := w.Connections(); w.Calls() != 20 || n != 1 {
		t.Errorf("%d calls over %d connections", w.Calls(), n)
	}
}

// TestSlowWebhookSlowsOnlyItsOwn: others are written as quickly as ever, and a write has a
// budget for all of its webhooks.
func TestSlowWebhookSlowsOnlyItsOwn(t *testing.T) {
	m := leader(t)
	w := dynamictest.Serve(t)
	m.validating(t, "v", w, func(h *admissionregistrationv1.ValidatingWebhook) {
		h.Rules = []admissionregistrationv1.RuleWithOperations{rule("", "configmaps", "services")}
	})
	must[*corev1.ConfigMap](t)(m.Create(t.Context(), admin, at("configmaps", "default", ""), configMap("a"), registry.WriteOptions{}))
	must[*corev1.Service](t)(m.Create(t.Context(), admin, at("services", "default", ""), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "default"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	}, registry.WriteOptions{}))
	w.Hang()
	ctx, cancel := context.WithCancel(t.Context())
	var waiting sync.WaitGroup
	before := w.Calls()
	merge := []byte(`{"metadata":{"labels":{"a":"b"}}}`)
	for _, do := range []func() error{
		func() error {
			_, err := m.Create(ctx, admin, at("configmaps", "default", ""), configMap("b"), registry.WriteOptions{})
			return err
		},
		func() error {
			_, err := m.Patch(ctx, admin, at("configmaps", "default", "a"), types.MergePatchType, merge, registry.WriteOptions{})
			return err
		},
		func() error {
			_, err := m.Patch(ctx, admin, at("services", "default", "s"), types.MergePatchType, merge, registry.WriteOptions{})
			return err
		},
		func() error {
			_, _, err := m.Delete(ctx, admin, at("configmaps", "default", "a"), metav1.DeleteOptions{})
			return err
		},
	} {
		waiting.Go(func() {
			if err := do(); err == nil {
				t.Error("written without an answer")
			}
		})
	}
	eventually(t, "all of them wait", func() bool { return w.Calls() == before+4 })
	for i := range 10 {
		began := time.Now()
		must[*corev1.Pod](t)(m.Create(t.Context(), admin, at("pods", "default", ""), pod(fmt.Sprintf("p-%d", i)), registry.WriteOptions{}))
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("another write took %s", took)
		}
	}
	cancel()
	waiting.Wait()
}

// TestBreaker: a webhook that failed some times in a row is not asked for a while; then one
// call tells whether it is back.
func TestBreaker(t *testing.T) {
	clk := clocktesting.NewFakeClock(time.Now())
	m := leader(t, func(cfg *registry.Config) { cfg.Clock = clk })
	w := dynamictest.Serve(t)
	m.validating(t, "v", w, failOpen)
	fail := func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "oops", http.StatusInternalServerError) }
	w.SetRaw(fail)
	n := 0
	write := func() {
		t.Helper()
		n++
		must[*corev1.ConfigMap](t)(m.Create(t.Context(), admin, at("configmaps", "default", ""), configMap(fmt.Sprintf("c-%d", n)), registry.WriteOptions{}))
	}
	for range 8 {
		write()
	}
	if calls := w.Calls(); calls != 5 {
		t.Fatalf("%d calls, want that it is left alone after 5", calls)
	}
	clk.Step(6 * time.Second)
	write()
	write()
	if calls := w.Calls(); calls != 6 {
		t.Fatalf("%d calls, want one probe", calls)
	}
	clk.Step(6 * time.Second)
	write()
	if calls := w.Calls(); calls != 6 {
		t.Fatalf("%d calls, want a longer pause after a probe that failed", calls)
	}
	w.Set(dynamictest.Allow)
	clk.Step(6 * time.Second)
	for range 3 {
		write()
	}
	if calls := w.Calls(); calls != 9 {
		t.Fatalf("%d calls, want that it is asked again", calls)
	}

	// A refusal is an answer, and who fails closed says why.
	strict := dynamictest.Serve(t)
	m.validating(t, "strict", strict)
	strict.SetRaw(fail)
	for i := range 7 {
		_, err := m.Create(t.Context(), admin, at("configmaps", "default", ""), configMap("x"), registry.WriteOptions{})
		if open := err != nil && strings.Contains(err.Error(), "is not asked for now"); err == nil || open != (i >= 5) {
			t.Errorf("attempt %d: %v", i, err)
		}
	}
}

// TestDecisionIsOnWhatIsCommitted: when an object changes between the decision and the commit,
// the decision is made anew.
func TestDecisionIsOnWhatIsCommitted(t *testing.T) {
	m := leader(t)
	w := dynamictest.Serve(t)
	quiet := registry.Caller{User: "system:apiserver"} // nobody is asked about its writes
	must[*corev1.ConfigMap](t)(m.Create(t.Context(), admin, at("configmaps", "default", ""), configMap("a"), registry.WriteOptions{}))
	must[*corev1.Service](t)(m.Create(t.Context(), admin, at("services", "default", ""), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "default"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	}, registry.WriteOptions{}))
	m.validating(t, "v", w)
	// race makes the webhook let somebody else write while it is asked, as often as there are patches.
	race := func(ref registry.Ref, patches ...string) {
		var mu sync.Mutex
		w.Set(func(q *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
			mu.Lock()
			defer mu.Unlock()
			if len(patches) > 0 {
				must[object.Object](t)(m.Patch(context.Background(), quiet, ref, types.MergePatchType, []byte(patches[0]), registry.WriteOptions{}))
				patches = patches[1:]
			}
			if strings.Contains(string(q.OldObject.Raw), "frozen") {
				return dynamictest.Deny("it is frozen")(q)
			}
			return dynamictest.Allow(q)
		})
	}
	label := []byte(`{"metadata":{"labels":{"mine":"1"}}}`)
	for _, ref := range []registry.Ref{at("configmaps", "default", "a"), at("services", "default", "a")} {
		patch := func() (object.Object, error) {
			return m.Patch(t.Context(), admin, ref, types.MergePatchType, label, registry.WriteOptions{})
		}
		remove := func() error {
			_, _, err := m.Delete(t.Context(), admin, ref, metav1.DeleteOptions{})
			return err
		}
		w.Seen()
		race(ref, `{"metadata":{"labels":{"other":"1"}}}`, `{"metadata":{"labels":{"other":"2"}}}`)
		obj, err := patch()
		if err != nil || obj.GetLabels()["mine"] != "1" || obj.GetLabels()["other"] != "2" {
			t.Fatalf("%s: %v %v", ref.Resource.Resource, obj, err)
		}
		if asked := len(w.Seen()); asked != 3 {
			t.Errorf("%s: asked %d times, want once for each state", ref.Resource.Resource, asked)
		}
		race(ref, `{"metadata":{"labels":{"mine":null,"state":"frozen"}}}`)
		if obj, err := patch(); err == nil || !strings.Contains(err.Error(), "it is frozen") {
			t.Errorf("%s: %v %v, want that the state at the commit counts", ref.Resource.Resource, obj, err)
		}
		race(ref)
		if err := remove(); err == nil || !strings.Contains(err.Error(), "it is frozen") {
			t.Errorf("%s: %v, want that it is not deleted", ref.Resource.Resource, err)
		}
		must[object.Object](t)(m.Patch(t.Context(), quiet, ref, types.MergePatchType, []byte(`{"metadata":{"labels":{"state":null}}}`), registry.WriteOptions{}))
		race(ref, `{"metadata":{"labels":{"state":"frozen"}}}`)
		if err := remove(); err == nil || !strings.Contains(err.Error(), "it is frozen") {
			t.Errorf("%s: %v, want that the state at the commit counts", ref.Resource.Resource, err)
		}
		must[object.Object](t)(m.Patch(t.Context(), quiet, ref, types.MergePatchType, []byte(`{"metadata":{"labels":{"state":null}}}`), registry.WriteOptions{}))
		w.Seen()
		race(ref, `{"metadata":{"labels":{"other":"3"}}}`)
		for _, independent := range []bool{true, false} {
			results, err := m.Transact(t.Context(), admin, []registry.Operation{
				{Verb: registry.VerbPatch, Ref: ref, PatchType: types.MergePatchType, Patch: label},
				{Verb: registry.VerbCreate, Ref: at("secrets", "default", ""), Object: &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(ref.Resource.Resource, "-", independent)}}},
			}, independent)
			if err != nil || results[0].Err != nil || results[1].Err != nil {
				t.Errorf("%s: transaction: %v %v", ref.Resource.Resource, results, err)
			}
			race(ref, fmt.Sprintf(`{"metadata":{"labels":{"other":"4","mine":"%t"}}}`, independent))
		}
	}
	// Two writers at once count right.
	w.Set(dynamictest.Allow)
	var writers sync.WaitGroup
	for i := range 4 {
		writers.Go(func() {
			for j := range 5 {
				must[object.Object](t)(m.Patch(t.Context(), admin, at("configmaps", "default", "a"), types.MergePatchType, fmt.Appendf(nil, `{"data":{"k-%d-%d":"x"}}`, i, j), registry.WriteOptions{}))
			}
		})
	}
	writers.Wait()
	if n := len(get[*corev1.ConfigMap](t, m, at("configmaps", "default", "a")).Data); n != 21 {
		t.Errorf("%d keys, want 21", n)
	}
}

// TestWebhookOfAService: its ready endpoints are called under the service's name, or its
// cluster address.
func TestWebhookOfAService(t *testing.T) {
	w := dynamictest.Serve(t, "hook.home.svc")
	var mu sync.Mutex
	var dialed []string
	alive := ""
	m := leader(t, func(cfg *registry.Config) {
		cfg.Dynamic.Dial = w.Dial(func(address string) error {
			mu.Lock()
			defer mu.Unlock()
			dialed = append(dialed, address)
			if address != alive {
				return errors.New("nobody is there")
			}
			return nil
		})
	})
	m.namespace(t, "home")
	path, port := "/check", int32(8443)
	m.validating(t, "v", w, func(h *admissionregistrationv1.ValidatingWebhook) {
		h.ClientConfig = admissionregistrationv1.WebhookClientConfig{CABundle: w.CA(), Service: &admissionregistrationv1.ServiceReference{Namespace: "home", Name: "hook", Path: &path, Port: &port}}
	})
	write := func(name string) error {
		mu.Lock()
		dialed = nil
		mu.Unlock()
		_, err := m.Create(t.Context(), admin, at("configmaps", "default", ""), configMap(name), registry.WriteOptions{})
		return err
	}
	if err := write("a"); err == nil || !strings.Contains(err.Error(), "service home/hook does not exist") {
		t.Errorf("%v", err)
	}
	service := must[*corev1.Service](t)(m.Create(t.Context(), admin, at("services", "home", ""), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "hook", Namespace: "home"},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "https", Port: 8443}, {Name: "other", Port: 80}}},
	}, registry.WriteOptions{}))
	clusterIP := service.Spec.ClusterIP + ":8443"
	if err := write("b"); err == nil || !slices.Equal(dialed, []string{clusterIP}) {
		t.Errorf("%v %v", dialed, err)
	}
	name, number, ready, unready := "https", int32(9443), true, false
	must[*discoveryv1.EndpointSlice](t)(m.Create(t.Context(), admin, at("endpointslices", "home", ""), &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "hook-1", Namespace: "home", Labels: map[string]string{discoveryv1.LabelServiceName: "hook"}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &number}},
		Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{"10.1.0.1"}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}},
			{Addresses: []string{"10.1.0.2"}, Conditions: discoveryv1.EndpointConditions{Ready: &unready}},
		},
	}, registry.WriteOptions{}))
	if err := write("c"); err == nil || !slices.Equal(dialed, []string{"10.1.0.1:9443", clusterIP}) {
		t.Errorf("%v %v", dialed, err)
	}
	alive = "10.1.0.1:9443"
	if err := write("d"); err != nil || !slices.Equal(dialed, []string{"10.1.0.1:9443"}) {
		t.Errorf("%v %v", dialed, err)
	}
}

// TestUnconfiguredWebhooksAreForgotten: what is deleted or changed is not asked any more.
func TestUnconfiguredWebhooksAreForgotten(t *testing.T) {
	m := leader(t)
	w := dynamictest.Serve(t)
	w.Set(dynamictest.Deny("no"))
	m.validating(t, "v", w)
	create := func() error {
		_, err := m.Create(t.Context(), admin, at("configmaps", "default", ""), configMap("a"), registry.WriteOptions{DryRun: true})
		return err
	}
	if err := create(); err == nil {
		t.Error("not asked")
	}
	if _, err := m.Patch(t.Context(), admin, at("validatingwebhookconfigurations", "", "v"), types.JSONPatchType,
		[]byte(`[{"op":"replace","path":"/webhooks/0/rules/0/resources","value":["pods"]}]`), registry.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := create(); err != nil {
		t.Errorf("after the rule was changed: %v", err)
	}
	if _, err := m.Create(t.Context(), admin, at("validatingwebhookconfigurations", "", ""), &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "bad"}, Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name: "bad.example.com", ClientConfig: w.Client(), SideEffects: func() *admissionregistrationv1.SideEffectClass {
				none := admissionregistrationv1.SideEffectClassNone
				return &none
			}(), AdmissionReviewVersions: []string{"v1"}, Rules: []admissionregistrationv1.RuleWithOperations{rule("", "pods")},
			MatchConditions: []admissionregistrationv1.MatchCondition{{Name: "a", Expression: "object."}},
		}},
	}, registry.WriteOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "compilation failed") {
		t.Errorf("a condition that does not compile: %v", err)
	}
}
