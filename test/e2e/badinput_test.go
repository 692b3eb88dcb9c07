package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kijabi.dev/test/harness"
)

// refused checks that a command failed with one line that names the parts.
func refused(t *harness.T, result harness.Outcome, parts ...string) {
	t.Helper()
	if result.Code == 0 {
		t.Errorf("it is not refused: %s", result)
		return
	}
	lines := strings.Split(strings.TrimSpace(result.Stderr), "\n")
	errors := 0
	for _, line := range lines {
		if strings.HasPrefix(strings.ToLower(line), "error") || strings.HasPrefix(line, "The ") {
			errors++
		}
	}
	if errors != 1 {
		t.Errorf("%d lines of errors, want one: %s", errors, result)
	}
	for _, part := range parts {
		if !strings.Contains(result.Stderr, part) {
			t.Errorf("the error does not name %q: %s", part, result)
		}
	}
}

func testBadInput(t *harness.T, c *cluster) {
	t.Run("Manifests", func(t *harness.T) { testBadManifests(t, c) })
	t.Run("Commands", func(t *harness.T) { testBadCommands(t, c) })
	t.Run("Joins", func(t *harness.T) { testBadJoins(t, c) })
}

func testBadManifests(t *harness.T, c *cluster) {
	ns := c.namespace(t, "bad")
	for _, test := range []struct {
		name, verb, manifest string
		parts                []string
	}{
		{"no YAML", "apply", "kind: [ConfigMap\n", []string{"STDIN", "yaml"}},
		{"unknown kind", "apply", "apiVersion: v1\nkind: Gadget\nmetadata: {name: x}\n", []string{`"Gadget"`, `"v1"`}},
		{"unknown field", "apply", `
apiVersion: apps/v1
kind: Deployment
metadata: {name: x, namespace: bad}
spec:
  replica: 3
  selector: {matchLabels: {a: b}}
  template: {metadata: {labels: {a: b}}, spec: {containers: [{name: main, image: x}]}}
`, []string{"unknown field", `"spec.replica"`}},
		{"wrong value", "apply", `
apiVersion: v1
kind: Service
metadata: {name: x, namespace: bad}
spec: {ports: [{port: 70000, targetPort: 80}]}
`, []string{`Service "x" is invalid`, "spec.ports[0].port", "70000"}},
		{"wrong type", "apply", `
apiVersion: apps/v1
kind: Deployment
metadata: {name: x, namespace: bad}
spec:
  replicas: many
  selector: {matchLabels: {a: b}}
  template: {metadata: {labels: {a: b}}, spec: {containers: [{name: main, image: x}]}}
`, []string{"replicas"}},
		{"selector that does not match", "apply", `
apiVersion: apps/v1
kind: Deployment
metadata: {name: x, namespace: bad}
spec:
  selector: {matchLabels: {a: other}}
  template: {metadata: {labels: {a: b}}, spec: {containers: [{name: main, image: x}]}}
`, []string{`Deployment "x" is invalid`, "spec.template.metadata.labels"}},
		{"name that is none", "create", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: Not_A_Name, namespace: bad}\n", []string{"Not_A_Name", "metadata.name"}},
		{"namespace that does not exist", "create", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: nowhere}\n", []string{`namespaces "nowhere" not found`}},
	} {
		t.Run(strings.ReplaceAll(test.name, " ", "-"), func(t *harness.T) {
			result := c.Run(t, harness.Invocation{Input: test.manifest, Argv: []string{filepath.Join(c.Bin, "kijabi"), "kubectl", test.verb, "-f", "-"}})
			refused(t, result, test.parts...)
		})
	}
	if left := c.Kubectl(t, "-n", ns, "get", "deployments,services,configmaps", "-o", "name"); strings.TrimSpace(left) != "configmap/kube-root-ca.crt" {
		t.Errorf("half done: %s", left)
	}

	manifest := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings, namespace: bad%s}\ndata: {color: %s}\n"
	c.Apply(t, fmt.Sprintf(manifest, "", "red"))
	stale := c.Kubectl(t, "-n", ns, "get", "configmap", "settings", "-o", "jsonpath={.metadata.resourceVersion}")
	c.Apply(t, fmt.Sprintf(manifest, "", "blue"))
	result := c.Run(t, harness.Invocation{
		Input: fmt.Sprintf(manifest, `, resourceVersion: "`+stale+`"`, "green"),
		Argv:  []string{filepath.Join(c.Bin, "kijabi"), "kubectl", "replace", "-f", "-"},
	})
	refused(t, result, "Conflict", `configmaps "settings"`, "the object has been modified")
	if color := c.Kubectl(t, "-n", ns, "get", "configmap", "settings", "-o", "jsonpath={.data.color}"); color != "blue" {
		t.Errorf("color %s after a refused change", color)
	}
}

