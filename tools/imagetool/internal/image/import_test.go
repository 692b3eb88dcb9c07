package image

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestContainerdImports needs root, because containerd mounts what it unpacks, and the
// programs that deploy/bundle/build.sh puts into $KIJABI_BIN, by default bin/.
func TestContainerdImports(t *testing.T) {
	bin := os.Getenv("KIJABI_BIN")
	if bin == "" {
		bin = "../../../../bin"
	}
	bin, err := filepath.Abs(bin)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	socket := startContainerd(t, bin, dir)
	spec := exampleSpec(t)
	ctr := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "ctr"),
			append([]string{"--address", socket, "--namespace", "k8s.io"}, args...)...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for form, write := range map[string]func(string, *Image) error{"oci": WriteOCI, "docker": WriteDocker} {
		spec.Name = "registry.kijabi.dev/" + form + ":1"
		image := build(t, spec)
		archive := filepath.Join(dir, form+".tar")
		if err := write(archive, image); err != nil {
			t.Fatal(err)
		}
		if out, err := ctr("images", "import", "--local", "--snapshotter", "native", archive); err != nil {
			t.Fatalf("import %s: %v: %s", form, err, out)
		}
		names, err := ctr("images", "ls", "-q")
		if err != nil || !strings.Contains(names, spec.Name+"\n") {
			t.Errorf("images after import: %q, error %v", names, err)
		}
	}
}

// startContainerd runs a containerd with everything below dir and returns its socket.
func startContainerd(t *testing.T, bin, dir string) string {
	t.Helper()
	socket := filepath.Join(dir, "c.sock")
	config := filepath.Join(dir, "config.toml")
	// A temporary directory's path can be too long for a socket, hence the short names.
	text := fmt.Sprintf(`version = 4
root = %q
state = %q
disabled_plugins = ["io.containerd.cri.v1.runtime", "io.containerd.cri.v1.images", "io.containerd.grpc.v1.cri"]
[plugins."io.containerd.server.v1.grpc"]
address = %q
[plugins."io.containerd.server.v1.ttrpc"]
address = %q
`, filepath.Join(dir, "root"), filepath.Join(dir, "state"), socket, socket+".t")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	ctx, cancel := context.WithCancel(context.Background()) // t.Context ends before the cleanup
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "containerd"), "--config", config)
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // ended by our signal
		if t.Failed() {
			t.Log(log.String())
		}
	})
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		version := exec.CommandContext(t.Context(), filepath.Join(bin, "ctr"), "--address", socket, "version")
		if version.Run() == nil {
			return socket
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("containerd did not answer on %s: %s", socket, log.String())
		}
	}
}
