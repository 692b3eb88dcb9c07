package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Image is an image with the name it is imported under.
type Image struct {
	v1.Image
	// Name is the full reference in containerd's spelling (docker.io, not index.docker.io).
	Name string
	// Tag is the same reference for go-containerregistry.
	Tag name.Tag
}

// Build makes the image that spec describes: one layer, no base.
func Build(spec Spec) (*Image, error) {
	spec, tag, err := spec.normalize()
	if err != nil {
		return nil, err
	}
	ports, err := spec.exposed()
	if err != nil {
		return nil, err
	}
	content, err := layerTar(spec.Files)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", spec.Name, err)
	}
	layer, err := tarball.LayerFromOpener(
		func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
		tarball.WithCompressionLevel(gzip.BestSpeed),
		tarball.WithMediaType(types.OCILayer),
	)
	if err != nil {
		return nil, fmt.Errorf("image %s: layer: %w", spec.Name, err)
	}
	image, err := mutate.Append(
		mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON),
		mutate.Addendum{Layer: layer, MediaType: types.OCILayer, History: v1.History{
			Created: v1.Time{Time: epoch()}, CreatedBy: "imagetool",
		}})
	if err != nil {
		return nil, fmt.Errorf("image %s: append layer: %w", spec.Name, err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("image %s: configuration: %w", spec.Name, err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", spec.Architecture
	config.Created = v1.Time{Time: epoch()}
	config.Config = v1.Config{
		Entrypoint:   spec.Entrypoint,
		Cmd:          spec.Command,
		Env:          spec.Env,
		User:         spec.User,
		WorkingDir:   spec.WorkingDir,
		ExposedPorts: ports,
	}
	image, err = mutate.ConfigFile(image, config)
	if err != nil {
		return nil, fmt.Errorf("image %s: configuration: %w", spec.Name, err)
	}
	full := tag.Name()
	if tag.RegistryStr() == name.DefaultRegistry {
		full = "docker.io/" + tag.RepositoryStr() + ":" + tag.TagStr()
	}
	return &Image{Image: image, Name: full, Tag: tag}, nil
}

// epoch is the time of everything in an image: a real one would change the digest.
func epoch() time.Time { return time.Unix(0, 0).UTC() }

// layerTar packs files, sorted by path, with their parent directories.
func layerTar(files []File) ([]byte, error) {
	entries := map[string]File{}
	for _, file := range files {
		if _, taken := entries[file.Path]; taken {
			return nil, fmt.Errorf("path %s is given twice", file.Path)
		}
		entries[file.Path] = file
	}
	for _, file := range files {
		for dir := path.Dir(file.Path); dir != "/"; dir = path.Dir(dir) {
			if parent, exists := entries[dir]; !exists {
				entries[dir] = File{Path: dir, Mode: 0o755}
			} else if parent.Local != "" {
				return nil, fmt.Errorf("path %s lies below the file %s", file.Path, dir)
			}
		}
	}
	var out bytes.Buffer
	archive := tar.NewWriter(&out)
	for _, target := range slices.Sorted(maps.Keys(entries)) {
		if err := addEntry(archive, entries[target], entries); err != nil {
			return nil, err
		}
	}
	if err := archive.Close(); err != nil {
		return nil, fmt.Errorf("layer: %w", err)
	}
	return out.Bytes(), nil
}

func addEntry(archive *tar.Writer, file File, all map[string]File) error {
	mode := int64(file.Mode.Perm())
	if file.Mode&fs.ModeSticky != 0 {
		mode |= 0o1000
	}
	header := &tar.Header{
		Format: tar.FormatPAX, ModTime: epoch(), Mode: mode,
		Name: strings.TrimPrefix(file.Path, "/"),
	}
	if file.Local == "" {
		header.Typeflag, header.Name = tar.TypeDir, header.Name+"/"
		if err := archive.WriteHeader(header); err != nil {
			return fmt.Errorf("directory %s: %w", file.Path, err)
		}
		return nil
	}
	content, err := os.ReadFile(file.Local)
	if err != nil {
		return fmt.Errorf("file for %s: %w", file.Path, err)
	}
	if err := checkInterpreter(content, all); err != nil {
		return fmt.Errorf("file %s: %w", file.Local, err)
	}
	header.Typeflag, header.Size = tar.TypeReg, int64(len(content))
	if err := archive.WriteHeader(header); err != nil {
		return fmt.Errorf("file %s: %w", file.Path, err)
	}
	if _, err := archive.Write(content); err != nil {
		return fmt.Errorf("file %s: %w", file.Path, err)
	}
	return nil
}

// checkInterpreter refuses a dynamically linked program whose loader is not in the
// image: it would fail at start with a "no such file" that names the wrong file.
func checkInterpreter(content []byte, all map[string]File) error {
	program, err := elf.NewFile(bytes.NewReader(content))
	var format *elf.FormatError
	if errors.As(err, &format) || errors.Is(err, io.EOF) {
		return nil // not a program
	}
	if err != nil {
		return fmt.Errorf("read as a program: %w", err)
	}
	for _, segment := range program.Progs {
		if segment.Type != elf.PT_INTERP {
			continue
		}
		interpreter, err := io.ReadAll(segment.Open())
		if err != nil {
			return fmt.Errorf("read its interpreter: %w", err)
		}
		loader := strings.TrimRight(string(interpreter), "\x00")
		if _, present := all[loader]; !present {
			return fmt.Errorf("is dynamically linked (%s is not in the image): build it with CGO_ENABLED=0", loader)
		}
	}
	return nil
}
