package refs

import (
	"encoding/base64"
	"encoding/json"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"kijabi.dev/kubelet/internal/runtime"
	"kijabi.dev/kubelet/internal/status"
	"kijabi.dev/kubelet/internal/volumes"
	"kijabi.dev/platform/kube/object"
)

// references lists what a pod refers to.
func references(pod *corev1.Pod) map[id]bool {
	result := map[id]bool{}
	add := func(kind, name string) {
		if name != "" {
			result[id{kind, object.Key{Namespace: pod.Namespace, Name: name}}] = true
		}
	}
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers, status.EphemeralContainers(pod)} {
		for i := range list {
			for _, from := range list[i].EnvFrom {
				if from.ConfigMapRef != nil {
					add(kindConfigMap, from.ConfigMapRef.Name)
				}
				if from.SecretRef != nil {
					add(kindSecret, from.SecretRef.Name)
				}
			}
			for _, variable := range list[i].Env {
				if variable.ValueFrom == nil {
					continue
				}
				if ref := variable.ValueFrom.ConfigMapKeyRef; ref != nil {
					add(kindConfigMap, ref.Name)
				}
				if ref := variable.ValueFrom.SecretKeyRef; ref != nil {
					add(kindSecret, ref.Name)
				}
			}
		}
	}
	for i := range pod.Spec.Volumes {
		volume := &pod.Spec.Volumes[i]
		if volume.ConfigMap != nil {
			add(kindConfigMap, volume.ConfigMap.Name)
		}
		if volume.Secret != nil {
			add(kindSecret, volume.Secret.SecretName)
		}
		add(kindClaim, volumes.ClaimName(pod, volume))
		if volume.Projected == nil {
			continue
		}
		for _, source := range volume.Projected.Sources {
			if source.ConfigMap != nil {
				add(kindConfigMap, source.ConfigMap.Name)
			}
			if source.Secret != nil {
				add(kindSecret, source.Secret.Name)
			}
		}
	}
	for _, secret := range pod.Spec.ImagePullSecrets {
		add(kindSecret, secret.Name)
	}
	return result
}

// registryAuth is one entry of a docker configuration.
type registryAuth struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"`
	IdentityToken string `json:"identitytoken"`
}

// Credentials returns those of the pod's pull secrets that fit an image's registry.
func (s *Store) Credentials(pod *corev1.Pod, image string) []runtime.Credentials {
	var result []runtime.Credentials
	for _, reference := range pod.Spec.ImagePullSecrets {
		secret, err := s.Secret(pod.Namespace, reference.Name)
		if err != nil {
			continue // a missing pull secret is as good as none
		}
		auths := map[string]registryAuth{}
		switch secret.Type {
		case corev1.SecretTypeDockerConfigJson:
			var file struct {
				Auths map[string]registryAuth `json:"auths"`
			}
			if json.Unmarshal(secret.Data[corev1.DockerConfigJsonKey], &file) == nil {
				auths = file.Auths
			}
		case corev1.SecretTypeDockercfg:
			_ = json.Unmarshal(secret.Data[corev1.DockerConfigKey], &auths) // unreadable is as good as none
		default:
		}
		for server, auth := range auths {
			if !matches(server, image) {
				continue
			}
			credential := runtime.Credentials{
				Username: auth.Username, Password: auth.Password, ServerAddress: server, IdentityToken: auth.IdentityToken,
			}
			if credential.Username == "" {
				if decoded, err := base64.StdEncoding.DecodeString(auth.Auth); err == nil {
					credential.Username, credential.Password, _ = strings.Cut(string(decoded), ":")
				}
			}
			result = append(result, credential)
		}
	}
	return result
}

// matches compares the registry of an image with a configuration's key, which may
// be a URL and may name a path.
func matches(server, image string) bool {
	server = strings.TrimPrefix(strings.TrimPrefix(server, "https://"), "http://")
	server = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(server, "/"), "/v1"), "/v2")
	host, _, found := strings.Cut(image, "/")
	if !found || !strings.ContainsAny(host, ".:") && host != "localhost" {
		return server == "index.docker.io" || server == "docker.io"
	}
	return server == host || strings.HasPrefix(image, server+"/")
}
