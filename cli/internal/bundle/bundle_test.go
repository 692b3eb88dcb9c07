package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// item is one entry of a test archive.
type item struct {
	name    string
	kind    byte
	mode    int64
	content string
}

// good is an archive as it should be.
func good() []item {
	items := []item{
		{name: "kijabi-1.2.3/", kind: tar.TypeDir, mode: 0o755},
		{name: "kijabi-1.2.3/LICENSE", kind: tar.TypeReg, mode: 0o644, content: "may be used"},
		{name: "kijabi-1.2.3/bin/", kind: tar.TypeDir, mode: 0o755},
		{name: "kijabi-1.2.3/bin/kijabi", kind: tar.TypeReg, mode: 0o755, content: "program"},
	}
	return append(items, item{name: "kijabi-1.2.3/SHA256SUMS", kind: tar.TypeReg, mode: 0o644, content: sumsOf(items)})
}

func sumsOf(items []item) string {
	var text strings.Builder
	for _, i := range items {
		if i.kind == tar.TypeReg {
			fmt.Fprintf(&text, "%x  %s\n", sha256.Sum256([]byte(i.content)), strings.TrimPrefix(i.name, "kijabi-1.2.3/"))
		}
	}
	return text.String()
}

func pack(t *testing.T, items []item) []byte {
	t.Helper()
	var out bytes.Buffer
	compressed := gzip.NewWriter(&out)
	archive := tar.NewWriter(compressed)
	for _, i := range items {
		header := &tar.Header{Name: i.name, Typeflag: i.kind, Mode: i.mode, Size: int64(len(i.content))}
		if i.kind == tar.TypeSymlink {
			header.Linkname, header.Size = i.content, 0
		}
		if err := archive.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if header.Size > 0 {
			if _, err := archive.Write([]byte(i.content)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	if err := compressed.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// release is an archive with its signature, checksum and key on disk.
type release struct {
	archive, key string
	private      ed25519.PrivateKey
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

func newRelease(t *testing.T, content []byte) release {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	r := release{archive: filepath.Join(dir, "kijabi.tar.gz"), key: filepath.Join(dir, "kijabi.pub"), private: private}
	write(t, r.archive, content)
	write(t, r.archive+".sig", ed25519.Sign(private, content))
	write(t, r.archive+".sha256", fmt.Appendf(nil, "%x  kijabi.tar.gz\n", sha256.Sum256(content)))
	write(t, r.key, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: encoded}))
	return r
}

func TestVerify(t *testing.T) {
	r := newRelease(t, pack(t, good()))
	found, err := Verify(r.archive, "", r.key)
	if err != nil {
		t.Fatal(err)
	}
	if want := (Bundle{Name: "kijabi-1.2.3", Files: 2, Size: 18}); *found != want {
		t.Errorf("found %+v, want %+v", *found, want)
	}
	elsewhere := filepath.Join(t.TempDir(), "signature")
	if err := os.Rename(r.archive+".sig", elsewhere); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(r.archive, elsewhere, r.key); err != nil {
		t.Errorf("signature given by name: %v", err)
	}
}

// TestOpenSSLSignature verifies what openssl has signed with a key that it has made.
func TestOpenSSLSignature(t *testing.T) {
	dir := t.TempDir()
	archive, private, public := filepath.Join(dir, "a.tar.gz"), filepath.Join(dir, "key"), filepath.Join(dir, "pub")
	write(t, archive, pack(t, good()))
	for _, args := range [][]string{
		{"genpkey", "-algorithm", "ed25519", "-out", private},
		{"pkey", "-in", private, "-pubout", "-out", public},
		{"pkeyutl", "-sign", "-inkey", private, "-rawin", "-in", archive, "-out", archive + ".sig"},
	} {
		if out, err := exec.CommandContext(t.Context(), "openssl", args...).CombinedOutput(); err != nil {
			t.Fatalf("openssl %v: %v: %s", args, err, out)
		}
	}
	if _, err := Verify(archive, "", public); err != nil {
		t.Error(err)
	}
}

// TestUnsigned is about archives that nobody signed: their content is not looked at.
func TestUnsigned(t *testing.T) {
	for name, test := range map[string]struct {
		change func(t *testing.T, r *release)
		want   string
	}{
		"another key": {func(t *testing.T, r *release) {
			t.Helper()
			r.key = newRelease(t, []byte("else")).key
		}, "but by another key"},
		"changed byte": {func(t *testing.T, r *release) {
			t.Helper()
			content, err := os.ReadFile(r.archive)
			if err != nil {
				t.Fatal(err)
			}
			content[len(content)/2] ^= 1
			write(t, r.archive, content)
		}, "changed or cut short since it was made"},
		"cut short": {func(t *testing.T, r *release) {
			t.Helper()
			if err := os.Truncate(r.archive, 100); err != nil {
				t.Fatal(err)
			}
		}, "changed or cut short since it was made"},
		"cut short, no checksum": {func(t *testing.T, r *release) {
			t.Helper()
			if err := os.Truncate(r.archive, 100); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(r.archive + ".sha256"); err != nil {
				t.Fatal(err)
			}
		}, "was changed or cut short since, or signed with another key"},
		"no archive": {func(t *testing.T, r *release) {
			t.Helper()
			write(t, r.archive, []byte("<html>not found</html>"))
		}, "is no .tar.gz archive"},
		"empty":             {func(t *testing.T, r *release) { t.Helper(); write(t, r.archive, nil) }, "is no .tar.gz archive"},
		"no signature":      {func(t *testing.T, r *release) { t.Helper(); _ = os.Remove(r.archive + ".sig") }, "get it from where the archive is from"},
		"signature is text": {func(t *testing.T, r *release) { t.Helper(); write(t, r.archive+".sig", []byte("<html>")) }, "has 6 bytes, not 64"},
		"no key":            {func(_ *testing.T, r *release) { r.key = "/nowhere" }, "public key: open /nowhere"},
		"key is no PEM":     {func(t *testing.T, r *release) { t.Helper(); write(t, r.key, []byte("x")) }, "is no PEM file"},
		"private key": {func(t *testing.T, r *release) {
			t.Helper()
			write(t, r.key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}))
		}, "is a private key"},
		"no file": {func(_ *testing.T, r *release) { r.archive = "/nowhere" }, "bundle: open /nowhere"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRelease(t, pack(t, good()))
			test.change(t, &r)
			refused(t, r, test.want)
		})
	}
}

