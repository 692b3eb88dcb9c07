package certificates

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"fmt"
	"time"

	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/platform/logging"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
	certificatev1pb "kijabi.dev/proto/gen/kijabi/certificate/v1"
)

// renewAfterExpiry is how long an expired certificate can still be renewed: a
// machine may have been off.
const renewAfterExpiry = 30 * 24 * time.Hour

// Renew replaces a certificate by a fresh one of the same identity and key.
func (s *Service) Renew(ctx context.Context, req *certificatev1pb.RenewRequest) (*certificatev1pb.RenewResponse, error) {
	old, err := pki.ParseCertificate(req.GetCertificate())
	if err != nil {
		return nil, apierrors.NewBadRequest("certificate to renew: " + err.Error())
	}
	csr, err := pki.ParseCSR(req.GetCertificateRequest())
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if err := s.checkOld(old); err != nil {
		return nil, err
	}
	if public, ok := old.PublicKey.(*ecdsa.PublicKey); !ok || !public.Equal(csr.PublicKey) {
		return nil, refuse("the certificate request is of another key than the certificate; renew with the key the certificate was issued for")
	}
	identity := rpc.CallerOf(old)
	if len(identity.Roles) == 0 {
		// Such a one was signed for a CertificateSigningRequest, for as long as was approved.
		return nil, refuse("the certificate of %q belongs to no program of the cluster; ask for another with a CertificateSigningRequest", identity.Name)
	}
	if s.cfg.Renewable != nil {
		if err := s.cfg.Renewable(ctx, identity); err != nil {
			return nil, err
		}
	}
	leaf := pki.Successor(old)
	leaf.Life = s.cfg.LeafLife
	certPEM, err := s.cfg.Authority.CA().SignCSR(req.GetCertificateRequest(), leaf)
	if err != nil {
		return nil, fmt.Errorf("renew certificate of %s: %w", identity.Name, err)
	}
	s.cfg.Log.Debug("certificate renewed", logging.User(identity.Name), logging.Node(identity.Machine), zap.Time("old_end", old.NotAfter))
	return &certificatev1pb.RenewResponse{Certificate: certPEM, CaBundle: s.cfg.Authority.Bundle()}, nil
}

// checkOld verifies that the certificate is one of the cluster's, as of a time when
// it was valid, and that it has not been over for too long.
func (s *Service) checkOld(old *x509.Certificate) error {
	if old.IsCA {
		return refuse("a CA's certificate is not renewed here")
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.cfg.Authority.Bundle())
	now := s.cfg.Clock.Now()
	at := now
	if at.After(old.NotAfter) {
		at = old.NotAfter
	}
	if _, err := old.Verify(x509.VerifyOptions{
		Roots: roots, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}); err != nil {
		return refuse("the certificate of %q is not one of this cluster: %v", old.Subject.CommonName, err)
	}
	if over := now.Sub(old.NotAfter); over > renewAfterExpiry {
		return refuse("the certificate of %q ended %s ago, too long to renew it; join the machine again with a new token from 'kijabi token create'",
			old.Subject.CommonName, humanize(over))
	}
	return nil
}
