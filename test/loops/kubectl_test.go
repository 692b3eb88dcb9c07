package loops

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/pki"
	"kijabi.dev/test/harness"
)

// newKubectl returns kubectl, as the administrator's kijabi runs it; it must succeed.
func newKubectl(t *harness.T, s *stack) func(t *harness.T, args ...string) string {
	t.Helper()
	s.issue(t, s.ca, pki.ComponentAdmin, "admin")
	config := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Config", "current-context": "loops",
		"clusters": [{"name": "loops", "cluster": {"server": "https://%s", "certificate-authority": %q}}],
		"users": [{"name": "admin", "user": {"client-certificate": %q, "client-key": %q}}],
		"contexts": [{"name": "loops", "context": {"cluster": "loops", "user": "admin"}}]}`,
		s.at(configv1.PortREST), s.path("ca.crt"), s.path("admin.crt"), s.path("admin.key"))
	if err := os.WriteFile(s.path("kubeconfig"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return func(t *harness.T, args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, filepath.Join(harness.Programs(t), "kijabi"), append([]string{"kubectl"}, args...)...)
		cmd.Env = append(os.Environ(), "KUBECONFIG="+s.path("kubeconfig"), "HOME="+s.dir)
		said, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("kubectl %v: %v\n%s", args, err, said)
		}
		return string(said)
	}
}

// revisionsIn are the numbers that kubectl rollout history lists.
func revisionsIn(said string) string {
	var out []string
	for line := range strings.Lines(said) {
		if fields := strings.Fields(line); len(fields) > 0 {
			if _, err := strconv.Atoi(fields[0]); err == nil {
				out = append(out, fields[0])
			}
		}
	}
	return strings.Join(out, " ")
}
