package main

import (
	"archive/tar"
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// run runs a program that a user would check an archive with.
func run(t *testing.T, dir string, argv ...string) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	command.Dir = dir
	out, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v: %s", argv, err, out)
	}
	return string(out)
}

// fakeBin is a directory that holds what an archive needs: real, but small programs.
func fakeBin(t *testing.T) string {
	t.Helper()
	bin := t.TempDir()
	run(t, "..", "go", "build", "-o", filepath.Join(bin, "small"), "./pause")
	run(t, "..", "go", "build", "-o", filepath.Join(bin, "kijabi"), "./imagetool") // it has dependencies
	for _, dir := range []string{"cni", "images"} {
		if err := os.Mkdir(filepath.Join(bin, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range programs() {
		if name != "kijabi" {
			if err := os.Link(filepath.Join(bin, "small"), filepath.Join(bin, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, name := range images() {
		writeImage(t, filepath.Join(bin, "images", name), DefaultArchitecture)
	}
	return bin
}

func writeImage(t *testing.T, path, architecture string) {
	t.Helper()
	index := fmt.Sprintf(`{"manifests":[{"platform":{"os":"linux","architecture":%q}}]}`, architecture)
	var content bytes.Buffer
	archive := tar.NewWriter(&content)
	if err := archive.WriteHeader(&tar.Header{Name: "index.json", Mode: 0o644, Size: int64(len(index))}); err != nil {
		t.Fatal(err)
	}
	if _, err := archive.Write([]byte(index)); err != nil {
		t.Fatal(err)
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func testSpec(t *testing.T) Spec {
	t.Helper()
	return Spec{Version: "1.2.3", Bin: fakeBin(t), License: "../../LICENSE"}
}

func testKey(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestArchiveIsCheckedWithoutKijabi makes an archive and checks it with openssl,
// sha256sum and tar alone.
func TestArchiveIsCheckedWithoutKijabi(t *testing.T) {
	out := t.TempDir()
	made, err := Make(testSpec(t), testKey(t), out)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Base(made.Path)
	if want := "kijabi-1.2.3-linux-" + DefaultArchitecture + ".tar.gz"; name != want {
		t.Errorf("archive is called %s, want %s", name, want)
	}
	run(t, out, "openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "kijabi.pub", "-rawin", "-in", name, "-sigfile", name+".sig")
	run(t, out, "sha256sum", "--quiet", "-c", name+".sha256")
	if warned := run(t, out, "tar", "-xf", name); warned != "" {
		t.Errorf("tar says %q", warned)
	}
	unpacked := filepath.Join(out, "kijabi-1.2.3")
	run(t, unpacked, "sha256sum", "--quiet", "--strict", "-c", "SHA256SUMS")
	sums, err := os.ReadFile(filepath.Join(unpacked, "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	files := run(t, unpacked, "find", ".", "-type", "f")
	if listed, there := strings.Count(string(sums), "\n"), strings.Count(files, "\n")-1; listed != there {
		t.Errorf("SHA256SUMS lists %d files, there are %d besides it: %s", listed, there, files)
	}
	for _, program := range programs() {
		info, err := os.Stat(filepath.Join(unpacked, "bin", program))
		if err != nil || info.Mode() != 0o755 {
			t.Errorf("program %s: %v, %v", program, info, err)
		}
	}
	text, err := os.ReadFile(filepath.Join(unpacked, "README"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "VERSION") || !strings.Contains(string(text), "/opt/kijabi-1.2.3/bin/kijabi") {
		t.Errorf("README does not name this version: %s", text)
	}
	notices, err := os.ReadFile(filepath.Join(unpacked, "NOTICES"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"the Go standard library", "github.com/spf13/cobra v", "Apache License"} {
		if !strings.Contains(string(notices), want) {
			t.Errorf("NOTICES lacks %q", want)
		}
	}
}

func TestSameInputGivesTheSameBytes(t *testing.T) {
	spec, key := testSpec(t), testKey(t)
	var archives [2][]byte
	for i := range archives {
		made, err := Make(spec, key, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if archives[i], err = os.ReadFile(made.Path); err != nil {
			t.Fatal(err)
		}
		// Times, modes and owners of what is packed say nothing about it.
		later := time.Now().Add(time.Hour)
		for _, name := range []string{"runc", "images/pause.tar"} {
			path := filepath.Join(spec.Bin, name)
			if err := os.Chtimes(path, later, later); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Error("the second archive differs from the first")
	}
}

func TestRefused(t *testing.T) {
	spec := testSpec(t)
	replace := func(name string, change func(content []byte) []byte) func(t *testing.T) {
		return func(t *testing.T) {
			t.Helper()
			path := filepath.Join(spec.Bin, name)
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.Remove(path); _ = os.WriteFile(path, before, 0o755) })
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if after := change(bytes.Clone(before)); after != nil {
				if err := os.WriteFile(path, after, 0o755); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for name, test := range map[string]struct {
		prepare func(t *testing.T)
		spec    func(s *Spec)
		want    string
	}{
		"missing":              {prepare: replace("runc", func([]byte) []byte { return nil }), want: "missing in " + spec.Bin + ": runc; build it"},
		"missing image":        {prepare: replace("images/pause.tar", func([]byte) []byte { return nil }), want: "images/pause.tar; build it"},
		"no program":           {prepare: replace("runc", func([]byte) []byte { return []byte("#!/bin/sh\nexec true # a script is no program\n") }), want: "bad magic"},
		"other architecture":   {prepare: replace("runc", otherMachine), want: "is built for EM_S390, not for"},
		"image is no archive":  {prepare: replace("images/pause.tar", func([]byte) []byte { return []byte("x") }), want: "pause.tar: unexpected EOF"},
		"bad version":          {spec: func(s *Spec) { s.Version = "../1" }, want: `version "../1"`},
		"unknown architecture": {spec: func(s *Spec) { s.Architecture = "mips" }, want: `architecture "mips"`},
		"no licence":           {spec: func(s *Spec) { s.License = "nowhere" }, want: "nowhere: no such file"},
		"dynamically linked":   {prepare: replace("runc", func([]byte) []byte { return dynamic(t) }), want: "is dynamically linked"},
		"image of another architecture": {
			prepare: func(t *testing.T) {
				t.Helper()
				replace("images/pause.tar", func(c []byte) []byte { return c })(t)
				writeImage(t, filepath.Join(spec.Bin, "images", "pause.tar"), "s390x")
			},
			want: `pause.tar is built for "s390x"`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			changed := spec
			if test.prepare != nil {
				test.prepare(t)
			}
			if test.spec != nil {
				test.spec(&changed)
			}
			out := t.TempDir()
			_, err := Make(changed, testKey(t), out)
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error = %v, want a line with %q", err, test.want)
			}
			if left, _ := filepath.Glob(filepath.Join(out, "*")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// otherMachine makes a program one for a machine that nobody here has.
func otherMachine(content []byte) []byte {
	const offsetOfMachine, s390 = 18, 22
	content[offsetOfMachine] = s390
	return content
}

// dynamic is a dynamically linked program: the go command never is, but cat is.
func dynamic(t *testing.T) []byte {
	t.Helper()
	content, err := os.ReadFile("/bin/cat")
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestKeyIsMadeOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "signing.key")
	if made, err := ensureKey(path); err != nil || !made {
		t.Fatalf("first: %t, %v", made, err)
	}
	first, err := loadKey(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("key file: %v, %v", info.Mode(), err)
	}
	if made, err := ensureKey(path); err != nil || made {
		t.Errorf("second: %t, %v", made, err)
	}
	if second, err := loadKey(path); err != nil || !second.Equal(first) {
		t.Errorf("the key was replaced: %v", err)
	}
	if files, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*")); len(files) != 1 {
		t.Errorf("left behind: %v", files)
	}
	// openssl takes it for what it is.
	if text := run(t, ".", "openssl", "pkey", "-in", path, "-noout", "-text"); !strings.Contains(text, "ED25519") {
		t.Errorf("openssl says: %s", text)
	}
}

func TestKeysOfOtherKindsAreRefused(t *testing.T) {
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(other)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		content []byte
		want    string
	}{
		"text":  {[]byte("secret"), "is no PEM file"},
		"ecdsa": {pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}), "is no Ed25519 key"},
		"torn":  {pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded[:20]}), "asn1"},
	} {
		path := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(path, test.content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := loadKey(path); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
	if _, err := loadKey("/nowhere"); err == nil {
		t.Error("a key that does not exist was loaded")
	}
}
