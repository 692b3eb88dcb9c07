// Package plan reads a file that lists images, and makes those of them whose content
// has changed.
package plan

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime/debug"
	"strings"

	"sigs.k8s.io/yaml"

	"kijabi.dev/tools/imagetool/internal/image"
	"kijabi.dev/tools/imagetool/internal/roots"
	"kijabi.dev/tools/imagetool/internal/sbom"
)

// Plan lists images that are released together.
type Plan struct {
	// Registry is what the references of all images begin with. Required.
	Registry string `json:"registry"`
	// Images to make. Required.
	Images []Image `json:"images"`
}

// Image is one image of a plan.
type Image struct {
	// Name of the image and its archives. Required.
	Name string `json:"name"`
	// Title and Description say what it is, in a few words and in a sentence. Required.
	Title       string `json:"title"`
	Description string `json:"description"`
	// Licenses is an SPDX expression for all that is inside. Required.
	Licenses string `json:"licenses"`
	// Entrypoint is the program and its fixed arguments. Required.
	Entrypoint []string `json:"entrypoint"`
	// Env holds NAME=VALUE pairs.
	Env []string `json:"env,omitempty"`
	// User is UID or UID:GID; empty is root.
	User string `json:"user,omitempty"`
	// Layers from the lowest up: what images share and what changes least goes first.
	// Required.
	Layers []Layer `json:"layers"`
}

// Layer is what one layer of an image adds.
type Layer []Entry

// Entry is a file, a symbolic link or an empty directory of an image. One of From,
// CARoots, Link and Dir is required.
type Entry struct {
	// From is the file to copy. ${NAME} stands for a value given to Read; a relative
	// path begins at the plan's own directory.
	From string `json:"from,omitempty"`
	// CARoots makes the file of the certificate authorities that browsers trust.
	CARoots bool `json:"caRoots,omitempty"`
	// Link makes a symbolic link to this path.
	Link string `json:"link,omitempty"`
	// To is the path of the file or link in the image. Required without Dir.
	To string `json:"to,omitempty"`
	// Dir is the path of a directory in the image.
	Dir string `json:"dir,omitempty"`
	// Mode is octal; empty means 0755.
	Mode string `json:"mode,omitempty"`
	// Libraries that the file was statically linked with beyond its Go modules.
	Libraries []Library `json:"libraries,omitempty"`
}

// Library is a component of a file that no build information names.
type Library struct {
	// Name and Version are required; ${NAME} in Version is replaced as in From.
	Name    string `json:"name"`
	Version string `json:"version"`
	// License is an SPDX expression.
	License string `json:"license,omitempty"`
}

// Read reads a plan, with values for its ${NAME}s.
func Read(file string, values map[string]string) (Plan, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return Plan{}, fmt.Errorf("plan: %w", err)
	}
	var plan Plan
	if err := yaml.UnmarshalStrict(content, &plan); err != nil {
		return Plan{}, fmt.Errorf("plan %s: %w", file, err)
	}
	if plan.Registry == "" || len(plan.Images) == 0 {
		return Plan{}, fmt.Errorf("plan %s: needs a registry and images", file)
	}
	seen := map[string]bool{}
	for i := range plan.Images {
		img := &plan.Images[i]
		if img.Name == "" || img.Title == "" || img.Description == "" || img.Licenses == "" || len(img.Layers) == 0 {
			return Plan{}, fmt.Errorf("plan %s: image %q: needs name, title, description, licenses and layers", file, img.Name)
		}
		if seen[img.Name] {
			return Plan{}, fmt.Errorf("plan %s: image %s is given twice", file, img.Name)
		}
		seen[img.Name] = true
		if err := img.complete(filepath.Dir(file), values); err != nil {
			return Plan{}, fmt.Errorf("plan %s: image %s: %w", file, img.Name, err)
		}
	}
	return plan, nil
}

// complete checks the entries and fills values in.
func (i *Image) complete(dir string, values map[string]string) error {
	for _, layer := range i.Layers {
		for n := range layer {
			if err := layer[n].complete(dir, values); err != nil {
				return err
			}
		}
	}
	return nil
}

