package harness

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestClaim looks at a machine of a cluster, with an owner and without.
func TestClaim(tt *testing.T) {
	t := Begin(tt)
	c := NewCluster(t, "claim", "10.103.0.0/24")
	t.Cleanup(func() { c.Down(t) })
	c.Down(t) // what an earlier run has left
	if left, err := c.leftover(t); left || err != nil {
		t.Errorf("a cluster that was never made: %t, %v", left, err)
	}
	up := func() {
		t.Helper()
		c.Kijabi(t, "up", "--bare", "--name", c.Name, "--subnet", c.Subnet, "--masters", "1", "--nodes", "0")
	}
	refuses := func(what string, parts ...string) {
		t.Helper()
		_, err := c.leftover(t)
		Contains(t, what, fmt.Sprint(err), append(parts, `cluster "claim"`)...)
	}
	free := func(what string) {
		t.Helper()
		if left, err := c.leftover(t); !left || err != nil {
			t.Errorf("%s: something is left %t, %v", what, left, err)
		}
	}
	up()
	refuses("a cluster that nobody's test has started", "`kijabi down --name claim`")

	owner := exec.CommandContext(t.Context(), "sleep", "600")
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	pid := fmt.Sprint(owner.Process.Pid)
	started, _ := ProcessStart(pid)
	if err := os.WriteFile(c.ownerPath(), []byte(pid+" "+started), 0o600); err != nil {
		t.Fatal(err)
	}
	refuses("a cluster of another test", "process "+pid, "sleep")
	if err := c.claim(t); err == nil {
		t.Error("two own the cluster")
	}
	if err := owner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = owner.Wait() // it was killed
	free("a cluster whose test has ended")

	if err := os.Remove(c.ownerPath()); err != nil {
		t.Fatal(err)
	}
	c.Power(t, "kill", "master-1")
	free("a cluster whose machines are down")

	t.Run("Owned", func(t *T) {
		c.Claim(t)
		up()
		refuses("the test's own cluster", "process "+self().pid)
	})
	if _, err := os.Stat(c.Dir()); !os.IsNotExist(err) {
		t.Errorf("the cluster outlives its test: %v", err)
	}
}

// TestReasons runs this program for a test that fails.
func TestReasons(t *testing.T) {
	if os.Getenv("HARNESS_TEST_FAILS") != "" {
		fails(Begin(t))
		return
	}
	command := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestReasons$")
	command.Env = append(os.Environ(), "HARNESS_TEST_FAILS=1")
	out, err := command.CombinedOutput()
	if err == nil {
		t.Fatalf("it succeeds: %s", out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) < 3 || lines[len(lines)-1] != "FAIL" {
		t.Fatalf("no output of a test: %s", out)
	}
	for i, want := range []string{"failed: TestReasons/Second: later", "failed: TestReasons/First/Inner: exit code 1 … Error: no disk"} {
		if line := lines[len(lines)-3+i]; !strings.HasSuffix(line, want) {
			t.Errorf("line %d from the end is %q, want %q", 3-i, line, want)
		}
	}
}

func fails(t *T) {
	t.Cleanup(func() { t.Log("a cleanup says much") })
	t.Run("First", func(t *T) {
		t.Run("Inner", func(t *T) {
			t.Cleanup(func() { t.Log("the state is long") })
			t.Fatal("exit code 1\nstdout: much\nError: no disk")
		})
	})
	t.Run("Second", func(t *T) { t.Error("later") })
}
