package e2e

import (
	"context"
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/test/harness"
)

// write makes ConfigMaps through several masters, all the time.
func (c *cluster) write(t *harness.T, namespace string, addresses ...string) *harness.Writer {
	t.Helper()
	var ways []harness.Create
	for _, address := range addresses {
		configMaps := c.clientset(t, address, "").CoreV1().ConfigMaps(namespace)
		ways = append(ways, func(ctx context.Context, configMap *corev1.ConfigMap) error {
			_, err := configMaps.Create(ctx, configMap, metav1.CreateOptions{})
			return err
		})
	}
	return harness.Write(t, 5*time.Millisecond, ways...)
}

// testLeaderKilled pulls the plug of the leading master.
func testLeaderKilled(t *harness.T, c *cluster) {
	c.guestbook(t)
	namespace := c.namespace(t, "writes")
	before, err := c.Status(t)
	if err != nil {
		t.Fatal(err)
	}
	machines := c.Machines(t)
	var survivors []string
	for _, master := range before.Masters {
		if master.Name != before.Leader {
			survivors = append(survivors, machines[master.Name].Address)
		}
	}
	p := harness.Probe(t, c.guestbookURLs(t, before.Leader)...)
	w := c.write(t, namespace, survivors...)
	w.Await(t, 200)

	killed := time.Now()
	c.Power(t, "kill", before.Leader)
	// Asked for right away, before anybody has noticed.
	c.Kubectl(t, "scale", "deployment/guestbook", "--replicas=4")
	t.Logf("the scale-up was accepted %s after the kill", time.Since(killed).Round(time.Millisecond))
	c.awaitDeployment(t, 30*time.Second, "default", "guestbook", 4)
	t.Logf("and was complete after %s", time.Since(killed).Round(time.Millisecond))
	after, err := c.Status(t)
	if err != nil {
		t.Fatal(err)
	}
	if after.Leader == before.Leader || after.Leader == "" || after.Epoch <= before.Epoch {
		t.Errorf("leader %s in epoch %d after %s in epoch %d", after.Leader, after.Epoch, before.Leader, before.Epoch)
	}

	c.Power(t, "start", before.Leader)
	c.AwaitHealthy(t, time.Minute)
	t.Logf("the killed master was back after %s", time.Since(killed).Round(time.Millisecond))
	harness.Eventually(t, 20*time.Second, "guestbook answers on the machine that was killed", func() error {
		var errs []error
		for _, url := range c.guestbookURLs(t) {
			errs = append(errs, harness.Request(t.Context(), url))
		}
		return errors.Join(errs...)
	})
	w.MustBeThere(t, 100, func() ([]*corev1.ConfigMap, error) { return list[*corev1.ConfigMap](c, namespace, "") })
	p.MustNotHaveFailed(t)
	c.Kubectl(t, "scale", "deployment/guestbook", "--replicas=2")
	c.awaitDeployment(t, 30*time.Second, "default", "guestbook", 2)
}
