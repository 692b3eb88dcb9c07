package main

import (
	"bytes"
	"debug/buildinfo"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"

	"golang.org/x/mod/module"
)

// notices gathers the licences and notices of everything that the programs are linked
// with. Programs name their modules themselves; the texts come from the module cache.
// A text that several modules share is printed once.
func (s Spec) notices() ([]byte, error) {
	modules, err := s.linked()
	if err != nil {
		return nil, err
	}
	cache, err := goEnv("GOMODCACHE")
	if err != nil {
		return nil, err
	}
	owners, err := s.texts()
	if err != nil {
		return nil, err
	}
	for _, m := range modules {
		texts, err := licences(cache, m)
		if err != nil {
			return nil, err
		}
		for _, text := range texts {
			owners[text] = append(owners[text], m.Path+" "+m.Version)
		}
	}
	texts := slices.SortedFunc(maps.Keys(owners), func(a, b string) int {
		if order := slices.Compare(owners[a], owners[b]); order != 0 {
			return order
		}
		return strings.Compare(a, b)
	})
	var out bytes.Buffer
	fmt.Fprintf(&out, "What the programs of this archive are made of besides Kijabi's own code: %d Go modules\nand the Go standard library, with their licences.\n", len(modules))
	for _, text := range texts {
		fmt.Fprintf(&out, "\n%s\n%s\n\n%s\n", strings.Repeat("=", 78), strings.Join(owners[text], "\n"), strings.TrimSpace(text))
	}
	return out.Bytes(), nil
}

// linked lists the modules of all programs, sorted, without our own.
func (s Spec) linked() ([]module.Version, error) {
	found := map[module.Version]bool{}
	for _, name := range programs() {
		path := filepath.Join(s.Bin, name)
		info, err := buildinfo.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("program %s does not say what it is made of: %w", path, err)
		}
		for _, dependency := range append([]*debug.Module{&info.Main}, info.Deps...) {
			if dependency.Replace != nil {
				dependency = dependency.Replace
			}
			if strings.HasPrefix(dependency.Path, "kijabi.dev/") || !strings.Contains(dependency.Path, "/") || dependency.Version == "" || dependency.Version == "(devel)" || strings.HasPrefix(dependency.Path, ".") {
				continue
			}
			found[module.Version{Path: dependency.Path, Version: dependency.Version}] = true
		}
	}
	all := slices.Collect(maps.Keys(found))
	module.Sort(all)
	return all, nil
}

// texts returns the licences of what is no module, each with what it is of.
func (s Spec) texts() (map[string][]string, error) {
	root, err := goEnv("GOROOT")
	if err != nil {
		return nil, err
	}
	owners := map[string][]string{}
	for _, file := range append([]string{filepath.Join(root, "LICENSE")}, s.Notices...) {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("notice: %w", err)
		}
		owner := "the Go standard library"
		if slices.Contains(s.Notices, file) {
			owner = file
		}
		owners[string(content)] = append(owners[string(content)], owner)
	}
	return owners, nil
}

func goEnv(name string) (string, error) {
	out, err := exec.Command("go", "env", name).Output() //nolint:noctx // ends at once
	if err != nil {
		return "", fmt.Errorf("go env %s: %w", name, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// licences returns the texts in a module's top directory; at least one.
func licences(cache string, m module.Version) ([]string, error) {
	escaped, err := module.EscapePath(m.Path)
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", m.Path, err)
	}
	version, err := module.EscapeVersion(m.Version)
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", m.Path, err)
	}
	dir := filepath.Join(cache, escaped+"@"+version)
	files, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("licence of %s: %s is not in the module cache: run `make build` first", m, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("licence of %s: %w", m, err)
	}
	pattern := regexp.MustCompile(`(?i)^(un)?(licen[sc]e|copying|notice|patents)`)
	var texts []string
	for _, file := range files {
		if !file.Type().IsRegular() || !pattern.MatchString(file.Name()) || strings.HasSuffix(file.Name(), ".go") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, file.Name()))
		if err != nil {
			return nil, fmt.Errorf("licence of %s: %w", m, err)
		}
		texts = append(texts, string(text))
	}
	if len(texts) == 0 {
		return nil, fmt.Errorf("module %s has no licence in %s: it may not be passed on", m, dir)
	}
	return texts, nil
}
