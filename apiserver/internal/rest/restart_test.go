package rest

import (
	"net/http"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestRestartIsPassedOn(t *testing.T) {
	h := newHarness(t)
	kubelet := h.node()
	a := h.call("POST", podP+"/restart?container=c&container=d", "")
	s := a.status(t)
	if a.code != http.StatusOK || s.Status != metav1.StatusSuccess || s.Details == nil || len(s.Details.Causes) != 2 ||
		s.Details.Causes[1] != (metav1.StatusCause{Type: "Restarting", Field: "d", Message: "containerd://d"}) {
		t.Fatalf("%d %+v", a.code, s)
	}
	asked := kubelet.restarts[0]
	if !slices.Equal(asked.GetContainers(), []string{"c", "d"}) || asked.GetTarget().GetPod() != "p" || asked.GetTarget().GetUid() == "" || asked.GetCaller().GetUser() != "kubernetes-admin" {
		t.Errorf("the kubelet was asked %v", asked)
	}
	if a := h.call("POST", podP+"/restart", "{}"); a.code != http.StatusOK || len(kubelet.restarts[1].GetContainers()) != 0 {
		t.Errorf("all containers: %d %s", a.code, a.body)
	}
	if a := h.call("POST", podP+"/restart?container=once", ""); a.code != http.StatusBadRequest || a.status(t).Reason != metav1.StatusReasonBadRequest {
		t.Errorf("the kubelet refuses: %d %s", a.code, a.body)
	}
	for method, want := range map[string]int{"GET": 405, "PUT": 405, "DELETE": 405} { // nothing is restarted by following a link
		if a := h.call(method, podP+"/restart", ""); a.code != want {
			t.Errorf("%s: %d", method, a.code)
		}
	}
	if a := h.call("POST", podP+"/restart/x", ""); a.code != http.StatusNotFound {
		t.Errorf("below it: %d", a.code)
	}
	h.createPod("unbound", "", "c")
	if a := h.call("POST", "/api/v1/namespaces/default/pods/unbound/restart", ""); a.code != http.StatusBadRequest {
		t.Errorf("a pod without a node: %d %s", a.code, a.body)
	}
	h.authorizer.deny = func(_, verb, _ string) bool { return verb == "create" }
	if a := h.call("POST", podP+"/restart", ""); a.code != http.StatusForbidden || !slices.Contains(h.authorizer.asked, "kubernetes-admin create pods/restart default p") {
		t.Errorf("without the right: %d %q", a.code, h.authorizer.asked)
	}
	if len(kubelet.restarts) != 3 {
		t.Errorf("%d restarts reached the kubelet", len(kubelet.restarts))
	}
}
