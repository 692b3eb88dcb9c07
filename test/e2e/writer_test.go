package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// writer makes ConfigMaps through several masters, all the time, with client-go as a
// program that knows nothing of Kijabi would, and remembers what was acknowledged.
type writer struct {
	namespace string
	cancel    context.CancelFunc
	done      sync.WaitGroup

	mu           sync.Mutex
	acknowledged []string
	refused      []string
	last         time.Time
	longest      time.Duration // between two acknowledgements
}

// clientset talks to one master's REST door.
func (c *cluster) clientset(t *testing.T, address string) *kubernetes.Clientset {
	t.Helper()
	identity := c.userIdentity()
	set, err := kubernetes.NewForConfig(&rest.Config{
		Host: "https://" + address + ":6443", Timeout: 20 * time.Second, QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{CertFile: identity.CertFile, KeyFile: identity.KeyFile, CAFile: identity.CAFile},
	})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// withToken talks to one master's REST door as the holder of a token.
func (c *cluster) withToken(t *testing.T, address, token string) *kubernetes.Clientset {
	t.Helper()
	set, err := kubernetes.NewForConfig(&rest.Config{
		Host: "https://" + address + ":6443", Timeout: 20 * time.Second, BearerToken: token,
		TLSClientConfig: rest.TLSClientConfig{CAFile: c.userIdentity().CAFile},
	})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func (c *cluster) write(t *testing.T, namespace string, addresses ...string) *writer {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &writer{namespace: namespace, cancel: cancel, last: time.Now()}
	for i, address := range addresses {
		configMaps := c.clientset(t, address).CoreV1().ConfigMaps(namespace)
		w.done.Go(func() {
			pace := time.NewTicker(5 * time.Millisecond)
			defer pace.Stop()
			for number := 0; ; number++ {
				name := fmt.Sprintf("w%d-%d", i, number)
				_, err := configMaps.Create(ctx, &corev1.ConfigMap{
					ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"number": name},
				}, metav1.CreateOptions{})
				w.note(name, err)
				select {
				case <-ctx.Done():
					return
				case <-pace.C:
				}
			}
		})
	}
	t.Cleanup(w.stop)
	return w
}

func (w *writer) note(name string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err == nil:
		now := time.Now()
		w.longest = max(w.longest, now.Sub(w.last))
		w.last = now
		w.acknowledged = append(w.acknowledged, name)
	case apierrors.IsAlreadyExists(err):
		w.refused = append(w.refused, name+" exists already, though nobody was told that it was made")
	}
}

func (w *writer) stop() {
	w.cancel()
	w.done.Wait()
}

// mustBeThere ends the writer; all that was acknowledged must be there.
func (w *writer) mustBeThere(t *testing.T, c *cluster) {
	t.Helper()
	w.stop()
	all, err := list[*corev1.ConfigMap](c, w.namespace, "")
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, cm := range all {
		if cm.Data["number"] == cm.Name {
			there[cm.Name] = true
		}
	}
	var lost []string
	for _, name := range w.acknowledged {
		if !there[name] {
			lost = append(lost, name)
		}
	}
	t.Logf("%d writes acknowledged, %d there; at most %s from one to the next", len(w.acknowledged), len(all), w.longest.Round(time.Millisecond))
	if len(lost) > 0 {
		t.Errorf("%d of %d acknowledged writes are lost: %s", len(lost), len(w.acknowledged), strings.Join(lost, " "))
	}
	for _, text := range w.refused {
		t.Error(text)
	}
	if len(w.acknowledged) < 100 {
		t.Errorf("only %d writes were acknowledged", len(w.acknowledged))
	}
}
