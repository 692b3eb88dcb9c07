package rest

import (
	"fmt"
	"net/http"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/apiserver/internal/registry"
)

const metricsPath = "/metrics"

const groupAdmins = "system:masters"

// serveMetrics answers administrators with what this apiserver counts.
func (s *Server) serveMetrics(w http.ResponseWriter, r *http.Request, caller registry.Caller) {
	switch {
	case !slices.Contains(caller.Groups, groupAdmins):
		s.fail(w, r, apierrors.NewForbidden(schema.GroupResource{}, "", fmt.Errorf("user %q cannot get path %q", caller.User, metricsPath)))
	case s.cfg.Metrics == nil:
		s.fail(w, r, notFound())
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		s.fail(w, r, apierrors.NewGenericServerResponse(http.StatusMethodNotAllowed, r.Method, schema.GroupResource{}, "", "only GET reads metrics", 0, false))
	default:
		s.cfg.Metrics.ServeHTTP(w, r)
	}
}
