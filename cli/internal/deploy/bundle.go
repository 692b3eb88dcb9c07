package deploy

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"kijabi.dev/cli/internal/bundle"
)

// Bundle is an archive of all programs for one architecture.
type Bundle struct {
	// Path of the archive.
	Path string
	// Version and Arch by its name.
	Version, Arch string
	// Sums is the hexadecimal SHA-256 of the SHA256SUMS in it, which tells bundles of
	// one version apart.
	Sums string
	// Bytes is the archive's size.
	Bytes int64
}

// Bundles are the archives of one version, by architecture.
type Bundles map[string]Bundle

// sumsFile lists the digests of all other files, in the bundle's top directory.
const sumsFile = "SHA256SUMS"

// OpenBundles looks at the archive at path, or at those in the directory there. With a
// public key it verifies their signatures first.
func OpenBundles(path, key string) (Bundles, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("bundle: %w: make it with `make bundle`", err)
	}
	paths := []string{path}
	if info.IsDir() {
		if paths, err = filepath.Glob(filepath.Join(path, "kijabi-*-linux-*.tar.gz")); err != nil || len(paths) == 0 {
			return nil, fmt.Errorf("bundle: %s holds no kijabi-VERSION-linux-ARCH.tar.gz: make one with `make bundle`", path)
		}
	}
	bundles := Bundles{}
	version := ""
	for _, path := range paths {
		if key != "" {
			if _, err := bundle.Verify(path, "", key); err != nil {
				return nil, err
			}
		}
		bundle, err := openBundle(path)
		if err != nil {
			return nil, err
		}
		other, twice := bundles[bundle.Arch]
		switch {
		case twice:
			return nil, fmt.Errorf("bundle: %s and %s are both for %s: keep one, or name it", other.Path, path, bundle.Arch)
		case version != "" && version != bundle.Version:
			return nil, fmt.Errorf("bundle: %s is of version %s and others are of %s: keep one version", path, bundle.Version, version)
		}
		bundles[bundle.Arch], version = bundle, bundle.Version
	}
	return bundles, nil
}

// Version of all of them.
func (b Bundles) Version() string {
	for _, bundle := range b {
		return bundle.Version
	}
	return ""
}

func openBundle(path string) (Bundle, error) {
	match := regexp.MustCompile(`^kijabi-([0-9A-Za-z][0-9A-Za-z.+~_-]*)-linux-([0-9a-z]+)\.tar\.gz$`).FindStringSubmatch(filepath.Base(path))
	if match == nil {
		return Bundle{}, fmt.Errorf("bundle: %s is not named kijabi-VERSION-linux-ARCH.tar.gz: keep the name that `make bundle` gave it", path)
	}
	bundle := Bundle{Path: path, Version: match[1], Arch: match[2]}
	file, err := os.Open(path)
	if err != nil {
		return Bundle{}, fmt.Errorf("bundle: %w", err)
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return Bundle{}, fmt.Errorf("bundle: %w", err)
	}
	bundle.Bytes = info.Size()
	if bundle.Sums, err = digestOfSums(file, bundle.top()); err != nil {
		return Bundle{}, fmt.Errorf("bundle %s: %w: make it again with `make bundle`", path, err)
	}
	return bundle, nil
}

func (b Bundle) top() string { return "kijabi-" + b.Version }

// digestOfSums reads the archive until it finds the list of digests.
func digestOfSums(archive io.Reader, top string) (string, error) {
	unzipped, err := gzip.NewReader(archive)
	if err != nil {
		return "", err
	}
	entries := tar.NewReader(unzipped)
	for {
		entry, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return "", fmt.Errorf("it holds no %s/%s", top, sumsFile)
		}
		if err != nil {
			return "", err
		}
		name := strings.TrimPrefix(entry.Name, "./")
		if name != top && !strings.HasPrefix(name, top+"/") {
			return "", fmt.Errorf("it holds %q, which is outside of %s", entry.Name, top)
		}
		if name == top+"/"+sumsFile {
			sum := sha256.New()
			if _, err := io.Copy(sum, entries); err != nil {
				return "", err
			}
			return hex.EncodeToString(sum.Sum(nil)), nil
		}
	}
}
