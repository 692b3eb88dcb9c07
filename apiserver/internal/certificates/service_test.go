package certificates_test

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/types/known/durationpb"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	testclock "k8s.io/utils/clock/testing"

	"kijabi.dev/apiserver/internal/certificates"
	"kijabi.dev/apiserver/internal/certificates/certificatestest"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
	certificatev1pb "kijabi.dev/proto/gen/kijabi/certificate/v1"
)

const (
	masterRole = certificatev1pb.TokenRole_TOKEN_ROLE_MASTER
	nodeRole   = certificatev1pb.TokenRole_TOKEN_ROLE_NODE
)

func TestStoreInMemory(t *testing.T) {
	certificatestest.TestTokenStore(t, func(*testing.T) certificates.TokenStore { return certificatestest.NewStore() })
}

// fixture is a service with one CA, one master "m1" and a clock that tests move.
type fixture struct {
	*certificates.Service
	t     *testing.T
	ca    *pki.CA
	clock *testclock.FakePassiveClock
	store *certificatestest.Store
	logs  *observer.ObservedLogs
}

func (f *fixture) CA() *pki.CA { return f.ca }

func (f *fixture) Bundle() []byte { return f.ca.CertificatePEM() }

func (f *fixture) IsMaster(_ context.Context, name string) (bool, error) { return name == "m1", nil }

func newFixture(t *testing.T, change ...func(*certificates.Config)) *fixture {
	t.Helper()
	ca, err := pki.NewCA("test", 0)
	if err != nil {
		t.Fatal(err)
	}
	core, logs := observer.New(zap.DebugLevel)
	f := &fixture{t: t, ca: ca, clock: testclock.NewFakePassiveClock(time.Now()), store: certificatestest.NewStore(), logs: logs}
	cfg := certificates.Config{Tokens: f.store, Authority: f, Machines: f, Clock: f.clock, Log: zap.New(core)}
	for _, c := range change {
		c(&cfg)
	}
	if f.Service, err = certificates.New(cfg); err != nil {
		t.Fatal(err)
	}
	return f
}

// from is a context of a call from an address.
func (f *fixture) from(ip string) context.Context {
	f.t.Helper()
	return peer.NewContext(f.t.Context(), &peer.Peer{Addr: &net.TCPAddr{IP: net.ParseIP(ip), Port: 40000}})
}

func (f *fixture) token(role certificatev1pb.TokenRole, uses int32) string {
	f.t.Helper()
	res, err := f.CreateToken(f.t.Context(), &certificatev1pb.CreateTokenRequest{Role: role, Uses: uses})
	if err != nil {
		f.t.Fatal(err)
	}
	return res.GetToken()
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newCSR(t *testing.T, key *ecdsa.PrivateKey, ips ...net.IP) []byte {
	t.Helper()
	csr, err := pki.NewCSR(key, "system:masters", ips...)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

// issue asks with a new key.
func (f *fixture) issue(token, name, component string) (*certificatev1pb.IssueResponse, error) {
	f.t.Helper()
	return f.Issue(f.from("10.0.0.9"), &certificatev1pb.IssueRequest{
		Token: token, Name: name, Component: component, CertificateRequest: newCSR(f.t, newKey(f.t)),
	})
}

func wantRefused(t *testing.T, err error, part string) {
	t.Helper()
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), part) {
		t.Errorf("got %v, want a refusal with %q", err, part)
	}
}

