package supportbundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// unpack reads a bundle back.
func unpack(t *testing.T, packed []byte, root string) (map[string]string, Manifest) {
	t.Helper()
	uncompressed, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for reader := tar.NewReader(uncompressed); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		name, ok := strings.CutPrefix(header.Name, root+"/")
		if !ok || strings.Contains(name, "..") || header.Mode != 0o600 {
			t.Errorf("entry %s, mode %o", header.Name, header.Mode)
		}
		content, err := io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = string(content)
	}
	var manifest Manifest
	if err := json.Unmarshal([]byte(files["manifest.json"]), &manifest); err != nil {
		t.Fatal(err)
	}
	return files, manifest
}

func write(t *testing.T, bounds limits, collectors ...Collector) (map[string]string, Manifest) {
	t.Helper()
	var packed bytes.Buffer
	if _, err := writeWithin(t.Context(), &packed, "bundle", Header{Created: time.Now(), Machine: "vm1"}, collectors, bounds); err != nil {
		t.Fatal(err)
	}
	return unpack(t, packed.Bytes(), "bundle")
}

// usual are the limits of every bundle.
func usual() limits { return limits{entryLimit, totalLimit} }

func entries(all ...Entry) func(context.Context) ([]Entry, error) {
	return func(context.Context) ([]Entry, error) { return all, nil }
}

// reasonOf returns why a subject is missing.
func reasonOf(manifest Manifest, subject string) string {
	for _, missing := range manifest.Missing {
		if missing.What == subject {
			return missing.Reason
		}
	}
	return ""
}

func TestCollectorsFailByThemselves(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	files, manifest := write(t, usual(),
		Collector{Name: "hangs", Timeout: 10 * time.Millisecond, Collect: func(context.Context) ([]Entry, error) {
			<-hang
			return nil, nil
		}},
		Collector{Name: "fails", Collect: func(context.Context) ([]Entry, error) {
			return []Entry{{Path: "half", Content: []byte("something")}}, errors.New("password: " + canary)
		}},
		Collector{Name: "gives up", Timeout: 10 * time.Millisecond, Collect: func(ctx context.Context) ([]Entry, error) {
			<-ctx.Done()
			return []Entry{{Path: "partly", Content: []byte("something")}}, ctx.Err()
		}},
		Collector{Name: "works", Collect: entries(Entry{Path: "dir/whole", Content: []byte("something")})},
	)
	for _, path := range []string{"half", "partly", "dir/whole"} {
		if files[path] != "something" {
			t.Errorf("%s = %q", path, files[path])
		}
	}
	if len(manifest.Files) != 3 || len(manifest.Missing) != 3 || len(manifest.LeftOut) == 0 || manifest.Machine != "vm1" {
		t.Errorf("manifest = %+v", manifest)
	}
	if got := reasonOf(manifest, "hangs"); !strings.Contains(got, "no result within 10ms") {
		t.Errorf("reason = %q", got)
	}
	if got := reasonOf(manifest, "fails"); strings.Contains(got, canary) || !strings.Contains(got, Removed) {
		t.Errorf("reason = %q", got)
	}
}

func TestSizesAreBounded(t *testing.T) {
	bounds := limits{entry: 1 << 10, total: 5 << 10}
	var all []Entry
	for i := range 7 {
		all = append(all, Entry{Path: strings.Repeat("x", i+1), Content: bytes.Repeat([]byte("0123456789abcde\n"), 200)})
	}
	files, manifest := write(t, bounds, Collector{Name: "much", Collect: entries(all...)})
	total := 0
	for _, file := range manifest.Files {
		if !file.Cut || file.Bytes > bounds.entry || len(files[file.Path]) != file.Bytes {
			t.Errorf("%+v", file)
		}
		total += file.Bytes
	}
	if total != bounds.total || len(manifest.Files) != 5 || len(manifest.Missing) != 2 {
		t.Errorf("%d bytes in %d files, missing %+v", total, len(manifest.Files), manifest.Missing)
	}
}

func TestLogsAreBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kubelet.log")
	line := strings.Repeat("x", 99) + "\n"
	if err := os.WriteFile(path, []byte(strings.Repeat(line, logLimit/100+50)+"the end\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	content, cut, err := readLog(path, time.Time{})
	if err != nil || !cut || len(content) > logLimit || !strings.HasPrefix(string(content), line) || !strings.HasSuffix(string(content), "the end\n") {
		t.Errorf("%d bytes, cut %v, %v", len(content), cut, err)
	}
	got, cut, err := run(t.Context(), 1000, "sh", "-c", "for i in $(seq 1000); do echo line $i; done")
	if err != nil || !cut || len(got) > 1000 || !strings.HasPrefix(string(got), "line ") || !strings.HasSuffix(string(got), "line 1000\n") {
		t.Errorf("%d bytes, cut %v, %v", len(got), cut, err)
	}
	if _, _, err := run(t.Context(), 1000, "sh", "-c", "echo it broke; exit 3"); err == nil || !strings.Contains(err.Error(), "it broke") {
		t.Errorf("a program that fails: %v", err)
	}
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Write(ctx, io.Discard, "bundle", Header{}, []Collector{{Name: "x", Collect: entries()}}); err == nil {
		t.Error("an interrupted bundle is whole")
	}
}
