package rest

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

const metricsPath = "/metrics"

// Page asks one of the machine's programs for a page.
type Page func(ctx context.Context) (contentType string, text []byte, err error)

// serveMetrics answers with what this apiserver counts, and below /metrics/ with what another
// program of this machine does.
func (s *Server) serveMetrics(w http.ResponseWriter, r *http.Request, path string) {
	name, other := strings.CutPrefix(path, metricsPath+"/")
	page := s.cfg.Programs[name]
	switch {
	case other && page == nil, !other && s.cfg.Metrics == nil:
		s.fail(w, r, notFound())
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		s.fail(w, r, apierrors.NewGenericServerResponse(http.StatusMethodNotAllowed, r.Method, schema.GroupResource{}, "", "only GET reads metrics", 0, false))
	case other:
		s.servePage(w, r, name, page)
	default:
		s.cfg.Metrics.ServeHTTP(w, r)
	}
}

func (s *Server) servePage(w http.ResponseWriter, r *http.Request, name string, page Page) {
	ctx, cancel := context.WithTimeout(r.Context(), timeoutOf(r))
	defer cancel()
	contentType, text, err := page(ctx)
	if err != nil {
		s.fail(w, r, apierrors.NewServiceUnavailable(fmt.Sprintf("the %s of this master does not tell its metrics: %v", name, err)))
		return
	}
	w.Header().Set("X-Content-Type-Options", "nosniff")
	compressed := newCompressor(w, r)
	defer compressed.close()
	writeBody(compressed, contentType, http.StatusOK, text)
}
