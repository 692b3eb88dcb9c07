package rest

import (
	"context"
	"encoding/base64"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"
	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/apiserver/internal/authn"
	"kijabi.dev/apiserver/internal/authz"
	"kijabi.dev/apiserver/internal/impersonation"
	"kijabi.dev/apiserver/internal/registry"
)

// bearerProtocol begins the WebSocket subprotocol by which browsers, which cannot set
// headers there, send a token.
const bearerProtocol = "base64url.bearer.authorization.k8s.io."

// identified is a caller and how it is known.
type identified struct {
	registry.Caller
	// certificate is true when the connection says who it is: whatever page a browser shows.
	certificate bool
	// token by which the caller is known, if it is.
	token string
}

// tokenKey finds the token in the context of a request.
type tokenKey struct{}

// authenticate names the caller: by its certificate, which the TLS layer has verified
// against the cluster's authorities, else by a token of a service account. Who presents
// neither is anonymous; who presents a wrong token is refused.
func (s *Server) authenticate(r *http.Request) (identified, error) {
	// The request id is ours: a client's could repeat and would then name another write's outcome.
	caller := identified{Caller: registry.Caller{UserAgent: r.UserAgent(), RequestID: uuid.NewString()}}
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 && len(r.TLS.PeerCertificates) > 0 {
		if user, ok := authn.Certificate(r.TLS.PeerCertificates[0]); ok {
			caller.become(user)
			caller.certificate = true
			return caller, nil
		}
	}
	caller.become(authn.Anonymous())
	token, found, err := bearerToken(r)
	if err != nil || !found {
		return caller, err
	}
	if s.cfg.Tokens == nil {
		return caller, unauthorized()
	}
	user, _, err := s.cfg.Tokens.Authenticate(r.Context(), token, nil)
	if err != nil {
		s.cfg.Log.Info("token refused", logRequest(caller.RequestID), zap.Error(err))
		return caller, unauthorized()
	}
	caller.become(user)
	caller.token = token
	return caller, nil
}

// stillMay tells whether the caller of a long request is still known and allowed what it does.
func (s *Server) stillMay(ctx context.Context, caller registry.Caller, attr authz.Attributes) error {
	if token, ok := ctx.Value(tokenKey{}).(string); ok {
		if _, _, err := s.cfg.Tokens.Authenticate(ctx, token, nil); err != nil {
			return unauthorized()
		}
	}
	if as, ok := ctx.Value(actingKey{}).(func(context.Context) (authn.User, error)); ok {
		if _, err := as(ctx); err != nil {
			return err
		}
	}
	if authz.Lasting(caller.Groups) {
		return nil
	}
	return s.authorize(ctx, caller, attr)
}

func (c *identified) become(user authn.User) {
	c.User, c.UID, c.Groups, c.Extra = user.Name, user.UID, user.Groups, user.Extra
}

// bearerToken takes the token out of a request, so that nothing later sees it: a pod behind a
// proxy, for one. That of the header Authorization is the one that counts.
func bearerToken(r *http.Request) (token string, found bool, err error) {
	header := r.Header.Get("Authorization")
	r.Header.Del("Authorization")
	encoded, kept := takeBearers(r.Header)
	switch {
	case header != "":
		scheme, token, _ := strings.Cut(header, " ")
		token = strings.TrimSpace(token)
		if !strings.EqualFold(scheme, "Bearer") || token == "" {
			return "", false, unauthorized()
		}
		return token, true, nil
	case len(encoded) == 0 || !strings.EqualFold(r.Header.Get("Upgrade"), "websocket"):
		return "", false, nil
	case len(encoded) > 1 || kept == 0:
		// The server must choose one of the client's protocols, and a token is none.
		return "", false, unauthorized()
	}
	text, err := base64.RawURLEncoding.DecodeString(encoded[0])
	if err != nil || !utf8.Valid(text) || len(text) == 0 {
		return "", false, unauthorized()
	}
	return string(text), true, nil
}

// takeBearers takes the tokens out of the subprotocols that a client offers and counts those
// that are kept.
func takeBearers(header http.Header) (encoded []string, kept int) {
	var protocols []string
	for _, line := range header.Values("Sec-WebSocket-Protocol") {
		for protocol := range strings.SplitSeq(line, ",") {
			protocol = strings.TrimSpace(protocol)
			if token, bearer := strings.CutPrefix(protocol, bearerProtocol); bearer {
				encoded = append(encoded, token)
			} else {
				protocols = append(protocols, protocol)
			}
		}
	}
	switch {
	case len(encoded) == 0: // the header stays as it is
	case len(protocols) == 0:
		header.Del("Sec-WebSocket-Protocol")
	default:
		header.Set("Sec-WebSocket-Protocol", strings.Join(protocols, ", "))
	}
	return encoded, len(protocols)
}

// authorize asks whether a caller may do something.
func (s *Server) authorize(ctx context.Context, caller registry.Caller, attr authz.Attributes) error {
	attr.User, attr.Groups = caller.User, caller.Groups
	return hideFromStrangers(caller, s.cfg.Authorizer.Authorize(ctx, attr))
}

// hideFromStrangers tells who has not said who it is to do so, and nothing else.
func hideFromStrangers(caller registry.Caller, err error) error {
	if caller.User == authn.UserAnonymous && apierrors.IsForbidden(err) {
		return unauthorized()
	}
	return err
}

// actingKey finds in the context of a request whether its caller may still act as another.
type actingKey struct{}

// impersonate replaces the caller by the one it wants to act as, if it may. Ignoring
// the headers would do with the caller's own rights what was asked with another's.
func (s *Server) impersonate(r *http.Request, caller registry.Caller) (registry.Caller, *http.Request, error) {
	wanted, asked, err := impersonation.Take(r.Header)
	if err != nil || !asked {
		return caller, r, err
	}
	as := func(ctx context.Context) (authn.User, error) {
		return impersonation.As(wanted, func(attr authz.Attributes) error { return s.authorize(ctx, caller, attr) })
	}
	user, err := as(r.Context())
	if err != nil {
		return caller, r, err
	}
	if !authz.Lasting(caller.Groups) {
		r = r.WithContext(context.WithValue(r.Context(), actingKey{}, as))
	}
	s.cfg.Log.Info("impersonated", logUser(caller.User), logImpersonated(user.Name), logRequest(caller.RequestID))
	acting := caller
	acting.User, acting.UID, acting.Groups, acting.Extra, acting.Epoch = user.Name, user.UID, user.Groups, user.Extra, 0
	return acting, r, nil
}

func unauthorized() error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnauthorized,
		Reason: metav1.StatusReasonUnauthorized, Message: "Unauthorized",
	}}
}
