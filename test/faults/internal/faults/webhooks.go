package faults

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/pki"
)

const (
	// hooked is the namespace whose writes a webhook is asked about.
	hooked = "hooked"
	// webhookTimeout is what the configuration grants it, in seconds, and webhookDelay what it takes.
	webhookTimeout = 2
	webhookDelay   = 30 * time.Second
	// failuresInARow are enough for an apiserver to stop asking for a while.
	failuresInARow = 5
)

// deadWebhooks must be asked and do not answer.
func deadWebhooks() []Fault {
	one := func(id, about string, slow bool) Fault {
		return Fault{
			ID: id, About: about, Hold: time.Second, Limit: time.Second, KeepsLeader: true,
			Inject: func(ctx context.Context, s Scene) (*Injection, error) { return askNobody(ctx, s, slow) },
		}
	}
	return []Fault{
		one("F22/dead", "a webhook that must be asked about kube-system and another namespace refuses connections", false),
		one("F22/slow", "the same webhook takes 30 s for each answer", true),
	}
}

func askNobody(ctx context.Context, s Scene, slow bool) (*Injection, error) {
	hook, err := startWebhook(ctx, s.Cluster.Host(), slow)
	if err != nil {
		return nil, err
	}
	conn, err := s.Cluster.Dial(s.Leader)
	if err != nil {
		return nil, errors.Join(err, hook.end())
	}
	api := client.New(conn)
	config := hook.configuration()
	in := &Injection{
		Verify: func(ctx context.Context) error { return onlyHookedRefused(ctx, s) },
		Heal: func(ctx context.Context) error {
			defer func() { _ = conn.Close() }()
			err := errors.Join(api.Delete(ctx, config, client.DeleteOptions{}), hook.end())
			if err == nil {
				err = write(ctx, api, hooked)
			}
			return err
		},
	}
	if _, err := api.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: hooked}}); err != nil && !apierrors.IsAlreadyExists(err) {
		return nil, errors.Join(err, hook.end(), conn.Close())
	}
	_, err = api.Create(ctx, config)
	return in, err
}

// webhook is a server of one.
type webhook struct {
	address string
	ca      []byte
	server  *http.Server
	served  errgroup.Group
}

func startWebhook(ctx context.Context, host string, slow bool) (*webhook, error) {
	ca, err := pki.NewCA("webhook", time.Hour)
	if err != nil {
		return nil, err
	}
	certPEM, keyPEM, err := ca.Issue(pki.LeafRequest{CommonName: "webhook", IPs: []net.IP{net.ParseIP(host)}, Server: true})
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return nil, err
	}
	w := &webhook{address: listener.Addr().String(), ca: ca.CertificatePEM()}
	if !slow { // nobody listens any more
		return w, listener.Close()
	}
	w.server = &http.Server{
		ReadHeaderTimeout: webhookDelay, TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13},
		Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-r.Context().Done():
			case <-time.After(webhookDelay):
			}
		}),
	}
	w.served.Go(func() error { return w.server.ServeTLS(listener, "", "") })
	return w, nil
}

func (w *webhook) end() error {
	if w.server == nil {
		return nil
	}
	err := w.server.Close()
	if served := w.served.Wait(); !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// configuration has it asked about all that is written in two namespaces, one of which no webhook
// is shown.
func (w *webhook) configuration() *admissionregistrationv1.ValidatingWebhookConfiguration {
	url := "https://" + w.address + "/"
	return &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "f22"},
		Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name: "f22.kijabi.dev", AdmissionReviewVersions: []string{"v1"},
			ClientConfig:  admissionregistrationv1.WebhookClientConfig{URL: &url, CABundle: w.ca},
			SideEffects:   new(admissionregistrationv1.SideEffectClassNone),
			FailurePolicy: new(admissionregistrationv1.Fail), TimeoutSeconds: new(int32(webhookTimeout)),
			Rules: []admissionregistrationv1.RuleWithOperations{{
				Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.OperationAll},
				Rule:       admissionregistrationv1.Rule{APIGroups: []string{"*"}, APIVersions: []string{"*"}, Resources: []string{"*/*"}},
			}},
			NamespaceSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{
				Key: corev1.LabelMetadataName, Operator: metav1.LabelSelectorOpIn, Values: []string{hooked, metav1.NamespaceSystem},
			}}},
		}},
	}
}

// onlyHookedRefused checks through every master that what the webhook is asked about is refused in
// time, and at once after some failures, while kube-system is not concerned.
func onlyHookedRefused(ctx context.Context, s Scene) error {
	var masters errgroup.Group
	for _, name := range s.Cluster.Masters() {
		masters.Go(func() error {
			conn, err := s.Cluster.Dial(name)
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close() }()
			if err := refusedInTime(ctx, client.New(conn)); err != nil {
				return fmt.Errorf("through %s: %w", name, err)
			}
			return nil
		})
	}
	return masters.Wait()
}

func refusedInTime(ctx context.Context, api *client.Client) error {
	refused := func(within time.Duration) error {
		began := time.Now()
		err := write(ctx, api, hooked)
		if took := time.Since(began); err == nil || took > within {
			return errors.Join(fmt.Errorf("a write that the webhook must be asked about was answered after %s, not refused within %s", took, within), err)
		}
		return nil
	}
	var together errgroup.Group
	for range failuresInARow {
		together.Go(func() error { return refused(webhookTimeout*time.Second + time.Second) })
	}
	together.Go(func() error {
		began := time.Now()
		if err := write(ctx, api, metav1.NamespaceSystem); err != nil || time.Since(began) > time.Second {
			return errors.Join(fmt.Errorf("a write to %s took %s", metav1.NamespaceSystem, time.Since(began)), err)
		}
		return nil
	})
	if err := together.Wait(); err != nil {
		return err
	}
	return refused(time.Second)
}

// write creates an object and deletes it.
func write(ctx context.Context, api *client.Client, namespace string) error {
	cm, err := api.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, GenerateName: "f22-"}})
	if err != nil {
		return err
	}
	return api.Delete(ctx, cm, client.DeleteOptions{})
}
