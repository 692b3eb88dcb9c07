package image

import (
	"fmt"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Image is an image with the name it is imported under.
type Image struct {
	v1.Image
	// Name is the full reference in containerd's spelling (docker.io, not index.docker.io).
	Name string
	// Tag is the same reference for go-containerregistry.
	Tag name.Tag
	// Packed is the size of the compressed layers, Unpacked that of the files in them,
	// in bytes.
	Packed, Unpacked int64
}

// Build makes the image that spec describes, on no base.
func Build(spec Spec) (*Image, error) {
	spec, tag, err := spec.normalize()
	if err != nil {
		return nil, err
	}
	ports, err := spec.exposed()
	if err != nil {
		return nil, err
	}
	trees, err := expand(spec.Layers)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", spec.Name, err)
	}
	built := &Image{Tag: tag}
	var layers []mutate.Addendum
	for _, tree := range trees {
		layer, err := tree.pack(spec.Architecture)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", spec.Name, err)
		}
		built.Packed += int64(len(layer.compressed))
		built.Unpacked += layer.files
		layers = append(layers, mutate.Addendum{Layer: layer, MediaType: types.OCILayer, History: v1.History{
			Created: v1.Time{Time: epoch()}, CreatedBy: "imagetool",
		}})
	}
	image, err := mutate.Append(
		mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON), layers...)
	if err != nil {
		return nil, fmt.Errorf("image %s: append layers: %w", spec.Name, err)
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
		Labels:       spec.Labels,
	}
	image, err = mutate.ConfigFile(image, config)
	if err != nil {
		return nil, fmt.Errorf("image %s: configuration: %w", spec.Name, err)
	}
	built.Image, built.Name = image, tag.Name()
	if tag.RegistryStr() == name.DefaultRegistry {
		built.Name = "docker.io/" + tag.RepositoryStr() + ":" + tag.TagStr()
	}
	return built, nil
}

// epoch is the time of everything in an image: a real one would change the digest.
func epoch() time.Time { return time.Unix(0, 0).UTC() }
