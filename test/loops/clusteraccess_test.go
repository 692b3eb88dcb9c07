package loops

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
	certificatev1pb "kijabi.dev/proto/gen/kijabi/certificate/v1"
	"kijabi.dev/test/harness"
)

// whoami asks the REST door who the caller is. token may be empty.
func whoami(t *harness.T, s *stack, certificate *tls.Certificate, token string) (authenticationv1.UserInfo, int) {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(s.ca.Certificate())
	config := &tls.Config{RootCAs: roots, ServerName: pki.APIServerName, MinVersion: tls.VersionTLS13}
	if certificate != nil {
		config.Certificates = []tls.Certificate{*certificate}
	}
	web := &http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}, Timeout: request}
	defer web.CloseIdleConnections()
	question, err := json.Marshal(&authenticationv1.SelfSubjectReview{TypeMeta: metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "SelfSubjectReview"}})
	if err != nil {
		t.Fatal(err)
	}
	ask, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+s.at(configv1.PortREST)+"/apis/authentication.k8s.io/v1/selfsubjectreviews", bytes.NewReader(question))
	if err != nil {
		t.Fatal(err)
	}
	ask.Header.Set("Content-Type", "application/json")
	if token != "" {
		ask.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := web.Do(ask)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	content, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	var review authenticationv1.SelfSubjectReview
	if answer.StatusCode < 300 {
		if err := json.Unmarshal(content, &review); err != nil {
			t.Fatalf("%v: %s", err, content)
		}
	}
	return review.Status.UserInfo, answer.StatusCode
}

// asked is a request for a certificate that was stored, with its key.
func asked(t *harness.T, api *client.Client, name, signer string, subject pkix.Name, usages ...certificatesv1.KeyUsage) []byte {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: subject}, key)
	if err != nil {
		t.Fatal(err)
	}
	keyPEM, err := pki.EncodeKey(key)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := contextOf(t)
	defer cancel()
	if _, err := api.Create(ctx, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), SignerName: signer, Usages: usages, ExpirationSeconds: ptr.To[int32](3600),
		},
	}); err != nil {
		t.Fatal(err)
	}
	return keyPEM
}

func approve(t *harness.T, s *stack, name string) {
	t.Helper()
	change(t, s, "", name, "approval", func(r *certificatesv1.CertificateSigningRequest) {
		r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test",
		})
	})
}

func answered(s *stack, name string, check func(*certificatesv1.CertificateSigningRequest) bool) func() error {
	return func() error {
		r, err := get[*certificatesv1.CertificateSigningRequest](s, "", name)
		if err == nil && !check(r) {
			err = fmt.Errorf("status %+v", r.Status)
		}
		return err
	}
}

func conditioned(kind certificatesv1.RequestConditionType) func(*certificatesv1.CertificateSigningRequest) bool {
	return func(r *certificatesv1.CertificateSigningRequest) bool {
		return slices.ContainsFunc(r.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool { return c.Type == kind })
	}
}

