package pki

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"time"

	"kijabi.dev/platform/atomicfile"
)

// CA signs certificates. Its methods may be called from several goroutines.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// NewCA makes a self-signed CA with an ECDSA P-256 key. A life of zero means CALife.
func NewCA(commonName string, life time.Duration) (*CA, error) {
	if life <= 0 {
		life = CALife
	}
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: commonName},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(life),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make CA %s: %w", commonName, err)
	}
	return newCA(EncodeCertificate(der), key)
}

// LoadCA reads a CA from its PEM files.
func LoadCA(certFile, keyFile string) (*CA, error) {
	certPEM, err := os.ReadFile(certFile)
	if err != nil {
		return nil, fmt.Errorf("load CA: %w", err)
	}
	keyPEM, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("load CA: %w", err)
	}
	ca, err := ParseCA(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("load CA from %s and %s: %w", certFile, keyFile, err)
	}
	return ca, nil
}

// ParseCA is LoadCA for content already read.
func ParseCA(certPEM, keyPEM []byte) (*CA, error) {
	key, err := ParseKey(keyPEM)
	if err != nil {
		return nil, err
	}
	return newCA(certPEM, key)
}

func newCA(certPEM []byte, key *ecdsa.PrivateKey) (*CA, error) {
	cert, err := ParseCertificate(certPEM)
	if err != nil {
		return nil, err
	}
	if !cert.IsCA {
		return nil, fmt.Errorf("certificate %q is not a CA", cert.Subject.CommonName)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("the key does not belong to certificate %q", cert.Subject.CommonName)
	}
	return &CA{cert: cert, key: key, pem: certPEM}, nil
}

// Certificate is the CA's certificate. Read only.
func (ca *CA) Certificate() *x509.Certificate { return ca.cert }

// CertificatePEM is the CA's certificate in PEM. Read only.
func (ca *CA) CertificatePEM() []byte { return ca.pem }

// KeyPEM is the CA's private key in PEM.
func (ca *CA) KeyPEM() ([]byte, error) { return EncodeKey(ca.key) }

// Save writes <base>.crt and <base>.key below dir, the key with mode 0600.
func (ca *CA) Save(dir, base string) error {
	keyPEM, err := ca.KeyPEM()
	if err != nil {
		return fmt.Errorf("save CA %s: %w", base, err)
	}
	if err := atomicfile.Write(filepath.Join(dir, base+".key"), keyPEM, 0o600); err != nil {
		return fmt.Errorf("save CA %s: %w", base, err)
	}
	if err := atomicfile.Write(filepath.Join(dir, base+".crt"), ca.pem, 0o644); err != nil {
		return fmt.Errorf("save CA %s: %w", base, err)
	}
	return nil
}

// Issue makes a key and signs a certificate for it.
func (ca *CA) Issue(req LeafRequest) (certPEM, keyPEM []byte, err error) {
	key, err := NewKey()
	if err != nil {
		return nil, nil, err
	}
	if certPEM, err = ca.sign(key.Public(), req); err != nil {
		return nil, nil, err
	}
	if keyPEM, err = EncodeKey(key); err != nil {
		return nil, nil, err
	}
	return certPEM, keyPEM, nil
}

// SignCSR signs the public key of a PEM certificate request, after checking that
// its sender holds the private one. Everything else in the request is ignored: req
// alone decides the certificate's content.
func (ca *CA) SignCSR(csrPEM []byte, req LeafRequest) (certPEM []byte, err error) {
	csr, err := ParseCSR(csrPEM)
	if err != nil {
		return nil, err
	}
	return ca.sign(csr.PublicKey, req)
}

func (ca *CA) sign(public any, req LeafRequest) ([]byte, error) {
	if req.CommonName == "" {
		return nil, errors.New("sign certificate: the common name is empty")
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	template := ca.template(req, serial, time.Now())
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, public, ca.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", req.CommonName, err)
	}
	chain := EncodeCertificate(der)
	if slices.Contains(req.DNSNames, APIServerName) {
		// A joining machine knows the pin of the CA only and must be shown the CA.
		chain = append(chain, ca.pem...)
	}
	return chain, nil
}

func (ca *CA) template(req LeafRequest, serial *big.Int, now time.Time) *x509.Certificate {
	life := req.Life
	if life <= 0 {
		life = LeafLife
	}
	notAfter := now.Add(life)
	if notAfter.After(ca.cert.NotAfter) {
		notAfter = ca.cert.NotAfter
	}
	var usage []x509.ExtKeyUsage
	if req.Server {
		usage = append(usage, x509.ExtKeyUsageServerAuth)
	}
	if req.Client {
		usage = append(usage, x509.ExtKeyUsageClientAuth)
	}
	keyUsage := x509.KeyUsageDigitalSignature
	if req.KeyEncipherment {
		keyUsage |= x509.KeyUsageKeyEncipherment
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: req.CommonName, Organization: req.Organizations},
		DNSNames:     req.DNSNames, IPAddresses: req.IPs,
		NotBefore: now.Add(-backdate), NotAfter: notAfter,
		KeyUsage: keyUsage, ExtKeyUsage: usage, BasicConstraintsValid: true,
	}
}

// serialNumber is 127 random bits, as public CAs do.
func serialNumber() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make serial number: %w", err)
	}
	return n.Add(n, big.NewInt(1)), nil
}

// Pin is the SHA-256 of the first certificate of a PEM bundle, in hexadecimal; a
// joining machine recognises the cluster's CA by it. Empty when there is no certificate.
func Pin(caPEM []byte) string {
	cert, err := ParseCertificate(caPEM)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}

// Successor is the request for a certificate of the same identity and length of
// life as old.
func Successor(old *x509.Certificate) LeafRequest {
	req := LeafRequest{
		CommonName: old.Subject.CommonName, Organizations: old.Subject.Organization,
		DNSNames: old.DNSNames, IPs: old.IPAddresses,
		Life: old.NotAfter.Sub(old.NotBefore) - backdate,
	}
	for _, usage := range old.ExtKeyUsage {
		req.Server = req.Server || usage == x509.ExtKeyUsageServerAuth
		req.Client = req.Client || usage == x509.ExtKeyUsageClientAuth
	}
	return req
}