func refused(t *testing.T, r release, want string) {
	t.Helper()
	_, err := Verify(r.archive, "", r.key)
	if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
		t.Errorf("error = %v, want one line with %q", err, want)
	}
}

// TestSignedButWrong is about archives that were signed and should not have been.
func TestSignedButWrong(t *testing.T) {
	file := func(name string) item { return item{name: name, kind: tar.TypeReg, mode: 0o644, content: "x"} }
	withSums := func(items ...item) []item {
		return append(items, item{name: "kijabi-1.2.3/SHA256SUMS", kind: tar.TypeReg, mode: 0o644, content: sumsOf(items)})
	}
	for name, test := range map[string]struct {
		items []item
		want  string
	}{
		"path leads up":       {append(good(), file("kijabi-1.2.3/../../etc/passwd")), "leads out of its directory"},
		"path from the root":  {append(good(), file("/etc/passwd")), "leads out of its directory"},
		"outside":             {append(good(), file("etc/passwd")), "outside of the directory"},
		"no directory":        {[]item{file("readme")}, "outside of the directory"},
		"symbolic link":       {append(good(), item{name: "kijabi-1.2.3/bin/sh", kind: tar.TypeSymlink, content: "/bin/sh"}), "neither a file nor a directory"},
		"device":              {append(good(), item{name: "kijabi-1.2.3/null", kind: tar.TypeChar}), "neither a file nor a directory"},
		"set-user-ID":         {append(good(), item{name: "kijabi-1.2.3/su", kind: tar.TypeReg, mode: 0o4755}), "would run as another user"},
		"twice":               {append(good(), good()[3]), "is there twice"},
		"not listed":          {append(good(), file("kijabi-1.2.3/extra")), "file extra is not listed"},
		"missing":             {append(good()[:3:3], good()[4]), "file bin/kijabi of SHA256SUMS is missing"},
		"another checksum":    {append(good()[:3:3], item{name: "kijabi-1.2.3/bin/kijabi", kind: tar.TypeReg, mode: 0o755, content: "else"}, good()[4]), "file bin/kijabi has another checksum"},
		"no checksums":        {good()[:4], "holds no SHA256SUMS"},
		"damaged checksums":   {append(good()[:4:4], item{name: "kijabi-1.2.3/SHA256SUMS", kind: tar.TypeReg, content: "zz  x\n"}), "no checksum"},
		"empty":               {nil, "holds no SHA256SUMS"},
		"nothing but its own": {withSums(), ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRelease(t, pack(t, test.items))
			if test.want == "" {
				if _, err := Verify(r.archive, "", r.key); err != nil {
					t.Error(err)
				}
				return
			}
			refused(t, r, test.want)
		})
	}
	t.Run("signed cut short", func(t *testing.T) {
		whole := pack(t, good())
		for _, length := range []int{20, len(whole) / 2, len(whole) - 1} {
			refused(t, newRelease(t, whole[:length]), "damaged or cut short")
		}
	})
	t.Run("signed no archive", func(t *testing.T) {
		refused(t, newRelease(t, []byte{0x1f, 0x8b, 0xff}), "it is no gzip archive")
	})
}
