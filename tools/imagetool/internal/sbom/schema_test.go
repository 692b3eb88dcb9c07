package sbom

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/xeipuuv/gojsonschema"
)

// TestBillFollowsTheSchema uses the schema that comes with the CycloneDX library.
func TestBillFollowsTheSchema(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/CycloneDX/cyclonedx-go")
	dir, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	file := func(name string) gojsonschema.JSONLoader {
		return gojsonschema.NewReferenceLoader("file://" + filepath.Join(strings.TrimSpace(string(dir)), "schema", name))
	}
	schemas := gojsonschema.NewSchemaLoader()
	const site = "http://cyclonedx.org/schema/" // what the schema calls its parts; nothing is fetched
	for name, local := range map[string]string{"jsf-0.82.schema.json": "jsf-0.82.schemax.json", "spdx.schema.json": "spdx.schema.json"} {
		if err := schemas.AddSchema(site+name, file(local)); err != nil {
			t.Fatal(err)
		}
	}
	schema, err := schemas.Compile(file("bom-1.6.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	bill := generate(t,
		File{Local: buildProgram(t), Path: "/bin/till", Libraries: []Library{
			{Name: "libseccomp", Version: "2.5.4", License: "LGPL-2.1-only"},
			GoModule("golang.org/x/crypto/x509roots/fallback", "v0.0.0-1", "", "MPL-2.0"),
		}},
		File{Content: []byte("roots"), Path: "/etc/roots.pem"},
	)
	result, err := schema.Validate(gojsonschema.NewBytesLoader(bill))
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range result.Errors() {
		t.Error(problem)
	}
}
