package e2e

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/test/harness"
)

// answers are the times at which requests were answered.
type answers struct {
	mu  sync.Mutex
	all []time.Time
}

// ask makes requests one after the other until ctx ends.
func (a *answers) ask(ctx context.Context, request func() error) {
	for ctx.Err() == nil {
		if request() == nil {
			a.mu.Lock()
			a.all = append(a.all, time.Now())
			a.mu.Unlock()
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// since fails unless n requests were answered after a time.
func (a *answers) since(at time.Time, n int) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.all) < n || a.all[len(a.all)-n].Before(at) {
		return fmt.Errorf("fewer than %d answers, %d in all", n, len(a.all))
	}
	return nil
}

// gap is the longest time between two answers.
func (a *answers) gap() (longest time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := 1; i < len(a.all); i++ {
		longest = max(longest, a.all[i].Sub(a.all[i-1]))
	}
	return longest
}

// leaderHolds fails unless the leader has the virtual address, which it returns.
func (c *cluster) leaderHolds(t *harness.T) (string, error) {
	t.Helper()
	s, err := c.Status(t)
	if err != nil {
		return "", err
	}
	if len(s.VirtualAddresses) != 1 || s.VirtualAddresses[0].Holder != s.Leader || s.VirtualAddresses[0].Address != virtual {
		return "", fmt.Errorf("%s leads, and the virtual addresses are %v", s.Leader, s.VirtualAddresses)
	}
	return s.Leader, nil
}

// testVIP kills the leader's apiserver, whose machine still has the virtual address and answers
// for it. Requests of one who knows no other address go on.
func testVIP(t *harness.T, c *cluster) {
	leader := ""
	holds := func() (err error) {
		leader, err = c.leaderHolds(t)
		return err
	}
	harness.Eventually(t, 10*time.Second, "the leader holds the virtual address", holds)
	if config := c.Kubectl(t, "config", "view", "--minify"); !strings.Contains(config, "https://"+virtual+":6443") {
		t.Errorf("the kubeconfig's server is not the virtual address:\n%s", config)
	}
	namespaces := c.clientset(t, virtual, "").CoreV1().Namespaces()
	var a answers
	asking, stop := context.WithCancel(t.Context())
	var asker sync.WaitGroup
	asker.Go(func() {
		a.ask(asking, func() error {
			_, err := namespaces.Get(asking, "default", metav1.GetOptions{})
			return err
		})
	})
	defer asker.Wait()
	defer stop()
	harness.Eventually(t, 10*time.Second, "answers", func() error { return a.since(time.Time{}, 50) })

	former, pid := leader, 0
	for _, unit := range c.Machines(t)[former].Units {
		if unit.Name == "apiserver" {
			pid = unit.PID
		}
	}
	c.Kijabi(t, "machine", "shell", "--name", c.Name, former, "--", "kill", "-KILL", strconv.Itoa(pid))
	killed := time.Now()
	harness.Eventually(t, 10*time.Second, "answers again", func() error { return a.since(killed.Add(2*time.Second), 50) })
	t.Logf("without an answer through the virtual address for %s", a.gap().Round(time.Millisecond))
	harness.Eventually(t, 10*time.Second, "the new leader holds the virtual address", holds)
	if leader == former {
		t.Errorf("%s leads although it was killed", leader)
	}
	c.AwaitHealthy(t, time.Minute)
}
