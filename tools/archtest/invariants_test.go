package archtest_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// ARCHITECTURE.md names, for each invariant, files of tests and the tests in them. A
// file without a folder lies beside the one named before it.
func TestInvariantsNameTheirTests(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root(t), "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, invariants, found := strings.Cut(string(page), "## Invariants and their tests")
	if !found {
		t.Fatal("ARCHITECTURE.md has no section of invariants")
	}
	named := 0
	for row := range strings.Lines(invariants) {
		var folder, source string
		for _, match := range regexp.MustCompile("`([^`]+_test\\.go)`|\\b(Test[A-Za-z]+)").FindAllStringSubmatch(row, -1) {
			if file := match[1]; file != "" {
				if strings.Contains(file, "/") {
					folder = filepath.Dir(file)
				}
				content, err := os.ReadFile(filepath.Join(root(t), folder, filepath.Base(file)))
				if err != nil {
					t.Errorf("ARCHITECTURE.md: %v", err)
				}
				source = string(content)
				continue
			}
			named++
			if !strings.Contains(source, "func "+match[2]+"(") {
				t.Errorf("ARCHITECTURE.md names %s, which is not in the file before it", match[2])
			}
		}
	}
	if named == 0 {
		t.Error("ARCHITECTURE.md names no tests")
	}
}
