// Command gentable writes hints.go: the facts about API types that are only in
// their source comments (list and map types, map keys, defaults, enumerations), which
// reflection cannot see. Run it by `go generate` after k8s.io/api changes.
package main

import (
	"bytes"
	"context"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"sort"
	"strconv"
	"strings"
)

// hint mirrors openapi.hint.
type hint struct {
	listType, mapType, structType, def string
	keys                               []string
	optional, required                 bool
}

func (h hint) empty() bool {
	return h.listType == "" && h.mapType == "" && h.structType == "" && h.def == "" && !h.optional && !h.required
}

// packages are the ones whose kinds may be served; directories below the module.
func packages() map[string][]string {
	return map[string][]string{
		"k8s.io/apimachinery":            {"pkg/apis/meta/v1"},
		"k8s.io/apiextensions-apiserver": {"pkg/apis/apiextensions/v1"},
		"k8s.io/api": {
			"admissionregistration/v1", "apps/v1", "authentication/v1", "authorization/v1", "autoscaling/v1",
			"autoscaling/v2", "batch/v1", "certificates/v1", "coordination/v1", "core/v1", "discovery/v1",
			"events/v1", "flowcontrol/v1", "networking/v1", "node/v1", "policy/v1", "rbac/v1", "resource/v1",
			"scheduling/v1", "storage/v1",
		},
	}
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "gentable:", err)
		os.Exit(1)
	}
}

func run() error {
	hints := map[string]hint{}
	enums := map[string][]string{}
	for module, dirs := range packages() {
		out, err := exec.CommandContext(context.Background(), "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
		if err != nil {
			return fmt.Errorf("locate %s: %w", module, err)
		}
		for _, dir := range dirs {
			path := filepath.Join(strings.TrimSpace(string(out)), dir)
			if err := readPackage(path, modelPackage(module+"/"+dir), hints, enums); err != nil {
				return fmt.Errorf("read %s: %w", path, err)
			}
		}
	}
	return os.WriteFile("hints.go", render(hints, enums), 0o644)
}

// modelPackage turns k8s.io/api/core/v1 into io.k8s.api.core.v1.
func modelPackage(path string) string {
	host, rest, _ := strings.Cut(path, "/")
	labels := strings.Split(host, ".")
	for i, j := 0, len(labels)-1; i < j; i, j = i+1, j-1 {
		labels[i], labels[j] = labels[j], labels[i]
	}
	return strings.Join(labels, ".") + "." + strings.ReplaceAll(rest, "/", ".")
}

func readPackage(dir, prefix string, hints map[string]hint, enums map[string][]string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return err
	}
	set := token.NewFileSet()
	for _, name := range files {
		base := filepath.Base(name)
		if strings.HasSuffix(base, "_test.go") || strings.HasPrefix(base, "generated") || strings.HasPrefix(base, "zz_") {
			continue
		}
		file, err := parser.ParseFile(set, name, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		for _, decl := range file.Decls {
			general, ok := decl.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, spec := range general.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					readType(spec, tagsBefore(file, set, general, spec), prefix, hints, enums)
				case *ast.ValueSpec:
					readConst(spec, prefix, enums)
				}
			}
		}
	}
	return nil
}

// tagsBefore collects the +tags of a type: of its doc comment and of a comment
// block that a blank line separates from it, where upstream puts generator tags.
func tagsBefore(file *ast.File, set *token.FileSet, general *ast.GenDecl, spec *ast.TypeSpec) map[string][]string {
	groups := []*ast.CommentGroup{general.Doc, spec.Doc}
	start := general.Pos()
	if general.Doc != nil {
		start = general.Doc.Pos()
	}
	for _, group := range file.Comments {
		if group.End() < start && set.Position(group.End()).Line+2 >= set.Position(start).Line {
			groups = append(groups, group)
		}
	}
	return tags(groups...)
}

func tags(groups ...*ast.CommentGroup) map[string][]string {
	out := map[string][]string{}
	for _, group := range groups {
		if group == nil {
			continue
		}
		for _, comment := range group.List {
			line := strings.TrimSpace(strings.TrimPrefix(comment.Text, "//"))
			if name, ok := strings.CutPrefix(line, "+"); ok {
				key, value, _ := strings.Cut(name, "=")
				out[strings.TrimSpace(key)] = append(out[strings.TrimSpace(key)], strings.TrimSpace(value))
			}
		}
	}
	return out
}

