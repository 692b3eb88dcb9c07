package pki

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	configv1 "kijabi.dev/platform/config/v1"
)

// reloadMost is the longest time between two looks of Run at the files; leaves of a short
// life are looked at more often, down to reloadLeast. A comparison of three small files costs
// less than a watch would need code.
const (
	reloadMost  = 10 * time.Second
	reloadLeast = 100 * time.Millisecond
)

// Identity is a leaf certificate with its key and the pool of CAs that peers are
// checked against, read from files and read again when they change. The TLS
// configurations it hands out follow every change for new handshakes. All methods
// may be called from several goroutines.
type Identity struct {
	files configv1.Identity

	mu      sync.RWMutex
	current *material
	changed chan struct{}
	watches map[*func()]struct{}
}

// material is one consistent content of the files; never modified.
type material struct {
	certPEM, keyPEM, caPEM []byte

	certificate tls.Certificate
	roots       *x509.CertPool
}

// OpenIdentity reads the files.
func OpenIdentity(cfg configv1.Identity) (*Identity, error) {
	loaded, err := readMaterial(cfg, nil)
	if err != nil {
		return nil, err
	}
	return &Identity{files: cfg, current: loaded, changed: make(chan struct{})}, nil
}

// NewIdentity makes an identity from PEM content that stays as it is.
func NewIdentity(certPEM, keyPEM, caPEM []byte) (*Identity, error) {
	made, err := newMaterial(certPEM, keyPEM, caPEM)
	if err != nil {
		return nil, err
	}
	return &Identity{current: made, changed: make(chan struct{})}, nil
}

// readMaterial reads the files. It returns known if they hold the same, which spares
// parsing them: keys are checked against certificates, at some cost for an idle process.
func readMaterial(files configv1.Identity, known *material) (*material, error) {
	var contents [3][]byte
	for i, name := range []string{files.CertFile, files.KeyFile, files.CAFile} {
		content, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("open identity: %w", err)
		}
		contents[i] = content
	}
	if known != nil && known.holds(contents[0], contents[1], contents[2]) {
		return known, nil
	}
	loaded, err := newMaterial(contents[0], contents[1], contents[2])
	if err != nil {
		return nil, fmt.Errorf("open identity %s: %w", files.CertFile, err)
	}
	return loaded, nil
}

func newMaterial(certPEM, keyPEM, caPEM []byte) (*material, error) {
	certificate, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, err
	}
	authorities, err := ParseCertificates(caPEM)
	if err != nil {
		return nil, fmt.Errorf("CA bundle: %w", err)
	}
	roots := x509.NewCertPool()
	for _, authority := range authorities {
		roots.AddCert(authority)
	}
	return &material{certPEM: certPEM, keyPEM: keyPEM, caPEM: caPEM, certificate: certificate, roots: roots}, nil
}

// Expired reports whether the current certificate is over. It is not presented
// then: a server would refuse the connection, and over an anonymous one the
// certificate can still be renewed.
func (id *Identity) Expired() bool { return time.Now().After(id.Leaf().NotAfter) }

// Files names where the identity was read from; zero for NewIdentity.
func (id *Identity) Files() configv1.Identity { return id.files }

// Leaf is the current certificate. Read only.
func (id *Identity) Leaf() *x509.Certificate { return id.load().certificate.Leaf }

// CABundle is the current PEM bundle of CAs. Read only.
func (id *Identity) CABundle() []byte { return id.load().caPEM }

// Changed returns a channel that is closed at the next change.
func (id *Identity) Changed() <-chan struct{} {
	id.mu.RLock()
	defer id.mu.RUnlock()
	return id.changed
}

func (id *Identity) load() *material {
	id.mu.RLock()
	defer id.mu.RUnlock()
	return id.current
}

// OnChange has f called at every change, from the goroutine that noticed it, until
// stop is called. F must not block, nor call OnChange or stop.
func (id *Identity) OnChange(f func()) (stop func()) {
	id.mu.Lock()
	defer id.mu.Unlock()
	if id.watches == nil {
		id.watches = map[*func()]struct{}{}
	}
	id.watches[&f] = struct{}{}
	return func() {
		id.mu.Lock()
		defer id.mu.Unlock()
		delete(id.watches, &f)
	}
}

// Run reloads the files whenever they change, until ctx ends. Files that do not
// fit each other, as between two writes of a renewal, leave the old content in use.
func (id *Identity) Run(ctx context.Context) error {
	if id.files == (configv1.Identity{}) {
		<-ctx.Done()
		return nil
	}
	for {
		leaf := id.Leaf()
		wait := min(max(leaf.NotAfter.Sub(leaf.NotBefore)/500, reloadLeast), reloadMost)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
			_ = id.Reload() // the old content serves until the next look
		}
	}
}

// Reload reads the files now. On an error the old content stays in use.
func (id *Identity) Reload() error {
	loaded, err := readMaterial(id.files, id.load())
	if err != nil {
		return err
	}
	id.mu.Lock()
	defer id.mu.Unlock()
	if id.current.holds(loaded.certPEM, loaded.keyPEM, loaded.caPEM) {
		return nil
	}
	id.current = loaded
	close(id.changed)
	id.changed = make(chan struct{})
	for f := range id.watches {
		(*f)()
	}
	return nil
}

func (m *material) holds(certPEM, keyPEM, caPEM []byte) bool {
	return bytes.Equal(m.certPEM, certPEM) && bytes.Equal(m.keyPEM, keyPEM) && bytes.Equal(m.caPEM, caPEM)
}

// ClientTLS returns a configuration that presents the certificate, unless it has
// expired, and accepts a
// server whose certificate is signed by one of the CAs and carries serverName. With
// an empty serverName the name comes from whoever dials.
func (id *Identity) ClientTLS(serverName string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ServerName: serverName,
		NextProtos: []string{"h2", "http/1.1"},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if id.Expired() {
				return &tls.Certificate{}, nil
			}
			return &id.load().certificate, nil
		},
		// The standard check takes one fixed pool; VerifyConnection does the same
		// check with the current one.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			name := serverName
			if name == "" {
				name = state.ServerName
			}
			return verifyServer(id.load().roots, state, name)
		},
	}
}

func verifyServer(roots *x509.CertPool, state tls.ConnectionState, name string) error {
	if name == "" {
		return errors.New("no server name to verify; dial with one")
	}
	if len(state.PeerCertificates) == 0 {
		return errors.New("the server presented no certificate")
	}
	intermediates := x509.NewCertPool()
	for _, cert := range state.PeerCertificates[1:] {
		intermediates.AddCert(cert)
	}
	_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{
		DNSName: name, Roots: roots, Intermediates: intermediates,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	return err
}

// ServerTLS returns a configuration that presents the certificate and treats
// clients' certificates as auth says.
func (id *Identity) ServerTLS(auth tls.ClientAuthType) *tls.Config {
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2", "http/1.1"},
		ClientAuth: auth,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return &id.load().certificate, nil
		},
		// A resumed session would outlive a change of the CAs.
		SessionTicketsDisabled: true,
	}
	cfg.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		current := cfg.Clone()
		current.GetConfigForClient = nil
		current.ClientCAs = id.load().roots
		return current, nil
	}
	return cfg
}
