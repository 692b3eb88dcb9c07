package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip" // the same format in half the time
)

// Made describes an archive that was written.
type Made struct {
	// Path of the archive.
	Path string
	// Packed is its size, Unpacked that of the files in it.
	Packed, Unpacked int64
	// Parts is the unpacked size by what it belongs to.
	Parts map[string]int64
}

// Summary is two lines for people.
func (m *Made) Summary() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(m.Parts)) {
		parts = append(parts, fmt.Sprintf("%s %.1f", name, mib(m.Parts[name])))
	}
	return fmt.Sprintf("bundle: %s: %.1f MiB, unpacked %.1f MiB\nbundle: of these %s MiB\n",
		m.Path, mib(m.Packed), mib(m.Unpacked), strings.Join(parts, ", "))
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// Make writes an archive, its checksum, its signature and the public key into the
// directory out.
func Make(spec Spec, key ed25519.PrivateKey, out string) (*Made, error) {
	spec, err := spec.normalize()
	if err != nil {
		return nil, err
	}
	entries, err := spec.entries()
	if err != nil {
		return nil, err
	}
	notices, err := spec.notices()
	if err != nil {
		return nil, err
	}
	entries = append(entries, entry{path: "NOTICES", content: notices, mode: 0o644})
	public, err := publicPEM(key)
	if err != nil {
		return nil, err
	}
	made := &Made{Path: filepath.Join(out, spec.file()), Parts: map[string]int64{}}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return nil, fmt.Errorf("output: %w", err)
	}
	var whole bytes.Buffer // a signature is made of the whole, not of a stream
	if err := made.pack(&whole, spec.name(), entries); err != nil {
		return nil, fmt.Errorf("archive %s: %w", made.Path, err)
	}
	made.Packed = int64(whole.Len())
	sum := sha256.Sum256(whole.Bytes())
	checksum := hex.EncodeToString(sum[:]) + "  " + spec.file() + "\n"
	// A new archive must never lie beside the signature of an old one.
	if err := os.Remove(made.Path + ".sig"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("old signature: %w", err)
	}
	for _, file := range []struct {
		path    string
		content []byte
	}{
		{made.Path, whole.Bytes()},
		{made.Path + ".sha256", []byte(checksum)},
		{made.Path + ".sig", ed25519.Sign(key, whole.Bytes())},
		{filepath.Join(out, "kijabi.pub"), public},
	} {
		if err := replaceFile(file.path, file.content); err != nil {
			return nil, err
		}
	}
	return made, nil
}

// pack writes the compressed archive. Order, times, owners and modes are fixed.
func (m *Made) pack(out io.Writer, name string, entries []entry) error {
	compressed, err := gzip.NewWriterLevel(out, gzip.DefaultCompression)
	if err != nil {
		return err
	}
	archive := tar.NewWriter(compressed)
	slices.SortFunc(entries, func(a, b entry) int { return cmp.Compare(a.path, b.path) })
	sums, err := checksums(entries)
	if err != nil {
		return err
	}
	// The checksums come first, so that a reader of the stream can check as it goes.
	entries = append([]entry{{path: "SHA256SUMS", content: sums, mode: 0o644}}, entries...)
	written := map[string]bool{}
	for _, e := range entries {
		for _, dir := range parents(path.Join(name, e.path)) {
			if written[dir] {
				continue
			}
			written[dir] = true
			if err := archive.WriteHeader(header(dir+"/", tar.TypeDir, 0o755, 0)); err != nil {
				return fmt.Errorf("directory %s: %w", dir, err)
			}
		}
		size, err := e.write(archive, name)
		if err != nil {
			return err
		}
		m.Unpacked += size
		m.Parts[part(e.path)] += size
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return compressed.Close()
}

// parents lists the directories above a file, the outermost first.
func parents(file string) []string {
	var all []string
	for dir := path.Dir(file); dir != "."; dir = path.Dir(dir) {
		all = append([]string{dir}, all...)
	}
	return all
}

// part names what a file is counted with.
func part(file string) string {
	switch {
	case strings.HasPrefix(file, "bin/images/"):
		return "images"
	case strings.HasPrefix(file, "bin/cni/"):
		return "cni"
	case strings.HasPrefix(file, "bin/"):
		return strings.TrimPrefix(file, "bin/")
	default:
		return "texts"
	}
}

func header(name string, kind byte, mode, size int64) *tar.Header {
	return &tar.Header{
		Format: tar.FormatUSTAR, Typeflag: kind, Name: name, Mode: mode, Size: size,
		Uname: "root", Gname: "root",
		// tar complains of 1970 as implausible.
		ModTime: time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC),
	}
}

// open returns the content of an entry and its size.
func (e entry) open() (io.ReadCloser, int64, error) {
	if e.local == "" {
		return io.NopCloser(bytes.NewReader(e.content)), int64(len(e.content)), nil
	}
	file, err := os.Open(e.local)
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err != nil {
		_ = file.Close()
		return nil, 0, err
	}
	return file, info.Size(), nil
}

func (e entry) write(archive *tar.Writer, name string) (int64, error) {
	content, size, err := e.open()
	if err != nil {
		return 0, err
	}
	defer func() { _ = content.Close() }() // only read
	if err := archive.WriteHeader(header(path.Join(name, e.path), tar.TypeReg, e.mode, size)); err != nil {
		return 0, fmt.Errorf("file %s: %w", e.path, err)
	}
	if _, err := io.Copy(archive, content); err != nil {
		return 0, fmt.Errorf("file %s: %w", e.path, err)
	}
	return size, nil
}

// checksums is the content of SHA256SUMS, as sha256sum -c reads it.
func checksums(entries []entry) ([]byte, error) {
	var sums bytes.Buffer
	for _, e := range entries {
		content, _, err := e.open()
		if err != nil {
			return nil, err
		}
		sum := sha256.New()
		_, err = io.Copy(sum, content)
		_ = content.Close() // only read
		if err != nil {
			return nil, fmt.Errorf("file %s: %w", e.path, err)
		}
		fmt.Fprintf(&sums, "%x  %s\n", sum.Sum(nil), e.path)
	}
	return sums.Bytes(), nil
}

// replaceFile writes beside the file and renames, so that nobody reads half of it.
func replaceFile(file string, content []byte) error {
	out, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	_, err = out.Write(content)
	err = errors.Join(err, out.Chmod(0o644), out.Close())
	if err == nil {
		err = os.Rename(out.Name(), file)
	}
	if err != nil {
		_ = os.Remove(out.Name()) // the first error is the one to tell
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}
