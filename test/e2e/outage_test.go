package e2e

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"kijabi.dev/test/harness"
)

// containersOf are the processes of containers on nodes, by machine, pid and program.
func containersOf(t *harness.T, programs ...string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	for machine, processes := range processesOf(t) {
		for _, p := range processes {
			if slices.Contains(programs, p.program) {
				found[machine+" "+p.pid+" "+p.program+" "+p.started] = true
			}
		}
	}
	return found
}

// testAllMastersKilled takes the whole control plane away.
func testAllMastersKilled(t *harness.T, c *cluster) {
	c.guestbook(t)
	c.Kubectl(t, "delete", "pod", "caller", "--ignore-not-found")
	c.Apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: caller, namespace: default}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: byname
    image: registry.kijabi.dev/toolbox:1
    args: [get, --fresh, --quiet, --count, "0", --every, 200ms, "http://guestbook.default.svc.cluster.local"]
  - name: victim
    image: registry.kijabi.dev/toolbox:1
    args: [tcp-echo, ":9999"]
`)
	c.awaitPod(t, 30*time.Second, "default", "caller", "is Ready", isReady)
	nodes := []string{"node-1", "node-2"}
	var before map[string]bool
	harness.Eventually(t, 40*time.Second, "pods of earlier steps have ended", func() error {
		if before = containersOf(t, "guestbook-web", "guestbook-store"); len(before) != 3 {
			return fmt.Errorf("containers of guestbook: %v, want 3", before)
		}
		return nil
	})
	p := harness.Probe(t, c.guestbookURLs(t, "master-1", "master-2", "master-3")...)

	c.Power(t, "kill", "master-1", "master-2", "master-3")
	if _, err := c.Status(t); err == nil {
		t.Error("status does not tell that no master leads")
	}
	for _, unit := range []string{"kubelet", "kube-proxy", "network-agent", "dns"} {
		for _, node := range nodes {
			was := c.Machines(t)[node]
			c.Kijabi(t, "machine", "restart", "--name", clusterName, node, unit)
			harness.Eventually(t, 20*time.Second, unit+" runs again on "+node, func() error {
				is := c.Machines(t)[node]
				for i, u := range is.Units {
					if u.Name == unit && u.State == "running" && u.PID != was.Units[i].PID {
						return nil
					}
				}
				return fmt.Errorf("units %v", is.Units)
			})
		}
	}
	harness.Eventually(t, 20*time.Second, "all programs of the nodes are healthy without a master", func() error {
		s, _ := c.Status(t)
		var errs []error
		for _, component := range s.Components {
			if slices.Contains(nodes, component.Machine) && !component.Healthy {
				errs = append(errs, fmt.Errorf("%s on %s: %s", component.Component, component.Machine, component.Reason))
			}
		}
		if len(s.Components) == 0 {
			errs = append(errs, errors.New("status knows no programs"))
		}
		return errors.Join(errs...)
	})
	// A restarted kubelet still looks after its pods: a container that dies is started again.
	victim := findProcess(t, "tcp-echo :9999")
	pid, err := strconv.Atoi(victim.pid)
	if err != nil {
		t.Fatalf("no process of the victim: %+v", victim)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, 30*time.Second, "a container that died is started again without a master", func() error {
		if now := findProcess(t, "tcp-echo :9999"); now.pid == "" || now.pid == victim.pid {
			return fmt.Errorf("process %q", now.pid)
		}
		return nil
	})
	p.Await(t, 100)
	if after := containersOf(t, "guestbook-web", "guestbook-store"); !maps.Equal(before, after) {
		t.Errorf("containers of guestbook: %v, before %v", after, before)
	}

	started := time.Now()
	c.Power(t, "start", "master-1", "master-2", "master-3")
	c.AwaitHealthy(t, 90*time.Second)
	t.Logf("Ready %s after the masters were started", time.Since(started).Round(100*time.Millisecond))
	p.MustNotHaveFailed(t)
	if after := containersOf(t, "guestbook-web", "guestbook-store"); !maps.Equal(before, after) {
		t.Errorf("containers of guestbook after the masters' return: %v, before %v", after, before)
	}
	if log := c.Kubectl(t, "logs", "caller", "-c", "byname"); strings.Contains(log, "failed") {
		t.Errorf("requests by name failed meanwhile:\n%s", harness.Tail(log, 10))
	}
	c.Kubectl(t, "delete", "pod", "caller")
	c.Kubectl(t, "scale", "deployment/guestbook", "--replicas=3")
	c.awaitDeployment(t, 30*time.Second, "default", "guestbook", 3)
	c.Kubectl(t, "scale", "deployment/guestbook", "--replicas=2")
	c.awaitDeployment(t, 30*time.Second, "default", "guestbook", 2)
}

func findProcess(t *harness.T, args string) process {
	t.Helper()
	for _, processes := range processesOf(t) {
		for _, p := range processes {
			if strings.HasSuffix(p.args, args) && p.program == "toolbox" {
				return p
			}
		}
	}
	return process{}
}
