package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
)

const (
	clusterName = "e2e"
	subnet      = "10.97.0.0/24"
	stateRoot   = "/var/lib/kijabi-up"

	// guestbookPort is the NodePort of examples/guestbook.
	guestbookPort = 30080
)

// cluster is the one cluster of the test.
type cluster struct {
	bin  string // directory of the programs
	root string // of the repository
	home string // $HOME of the commands
	api  *client.Client
}

// status is what `kijabi status -o json` prints, as far as the test looks at it.
type status struct {
	Leader  string   `json:"leader"`
	Epoch   uint64   `json:"epoch"`
	Voters  []string `json:"voters"`
	Masters []struct {
		Name   string `json:"name"`
		Role   string `json:"role"`
		Leader bool   `json:"leader"`
		Alive  bool   `json:"alive"`
	} `json:"masters"`
	Nodes []struct {
		Name    string `json:"name"`
		Address string `json:"address"`
		Ready   bool   `json:"ready"`
		Reason  string `json:"reason"`
	} `json:"nodes"`
	Components []struct {
		Machine   string `json:"machine"`
		Component string `json:"component"`
		Healthy   bool   `json:"healthy"`
		Reason    string `json:"reason"`
	} `json:"components"`
}

// machineView is one entry of `kijabi machine list -o json`.
type machineView struct {
	Name    string `json:"name"`
	Role    string `json:"role"`
	Address string `json:"address"`
	PID     int    `json:"pid"`
	Up      bool   `json:"up"`
	Units   []unit `json:"units"`
}

type unit struct {
	Name  string `json:"name"`
	State string `json:"state"`
	PID   int    `json:"pid"`
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("these tests make machines out of namespaces and need root: run `make test-e2e`, or `sudo -E go test`")
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{bin: os.Getenv("KIJABI_BIN"), root: root, home: t.TempDir()}
	if c.bin == "" {
		c.bin = filepath.Join(root, "bin")
	}
	if _, err := os.Stat(filepath.Join(c.bin, "kijabi")); err != nil {
		t.Fatalf("programs: %v: run `make build` first, or set KIJABI_BIN", err)
	}
	return c
}

// connect makes the client that the test looks at objects with.
func (c *cluster) connect(t *testing.T) {
	t.Helper()
	identity, err := pki.OpenIdentity(c.userIdentity())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := rpc.DialAny(rpc.FailoverConfig{
		Addresses: c.masterAddresses(t), Identity: identity, Log: zap.NewNop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- conn.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("connection to the masters: %v", err)
		}
		_ = conn.Close()
	})
	c.api = client.New(conn)
}

func (c *cluster) accessDir() string  { return filepath.Join(c.home, ".kijabi", clusterName) }
func (c *cluster) kubeconfig() string { return filepath.Join(c.home, ".kijabi", "kubeconfig") }

func (c *cluster) userIdentity() configv1.Identity {
	return configv1.Identity{
		CertFile: filepath.Join(c.accessDir(), "user.crt"),
		KeyFile:  filepath.Join(c.accessDir(), "user.key"),
		CAFile:   filepath.Join(c.accessDir(), "ca.crt"),
	}
}

// masterAddresses are those of the gRPC doors.
func (c *cluster) masterAddresses(t *testing.T) []string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(c.accessDir(), "cluster.json"))
	if err != nil {
		t.Fatal(err)
	}
	var known struct {
		Masters []struct{ GRPC string }
	}
	if err := json.Unmarshal(content, &known); err != nil {
		t.Fatal(err)
	}
	var addresses []string
	for _, master := range known.Masters {
		addresses = append(addresses, master.GRPC)
	}
	return addresses
}

// outcome is how a command ended.
type outcome struct {
	command string
	stdout  string
	stderr  string
	code    int
	took    time.Duration
}

func (o outcome) String() string {
	return fmt.Sprintf("%s: exit code %d after %s\nstdout: %s\nstderr: %s",
		o.command, o.code, o.took.Round(time.Millisecond), tail(o.stdout, 40), tail(o.stderr, 40))
}

// tail keeps the last lines of a text.
func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(all) > lines {
		all = append([]string{fmt.Sprintf("(%d lines before)", len(all)-lines)}, all[len(all)-lines:]...)
	}
	return strings.Join(all, "\n")
}

// invocation is a command to run; the zero values of Dir, Input, Env and Limit are fine.
type invocation struct {
	Dir   string
	Input string
	Env   []string
	Limit time.Duration
	Argv  []string
}

// run runs a command to its end, in the environment of the test's user.
func (c *cluster) run(t *testing.T, i invocation) outcome {
	t.Helper()
	if i.Limit == 0 {
		i.Limit = time.Minute
	}
	if i.Dir == "" {
		i.Dir = c.root
	}
	ctx, cancel := context.WithTimeout(context.Background(), i.Limit)
	defer cancel()
	command := exec.CommandContext(ctx, i.Argv[0], i.Argv[1:]...)
	command.Dir, command.Env, command.WaitDelay = i.Dir, append(c.environment(), i.Env...), time.Second
	command.Stdin = strings.NewReader(i.Input)
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	started := time.Now()
	err := command.Run()
	result := outcome{
		command: strings.Join(append([]string{filepath.Base(i.Argv[0])}, i.Argv[1:]...), " "),
		stdout:  stdout.String(), stderr: stderr.String(), took: time.Since(started),
	}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		t.Fatalf("not done after %s: %s", i.Limit, result)
	case errors.As(err, &exit):
		result.code = exit.ExitCode()
	case err != nil:
		t.Fatalf("%s: %v", result.command, err)
	}
	return result
}

