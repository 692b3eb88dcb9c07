package rpc

import (
	"context"
	"crypto/x509"
	"slices"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"kijabi.dev/platform/pki"
)

// Caller is who makes a request.
type Caller struct {
	// Name is the user's name; empty for an anonymous caller.
	Name string
	// UID of the user, when who authenticated it knows one.
	UID string
	// Groups of the user. Read only, as are Roles: calls of one connection share them.
	Groups []string
	// Extra is what else is known of the user, by key. Read only.
	Extra map[string][]string
	// Roles the groups give.
	Roles []string
	// Machine the caller runs on, when its certificate names one.
	Machine string
	// UserAgent is what the client calls itself; not to be trusted.
	UserAgent string
	// RequestID of the request, the same in all its retries; empty if the client sent none.
	RequestID string
	// Epoch under which the caller writes; 0 for callers that follow no leader.
	Epoch uint64
	// Forwarded is true when another apiserver passed the request on. The other
	// fields then describe the original caller.
	Forwarded bool
	// Impersonator is who makes the request as this caller; nil when the caller does itself.
	Impersonator *Caller
}

// groupAuthenticated holds every user who has proven who he is.
const groupAuthenticated = "system:authenticated"

// HasRole reports whether the caller holds one of the roles.
func (c Caller) HasRole(roles ...string) bool {
	return slices.ContainsFunc(roles, func(role string) bool { return slices.Contains(c.Roles, role) })
}

type callerKey struct{}

// CallerFrom returns the caller of the request that ctx belongs to; false outside
// of a request and for anonymous callers, whose UserAgent and RequestID are still set.
func CallerFrom(ctx context.Context) (Caller, bool) {
	caller, _ := ctx.Value(callerKey{}).(Caller)
	return caller, caller.Name != ""
}

// WithCaller returns a context as a handler sees it in a request of caller; for
// doors other than gRPC, and for tests.
func WithCaller(ctx context.Context, caller Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, caller)
}

// CallerOf returns the caller that a verified client certificate stands for.
func CallerOf(cert *x509.Certificate) Caller {
	groups := slices.Clip(append(slices.Clone(cert.Subject.Organization), groupAuthenticated)) // an append by one call must not reach another's
	return Caller{
		Name: cert.Subject.CommonName, Groups: groups,
		Roles: slices.Clip(pki.Roles(groups)), Machine: pki.Machine(cert.DNSNames),
	}
}

// peerCaller is the caller of the transport's verified certificate, if any.
func peerCaller(ctx context.Context) (Caller, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return Caller{}, false
	}
	info, _ := p.AuthInfo.(peerInfo)
	return info.caller, info.caller.Name != ""
}

// identify finds out who calls. The transport caller is who holds the connection;
// it differs from the caller for a forwarded request.
func identify(ctx context.Context, cfg *ServerConfig) (caller, transport Caller, err error) {
	transport, known := peerCaller(ctx)
	if cfg.Trust != nil {
		transport, known = *cfg.Trust, true
	}
	if !known && cfg.Authenticate != nil {
		if transport, known, err = cfg.Authenticate(ctx); err != nil {
			return Caller{}, Caller{}, err
		}
		if !known {
			transport = Caller{}
		}
	}
	transport.UserAgent = incoming(ctx, "user-agent")
	transport.RequestID = incoming(ctx, MetadataRequestID)
	transport.Epoch = parseEpoch(incoming(ctx, MetadataEpoch))
	if !transport.HasRole(pki.RoleAPIServer) {
		return transport, transport, nil
	}
	user := unescape(incoming(ctx, MetadataForwardedUser))
	if user == "" {
		return transport, transport, nil
	}
	groups := metadata.ValueFromIncomingContext(ctx, MetadataForwardedGroups) // a copy
	for i := range groups {
		groups[i] = unescape(groups[i])
	}
	return Caller{
		Name: user, UID: unescape(incoming(ctx, MetadataForwardedUID)), Groups: groups, Roles: pki.Roles(groups),
		Extra:     parseExtra(metadata.ValueFromIncomingContext(ctx, MetadataForwardedExtra)),
		UserAgent: unescape(incoming(ctx, MetadataForwardedUserAgent)),
		RequestID: incoming(ctx, MetadataForwardedRequestID),
		Epoch:     parseEpoch(incoming(ctx, MetadataForwardedEpoch)),
		Forwarded: true,
	}, transport, nil
}

// incoming is the first value of a key, without copying all the others.
func incoming(ctx context.Context, key string) string {
	if values := metadata.ValueFromIncomingContext(ctx, key); len(values) > 0 {
		return values[0]
	}
	return ""
}
