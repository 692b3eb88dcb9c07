package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// TestManifests reads the manifests strictly and sees that their names fit together.
func TestManifests(t *testing.T) {
	files, err := filepath.Glob("../*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("manifests: %v, %v", files, err)
	}
	var config corev1.ConfigMap
	deployments, services := map[string]appsv1.Deployment{}, map[string]corev1.Service{}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for document := range strings.SplitSeq(string(content), "\n---\n") {
			var err error
			switch {
			case strings.Contains(document, "kind: ConfigMap\n"):
				err = yaml.UnmarshalStrict([]byte(document), &config)
			case strings.Contains(document, "kind: Deployment\n"):
				var d appsv1.Deployment
				err = yaml.UnmarshalStrict([]byte(document), &d)
				deployments[d.Name] = d
			case strings.Contains(document, "kind: Service\n"):
				var s corev1.Service
				err = yaml.UnmarshalStrict([]byte(document), &s)
				services[s.Name] = s
			default:
				t.Errorf("%s holds an unexpected kind", file)
			}
			if err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
	}
	for name, deployment := range deployments {
		container := deployment.Spec.Template.Spec.Containers[0]
		for key, value := range services[name].Spec.Selector {
			if deployment.Spec.Template.Labels[key] != value || deployment.Spec.Selector.MatchLabels[key] != value {
				t.Errorf("%s: service, selector and pods disagree about label %s", name, key)
			}
		}
		if port := services[name].Spec.Ports[0]; port.TargetPort.String() != container.Ports[0].Name || port.Port != 80 {
			t.Errorf("%s: service port %d leads to %s", name, port.Port, port.TargetPort.String())
		}
		for _, variable := range container.Env {
			if _, ok := config.Data[variable.ValueFrom.ConfigMapKeyRef.Key]; !ok {
				t.Errorf("%s: %s is not in the ConfigMap", name, variable.Name)
			}
		}
	}
	if len(deployments) != 2 || services["guestbook"].Spec.Ports[0].NodePort != 30080 {
		t.Errorf("%d deployments, guestbook on node port %d", len(deployments), services["guestbook"].Spec.Ports[0].NodePort)
	}
}
