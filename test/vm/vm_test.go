package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"kijabi.dev/test/harness"
)

// TestInstall makes a release archive, unpacks it on five machines whose root is empty,
// and makes them a cluster by the commands that its README names.
func TestInstall(tt *testing.T) {
	t := harness.Begin(tt)
	l := newLab(t)
	l.makeArchive(t)
	l.verifyArchive(t)
	l.Claim(t)
	l.Kijabi(t, "machine", "create", "--name", labName, "--subnet", subnet, "--masters", "3", "--nodes", "2")
	l.unpack(t)
	empty := l.lookAt(t, "node-2")
	for _, step := range []struct {
		name string
		run  func(*harness.T, *lab)
	}{
		{"Install", testInstall},
		{"SecondInit", testSecondInit},
		{"Guestbook", testGuestbook},
		{"LeaderKilled", testLeaderKilled},
		{"Reset", func(t *harness.T, l *lab) { testReset(t, l, empty) }},
	} {
		started := time.Now()
		if !t.Run(step.name, func(t *harness.T) { l.KeepLogs(t); step.run(t, l) }) {
			t.Fatalf("what follows %s needs it", step.name)
		}
		t.Logf("%s took %s", step.name, time.Since(started).Round(100*time.Millisecond))
	}
}

// testInstall types what the first machine prints into the others.
func testInstall(t *harness.T, l *lab) {
	founded := l.in(t, "master-1", "kijabi", "master", "init")
	t.Logf("master init on master-1: %s", rounded(founded.Took))
	join := func(output, role, machine string) {
		t.Helper()
		argv := command(t, output, "kijabi "+role+" join")
		t.Logf("%s join on %s: %s", role, machine, rounded(l.in(t, machine, argv...).Took))
	}
	join(founded.Stdout, "master", "master-2")
	// The printed token was for one master; any master makes another.
	token := strings.TrimSpace(l.in(t, "master-2", "kijabi", "token", "create", "--role", "master").Stdout)
	took := l.in(t, "master-3", "kijabi", "master", "join", l.address("master-2"), "--token", token).Took
	t.Logf("master join on master-3: %s", rounded(took))
	join(founded.Stdout, "node", "node-1")
	join(founded.Stdout, "node", "node-2")
	l.awaitHealthy(t, "master-2", 30*time.Second)
}

// command returns the command line in a text that begins with prefix, without sudo: in
// the machines everybody is root.
func command(t *harness.T, text, prefix string) []string {
	t.Helper()
	for line := range strings.Lines(text) {
		line = strings.TrimPrefix(strings.TrimSpace(line), "sudo ")
		if strings.HasPrefix(line, prefix) {
			return strings.Fields(line)
		}
	}
	t.Fatalf("no command %q is printed: %s", prefix, text)
	return nil
}

func testSecondInit(t *harness.T, l *lab) {
	for machine, role := range map[string]string{"master-1": "master", "node-1": "node"} {
		result := l.Run(t, l.inside(machine, "kijabi", "master", "init"))
		message := strings.TrimSpace(result.Stderr)
		if result.Code == 0 || strings.Contains(message, "\n") || !strings.Contains(message, "already "+role+" "+machine) ||
			!strings.Contains(message, "kijabi reset") {
			t.Errorf("second init: %s", result)
		}
	}
	l.awaitHealthy(t, "master-1", 10*time.Second)
}

func testGuestbook(t *harness.T, l *lab) {
	var manifests strings.Builder
	paths, err := filepath.Glob(filepath.Join(l.Root, "examples", "guestbook", "*.yaml"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("manifests of the guestbook: %v, %v", paths, err)
	}
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&manifests, "---\n%s\n", content)
	}
	manifests.WriteString(toolbox)
	apply := l.inside("master-3", "kijabi", "kubectl", "apply", "-f", "-")
	apply.Input = manifests.String()
	l.Must(t, apply)
	for _, name := range []string{"guestbook-store", "guestbook"} {
		l.in(t, "master-3", "kijabi", "kubectl", "rollout", "status", "deployment/"+name, "--timeout=60s")
	}
	l.in(t, "master-3", "kijabi", "kubectl", "wait", "--for=condition=Ready", "pod/toolbox", "--timeout=60s")
	l.guestbookAnswers(t, l.names()...)
	for _, name := range []string{"guestbook.default.svc.cluster.local", "guestbook"} {
		l.in(t, "master-3", "kijabi", "kubectl", "exec", "toolbox", "--",
			"/toolbox", "get", "--fresh", "--quiet", "--count", "5", "--expect", "The Kijabi guestbook", "http://"+name)
	}
}

// toolbox is a pod to ask from.
const toolbox = `---
apiVersion: v1
kind: Pod
metadata:
  name: toolbox
spec:
  nodeName: node-1
  containers:
    - name: toolbox
      image: registry.kijabi.dev/toolbox:1
      imagePullPolicy: IfNotPresent
`

func testLeaderKilled(t *harness.T, l *lab) {
	before, err := l.status(t, "master-1")
	if err != nil {
		t.Fatal(err)
	}
	survivors := slices.DeleteFunc(l.masters(), func(name string) bool { return name == before.Leader })
	l.Power(t, "kill", before.Leader)
	killed := time.Now()
	harness.Eventually(t, 30*time.Second, "another master leads", func() error {
		now, err := l.status(t, survivors[0])
		if err != nil {
			return err
		}
		if now.Leader == before.Leader || now.Epoch <= before.Epoch {
			return fmt.Errorf("leader %s in epoch %d, was %s in %d", now.Leader, now.Epoch, before.Leader, before.Epoch)
		}
		return nil
	})
	t.Logf("another master leads: after %s", rounded(time.Since(killed)))
	l.guestbookAnswers(t, append(survivors, "node-1", "node-2")...)
	l.in(t, survivors[1], "kijabi", "kubectl", "label", "pod", "toolbox", "survived=yes")
	l.Power(t, "start", before.Leader)
	l.awaitHealthy(t, before.Leader, time.Minute)
}

// testReset takes a node out, looks whether the machine is as it was before it was
// installed, and installs it again.
func testReset(t *harness.T, l *lab, empty sight) {
	pods := l.in(t, "master-1", "kijabi", "kubectl", "get", "pods", "-o", "wide").Stdout
	if !strings.Contains(pods, "node-2") {
		t.Errorf("no pod runs on node-2, there is little to reset: %s", pods)
	}
	installed := l.lookAt(t, "node-2")
	if missing := installed.without(empty); len(missing) < 20 {
		t.Errorf("an installed machine shows only %v", missing)
	}
	l.in(t, "node-2", "kijabi", "reset")
	for _, thing := range l.lookAt(t, "node-2").without(empty) {
		t.Errorf("left on node-2: %s", thing)
	}
	token := strings.TrimSpace(l.in(t, "master-1", "kijabi", "token", "create", "--role", "node").Stdout)
	took := l.in(t, "node-2", "kijabi", "node", "join", l.address("master-1"), "--token", token).Took
	t.Logf("node join on node-2, again: %s", rounded(took))
	l.awaitHealthy(t, "master-1", 30*time.Second)
	l.guestbookAnswers(t, l.names()...)
}

func rounded(d time.Duration) time.Duration { return d.Round(10 * time.Millisecond) }