func testCertificates(t *harness.T, s *stack) {
	const user, kubelet = certificatesv1.KubeAPIServerClientSignerName, certificatesv1.KubeAPIServerClientKubeletSignerName
	clients, signs := certificatesv1.UsageClientAuth, certificatesv1.UsageDigitalSignature
	issued := func(r *certificatesv1.CertificateSigningRequest) bool { return len(r.Status.Certificate) > 0 }

	key := asked(t, s.api, "jane", user, pkix.Name{CommonName: "jane", Organization: []string{"developers"}}, clients)
	approve(t, s, "jane")
	harness.Eventually(t, patience, "an approved request is signed", answered(s, "jane", issued))
	signed, err := get[*certificatesv1.CertificateSigningRequest](s, "", "jane")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(signed.Status.Certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, patience, "the default roles are there", func() error {
		_, err := get[*rbacv1.ClusterRoleBinding](s, "", "system:basic-user")
		return err
	})
	if who, code := whoami(t, s, &pair, ""); who.Username != "jane" || !slices.Contains(who.Groups, "developers") {
		t.Errorf("the certificate makes its holder %v, answer %d", who, code)
	}
	if life := time.Until(pair.Leaf.NotAfter); life > time.Hour || life < 50*time.Minute {
		t.Errorf("it lives %s, asked for was an hour", life)
	}
	// What was approved for an hour stays an hour.
	identity, err := pki.NewIdentity(signed.Status.Certificate, key, s.ca.CertificatePEM())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := rpc.Dial(s.at(configv1.PortGRPC), identity)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := contextOf(t)
	defer cancel()
	if _, err := certificatev1pb.NewCertificateServiceClient(conn).Renew(ctx, &certificatev1pb.RenewRequest{
		Certificate: signed.Status.Certificate, CertificateRequest: signed.Spec.Request,
	}); err == nil || !strings.Contains(err.Error(), "CertificateSigningRequest") {
		t.Errorf("renewing it: %v", err)
	}

	asked(t, s.api, "wrong", user, pkix.Name{CommonName: "jane"}, clients, certificatesv1.UsageServerAuth)
	approve(t, s, "wrong")
	harness.Eventually(t, patience, "a request against the signer's rules fails", answered(s, "wrong", conditioned(certificatesv1.CertificateFailed)))
	root, _ := pki.NewKey()
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "eve", Organization: []string{"system:masters"}}}, root)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.api.Create(ctx, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "eve"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}), SignerName: user, Usages: []certificatesv1.KeyUsage{clients},
		},
	}); err == nil || !strings.Contains(err.Error(), "system:masters group is not allowed") {
		t.Errorf("a request to become an administrator: %v", err)
	}

	// Kubelets are approved if a role says so, and not before.
	node := pkix.Name{CommonName: "system:node:n1", Organization: []string{"system:nodes"}}
	asked(t, s.api, "kubelet", kubelet, node, clients, signs)
	asked(t, s.api, "other", user, pkix.Name{CommonName: "system:node:n1"}, clients)
	create(t, s, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "approve-nodes"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:certificates.k8s.io:certificatesigningrequests:nodeclient"},
		Subjects:   []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: "jane"}},
	})
	create(t, s, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "ask"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "ask"},
		Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: "jane"}},
	})
	create(t, s, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "ask"}, Rules: []rbacv1.PolicyRule{{
		Verbs: []string{"create"}, APIGroups: []string{certificatesv1.GroupName}, Resources: []string{"certificatesigningrequests"},
	}}})
	asked(t, client.New(conn), "janes", kubelet, node, clients, signs)
	harness.Eventually(t, patience, "a kubelet's request is approved and signed", answered(s, "janes", issued))
	if r, err := get[*certificatesv1.CertificateSigningRequest](s, "", "other"); err != nil || len(r.Status.Conditions) > 0 {
		t.Errorf("a user's request that nobody has approved: %v, conditions %v", err, r.Status.Conditions)
	}
}

func testTokenSecrets(t *harness.T, s *stack) {
	ns := namespace(t, s, "tokens")
	account := create(t, s, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "robot"}})
	secret := func(name, of string) *corev1.Secret {
		return &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Annotations: map[string]string{corev1.ServiceAccountNameKey: of}},
			Type:       corev1.SecretTypeServiceAccountToken,
		}
	}
	complete := func(name string) func() error {
		return func() error {
			have, err := get[*corev1.Secret](s, ns, name)
			if err == nil && (len(have.Data["token"]) == 0 || string(have.Data["ca.crt"]) != string(s.ca.CertificatePEM()) || string(have.Data["namespace"]) != ns || have.Annotations[corev1.ServiceAccountUIDKey] == "") {
				err = fmt.Errorf("annotations %v, %d entries", have.Annotations, len(have.Data))
			}
			return err
		}
	}
	held := create(t, s, secret("held", "robot"))
	if err := complete("held")(); err != nil {
		t.Errorf("a new secret is not complete: %v", err)
	}
	token := string(held.Data["token"])
	if who, code := whoami(t, s, nil, token); who.Username != "system:serviceaccount:tokens:robot" || who.UID != string(account.UID) {
		t.Errorf("the token makes its holder %v, answer %d", who, code)
	}
	change(t, s, ns, "held", "", func(s *corev1.Secret) { s.Data = nil })
	harness.Eventually(t, patience, "what is taken out comes back", complete("held"))
	if _, code := whoami(t, s, nil, token); code != http.StatusUnauthorized {
		t.Errorf("a token that was taken out of its secret is answered with %d", code)
	}

	// The account may come later.
	create(t, s, secret("early", "late"))
	create(t, s, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "late"}})
	harness.Eventually(t, patience, "a secret that waited for its account is complete", complete("early"))

	renewed, err := get[*corev1.Secret](s, ns, "held")
	if err != nil {
		t.Fatal(err)
	}
	s.remove(t, account, client.DeleteOptions{})
	if _, code := whoami(t, s, nil, string(renewed.Data["token"])); code != http.StatusUnauthorized {
		t.Errorf("a token of an account that is gone is answered with %d", code)
	}
	harness.Eventually(t, patience, "the secret goes with its account", gone[*corev1.Secret](s, ns, "held"))
	if err := complete("early")(); err != nil {
		t.Errorf("another account's secret: %v", err)
	}
}
