package images

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"kijabi.dev/test/harness"
)

// version is one that no release has.
const version = "0.0.0-imagestest"

func reference(name string) string { return "registry.kijabi.dev/" + name + ":" + version }

// components are the images that hold one program of ours, of the same name.
func components() []string {
	return []string{
		"apiserver", "scheduler", "controller-manager", "cloud-controller-manager", "cloud-provider-local",
		"kube-proxy", "network-agent", "dns",
	}
}

func all() []string { return append(components(), "kijabi", "kijabi-node", "machine") }

// makeImages makes all images in a fresh directory.
func makeImages(t *testing.T) string {
	t.Helper()
	out := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "sh", "../../deploy/images/images.sh", harness.Programs(t), out)
	cmd.Env = append(os.Environ(), "VERSION="+version, "REVISION=0123abcd")
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("images.sh: %v: %s", err, output)
	}
	return out
}

// docker runs the client and returns what it prints.
func docker(t *testing.T, args ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), "docker", args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("docker %s: %v: %s%s", strings.Join(args, " "), err, out, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// inspected is what `docker image inspect` tells.
type inspected struct {
	Architecture string
	Config       struct {
		Entrypoint []string
		Labels     map[string]string
	}
	RootFS struct{ Layers []string }
}

func inspect(t *testing.T, name string) inspected {
	t.Helper()
	var images []inspected
	if err := json.Unmarshal([]byte(docker(t, "image", "inspect", reference(name))), &images); err != nil {
		t.Fatal(err)
	}
	return images[0]
}

func TestImages(t *testing.T) {
	dir := makeImages(t)
	t.Run("reproducible", func(t *testing.T) { sameFiles(t, dir, makeImages(t)) })
	for _, name := range all() {
		removeAtEnd(t, "image", "rm", reference(name))
		loaded := docker(t, "load", "--input", filepath.Join(dir, name+".docker.tar"))
		if loaded != "Loaded image: "+reference(name) {
			t.Errorf("load: %s", loaded)
		}
	}
	t.Run("labels", checkLabels)
	t.Run("shared layer", func(t *testing.T) {
		node, line := inspect(t, "kijabi-node").RootFS.Layers, inspect(t, "kijabi").RootFS.Layers
		if node[0] != line[0] || node[1] == line[1] {
			t.Errorf("layers %v and %v: want the lowest to be shared", node, line)
		}
	})
	t.Run("bill of materials", func(t *testing.T) {
		for _, name := range all() {
			beside, err := os.ReadFile(filepath.Join(dir, name+".cdx.json"))
			if err != nil {
				t.Fatal(err)
			}
			if inside := fileOf(t, name, "/usr/share/kijabi/sbom.cdx.json"); !bytes.Equal(inside, beside) {
				t.Errorf("%s: the bill in the image, %d bytes, differs from that beside it", name, len(inside))
			}
		}
	})
	t.Run("programs run", checkPrograms)
	t.Run("machine ends when told to", checkMachine)
}

// removeAtEnd runs docker after the test, which ends t.Context first.
func removeAtEnd(t *testing.T, args ...string) {
	t.Helper()
	t.Cleanup(func() {
		if out, err := exec.Command("docker", args...).CombinedOutput(); err != nil { //nolint:noctx // see above
			t.Errorf("docker %s: %v: %s", strings.Join(args, " "), err, out)
		}
	})
}

func sameFiles(t *testing.T, one, other string) {
	t.Helper()
	for _, name := range all() {
		for _, kind := range []string{".oci.tar", ".docker.tar", ".cdx.json"} {
			var sums [][sha256.Size]byte
			for _, dir := range []string{one, other} {
				content, err := os.ReadFile(filepath.Join(dir, name+kind))
				if err != nil {
					t.Fatal(err)
				}
				sums = append(sums, sha256.Sum256(content))
			}
			if sums[0] != sums[1] {
				t.Errorf("%s%s: two builds differ", name, kind)
			}
		}
	}
}

func checkLabels(t *testing.T) {
	const prefix = "org.opencontainers.image."
	for _, name := range all() {
		image := inspect(t, name)
		labels := image.Config.Labels
		if labels[prefix+"version"] != version || labels[prefix+"revision"] != "0123abcd" {
			t.Errorf("%s: labels %v", name, labels)
		}
		for _, key := range []string{"title", "description", "licenses"} {
			if labels[prefix+key] == "" {
				t.Errorf("%s: no label %s", name, key)
			}
		}
		want := "/usr/local/bin/" + name
		if name == "kijabi-node" {
			want += "-init"
		}
		if !slices.Equal(image.Config.Entrypoint, []string{want}) {
			t.Errorf("%s: entrypoint %v, want %s", name, image.Config.Entrypoint, want)
		}
	}
}

// run runs an image's program, or another one of the image, to its end.
func run(t *testing.T, name, program string, args ...string) string {
	t.Helper()
	command := []string{"run", "--rm", "--network", "none"}
	if program != "" {
		command = append(command, "--entrypoint", program)
	}
	return docker(t, append(append(command, reference(name)), args...)...)
}

func checkPrograms(t *testing.T) {
	for _, name := range components() {
		if got := run(t, name, "", "--version"); !strings.HasPrefix(got, name+" ") {
			t.Errorf("%s --version prints %q", name, got)
		}
	}
	if got := run(t, "kijabi", "", "--help"); !strings.Contains(got, "master init") {
		t.Errorf("kijabi --help prints %q", got)
	}
	for _, program := range []string{"containerd", "containerd-shim-runc-v2", "ctr", "runc", "kubelet"} {
		flag := "--version"
		if program == "containerd-shim-runc-v2" {
			flag = "-v"
		}
		if got := run(t, "kijabi-node", program, flag); !strings.Contains(got, strings.SplitN(program, "-", 2)[0]) {
			t.Errorf("%s %s prints %q", program, flag, got)
		}
	}
	for _, plugin := range []string{"bridge", "host-local", "loopback", "portmap", "ptp"} {
		// Without CNI's environment a plugin tells what it is.
		cmd := exec.CommandContext(t.Context(), "docker", "run", "--rm", "--network", "none",
			"--entrypoint", "/usr/local/bin/cni/"+plugin, reference("kijabi-node"))
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "CNI "+plugin+" plugin") {
			t.Errorf("plugin %s prints %q, error %v", plugin, out, err)
		}
	}
	for _, name := range []string{"guestbook-store", "guestbook-web", "pause", "toolbox"} {
		if content := fileOf(t, "kijabi", "/usr/local/bin/images/"+name+".tar"); len(content) < 100_000 {
			t.Errorf("the image %s in kijabi has %d bytes", name, len(content))
		}
	}
}

// fileOf reads a file of an image.
func fileOf(t *testing.T, name, path string) []byte {
	t.Helper()
	container := docker(t, "create", reference(name))
	removeAtEnd(t, "rm", container)
	target := filepath.Join(t.TempDir(), "file")
	docker(t, "cp", container+":"+path, target)
	content, err := os.ReadFile(target)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func checkMachine(t *testing.T) {
	container := docker(t, "run", "--detach", "--network", "none", reference("machine"))
	removeAtEnd(t, "rm", "--force", container)
	docker(t, "stop", "--time", "60", container)
	if got := docker(t, "inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", container); got != "exited 0" {
		t.Errorf("machine is %q after its stop: want it to end by itself", got)
	}
}
