package rpcapi

import (
	"context"
	"net/url"
	"strings"

	"go.uber.org/zap"
	"google.golang.org/grpc/metadata"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/apiserver/internal/authn"
	"kijabi.dev/apiserver/internal/authz"
	"kijabi.dev/apiserver/internal/impersonation"
	"kijabi.dev/platform/logging"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
)

// Impersonate finds out whom a caller of the ObjectService wants to act as, if it may; it is
// a rpc.ServerConfig.Impersonate. Other services know roles of machines and programs, in which
// nobody acts for another.
func Impersonate(authorizer Authorizer, log *zap.Logger) rpc.ImpersonateFunc {
	return func(ctx context.Context, caller rpc.Caller, method string) (rpc.Caller, error) {
		if !strings.HasPrefix(method, objectMethods) {
			return caller, apierrors.NewBadRequest("only calls of the ObjectService can be made as another user")
		}
		wanted, asked, err := impersonation.Take(impersonationHeaders(ctx))
		if err != nil || !asked {
			return caller, err
		}
		user, err := impersonation.As(wanted, func(attr authz.Attributes) error {
			attr.User, attr.Groups = caller.Name, caller.Groups
			return authorizer.Authorize(ctx, attr)
		})
		if err != nil {
			return caller, err
		}
		log.Info("impersonated", logging.User(caller.Name), zap.String("impersonated", user.Name), logging.RequestID(caller.RequestID))
		return acting(caller, user), nil
	}
}

// acting is user, on whose behalf the caller makes its request.
func acting(caller rpc.Caller, user authn.User) rpc.Caller {
	return rpc.Caller{
		Name: user.Name, UID: user.UID, Groups: user.Groups, Extra: user.Extra, Roles: pki.Roles(user.Groups),
		UserAgent: caller.UserAgent, RequestID: caller.RequestID, Impersonator: &caller,
	}
}

// impersonationHeaders are the metadata about impersonation as HTTP has them: metadata
// holds no text but ASCII, so values are percent-encoded, and the names of extra fields are
// values, too, where they cannot be keys.
func impersonationHeaders(ctx context.Context) map[string][]string {
	md, _ := metadata.FromIncomingContext(ctx)
	headers := map[string][]string{}
	for key, values := range md {
		if !strings.HasPrefix(key, "impersonate-") {
			continue
		}
		for _, value := range values {
			header := key
			if key == rpc.MetadataImpersonateExtra {
				var name string
				name, value, _ = strings.Cut(value, "=")
				header = impersonation.ExtraPrefix + name
			}
			if plain, err := url.PathUnescape(value); err == nil {
				value = plain
			}
			headers[header] = append(headers[header], value)
		}
	}
	return headers
}
