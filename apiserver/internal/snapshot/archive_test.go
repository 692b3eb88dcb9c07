package snapshot

import (
	"errors"
	"io"
	"io/fs"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/pki"
)

// TestArchives is what every archive does.
func TestArchives(t *testing.T) {
	for name, open := range map[string]func(*testing.T) Archive{
		"directory": func(t *testing.T) Archive { return Directory(filepath.Join(t.TempDir(), "made", "by", "it")) },
		"bucket":    newBucket,
	} {
		t.Run(name, func(t *testing.T) { conforms(t, open(t)) })
	}
}

// newBucket returns an archive in a bucket of a store in this process.
func newBucket(t *testing.T) Archive {
	t.Helper()
	backend := s3mem.New()
	if err := backend.CreateBucket("backups"); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewTLSServer(gofakes3.New(backend).Server())
	t.Cleanup(server.Close)
	file := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(file, []byte("accessKey: me\nsecretKey: secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(ca, pki.EncodeCertificate(server.Certificate().Raw), 0o600); err != nil {
		t.Fatal(err)
	}
	bucket, err := NewBucket(configv1.S3{
		Endpoint: strings.TrimPrefix(server.URL, "https://"), Bucket: "backups", CredentialsFile: file, CAFile: ca, Region: "us-east-1",
	}, "c1")
	if err != nil {
		t.Fatal(err)
	}
	return bucket
}

func conforms(t *testing.T, a Archive) {
	t.Helper()
	ctx := t.Context()
	if all, err := a.List(ctx); err != nil || len(all) > 0 {
		t.Fatalf("a new archive holds %v: %v", all, err)
	}
	const older, newer = "20261130T080000Z-r41-m1.kijabi", "20261130T090000Z-r42-m-2.x.kijabi"
	content := strings.Repeat("0123456789", partSize/8) // more than a part
	for _, name := range []string{older, newer, "notes.txt"} {
		size, err := a.Put(ctx, name, func(w io.Writer) error {
			_, err := io.Copy(w, strings.NewReader(content))
			return err
		})
		if err != nil || size != int64(len(content)) {
			t.Fatalf("put %s: %d bytes: %v", name, size, err)
		}
	}
	broken := errors.New("broken off")
	_, err := a.Put(ctx, "20261130T100000Z-r43-m1.kijabi", func(w io.Writer) error {
		_, _ = io.WriteString(w, content)
		return broken
	})
	if !errors.Is(err, broken) {
		t.Errorf("a writer that fails: %v", err)
	}
	all, err := a.List(ctx)
	if err != nil || len(all) != 2 || all[0].Name != newer || all[1].Name != older {
		t.Fatalf("lists %v: %v", all, err)
	}
	if e := all[0]; e.Master != "m-2.x" || e.Revision != 42 || e.Bytes != int64(len(content)) || e.Time.Hour() != 9 {
		t.Errorf("the entry is %+v", e)
	}
	r, err := a.Open(ctx, older)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil || string(got) != content {
		t.Errorf("read %d bytes: %v", len(got), err)
	}
	for range 2 {
		if err := a.Remove(ctx, older); err != nil {
			t.Errorf("remove: %v", err)
		}
	}
	if _, err := a.Open(ctx, older); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open what was removed: %v", err)
	}
	if _, err := a.Open(ctx, "../"+newer); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open outside of the archive: %v", err)
	}
}
