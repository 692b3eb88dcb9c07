// Package harness makes clusters on this host for tests, and runs commands against them
// as a user would: with a home directory of its own, and nothing else of the caller's.
package harness

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// stateRoot is where `kijabi up` keeps what belongs to clusters.
const stateRoot = "/var/lib/kijabi-up"

// Cluster is a cluster of machines made of namespaces. Its methods end the test when
// something is not as it should be.
type Cluster struct {
	// Name and Subnet of the machines; the subnet lies outside the ranges of pods and services.
	Name, Subnet string
	// Bin is the directory of the programs, Root that of the repository, Home that of the user.
	Bin, Root, Home string
}

// New finds the programs of a cluster that is not started yet. root is the repository's,
// from the directory of the test.
func New(t *testing.T, name, subnet, root string) *Cluster {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("these tests make machines out of namespaces and need root: run them by make, or `sudo -E go test`")
	}
	root, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	c := &Cluster{Name: name, Subnet: subnet, Bin: os.Getenv("KIJABI_BIN"), Root: root, Home: t.TempDir()}
	if c.Bin == "" {
		c.Bin = filepath.Join(root, "bin")
	}
	if _, err := os.Stat(filepath.Join(c.Bin, "kijabi")); err != nil {
		t.Fatalf("programs: %v: run `make build` first, or set KIJABI_BIN", err)
	}
	return c
}

// Up starts the cluster, after removing what an earlier run has left of it. It is removed
// when the test ends, unless KIJABI_E2E_KEEP is set. options are of `kijabi up`.
func (c *Cluster) Up(t *testing.T, masters, nodes int, options ...string) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(stateRoot, c.Name)); err == nil {
		t.Log("removing a cluster that an earlier run has left")
		c.Down(t)
	}
	t.Cleanup(func() {
		if os.Getenv("KIJABI_E2E_KEEP") != "" {
			t.Logf("KIJABI_E2E_KEEP is set: the cluster stays until `kijabi down --name %s`", c.Name)
			return
		}
		c.Down(t)
	})
	result := c.Run(t, Invocation{Limit: 5 * time.Minute, Argv: append([]string{
		filepath.Join(c.Bin, "kijabi"), "up", "--name", c.Name, "--subnet", c.Subnet,
		"--masters", fmt.Sprint(masters), "--nodes", fmt.Sprint(nodes),
	}, options...)})
	if result.Code != 0 {
		t.Fatal(result)
	}
	t.Logf("Ready after %s", result.Took.Round(100*time.Millisecond))
}

// Down removes the cluster.
func (c *Cluster) Down(t *testing.T) {
	t.Helper()
	result := c.Run(t, Invocation{Limit: 2 * time.Minute, Argv: []string{filepath.Join(c.Bin, "kijabi"), "down", "--name", c.Name}})
	if result.Code != 0 {
		t.Error(result)
	}
}

// Kubeconfig is the file that `up` has written.
func (c *Cluster) Kubeconfig() string { return filepath.Join(c.Home, ".kijabi", "kubeconfig") }

// Kijabi runs kijabi and returns what it prints; it must succeed.
func (c *Cluster) Kijabi(t *testing.T, args ...string) string {
	t.Helper()
	result := c.Run(t, Invocation{Argv: append([]string{filepath.Join(c.Bin, "kijabi")}, args...)})
	if result.Code != 0 {
		t.Fatal(result)
	}
	return result.Stdout
}

// Status is what `kijabi status -o json` prints, as far as tests look at it.
type Status struct {
	Leader  string   `json:"leader"`
	Epoch   uint64   `json:"epoch"`
	Voters  []string `json:"voters"`
	Masters []struct {
		Name  string `json:"name"`
		Role  string `json:"role"`
		Alive bool   `json:"alive"`
	} `json:"masters"`
	Nodes []struct {
		Name   string `json:"name"`
		Ready  bool   `json:"ready"`
		Reason string `json:"reason"`
	} `json:"nodes"`
	Components []struct {
		Machine   string `json:"machine"`
		Component string `json:"component"`
		Healthy   bool   `json:"healthy"`
		Reason    string `json:"reason"`
	} `json:"components"`
}

