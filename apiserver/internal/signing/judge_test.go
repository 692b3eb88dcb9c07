package signing

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/utils/ptr"

	"kijabi.dev/platform/pki"
)

func requestOf(t *testing.T, template x509.CertificateRequest) []byte {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func usages(list ...certificatesv1.KeyUsage) []certificatesv1.KeyUsage { return list }

func TestRulesOfSigners(t *testing.T) {
	const (
		user, kubelet, serving = certificatesv1.KubeAPIServerClientSignerName, certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.KubeletServingSignerName
		client, server         = certificatesv1.UsageClientAuth, certificatesv1.UsageServerAuth
		signs, enciphers       = certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment
	)
	subject := func(name string, groups ...string) x509.CertificateRequest {
		return x509.CertificateRequest{Subject: pkix.Name{CommonName: name, Organization: groups}}
	}
	node := func(change func(*x509.CertificateRequest)) x509.CertificateRequest {
		out := subject("system:node:n1", "system:nodes")
		if change != nil {
			change(&out)
		}
		return out
	}
	serves := func(names ...string) x509.CertificateRequest {
		return node(func(r *x509.CertificateRequest) { r.DNSNames = names })
	}
	at := func(ip string) x509.CertificateRequest {
		return node(func(r *x509.CertificateRequest) { r.IPAddresses = []net.IP{net.ParseIP(ip)} })
	}
	for name, test := range map[string]struct {
		signer   string
		template x509.CertificateRequest
		usages   []certificatesv1.KeyUsage
		refusal  string // part of it; empty: it is signed
	}{
		"a user":                         {user, subject("jane", "developers"), usages(client), ""},
		"a user with all that is common": {user, subject("jane"), usages(client, signs, enciphers), ""},
		"a user without a name":          {user, subject("", "developers"), usages(client), "common name"},
		"an administrator":               {user, subject("jane", "developers", "system:masters"), usages(client), "system:masters"},
		"a program of the cluster":       {user, subject("jane", "kijabi:role:apiserver"), usages(client), "kijabi:role:apiserver"},
		"a name of the cluster's":        {user, subject("kijabi:apiserver:m1"), usages(client), "the cluster's own"},
		"the apiserver's own name":       {user, subject("system:apiserver"), usages(client), "the cluster's own"},
		"a user that serves":             {user, subject("jane"), usages(client, server), "server auth"},
		"a user that signs certificates": {user, subject("jane"), usages(client, certificatesv1.UsageCertSign), "cert sign"},
		"a user without its usage":       {user, subject("jane"), usages(signs), "client auth is required"},

		"a kubelet":                    {kubelet, node(nil), usages(client, signs), ""},
		"a kubelet with RSA":           {kubelet, node(nil), usages(client, signs, enciphers), ""},
		"a kubelet that cannot sign":   {kubelet, node(nil), usages(client), "digital signature is required"},
		"a kubelet of another group":   {kubelet, subject("system:node:n1", "system:nodes", "more"), usages(client, signs), "organization"},
		"a kubelet of another name":    {kubelet, subject("n1", "system:nodes"), usages(client, signs), "common name"},
		"a kubelet of no name":         {kubelet, subject("system:node:", "system:nodes"), usages(client, signs), "common name"},
		"a kubelet client with a name": {kubelet, serves("n1"), usages(client, signs), "subjectAltNames"},

		"a kubelet that serves":              {serving, serves("n1"), usages(server, signs), ""},
		"one that serves at an address":      {serving, at("192.0.2.7"), usages(server, signs), ""},
		"one that serves under no name":      {serving, node(nil), usages(server, signs), "subjectAltName is required"},
		"one that is also a client":          {serving, serves("n1"), usages(server, signs, client), "client auth"},
		"one that is called as masters are":  {serving, serves("n1", "apiserver.kijabi"), usages(server, signs), "apiserver.kijabi"},
		"one that is called as the API":      {serving, serves("Kubernetes.default.svc"), usages(server, signs), "the cluster's own"},
		"one that is called as all are":      {serving, serves("*.example.com"), usages(server, signs), "the cluster's own"},
		"one at the address of a service":    {serving, at("10.96.0.1"), usages(server, signs), "no machine's address"},
		"one at a service's, written long":   {serving, at("::ffff:10.96.0.1"), usages(server, signs), "no machine's address"},
		"one at everybody's address":         {serving, at("127.0.0.1"), usages(server, signs), "no machine's address"},
		"one that serves under a URI":        {serving, node(func(r *x509.CertificateRequest) { r.URIs = []*url.URL{{Scheme: "spiffe", Host: "x"}} }), usages(server, signs), "URI"},
		"somebody else's signer is not ours": {"example.com/own", subject("jane"), usages(client), "unknown signer"},
	} {
		t.Run(name, func(t *testing.T) {
			j := judge(&certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{
				Request: requestOf(t, test.template), SignerName: test.signer, Usages: test.usages,
			}}, netip.MustParsePrefix("10.96.0.0/16"))
			switch {
			case test.refusal == "" && j.refusal != "":
				t.Errorf("refused: %s", j.refusal)
			case test.refusal != "" && !strings.Contains(j.refusal, test.refusal):
				t.Errorf("refusal %q, want one with %q", j.refusal, test.refusal)
			}
			if j.refusal == "" && (j.leaf.CommonName != test.template.Subject.CommonName || !slices.Equal(j.leaf.Organizations, test.template.Subject.Organization)) {
				t.Errorf("signs %+v", j.leaf)
			}
			if test.signer == serving && (j.leaf.Client || !slices.Equal(j.leaf.DNSNames, test.template.DNSNames)) ||
				test.signer != serving && (j.leaf.Server || len(j.leaf.DNSNames)+len(j.leaf.IPs) > 0) {
				t.Errorf("signs %+v", j.leaf)
			}
		})
	}
}

func TestLivesAreBounded(t *testing.T) {
	for seconds, want := range map[*int32]time.Duration{
		nil: longest, ptr.To[int32](3600): time.Hour, ptr.To[int32](1): shortest, ptr.To[int32](1 << 30): longest,
	} {
		if got := life(seconds); got != want {
			t.Errorf("%v seconds: %s, want %s", ptr.Deref(seconds, 0), got, want)
		}
	}
}

func TestOnlyKubeletsAreApprovedAlone(t *testing.T) {
	template := x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:n1", Organization: []string{"system:nodes"}}}
	for _, test := range []struct{ signer, by, review string }{
		{certificatesv1.KubeAPIServerClientKubeletSignerName, "system:bootstrap:abc", "nodeclient"},
		{certificatesv1.KubeAPIServerClientKubeletSignerName, "system:node:n1", "selfnodeclient"},
		{certificatesv1.KubeAPIServerClientKubeletSignerName, "system:node:n2", "nodeclient"},
		{certificatesv1.KubeletServingSignerName, "system:node:n1", ""},
		{certificatesv1.KubeAPIServerClientSignerName, "system:node:n1", ""},
	} {
		j := judge(&certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: requestOf(t, template), SignerName: test.signer, Username: test.by,
			Usages: usages(certificatesv1.UsageClientAuth, certificatesv1.UsageDigitalSignature),
		}}, netip.Prefix{})
		if j.review != test.review {
			t.Errorf("%s asked by %s: review %q, want %q", test.signer, test.by, j.review, test.review)
		}
	}
}
