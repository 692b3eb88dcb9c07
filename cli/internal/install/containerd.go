package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"

	"golang.org/x/sys/unix"
)

const sandboxImage = "registry.kijabi.dev/pause:1"

const containerdTemplate = `# Written by kijabi; read at the start of containerd.
version = 4
root = {{printf "%q" .Root}}
state = {{printf "%q" .State}}
# Nothing of another containerd on this host may come in.
imports = []
# "opt" makes directories in /opt; the others are not used.
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]

[plugins."io.containerd.server.v1.grpc"]
  address = {{printf "%q" .Socket}}

[plugins."io.containerd.server.v1.ttrpc"]
  address = {{printf "%q" .TTRPC}}

[plugins."io.containerd.cri.v1.images"]
  snapshotter = {{printf "%q" .Snapshotter}}

  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = {{printf "%q" .Sandbox}}

[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = {{.RestrictOOM}}

  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = [{{printf "%q" .CNIBin}}]
    conf_dir = {{printf "%q" .CNIConf}}
    use_internal_loopback = true

  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"

    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"

      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        BinaryName = {{printf "%q" .Runc}}
        SystemdCgroup = false
        Root = {{printf "%q" .RuncRoot}}

# It has one place for its socket on a machine, and nothing here uses it.
[plugins."io.containerd.nri.v1.nri"]
  disable = true
{{- if eq .Snapshotter "native"}}

[plugins."io.containerd.transfer.v1.local"]
  [[plugins."io.containerd.transfer.v1.local".unpack_config]]
    platform = "linux"
    snapshotter = "native"
{{- end}}
`

// containerd returns its configuration.
func (s settings) containerd() ([]byte, error) {
	parsed, err := template.New("containerd").Parse(containerdTemplate)
	if err != nil {
		return nil, err
	}
	run := filepath.Join(s.layout.RunDir, "containerd")
	var content bytes.Buffer
	err = parsed.Execute(&content, map[string]any{
		"Root": s.layout.containerdDir(), "State": run, "Socket": s.layout.containerdSocket(),
		"TTRPC":   s.layout.containerdSocket() + ".ttrpc",
		"Sandbox": sandboxImage, "Runc": filepath.Join(s.binDir, "runc"),
		"RuncRoot": filepath.Join(run, "runc"),
		"CNIBin":   filepath.Join(s.binDir, "cni"), "CNIConf": s.layout.cniConfigDir(),
		"RestrictOOM": !hasCapability(unix.CAP_SYS_RESOURCE), "Snapshotter": snapshotter(s.layout.containerdDir()),
	})
	return content.Bytes(), err
}

// hasCapability reports whether this process, and so those that it starts, has a
// capability.
func hasCapability(number uint) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[number/32].Effective&(1<<(number%32)) != 0
}

// snapshotter is overlayfs, unless the directory, or where it will be made, itself lies
// on an overlay or in memory, which overlayfs does not take as its upper layer.
func snapshotter(dir string) string {
	const overlayMagic, tmpfsMagic, ramfsMagic = 0x794c7630, 0x01021994, 0x858458f6
	var info unix.Statfs_t
	err := unix.Statfs(dir, &info)
	for errors.Is(err, unix.ENOENT) && dir != "/" {
		dir = filepath.Dir(dir)
		err = unix.Statfs(dir, &info)
	}
	if err == nil {
		switch int64(info.Type) { //nolint:unconvert // narrower on some architectures
		case overlayMagic, tmpfsMagic, ramfsMagic:
			return "native"
		}
	}
	return "overlayfs"
}

// ImageArchives lists the archives that every machine is given, found in images/ in
// the bin directory or beside it.
func ImageArchives(binDir string) []string {
	for _, dir := range []string{filepath.Join(binDir, "images"), filepath.Join(filepath.Dir(binDir), "images")} {
		if found, _ := filepath.Glob(filepath.Join(dir, "*.tar")); len(found) > 0 {
			return found
		}
	}
	return nil
}

// ImportImage loads an OCI or docker archive into the machine's containerd.
func ImportImage(ctx context.Context, layout Layout, binDir, archive string) error {
	args := []string{"--address", layout.containerdSocket(), "--namespace", "k8s.io", "images", "import"}
	if kind := snapshotter(layout.containerdDir()); kind != "overlayfs" {
		args = append(args, "--snapshotter", kind)
	}
	command := exec.CommandContext(ctx, filepath.Join(binDir, "ctr"), append(args, archive)...)
	command.Env = append(os.Environ(), "PATH="+binDir+":"+os.Getenv("PATH"))
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("import image %s: %s", archive, lastLine(string(out), err))
	}
	return nil
}

func lastLine(text string, err error) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if last := strings.TrimSpace(lines[len(lines)-1]); last != "" {
		return last
	}
	return err.Error()
}