func testBadCommands(t *harness.T, c *cluster) {
	const other, free = "e2e-other", "10.98.0.0/24"
	incomplete := t.TempDir()
	entries, err := os.ReadDir(c.Bin)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if entry.Name() != "runc" {
			if err := os.Symlink(filepath.Join(c.Bin, entry.Name()), filepath.Join(incomplete, entry.Name())); err != nil {
				t.Fatal(err)
			}
		}
	}
	before := lookAtHost(t)
	for name, test := range map[string]struct{ args, parts []string }{
		"MissingProgram": {[]string{"up", "--name", other, "--subnet", free, "--bin", incomplete}, []string{"runc", incomplete, "make build"}},
		"BusySubnet":     {[]string{"up", "--name", other, "--subnet", subnet}, []string{subnet, "busy", "--subnet"}},
		"NoSubnet":       {[]string{"up", "--name", other, "--subnet", "10.98"}, []string{"10.98", "subnet"}},
		"TwoMasters":     {[]string{"up", "--name", other, "--subnet", free, "--masters", "2"}, []string{"1, 3 or 5"}},
		"OddName":        {[]string{"up", "--name", "Not Good", "--subnet", free}, []string{"Not Good"}},
		"NoMachine":      {[]string{"machine", "kill", "--name", clusterName, "node-1", "node-9"}, []string{"node-9", "node-2"}},
		"NoCluster":      {[]string{"machine", "list", "--name", other}, []string{other, "kijabi up"}},
		"NoUnit":         {[]string{"machine", "restart", "--name", clusterName, "node-1", "kubelett"}, []string{"kubelett"}},
		"NoArchive":      {[]string{"image", "import", "--name", clusterName, "/nowhere.tar"}, []string{"/nowhere.tar"}},
		"NoRole":         {[]string{"token", "create", "--cluster", clusterName, "--role", "king"}, []string{"king", "--role"}},
		"NoCommand":      {[]string{"upp"}, []string{"upp"}},
		"NoFlag":         {[]string{"up", "--knodes", "3"}, []string{"--knodes"}},
	} {
		t.Run(name, func(t *harness.T) { refused(t, c.Try(t, test.args...), test.parts...) })
	}
	t.Run("NoAccess", func(t *harness.T) {
		home := t.TempDir()
		for _, args := range [][]string{{"status"}, {"kubectl", "get", "pods"}} {
			result := c.Run(t, harness.Invocation{Env: []string{"HOME=" + home}, Argv: append([]string{filepath.Join(c.Bin, "kijabi")}, args...)})
			refused(t, result, "no cluster", "kijabi up")
		}
	})
	t.Run("NeitherRootNorSudo", func(t *harness.T) {
		script := `for f in $(command -v sudo) /usr/bin/sudo /bin/sudo; do [ ! -e "$f" ] || mount --bind /dev/null "$f"; done
exec setpriv --reuid=65534 --regid=65534 --clear-groups "$0" up --name ` + other + ` --subnet ` + free
		refused(t, c.Run(t, harness.Invocation{Argv: []string{"unshare", "-m", "sh", "-c", script, filepath.Join(c.Bin, "kijabi")}}),
			"needs root", "sudo", "run it as root or install sudo")
	})
	for thing := range lookAtHost(t) {
		if !before[thing] {
			t.Errorf("half done: %s", thing)
		}
	}
	if _, err := os.Stat(filepath.Join(harness.StateRoot, other)); err == nil {
		t.Errorf("half done: %s", filepath.Join(harness.StateRoot, other))
	}
	if m := c.Machines(t)["node-1"]; !m.Up {
		t.Error("node-1 was killed together with a machine that does not exist")
	}
}

