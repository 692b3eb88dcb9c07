package app

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"sigs.k8s.io/yaml"
)

// TestOneProcessUsesTheData starts a second apiserver, and the commands for a master that does not
// run, over the data of one that runs.
func TestOneProcessUsesTheData(t *testing.T) {
	first, client := founder(t)
	ask := asker{t, client}
	supervise(t, first)
	ask.until("m1 ready", first, "GET", "/readyz", "", http.StatusOK)
	refused := func(what, text string, began time.Time, dir string) {
		t.Helper()
		for _, part := range []string{dir + " is in use", fmt.Sprintf("process %d", os.Getpid()), "stop that one first"} {
			if !strings.Contains(text, part) {
				t.Errorf("%s says %q, want %q", what, text, part)
			}
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s says so after %s", what, took)
		}
	}
	second := companion(t, first, "m2")
	own := second.DataDir
	second.DataDir = first.DataDir
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := Run(ctx, second, zap.NewNop())
	refused("a second apiserver", fmt.Sprint(err), began, etcdDir(first))
	second.DataDir, second.Etcd.DataDir = own, etcdDir(first)
	began = time.Now()
	refused("one with etcd's data of another", fmt.Sprint(Run(ctx, second, zap.NewNop())), began, etcdDir(first))

	file := filepath.Join(t.TempDir(), "apiserver.yaml")
	content, err := yaml.Marshal(first)
	if err == nil {
		err = os.WriteFile(file, content, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, words := range [][]string{{"recover"}, {"masters"}, {"snapshot", "restore", file}} {
		var stdout, stderr bytes.Buffer
		began = time.Now()
		code, ran := Command(ctx, append(words, "--config", file), &stdout, &stderr)
		if code != 1 || !ran || stdout.Len() > 0 {
			t.Errorf("%v ended with %d: %s", words, code, stdout.String())
		}
		refused(words[0], stderr.String(), began, etcdDir(first))
	}
	ask.write(first, "still-here")
}
