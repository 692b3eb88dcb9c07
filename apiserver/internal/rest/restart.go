package rest

import (
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/apiserver/internal/registry"
	kubeletv1pb "kijabi.dev/proto/gen/kijabi/kubelet/v1"
)

// restartCause begins each cause of the answer: its field is a container, its message the
// instance of it that ends.
const restartCause = metav1.CauseType("Restarting")

// serveRestart has the kubelet of a pod restart the containers that the query names, all if
// it names none. The answer tells that this was begun.
func (s *Server) serveRestart(w http.ResponseWriter, r *http.Request, caller registry.Caller, t target) error {
	place, err := s.findPod(r.Context(), caller, t)
	if err != nil {
		return err
	}
	answer, err := place.kubelet.Restart(r.Context(), &kubeletv1pb.RestartRequest{
		Target: place.target(""), Caller: place.caller, Containers: r.URL.Query()["container"],
	})
	if err != nil {
		return kubeletError(err)
	}
	details := &metav1.StatusDetails{Name: place.pod.Name, Kind: t.ref.Resource.Resource, UID: place.pod.UID}
	for _, c := range answer.GetContainers() {
		details.Causes = append(details.Causes, metav1.StatusCause{Type: restartCause, Field: c.GetName(), Message: c.GetContainerId()})
	}
	s.writeJSON(w, r, success(http.StatusOK, details))
	return nil
}
