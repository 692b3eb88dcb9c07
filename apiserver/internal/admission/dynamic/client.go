package dynamic

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
)

const (
	// maxAnswer bounds what a webhook answers, in bytes; requests are at most 3 MiB.
	maxAnswer = 8 << 20
	// maxHeader bounds the header of an answer.
	maxHeader = 64 << 10
	// connectTimeout is for one of a service's addresses.
	connectTimeout = 2 * time.Second
	// handshakeTimeout is for TLS.
	handshakeTimeout = 5 * time.Second
	// idleTimeout is how long an unused connection is kept.
	idleTimeout = 90 * time.Second
	// concurrency is how many calls of one webhook are under way at once; others wait.
	concurrency = 64
	// pingAfter is how long a connection may be silent before it must prove, within
	// pingTimeout, that its far end is still there: pods vanish without a word.
	pingAfter   = 5 * time.Second
	pingTimeout = 3 * time.Second
	// tries are how many addresses of a service are tried for one connection.
	tries = 3
)

// DialFunc opens a connection, as net.Dialer.DialContext does.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// target is where a webhook is called. It lives as long as the webhook's clientConfig stays
// the same, whatever else of the configuration changes. Safe for concurrent use.
type target struct {
	url     string
	breaker breaker
	slots   chan struct{}
	client  *http.Client
}

// newTarget prepares calls; what is wrong with the configuration is an error of each call.
func (a *Admission) newTarget(config *admissionregistrationv1.WebhookClientConfig) (*target, error) {
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12, GetClientCertificate: a.cfg.ClientCertificate}
	if len(config.CABundle) > 0 {
		tlsConfig.RootCAs = x509.NewCertPool()
		if !tlsConfig.RootCAs.AppendCertsFromPEM(config.CABundle) {
			return nil, errors.New("clientConfig.caBundle holds no certificate in PEM")
		}
	}
	transport := &http.Transport{
		// No proxy: what is in the environment is not meant for webhooks.
		DialContext: a.dial, TLSClientConfig: tlsConfig, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: handshakeTimeout, IdleConnTimeout: idleTimeout, MaxIdleConnsPerHost: concurrency,
		MaxResponseHeaderBytes: maxHeader, DisableCompression: true,
		HTTP2: &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
	}
	t := &target{slots: make(chan struct{}, concurrency), client: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	switch service := config.Service; {
	case config.URL != nil:
		t.url = *config.URL
	case service != nil:
		port := int32(443)
		if service.Port != nil {
			port = *service.Port
		}
		name := service.Name + "." + service.Namespace + ".svc"
		tlsConfig.ServerName = name
		t.url = "https://" + net.JoinHostPort(name, strconv.Itoa(int(port)))
		if service.Path != nil {
			t.url += "/" + strings.TrimPrefix(*service.Path, "/")
		}
		key := types.NamespacedName{Namespace: service.Namespace, Name: service.Name}
		transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return a.dialService(ctx, network, key, port)
		}
	default:
		return nil, errors.New("clientConfig has neither url nor service")
	}
	return t, nil
}

func (t *target) close() { t.client.CloseIdleConnections() }

// call asks the webhook. The answer is checked as far as it can be without knowing what was asked.
func (t *target) call(ctx context.Context, review *admissionv1.AdmissionReview) (*admissionv1.AdmissionResponse, error) {
	body, err := json.Marshal(review)
	if err != nil {
		return nil, fmt.Errorf("encode the question: %w", err)
	}
	text, err := t.post(ctx, body)
	if err != nil {
		return nil, err
	}
	answer := &admissionv1.AdmissionReview{}
	if err := object.CheckDepth(text, maxDepth); err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	response := answer.Response
	switch {
	case response == nil:
		return nil, errors.New("the answer has no response")
	case review.APIVersion == reviewV1 && (answer.APIVersion != review.APIVersion || answer.Kind != review.Kind):
		return nil, fmt.Errorf("the answer is of %s %s, want %s %s", answer.APIVersion, answer.Kind, review.APIVersion, review.Kind)
	case review.APIVersion == reviewV1 && response.UID != review.Request.UID:
		return nil, fmt.Errorf("the answer is to the question %q, want %q", response.UID, review.Request.UID)
	case len(response.Patch) > 0 && (response.PatchType == nil && review.APIVersion == reviewV1 || response.PatchType != nil && *response.PatchType != admissionv1.PatchTypeJSONPatch):
		return nil, errors.New("the answer has a patch whose patchType is not JSONPatch")
	case len(response.Patch) == 0 && response.PatchType != nil && review.APIVersion == reviewV1:
		return nil, errors.New("the answer has a patchType without a patch")
	}
	return response, nil
}

