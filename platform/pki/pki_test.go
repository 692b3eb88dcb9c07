package pki_test

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"

	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/pki/pkitest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSubjects(t *testing.T) {
	tests := map[string]struct {
		user   string
		groups []string
		roles  []string
	}{
		"apiserver":                {"kijabi:apiserver:m1", []string{"kijabi:role:apiserver", "kijabi:role:master"}, []string{"apiserver", "master"}},
		"scheduler":                {"system:kube-scheduler", []string{"kijabi:role:scheduler"}, []string{"scheduler"}},
		"controller-manager":       {"system:kube-controller-manager", []string{"kijabi:role:controller-manager"}, []string{"controller-manager"}},
		"cloud-controller-manager": {"system:cloud-controller-manager", []string{"kijabi:role:cloud-controller-manager"}, []string{"cloud-controller-manager"}},
		"cloud-provider":           {"kijabi:cloud-provider:m1", []string{"kijabi:role:cloud-provider"}, []string{"cloud-provider"}},
		"kubelet":                  {"system:node:m1", []string{"system:nodes", "kijabi:role:node"}, []string{"node"}},
		"kube-proxy":               {"system:kube-proxy", []string{"system:node-proxier", "kijabi:role:kube-proxy"}, []string{"kube-proxy"}},
		"network-agent":            {"kijabi:network-agent", []string{"kijabi:role:network-agent"}, []string{"network-agent"}},
		"dns":                      {"kijabi:dns", []string{"kijabi:role:dns"}, []string{"dns"}},
		"admin":                    {"kubernetes-admin", []string{"system:masters"}, []string{"admin"}},
	}
	for component, want := range tests {
		got := pki.Subject(component, "m1")
		if got.CommonName != want.user || !slices.Equal(got.Organizations, want.groups) {
			t.Errorf("%s is %q of %q", component, got.CommonName, got.Organizations)
		}
		if roles := pki.Roles(got.Organizations); !slices.Equal(roles, want.roles) {
			t.Errorf("%s has roles %q", component, roles)
		}
		if component == pki.ComponentAdmin {
			if got.Server || len(got.DNSNames) > 0 || pki.Machine(got.DNSNames) != "" {
				t.Errorf("admin may serve: %+v", got)
			}
			continue
		}
		if !got.Server || !got.Client || !slices.Contains(got.DNSNames, component+".m1.kijabi") || pki.Machine(got.DNSNames) != "m1" {
			t.Errorf("%s: %+v", component, got)
		}
		if (component == pki.ComponentAPIServer) != slices.Contains(got.DNSNames, pki.APIServerName) {
			t.Errorf("%s: names %q", component, got.DNSNames)
		}
	}
}

func TestMachineWithDots(t *testing.T) {
	for _, machine := range []string{"n1", "n1.example.org", "kijabi", "a.kijabi"} {
		for _, component := range []string{pki.ComponentKubelet, pki.ComponentAPIServer} {
			if got := pki.Machine(pki.Subject(component, machine).DNSNames); got != machine {
				t.Errorf("%s on %q: machine %q", component, machine, got)
			}
		}
	}
}

func TestCAIssuesWhatIsAsked(t *testing.T) {
	ca := pkitest.NewCA(t)
	req := pki.Subject(pki.ComponentAPIServer, "m1")
	req.IPs = append(req.IPs, net.ParseIP("fd00::1"))
	req.Life = 10 * time.Minute
	certPEM, _, err := ca.Issue(req)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pki.ParseCertificate(certPEM)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(req.DNSNames, cert.DNSNames); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	if len(cert.IPAddresses) != 3 || !cert.IPAddresses[2].Equal(net.ParseIP("fd00::1")) {
		t.Errorf("addresses are %v", cert.IPAddresses)
	}
	if back := time.Since(cert.NotBefore); back < 5*time.Minute || back > 6*time.Minute {
		t.Errorf("valid since %s", back)
	}
	if left := time.Until(cert.NotAfter); left < 9*time.Minute || left > 10*time.Minute {
		t.Errorf("valid for %s", left)
	}
	if cert.IsCA {
		t.Error("a leaf is a CA")
	}
	if got := pki.Successor(cert); got.Life != req.Life || !got.Server || !got.Client || got.CommonName != req.CommonName {
		t.Errorf("its successor would be %+v", got)
	}
	long := req
	long.Life = 100 * 24 * time.Hour
	if certPEM, _, err = ca.Issue(long); err != nil {
		t.Fatal(err)
	}
	if cert, err = pki.ParseCertificate(certPEM); err != nil || cert.NotAfter.After(ca.Certificate().NotAfter) {
		t.Errorf("a leaf outlives its CA: %v", err)
	}
	if _, _, err := ca.Issue(pki.LeafRequest{}); err == nil {
		t.Error("a nameless certificate was issued")
	}
}