func hintOf(t map[string][]string) hint {
	one := func(key string) string {
		if len(t[key]) == 0 {
			return ""
		}
		return t[key][0]
	}
	h := hint{listType: one("listType"), mapType: one("mapType"), structType: one("structType"), keys: t["listMapKey"], def: one("default")}
	if strings.HasPrefix(h.def, "ref(") {
		h.def = ""
	}
	return h
}

func readType(spec *ast.TypeSpec, typeTags map[string][]string, prefix string, hints map[string]hint, enums map[string][]string) {
	name := prefix + "." + spec.Name.Name
	if _, ok := typeTags["enum"]; ok {
		enums[name] = append(enums[name], "")
	}
	if h := hintOf(typeTags); !h.empty() {
		hints[name] = h
	}
	structure, ok := spec.Type.(*ast.StructType)
	if !ok {
		return
	}
	for _, field := range structure.Fields.List {
		if field.Tag == nil {
			continue
		}
		raw, err := strconv.Unquote(field.Tag.Value)
		if err != nil {
			continue
		}
		jsonName, options, _ := strings.Cut(reflect.StructTag(raw).Get("json"), ",")
		if jsonName == "" || jsonName == "-" {
			continue
		}
		t := tags(field.Doc)
		h := hintOf(t)
		omit := strings.Contains(options, "omitempty") || strings.Contains(options, "omitzero")
		_, optional := t["optional"]
		_, required := t["required"]
		h.optional = optional && !omit
		h.required = required && omit
		if !h.empty() {
			hints[name+"#"+jsonName] = h
		}
	}
}

func readConst(spec *ast.ValueSpec, prefix string, enums map[string][]string) {
	ident, ok := spec.Type.(*ast.Ident)
	if !ok {
		return
	}
	for _, value := range spec.Values {
		if literal, ok := value.(*ast.BasicLit); ok && literal.Kind == token.STRING {
			text, err := strconv.Unquote(literal.Value)
			if err == nil {
				enums[prefix+"."+ident.Name] = append(enums[prefix+"."+ident.Name], text)
			}
		}
	}
}

func render(hints map[string]hint, enums map[string][]string) []byte {
	var b bytes.Buffer
	b.WriteString("// Code generated by gentable from the comments of k8s.io/api. DO NOT EDIT.\n\npackage openapi\n\n")
	b.WriteString("// hints maps \"type\" or \"type#field\" to what its comment says.\nfunc hints() map[string]hint {\n\treturn map[string]hint{\n")
	for _, key := range sorted(hints) {
		h := hints[key]
		fmt.Fprintf(&b, "\t\t%q: {", key)
		for _, part := range []struct{ name, value string }{{"listType", h.listType}, {"mapType", h.mapType}, {"structType", h.structType}, {"def", h.def}} {
			if part.value != "" {
				fmt.Fprintf(&b, "%s: %q, ", part.name, part.value)
			}
		}
		if len(h.keys) > 0 {
			fmt.Fprintf(&b, "keys: %#v, ", h.keys)
		}
		if h.optional {
			b.WriteString("optional: true, ")
		}
		if h.required {
			b.WriteString("required: true, ")
		}
		b.WriteString("},\n")
	}
	b.WriteString("\t}\n}\n\n// enums maps a type marked +enum to its values.\nfunc enums() map[string][]string {\n\treturn map[string][]string{\n")
	for _, key := range sorted(enums) {
		values := map[string]bool{}
		marked := false
		for _, value := range enums[key] {
			if value == "" {
				marked = true
				continue
			}
			values[value] = true
		}
		if marked && len(values) > 0 {
			fmt.Fprintf(&b, "\t\t%q: %#v,\n", key, sorted(values))
		}
	}
	b.WriteString("\t}\n}\n")
	out, err := format.Source(b.Bytes())
	if err != nil {
		panic(err) // the program wrote what it cannot read: a defect of render
	}
	return out
}

func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}
