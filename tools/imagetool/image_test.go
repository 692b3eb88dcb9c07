package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
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
		Files: []File{
			{Local: local, Path: "/usr/bin/program", Mode: 0o755},
			{Local: local, Path: "/etc/program.conf", Mode: 0o640},
			{Path: "/tmp", Mode: 0o777 | fs.ModeSticky},
		},
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
	}
	if diff := cmp.Diff(wantConfig, config.Config); diff != "" {
		t.Errorf("configuration: %s", diff)
	}
	if config.OS != "linux" || config.Architecture != "amd64" {
		t.Errorf("platform %s/%s", config.OS, config.Architecture)
	}
	layers, err := image.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, error %v", len(layers), err)
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = content.Close() }()
	var got []string
	reader := tar.NewReader(content)
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Uid != 0 || header.Gid != 0 || !header.ModTime.Equal(time.Unix(0, 0)) {
			t.Errorf("%s: owner %d:%d, time %s", header.Name, header.Uid, header.Gid, header.ModTime)
		}
		got = append(got, header.FileInfo().Mode().String()+" "+header.Name)
	}
	want := []string{
		"drwxr-xr-x etc/", "-rw-r----- etc/program.conf", "dtrwxrwxrwx tmp/",
		"drwxr-xr-x usr/", "drwxr-xr-x usr/bin/", "-rwxr-xr-x usr/bin/program",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files: %s", diff)
	}
}

func TestArchivesAreReproducible(t *testing.T) {
	dir := t.TempDir()
	for _, write := range []func(string, *Image) error{WriteOCI, WriteDocker} {
		var outputs [][]byte
		for _, name := range []string{"a.tar", "b.tar"} {
			spec := exampleSpec(t) // another local path and another time each round
			if name == "b.tar" {   // order on the command line does not matter
				spec.Files[0], spec.Files[2] = spec.Files[2], spec.Files[0]
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
		"missing file":  {func(s *Spec) { s.Files[0].Local = "/does/not/exist" }, "/usr/bin/program"},
		"twice":         {func(s *Spec) { s.Files[1].Path = s.Files[0].Path }, "given twice"},
		"below a file":  {func(s *Spec) { s.Files[1].Path = "/usr/bin/program/x" }, "lies below the file"},
		"dynamic":       {func(s *Spec) { s.Files[0].Local = "/bin/sh" }, "dynamically linked"},
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
	if want := (File{Local: "bin/web", Path: "/srv/web", Mode: 0o640}); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for _, text := range []string{"web", ":/web", "web:relative", "web:/a/../b", "web:/", "web:/web:rwx", "web:/web:4755"} {
		if _, err := ParseFile(text); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
}

func TestCommandWritesBothForms(t *testing.T) {
	dir := t.TempDir()
	local := filepath.Join(dir, "program")
	if err := os.WriteFile(local, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := command()
	cmd.SetOut(&out)
	cmd.SetArgs([]string{"build", "--name", "registry.kijabi.dev/x:1", "--entrypoint", "/x", "--file", local + ":/x",
		"-o", filepath.Join(dir, "oci.tar"), "--docker", filepath.Join(dir, "docker.tar")})
	if err := cmd.Execute(); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(out.String(), "registry.kijabi.dev/x:1@sha256:") {
		t.Errorf("output %q", out.String())
	}
	var index v1.IndexManifest
	content, err := os.ReadFile(filepath.Join(extract(t, filepath.Join(dir, "oci.tar")), "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(content, &index); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "docker.tar")); err != nil {
		t.Error(err)
	}
}