func TestSignCSRTakesNothingButTheKey(t *testing.T) {
	ca := pkitest.NewCA(t)
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := pki.NewCSR(key, "kubernetes-admin", net.ParseIP("1.2.3.4"))
	if err != nil {
		t.Fatal(err)
	}
	certPEM, err := ca.SignCSR(csr, pki.Subject(pki.ComponentKubelet, "n1"))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pki.ParseCertificate(certPEM)
	if err != nil {
		t.Fatal(err)
	}
	if cert.Subject.CommonName != "system:node:n1" || len(cert.IPAddresses) != 0 || !key.PublicKey.Equal(cert.PublicKey) {
		t.Errorf("signed %v with addresses %v", cert.Subject, cert.IPAddresses)
	}
	parsed, err := pki.ParseCSR(csr)
	if err != nil || len(parsed.IPAddresses) != 1 {
		t.Errorf("parsed %v, %v", parsed, err)
	}
	damaged := strings.Replace(string(csr), "\nM", "\nN", 1)
	for name, bad := range map[string]string{"damaged": damaged, "empty": "", "certificate": string(certPEM)} {
		if _, err := ca.SignCSR([]byte(bad), pki.Subject(pki.ComponentKubelet, "n1")); err == nil {
			t.Errorf("a request that is %s was signed", name)
		}
	}
}

