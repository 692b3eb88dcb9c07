package nodetest

import (
	"archive/tar"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"kijabi.dev/kubelet/internal/runtime/cri"
)

const (
	pauseImage = "registry.kijabi.dev/pause:1"
	testImage  = "registry.kijabi.dev/nodetest:1"
)

// daemon is a containerd of the tests' own.
type daemon struct {
	directory string
	endpoint  string
	command   *exec.Cmd
}

// bin is where the bundle was built: $KIJABI_BIN, by default bin/.
func bin(t *testing.T) string {
	t.Helper()
	directory, err := filepath.Abs(cmp.Or(os.Getenv("KIJABI_BIN"), "../../../bin"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(directory, "containerd")); err != nil {
		t.Fatalf("the node bundle is not built (deploy/bundle/build.sh): %v", err)
	}
	return directory
}

//nolint:gochecknoglobals // one containerd serves all tests of this process
var shared struct {
	once   sync.Once
	daemon *daemon
	err    error
}

// containerd returns the running daemon with the test image imported. It ends with
// the process' namespaces.
func containerd(t *testing.T) *daemon {
	t.Helper()
	programs := bin(t)
	shared.once.Do(func() { shared.daemon, shared.err = startContainerd(programs) })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.daemon
}

func startContainerd(programs string) (*daemon, error) {
	directory := os.Getenv(placeVariable)
	d := &daemon{directory: directory, endpoint: "unix://" + directory + "/c.sock"}
	cni := filepath.Join(directory, "net.d")
	if err := os.MkdirAll(cni, 0o755); err != nil {
		return nil, err
	}
	network := `{"cniVersion":"1.0.0","name":"nodetest","plugins":[{"type":"bridge","bridge":"kjntest0","isGateway":true,"ipMasq":false,
"ipam":{"type":"host-local","dataDir":"` + directory + `/ipam","ranges":[[{"subnet":"10.199.0.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}}]}`
	config := fmt.Sprintf(`version = 4
root = %[1]q
state = "/run/nodetest"
imports = []
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[plugins."io.containerd.server.v1.grpc"]
  address = %[2]q
[plugins."io.containerd.server.v1.ttrpc"]
  address = %[3]q
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = %[4]q
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = [%[5]q]
    conf_dir = %[6]q
    use_internal_loopback = true
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        BinaryName = %[7]q
`, filepath.Join(directory, "root"), filepath.Join(directory, "c.sock"), filepath.Join(directory, "t.sock"), pauseImage,
		filepath.Join(programs, "cni"), cni, filepath.Join(programs, "runc"))
	for path, text := range map[string]string{"net.d/10-nodetest.conflist": network, "config.toml": config} {
		if err := os.WriteFile(filepath.Join(directory, path), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	if err := d.start(programs); err != nil {
		return nil, err
	}
	archive, err := buildImage(directory)
	if err != nil {
		return nil, err
	}
	for _, image := range []string{filepath.Join(programs, "images", "pause.tar"), archive} {
		importer := exec.CommandContext(testContext(), filepath.Join(programs, "ctr"), "--address", directory+"/c.sock", "--namespace", "k8s.io", "images", "import", "--local", image)
		if output, err := importer.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("import %s: %w: %s", image, err, output)
		}
	}
	return d, nil
}

func (d *daemon) start(programs string) error {
	log, err := os.OpenFile(filepath.Join(d.directory, "containerd.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	d.command = exec.CommandContext(testContext(), filepath.Join(programs, "containerd"), "--config", filepath.Join(d.directory, "config.toml"))
	d.command.Env = append(os.Environ(), "PATH="+programs+":"+os.Getenv("PATH"))
	d.command.Stdout, d.command.Stderr = log, log
	if err := d.command.Start(); err != nil {
		return err
	}
	client, err := cri.New(d.endpoint)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	for deadline := time.Now().Add(20 * time.Second); ; {
		status, err := client.Status(testContext())
		if err == nil && status.Ready && status.NetworkReady {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("containerd is not ready: %+v %w", status, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// buildImage compiles the workload and packs it as an OCI archive.
func buildImage(directory string) (string, error) {
	program := filepath.Join(directory, "workload")
	build := exec.CommandContext(testContext(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "kijabi.dev/kubelet/internal/nodetest/workload")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build workload: %w: %s", err, output)
	}
	binary, err := os.ReadFile(program)
	if err != nil {
		return "", err
	}
	var layer bytes.Buffer
	if err := pack(&layer, map[string][]byte{"workload": binary}, 0o755); err != nil {
		return "", err
	}
	files := map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)}
	add := func(kind string, data []byte) map[string]any {
		sum := sha256.Sum256(data)
		digest := hex.EncodeToString(sum[:])
		files["blobs/sha256/"+digest] = data
		return map[string]any{"mediaType": kind, "digest": "sha256:" + digest, "size": len(data)}
	}
	encode := func(value any) []byte {
		data, err := json.Marshal(value)
		if err != nil {
			panic(err) // maps of plain values
		}
		return data
	}
	layerBlob := add("application/vnd.oci.image.layer.v1.tar", layer.Bytes())
	config := add("application/vnd.oci.image.config.v1+json", encode(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "config": map[string]any{"Entrypoint": []string{"/workload"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []any{layerBlob["digest"]}},
	}))
	manifest := add("application/vnd.oci.image.manifest.v1+json", encode(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": []any{layerBlob},
	}))
	manifest["annotations"] = map[string]string{"io.containerd.image.name": testImage}
	files["index.json"] = encode(map[string]any{"schemaVersion": 2, "manifests": []any{manifest}})
	var archive bytes.Buffer
	if err := pack(&archive, files, 0o644); err != nil {
		return "", err
	}
	path := filepath.Join(directory, "image.tar")
	return path, os.WriteFile(path, archive.Bytes(), 0o600)
}

func pack(into *bytes.Buffer, files map[string][]byte, mode int64) error {
	writer := tar.NewWriter(into)
	for name, data := range files {
		if err := writer.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(data))}); err != nil {
			return err
		}
		if _, err := writer.Write(data); err != nil {
			return err
		}
	}
	return writer.Close()
}
