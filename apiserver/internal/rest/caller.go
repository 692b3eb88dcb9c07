package rest

import (
	"net/http"
	"strings"

	"github.com/google/uuid"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/apiserver/internal/registry"
)

const groupAuthenticated = "system:authenticated"

// authenticate names the caller by its certificate. The TLS layer has verified it
// against the cluster's authorities; without one the caller is nobody.
func authenticate(r *http.Request) (registry.Caller, bool) {
	// The request id is ours: a client's could repeat and would then name another write's outcome.
	caller := registry.Caller{UserAgent: r.UserAgent(), RequestID: uuid.NewString()}
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 || len(r.TLS.PeerCertificates) == 0 {
		return caller, false
	}
	subject := r.TLS.PeerCertificates[0].Subject
	if subject.CommonName == "" {
		return caller, false
	}
	caller.User = subject.CommonName
	caller.Groups = append(append([]string{}, subject.Organization...), groupAuthenticated)
	return caller, true
}

// impersonate replaces the caller by the one it wants to act as, if it may. Ignoring
// the headers would do with the caller's own rights what was asked with another's.
func (s *Server) impersonate(r *http.Request, caller registry.Caller) (registry.Caller, error) {
	user, groups := r.Header.Get("Impersonate-User"), r.Header.Values("Impersonate-Group")
	for name := range r.Header {
		if strings.HasPrefix(name, "Impersonate-Extra-") || name == "Impersonate-Uid" {
			return caller, apierrors.NewBadRequest("impersonating a uid or extra fields is not supported")
		}
	}
	if user == "" {
		if len(groups) > 0 {
			return caller, apierrors.NewBadRequest("requested to impersonate groups without impersonating a user")
		}
		return caller, nil
	}
	may := func(resource, name string) error {
		gvr := schema.GroupVersionResource{Version: "v1", Resource: resource}
		return s.cfg.Authorizer.Authorize(r.Context(), caller, "impersonate", gvr, "", "", name)
	}
	if err := may("users", user); err != nil {
		return caller, err
	}
	for _, group := range groups {
		if err := may("groups", group); err != nil {
			return caller, err
		}
	}
	s.cfg.Log.Info("impersonated", logUser(caller.User), logImpersonated(user), logRequest(caller.RequestID))
	acting := caller
	acting.User, acting.Groups, acting.Epoch = user, append(append([]string{}, groups...), groupAuthenticated), 0
	return acting, nil
}

// fieldManager is who owns the fields of a write that names nobody: the client program.
func fieldManager(r *http.Request, given string) string {
	if given != "" {
		return given
	}
	program, _, _ := strings.Cut(r.UserAgent(), "/")
	program = strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return -1
		}
		return c
	}, program)
	return program[:min(len(program), 128)]
}

func unauthorized() error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnauthorized,
		Reason: metav1.StatusReasonUnauthorized, Message: "Unauthorized",
	}}
}
