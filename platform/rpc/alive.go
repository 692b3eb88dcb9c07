package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// WaitServing returns once the server listens, or with ctx's error.
func (s *Server) WaitServing(ctx context.Context) error {
	select {
	case <-s.serving:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Alive asks the server for its own health over a connection of its own, and returns nil
// for any answer: that it does not serve, because the masters are away, say, is one. An
// error means that it does not accept, does not finish a handshake or does not answer.
func (s *Server) Alive(ctx context.Context) error {
	address := s.Addr()
	if address == "" {
		return errors.New("the server does not listen")
	}
	// Whoever answers there is this process; and it must count as alive with a
	// certificate that has run out, too.
	proof := credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(proof), grpc.WithNoProxy())
	if err != nil {
		return fmt.Errorf("ask %s for its health: %w", address, err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{}); err != nil {
		return fmt.Errorf("ask %s for its health: %w", address, err)
	}
	return nil
}
