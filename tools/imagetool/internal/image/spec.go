// Package image makes container images from files, without a base image, a daemon or
// a network. The same input gives the same bytes, whatever the times of the files.
package image

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

// Spec says what an image holds. Name, Entrypoint and Layers are required.
type Spec struct {
	// Name is the reference, with a tag: an image is imported under it.
	Name string
	// Entrypoint and Command are the program and its default arguments.
	Entrypoint, Command []string
	// Layers from the lowest up. An engine keeps a layer once for all images that have
	// the same layers up to it, so what images share, and what changes least, goes first.
	Layers []Layer
	// Env holds NAME=VALUE pairs. A PATH is added when none is given.
	Env []string
	// Ports are N, N/tcp or N/udp.
	Ports []string
	// User is UID or UID:GID; a name would need a passwd file in the image.
	User string
	// WorkingDir is absolute; empty means /.
	WorkingDir string
	// Architecture is amd64 or arm64; empty means DefaultArchitecture.
	Architecture string
	// Labels of the image, by name.
	Labels map[string]string
}

// Layer is files and empty directories, in any order; parents are made as needed.
type Layer []File

// File is one entry of an image's file system: a copy of Local, a file with Content, a
// symbolic link to Link, or an empty directory when there is none of them.
type File struct {
	// Local is the file to read.
	Local string
	// Content of a file that does not exist yet; not nil.
	Content []byte
	// Link is what a symbolic link points to.
	Link string
	// Path inside the image, absolute and clean.
	Path string
	// Mode holds permission bits and may hold fs.ModeSticky.
	Mode fs.FileMode
}

func (f File) isDir() bool { return f.Local == "" && f.Content == nil && f.Link == "" }

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
		mode, err := parseMode(modeText)
		if err != nil {
			return File{}, err
		}
		file.Mode = mode
	}
	return file, nil
}

func parseMode(text string) (fs.FileMode, error) {
	bits, err := strconv.ParseUint(text, 8, 12)
	if err != nil || bits&0o6000 != 0 {
		return 0, fmt.Errorf("mode %q must be octal permission bits, such as 0755 or 1777", text)
	}
	mode := fs.FileMode(bits & 0o777)
	if bits&0o1000 != 0 {
		mode |= fs.ModeSticky
	}
	return mode, nil
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
	if _, known := machines()[s.Architecture]; !known {
		return s, tag, fmt.Errorf("image %s: architecture %q: want amd64 or arm64", s.Name, s.Architecture)
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
