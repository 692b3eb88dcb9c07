package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

// sumsFile lists the checksums of all other files, in the format of sha256sum.
const sumsFile = "SHA256SUMS"

// contents is what is found in an archive.
type contents struct {
	name string            // of the directory that holds everything
	sums map[string]string // of each file below it
	list []byte            // content of sumsFile
	size int64
}

// inspect reads an archive through and compares its files with its list of checksums.
func inspect(archive []byte) (*Bundle, error) {
	found, err := read(archive)
	if err != nil {
		return nil, err
	}
	listed, err := parseSums(found.list)
	if err != nil {
		return nil, err
	}
	for _, path := range slices.Sorted(maps.Keys(found.sums)) {
		switch want, ok := listed[path]; {
		case !ok:
			return nil, fmt.Errorf("file %s is not listed in %s", path, sumsFile)
		case want != found.sums[path]:
			return nil, fmt.Errorf("file %s has another checksum than %s says", path, sumsFile)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(listed)) {
		if _, ok := found.sums[path]; !ok {
			return nil, fmt.Errorf("file %s of %s is missing", path, sumsFile)
		}
	}
	return &Bundle{Name: found.name, Files: len(found.sums), Size: found.size}, nil
}

// read goes through the archive and refuses everything that unpacking could do harm with.
func read(archive []byte) (*contents, error) {
	compressed, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		return nil, fmt.Errorf("it is no gzip archive (%w)", err)
	}
	found := &contents{sums: map[string]string{}}
	for entries := tar.NewReader(compressed); ; {
		header, err := entries.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("its archive is damaged or cut short (%w)", err)
		}
		if err := found.add(header, entries); err != nil {
			return nil, err
		}
	}
	if _, err := io.Copy(io.Discard, compressed); err != nil { // up to the checksum at its end
		return nil, fmt.Errorf("its archive is damaged or cut short (%w)", err)
	}
	if found.list == nil {
		return nil, fmt.Errorf("it holds no %s", sumsFile)
	}
	return found, nil
}

func (c *contents) add(header *tar.Header, content io.Reader) error {
	path := strings.TrimSuffix(header.Name, "/")
	if !filepath.IsLocal(path) || filepath.Clean(path) != path {
		return fmt.Errorf("entry %q leads out of its directory", header.Name)
	}
	top, below, nested := strings.Cut(path, "/")
	if c.name == "" {
		c.name = top
	}
	switch {
	case top != c.name || !strings.HasPrefix(top, "kijabi-"):
		return fmt.Errorf("entry %q is outside of the directory kijabi-VERSION", header.Name)
	case header.Typeflag == tar.TypeDir:
		return nil
	case header.Typeflag != tar.TypeReg || !nested:
		return fmt.Errorf("entry %q is neither a file nor a directory", header.Name)
	case header.FileInfo().Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0:
		return fmt.Errorf("file %q would run as another user (set-user-ID)", header.Name)
	}
	if _, twice := c.sums[below]; twice || below == sumsFile && c.list != nil {
		return fmt.Errorf("file %q is there twice", header.Name)
	}
	if below == sumsFile {
		list, err := io.ReadAll(content)
		if err != nil {
			return fmt.Errorf("its archive is damaged or cut short (%w)", err)
		}
		c.list = list
		return nil
	}
	sum := sha256.New()
	size, err := io.Copy(sum, content)
	if err != nil {
		return fmt.Errorf("its archive is damaged or cut short (%w)", err)
	}
	c.size += size
	c.sums[below] = hex.EncodeToString(sum.Sum(nil))
	return nil
}

// parseSums reads what sha256sum writes.
func parseSums(text []byte) (map[string]string, error) {
	sums := map[string]string{}
	for line := range strings.Lines(string(text)) {
		sum, path, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		if raw, err := hex.DecodeString(sum); !ok || err != nil || len(raw) != sha256.Size {
			return nil, fmt.Errorf("%s has a line that is no checksum: %q", sumsFile, strings.TrimSpace(line))
		}
		sums[path] = sum
	}
	return sums, nil
}
