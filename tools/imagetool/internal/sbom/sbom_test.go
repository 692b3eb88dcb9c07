package sbom

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/go-cmp/cmp"
)

// buildProgram builds a program of two modules of its own, one of which is replaced by
// a folder, and of one module with a version, and returns it.
func buildProgram(t *testing.T, env ...string) string {
	t.Helper()
	dir := t.TempDir()
	sums, err := os.ReadFile("../../../go.sum")
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"go.mod": `module example.com/Shop

go 1.26

require (
	example.com/part v0.0.0
	github.com/google/uuid v1.6.0
)

replace example.com/part => ./part
`,
		"go.sum":      string(sums),
		"part/go.mod": "module example.com/part\n\ngo 1.26\n",
		"part/part.go": `package part

func Name() string { return "part" }
`,
		"cmd/till/main.go": `package main

import (
	"example.com/part"
	"github.com/google/uuid"
)

func main() { println(part.Name(), uuid.NewString()) }
`,
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	program := filepath.Join(dir, "till")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-trimpath", "-ldflags=-s -w", "-o", program, "./cmd/till")
	cmd.Dir, cmd.Env = dir, append(append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-mod=mod"), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	return program
}

func generate(t *testing.T, files ...File) []byte {
	t.Helper()
	bill, err := Generate(Subject{Name: "shop", Version: "1.2.3", Licenses: "Apache-2.0 AND MIT"}, files)
	if err != nil {
		t.Fatal(err)
	}
	return bill
}

func decode(t *testing.T, bill []byte) *cdx.BOM {
	t.Helper()
	bom := new(cdx.BOM)
	if err := cdx.NewBOMDecoder(bytes.NewReader(bill), cdx.BOMFileFormatJSON).Decode(bom); err != nil {
		t.Fatal(err)
	}
	return bom
}

func TestBillNamesWhatProgramsAreMadeOf(t *testing.T) {
	program := buildProgram(t)
	toolchain := strings.TrimPrefix(runtime.Version(), "go")
	bom := decode(t, generate(t,
		File{Local: program, Path: "/bin/till", Libraries: []Library{{Name: "libseccomp", Version: "2.5.4", License: "LGPL-2.1-only"}}},
		File{Content: []byte("roots"), Path: "/etc/roots.pem"},
	))
	if bom.SpecVersion != cdx.SpecVersion1_6 || bom.Metadata.Timestamp != "" {
		t.Errorf("version %v, time %q", bom.SpecVersion, bom.Metadata.Timestamp)
	}
	subject := bom.Metadata.Component
	if subject.Type != cdx.ComponentTypeContainer || subject.Name != "shop" || subject.Version != "1.2.3" ||
		(*subject.Licenses)[0].Expression != "Apache-2.0 AND MIT" {
		t.Errorf("subject %+v", subject)
	}
	var got []string
	for _, component := range *bom.Components {
		line := string(component.Type) + " " + component.Name + " " + component.Version + " " + component.PackageURL
		if component.Licenses != nil {
			line += " " + (*component.Licenses)[0].Expression
		}
		if component.Hashes != nil {
			line += " " + (*component.Hashes)[0].Value[:8]
		}
		got = append(got, line)
	}
	slices.Sort(got)
	want := []string{
		"application till v1.2.3 pkg:golang/example.com/shop@v1.2.3#cmd/till " + hashOf(t, program)[:8],
		"file roots.pem   a4e3c20a",
		"library example.com/part v1.2.3 pkg:golang/example.com/part@v1.2.3",
		// h1:NIvaJDMOsjHA8n1jAhLSgzrAzy1Hgr+hNrb57e+94F0= of go.sum, in hexadecimal.
		"library github.com/google/uuid v1.6.0 pkg:golang/github.com/google/uuid@v1.6.0 348bda24",
		"library libseccomp 2.5.4 pkg:generic/libseccomp@2.5.4 LGPL-2.1-only",
		"library stdlib " + toolchain + " pkg:golang/stdlib@" + toolchain + " BSD-3-Clause",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("components: %s", diff)
	}
	needs := map[string][]string{}
	for _, dependency := range *bom.Dependencies {
		if dependency.Dependencies != nil {
			needs[dependency.Ref] = *dependency.Dependencies
		}
	}
	wantNeeds := map[string][]string{
		"image": {"file:/bin/till", "file:/etc/roots.pem"},
		"file:/bin/till": {
			"pkg:generic/libseccomp@2.5.4", "pkg:golang/example.com/part@v1.2.3",
			"pkg:golang/github.com/google/uuid@v1.6.0", "pkg:golang/stdlib@" + toolchain,
		},
	}
	if diff := cmp.Diff(wantNeeds, needs); diff != "" {
		t.Errorf("dependencies: %s", diff)
	}
}

func hashOf(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

func TestSerialNumberFollowsTheContent(t *testing.T) {
	one, other := File{Content: []byte("a"), Path: "/a"}, File{Content: []byte("b"), Path: "/b"}
	first := generate(t, one, other)
	if !bytes.Equal(first, generate(t, other, one)) {
		t.Error("the order of the files changes the bill")
	}
	one.Content = []byte("c")
	changed := decode(t, generate(t, one, other)).SerialNumber
	if was := decode(t, first).SerialNumber; was == changed || !strings.HasPrefix(was, "urn:uuid:") {
		t.Errorf("serial numbers %q and, of other content, %q", was, changed)
	}
}

func TestWhatCannotBeNamedIsRefused(t *testing.T) {
	for name, test := range map[string]struct {
		file File
		want string
	}{
		"missing":       {File{Local: "/does/not/exist", Path: "/x"}, "/does/not/exist"},
		"not Go":        {File{Content: []byte("\x7fELF and no more"), Path: "/bin/true"}, "only Go programs tell"},
		"no version":    {File{Content: []byte{}, Path: "/x", Libraries: []Library{{Name: "libc"}}}, `library "libc", version ""`},
		"C, not named":  {File{Local: buildProgram(t, "CGO_ENABLED=1"), Path: "/x"}, "name the C libraries"},
		"sum not a sum": {File{Content: []byte{}, Path: "/x", Libraries: []Library{GoModule("m", "v1", "h1:?", "")}}, "checksum of m"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Generate(Subject{Name: "shop", Version: "1"}, []File{test.file})
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "bill of materials of shop") {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
		})
	}
}
