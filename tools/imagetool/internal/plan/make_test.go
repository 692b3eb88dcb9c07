package plan

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"kijabi.dev/tools/imagetool/internal/roots"
	"kijabi.dev/tools/imagetool/internal/sbom"
)

func exampleRelease() Release {
	tool := &debug.BuildInfo{Deps: []*debug.Module{{Path: roots.Module, Version: "v0.0.0-1"}}}
	return Release{Version: "1.2", Revision: "0123abcd", Architecture: "amd64", Tool: tool}
}

func makeExample(t *testing.T, read Plan, out string, release Release) []Made {
	t.Helper()
	made, err := read.Make(t.Context(), out, release)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// outputs returns the files of a directory, without the tool's own records.
func outputs(t *testing.T, dir string) map[string]string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "[a-z]*"))
	if err != nil {
		t.Fatal(err)
	}
	contents := map[string]string{}
	for _, file := range found {
		contents[filepath.Base(file)] = read(t, file)
	}
	return contents
}

func read(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func open(t *testing.T, archive, reference string) v1.Image {
	t.Helper()
	tag, err := name.NewTag(reference)
	if err != nil {
		t.Fatal(err)
	}
	image, err := tarball.ImageFromPath(archive, &tag)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func TestImagesCarryLabelsAndBill(t *testing.T) {
	example, _ := readExample(t)
	out := t.TempDir()
	made := makeExample(t, example, out, exampleRelease())
	if made[0].Name != "registry.example.com/shop/till:1.2" || made[1].Name != "registry.example.com/shop/shelf:1.2" {
		t.Errorf("made %+v", made)
	}
	image := open(t, filepath.Join(out, "till.docker.tar"), made[0].Name)
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"org.opencontainers.image.title": "Till", "org.opencontainers.image.description": "Takes the money.",
		"org.opencontainers.image.licenses": "Apache-2.0", "org.opencontainers.image.version": "1.2",
		"org.opencontainers.image.revision": "0123abcd",
	}
	if diff := cmp.Diff(want, config.Config.Labels); diff != "" {
		t.Errorf("labels: %s", diff)
	}
	bill := read(t, filepath.Join(out, "till.cdx.json"))
	if inside := fileOf(t, image, strings.TrimPrefix(sbom.Path, "/")); inside != bill {
		t.Errorf("bill in the image differs from that beside it: %s", inside)
	}
	for _, part := range []string{"pkg:generic/libcoin@7", "x509roots/fallback@v0.0.0-1", `"/etc/passwd"`, `"name": "till"`} {
		if !strings.Contains(bill, part) {
			t.Errorf("bill does not hold %s: %s", part, bill)
		}
	}
}

// fileOf reads a file of the last layer.
func fileOf(t *testing.T, image v1.Image, path string) string {
	t.Helper()
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	content, err := layers[len(layers)-1].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = content.Close() }()
	for reader := tar.NewReader(content); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			t.Fatalf("%s is not in the last layer", path)
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Name == path {
			var out bytes.Buffer
			if _, err := io.Copy(&out, reader); err != nil {
				t.Fatal(err)
			}
			return out.String()
		}
	}
}

func TestImagesShareTheirBase(t *testing.T) {
	example, _ := readExample(t)
	out := t.TempDir()
	var lowest []v1.Hash
	for _, one := range makeExample(t, example, out, exampleRelease()) {
		base := filepath.Base(strings.TrimSuffix(one.Name, ":1.2"))
		layers, err := open(t, filepath.Join(out, base+".docker.tar"), one.Name).Layers()
		if err != nil {
			t.Fatal(err)
		}
		diffID, err := layers[0].DiffID()
		if err != nil {
			t.Fatal(err)
		}
		lowest = append(lowest, diffID)
	}
	if lowest[0] != lowest[1] {
		t.Errorf("lowest layers %v differ", lowest)
	}
}

func TestTwoBuildsGiveTheSameBytes(t *testing.T) {
	var builds []map[string]string
	for range 2 {
		example, dir := readExample(t) // elsewhere each time
		old := time.Unix(1_000_000_000+int64(len(builds)), 0)
		for _, file := range []string{"till", "shelf", "passwd"} {
			if err := os.Chtimes(filepath.Join(dir, file), old, old); err != nil {
				t.Fatal(err)
			}
		}
		out := t.TempDir()
		makeExample(t, example, out, exampleRelease())
		builds = append(builds, outputs(t, out))
	}
	if len(builds[0]) != 6 {
		t.Errorf("%d files, want 3 for each of 2 images", len(builds[0]))
	}
	for file, content := range builds[0] {
		if builds[1][file] != content {
			t.Errorf("%s differs", file)
		}
	}
}

func TestOnlyWhatChangedIsMade(t *testing.T) {
	example, dir := readExample(t)
	out := t.TempDir()
	makeExample(t, example, out, exampleRelease())
	touch := func(file string) {
		now := time.Now().Add(time.Hour)
		if err := os.Chtimes(filepath.Join(dir, file), now, now); err != nil {
			t.Fatal(err)
		}
	}
	release := exampleRelease()
	for _, step := range []struct {
		name        string
		change      func()
		till, shelf bool // kept
	}{
		{"nothing", func() {}, true, true},
		{"times", func() { touch("till") }, true, true},
		{"a program", func() { write(t, filepath.Join(dir, "till"), "till 2") }, false, true},
		{"what both hold", func() { write(t, filepath.Join(dir, "passwd"), "root 2") }, false, false},
		{"an archive is gone", func() { remove(t, filepath.Join(out, "shelf.oci.tar")) }, true, false},
		{"the commit", func() { release.Revision = "4567cdef" }, false, false},
		{"a library", func() { example.Images[0].Layers[1][0].Libraries[0].Version = "8" }, false, true},
	} {
		step.change()
		made := makeExample(t, example, out, release)
		if made[0].Kept != step.till || made[1].Kept != step.shelf {
			t.Errorf("%s changed: kept till %v and shelf %v, want %v and %v", step.name, made[0].Kept, made[1].Kept, step.till, step.shelf)
		}
	}
	if bill := read(t, filepath.Join(out, "till.cdx.json")); !strings.Contains(bill, "libcoin@8") {
		t.Errorf("bill is not of the last build: %s", bill)
	}
}

func write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, file string) {
	t.Helper()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
}

func TestFailureLeavesTheOthers(t *testing.T) {
	example, dir := readExample(t)
	out := t.TempDir()
	remove(t, filepath.Join(dir, "till"))
	made, err := example.Make(t.Context(), out, exampleRelease())
	if err == nil || !strings.Contains(err.Error(), "image till: "+filepath.Join(dir, "till")+" is missing: run 'make build' first") {
		t.Errorf("error %v", err)
	}
	if len(made) != 1 || made[0].Name != "registry.example.com/shop/shelf:1.2" {
		t.Errorf("made %+v", made)
	}
	for file := range outputs(t, out) {
		if !strings.HasPrefix(file, "shelf.") {
			t.Errorf("%s is there", file)
		}
	}
	write(t, filepath.Join(dir, "till"), "till 1")
	if made := makeExample(t, example, out, exampleRelease()); made[0].Kept || !made[1].Kept {
		t.Errorf("after the repair: %+v", made)
	}
}
