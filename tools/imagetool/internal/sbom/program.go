package sbom

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"path"
	"runtime/debug"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/package-url/packageurl-go"
)

// parts is a file as a component, and the components it is made of.
type parts struct {
	file cdx.Component
	made []cdx.Component
}

func describe(file File, version string) (parts, error) {
	content := file.Content
	if content == nil {
		var err error
		if content, err = os.ReadFile(file.Local); err != nil {
			return parts{}, err
		}
	}
	digest := sha256.Sum256(content)
	described := parts{file: cdx.Component{
		BOMRef: "file:" + file.Path, Type: cdx.ComponentTypeFile, Name: path.Base(file.Path),
		Hashes:   &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(digest[:])}},
		Evidence: &cdx.Evidence{Occurrences: &[]cdx.EvidenceOccurrence{{Location: file.Path}}},
	}}
	for _, library := range file.Libraries {
		component, err := named(library)
		if err != nil {
			return parts{}, err
		}
		described.made = append(described.made, component)
	}
	if !bytes.HasPrefix(content, []byte("\x7fELF")) {
		return described, nil
	}
	info, err := buildinfo.Read(bytes.NewReader(content))
	if err != nil {
		return parts{}, fmt.Errorf("only Go programs tell what they are made of: %w", err)
	}
	if len(file.Libraries) == 0 && setting(info, "CGO_ENABLED") == "1" {
		return parts{}, fmt.Errorf("was built with CGO_ENABLED=1: name the C libraries that it holds")
	}
	return described, described.program(info, version)
}

func setting(info *buildinfo.BuildInfo, key string) string {
	for _, setting := range info.Settings {
		if setting.Key == key {
			return setting.Value
		}
	}
	return ""
}

// program adds what a program tells about itself.
func (p *parts) program(info *buildinfo.BuildInfo, version string) error {
	main := resolve(&info.Main, version)
	subpath := strings.TrimPrefix(strings.TrimPrefix(info.Path, info.Main.Path), "/")
	p.file.Type, p.file.Version = cdx.ComponentTypeApplication, main.Version
	p.file.PackageURL = golang(main.Path, main.Version, subpath)
	for _, dependency := range info.Deps {
		module := resolve(dependency, version)
		component, err := named(GoModule(module.Path, module.Version, module.Sum, ""))
		if err != nil {
			return err
		}
		p.made = append(p.made, component)
	}
	// Scanners know the standard library under this name and without "go".
	toolchain, _, _ := strings.Cut(strings.TrimPrefix(info.GoVersion, "go"), " ")
	component, err := named(GoModule("stdlib", toolchain, "", "BSD-3-Clause"))
	if err != nil {
		return err
	}
	p.made = append(p.made, component)
	return nil
}

// resolve returns the module that was compiled, with a version: modules of a workspace,
// and those that a folder replaces, have none.
func resolve(module *debug.Module, version string) debug.Module {
	if replacement := module.Replace; replacement != nil && released(replacement) {
		return *replacement
	}
	if module.Replace == nil && released(module) {
		return *module
	}
	return debug.Module{Path: module.Path, Version: "v" + strings.TrimPrefix(version, "v")}
}

func released(module *debug.Module) bool {
	return module.Version != "" && module.Version != "(devel)"
}

func golang(module, version, subpath string) string {
	namespace, name := path.Split(module)
	return purl(packageurl.TypeGolang, namespace, name, version, subpath)
}

// purl spells a package URL as its specification wants it, in lower case for Go.
func purl(kind, namespace, name, version, subpath string) string {
	url := packageurl.NewPackageURL(kind, namespace, name, version, nil, subpath)
	if err := url.Normalize(); err != nil {
		return "" // named refuses it
	}
	return url.ToString()
}

func named(library Library) (cdx.Component, error) {
	url := library.PURL
	if url == "" {
		url = purl(packageurl.TypeGeneric, "", library.Name, library.Version, "")
	}
	if library.Name == "" || library.Version == "" || url == "" {
		return cdx.Component{}, fmt.Errorf("library %q, version %q: cannot be named by a package URL", library.Name, library.Version)
	}
	component := cdx.Component{
		BOMRef: url, Type: cdx.ComponentTypeLibrary, Name: library.Name, Version: library.Version,
		PackageURL: url, Licenses: licenses(library.License),
	}
	if encoded, isSum := strings.CutPrefix(library.Sum, "h1:"); isSum {
		sum, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			return cdx.Component{}, fmt.Errorf("checksum of %s: %w", library.Name, err)
		}
		// As other writers of Go bills have it: the hash of the module's file list.
		component.Hashes = &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(sum)}}
	}
	return component, nil
}
