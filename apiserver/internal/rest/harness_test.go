package rest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"

	"kijabi.dev/apiserver/internal/authn"
	"kijabi.dev/apiserver/internal/authn/authntest"
	"kijabi.dev/apiserver/internal/authz"
	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/registry/kinds"
	"kijabi.dev/apiserver/internal/storage/memory"
	"kijabi.dev/apiserver/internal/store"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/pki"
)

// harness is a door served with real TLS. registry is nil over the real registry.
type harness struct {
	t          *testing.T
	registry   *fakeRegistry
	authorizer *notingAuthorizer
	nodes      *fakeNodes
	server     *Server
	http       *httptest.Server
	// admin presents the certificate of kubernetes-admin, nobody presents none.
	admin, nobody *http.Client
	// tls is admin's configuration.
	tls   *tls.Config
	dir   string
	clock *clocktesting.FakePassiveClock
}

// noPods: no node has any.
type noPods struct{}

func (noPods) NodeOf(string, string) string               { return "" }
func (noPods) UsedOn(string, string, string, string) bool { return false }
func (noPods) KeptOn(string, string) bool                 { return false }

type fakeNodes struct {
	conns map[string]grpc.ClientConnInterface
}

func (n *fakeNodes) Node(_ context.Context, name string) (grpc.ClientConnInterface, error) {
	if conn, ok := n.conns[name]; ok {
		return conn, nil
	}
	return nil, apierrors.NewServiceUnavailable("no master holds node " + name)
}

func newHarness(t *testing.T, change ...func(*Server)) *harness {
	t.Helper()
	fake := newFakeRegistry()
	policy := authz.NewPolicy()
	policy.Reset(func(yield func(*store.Record) bool) {
		for _, obj := range authz.Defaults() {
			kind, err := object.KindOfObject(obj)
			if err != nil {
				panic(err)
			}
			value, err := obj.Marshal()
			if err != nil {
				panic(err)
			}
			key := store.Key{Resource: kind.GroupResource().String(), Namespace: obj.GetNamespace(), Name: obj.GetName()}
			if !yield(&store.Record{Key: key, Value: value}) {
				return
			}
		}
	})
	h := serve(t, fake, authz.New(authz.Config{Pods: noPods{}, Policy: policy}), nil, change...)
	h.registry = fake
	return h
}