func TestIssueByRoleAndComponent(t *testing.T) {
	f := newFixture(t)
	node := []string{"kubelet", "kube-proxy", "network-agent", "dns"}
	master := append([]string{"apiserver", "scheduler", "controller-manager", "cloud-controller-manager", "cloud-provider"}, node...)
	for role, allowed := range map[certificatev1pb.TokenRole][]string{masterRole: master, nodeRole: node} {
		token := f.token(role, 0)
		for _, component := range master {
			res, err := f.issue(token, "x1", component)
			if !slices.Contains(allowed, component) {
				wantRefused(t, err, "kijabi token create --role master")
				continue
			}
			if err != nil {
				t.Errorf("%s, %s: %v", role, component, err)
				continue
			}
			cert, err := pki.ParseCertificate(res.GetCertificate())
			if err != nil {
				t.Fatal(err)
			}
			want := pki.Subject(component, "x1")
			slices.Sort(want.Organizations) // a certificate keeps them as a set
			slices.Sort(cert.Subject.Organization)
			if cert.Subject.CommonName != want.CommonName || !slices.Equal(cert.Subject.Organization, want.Organizations) ||
				!slices.Equal(cert.DNSNames, want.DNSNames) || string(res.GetCaBundle()) != string(f.Bundle()) {
				t.Errorf("%s got %v, names %v", component, cert.Subject, cert.DNSNames)
			}
			if life := time.Until(cert.NotAfter); life < 23*time.Hour || life > 24*time.Hour {
				t.Errorf("%s lives %s", component, life)
			}
		}
		for _, component := range []string{"admin", "", "etcd"} {
			if _, err := f.issue(token, "x1", component); !apierrors.IsBadRequest(err) {
				t.Errorf("component %q: %v", component, err)
			}
		}
	}
}

func TestOnlyTheAPIServerGetsTheAddressesItAsksFor(t *testing.T) {
	f := newFixture(t)
	token, asked := f.token(masterRole, 0), net.ParseIP("10.0.0.7")
	issue := func(component string, ip net.IP) ([]net.IP, error) {
		res, err := f.Issue(f.from("10.0.0.9"), &certificatev1pb.IssueRequest{
			Token: token, Name: "m2", Component: component, CertificateRequest: newCSR(t, newKey(t), ip),
		})
		if err != nil {
			return nil, err
		}
		cert, err := pki.ParseCertificate(res.GetCertificate())
		return cert.IPAddresses, err
	}
	if _, err := issue("apiserver", net.IPv4zero); !apierrors.IsBadRequest(err) {
		t.Errorf("0.0.0.0: %v", err)
	}
	if ips, err := issue("apiserver", asked); err != nil || !slices.ContainsFunc(ips, asked.Equal) || len(ips) != 3 {
		t.Errorf("apiserver got %v, %v", ips, err)
	}
	if ips, err := issue("kubelet", asked); err != nil || len(ips) != 0 {
		t.Errorf("kubelet got %v, %v", ips, err)
	}
}

func TestNamesThatAreRefused(t *testing.T) {
	f := newFixture(t)
	token := f.token(nodeRole, 0)
	for _, name := range []string{
		"", "UPPER", "a_b", "10.0.0.1", "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
		"apiserver.kijabi", "apiserver.m1.kijabi", "kijabi", "x.svc", "x.cluster.local", strings.Repeat("a", 254),
	} {
		if _, err := f.issue(token, name, "kubelet"); !apierrors.IsBadRequest(err) {
			t.Errorf("name %q: %v", name, err)
		}
	}
	_, err := f.issue(token, "m1", "kubelet")
	wantRefused(t, err, "m1 is the name of a master")
	if _, err := f.issue(f.token(masterRole, 0), "m1", "kubelet"); err != nil {
		t.Errorf("a master that joins again: %v", err)
	}
}

func TestMasterTokenServesOneMachineAndOneKeyEach(t *testing.T) {
	f := newFixture(t)
	token, key := f.token(masterRole, 0), newKey(t)
	ask := func(name, component string, key *ecdsa.PrivateKey) error {
		_, err := f.Issue(f.from("10.0.0.9"), &certificatev1pb.IssueRequest{
			Token: token, Name: name, Component: component, CertificateRequest: newCSR(t, key),
		})
		return err
	}
	if err := errors.Join(ask("m2", "apiserver", key), ask("m2", "kubelet", newKey(t)), ask("m2", "apiserver", key)); err != nil {
		t.Errorf("all components of a machine, one twice: %v", err)
	}
	wantRefused(t, ask("m3", "apiserver", newKey(t)), "used up")
	wantRefused(t, ask("m2", "apiserver", newKey(t)), "another key")
	if list, err := f.ListTokens(t.Context(), &certificatev1pb.ListTokensRequest{}); err != nil || len(list.GetTokens()) != 0 {
		t.Errorf("a used token is listed: %v, %v", list, err)
	}
}

