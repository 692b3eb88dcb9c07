package main

import (
	"fmt"
	"io/fs"
	"path"
	"runtime"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

// DefaultArchitecture is the one this tool was built for.
const DefaultArchitecture = runtime.GOARCH

// Spec says what an image holds. Name, Entrypoint and Files are required.
type Spec struct {
	// Name is the reference, with a tag: an image is imported under it.
	Name string
	// Entrypoint and Command are the program and its default arguments.
	Entrypoint, Command []string
	// Files and empty directories, in any order; parents are made as needed.
	Files []File
	// Env holds NAME=VALUE pairs. A PATH is added when none is given.
	Env []string
	// Ports are N, N/tcp or N/udp.
	Ports []string
	// User is UID or UID:GID; a name would need a passwd file in the image.
	User string
	// WorkingDir is absolute; empty means /.
	WorkingDir string
	// Architecture in Go's spelling; empty means DefaultArchitecture.
	Architecture string
}

// File is one entry of an image's file system.
type File struct {
	// Local is the file to read; empty makes an empty directory.
	Local string
	// Path inside the image, absolute and clean.
	Path string
	// Mode holds permission bits and may hold fs.ModeSticky.
	Mode fs.FileMode
}

// ParseFile reads LOCAL:/PATH[:MODE].
func ParseFile(text string) (File, error) {
	local, rest, found := strings.Cut(text, ":")
	if !found || local == "" {
		return File{}, fmt.Errorf("file %q: want LOCAL:/PATH[:MODE]", text)
	}
	file, err := parsePath(rest)
	if err != nil {
		return File{}, fmt.Errorf("file %q: %w", text, err)
	}
	file.Local = local
	return file, nil
}

// ParseDir reads /PATH[:MODE].
func ParseDir(text string) (File, error) {
	file, err := parsePath(text)
	if err != nil {
		return File{}, fmt.Errorf("directory %q: %w", text, err)
	}
	return file, nil
}

func parsePath(text string) (File, error) {
	target, modeText, hasMode := strings.Cut(text, ":")
	file := File{Path: target, Mode: 0o755}
	if !path.IsAbs(target) || path.Clean(target) != target || target == "/" {
		return File{}, fmt.Errorf("path %q in the image must be absolute and clean", target)
	}
	if hasMode {
		bits, err := strconv.ParseUint(modeText, 8, 12)
		if err != nil || bits&0o6000 != 0 {
			return File{}, fmt.Errorf("mode %q must be octal permission bits, such as 0755 or 1777", modeText)
		}
		file.Mode = fs.FileMode(bits & 0o777)
		if bits&0o1000 != 0 {
			file.Mode |= fs.ModeSticky
		}
	}
	return file, nil
}

// normalize checks the specification and returns it with defaults filled in.
func (s Spec) normalize() (Spec, name.Tag, error) {
	tag, err := name.NewTag(s.Name, name.WithDefaultTag(""))
	if err != nil {
		return s, tag, fmt.Errorf("name %q: %w", s.Name, err)
	}
	if tag.TagStr() == "" {
		return s, tag, fmt.Errorf("name %q: needs a tag, such as %s:1", s.Name, s.Name)
	}
	if len(s.Entrypoint) == 0 {
		return s, tag, fmt.Errorf("image %s: needs an entrypoint", s.Name)
	}
	hasPath := false
	for _, variable := range s.Env {
		key, _, found := strings.Cut(variable, "=")
		if !found || key == "" {
			return s, tag, fmt.Errorf("image %s: environment variable %q: want NAME=VALUE", s.Name, variable)
		}
		hasPath = hasPath || key == "PATH"
	}
	if !hasPath {
		s.Env = append([]string{"PATH=/"}, s.Env...)
	}
	if s.WorkingDir == "" {
		s.WorkingDir = "/"
	}
	if s.Architecture == "" {
		s.Architecture = DefaultArchitecture
	}
	return s, tag, s.checkUser()
}

func (s Spec) checkUser() error {
	if s.User == "" {
		return nil
	}
	for part := range strings.SplitSeq(s.User, ":") {
		if _, err := strconv.ParseUint(part, 10, 32); err != nil {
			return fmt.Errorf("image %s: user %q must be UID or UID:GID", s.Name, s.User)
		}
	}
	return nil
}

// exposed returns the ports as the image configuration spells them.
func (s Spec) exposed() (map[string]struct{}, error) {
	ports := map[string]struct{}{}
	for _, text := range s.Ports {
		number, protocol, found := strings.Cut(text, "/")
		if !found {
			protocol = "tcp"
		}
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil || n == 0 || (protocol != "tcp" && protocol != "udp") {
			return nil, fmt.Errorf("image %s: port %q: want N, N/tcp or N/udp", s.Name, text)
		}
		ports[number+"/"+protocol] = struct{}{}
	}
	return ports, nil
}
