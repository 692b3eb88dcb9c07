package clients

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"kijabi.dev/test/harness"
)

// account makes a service account that may read what discovery reads, and returns a
// kubeconfig with a token of it that reaches the cluster at an address.
func (c *clients) account(t *harness.T, namespace, name, server string) string {
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
	c.Apply(t, manifest)
	t.Cleanup(func() {
		c.Kubectl(t, "delete", "clusterrole,clusterrolebinding", namespace+"-"+name)
	})
	token := strings.TrimSpace(c.Kubectl(t, "-n", namespace, "create", "token", name))
	authority := c.Kubectl(t, "config", "view", "--raw", "--minify", "-o", "jsonpath={.clusters[0].cluster.certificate-authority-data}")
	return fmt.Sprintf(`
apiVersion: v1
kind: Config
clusters: [{name: it, cluster: {server: %q, certificate-authority-data: %q}}]
users: [{name: it, user: {token: %q}}]
contexts: [{name: it, context: {cluster: it, user: it}}]
current-context: it
`, server, authority, token)
}

// file writes a file of the test and returns its path.
func file(t *harness.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
