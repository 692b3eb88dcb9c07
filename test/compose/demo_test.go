package compose

import (
	"bytes"
	"context"
	"encoding/json"
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

const project = "label=com.docker.compose.project=kijabi"

// machines are those of the demo without profiles, with their addresses.
func machines() map[string]string {
	return map[string]string{
		"master-1": "10.90.0.11", "master-2": "10.90.0.12", "master-3": "10.90.0.13",
		"node-1": "10.90.0.21", "node-2": "10.90.0.22",
	}
}

// demo is the one of this test.
type demo struct {
	root, bin, home string
	api             *client.Client
}

func newDemo(t *testing.T) *demo {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	d := &demo{root: root, bin: os.Getenv("KIJABI_BIN"), home: t.TempDir()}
	if d.bin == "" {
		d.bin = filepath.Join(root, "bin")
	}
	if left := d.leftovers(t); left != "" {
		t.Fatalf("the demo runs, or something of it is left: remove it by `make compose-down` first:\n%s", left)
	}
	return d
}

// try runs a program in the environment of the test's user.
func (d *demo) try(limit time.Duration, input string, argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	command := exec.CommandContext(ctx, argv[0], argv[1:]...)
	command.Dir, command.Stdin, command.WaitDelay = d.root, strings.NewReader(input), time.Second
	command.Env = slices.DeleteFunc(os.Environ(), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return slices.Contains([]string{"HOME", "KUBECONFIG", "KIJABI_ACCESS", "SUDO_UID", "SUDO_GID", "COMPOSE_PROFILES", "KIJABI_NET"}, name)
	})
	command.Env = append(command.Env, "HOME="+d.home)
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w\n%s%s", strings.Join(argv, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}

func (d *demo) must(t *testing.T, limit time.Duration, argv ...string) string {
	t.Helper()
	out, err := d.try(limit, "", argv...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func (d *demo) kijabi(t *testing.T, args ...string) string {
	t.Helper()
	return d.must(t, 5*time.Minute, append([]string{filepath.Join(d.bin, "kijabi")}, args...)...)
}

func (d *demo) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	return d.kijabi(t, append([]string{"kubectl"}, args...)...)
}

func (d *demo) apply(t *testing.T, manifests string) {
	t.Helper()
	if _, err := d.try(time.Minute, manifests, filepath.Join(d.bin, "kijabi"), "kubectl", "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
}

func (d *demo) docker(t *testing.T, args ...string) string {
	t.Helper()
	return d.must(t, 2*time.Minute, append([]string{"docker"}, args...)...)
}

// leftovers lists what the engine and the kernel have of the demo.
func (d *demo) leftovers(t *testing.T) string {
	t.Helper()
	var found []string
	for _, list := range [][]string{
		{"ps", "--all", "--filter", project, "--format", "container {{.Names}}"},
		{"network", "ls", "--filter", project, "--format", "network {{.Name}}"},
		{"volume", "ls", "--filter", project, "--format", "volume {{.Name}}"},
	} {
		if out := d.docker(t, list...); out != "" {
			found = append(found, out)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "/volumes/kijabi_") {
			found = append(found, "mount "+strings.TrimSpace(line))
		}
	}
	return strings.Join(found, "\n")
}

// describe is what a person would look at first.
func (d *demo) describe() string {
	var text strings.Builder
	kijabi := filepath.Join(d.bin, "kijabi")
	for _, argv := range [][]string{
		{kijabi, "status"},
		{kijabi, "kubectl", "get", "pods", "--all-namespaces", "--output", "wide"},
		{"docker", "ps", "--all", "--filter", project, "--format", "{{.Names}} {{.Status}}"},
	} {
		out, err := d.try(time.Minute, "", argv...)
		fmt.Fprintf(&text, "%s: %v\n%s\n", strings.Join(argv, " "), err, out)
	}
	return text.String()
}

// started tells when each container of the demo was started last.
func (d *demo) started(t *testing.T) map[string]string {
	t.Helper()
	all := strings.Fields(d.docker(t, "ps", "--all", "--quiet", "--filter", project))
	when := map[string]string{}
	for line := range strings.Lines(d.docker(t, append([]string{"inspect", "--format", "{{.Name}} {{.Id}} {{.State.StartedAt}}"}, all...)...)) {
		name, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		when[strings.TrimPrefix(name, "/")] = rest
	}
	return when
}

// processes lists the pods' processes in the container of a machine's containerd, as
// "pid args".
func (d *demo) processes(t *testing.T, machine string) []string {
	t.Helper()
	var found []string
	for line := range strings.Lines(d.docker(t, "top", machine+"-containerd", "-o", "pid,args")) {
		fields := strings.Fields(line)
		for _, program := range []string{"/pause", "/guestbook-store", "/guestbook-web", "/toolbox"} {
			if len(fields) > 1 && fields[1] == program {
				found = append(found, strings.Join(fields, " "))
			}
		}
	}
	slices.Sort(found)
	return found
}

// status is what `kijabi status -o json` prints, as far as the test looks at it.
type status struct {
	Leader  string   `json:"leader"`
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

func (d *demo) status() (status, error) {
	var s status
	out, err := d.try(time.Minute, "", filepath.Join(d.bin, "kijabi"), "status", "-o", "json")
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal([]byte(out), &s)
}

// awaitHealthy waits until masters, nodes and programs are well and returns the leader.
func (d *demo) awaitHealthy(t *testing.T, limit time.Duration) string {
	t.Helper()
	var leader string
	eventually(t, limit, "3 masters, 5 nodes and all programs are well", func() error {
		s, err := d.status()
		if err != nil {
			return err
		}
		leader = s.Leader
		var sick []string
		for _, master := range s.Masters {
			if !master.Alive || master.Role != "voter" {
				sick = append(sick, fmt.Sprintf("%s: %+v", master.Name, master))
			}
		}
		for _, node := range s.Nodes {
			if !node.Ready {
				sick = append(sick, node.Name+": "+node.Reason)
			}
		}
		for _, c := range s.Components {
			if !c.Healthy {
				sick = append(sick, c.Machine+"-"+c.Component+": "+c.Reason)
			}
		}
		if len(sick) > 0 || s.Leader == "" || len(s.Voters) != 3 || len(s.Nodes) != len(machines()) {
			return fmt.Errorf("leader %q, voters %v, %d nodes; %s", s.Leader, s.Voters, len(s.Nodes), strings.Join(sick, "; "))
		}
		return nil
	})
	return leader
}

// connect makes the client that the test looks at objects with.
func (d *demo) connect(t *testing.T) {
	t.Helper()
	dir := filepath.Join(d.home, ".kijabi", "compose")
	identity, err := pki.OpenIdentity(configv1.Identity{
		CertFile: filepath.Join(dir, "user.crt"), KeyFile: filepath.Join(dir, "user.key"), CAFile: filepath.Join(dir, "ca.crt"),
	})
	if err != nil {
		t.Fatal(err)
	}
	var addresses []string
	for name, address := range machines() {
		if strings.HasPrefix(name, "master-") {
			addresses = append(addresses, fmt.Sprintf("%s:%d", address, configv1.PortGRPC))
		}
	}
	conn, err := rpc.DialAny(rpc.FailoverConfig{Addresses: addresses, Identity: identity, Log: zap.NewNop()})
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
	d.api = client.New(conn)
}

// eventually waits for a condition: check returns nil once it holds.
func eventually(t *testing.T, limit time.Duration, what string, check func() error) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	retry := time.NewTicker(100 * time.Millisecond)
	defer retry.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-deadline.C:
			t.Fatalf("%s: not within %s: %v", what, limit, err)
		case <-retry.C:
		}
	}
}
