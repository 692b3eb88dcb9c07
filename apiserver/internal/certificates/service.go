package certificates

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/types/known/timestamppb"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/clock"

	"kijabi.dev/platform/logging"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
	certificatev1pb "kijabi.dev/proto/gen/kijabi/certificate/v1"
)

const (
	masterTokenLife = time.Hour
	nodeTokenLife   = 24 * time.Hour
	maxTokenLife    = 30 * 24 * time.Hour
	// keepExpired is how long an expired token is remembered, to tell its holder that
	// it expired rather than that it is unknown.
	keepExpired = 24 * time.Hour
)

// Authority holds the CA that certificates are signed by.
type Authority interface {
	// CA signs.
	CA() *pki.CA
	// Bundle is the PEM of all CAs that the cluster trusts, the signing one first.
	Bundle() []byte
}

// Machines knows which machines exist.
type Machines interface {
	// IsMaster reports whether name is a master on the roster.
	IsMaster(ctx context.Context, name string) (bool, error)
}

// Config of a Service.
type Config struct {
	// Tokens keeps join tokens. Required.
	Tokens TokenStore
	// Authority signs. Required.
	Authority Authority
	// Machines is asked before a certificate is issued. Required.
	Machines Machines
	// Renewable may refuse the renewal for an identity, such as a removed master's. Optional.
	Renewable func(ctx context.Context, identity rpc.Caller) error
	// Clock tells when tokens and certificates end. Required.
	Clock clock.PassiveClock
	// Log of what was issued to whom. Required.
	Log *zap.Logger
	// LeafLife of the certificates; zero means 24 h.
	LeafLife time.Duration
}

// Service serves CertificateService.
type Service struct {
	certificatev1pb.UnsafeCertificateServiceServer // a new RPC must not compile without a handler

	cfg      Config
	failures *limiter
}

var _ certificatev1pb.CertificateServiceServer = (*Service)(nil)

// New returns the service.
func New(cfg Config) (*Service, error) {
	if cfg.Tokens == nil || cfg.Authority == nil || cfg.Machines == nil || cfg.Clock == nil || cfg.Log == nil {
		return nil, errors.New("certificates: tokens, authority, machines, clock and log are required")
	}
	return &Service{cfg: cfg, failures: newLimiter(cfg.Clock)}, nil
}

// CreateToken makes a join token.
func (s *Service) CreateToken(ctx context.Context, req *certificatev1pb.CreateTokenRequest) (*certificatev1pb.CreateTokenResponse, error) {
	record, err := newRecord(req, s.cfg.Clock.Now())
	if err != nil {
		return nil, err
	}
	token := pki.NewJoinToken(record.Master, pki.Pin(s.cfg.Authority.Bundle()))
	caller, _ := rpc.CallerFrom(ctx)
	record.ID, record.SecretHash, record.CreatedBy = token.ID, token.SecretHash(), caller.Name
	if err := s.cfg.Tokens.Create(ctx, record); err != nil {
		return nil, fmt.Errorf("keep join token %s: %w", token.ID, err)
	}
	s.forgetOld(ctx)
	s.cfg.Log.Info("join token made", zap.Stringer("token", token), zap.Bool("master", record.Master),
		zap.Time("expires", record.Expires), logging.User(caller.Name))
	return &certificatev1pb.CreateTokenResponse{Token: token.Text(), Expires: timestamppb.New(record.Expires)}, nil
}

func newRecord(req *certificatev1pb.CreateTokenRequest, now time.Time) (Record, error) {
	record := Record{UsesLeft: req.GetUses(), Issued: map[string]string{}}
	life := nodeTokenLife
	switch req.GetRole() {
	case certificatev1pb.TokenRole_TOKEN_ROLE_MASTER:
		record.Master, life = true, masterTokenLife
		record.UsesLeft = cmp.Or(record.UsesLeft, 1)
	case certificatev1pb.TokenRole_TOKEN_ROLE_NODE:
		record.UsesLeft = cmp.Or(record.UsesLeft, Unlimited)
	default:
		return Record{}, apierrors.NewBadRequest("a join token needs the role master or node")
	}
	if req.GetUses() < 0 {
		return Record{}, apierrors.NewBadRequest("a join token cannot have fewer than 0 uses; 0 means the role's default")
	}
	if req.GetTtl() != nil {
		life = req.GetTtl().AsDuration()
	}
	if life <= 0 || life > maxTokenLife {
		return Record{}, apierrors.NewBadRequest(fmt.Sprintf(
			"a join token cannot live %s; give it more than nothing and at most %s", life, maxTokenLife))
	}
	record.Expires = now.Add(life).UTC().Truncate(time.Second)
	return record, nil
}

// ListTokens lists the tokens that can still be used.
func (s *Service) ListTokens(ctx context.Context, _ *certificatev1pb.ListTokensRequest) (*certificatev1pb.ListTokensResponse, error) {
	records, err := s.cfg.Tokens.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list join tokens: %w", err)
	}
	slices.SortFunc(records, func(a, b Record) int { return cmp.Compare(a.ID, b.ID) })
	res := &certificatev1pb.ListTokensResponse{}
	for _, record := range records {
		if record.UsesLeft == 0 || !record.Expires.After(s.cfg.Clock.Now()) {
			continue
		}
		role := certificatev1pb.TokenRole_TOKEN_ROLE_NODE
		if record.Master {
			role = certificatev1pb.TokenRole_TOKEN_ROLE_MASTER
		}
		res.Tokens = append(res.Tokens, &certificatev1pb.Token{
			Id: record.ID, Role: role, Expires: timestamppb.New(record.Expires), UsesLeft: record.UsesLeft,
		})
	}
	return res, nil
}

// RevokeToken ends a token.
func (s *Service) RevokeToken(ctx context.Context, req *certificatev1pb.RevokeTokenRequest) (*certificatev1pb.RevokeTokenResponse, error) {
	if req.GetId() == "" {
		return nil, apierrors.NewBadRequest("which join token? Give its id; 'kijabi token list' shows them")
	}
	if err := s.cfg.Tokens.Delete(ctx, req.GetId()); err != nil {
		return nil, fmt.Errorf("revoke join token %s: %w", req.GetId(), err)
	}
	caller, _ := rpc.CallerFrom(ctx)
	s.cfg.Log.Info("join token revoked", zap.String("id", req.GetId()), logging.User(caller.Name))
	return &certificatev1pb.RevokeTokenResponse{}, nil
}

// forgetOld removes tokens that expired long ago. Making a token is rare and the
// only way that their number grows.
func (s *Service) forgetOld(ctx context.Context) {
	records, err := s.cfg.Tokens.List(ctx)
	for _, record := range records {
		if s.cfg.Clock.Since(record.Expires) > keepExpired {
			err = errors.Join(err, s.cfg.Tokens.Delete(ctx, record.ID))
		}
	}
	if err != nil {
		s.cfg.Log.Warn("old join tokens not removed", zap.Error(err))
	}
}

// peerHost is the address failures are counted by.
func peerHost(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok || p.Addr == nil {
		return ""
	}
	host, _, err := net.SplitHostPort(p.Addr.String())
	if err != nil {
		return p.Addr.String()
	}
	return host
}
