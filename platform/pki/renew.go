package pki

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"time"

	"go.uber.org/zap"

	"kijabi.dev/platform/atomicfile"
	configv1 "kijabi.dev/platform/config/v1"
	certificatev1pb "kijabi.dev/proto/gen/kijabi/certificate/v1"
)

const (
	// renewAt is the part of its life after which a certificate is renewed; up to
	// renewJitter less, so that machines that joined together do not renew together.
	renewAt     = 2.0 / 3
	renewJitter = 0.1
	// retryFirst and retryLast bound the pause between failed renewals.
	retryFirst = time.Second
	retryLast  = time.Minute
	// renewDeadline bounds one attempt.
	renewDeadline = 15 * time.Second
	// recheckEvery bounds how long RenewLoop sleeps, so that a certificate that
	// somebody else replaced or a clock that was set is noticed.
	recheckEvery = time.Minute
)

// Signer turns the old certificate and a request of the same key into a new
// certificate and the current bundle of CAs, all PEM.
type Signer func(ctx context.Context, certPEM, csrPEM []byte) (newCertPEM, caPEM []byte, err error)

// RenewLoop keeps the certificate in files fresh until ctx ends: at two thirds of
// its life, less some jitter, it asks client for a successor and replaces the
// files. The key stays. A failure is logged and tried again, ever slower up to a
// minute; the loop itself never fails.
func RenewLoop(ctx context.Context, files configv1.Identity, client certificatev1pb.CertificateServiceClient, log *zap.Logger) error {
	return RenewWith(ctx, files, func(ctx context.Context, certPEM, csrPEM []byte) ([]byte, []byte, error) {
		res, err := client.Renew(ctx, &certificatev1pb.RenewRequest{Certificate: certPEM, CertificateRequest: csrPEM})
		if err != nil {
			return nil, nil, err
		}
		return res.GetCertificate(), res.GetCaBundle(), nil
	}, log)
}

// SignWith returns a Signer that renews by ca itself, for programs that hold it.
// A life of zero keeps the life the old certificate had. Its addresses are those of the old and
// the given ones.
func SignWith(ca *CA, life time.Duration, addresses ...net.IP) Signer {
	return func(_ context.Context, certPEM, csrPEM []byte) ([]byte, []byte, error) {
		old, err := ParseCertificate(certPEM)
		if err != nil {
			return nil, nil, err
		}
		req := Successor(old)
		if life > 0 {
			req.Life = life
		}
		for _, address := range addresses {
			if !slices.ContainsFunc(req.IPs, address.Equal) {
				req.IPs = append(req.IPs, address)
			}
		}
		signed, err := ca.SignCSR(csrPEM, req)
		return signed, nil, err
	}
}

// RenewWith is RenewLoop with any signer.
func RenewWith(ctx context.Context, files configv1.Identity, sign Signer, log *zap.Logger) error {
	jitter := rand.Float64() * renewJitter
	retry := retryFirst
	for {
		wait, err := renewIfDue(ctx, files, sign, jitter, log)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			log.Warn("certificate not renewed", zap.String("file", files.CertFile), zap.Duration("retry", retry), zap.Error(err))
			wait, retry = retry, min(2*retry, retryLast)
		default:
			retry = retryFirst
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(min(wait, recheckEvery)):
		}
	}
}

// renewIfDue renews if the time has come and returns how long the certificate is
// good for.
func renewIfDue(ctx context.Context, files configv1.Identity, sign Signer, jitter float64, log *zap.Logger) (time.Duration, error) {
	due, err := dueAt(files.CertFile, jitter)
	if err != nil {
		return 0, err
	}
	if wait := time.Until(due); wait > 0 {
		return wait, nil
	}
	if err := RenewNow(ctx, files, sign); err != nil {
		return 0, err
	}
	log.Info("certificate renewed", zap.String("file", files.CertFile))
	if due, err = dueAt(files.CertFile, jitter); err != nil {
		return 0, err
	}
	return max(time.Until(due), retryFirst), nil
}

func dueAt(certFile string, jitter float64) (time.Time, error) {
	certPEM, err := os.ReadFile(certFile)
	if err != nil {
		return time.Time{}, err
	}
	cert, err := ParseCertificate(certPEM)
	if err != nil {
		return time.Time{}, fmt.Errorf("certificate %s: %w", certFile, err)
	}
	start := cert.NotBefore.Add(backdate)
	life := cert.NotAfter.Sub(start)
	return start.Add(time.Duration(float64(life) * (renewAt - jitter))), nil
}

// RenewNow replaces the certificate in files by a fresh one of the same identity
// and key, whether it is due or not, expired or not.
func RenewNow(ctx context.Context, files configv1.Identity, sign Signer) error {
	ctx, cancel := context.WithTimeout(ctx, renewDeadline)
	defer cancel()
	certPEM, err := os.ReadFile(files.CertFile)
	if err != nil {
		return fmt.Errorf("renew: %w", err)
	}
	keyPEM, err := os.ReadFile(files.KeyFile)
	if err != nil {
		return fmt.Errorf("renew: %w", err)
	}
	csrPEM, err := renewalRequest(certPEM, keyPEM)
	if err != nil {
		return fmt.Errorf("renew %s: %w", files.CertFile, err)
	}
	newCertPEM, caPEM, err := sign(ctx, certPEM, csrPEM)
	if err != nil {
		return fmt.Errorf("renew %s: %w", files.CertFile, err)
	}
	if _, err := tls.X509KeyPair(newCertPEM, keyPEM); err != nil {
		return fmt.Errorf("renew %s: the new certificate does not fit: %w", files.CertFile, err)
	}
	// CAs first: a peer may already use a certificate of a new one.
	if len(caPEM) > 0 {
		if _, err := ParseCertificates(caPEM); err != nil {
			return fmt.Errorf("renew %s: new CA bundle: %w", files.CertFile, err)
		}
		// Mostly they are what they were, and the programs of a machine share the file.
		if known, err := os.ReadFile(files.CAFile); err != nil || !bytes.Equal(known, caPEM) {
			if err := atomicfile.Write(files.CAFile, caPEM, 0o644); err != nil {
				return err
			}
		}
	}
	return atomicfile.Write(files.CertFile, newCertPEM, 0o644)
}

func renewalRequest(certPEM, keyPEM []byte) ([]byte, error) {
	cert, err := ParseCertificate(certPEM)
	if err != nil {
		return nil, err
	}
	key, err := ParseKey(keyPEM)
	if err != nil {
		return nil, err
	}
	if public, ok := cert.PublicKey.(*ecdsa.PublicKey); !ok || !public.Equal(key.Public()) {
		return nil, errors.New("the key does not belong to the certificate")
	}
	return NewCSR(key, cert.Subject.CommonName)
}
