// Package pkitest makes certificates for tests.
package pkitest

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/pki"
)

// NewCA makes a CA for one test.
func NewCA(t testing.TB) *pki.CA {
	t.Helper()
	ca, err := pki.NewCA("test-ca", time.Hour)
	if err != nil {
		t.Fatalf("make CA: %v", err)
	}
	return ca
}

// Identity makes the identity of a component on a machine, signed by ca and valid for an hour.
func Identity(t testing.TB, ca *pki.CA, component, machine string) *pki.Identity {
	t.Helper()
	req := pki.Subject(component, machine)
	req.Life = time.Hour
	certPEM, keyPEM, err := ca.Issue(req)
	if err != nil {
		t.Fatalf("issue certificate: %v", err)
	}
	id, err := pki.NewIdentity(certPEM, keyPEM, ca.CertificatePEM())
	if err != nil {
		t.Fatalf("make identity: %v", err)
	}
	return id
}

// Files writes a certificate of req into a directory of the test.
func Files(t testing.TB, ca *pki.CA, req pki.LeafRequest) configv1.Identity {
	t.Helper()
	certPEM, keyPEM, err := ca.Issue(req)
	if err != nil {
		t.Fatalf("issue certificate: %v", err)
	}
	dir := t.TempDir()
	files := configv1.Identity{
		CertFile: filepath.Join(dir, "leaf.crt"), KeyFile: filepath.Join(dir, "leaf.key"), CAFile: filepath.Join(dir, "ca.crt"),
	}
	for name, content := range map[string][]byte{
		files.CertFile: certPEM, files.KeyFile: keyPEM, files.CAFile: ca.CertificatePEM(),
	} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatalf("write identity: %v", err)
		}
	}
	return files
}
