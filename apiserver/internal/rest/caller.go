package rest

import (
	"context"
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"
	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/apiserver/internal/authn"
	"kijabi.dev/apiserver/internal/authz"
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
	if authz.Lasting(caller.Groups) {
		return nil
	}
	return s.authorize(ctx, caller, attr)
}

func (c *identified) become(user authn.User) {
	c.User, c.UID, c.Groups, c.Extra = user.Name, user.UID, user.Groups, user.Extra
}

// bearerToken takes the token out of a request, so that nothing later sees it.
func bearerToken(r *http.Request) (token string, found bool, err error) {
	if header := r.Header.Get("Authorization"); header != "" {
		r.Header.Del("Authorization")
		scheme, token, _ := strings.Cut(header, " ")
		token = strings.TrimSpace(token)
		if !strings.EqualFold(scheme, "Bearer") || token == "" {
			return "", false, unauthorized()
		}
		return token, true, nil
	}
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return "", false, nil
	}
	var kept []string
	for _, line := range r.Header.Values("Sec-WebSocket-Protocol") {
		for _, protocol := range strings.Split(line, ",") {
			protocol = strings.TrimSpace(protocol)
			encoded, bearer := strings.CutPrefix(protocol, bearerProtocol)
			if !bearer {
				kept = append(kept, protocol)
				continue
			}
			text, err := base64.RawURLEncoding.DecodeString(encoded)
			if err != nil || found || !utf8.Valid(text) || len(text) == 0 {
				return "", false, unauthorized()
			}
			token, found = string(text), true
		}
	}
	if !found {
		return "", false, nil
	}
	if len(kept) == 0 {
		// The server must choose one of the client's protocols, and that one is no protocol.
		return "", false, unauthorized()
	}
	r.Header.Set("Sec-WebSocket-Protocol", strings.Join(kept, ", "))
	return token, true, nil
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

const (
	impersonateUser        = "Impersonate-User"
	impersonateUID         = "Impersonate-Uid"
	impersonateGroup       = "Impersonate-Group"
	impersonateExtraPrefix = "Impersonate-Extra-"
)

// impersonate replaces the caller by the one it wants to act as, if it may. Ignoring
// the headers would do with the caller's own rights what was asked with another's.
func (s *Server) impersonate(r *http.Request, caller registry.Caller) (registry.Caller, error) {
	wanted, asked, err := impersonated(r.Header)
	if err != nil || !asked {
		return caller, err
	}
	namespace, account, isAccount := splitServiceAccount(wanted.Name)
	check := func(group, resource, subresource, namespace, name string) error {
		return s.authorize(r.Context(), caller, authz.Attributes{
			Verb: "impersonate", Resource: schema.GroupResource{Group: group, Resource: resource},
			Subresource: subresource, Namespace: namespace, Name: name,
		})
	}
	if isAccount {
		err = check("", "serviceaccounts", "", namespace, account)
	} else {
		err = check("", "users", "", "", wanted.Name)
	}
	if err != nil {
		return caller, err
	}
	const group = "authentication.k8s.io"
	for _, name := range wanted.Groups {
		if err := check("", "groups", "", "", name); err != nil {
			return caller, err
		}
	}
	if wanted.UID != "" {
		if err := check(group, "uids", "", "", wanted.UID); err != nil {
			return caller, err
		}
	}
	for key, values := range wanted.Extra {
		for _, value := range values {
			if err := check(group, "userextras", key, "", value); err != nil {
				return caller, err
			}
		}
	}
	switch known := slices.Contains(wanted.Groups, authn.GroupAuthenticated) || slices.Contains(wanted.Groups, authn.GroupUnauthenticated); {
	case isAccount && len(wanted.Groups) == 0:
		wanted.Groups = authn.ServiceAccountGroups(namespace)
	case wanted.Name == authn.UserAnonymous && !known:
		wanted.Groups = append(wanted.Groups, authn.GroupUnauthenticated)
	case !known:
		wanted.Groups = append(wanted.Groups, authn.GroupAuthenticated)
	}
	s.cfg.Log.Info("impersonated", logUser(caller.User), logImpersonated(wanted.Name), logRequest(caller.RequestID))
	acting := caller
	acting.User, acting.UID, acting.Groups, acting.Extra, acting.Epoch = wanted.Name, wanted.UID, wanted.Groups, wanted.Extra, 0
	return acting, nil
}

// impersonated reads whom the headers name, and takes them off the request.
func impersonated(header http.Header) (user authn.User, asked bool, err error) {
	user = authn.User{Name: header.Get(impersonateUser), UID: header.Get(impersonateUID), Groups: slices.Clone(header.Values(impersonateGroup))}
	for name, values := range header {
		key, ok := strings.CutPrefix(name, impersonateExtraPrefix)
		if !ok {
			continue
		}
		key = strings.ToLower(key)
		if plain, err := url.PathUnescape(key); err == nil {
			key = plain
		}
		if user.Extra == nil {
			user.Extra = map[string][]string{}
		}
		user.Extra[key] = append(user.Extra[key], values...)
		delete(header, name)
	}
	header.Del(impersonateUser)
	header.Del(impersonateUID)
	header.Del(impersonateGroup)
	switch {
	case user.Name != "":
		return user, true, nil
	case user.UID != "" || len(user.Groups) > 0 || len(user.Extra) > 0:
		return user, false, apierrors.NewBadRequest("requested to impersonate groups, a uid or extra fields without impersonating a user")
	}
	return user, false, nil
}

// splitServiceAccount takes the user name of a service account apart.
func splitServiceAccount(user string) (namespace, name string, ok bool) {
	rest, ok := strings.CutPrefix(user, "system:serviceaccount:")
	if !ok {
		return "", "", false
	}
	namespace, name, ok = strings.Cut(rest, ":")
	return namespace, name, ok && namespace != "" && name != "" && !strings.Contains(name, ":")
}

func unauthorized() error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnauthorized,
		Reason: metav1.StatusReasonUnauthorized, Message: "Unauthorized",
	}}
}
