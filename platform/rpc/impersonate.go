package rpc

import (
	"context"
	"net/url"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Impersonation is whom a user wants to act as. It takes the right to impersonate every
// part of it.
type Impersonation struct {
	// User name. Required.
	User string
	// UID of the user. Optional.
	UID string
	// Groups that the user is in. Without any, a service account is in its own.
	Groups []string
	// Extra is what else is to be known of the user, by key.
	Extra map[string][]string
}

// ImpersonateFunc returns the caller as whom a call is made whose metadata name another, with
// the one who makes it as Impersonator; an error if it may not be made so. It is asked about such
// calls only, after the access rule has admitted who makes it.
type ImpersonateFunc = func(ctx context.Context, caller Caller, fullMethod string) (Caller, error)

// As returns a connection whose calls are made as another user. It is conn's: closing is up to
// who opened that.
func As(conn grpc.ClientConnInterface, user Impersonation) grpc.ClientConnInterface {
	return &actingConn{conn, user}
}

type actingConn struct {
	grpc.ClientConnInterface

	user Impersonation
}

func (c *actingConn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	return c.ClientConnInterface.Invoke(c.user.outgoing(ctx), method, args, reply, opts...)
}

func (c *actingConn) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return c.ClientConnInterface.NewStream(c.user.outgoing(ctx), desc, method, opts...)
}

// outgoing returns a context whose calls name the user.
func (i Impersonation) outgoing(ctx context.Context) context.Context {
	pairs := []string{MetadataImpersonateUser, url.PathEscape(i.User)}
	if i.UID != "" {
		pairs = append(pairs, MetadataImpersonateUID, url.PathEscape(i.UID))
	}
	for _, group := range i.Groups {
		pairs = append(pairs, MetadataImpersonateGroup, url.PathEscape(group))
	}
	for key, values := range i.Extra {
		for _, value := range values {
			key := strings.ReplaceAll(url.PathEscape(key), "=", "%3D")
			pairs = append(pairs, MetadataImpersonateExtra, key+"="+url.PathEscape(value))
		}
	}
	return metadata.AppendToOutgoingContext(ctx, pairs...)
}

// impersonates tells whether a call is to be made as another.
func impersonates(ctx context.Context) bool {
	for _, key := range []string{MetadataImpersonateUser, MetadataImpersonateGroup, MetadataImpersonateUID, MetadataImpersonateExtra} {
		if len(metadata.ValueFromIncomingContext(ctx, key)) > 0 {
			return true
		}
	}
	return false
}

// impersonate replaces the caller by the one it wants to act as. What everybody is told, such
// as whether a server is well, is told without asking who they would be.
func (s *Server) impersonate(ctx context.Context, caller Caller, method string) (Caller, error) {
	if !impersonates(ctx) || public(method) {
		return caller, nil
	}
	if s.cfg.Impersonate == nil {
		return caller, apierrors.NewBadRequest(method + " cannot be called as another user")
	}
	return s.cfg.Impersonate(ctx, caller, method)
}
