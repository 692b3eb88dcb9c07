package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// run calls the tool in a fresh directory, which holds a file named program.
func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	t.Chdir(t.TempDir())
	if err := os.WriteFile("program", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	plan := `registry: registry.example.com
images:
  - {name: x, title: X, description: X., licenses: MIT, entrypoint: [/x], layers: [[{from: "${bin}/program", to: /x}]]}
  - {name: z, title: Z, description: Z., licenses: MIT, entrypoint: [/z], layers: [[{from: "${bin}/nothing", to: /z}]]}
`
	if err := os.WriteFile("plan.yaml", []byte(plan), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := command()
	cmd.SetOut(&out)
	cmd.SetArgs(args)
	err := cmd.Execute()
	return out.String(), err
}

func TestBuildWritesWhatIsAskedFor(t *testing.T) {
	out, err := run(t, "build", "--name", "registry.example.com/x:1", "--version", "0.1.0", "--entrypoint", "/x",
		"--file", "program:/x", "-o", "oci.tar", "--docker", "docker.tar", "--sbom", "x.cdx.json")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(out, "registry.example.com/x:1@sha256:") {
		t.Errorf("output %q", out)
	}
	for _, file := range []string{"oci.tar", "docker.tar", "x.cdx.json"} {
		if info, err := os.Stat(file); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", file, err)
		}
	}
}

func TestBuildAllPrintsALineForEachImage(t *testing.T) {
	dir := t.TempDir()
	out, err := run(t, "build-all", "plan.yaml", "--out", dir, "--version", "0.1.0", "--set", "bin=.")
	if err == nil || !strings.Contains(err.Error(), "image z: ") {
		t.Errorf("error %v", err)
	}
	if lines := strings.Split(strings.TrimSpace(out), "\n"); len(lines) != 1 || !strings.HasPrefix(lines[0], "registry.example.com/x:0.1.0 ") {
		t.Errorf("output %q", out)
	}
	if _, err := os.Stat(filepath.Join(dir, "x.oci.tar")); err != nil {
		t.Error(err)
	}
}

func TestBadArguments(t *testing.T) {
	for want, args := range map[string][]string{
		"nothing to write":    {"build", "--name", "x:1", "--version", "1", "--entrypoint", "/x", "--file", "program:/x"},
		`"version" not set`:   {"build", "--name", "x:1", "--entrypoint", "/x", "--file", "program:/x", "-o", "x.tar"},
		`directory "/a/../b"`: {"build", "--name", "x:1", "--version", "1", "--entrypoint", "/x", "--file", "program:/x", "--dir", "/a/../b", "-o", "x.tar"},
		"no value for bin":    {"build-all", "plan.yaml", "--out", ".", "--version", "1"},
		"accepts 1 arg":       {"build-all", "--out", ".", "--version", "1"},
	} {
		if _, err := run(t, args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: error %v, want one with %q", args, err, want)
		}
	}
}
