package rpcapi

import (
	"context"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/apiserver/internal/authn"
	"kijabi.dev/platform/rpc"
	objectv1pb "kijabi.dev/proto/gen/kijabi/object/v1"
)

var objectMethods = "/" + objectv1pb.ObjectService_ServiceDesc.ServiceName + "/"

// Authenticate finds out who calls with a token of a service account instead of a
// certificate. Tokens are in the hands of pods, which have no business with the masters
// themselves: they open the ObjectService and reflection, nothing else.
func Authenticate(tokens *authn.Tokens) rpc.AuthenticateFunc {
	return func(ctx context.Context) (rpc.Caller, bool, error) {
		if method, _ := grpc.Method(ctx); !strings.HasPrefix(method, objectMethods) && !strings.HasPrefix(method, "/grpc.reflection.") {
			return rpc.Caller{}, false, nil
		}
		values := metadata.ValueFromIncomingContext(ctx, "authorization")
		if len(values) == 0 {
			return rpc.Caller{}, false, nil
		}
		scheme, token, _ := strings.Cut(values[0], " ")
		if !strings.EqualFold(scheme, "Bearer") || len(values) > 1 {
			return rpc.Caller{}, false, apierrors.NewUnauthorized("Unauthorized")
		}
		user, _, err := tokens.Authenticate(ctx, strings.TrimSpace(token), nil)
		if err != nil {
			return rpc.Caller{}, false, apierrors.NewUnauthorized("Unauthorized")
		}
		return rpc.Caller{Name: user.Name, UID: user.UID, Groups: user.Groups, Extra: user.Extra}, true, nil
	}
}