func TestUsesAreCountedOnceEach(t *testing.T) {
	f := newFixture(t)
	token := f.token(nodeRole, 3)
	var joined atomic.Int32
	var wait sync.WaitGroup
	for _, name := range []string{"n1", "n2", "n3", "n4", "n5", "n6"} {
		wait.Go(func() {
			for { // contention is answered by "try again"
				_, err := f.issue(token, name, "kubelet")
				if apierrors.IsServiceUnavailable(err) {
					continue
				}
				if err == nil {
					joined.Add(1)
				}
				return
			}
		})
	}
	wait.Wait()
	if joined.Load() != 3 {
		t.Errorf("%d machines joined by a token of 3 uses", joined.Load())
	}
}

func TestExpiredTokenSaysSo(t *testing.T) {
	f := newFixture(t)
	node, master := f.token(nodeRole, 0), f.token(masterRole, 0)
	f.clock.SetTime(f.clock.Now().Add(time.Hour + 3*time.Minute))
	_, err := f.issue(master, "m2", "kubelet")
	wantRefused(t, err, "the join token expired 3 minutes ago; make a new one with 'kijabi token create --role master'")
	if _, err := f.issue(node, "n1", "kubelet"); err != nil {
		t.Errorf("a node token after an hour: %v", err)
	}
	f.clock.SetTime(f.clock.Now().Add(23 * time.Hour))
	_, err = f.issue(node, "n2", "kubelet")
	wantRefused(t, err, "expired")
	f.clock.SetTime(f.clock.Now().Add(25 * time.Hour))
	f.token(nodeRole, 0)
	if records, err := f.store.List(t.Context()); err != nil || len(records) != 1 {
		t.Errorf("old tokens are kept: %v, %v", records, err)
	}
}

func TestWrongTokens(t *testing.T) {
	f, other := newFixture(t), newFixture(t)
	good, err := pki.ParseJoinToken(f.token(nodeRole, 0))
	if err != nil {
		t.Fatal(err)
	}
	wrongSecret, promoted, wrongPin := good, good, good
	wrongSecret.Secret = strings.Repeat("0", 32)
	promoted.Master = true
	wrongPin.CAPin = strings.Repeat("0", 64)
	for name, test := range map[string]struct{ token, part string }{
		"of another cluster": {other.token(nodeRole, 0), "unknown or was revoked"},
		"wrong secret":       {wrongSecret.Text(), "unknown or was revoked"},
		"node as master":     {promoted.Text(), "unknown or was revoked"},
		"wrong pin":          {wrongPin.Text(), "CA changed"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := f.issue(test.token, "n1", "kubelet")
			wantRefused(t, err, test.part)
		})
	}
	if _, err := f.issue("nonsense", "n1", "kubelet"); !apierrors.IsBadRequest(err) {
		t.Errorf("nonsense: %v", err)
	}
	if _, err := f.RevokeToken(t.Context(), &certificatev1pb.RevokeTokenRequest{Id: good.ID}); err != nil {
		t.Fatal(err)
	}
	_, err = f.issue(good.Text(), "n1", "kubelet")
	wantRefused(t, err, "unknown or was revoked")
	if _, err := f.RevokeToken(t.Context(), &certificatev1pb.RevokeTokenRequest{Id: good.ID}); err != nil {
		t.Errorf("revoking twice: %v", err)
	}
	if _, err := f.RevokeToken(t.Context(), &certificatev1pb.RevokeTokenRequest{}); !apierrors.IsBadRequest(err) {
		t.Errorf("revoking nothing: %v", err)
	}
}

