package clients

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kijabi.dev/test/harness"
)

// account makes a service account that may read what discovery reads, and returns a
// kubeconfig with a token of it that reaches the cluster at an address.
func (c *clients) account(t *testing.T, namespace, name, server string) string {
	t.Helper()
	manifest := fmt.Sprintf(`
apiVersion: v1
kind: ServiceAccount
metadata: {name: %[1]s, namespace: %[2]s}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: %[2]s-%[1]s}
rules:
- {apiGroups: [""], resources: [nodes, pods, services, namespaces], verbs: [get, list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [get, list, watch]}
- {apiGroups: [networking.k8s.io], resources: [ingresses], verbs: [get, list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: %[2]s-%[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: %[2]s-%[1]s}
subjects: [{kind: ServiceAccount, name: %[1]s, namespace: %[2]s}]
`, name, namespace)
	c.apply(t, manifest)
	t.Cleanup(func() {
		c.Kijabi(t, "kubectl", "delete", "clusterrole,clusterrolebinding", namespace+"-"+name)
	})
	token := strings.TrimSpace(c.Kijabi(t, "kubectl", "-n", namespace, "create", "token", name))
	authority := c.Kijabi(t, "kubectl", "config", "view", "--raw", "--minify", "-o", "jsonpath={.clusters[0].cluster.certificate-authority-data}")
	return fmt.Sprintf(`
apiVersion: v1
kind: Config
clusters: [{name: it, cluster: {server: %q, certificate-authority-data: %q}}]
users: [{name: it, user: {token: %q}}]
contexts: [{name: it, context: {cluster: it, user: it}}]
current-context: it
`, server, authority, token)
}

// apply applies manifests given as text.
func (c *clients) apply(t *testing.T, manifests string) {
	t.Helper()
	result := c.Run(t, harness.Invocation{Input: manifests, Argv: []string{filepath.Join(c.Bin, "kijabi"), "kubectl", "apply", "-f", "-"}})
	if result.Code != 0 {
		t.Fatalf("%s\nmanifests:\n%s", result, manifests)
	}
}

// file writes a file of the test and returns its path.
func file(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
