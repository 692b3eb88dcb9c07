package plan

import (
	"io/fs"
	"path"
	"slices"
	"strings"

	"kijabi.dev/tools/imagetool/internal/image"
	"kijabi.dev/tools/imagetool/internal/sbom"
)

// WithBill returns spec with its bill of materials in its last layer, which is the one
// that changes most, and the bill. Version is that of the image; libraries, by the path
// of the file that holds them, are those of which no program tells.
func WithBill(spec image.Spec, version string, libraries map[string][]sbom.Library) (image.Spec, []byte, error) {
	repository, _, _ := strings.Cut(path.Base(spec.Name), ":")
	subject := sbom.Subject{Name: repository, Version: version, Licenses: spec.Labels[image.LabelLicenses]}
	var files []sbom.File
	for _, layer := range spec.Layers {
		for _, file := range layer {
			if file.Local != "" || file.Content != nil {
				files = append(files, sbom.File{
					Local: file.Local, Content: file.Content, Path: file.Path, Libraries: libraries[file.Path],
				})
			}
		}
	}
	bill, err := sbom.Generate(subject, files)
	if err != nil {
		return spec, nil, err
	}
	spec.Layers = slices.Clone(spec.Layers)
	last := len(spec.Layers) - 1
	spec.Layers[last] = append(slices.Clone(spec.Layers[last]), image.File{
		Content: bill, Path: sbom.Path, Mode: fs.FileMode(0o644),
	})
	return spec, bill, nil
}
