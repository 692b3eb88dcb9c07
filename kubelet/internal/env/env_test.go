package env

import (
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var errMissing = errors.New("missing")

func sources() Sources {
	return Sources{
		ConfigMap: func(name string) (*corev1.ConfigMap, error) {
			if name != "settings" {
				return nil, errMissing
			}
			return &corev1.ConfigMap{Data: map[string]string{"COLOR": "blue", "SIZE": "3"}}, nil
		},
		Secret: func(name string) (*corev1.Secret, error) {
			if name != "keys" {
				return nil, errMissing
			}
			return &corev1.Secret{Data: map[string][]byte{"TOKEN": []byte("t")}}, nil
		},
		IsNotFound: func(err error) bool { return errors.Is(err, errMissing) },
		PodIPs:     []string{"10.0.0.7"}, NodeName: "node-a",
		Services: []*corev1.Service{{
			ObjectMeta: metav1.ObjectMeta{Name: "my-store"},
			Spec:       corev1.ServiceSpec{ClusterIP: "10.96.0.9", Ports: []corev1.ServicePort{{Name: "main", Port: 6379, Protocol: "TCP"}}},
		}},
	}
}

func TestCompute(t *testing.T) {
	yes := true
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", Labels: map[string]string{"app": "x"}}}
	container := corev1.Container{
		Name: "c",
		Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{
			"cpu": resource.MustParse("1500m"), "memory": resource.MustParse("64Mi"),
		}},
		EnvFrom: []corev1.EnvFromSource{
			{Prefix: "P_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}},
			{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "absent"}, Optional: &yes}},
		},
		Env: []corev1.EnvVar{
			{Name: "PLAIN", Value: "v"},
			{Name: "JOINED", Value: "$(PLAIN)-$(P_COLOR)-$(NONE)-$$(PLAIN)"},
			{Name: "NAME", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}},
			{Name: "LABEL", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels['app']"}}},
			{Name: "IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}},
			{Name: "CPU", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.cpu"}}},
			{Name: "MEM", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.memory", Divisor: resource.MustParse("1Mi")}}},
			{Name: "TOKEN", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "keys"}, Key: "TOKEN"}}},
		},
	}
	pod.Spec.Containers = []corev1.Container{container}
	got, err := Compute(pod, &container, sources())
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{}
	for _, variable := range got {
		values[variable.Name] = variable.Value
	}
	for name, want := range map[string]string{
		"PLAIN": "v", "JOINED": "v-blue-$(NONE)-$(PLAIN)", "NAME": "p", "LABEL": "x", "IP": "10.0.0.7", "CPU": "2", "MEM": "64",
		"TOKEN": "t", "P_SIZE": "3", "MY_STORE_SERVICE_HOST": "10.96.0.9", "MY_STORE_SERVICE_PORT_MAIN": "6379",
		"MY_STORE_PORT": "tcp://10.96.0.9:6379", "MY_STORE_PORT_6379_TCP_ADDR": "10.96.0.9",
	} {
		if values[name] != want {
			t.Errorf("%s = %q, want %q", name, values[name], want)
		}
	}
}

func TestMissingReferenceIsAnError(t *testing.T) {
	container := corev1.Container{Name: "c", Env: []corev1.EnvVar{{Name: "X", ValueFrom: &corev1.EnvVarSource{
		ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "absent"}, Key: "k"},
	}}}}
	if _, err := Compute(&corev1.Pod{}, &container, sources()); !errors.Is(err, errMissing) {
		t.Fatalf("err = %v, want it to wrap the missing object", err)
	}
}
