package clients

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"kijabi.dev/test/harness"
)

const discovered = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: seen, namespace: prometheus}
spec:
  replicas: 2
  selector: {matchLabels: {app: seen}}
  template:
    metadata: {labels: {app: seen}, annotations: {example.org/scrape: "yes"}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: main, image: "registry.kijabi.dev/toolbox:1", args: [tcp-echo, ":8080"], ports: [{name: metrics, containerPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: seen, namespace: prometheus}
spec: {selector: {app: seen}, ports: [{name: metrics, port: 80, targetPort: metrics}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: front, namespace: prometheus}
spec: {rules: [{host: front.example.org, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: seen, port: {number: 80}}}}]}}]}
`

// targets asks Prometheus what it has discovered in a role: the values of one label.
func targets(address, role, label string) (map[string]bool, error) {
	client := http.Client{Timeout: 5 * time.Second}
	response, err := client.Get("http://" + address + "/api/v1/targets?scrapePool=" + role) //nolint:noctx // it has a timeout
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	var answer struct {
		Data struct {
			ActiveTargets []struct{ DiscoveredLabels map[string]string }
		}
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return nil, err
	}
	found := map[string]bool{}
	for _, target := range answer.Data.ActiveTargets {
		if value, ok := target.DiscoveredLabels["__meta_kubernetes_"+label]; ok {
			found[value] = true
		}
	}
	return found, nil
}

// testPrometheus has Prometheus discover what there is, and follow its changes.
func testPrometheus(t *harness.T, c *clients) {
	namespace := c.namespace(t, "prometheus")
	access := file(t, "kubeconfig", c.account(t, namespace, "prometheus", "https://10.99.0.11:6443"))
	roles := []string{"node", "pod", "service", "endpointslice", "ingress"}
	var jobs strings.Builder
	for _, role := range roles {
		fmt.Fprintf(&jobs, "- {job_name: %s, kubernetes_sd_configs: [{role: %s, kubeconfig_file: %s}]}\n", role, role, access)
	}
	config := file(t, "prometheus.yml", "global: {scrape_interval: 1h}\nscrape_configs:\n"+jobs.String())
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	c.Apply(t, discovered)
	c.Kubectl(t, "-n", namespace, "rollout", "status", "deployment/seen", "--timeout=60s")
	c.Start(t, harness.Invocation{Argv: []string{c.program(t, "prometheus"), "--config.file", config, "--storage.tsdb.path", t.TempDir(),
		"--web.listen-address", address, "--log.level", "warn"}})

	pods := func(count int) func() error {
		return func() error {
			want := strings.Fields(c.Kubectl(t, "-n", namespace, "get", "pods", "-l", "app=seen", "-o",
				"jsonpath={range .items[*]}{.metadata.name} {end}"))
			if len(want) != count {
				return fmt.Errorf("there are %d pods: %v", len(want), want)
			}
			return errors.Join(finds(address, "pod", "pod_name", "seen-", want...), finds(address, "endpointslice", "pod_name", "seen-", want...))
		}
	}
	harness.Eventually(t, 30*time.Second, "everything is discovered", func() error {
		return errors.Join(pods(2)(),
			finds(address, "node", "node_name", "", "master-1", "master-2", "master-3", "node-1", "node-2"),
			finds(address, "pod", "pod_annotation_example_org_scrape", "", "yes"),
			finds(address, "service", "service_name", "seen", "seen"),
			finds(address, "ingress", "ingress_host", "", "front.example.org"))
	})
	c.Kubectl(t, "-n", namespace, "scale", "deployment/seen", "--replicas=3")
	harness.Eventually(t, 30*time.Second, "a third pod is discovered", pods(3))
	c.Kubectl(t, "-n", namespace, "scale", "deployment/seen", "--replicas=1")
	harness.Eventually(t, 30*time.Second, "two pods are gone", pods(1))
	c.Kubectl(t, "-n", namespace, "delete", "ingress/front", "service/seen")
	c.Kubectl(t, "label", "node", "node-1", "prometheus=here")
	t.Cleanup(func() { c.Kubectl(t, "label", "node", "node-1", "prometheus-") })
	harness.Eventually(t, 30*time.Second, "other changes are followed", func() error {
		return errors.Join(finds(address, "ingress", "ingress_host", ""), finds(address, "service", "service_name", "seen"),
			finds(address, "endpointslice", "pod_name", "seen-"), finds(address, "node", "node_label_prometheus", "", "here"))
	})
}

// finds says whether the values of a label that have a prefix are the wanted ones.
func finds(address, role, label, prefix string, want ...string) error {
	got, err := targets(address, role, label)
	if err != nil {
		return err
	}
	for _, value := range want {
		if !got[value] {
			err = errors.Join(err, fmt.Errorf("role %s: no %s %s", role, label, value))
		}
		delete(got, value)
	}
	for value := range got {
		if strings.HasPrefix(value, prefix) {
			err = errors.Join(err, fmt.Errorf("role %s: there is %s %s", role, label, value))
		}
	}
	return err
}
