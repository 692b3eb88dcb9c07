package deploy

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"kijabi.dev/test/harness"
)

const (
	fleet   = "ssh"
	subnet  = "10.102.0.0/24"
	version = "0.0.1-test"
)

// laptop is where the commands run: a home directory with a key and the bundle. The
// cluster is the fleet that they make one of.
type laptop struct{ *harness.Cluster }

func newLaptop(t *harness.T) *laptop {
	t.Helper()
	l := &laptop{harness.NewCluster(t, fleet, subnet)}
	l.Limit = 5 * time.Minute
	return l
}

func (l *laptop) path(name string) string { return filepath.Join(l.Home, name) }

// inside runs a shell script in a machine.
func (l *laptop) inside(t *harness.T, machine, script string, args ...string) string {
	t.Helper()
	return l.Kijabi(t, append([]string{"machine", "shell", "--name", fleet, machine, "--", "sh", "-c", script, "script"}, args...)...)
}

// makeKey makes a key of the form that ssh and sshd read, and returns the public one as
// a line of authorized_keys.
func makeKey(t *harness.T, path string) string {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return string(ssh.MarshalAuthorizedKey(key))
}

// makeBundle packs the programs as `make bundle` does, but hardly compressed.
func (l *laptop) makeBundle(t *harness.T, arch string) {
	t.Helper()
	file, err := os.Create(l.path("kijabi-" + version + "-linux-" + arch + ".tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	zipped, err := gzip.NewWriterLevel(file, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	archive := tar.NewWriter(zipped)
	top := "kijabi-" + version + "/"
	var sums bytes.Buffer
	add := func(name string, size int64, mode fs.FileMode, content io.Reader) error {
		if err := archive.WriteHeader(&tar.Header{Name: top + name, Mode: int64(mode.Perm()), Size: size}); err != nil {
			return err
		}
		sum := sha256.New()
		_, err := io.Copy(io.MultiWriter(archive, sum), content)
		if name != "SHA256SUMS" {
			fmt.Fprintf(&sums, "%x  %s\n", sum.Sum(nil), name)
		}
		return err
	}
	err = filepath.WalkDir(l.Bin, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch dir, name := filepath.Split(strings.TrimPrefix(path, l.Bin)); {
		case entry.IsDir() && !slices.Contains([]string{"/", "/cni", "/images"}, "/"+strings.Trim(dir+name, "/")):
			return fs.SkipDir // other things are built into bin/, too
		case entry.IsDir(), dir == "/images/" && name != "pause.tar":
			return nil
		}
		content, err := os.Open(path)
		if err != nil {
			return err
		}
		defer func() { _ = content.Close() }()
		info, err := content.Stat()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(l.Bin, path)
		if err != nil {
			return err
		}
		return add("bin/"+name, info.Size(), info.Mode(), content)
	})
	if err == nil {
		err = add("SHA256SUMS", int64(sums.Len()), 0o644, &sums)
	}
	if err := errors.Join(err, archive.Close(), zipped.Close(), file.Close()); err != nil {
		t.Fatal(err)
	}
}