func (c *cluster) environment() []string {
	var kept []string
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		if !slices.Contains([]string{"HOME", "KUBECONFIG", "KIJABI_STATE", "KIJABI_ACCESS", "SUDO_UID", "SUDO_GID"}, name) {
			kept = append(kept, entry)
		}
	}
	return append(kept, "HOME="+c.home)
}

// try runs kijabi and returns how it ended.
func (c *cluster) try(t *testing.T, args ...string) outcome {
	t.Helper()
	return c.run(t, invocation{Argv: append([]string{filepath.Join(c.bin, "kijabi")}, args...)})
}

// kijabi runs kijabi and returns what it prints; it must succeed.
func (c *cluster) kijabi(t *testing.T, args ...string) string {
	t.Helper()
	result := c.try(t, args...)
	if result.code != 0 {
		t.Fatal(result)
	}
	return result.stdout
}

// kubectl runs `kijabi kubectl` and returns what it prints; it must succeed.
func (c *cluster) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	return c.kijabi(t, append([]string{"kubectl"}, args...)...)
}

// apply applies manifests given as text.
func (c *cluster) apply(t *testing.T, manifests string) string {
	t.Helper()
	result := c.run(t, invocation{Input: manifests, Argv: []string{filepath.Join(c.bin, "kijabi"), "kubectl", "apply", "-f", "-"}})
	if result.code != 0 {
		t.Fatalf("%s\nmanifests:\n%s", result, manifests)
	}
	return result.stdout
}

// status asks for the cluster's status. An error is that no master leads.
func (c *cluster) status(t *testing.T) (status, error) {
	t.Helper()
	result := c.try(t, "status", "-o", "json")
	var s status
	if err := json.Unmarshal([]byte(result.stdout), &s); err != nil {
		return s, fmt.Errorf("%w in %s", err, result)
	}
	if result.code != 0 {
		return s, fmt.Errorf("exit code %d, leader %q: %s", result.code, s.Leader, result.stderr)
	}
	return s, nil
}

// healthy says what is not well in a status.
func (s status) healthy(voters, nodes int) error {
	var sick []string
	leaders := 0
	for _, master := range s.Masters {
		if master.Leader {
			leaders++
		}
		if !master.Alive || master.Role != "voter" {
			sick = append(sick, fmt.Sprintf("master %s: alive %t, %s", master.Name, master.Alive, master.Role))
		}
	}
	for _, node := range s.Nodes {
		if !node.Ready {
			sick = append(sick, fmt.Sprintf("node %s: %s", node.Name, node.Reason))
		}
	}
	for _, component := range s.Components {
		if !component.Healthy {
			sick = append(sick, fmt.Sprintf("%s on %s: %s", component.Component, component.Machine, component.Reason))
		}
	}
	if s.Leader == "" || leaders != 1 {
		sick = append(sick, fmt.Sprintf("leader %q, %d lead", s.Leader, leaders))
	}
	if len(s.Voters) != voters || len(s.Masters) != voters || len(s.Nodes) != nodes {
		sick = append(sick, fmt.Sprintf("voters %v, %d masters, %d nodes", s.Voters, len(s.Masters), len(s.Nodes)))
	}
	if len(sick) > 0 {
		return errors.New(strings.Join(sick, "; "))
	}
	return nil
}

// awaitHealthy waits until all 5 machines are well.
func (c *cluster) awaitHealthy(t *testing.T, limit time.Duration) {
	t.Helper()
	eventually(t, limit, "3 voters, one leader, 5 Ready nodes, all programs healthy", func() error {
		s, err := c.status(t)
		if err != nil {
			return err
		}
		return s.healthy(3, 5)
	})
}

func (c *cluster) machines(t *testing.T) map[string]machineView {
	t.Helper()
	var list []machineView
	text := c.kijabi(t, "machine", "list", "--name", clusterName, "-o", "json")
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	all := map[string]machineView{}
	for _, m := range list {
		all[m.Name] = m
	}
	return all
}

// power kills, stops or starts machines.
func (c *cluster) power(t *testing.T, verb string, names ...string) {
	t.Helper()
	c.kijabi(t, append([]string{"machine", verb, "--name", clusterName}, names...)...)
}

// eventually waits for a condition: check returns nil once it holds.
func eventually(t *testing.T, limit time.Duration, what string, check func() error) {
	t.Helper()
	if err := await(limit, check); err != nil {
		t.Fatalf("%s: not within %s: %v", what, limit, err)
	}
}

func await(limit time.Duration, check func() error) error {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	retry := time.NewTicker(50 * time.Millisecond)
	defer retry.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-deadline.C:
			return err
		case <-retry.C:
		}
	}
}
