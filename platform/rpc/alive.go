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
// error means that it has not accepted, not finished a handshake or not answered by the
// time that ctx ends.
func (s *Server) Alive(ctx context.Context) error {
	conn, err := s.toSelf()
	if err != nil {
		return err
	}
	if _, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{}, grpc.WaitForReady(true)); err != nil {
		return fmt.Errorf("ask %s for its health: %w", s.Addr(), err)
	}
	return nil
}

// toSelf returns the connection to the server itself. It lives as long as the server,
// since a handshake for each question would cost more than all else that an idle
// program does.
func (s *Server) toSelf() (*grpc.ClientConn, error) {
	s.selfMu.Lock()
	defer s.selfMu.Unlock()
	address := s.Addr()
	if address == "" || s.stopping.Err() != nil {
		return nil, errors.New("the server does not listen")
	}
	if s.self != nil {
		return s.self, nil
	}
	// Whoever answers there is this process; and it must count as alive with a
	// certificate that has run out, too.
	proof := credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(proof), grpc.WithNoProxy())
	if err != nil {
		return nil, fmt.Errorf("connect %s to itself: %w", address, err)
	}
	s.self = conn
	return conn, nil
}

// closeSelf ends the connection of toSelf, which makes no new one once the server stops.
func (s *Server) closeSelf() {
	s.selfMu.Lock()
	defer s.selfMu.Unlock()
	if s.self != nil {
		_ = s.self.Close()
		s.self = nil
	}
}