// testBadJoins takes a node out and lets it join with everything that can be wrong.
func testBadJoins(t *harness.T, c *cluster) {
	const name, address, master = "node-2", "10.97.0.22", "10.97.0.11"
	program := filepath.Join(c.Bin, "kijabi")
	inside := func(args ...string) harness.Outcome {
		t.Helper()
		return c.Try(t, append([]string{"machine", "shell", "--name", clusterName, name, "--", program}, args...)...)
	}
	join := func(token, at string) harness.Outcome {
		t.Helper()
		return inside("node", "join", at, "--token", token, "--name", name, "--advertise-address", address, "--bin", c.Bin, "--timeout", "20s")
	}
	token := func(args ...string) string {
		t.Helper()
		return strings.TrimSpace(c.Kijabi(t, append([]string{"token", "create", "--cluster", clusterName}, args...)...))
	}
	good := token("--role", "node")
	refused(t, join(good, master), name, "kijabi reset")
	if result := inside("reset", "--local"); result.Code != 0 {
		t.Fatal(result)
	}
	parts := strings.Split(good, ".")
	changed := func(i int) string {
		other := strings.Split(good, ".")
		last := other[i][len(other[i])-1:]
		replacement := "0"
		if last == "0" {
			replacement = "1"
		}
		other[i] = other[i][:len(other[i])-1] + replacement
		return strings.Join(other, ".")
	}
	expired := token("--role", "node", "--ttl", "1s")
	harness.Eventually(t, 20*time.Second, "the token expires", func() error {
		if text := c.Kijabi(t, "token", "list", "--cluster", clusterName); strings.Contains(text, strings.Split(expired, ".")[2]) {
			return fmt.Errorf("it is listed: %s", text)
		}
		return nil
	})
	for what, test := range map[string]struct {
		token, at string
		parts     []string
	}{
		"NoToken":     {"kijabi", master, []string{"join token", "copy it whole"}},
		"WrongSecret": {changed(3), master, []string{"token", "kijabi token create --role node"}},
		"WrongID":     {strings.Replace(good, parts[2], "zzzzzz", 1), master, []string{"token", "kijabi token create --role node"}},
		"WrongPin":    {changed(4), master, []string{"CA", "pin"}},
		"Expired":     {expired, master, []string{"token", "expired", "kijabi token create --role node"}},
		"OtherRole":   {token("--role", "master"), master, []string{"for masters", "--role node"}},
		"NoMaster":    {good, "10.97.0.99", []string{"10.97.0.99"}},
	} {
		t.Run(what, func(t *harness.T) {
			refused(t, join(test.token, test.at), test.parts...)
			c.nothingInstalled(t, name)
		})
	}
	t.Run("BusyPort", func(t *harness.T) {
		listener := c.listenIn(t, name, address+":10250")
		refused(t, join(good, master), "10250", "busy", "ss -ltnp")
		if err := listener.Close(); err != nil {
			t.Error(err)
		}
		c.nothingInstalled(t, name)
	})
	if result := join(good, master); result.Code != 0 {
		t.Fatal(result)
	}
	c.AwaitHealthy(t, time.Minute)
}

// nothingInstalled looks for what an installation leaves in a machine.
func (c *cluster) nothingInstalled(t *harness.T, machine string) {
	t.Helper()
	for _, pattern := range []string{"etc/*", "lib/pki", "lib/identity/*", "lib/units/*"} {
		paths, err := filepath.Glob(filepath.Join(c.MachineDir(machine), pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			t.Errorf("half done: %s", path)
		}
	}
	if units := c.Machines(t)[machine].Units; len(units) > 0 {
		t.Errorf("half done: units %v", units)
	}
}

// listenIn listens on an address of a machine, as a program there would.
func (c *cluster) listenIn(t *harness.T, machine, address string) net.Listener {
	t.Helper()
	space, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", c.Machines(t)[machine].PID))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = space.Close() }()
	type result struct {
		listener net.Listener
		err      error
	}
	results := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		if err := unix.Setns(int(space.Fd()), unix.CLONE_NEWNET); err != nil {
			results <- result{err: err}
			return
		}
		listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", address)
		results <- result{listener, err}
	}()
	r := <-results
	if r.err != nil {
		t.Fatalf("listen on %s in machine %s: %v", address, machine, r.err)
	}
	t.Cleanup(func() { _ = r.listener.Close() })
	return r.listener
}
