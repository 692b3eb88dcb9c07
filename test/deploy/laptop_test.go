package deploy

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	fleet   = "ssh"
	subnet  = "10.102.0.0/24"
	version = "0.0.1-test"
)

// laptop is where the commands run: a home directory with a key and the bundle.
type laptop struct {
	bin  string
	home string
}

func newLaptop(t *testing.T) *laptop {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes machines out of namespaces and needs root: run `make test-e2e`, or `sudo -E go test`")
	}
	l := &laptop{bin: os.Getenv("KIJABI_BIN"), home: t.TempDir()}
	if l.bin == "" {
		var err error
		if l.bin, err = filepath.Abs("../../bin"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(l.bin, "kijabi")); err != nil {
		t.Fatalf("programs: %v: run `make build` first, or set KIJABI_BIN", err)
	}
	return l
}

func (l *laptop) path(name string) string { return filepath.Join(l.home, name) }

// outcome is how a command ended.
type outcome struct {
	command, stdout, stderr string
	code                    int
	took                    time.Duration
}

func (o outcome) String() string {
	return fmt.Sprintf("%s: exit code %d after %s\nstdout: %s\nstderr: %s", o.command, o.code, o.took.Round(time.Millisecond), o.stdout, o.stderr)
}

// start starts kijabi as the laptop's user.
func (l *laptop) start(ctx context.Context, stderr io.Writer, args ...string) (*exec.Cmd, *bytes.Buffer) {
	command := exec.CommandContext(ctx, filepath.Join(l.bin, "kijabi"), args...)
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		if !slices.Contains([]string{"HOME", "KUBECONFIG", "KIJABI_STATE", "KIJABI_ACCESS", "SUDO_UID", "SUDO_GID", "SSH_AUTH_SOCK"}, name) {
			command.Env = append(command.Env, entry)
		}
	}
	command.Env = append(command.Env, "HOME="+l.home)
	var stdout bytes.Buffer
	command.Stdout, command.Stderr = &stdout, stderr
	command.WaitDelay = time.Second
	return command, &stdout
}

// try runs kijabi and returns how it ended.
func (l *laptop) try(t *testing.T, args ...string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	var stderr bytes.Buffer
	command, stdout := l.start(ctx, &stderr, args...)
	began := time.Now()
	err := command.Run()
	result := outcome{command: "kijabi " + strings.Join(args, " "), stdout: stdout.String(), stderr: stderr.String(), took: time.Since(began)}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		t.Fatalf("not done: %s", result)
	case errors.As(err, &exit):
		result.code = exit.ExitCode()
	case err != nil:
		t.Fatalf("%s: %v", result.command, err)
	}
	return result
}

// kijabi runs kijabi and returns what it prints; it must succeed.
func (l *laptop) kijabi(t *testing.T, args ...string) string {
	t.Helper()
	result := l.try(t, args...)
	if result.code != 0 {
		t.Fatal(result)
	}
	return result.stdout
}

// inside runs a shell script in a machine.
func (l *laptop) inside(t *testing.T, machine, script string, args ...string) string {
	t.Helper()
	return l.kijabi(t, append([]string{"machine", "shell", "--name", fleet, machine, "--", "sh", "-c", script, "script"}, args...)...)
}

// makeKey makes a key of the form that ssh and sshd read, and returns the public one as
// a line of authorized_keys.
func makeKey(t *testing.T, path string) string {
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
func (l *laptop) makeBundle(t *testing.T, arch string) {
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
	err = filepath.WalkDir(l.bin, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch dir, name := filepath.Split(strings.TrimPrefix(path, l.bin)); {
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
		name, err := filepath.Rel(l.bin, path)
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

// eventually waits for a condition: check returns nil once it holds.
func eventually(t *testing.T, limit time.Duration, what string, check func() error) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	retry := time.NewTicker(100 * time.Millisecond)
	defer retry.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-deadline.C:
			t.Fatalf("%s: not within %s: %v", what, limit, err)
		case <-retry.C:
		}
	}
}