func (e *Entry) complete(dir string, values map[string]string) error {
	sources := 0
	for _, given := range []bool{e.From != "", e.CARoots, e.Link != "", e.Dir != ""} {
		if given {
			sources++
		}
	}
	if sources != 1 || (e.Dir == "") != (e.To != "") {
		return fmt.Errorf("entry %q: want 'dir', or 'to' and one of 'from', 'caRoots' and 'link'", e.target())
	}
	var err error
	if e.From != "" {
		if e.From, err = expand(e.From, values); err != nil {
			return fmt.Errorf("entry %s: %w", e.To, err)
		}
		if !filepath.IsAbs(e.From) {
			e.From = filepath.Join(dir, e.From)
		}
	}
	for n := range e.Libraries {
		library := &e.Libraries[n]
		if library.Version, err = expand(library.Version, values); err != nil {
			return fmt.Errorf("entry %s: library %s: %w", e.To, library.Name, err)
		}
	}
	return nil
}

func (e *Entry) target() string { return e.To + e.Dir }

// expand replaces each ${NAME}; an empty value is as bad as a missing one.
func expand(text string, values map[string]string) (string, error) {
	var missing []string
	expanded := os.Expand(text, func(name string) string {
		if values[name] == "" {
			missing = append(missing, name)
		}
		return values[name]
	})
	if len(missing) > 0 {
		return "", fmt.Errorf("no value for %s: give it with --set %s=VALUE", strings.Join(missing, ", "), missing[0])
	}
	return expanded, nil
}

// Release is what all images of one run have in common.
type Release struct {
	// Version is the tag and the label of every image. Required.
	Version string
	// Revision is the commit that the sources are at; empty says nothing.
	Revision string
	// Architecture is amd64 or arm64.
	Architecture string
	// Tool is what the program that makes the images tells about itself: the certificate
	// authorities come from a module of it. Required.
	Tool *debug.BuildInfo
}

// spec returns the image without its bill of materials, and the libraries that the
// bill must be told of, by the path of the file that holds them.
func (i *Image) spec(registry string, release Release) (image.Spec, map[string][]sbom.Library, error) {
	spec := image.Spec{
		Name:       path.Join(registry, i.Name) + ":" + release.Version,
		Entrypoint: i.Entrypoint, Env: i.Env, User: i.User, Architecture: release.Architecture,
		Labels: image.Labels{
			Title: i.Title, Description: i.Description, Licenses: i.Licenses,
			Version: release.Version, Revision: release.Revision,
		}.Map(),
	}
	libraries := map[string][]sbom.Library{}
	for _, entries := range i.Layers {
		var layer image.Layer
		for _, entry := range entries {
			file, parts, err := entry.file(release.Tool)
			if err != nil {
				return spec, nil, fmt.Errorf("image %s: %w", i.Name, err)
			}
			layer = append(layer, file)
			libraries[file.Path] = parts
		}
		spec.Layers = append(spec.Layers, layer)
	}
	return spec, libraries, nil
}

// file returns the entry for the image, and what its bill of materials must be told.
func (e *Entry) file(tool *debug.BuildInfo) (image.File, []sbom.Library, error) {
	text := e.target()
	if e.Mode != "" {
		text += ":" + e.Mode
	}
	file, err := image.ParseDir(text)
	if err != nil {
		return file, nil, err
	}
	file.Local, file.Link = e.From, e.Link
	if e.From != "" {
		if _, err := os.Stat(e.From); os.IsNotExist(err) {
			return file, nil, fmt.Errorf("%s is missing: run 'make build' first", e.From)
		}
	}
	var libraries []sbom.Library
	for _, library := range e.Libraries {
		libraries = append(libraries, sbom.Library{Name: library.Name, Version: library.Version, License: library.License})
	}
	if e.CARoots {
		if file.Content, err = roots.PEM(); err != nil {
			return file, nil, err
		}
		version, sum, err := roots.Version(tool)
		if err != nil {
			return file, nil, err
		}
		libraries = append(libraries, sbom.GoModule(roots.Module, version, sum, "MPL-2.0"))
	}
	return file, libraries, nil
}
