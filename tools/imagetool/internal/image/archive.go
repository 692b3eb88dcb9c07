package image

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Annotations by which importers name an image of an OCI archive: containerd reads
// the first, tools that follow the OCI layout alone the second.
const (
	annotationImageName = "io.containerd.image.name"
	annotationRefName   = "org.opencontainers.image.ref.name"
)

// WriteOCI writes an OCI image layout as one tar file.
func WriteOCI(file string, image *Image) error {
	return replaceFile(file, func(out io.Writer) error { return writeLayout(out, image) })
}

// WriteDocker writes the archive form that `docker load` of every age reads.
func WriteDocker(file string, image *Image) error {
	return replaceFile(file, func(out io.Writer) error {
		return tarball.MultiRefWrite(map[name.Reference]v1.Image{image.Tag: image.Image}, out)
	})
}

// WriteFile writes what comes with an archive, replacing the file in one step.
func WriteFile(file string, content []byte) error {
	return replaceFile(file, func(out io.Writer) error {
		_, err := out.Write(content)
		return err
	})
}

// replaceFile writes beside file and renames, so that nobody reads half an archive.
func replaceFile(file string, write func(io.Writer) error) (err error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("archive %s: %w", file, err)
	}
	out, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*")
	if err != nil {
		return fmt.Errorf("archive %s: %w", file, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(out.Name()) // the first error is the one to tell
			err = fmt.Errorf("archive %s: %w", file, err)
		}
	}()
	if err := write(out); err != nil {
		_ = out.Close()
		return err
	}
	if err := out.Chmod(0o644); err != nil {
		_ = out.Close()
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	return os.Rename(out.Name(), file)
}

func writeLayout(out io.Writer, image *Image) error {
	archive := tar.NewWriter(out)
	for _, dir := range []string{"blobs/", "blobs/sha256/"} {
		if err := archive.WriteHeader(&tar.Header{
			Format: tar.FormatPAX, Typeflag: tar.TypeDir, Name: dir, Mode: 0o755, ModTime: epoch(),
		}); err != nil {
			return err
		}
	}
	if err := writeBlobs(archive, image); err != nil {
		return err
	}
	index, err := layoutIndex(image)
	if err != nil {
		return err
	}
	if err := writeEntry(archive, "index.json", index); err != nil {
		return err
	}
	if err := writeEntry(archive, "oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	return archive.Close()
}

func writeBlobs(archive *tar.Writer, image *Image) error {
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	for _, layer := range layers {
		digest, err := layer.Digest()
		if err != nil {
			return err
		}
		compressed, err := layer.Compressed()
		if err != nil {
			return err
		}
		content, err := io.ReadAll(compressed)
		_ = compressed.Close() // in memory
		if err != nil {
			return err
		}
		if err := writeEntry(archive, blobPath(digest), content); err != nil {
			return err
		}
	}
	config, err := image.RawConfigFile()
	if err != nil {
		return err
	}
	configDigest, err := image.ConfigName()
	if err != nil {
		return err
	}
	if err := writeEntry(archive, blobPath(configDigest), config); err != nil {
		return err
	}
	manifest, err := image.RawManifest()
	if err != nil {
		return err
	}
	digest, err := image.Digest()
	if err != nil {
		return err
	}
	return writeEntry(archive, blobPath(digest), manifest)
}

func layoutIndex(image *Image) ([]byte, error) {
	digest, err := image.Digest()
	if err != nil {
		return nil, err
	}
	size, err := image.Size()
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	return json.Marshal(v1.IndexManifest{
		SchemaVersion: 2,
		MediaType:     types.OCIImageIndex,
		Manifests: []v1.Descriptor{{
			MediaType: types.OCIManifestSchema1,
			Size:      size,
			Digest:    digest,
			Platform:  &v1.Platform{OS: config.OS, Architecture: config.Architecture},
			Annotations: map[string]string{
				annotationImageName: image.Name,
				annotationRefName:   image.Tag.TagStr(),
			},
		}},
	})
}

func blobPath(digest v1.Hash) string { return "blobs/" + digest.Algorithm + "/" + digest.Hex }

func writeEntry(archive *tar.Writer, path string, content []byte) error {
	if err := archive.WriteHeader(&tar.Header{
		Format: tar.FormatPAX, Typeflag: tar.TypeReg, Name: path, Mode: 0o644, ModTime: epoch(),
		Size: int64(len(content)),
	}); err != nil {
		return err
	}
	_, err := archive.Write(content)
	return err
}
