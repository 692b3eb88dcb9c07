package compose

import (
	"archive/tar"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// writeArchive writes a docker archive with nothing but a manifest, if that is not empty.
func writeArchive(t *testing.T, manifest string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "image.docker.tar")
	out, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	writer := tar.NewWriter(out)
	for _, entry := range []struct{ name, content string }{{"layer.tar", "layer"}, {"manifest.json", manifest}} {
		if entry.content == "" {
			continue
		}
		if err := writer.WriteHeader(&tar.Header{Name: entry.name, Mode: 0o644, Size: int64(len(entry.content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := writer.Write([]byte(entry.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestReadArchive(t *testing.T) {
	for _, config := range []string{"sha256:abc", "abc.json", "blobs/sha256/abc"} {
		got, err := readArchive(writeArchive(t, `[{"Config":"`+config+`","RepoTags":["registry.kijabi.dev/dns:0.1.0"],"Layers":[]}]`))
		if err != nil || got.reference != "registry.kijabi.dev/dns:0.1.0" || got.id != "sha256:abc" {
			t.Errorf("config %s: %+v, %v", config, got, err)
		}
	}
	for manifest, want := range map[string]string{
		"":                               "no manifest.json",
		"{":                              "manifest",
		`[{"Config":"x","RepoTags":[]}]`: "one image with one name",
	} {
		if _, err := readArchive(writeArchive(t, manifest)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("manifest %q: %v", manifest, err)
		}
	}
}

func TestContainerIsAsItShouldBe(t *testing.T) {
	for _, test := range []struct {
		container container
		ok        bool
	}{
		{container{name: "m-setup", machine: "m", state: "exited", status: "Exited (0) 2 minutes ago"}, true},
		{container{name: "m-setup", machine: "m", state: "exited", status: "Exited (1) 2 minutes ago"}, false},
		{container{name: "m-setup", machine: "m", state: "running", status: "Up 3 seconds"}, false},
		{container{name: "m-setup", machine: "m", state: "restarting", status: "Restarting (1) 1 second ago"}, false},
		{container{name: "m-dns", machine: "m", state: "running", status: "Up 3 seconds (health: starting)"}, true},
		{container{name: "m-dns", machine: "m", state: "exited", status: "Exited (0) 1 second ago"}, false},
		{container{name: "m", machine: "m", state: "created", status: "Created"}, false},
	} {
		if got := test.container.ok(); got != test.ok {
			t.Errorf("%+v: %t", test.container, got)
		}
	}
}

func TestWhyUp(t *testing.T) {
	const pool = "ERROR: Pool overlaps with other one on this address space"
	for out, want := range map[string]string{
		"Creating network\n" + pool: "KIJABI_NET",
		"Creating master-1 ... error\n\nERROR: for master-1  Cannot create container: port is taken\nEncountered errors while bringing up the project.": "port is taken",
		`Error response from daemon: Conflict. The container name "/master-1" is already in use by container "abc".`:                                    "kijabi compose down",
		"": "exit status 1",
	} {
		if got := whyUp(out, errors.New("exit status 1")); !strings.Contains(got, want) || strings.Contains(got, "\n") {
			t.Errorf("%q: %q, want one line with %q", out, got, want)
		}
	}
}
