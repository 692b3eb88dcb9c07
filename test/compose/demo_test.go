package compose

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/test/harness"
)

const project = "label=com.docker.compose.project=kijabi"

// machines are those of the demo without profiles, with their addresses.
func machines() map[string]string {
	return map[string]string{
		"master-1": "10.90.0.11", "master-2": "10.90.0.12", "master-3": "10.90.0.13",
		"node-1": "10.90.0.21", "node-2": "10.90.0.22",
	}
}

// demo is the one of this test, and its user.
type demo struct {
	*harness.User

	api *client.Client
}

func newDemo(t *harness.T) *demo {
	t.Helper()
	d := &demo{User: harness.NewUser(t)}
	d.Limit = 5 * time.Minute
	if left := d.leftovers(t); left != "" {
		t.Fatalf("the demo runs, or something of it is left: remove it by `make compose-down` first:\n%s", left)
	}
	return d
}

// docker runs the engine's client, which must succeed, and returns what it prints.
func (d *demo) docker(t *harness.T, args ...string) string {
	t.Helper()
	return strings.TrimSpace(d.Must(t, harness.Invocation{Limit: 2 * time.Minute, Argv: append([]string{"docker"}, args...)}).Stdout)
}

// leftovers lists what the engine and the kernel have of the demo.
func (d *demo) leftovers(t *harness.T) string {
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

// describe shows what a person would look at first when a step has failed.
func (d *demo) describe(t *harness.T) {
	t.Helper()
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		kijabi := filepath.Join(d.Bin, "kijabi")
		for _, argv := range [][]string{
			{kijabi, "status"},
			{kijabi, "kubectl", "get", "pods", "--all-namespaces", "--output", "wide"},
			{"docker", "ps", "--all", "--filter", project, "--format", "{{.Names}} {{.Status}}"},
		} {
			t.Log(d.Run(t, harness.Invocation{Limit: time.Minute, Argv: argv}))
		}
	})
}

// started tells when each container of the demo was started last.
func (d *demo) started(t *harness.T) map[string]string {
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
func (d *demo) processes(t *harness.T, machine string) []string {
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

// awaitHealthy waits until masters, nodes and programs are well and returns the leader.
func (d *demo) awaitHealthy(t *harness.T, limit time.Duration) string {
	t.Helper()
	return d.AwaitHealthy(t, limit, 3, len(machines())).Leader
}

// connect makes the client that the test looks at objects with.
func (d *demo) connect(t *harness.T) {
	t.Helper()
	var addresses []string
	for name, address := range machines() {
		if strings.HasPrefix(name, "master-") {
			addresses = append(addresses, fmt.Sprintf("%s:%d", address, configv1.PortGRPC))
		}
	}
	d.api = d.Connect(t, "compose", addresses)
}

// write makes ConfigMaps through any master, all the time.
func (d *demo) write(t *harness.T) *harness.Writer {
	t.Helper()
	return harness.Write(t, 20*time.Millisecond, func(ctx context.Context, configMap *corev1.ConfigMap) error {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		configMap.Namespace = "default"
		_, err := d.api.Create(ctx, configMap)
		return err
	})
}