func TestGuessingIsSlowedDownPerAddress(t *testing.T) {
	f := newFixture(t)
	good := f.token(nodeRole, 0)
	ask := func(ip, token string) error {
		_, err := f.Issue(f.from(ip), &certificatev1pb.IssueRequest{
			Token: token, Name: "n1", Component: "kubelet", CertificateRequest: newCSR(t, newKey(t)),
		})
		return err
	}
	for i := range 10 {
		if err := ask("10.0.0.66", pki.NewJoinToken(false, pki.Pin(f.Bundle())).Text()); !apierrors.IsForbidden(err) {
			t.Fatalf("guess %d: %v", i, err)
		}
	}
	if err := ask("10.0.0.66", good); !apierrors.IsTooManyRequests(err) {
		t.Errorf("after ten guesses: %v", err)
	}
	if err := ask("10.0.0.67", good); err != nil {
		t.Errorf("another address: %v", err)
	}
	f.clock.SetTime(f.clock.Now().Add(61 * time.Second))
	if err := ask("10.0.0.66", good); err != nil {
		t.Errorf("a minute later: %v", err)
	}
}

func TestCreateAndListTokens(t *testing.T) {
	f := newFixture(t)
	bad := map[string]*certificatev1pb.CreateTokenRequest{
		"no role":       {},
		"negative life": {Role: nodeRole, Ttl: durationpb.New(-time.Hour)},
		"endless":       {Role: nodeRole, Ttl: durationpb.New(365 * 24 * time.Hour)},
		"negative uses": {Role: nodeRole, Uses: -1},
	}
	for name, req := range bad {
		if _, err := f.CreateToken(t.Context(), req); !apierrors.IsBadRequest(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx := rpc.WithCaller(t.Context(), rpc.Caller{Name: "jane"})
	created, err := f.CreateToken(ctx, &certificatev1pb.CreateTokenRequest{Role: nodeRole, Uses: 2, Ttl: durationpb.New(2 * time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	token, err := pki.ParseJoinToken(created.GetToken())
	if err != nil || token.Master || token.CAPin != pki.Pin(f.Bundle()) {
		t.Errorf("token is %v, %v", token, err)
	}
	f.token(masterRole, 0)
	list, err := f.ListTokens(t.Context(), &certificatev1pb.ListTokensRequest{})
	if err != nil || len(list.GetTokens()) != 2 || strings.Contains(list.String(), token.Secret) {
		t.Fatalf("list is %v, %v", list, err)
	}
	for _, have := range list.GetTokens() {
		if have.GetId() == token.ID && (have.GetUsesLeft() != 2 || have.GetRole() != nodeRole || !have.GetExpires().AsTime().Equal(created.GetExpires().AsTime())) {
			t.Errorf("listed as %v", have)
		}
		if have.GetRole() == masterRole && have.GetUsesLeft() != 1 {
			t.Errorf("a master's token has %d uses", have.GetUsesLeft())
		}
	}
	record, err := f.store.Get(t.Context(), token.ID)
	if err != nil || record.CreatedBy != "jane" || strings.Contains(string(record.SecretHash), token.Secret) {
		t.Errorf("record is %+v, %v", record, err)
	}
	for _, entry := range f.logs.All() {
		for key, value := range entry.ContextMap() {
			if text, ok := value.(string); ok && strings.Contains(text, token.Secret) {
				t.Errorf("log field %s holds the secret", key)
			}
		}
	}
}

func TestRenew(t *testing.T) {
	f := newFixture(t)
	res, err := f.issue(f.token(nodeRole, 0), "n1", "kubelet")
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	issued, err := f.Issue(f.from("10.0.0.9"), &certificatev1pb.IssueRequest{
		Token: f.token(nodeRole, 0), Name: "n1", Component: "kubelet", CertificateRequest: newCSR(t, key),
	})
	if err != nil {
		t.Fatal(err)
	}
	renew := func(certificate []byte, key *ecdsa.PrivateKey) ([]byte, error) {
		res, err := f.Renew(t.Context(), &certificatev1pb.RenewRequest{Certificate: certificate, CertificateRequest: newCSR(t, key)})
		return res.GetCertificate(), err
	}
	renewed, err := renew(issued.GetCertificate(), key)
	if err != nil {
		t.Fatal(err)
	}
	before, err := pki.ParseCertificate(issued.GetCertificate())
	if err != nil {
		t.Fatal(err)
	}
	after, err := pki.ParseCertificate(renewed)
	if err != nil || after.Subject.String() != before.Subject.String() || !slices.Equal(after.DNSNames, before.DNSNames) ||
		after.SerialNumber.Cmp(before.SerialNumber) == 0 {
		t.Errorf("renewed %v to %v, %v", before.Subject, after.Subject, err)
	}
	_, err = renew(res.GetCertificate(), key)
	wantRefused(t, err, "another key")
	foreign, err := newFixture(t).ca.SignCSR(newCSR(t, key), pki.Subject("admin", ""))
	if err != nil {
		t.Fatal(err)
	}
	_, err = renew(foreign, key)
	wantRefused(t, err, "not one of this cluster")
	_, err = renew(f.ca.CertificatePEM(), key)
	wantRefused(t, err, "CA")
	f.clock.SetTime(before.NotAfter.Add(29 * 24 * time.Hour))
	if _, err = renew(issued.GetCertificate(), key); err != nil {
		t.Errorf("29 days after its end: %v", err)
	}
	f.clock.SetTime(before.NotAfter.Add(31 * 24 * time.Hour))
	_, err = renew(issued.GetCertificate(), key)
	wantRefused(t, err, "31 days ago")
	for name, req := range map[string]*certificatev1pb.RenewRequest{
		"nothing": {}, "no request": {Certificate: issued.GetCertificate()},
	} {
		if _, err := f.Renew(t.Context(), req); !apierrors.IsBadRequest(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRenewableIsAsked(t *testing.T) {
	f := newFixture(t, func(cfg *certificates.Config) {
		cfg.Renewable = func(_ context.Context, identity rpc.Caller) error {
			if identity.Machine == "gone" && identity.HasRole(pki.RoleNode) {
				return apierrors.NewUnauthorized("removed")
			}
			return nil
		}
	})
	for name, refused := range map[string]bool{"gone": true, "here": false} {
		key := newKey(t)
		certPEM, err := f.ca.SignCSR(newCSR(t, key), pki.Subject("kubelet", name))
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.Renew(t.Context(), &certificatev1pb.RenewRequest{Certificate: certPEM, CertificateRequest: newCSR(t, key)})
		if apierrors.IsUnauthorized(err) != refused {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNewNeedsItsParts(t *testing.T) {
	if _, err := certificates.New(certificates.Config{}); err == nil {
		t.Error("a service without parts was made")
	}
}

// A certificate that was signed for a user's request lives as long as was approved, no longer.
func TestUsersCertificatesAreNotRenewed(t *testing.T) {
	f := newFixture(t)
	key := newKey(t)
	csr := newCSR(t, key)
	for name, c := range map[string]struct {
		leaf    pki.LeafRequest
		refused bool
	}{
		"a user":              {pki.LeafRequest{CommonName: "jane", Organizations: []string{"developers"}, Client: true}, true},
		"a node's by request": {pki.LeafRequest{CommonName: "system:node:n1", Organizations: []string{"system:nodes"}, Client: true}, true},
		"a program":           {pki.Subject(pki.ComponentKubelet, "n1"), false},
		"administrators":      {pki.Subject(pki.ComponentAdmin, ""), false},
	} {
		old, err := f.ca.SignCSR(csr, c.leaf)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.Renew(f.from("10.0.0.9"), &certificatev1pb.RenewRequest{Certificate: old, CertificateRequest: csr})
		if c.refused {
			wantRefused(t, err, "belongs to no program of the cluster")
		} else if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
