package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
)

// DefaultArchitecture is the one this tool was built for.
const DefaultArchitecture = runtime.GOARCH

// Spec says what goes into an archive. Version, Bin and License are required.
type Spec struct {
	// Version of the release, such as 0.1.0.
	Version string
	// Architecture in Go's spelling; empty means DefaultArchitecture.
	Architecture string
	// Bin holds the programs, and in images/ the image archives.
	Bin string
	// License is the file of our own licence.
	License string
	// Notices are files of further licences, of what is linked in but is no Go module.
	Notices []string
}

// programs are the files of bin/ that a machine needs. What a member runs is the list
// of cli/internal/install; test/vm installs machines from an archive.
func programs() []string {
	return []string{
		"apiserver", "cloud-controller-manager", "cloud-provider-local", "containerd", "containerd-shim-runc-v2",
		"controller-manager", "ctr", "dns", "kijabi", "kube-proxy", "kubelet", "network-agent", "runc", "scheduler",
		"cni/bridge", "cni/host-local", "cni/loopback", "cni/portmap", "cni/ptp",
	}
}

// images are the archives of bin/images/ that every machine is given.
func images() []string {
	return []string{"pause.tar", "guestbook-store.tar", "guestbook-web.tar", "toolbox.tar"}
}

//go:embed README.txt
var readme string

// name of the one directory in the archive.
func (s Spec) name() string { return "kijabi-" + s.Version }

// file name of the archive.
func (s Spec) file() string { return s.name() + "-linux-" + s.Architecture + ".tar.gz" }

func (s Spec) normalize() (Spec, error) {
	if s.Architecture == "" {
		s.Architecture = DefaultArchitecture
	}
	if _, known := machines()[s.Architecture]; !known {
		return s, fmt.Errorf("architecture %q: want amd64 or arm64", s.Architecture)
	}
	if !regexp.MustCompile(`^\d+\.\d+\.\d+([.+-][0-9A-Za-z.+-]+)?$`).MatchString(s.Version) {
		return s, fmt.Errorf("version %q: want three numbers, such as 0.1.0 or 0.2.0-rc.1", s.Version)
	}
	return s, nil
}

func machines() map[string]elf.Machine {
	return map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
}

// entry is one file of an archive: either a file on disk or content.
type entry struct {
	path    string // below the archive's directory
	local   string
	content []byte
	mode    int64
}

// entries lists everything but the checksums, and checks it.
func (s Spec) entries() ([]entry, error) {
	all := []entry{
		{path: "LICENSE", local: s.License, mode: 0o644},
		{path: "README", content: []byte(strings.ReplaceAll(readme, "VERSION", s.Version)), mode: 0o644},
	}
	var missing []string
	for _, name := range programs() {
		local := filepath.Join(s.Bin, name)
		err := checkProgram(local, s.Architecture)
		if errors.Is(err, os.ErrNotExist) {
			missing = append(missing, name)
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, entry{path: "bin/" + name, local: local, mode: 0o755})
	}
	for _, name := range images() {
		local := filepath.Join(s.Bin, "images", name)
		err := checkImage(local, s.Architecture)
		if errors.Is(err, os.ErrNotExist) {
			missing = append(missing, "images/"+name)
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, entry{path: "bin/images/" + name, local: local, mode: 0o644})
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("missing in %s: %s; build it with `make build`", s.Bin, strings.Join(missing, ", "))
	}
	return all, nil
}

// checkProgram refuses what does not run on a machine of the architecture that has
// nothing but the archive: another architecture's program, or one that needs a loader.
func checkProgram(path, architecture string) error {
	program, err := elf.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err != nil {
		return fmt.Errorf("program %s: %w", path, err)
	}
	defer func() { _ = program.Close() }() // only read
	if program.Machine != machines()[architecture] {
		return fmt.Errorf("program %s is built for %s, not for %s", path, program.Machine, architecture)
	}
	for _, segment := range program.Progs {
		if segment.Type == elf.PT_INTERP {
			return fmt.Errorf("program %s is dynamically linked: an archive for machines without packages cannot carry it", path)
		}
	}
	return nil
}

// checkImage refuses an image of another architecture.
func checkImage(path, architecture string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for archive := tar.NewReader(bytes.NewReader(content)); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("image %s: holds no index.json: it is no OCI archive", path)
		}
		if err != nil {
			return fmt.Errorf("image %s: %w", path, err)
		}
		if header.Name != "index.json" {
			continue
		}
		var index struct {
			Manifests []struct{ Platform struct{ Architecture string } }
		}
		if err := json.NewDecoder(archive).Decode(&index); err != nil {
			return fmt.Errorf("image %s: index.json: %w", path, err)
		}
		for _, manifest := range index.Manifests {
			if manifest.Platform.Architecture != architecture {
				return fmt.Errorf("image %s is built for %q, not for %s", path, manifest.Platform.Architecture, architecture)
			}
		}
		return nil
	}
}
