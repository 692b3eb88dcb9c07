package etcd

import (
	"context"
	"net"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"kijabi.dev/platform/pki"
)

const (
	// keepaliveTime is the least that gRPC's client allows. What is sent meanwhile must be
	// acknowledged within keepaliveTimeout, too, and each member is asked something every few
	// seconds: that is how soon one that vanished is left.
	keepaliveTime    = 10 * time.Second
	keepaliveTimeout = 2 * time.Second
	connectTimeout   = 2 * time.Second
)

// connectParams reconnect soon: an etcd that is back must not be waited for.
func connectParams() grpc.ConnectParams {
	return grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.3, MaxDelay: time.Second},
		MinConnectTimeout: connectTimeout,
	}
}

// withLeader has a member refuse at once what it could not do for lack of a leader: another
// one, not cut off from the majority, may.
func withLeader(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
}

// leaderUnary asks the other members when one has no leader, for writes as well: that one has
// proposed nothing.
func leaderUnary(members int) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		ctx = withLeader(ctx)
		var err error
		for range members {
			err = invoke(ctx, method, req, reply, conn, opts...)
			if err == nil || rpctypes.ErrorDesc(err) != rpctypes.ErrorDesc(rpctypes.ErrGRPCNoLeader) {
				return err
			}
		}
		return err
	}
}

func leaderStream(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return open(withLeader(ctx), desc, conn, method, opts...)
}

// named are the TLS credentials of an identity towards servers that prove the name, or IP, they
// were dialed by. They follow the identity's renewals.
type named struct {
	credentials.TransportCredentials

	id *pki.Identity
}

func newCredentials(id *pki.Identity) credentials.TransportCredentials {
	return named{TransportCredentials: credentials.NewTLS(id.ClientTLS("")), id: id}
}

// ClientHandshake connects.
func (n named) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	host, _, err := net.SplitHostPort(authority)
	if err != nil {
		host = authority
	}
	return credentials.NewTLS(n.id.ClientTLS(strings.Trim(host, "[]"))).ClientHandshake(ctx, authority, raw)
}

// Clone copies the credentials, as gRPC does per connection.
func (n named) Clone() credentials.TransportCredentials {
	return named{TransportCredentials: n.TransportCredentials.Clone(), id: n.id}
}
