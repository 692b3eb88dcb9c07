package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

func exampleSpec(t *testing.T) Spec {
	t.Helper()
	local := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(local, []byte("#!/nothing\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return Spec{
		Name:       "registry.kijabi.dev/example:1",
		Entrypoint: []string{"/usr/bin/program", "serve"},
		Command:    []string{"--quiet"},
		Layers: []Layer{
			{
				{Local: local, Path: "/usr/bin/program", Mode: 0o755},
				{Local: local, Path: "/etc/program.conf", Mode: 0o640},
				{Path: "/tmp", Mode: 0o777 | fs.ModeSticky},
			},
			{
				{Content: []byte("bill"), Path: "/usr/share/bill", Mode: 0o644},
				{Link: "/run", Path: "/var/run"},
			},
		},
		Labels:       Labels{Title: "Example", Version: "1.2", Licenses: "Apache-2.0"}.Map(),
		Env:          []string{"GREETING=hello"},
		Ports:        []string{"8080", "53/udp"},
		User:         "65532:65532",
		Architecture: "amd64",
	}
}

func build(t *testing.T, spec Spec) *Image {
	t.Helper()
	image, err := Build(spec)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// extract unpacks an archive into a directory.
func extract(t *testing.T, archive string) string {
	t.Helper()
	content, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	reader := tar.NewReader(bytes.NewReader(content))
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		if !header.ModTime.Equal(time.Unix(0, 0)) {
			t.Errorf("%s has time %s", header.Name, header.ModTime)
		}
		target := filepath.Join(dir, filepath.FromSlash(header.Name))
		if header.Typeflag == tar.TypeDir {
			if err := os.MkdirAll(target, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		body, err := io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(target, body, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOCIArchiveReadsBack(t *testing.T) {
	file := filepath.Join(t.TempDir(), "out", "example.tar")
	if err := WriteOCI(file, build(t, exampleSpec(t))); err != nil {
		t.Fatal(err)
	}
	index, err := layout.ImageIndexFromPath(extract(t, file))
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest.Manifests) != 1 {
		t.Fatalf("%d images in the archive, want 1", len(manifest.Manifests))
	}
	descriptor := manifest.Manifests[0]
	want := map[string]string{
		"io.containerd.image.name":          "registry.kijabi.dev/example:1",
		"org.opencontainers.image.ref.name": "1",
	}
	if diff := cmp.Diff(want, descriptor.Annotations); diff != "" {
		t.Errorf("annotations: %s", diff)
	}
	image, err := index.Image(descriptor.Digest)
	if err != nil {
		t.Fatal(err)
	}
	checkImage(t, image)
}

func TestDockerArchiveReadsBack(t *testing.T) {
	file := filepath.Join(t.TempDir(), "example.tar")
	built := build(t, exampleSpec(t))
	if err := WriteDocker(file, built); err != nil {
		t.Fatal(err)
	}
	image, err := tarball.ImageFromPath(file, &built.Tag)
	if err != nil {
		t.Fatal(err)
	}
	checkImage(t, image)
}

func checkImage(t *testing.T, image v1.Image) {
	t.Helper()
	if err := validate.Image(image); err != nil {
		t.Errorf("invalid image: %v", err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	wantConfig := v1.Config{
		Entrypoint:   []string{"/usr/bin/program", "serve"},
		Cmd:          []string{"--quiet"},
		Env:          []string{"PATH=/", "GREETING=hello"},
		User:         "65532:65532",
		WorkingDir:   "/",
		ExposedPorts: map[string]struct{}{"8080/tcp": {}, "53/udp": {}},
		Labels: map[string]string{
			"org.opencontainers.image.title": "Example", "org.opencontainers.image.version": "1.2",
			"org.opencontainers.image.licenses": "Apache-2.0",
		},
	}
	if diff := cmp.Diff(wantConfig, config.Config); diff != "" {
		t.Errorf("configuration: %s", diff)
	}
	if config.OS != "linux" || config.Architecture != "amd64" {
		t.Errorf("platform %s/%s", config.OS, config.Architecture)
	}
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	var got [][]string
	for _, layer := range layers {
		got = append(got, entries(t, layer))
	}
	want := [][]string{
		{
			"drwxr-xr-x etc/", "-rw-r----- etc/program.conf", "dtrwxrwxrwx tmp/",
			"drwxr-xr-x usr/", "drwxr-xr-x usr/bin/", "-rwxr-xr-x usr/bin/program",
		},
		{
			"drwxr-xr-x usr/", "drwxr-xr-x usr/share/", "-rw-r--r-- usr/share/bill",
			"drwxr-xr-x var/", "Lrwxrwxrwx var/run -> /run",
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files: %s", diff)
	}
}

// entries lists a layer, and checks that everything is root's and of no time.
func entries(t *testing.T, layer v1.Layer) []string {
	t.Helper()
	content, err := layer.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = content.Close() }()
	var listed []string
	for reader := tar.NewReader(content); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return listed
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Uid != 0 || header.Gid != 0 || !header.ModTime.Equal(time.Unix(0, 0)) {
			t.Errorf("%s: owner %d:%d, time %s", header.Name, header.Uid, header.Gid, header.ModTime)
		}
		line := header.FileInfo().Mode().String() + " " + header.Name
		if header.Linkname != "" {
			line += " -> " + header.Linkname
		}
		listed = append(listed, line)
	}
}

func TestArchivesAreReproducible(t *testing.T) {
	dir := t.TempDir()
	for _, write := range []func(string, *Image) error{WriteOCI, WriteDocker} {
		var outputs [][]byte
		for _, name := range []string{"a.tar", "b.tar"} {
			spec := exampleSpec(t) // another local path each round
			if name == "b.tar" {
				files := spec.Layers[0] // neither order nor times of the files matter
				files[0], files[2] = files[2], files[0]
				old := time.Unix(1_000_000_000, 0)
				if err := os.Chtimes(files[2].Local, old, old); err != nil {
					t.Fatal(err)
				}
			}
			file := filepath.Join(dir, name)
			if err := write(file, build(t, spec)); err != nil {
				t.Fatal(err)
			}
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			outputs = append(outputs, content)
		}
		if !bytes.Equal(outputs[0], outputs[1]) {
			t.Error("two builds of the same content differ")
		}
	}
}

func TestShortNamesAreCompleted(t *testing.T) {
	spec := exampleSpec(t)
	spec.Name = "example:1"
	if got, want := build(t, spec).Name, "docker.io/library/example:1"; got != want {
		t.Errorf("name %q, want %q", got, want)
	}
}

func TestBadInputIsNamed(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*Spec)
		want   string
	}{
		"no tag":        {func(s *Spec) { s.Name = "registry.kijabi.dev/example" }, "needs a tag"},
		"bad name":      {func(s *Spec) { s.Name = "UPPER/x:1" }, `name "UPPER/x:1"`},
		"no entrypoint": {func(s *Spec) { s.Entrypoint = nil }, "needs an entrypoint"},
		"bad env":       {func(s *Spec) { s.Env = []string{"=x"} }, "want NAME=VALUE"},
		"bad port":      {func(s *Spec) { s.Ports = []string{"80/sctp"} }, `port "80/sctp"`},
		"bad user":      {func(s *Spec) { s.User = "nobody" }, `user "nobody"`},
		"missing file":  {func(s *Spec) { s.Layers[0][0].Local = "/does/not/exist" }, "/usr/bin/program"},
		"twice":         {func(s *Spec) { s.Layers[0][1].Path = s.Layers[0][0].Path }, "given twice"},
		"below a file":  {func(s *Spec) { s.Layers[0][1].Path = "/usr/bin/program/x" }, "lies below the file"},
		"twice in two":  {func(s *Spec) { s.Layers[1][0].Path = s.Layers[0][0].Path }, "given twice"},
		"below another": {func(s *Spec) { s.Layers[1][0].Path = "/usr/bin/program/x" }, "lies below the file"},
		"no file":       {func(s *Spec) { s.Layers[0][0].Local = "/proc" }, "not a regular file"},
		"machine":       {func(s *Spec) { s.Architecture = "riscv64" }, "want amd64 or arm64"},
		"dynamic":       {func(s *Spec) { s.Layers[0][0].Local = "/bin/sh" }, "dynamically linked"},
	} {
		t.Run(name, func(t *testing.T) {
			spec := exampleSpec(t)
			test.change(&spec)
			_, err := Build(spec)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
		})
	}
}

func TestParseFile(t *testing.T) {
	got, err := ParseFile("bin/web:/srv/web:0640")
	if want := (File{Local: "bin/web", Path: "/srv/web", Mode: 0o640}); err != nil || !cmp.Equal(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for _, text := range []string{"web", ":/web", "web:relative", "web:/a/../b", "web:/", "web:/web:rwx", "web:/web:4755"} {
		if _, err := ParseFile(text); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
}

func TestLayersOfTheSameContentAreTheSame(t *testing.T) {
	one, other := exampleSpec(t), exampleSpec(t)
	other.Layers[1][0].Content = []byte("another bill")
	var digests [2][]v1.Hash
	for i, spec := range []Spec{one, other} {
		layers, err := build(t, spec).Layers()
		if err != nil {
			t.Fatal(err)
		}
		for _, layer := range layers {
			digest, err := layer.Digest()
			if err != nil {
				t.Fatal(err)
			}
			digests[i] = append(digests[i], digest)
		}
	}
	if digests[0][0] != digests[1][0] || digests[0][1] == digests[1][1] {
		t.Errorf("layers %v and %v: want the first the same and the second not", digests[0], digests[1])
	}
}

func TestProgramForOtherMachinesIsRefused(t *testing.T) {
	spec := exampleSpec(t)
	spec.Layers[0][0].Local = goProgram(t, "arm64")
	if _, err := Build(spec); err == nil || !strings.Contains(err.Error(), "build it with GOARCH=amd64") {
		t.Errorf("an arm64 program in an amd64 image: error %v", err)
	}
	spec.Architecture = "arm64"
	config, err := build(t, spec).ConfigFile()
	if err != nil || config.Architecture != "arm64" {
		t.Errorf("architecture %q, error %v", config.Architecture, err)
	}
}

// goProgram builds a program that does nothing.
func goProgram(t *testing.T, architecture string) string {
	t.Helper()
	dir := t.TempDir()
	source := filepath.Join(dir, "main.go")
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "program")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", program, source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+architecture)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	return program
}