// post sends the question, once more on a new connection when one that was kept turns out dead.
func (t *target) post(ctx context.Context, body []byte) ([]byte, error) {
	text, err := t.postOnce(ctx, body)
	if err != nil && ctx.Err() == nil && lostConnection(err) {
		text, err = t.postOnce(ctx, body)
	}
	return text, err
}

// lostConnection tells that the far end closed a connection before it answered.
func lostConnection(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func (t *target) postOnce(ctx context.Context, body []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, t.url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", "kijabi-apiserver-admission")
	response, err := t.client.Do(request)
	if err != nil {
		t.client.CloseIdleConnections() // the next call may find another endpoint
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the answer: %w", err)
	case len(text) > maxAnswer:
		return nil, fmt.Errorf("the answer is longer than %d bytes", maxAnswer)
	case response.StatusCode < 200 || response.StatusCode > 299:
		return nil, fmt.Errorf("it answered with status %d: %.256q", response.StatusCode, text)
	}
	return text, nil
}

// dial opens a connection to where a URL leads.
func (a *Admission) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if a.cfg.Dial != nil {
		return a.cfg.Dial(ctx, network, address)
	}
	dialer := net.Dialer{Timeout: connectTimeout, ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
		return permitted(address)
	}}
	return dialer.DialContext(ctx, network, address)
}

// permitted refuses addresses that are no webhook's, such as those where clouds give out
// credentials.
func permitted(address string) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	if ip := to.Addr().Unmap(); ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() {
		return fmt.Errorf("%s is no address that webhooks may have", ip)
	}
	return nil
}

// dialService opens a connection to a ready endpoint of a service, or to its cluster address
// if none is reached.
func (a *Admission) dialService(ctx context.Context, network string, service types.NamespacedName, port int32) (net.Conn, error) {
	addresses, err := a.addressesOf(service, port)
	if err != nil {
		return nil, err
	}
	for _, address := range addresses {
		var conn net.Conn
		if conn, err = a.dial(ctx, network, address); err == nil {
			return conn, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("service %s: %w", service, err)
}

// addressesOf lists where a service's port is served: some of its ready endpoints in any
// order, then its cluster address.
func (a *Admission) addressesOf(name types.NamespacedName, port int32) ([]string, error) {
	record, ok := a.cfg.Store.Get(store.Key{Resource: "services", Namespace: name.Namespace, Name: name.Name})
	if !ok {
		return nil, fmt.Errorf("service %s does not exist", name)
	}
	obj, err := object.Decode(object.KindOf[*corev1.Service](), record.Value)
	if err != nil {
		return nil, fmt.Errorf("service %s: %w", name, err)
	}
	service := obj.(*corev1.Service)
	portName, found := "", false
	for _, p := range service.Spec.Ports {
		if p.Port == port && (p.Protocol == "" || p.Protocol == corev1.ProtocolTCP) {
			portName, found = p.Name, true
		}
	}
	if !found {
		return nil, fmt.Errorf("service %s has no TCP port %d", name, port)
	}
	addresses := a.endpoints(name, portName)
	rand.Shuffle(len(addresses), func(i, j int) { addresses[i], addresses[j] = addresses[j], addresses[i] })
	addresses = addresses[:min(len(addresses), tries)]
	if ip := service.Spec.ClusterIP; ip != "" && ip != corev1.ClusterIPNone {
		addresses = append(addresses, net.JoinHostPort(ip, strconv.Itoa(int(port))))
	}
	if len(addresses) == 0 {
		return nil, fmt.Errorf("service %s has no ready endpoint", name)
	}
	return addresses, nil
}

// endpoints lists the ready addresses of a service's port.
func (a *Admission) endpoints(service types.NamespacedName, port string) []string {
	var found []string
	for _, record := range a.cfg.Store.Snapshot("endpointslices."+discoveryv1.GroupName, service.Namespace).Records {
		if record.Index.Labels.Get(discoveryv1.LabelServiceName) != service.Name {
			continue
		}
		obj, err := object.Decode(object.KindOf[*discoveryv1.EndpointSlice](), record.Value)
		if err != nil {
			continue // the store has quarantined it
		}
		slice := obj.(*discoveryv1.EndpointSlice)
		number := int32(0)
		for _, p := range slice.Ports {
			if p.Port != nil && (p.Name == nil && port == "" || p.Name != nil && *p.Name == port) {
				number = *p.Port
			}
		}
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			if number > 0 && len(e.Addresses) > 0 && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
				found = append(found, net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(number))))
			}
		}
	}
	return found
}
