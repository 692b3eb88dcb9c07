// Package sbom writes the bill of materials of an image: every file in it, and for each
// Go program the modules and the toolchain it was built from, as the program itself
// tells. The same content gives the same bytes: there is no time in it, and its serial
// number is derived from the rest.
package sbom

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/uuid"
)

// Path is where an image holds its bill.
const Path = "/usr/share/kijabi/sbom.cdx.json"

// Subject is the image that a bill describes.
type Subject struct {
	// Name without registry and tag, such as apiserver.
	Name string
	// Version of the image, such as 0.1.0. Go modules that have no version of their
	// own, which are those of this repository, get it too.
	Version string
	// Licenses is an SPDX expression; empty says nothing.
	Licenses string
}

// File is a file of the image. Content comes from Local, or from Content if that is
// not nil.
type File struct {
	Local   string
	Content []byte
	// Path inside the image.
	Path string
	// Libraries are what the file is made of beyond what a Go program tells by itself.
	Libraries []Library
}

// Library is a component that no build information names: a C library that was linked
// statically, or the source of a file of data.
type Library struct {
	// Name and Version are required.
	Name, Version string
	// PURL is the package URL; empty means pkg:generic/NAME@VERSION.
	PURL string
	// License is an SPDX identifier or expression; empty says nothing.
	License string
	// Sum is the checksum of a Go module as go.sum has it; empty says nothing.
	Sum string
}

// GoModule is a module that a file of data comes from.
func GoModule(module, version, sum, license string) Library {
	return Library{Name: module, Version: version, Sum: sum, License: license, PURL: golang(module, version, "")}
}

// Generate returns the bill as CycloneDX 1.6 JSON.
func Generate(subject Subject, files []File) ([]byte, error) {
	bom := cdx.NewBOM()
	root := cdx.Component{
		BOMRef: "image", Type: cdx.ComponentTypeContainer, Name: subject.Name, Version: subject.Version,
		Licenses: licenses(subject.Licenses),
	}
	bom.Metadata = &cdx.Metadata{
		Component: &root,
		Tools: &cdx.ToolsChoice{Components: &[]cdx.Component{
			{Type: cdx.ComponentTypeApplication, Name: "imagetool", Version: subject.Version},
		}},
	}
	components := map[string]cdx.Component{}
	needs := map[string][]string{}
	for _, file := range files {
		parts, err := describe(file, subject.Version)
		if err != nil {
			return nil, fmt.Errorf("bill of materials of %s: %s: %w", subject.Name, file.Path, err)
		}
		for _, part := range append(parts.made, parts.file) {
			components[part.BOMRef] = part
		}
		needs[root.BOMRef] = append(needs[root.BOMRef], parts.file.BOMRef)
		needs[parts.file.BOMRef] = references(parts.made)
	}
	bom.Components = &[]cdx.Component{}
	for _, ref := range slices.Sorted(maps.Keys(components)) {
		*bom.Components = append(*bom.Components, components[ref])
	}
	bom.Dependencies = dependencies(needs)
	return encode(bom)
}

func references(components []cdx.Component) []string {
	var refs []string
	for _, component := range components {
		refs = append(refs, component.BOMRef)
	}
	return refs
}

func dependencies(needs map[string][]string) *[]cdx.Dependency {
	list := []cdx.Dependency{}
	for ref, needed := range needs {
		slices.Sort(needed)
		needed = slices.Compact(needed)
		dependency := cdx.Dependency{Ref: ref}
		if len(needed) > 0 {
			dependency.Dependencies = &needed
		}
		list = append(list, dependency)
	}
	slices.SortFunc(list, func(a, b cdx.Dependency) int { return cmp.Compare(a.Ref, b.Ref) })
	return &list
}

// encode writes the bill twice: the serial number is a hash of the bill without it.
func encode(bom *cdx.BOM) ([]byte, error) {
	write := func() ([]byte, error) {
		var out bytes.Buffer
		encoder := cdx.NewBOMEncoder(&out, cdx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false)
		err := encoder.EncodeVersion(bom, cdx.SpecVersion1_6)
		return out.Bytes(), err
	}
	content, err := write()
	if err != nil {
		return nil, fmt.Errorf("encode bill of materials: %w", err)
	}
	bom.SerialNumber = uuid.NewHash(sha256.New(), uuid.NameSpaceURL, content, 8).URN()
	content, err = write()
	if err != nil {
		return nil, fmt.Errorf("encode bill of materials: %w", err)
	}
	return content, nil
}

func licenses(expression string) *cdx.Licenses {
	if expression == "" {
		return nil
	}
	return &cdx.Licenses{{Expression: expression}}
}