// Status asks for the cluster's status. An error is that no master leads.
func (c *Cluster) Status(t *testing.T) (Status, error) {
	t.Helper()
	result := c.Run(t, Invocation{Argv: []string{filepath.Join(c.Bin, "kijabi"), "status", "-o", "json"}})
	var s Status
	if err := json.Unmarshal([]byte(result.Stdout), &s); err != nil {
		return s, fmt.Errorf("%w in %s", err, result)
	}
	if result.Code != 0 {
		return s, fmt.Errorf("exit code %d, leader %q: %s", result.Code, s.Leader, result.Stderr)
	}
	return s, nil
}

// AwaitHealthy waits until one master leads, all vote, all nodes are Ready and all
// programs healthy.
func (c *Cluster) AwaitHealthy(t *testing.T, limit time.Duration) {
	t.Helper()
	Eventually(t, limit, "the cluster is healthy", func() error {
		s, err := c.Status(t)
		errs := []error{err}
		for _, m := range s.Masters {
			if !m.Alive || m.Role != "voter" {
				errs = append(errs, fmt.Errorf("master %s: alive %t, %s", m.Name, m.Alive, m.Role))
			}
		}
		for _, n := range s.Nodes {
			if !n.Ready {
				errs = append(errs, fmt.Errorf("node %s: %s", n.Name, n.Reason))
			}
		}
		for _, p := range s.Components {
			if !p.Healthy {
				errs = append(errs, fmt.Errorf("%s on %s: %s", p.Component, p.Machine, p.Reason))
			}
		}
		return errors.Join(errs...)
	})
}

// Machine is one entry of `kijabi machine list -o json`.
type Machine struct {
	Name    string `json:"name"`
	Role    string `json:"role"`
	Address string `json:"address"`
	Units   []struct {
		Name  string `json:"name"`
		State string `json:"state"`
		PID   int    `json:"pid"`
	} `json:"units"`
}

// Machines lists the machines by name.
func (c *Cluster) Machines(t *testing.T) map[string]Machine {
	t.Helper()
	var list []Machine
	text := c.Kijabi(t, "machine", "list", "--name", c.Name, "-o", "json")
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	all := map[string]Machine{}
	for _, m := range list {
		all[m.Name] = m
	}
	return all
}

// Power kills, stops or starts machines; what a test leaves killed it starts again.
func (c *Cluster) Power(t *testing.T, verb string, names ...string) {
	t.Helper()
	c.Kijabi(t, append([]string{"machine", verb, "--name", c.Name}, names...)...)
}

// KeepArtifacts saves what commands print and the ends of all logs when the test fails.
// The commands are arguments of kijabi, by the names of the files.
func (c *Cluster) KeepArtifacts(t *testing.T, commands map[string][]string) {
	t.Helper()
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		dir := filepath.Join(c.Root, "test", "artifacts", filepath.Base(t.Name()))
		if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
			t.Log(err)
			return
		}
		for name, args := range commands {
			result := c.Run(t, Invocation{Argv: append([]string{filepath.Join(c.Bin, "kijabi")}, args...)})
			if err := os.WriteFile(filepath.Join(dir, name), []byte(result.Stdout+result.Stderr), 0o644); err != nil {
				t.Log(err)
			}
		}
		c.saveLogs(t, dir)
		t.Logf("state and logs are in %s", dir)
	})
}

func (c *Cluster) saveLogs(t *testing.T, dir string) {
	t.Helper()
	const most = 200 << 10
	logs, err := filepath.Glob(filepath.Join(stateRoot, c.Name, "machines", "*", "log", "*.log"))
	if err != nil {
		t.Log(err)
	}
	slices.Sort(logs)
	for _, path := range logs {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Log(err)
			continue
		}
		name := filepath.Base(filepath.Dir(filepath.Dir(path))) + "-" + filepath.Base(path)
		if err := os.WriteFile(filepath.Join(dir, name), content[max(0, len(content)-most):], 0o644); err != nil {
			t.Log(err)
		}
	}
}
