// Package dynamictest serves admission webhooks to tests, over real HTTPS.
package dynamictest

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/platform/pki"
)

// Answer is what a webhook makes of a question. It may be called concurrently.
type Answer func(q *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse

// Webhook is a server of one webhook. All methods are safe for concurrent use.
type Webhook struct {
	server *httptest.Server
	ca     []byte

	mu     sync.Mutex
	answer Answer
	raw    http.HandlerFunc
	seen   []*admissionv1.AdmissionRequest
	calls  int
	conns  map[net.Conn]bool
}

// Serve starts a webhook that allows everything, under 127.0.0.1 and the given DNS names.
func Serve(t testing.TB, names ...string) *Webhook {
	t.Helper()
	ca, err := pki.NewCA("webhook", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	certPEM, keyPEM, err := ca.Issue(pki.LeafRequest{
		CommonName: "webhook", DNSNames: names, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, Life: time.Hour, Server: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	w := &Webhook{ca: ca.CertificatePEM(), answer: Allow, conns: map[net.Conn]bool{}}
	w.server = httptest.NewUnstartedServer(w)
	w.server.EnableHTTP2 = true
	w.server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	w.server.Config.ConnState = func(conn net.Conn, state http.ConnState) {
		if state == http.StateNew {
			w.mu.Lock()
			w.conns[conn] = true
			w.mu.Unlock()
		}
	}
	w.server.StartTLS()
	t.Cleanup(w.Close)
	return w
}

// Close ends the server; calls then fail to connect.
func (w *Webhook) Close() {
	w.server.CloseClientConnections()
	w.server.Close()
}

// Allow allows everything.
func Allow(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	return &admissionv1.AdmissionResponse{Allowed: true}
}

// Deny refuses everything with a message.
func Deny(message string) Answer {
	return func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return &admissionv1.AdmissionResponse{Result: &metav1.Status{Message: message, Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden}}
	}
}

// Patch allows everything changed by a JSON patch.
func Patch(patch string) Answer {
	return func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		kind := admissionv1.PatchTypeJSONPatch
		return &admissionv1.AdmissionResponse{Allowed: true, Patch: []byte(patch), PatchType: &kind}
	}
}

// Set changes how the webhook answers.
func (w *Webhook) Set(answer Answer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer, w.raw = answer, nil
}

// SetRaw makes the webhook answer with whatever it likes.
func (w *Webhook) SetRaw(answer http.HandlerFunc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.raw = answer
}

// Hang makes the webhook answer nothing until its caller gives up.
func (w *Webhook) Hang() {
	w.SetRaw(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
}

// Seen returns the questions since the last call of Seen.
func (w *Webhook) Seen() []*admissionv1.AdmissionRequest {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := w.seen
	w.seen = nil
	return seen
}

// Calls counts all calls, answered or not, and Connections what they came through.
func (w *Webhook) Calls() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.calls
}

// Connections counts all connections there have been.
func (w *Webhook) Connections() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.conns)
}

// URL of the webhook.
func (w *Webhook) URL() string { return w.server.URL + "/hook" }

// CA that its certificate is from, in PEM.
func (w *Webhook) CA() []byte { return w.ca }

// Client is the clientConfig by URL.
func (w *Webhook) Client() admissionregistrationv1.WebhookClientConfig {
	url := w.URL()
	return admissionregistrationv1.WebhookClientConfig{URL: &url, CABundle: w.ca}
}

// Dial connects to the webhook whatever the address, as if it were served there; known tells
// which addresses are.
func (w *Webhook) Dial(known func(address string) error) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if err := known(address); err != nil {
			return nil, err
		}
		return (&net.Dialer{}).DialContext(ctx, network, w.server.Listener.Addr().String())
	}
}

// ServeHTTP implements http.Handler.
func (w *Webhook) ServeHTTP(out http.ResponseWriter, r *http.Request) {
	text, err := io.ReadAll(r.Body)
	review := &admissionv1.AdmissionReview{}
	if err == nil {
		err = json.Unmarshal(text, review)
	}
	if err != nil || review.Request == nil {
		http.Error(out, "no AdmissionReview", http.StatusBadRequest)
		return
	}
	w.mu.Lock()
	w.calls++
	w.seen = append(w.seen, review.Request)
	answer, raw := w.answer, w.raw
	w.mu.Unlock()
	if raw != nil {
		raw(out, r)
		return
	}
	response := answer(review.Request)
	response.UID = review.Request.UID
	out.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(out).Encode(&admissionv1.AdmissionReview{TypeMeta: review.TypeMeta, Response: response})
}
