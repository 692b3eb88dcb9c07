package deploy

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kijabi.dev/test/harness"
)

// TestDeploy makes five empty machines a cluster, changes it by the file, and breaks
// things meanwhile.
func TestDeploy(tt *testing.T) {
	t := harness.Begin(tt)
	l := newLaptop(t)
	l.makeBundle(t, runtime.GOARCH)
	l.machines(t)
	all := slices.Sorted(maps.Keys(addresses()))
	l.writeHosts(t, all...)
	for _, step := range []struct {
		name string
		run  func(*harness.T)
	}{
		{"NothingWithoutConsent", l.testConsent},
		{"Deploy", l.testDeploy},
		{"NothingToDo", l.testNothingToDo},
		{"Prune", l.testPrune},
		{"Interrupt", l.testInterrupt},
		{"OneIsDown", l.testOneIsDown},
	} {
		if !t.Run(step.name, func(t *harness.T) { l.KeepArtifacts(t); step.run(t) }) {
			break // the next needs it
		}
	}
}

// writeHosts writes the file with these machines.
func (l *laptop) writeHosts(t *harness.T, names ...string) {
	t.Helper()
	text := "apiVersion: kijabi.dev/v1\nkind: Hosts\ncluster: " + fleet + "\nbundle: kijabi-" + version + "-linux-" + runtime.GOARCH +
		".tar.gz\ndefaults: {keyFile: key}\nhosts:\n"
	for _, name := range names {
		role, more := "node", ""
		if strings.HasPrefix(name, "master") {
			role = "master"
		}
		switch name {
		case "master-2":
			more = ", schedulable: true"
		case "node-2":
			more = ", labels: {disk: ssd}"
		}
		text += fmt.Sprintf("- {name: %s, address: %s, role: %s%s}\n", name, addresses()[name], role, more)
	}
	if err := os.WriteFile(l.path("hosts.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (l *laptop) deploy(t *harness.T, flags ...string) harness.Outcome {
	t.Helper()
	return l.Try(t, append([]string{"deploy", l.path("hosts.yaml")}, flags...)...)
}

func (l *laptop) testConsent(t *harness.T) {
	result := l.deploy(t, "--yes")
	if result.Code != 1 || strings.Count(result.Stderr, "Error: ") != 1 {
		t.Errorf("machines whose keys are not known: %s", result)
	}
	harness.Contains(t, "the error", result.Stderr, "master-1: its host key is not known", "node-2: its host key is not known", "SHA256:", "--accept-new")

	result = l.deploy(t, "--accept-new")
	if result.Code != 1 {
		t.Errorf("without a terminal and without --yes: %s", result)
	}
	harness.Contains(t, "the error", result.Stderr, "nothing was done", "--yes")
	harness.Contains(t, "the plan", result.Stdout, "install programs "+version, "found the cluster", "join as master", "join as node")
	for name := range addresses() {
		l.clean(t, name)
	}
}

// nodes returns the cluster's nodes, asked with the access that deploy wrote.
func (l *laptop) nodes(t *harness.T) (map[string]corev1.Node, error) {
	t.Helper()
	var list corev1.NodeList
	if err := json.Unmarshal([]byte(l.Kubectl(t, "get", "nodes", "-o", "json")), &list); err != nil {
		return nil, err
	}
	all := map[string]corev1.Node{}
	for _, node := range list.Items {
		all[node.Name] = node
	}
	return all, nil
}

// ready checks that the cluster has exactly these nodes, and that they are Ready.
func (l *laptop) ready(t *harness.T, wanted ...string) error {
	t.Helper()
	nodes, err := l.nodes(t)
	if err != nil {
		return err
	}
	var sick []string
	for _, name := range wanted {
		node, ok := nodes[name]
		ready := harness.NodeReady(&node) == corev1.ConditionTrue
		if !ok || !ready {
			sick = append(sick, fmt.Sprintf("%s: known %t, Ready %t", name, ok, ready))
		}
	}
	if len(nodes) != len(wanted) {
		sick = append(sick, fmt.Sprintf("%d nodes, want %d", len(nodes), len(wanted)))
	}
	if len(sick) > 0 {
		return errors.New(strings.Join(sick, "; "))
	}
	return nil
}

func (l *laptop) testDeploy(t *harness.T) {
	result := l.deploy(t, "--yes")
	if result.Code != 0 {
		t.Fatal(result)
	}
	t.Logf("3 masters and 2 nodes after %s", result.Took.Round(100*time.Millisecond))
	harness.Contains(t, "the end", result.Stdout, l.path(".kijabi/kubeconfig"), "kijabi kubectl get nodes")
	if err := l.ready(t, slices.Collect(maps.Keys(addresses()))...); err != nil {
		t.Error(err)
	}
	status, err := l.Status(t)
	if err != nil || status.Leader == "" || len(status.Voters) != 3 || len(status.Masters) != 3 {
		t.Errorf("status %+v, %v", status, err)
	}
	nodes, err := l.nodes(t)
	if err != nil {
		t.Fatal(err)
	}
	for name, node := range nodes {
		tainted := slices.ContainsFunc(node.Spec.Taints, func(taint corev1.Taint) bool { return taint.Key == "node-role.kubernetes.io/control-plane" })
		if want := name == "master-1" || name == "master-3"; tainted != want {
			t.Errorf("taint of a master on %s: %t, want %t", name, tainted, want)
		}
		if want := name == "node-2"; (node.Labels["disk"] == "ssd") != want {
			t.Errorf("label disk of %s is %q", name, node.Labels["disk"])
		}
	}
	if link := strings.TrimSpace(l.inside(t, "node-1", "readlink /opt/kijabi")); link != "kijabi-"+version {
		t.Errorf("/opt/kijabi points to %q", link)
	}
}

func (l *laptop) testNothingToDo(t *harness.T) {
	before := l.running(t)
	result := l.deploy(t) // there is nothing to agree to
	if result.Code != 0 || strings.Count(result.Stdout, "nothing to do") != 5 {
		t.Errorf("a second run: %s", result)
	}
	t.Logf("nothing to do after %s", result.Took.Round(10*time.Millisecond))
	if after := l.running(t); !maps.Equal(before, after) {
		t.Errorf("programs were restarted: %v, before %v", after, before)
	}
}

func (l *laptop) testPrune(t *harness.T) {
	rest := []string{"master-1", "master-2", "master-3", "node-1"}
	l.writeHosts(t, rest...)
	result := l.deploy(t)
	if result.Code != 0 {
		t.Fatal(result)
	}
	harness.Contains(t, "the plan", result.Stdout, "node-2", "not in the file: --prune takes it out")
	if result = l.deploy(t, "--yes", "--prune"); result.Code != 0 {
		t.Fatal(result)
	}
	if err := l.ready(t, rest...); err != nil {
		t.Error(err)
	}
	l.clean(t, "node-2")
}

// testInterrupt interrupts the command while a node joins.
func (l *laptop) testInterrupt(t *harness.T) {
	l.writeHosts(t, slices.Sorted(maps.Keys(addresses()))...)
	reader, writer := io.Pipe()
	command := l.Command(t.Context(), harness.Invocation{Argv: []string{filepath.Join(l.Bin, "kijabi"), "deploy", l.path("hosts.yaml"), "--yes"}})
	var stdout bytes.Buffer
	command.Stdout, command.Stderr = &stdout, writer
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	var said []string
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		for scanner := bufio.NewScanner(reader); scanner.Scan(); {
			said = append(said, scanner.Text())
			if strings.Contains(scanner.Text(), "node-2: certificates obtained") {
				_ = command.Process.Signal(syscall.SIGINT)
			}
		}
	}()
	err := command.Wait()
	_ = writer.Close()
	<-finished
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Fatalf("%v\nstdout: %s\nstderr: %s", err, stdout.String(), strings.Join(said, "\n"))
	}
	harness.Contains(t, "the error", said[len(said)-1], "Error: 1 of 5 machines", "node-2", "interrupted")
	l.inside(t, "node-2", "rm -r /opt/kijabi /opt/kijabi-*") // the programs may stay for the next run
	l.clean(t, "node-2")
}

// testOneIsDown adds a machine while another is down.
func (l *laptop) testOneIsDown(t *harness.T) {
	l.Power(t, "kill", "node-1")
	result := l.deploy(t, "--yes")
	if result.Code != 1 || strings.Count(result.Stderr, "Error: ") != 1 {
		t.Errorf("with a machine that is down: %s", result)
	}
	harness.Contains(t, "the error", result.Stderr, "Error: 1 of 5 machines", "node-1: SSH at 10.102.0.21:22", "is the machine up", "run this again")
	nodes, err := l.nodes(t)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := nodes["node-2"]; !ok {
		t.Errorf("node-2 did not join meanwhile: %s", result)
	}

	l.Power(t, "start", "node-1")
	l.startSSH(t, "node-1")
	harness.Eventually(t, time.Minute, "all nodes are Ready", func() error { return l.ready(t, slices.Collect(maps.Keys(addresses()))...) })
	if result = l.deploy(t); result.Code != 0 || strings.Count(result.Stdout, "nothing to do") != 5 {
		t.Errorf("when all are up again: %s", result)
	}
}
