package rest

import (
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/version"

	"kijabi.dev/platform/lifecycle"
)

func (s *Server) version() version.Info {
	return version.Info{
		Major: "1", Minor: "37", EmulationMajor: "1", EmulationMinor: "37", MinCompatibilityMajor: "1", MinCompatibilityMinor: "36",
		GitVersion: lifecycle.KubernetesVersion, GitTreeState: "clean",
		GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
}

// plain is the media type in which health is told.
const plain = "text/plain; charset=utf-8"

// serveHealth answers /livez, /readyz and /healthz, and /readyz/NAME for one check.
func (s *Server) serveHealth(w http.ResponseWriter, r *http.Request) {
	page, name, _ := strings.Cut(strings.Trim(r.URL.Path, "/"), "/")
	query := r.URL.Query()
	checks := append([]Check{{Name: "ping", Live: true, Check: func() error { return nil }}}, s.cfg.Checks...)
	if page != "livez" {
		checks = append(checks, Check{Name: "shutdown", Check: s.stopping.Err})
	}
	var text strings.Builder
	found, failed := false, 0
	for _, check := range checks {
		if name != "" && check.Name != name || page == "livez" && !check.Live {
			continue
		}
		found = true
		if slices.Contains(query["exclude"], check.Name) {
			fmt.Fprintf(&text, "[+]%s excluded: ok\n", check.Name)
			continue
		}
		if err := check.Check(); err != nil {
			failed++
			// Anybody may ask: say which check fails; why is in the log.
			fmt.Fprintf(&text, "[-]%s failed: reason withheld\n", check.Name)
			continue
		}
		fmt.Fprintf(&text, "[+]%s ok\n", check.Name)
	}
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-cache, private")
	_, verbose := query["verbose"]
	switch {
	case !found:
		writeBody(w, plain, http.StatusNotFound, []byte("404 page not found\n"))
	case failed > 0:
		fmt.Fprintf(&text, "%s check failed\n", page)
		writeBody(w, plain, http.StatusInternalServerError, []byte(text.String()))
	case verbose:
		fmt.Fprintf(&text, "%s check passed\n", page)
		writeBody(w, plain, http.StatusOK, []byte(text.String()))
	default:
		writeBody(w, plain, http.StatusOK, []byte("ok"))
	}
}
