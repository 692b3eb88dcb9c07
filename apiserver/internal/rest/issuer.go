package rest

import (
	"net/http"
	"strings"
)

// Where others learn how to check the tokens of this cluster (OpenID Connect Discovery).
const (
	wellKnownPath = "/.well-known/openid-configuration"
	jwksPath      = "/openid/v1/jwks"
)

// serveIssuer answers with the issuer's document or its keys.
func (s *Server) serveIssuer(w http.ResponseWriter, r *http.Request, path string) {
	if s.cfg.Tokens == nil {
		s.fail(w, r, notFound())
		return
	}
	media, document := mediaJSON, func() ([]byte, error) {
		return s.cfg.Tokens.Discovery(strings.TrimSuffix(s.cfg.Tokens.Issuer(), "/") + jwksPath)
	}
	if path == jwksPath {
		media, document = "application/jwk-set+json", s.cfg.Tokens.JWKS
	}
	data, err := document()
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("Cache-Control", "public, max-age=3600")
	writeBody(w, media, http.StatusOK, data)
}
