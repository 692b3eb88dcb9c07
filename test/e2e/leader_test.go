package e2e

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

// testLeaderKilled pulls the plug of the leading master.
func testLeaderKilled(t *testing.T, c *cluster) {
	c.guestbook(t)
	namespace := c.namespace(t, "writes")
	before, err := c.status(t)
	if err != nil {
		t.Fatal(err)
	}
	machines := c.machines(t)
	var survivors []string
	for _, master := range before.Masters {
		if master.Name != before.Leader {
			survivors = append(survivors, machines[master.Name].Address)
		}
	}
	p := probe(t, c.guestbookURLs(t, before.Leader)...)
	w := c.write(t, namespace, survivors...)
	eventually(t, 20*time.Second, "200 writes", func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.acknowledged) < 200 {
			return fmt.Errorf("%d so far", len(w.acknowledged))
		}
		return nil
	})

	killed := time.Now()
	c.power(t, "kill", before.Leader)
	// Asked for right away, before anybody has noticed.
	c.kubectl(t, "scale", "deployment/guestbook", "--replicas=4")
	t.Logf("the scale-up was accepted %s after the kill", time.Since(killed).Round(time.Millisecond))
	c.awaitDeployment(t, 30*time.Second, "default", "guestbook", 4)
	t.Logf("and was complete after %s", time.Since(killed).Round(time.Millisecond))
	after, err := c.status(t)
	if err != nil {
		t.Fatal(err)
	}
	if after.Leader == before.Leader || after.Leader == "" || after.Epoch <= before.Epoch {
		t.Errorf("leader %s in epoch %d after %s in epoch %d", after.Leader, after.Epoch, before.Leader, before.Epoch)
	}

	c.power(t, "start", before.Leader)
	c.awaitHealthy(t, time.Minute)
	t.Logf("the killed master was back after %s", time.Since(killed).Round(time.Millisecond))
	eventually(t, 20*time.Second, "guestbook answers on the machine that was killed", func() error {
		var errs []error
		for _, url := range c.guestbookURLs(t) {
			errs = append(errs, request(t.Context(), url))
		}
		return errors.Join(errs...)
	})
	w.mustBeThere(t, c)
	p.mustNotHaveFailed(t)
	c.kubectl(t, "scale", "deployment/guestbook", "--replicas=2")
	c.awaitDeployment(t, 30*time.Second, "default", "guestbook", 2)
}