// newRealHarness is a door over the real registry and store, on a backend in memory.
func newRealHarness(t *testing.T, change ...func(*Server)) *harness {
	t.Helper()
	log := zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel))
	table := kinds.Default()
	objects, err := store.New(store.Config{Name: "m1", Backend: memory.New(), Indexer: registry.NewIndexer(table), Log: log, Progress: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	policy := authz.NewPolicy()
	objects.Observe(policy)
	tokens := authntest.Tokens(t, objects)
	authorizer := authz.New(authz.Config{Pods: noPods{}, Policy: policy, Prove: objects.Prove})
	engine, err := registry.New(registry.Config{
		Store: objects, Access: authorizer, Tokens: tokens, Kinds: table, Network: configv1.DefaultNetwork(), Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	group := lifecycle.NewGroup(context.WithoutCancel(t.Context()))
	t.Cleanup(func() {
		group.Cancel()
		if err := group.Wait(); err != nil {
			t.Errorf("store: %v", err)
		}
	})
	group.Go(objects.Run)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	select {
	case <-objects.Ready():
	case <-ctx.Done():
		t.Fatal("store was not loaded in time")
	}
	group.Go(objects.Lead)
	h := serve(t, engine, authorizer, tokens, change...)
	h.must(waitFor(ctx, func() bool { return objects.Term().Leading }))
	bootstrap := registry.NewBootstrap(registry.BootstrapConfig{
		Engine: engine, Network: configv1.DefaultNetwork(), Endpoints: func() []netip.AddrPort { return nil },
		Defaults: authz.Defaults(), Renew: authz.Renew, Log: log,
	})
	group.Go(bootstrap.Run)
	// The service of the DNS is the last thing that it makes.
	h.must(waitFor(ctx, func() bool {
		_, ok := objects.Get(store.Key{Resource: "services", Namespace: "kube-system", Name: "kube-dns"})
		return ok
	}))
	return h
}

// serve starts a door over a registry, changed before it listens.
func serve(t *testing.T, behind registry.Registry, authorizer *authz.Authorizer, tokens *authn.Tokens, change ...func(*Server)) *harness {
	t.Helper()
	h := &harness{t: t, authorizer: &notingAuthorizer{Authorizer: authorizer}, nodes: &fakeNodes{conns: map[string]grpc.ClientConnInterface{}}, dir: t.TempDir()}
	ca, err := pki.NewCA("test", time.Hour)
	h.must(err)
	serverCert := h.issue(ca, "server", pki.LeafRequest{CommonName: "server", DNSNames: []string{"localhost"}, Life: time.Hour, Server: true})
	clientCert := h.issue(ca, "admin", pki.LeafRequest{CommonName: "kubernetes-admin", Organizations: []string{"system:masters"}, Life: time.Hour, Client: true})
	h.must(ca.Save(h.dir, "ca"))
	caPEM, err := os.ReadFile(filepath.Join(h.dir, "ca.crt"))
	h.must(err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(caPEM)

	h.clock = clocktesting.NewFakePassiveClock(time.Now().Add(time.Hour))
	h.server, err = New(Config{
		Registry: behind, Authorizer: h.authorizer, Tokens: tokens, Nodes: h.nodes, Log: zaptest.NewLogger(t, zaptest.Level(zap.InfoLevel)),
		Clock: h.clock,
	})
	h.must(err)
	for _, f := range change {
		f(h.server)
	}
	h.http = httptest.NewUnstartedServer(h.server)
	h.http.Config = h.server.httpServer()
	h.http.EnableHTTP2 = true
	h.http.TLS = serverTLS(&tls.Config{Certificates: []tls.Certificate{serverCert}, ClientCAs: pool, ClientAuth: tls.VerifyClientCertIfGiven, MinVersion: tls.VersionTLS13})
	h.http.StartTLS()
	t.Cleanup(func() {
		h.server.Close()
		h.http.CloseClientConnections()
		h.http.Close()
	})
	h.tls = &tls.Config{RootCAs: pool, ServerName: "localhost", Certificates: []tls.Certificate{clientCert}, MinVersion: tls.VersionTLS13}
	h.admin = &http.Client{Transport: &http.Transport{TLSClientConfig: h.tls, ForceAttemptHTTP2: true}}
	h.nobody = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "localhost", MinVersion: tls.VersionTLS13}}}
	t.Cleanup(h.admin.CloseIdleConnections)
	t.Cleanup(h.nobody.CloseIdleConnections)
	return h
}

// allMayAll gives all rights to whoever is known, by a role, so that nobody is special.
func (h *harness) allMayAll() {
	h.t.Helper()
	const rbac = "/apis/rbac.authorization.k8s.io/v1/"
	for path, body := range map[string]string{
		"clusterroles":        `{"metadata":{"name":"all"},"rules":[{"apiGroups":["*"],"resources":["*"],"verbs":["*"]}]}`,
		"clusterrolebindings": `{"metadata":{"name":"all"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"all"},"subjects":[{"apiGroup":"rbac.authorization.k8s.io","kind":"Group","name":"system:authenticated"}]}`,
	} {
		if a := h.call("POST", rbac+path, body); a.code != http.StatusCreated {
			h.t.Fatalf("%s: %d %s", path, a.code, a.body)
		}
	}
}

func (h *harness) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *harness) issue(ca *pki.CA, name string, request pki.LeafRequest) tls.Certificate {
	h.t.Helper()
	certPEM, keyPEM, err := ca.Issue(request)
	h.must(err)
	h.must(os.WriteFile(filepath.Join(h.dir, name+".crt"), certPEM, 0o600))
	h.must(os.WriteFile(filepath.Join(h.dir, name+".key"), keyPEM, 0o600))
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	h.must(err)
	return cert
}

// oldHTTP is admin over HTTP/1.1, which upgrades need.
func (h *harness) oldHTTP() *http.Client {
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: h.http1()}}
	h.t.Cleanup(client.CloseIdleConnections)
	return client
}

func (h *harness) http1() *tls.Config {
	old := h.tls.Clone()
	old.NextProtos = []string{"http/1.1"}
	return old
}

// kubeconfig writes a file with which kubectl reaches the door.
func (h *harness) kubeconfig() string {
	h.t.Helper()
	path := filepath.Join(h.dir, "kubeconfig")
	text := `apiVersion: v1
kind: Config
current-context: t
contexts: [{name: t, context: {cluster: t, user: t, namespace: default}}]
clusters: [{name: t, cluster: {server: "` + h.http.URL + `", tls-server-name: localhost, certificate-authority: ca.crt}}]
users: [{name: t, user: {client-certificate: admin.crt, client-key: admin.key}}]
`
	h.must(os.WriteFile(path, []byte(text), 0o600))
	return path
}

// answer is a response read to its end.
type answer struct {
	code   int
	header http.Header
	body   []byte
}

// call makes a request as admin. headers are "Name: value".
func (h *harness) call(method, path string, body string, headers ...string) answer {
	h.t.Helper()
	return h.callAs(h.admin, method, path, body, headers...)
}

func (h *harness) callAs(client *http.Client, method, path string, body string, headers ...string) answer {
	h.t.Helper()
	r, err := http.NewRequestWithContext(h.t.Context(), method, h.http.URL+path, strings.NewReader(body))
	h.must(err)
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Set(name, value)
	}
	resp, err := client.Do(r)
	h.must(err)
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	h.must(err)
	return answer{resp.StatusCode, resp.Header, data}
}

// status reads an answer as Status.
func (a answer) status(t *testing.T) metav1.Status {
	t.Helper()
	var s metav1.Status
	if err := json.Unmarshal(a.body, &s); err != nil {
		t.Fatalf("answer is no status: %v: %s", err, a.body)
	}
	return s
}

func (a answer) contains(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !bytes.Contains(a.body, []byte(text)) {
			t.Errorf("answer lacks %q: %d %s", text, a.code, a.body[:min(len(a.body), 2000)])
		}
	}
}
