package roots

import (
	"crypto/x509"
	"debug/buildinfo"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"
)

func TestFileHoldsAuthorities(t *testing.T) {
	content, err := PEM()
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(content) || strings.Count(string(content), "BEGIN CERTIFICATE") < 50 {
		t.Errorf("%d bytes are no file of authorities", len(content))
	}
	again, err := PEM()
	if err != nil || string(again) != string(content) {
		t.Errorf("a second time it is another file, error %v", err)
	}
}

func TestVersionIsThatOfTheModule(t *testing.T) {
	program := filepath.Join(t.TempDir(), "imagetool") // a test does not tell its modules
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", program, "kijabi.dev/tools/imagetool")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	version, sum, err := Version(info)
	if err != nil {
		t.Fatal(err)
	}
	// v0.0.0-DATE-COMMIT: the list is never released otherwise.
	parts := strings.Split(version, "-")
	if len(parts) != 3 || !strings.HasPrefix(sum, "h1:") {
		t.Fatalf("version %q, checksum %q", version, sum)
	}
	if _, err := time.Parse("20060102150405", parts[1]); err != nil {
		t.Errorf("version %q: %v", version, err)
	}
}

func TestProgramWithoutModules(t *testing.T) {
	if version, _, err := Version(&debug.BuildInfo{}); err == nil {
		t.Errorf("version %q of a program that has no modules", version)
	}
}
