package rest

import (
	"net/http"
	"net/http/pprof"
	"strings"
)

// profilePath is where Go's profiles are, as other apiservers have them. Roles must name it,
// so that only administrators see it unless they say otherwise.
const profilePath = "/debug/pprof"

// serveProfile answers with a profile of this apiserver.
func (s *Server) serveProfile(w http.ResponseWriter, r *http.Request, path string) {
	switch name := strings.Trim(strings.TrimPrefix(path, profilePath), "/"); name {
	case "":
		pprof.Index(w, r)
	case "profile":
		pprof.Profile(w, r)
	case "trace":
		pprof.Trace(w, r)
	case "symbol":
		pprof.Symbol(w, r)
	case "cmdline":
		s.fail(w, r, notFound()) // arguments are not for readers of profiles
	default:
		pprof.Handler(name).ServeHTTP(w, r)
	}
}