func TestCASaveAndLoad(t *testing.T) {
	ca, dir := pkitest.NewCA(t), t.TempDir()
	if err := ca.Save(dir, "ca"); err != nil {
		t.Fatal(err)
	}
	keyFile := filepath.Join(dir, "ca.key")
	if info, err := os.Stat(keyFile); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key mode is %v, %v", info.Mode(), err)
	}
	loaded, err := pki.LoadCA(filepath.Join(dir, "ca.crt"), keyFile)
	if err != nil {
		t.Fatal(err)
	}
	if pki.Pin(loaded.CertificatePEM()) != pki.Pin(ca.CertificatePEM()) || len(pki.Pin(ca.CertificatePEM())) != 64 {
		t.Errorf("pins are %q and %q", pki.Pin(loaded.CertificatePEM()), pki.Pin(ca.CertificatePEM()))
	}
	if err := pkitest.NewCA(t).Save(dir, "other"); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.LoadCA(filepath.Join(dir, "ca.crt"), filepath.Join(dir, "other.key")); err == nil {
		t.Error("a CA was loaded with another's key")
	}
	if pki.Pin([]byte("nothing")) != "" {
		t.Error("nothing has a pin")
	}
	certPEM, keyPEM, err := ca.Issue(pki.Subject(pki.ComponentDNS, "n1"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pki.ParseCA(certPEM, keyPEM); err == nil {
		t.Error("a leaf was taken for a CA")
	}
}

func TestIdentityFollowsItsFiles(t *testing.T) {
	ca := pkitest.NewCA(t)
	files := pkitest.Files(t, ca, pki.Subject(pki.ComponentKubelet, "n1"))
	id, err := pki.OpenIdentity(files)
	if err != nil {
		t.Fatal(err)
	}
	group := lifecycle.NewGroup(t.Context())
	group.Go(id.Run)
	before, changed := id.Leaf(), id.Changed()

	// The key of a renewal that is half written does not fit the certificate.
	_, otherKey, err := ca.Issue(pki.Subject(pki.ComponentKubelet, "n1"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(files.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	write(t, files.KeyFile, otherKey)
	if err := id.Reload(); err == nil || !id.Leaf().Equal(before) {
		t.Errorf("files that do not fit were taken: %v", err)
	}
	write(t, files.KeyFile, key)
	if err := pki.RenewNow(t.Context(), files, pki.SignWith(ca, 0)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
	case <-time.After(20 * time.Second):
		t.Fatal("the change was not noticed")
	}
	if id.Leaf().Equal(before) || id.Leaf().Subject.CommonName != "system:node:n1" {
		t.Errorf("leaf is %v", id.Leaf().Subject)
	}
	group.Cancel()
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestOpenIdentityErrorsNameTheFile(t *testing.T) {
	files := pkitest.Files(t, pkitest.NewCA(t), pki.Subject(pki.ComponentDNS, "n1"))
	missing := files
	missing.KeyFile += ".gone"
	if _, err := pki.OpenIdentity(missing); err == nil || !strings.Contains(err.Error(), missing.KeyFile) {
		t.Errorf("missing key: %v", err)
	}
	write(t, files.CAFile, []byte("nothing"))
	if _, err := pki.OpenIdentity(files); err == nil || !strings.Contains(err.Error(), "CA bundle") {
		t.Errorf("damaged bundle: %v", err)
	}
}

func TestRenewRepeatsUntilItSucceeds(t *testing.T) {
	ca, log := pkitest.NewCA(t), zaptest.NewLogger(t)
	req := pki.Subject(pki.ComponentKubelet, "n1")
	req.Life = time.Second // due at once, and soon expired: renewing must work then, too
	files := pkitest.Files(t, ca, req)
	attempts := 0
	renewed := make(chan struct{})
	sign := func(ctx context.Context, certPEM, csrPEM []byte) ([]byte, []byte, error) {
		attempts++
		if attempts == 1 {
			return nil, nil, errors.New("no master answers")
		}
		defer close(renewed)
		certPEM, _, err := pki.SignWith(ca, time.Hour)(ctx, certPEM, csrPEM)
		return certPEM, ca.CertificatePEM(), err
	}
	group := lifecycle.NewGroup(t.Context())
	group.Go(func(ctx context.Context) error { return pki.RenewWith(ctx, files, sign, log) })
	select {
	case <-renewed:
	case <-time.After(20 * time.Second):
		t.Fatal("not renewed")
	}
	group.Cancel()
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	if life := lifeOf(t, files); life < 50*time.Minute {
		t.Errorf("the new certificate lives %s", life)
	}
}

func TestRenewRefusesCertificateOfAnotherKey(t *testing.T) {
	ca := pkitest.NewCA(t)
	files := pkitest.Files(t, ca, pki.Subject(pki.ComponentDNS, "n1"))
	before := lifeOf(t, files)
	err := pki.RenewNow(t.Context(), files, func(context.Context, []byte, []byte) ([]byte, []byte, error) {
		certPEM, _, err := ca.Issue(pki.Subject(pki.ComponentDNS, "n2"))
		return certPEM, nil, err
	})
	if err == nil || lifeOf(t, files) > before {
		t.Errorf("got %v", err)
	}
}

func lifeOf(t *testing.T, files configv1.Identity) time.Duration {
	t.Helper()
	certPEM, err := os.ReadFile(files.CertFile)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pki.ParseCertificate(certPEM)
	if err != nil {
		t.Fatal(err)
	}
	return time.Until(cert.NotAfter)
}

func TestServerIsVerifiedByPoolAndUsage(t *testing.T) {
	ca := pkitest.NewCA(t)
	id := pkitest.Identity(t, ca, pki.ComponentKubelet, "n1")
	if got := id.ServerTLS(0).MinVersion; got != 0x0304 {
		t.Errorf("servers accept TLS %x", got)
	}
	if id.ClientTLS("x").MinVersion != 0x0304 || id.Leaf().PublicKeyAlgorithm != x509.ECDSA {
		t.Error("clients accept less than TLS 1.3, or the key is no ECDSA")
	}
	if string(id.CABundle()) != string(ca.CertificatePEM()) || id.Files() != (configv1.Identity{}) {
		t.Error("the bundle is not the CA, or an identity in memory names files")
	}
}
