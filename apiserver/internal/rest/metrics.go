package rest

import (
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

const metricsPath = "/metrics"

// serveMetrics answers with what this apiserver counts.
func (s *Server) serveMetrics(w http.ResponseWriter, r *http.Request) {
	switch {
	case s.cfg.Metrics == nil:
		s.fail(w, r, notFound())
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		s.fail(w, r, apierrors.NewGenericServerResponse(http.StatusMethodNotAllowed, r.Method, schema.GroupResource{}, "", "only GET reads metrics", 0, false))
	default:
		s.cfg.Metrics.ServeHTTP(w, r)
	}
}
