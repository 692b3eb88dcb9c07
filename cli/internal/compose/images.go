package compose

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// archive is an image in a file of docker's format.
type archive struct {
	path string
	// reference of the image, with its tag.
	reference string
	// id is that of the image once it is loaded.
	id string
}

// readArchive reads what an archive says that it holds.
func readArchive(file string) (archive, error) {
	in, err := os.Open(file)
	if err != nil {
		return archive{}, err
	}
	defer func() { _ = in.Close() }()
	for reader := tar.NewReader(in); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return archive{}, fmt.Errorf("%s is no archive of a docker image: it has no manifest.json", file)
		}
		if err != nil {
			return archive{}, fmt.Errorf("%s: %w", file, err)
		}
		if path.Clean(header.Name) != "manifest.json" {
			continue
		}
		var images []struct {
			Config   string
			RepoTags []string
		}
		if err := json.NewDecoder(reader).Decode(&images); err != nil {
			return archive{}, fmt.Errorf("%s: manifest: %w", file, err)
		}
		if len(images) != 1 || len(images[0].RepoTags) != 1 {
			return archive{}, fmt.Errorf("%s: want one image with one name", file)
		}
		// "sha256:HEX", "HEX.json" or "blobs/sha256/HEX", as the writer likes.
		id := strings.TrimSuffix(path.Base(images[0].Config), ".json")
		return archive{file, images[0].RepoTags[0], "sha256:" + strings.TrimPrefix(id, "sha256:")}, nil
	}
}

// loadImages gives the engine the images that it does not have.
func (r *run) loadImages(ctx context.Context) error {
	files, err := filepath.Glob(filepath.Join(r.Images, "*.docker.tar"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("no images in %s: make them with `make build images`", r.Images)
	}
	loaded := 0
	for _, file := range files {
		image, err := readArchive(file)
		if err != nil {
			return err
		}
		have, err := r.engine.run(ctx, "image", "inspect", "--format", "{{.Id}}", image.reference)
		if err == nil && have == image.id {
			continue
		}
		if _, err := r.engine.run(ctx, "load", "--quiet", "--input", file); err != nil {
			return fmt.Errorf("load image %s: %w: is the disk of the engine full (docker system df)?", image.reference, err)
		}
		loaded++
	}
	r.Progress.Say("%d images, %d of them loaded", len(files), loaded)
	return nil
}
