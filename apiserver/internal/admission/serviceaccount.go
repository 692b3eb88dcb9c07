package admission

import (
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
)

const defaultServiceAccount = "default"

// serviceAccount gives a pod its account, which must exist, and the account's pull
// secrets if the pod names none.
func serviceAccount(c *Chain, r *Request) error {
	pod, ok := created[*corev1.Pod](r)
	if !ok {
		return nil
	}
	if isMirror(pod) { // a node shows what runs there anyway; it gives no rights
		if pod.Spec.ServiceAccountName != "" {
			return r.forbidden("a mirror pod may not reference service accounts")
		}
		return nil
	}
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = defaultServiceAccount
	}
	pod.Spec.DeprecatedServiceAccount = pod.Spec.ServiceAccountName
	account, ok := find[*corev1.ServiceAccount](c, r.Namespace, pod.Spec.ServiceAccountName)
	if !ok {
		return r.forbidden("error looking up service account %s/%s: serviceaccount %q not found",
			r.Namespace, pod.Spec.ServiceAccountName, pod.Spec.ServiceAccountName)
	}
	if len(pod.Spec.ImagePullSecrets) == 0 {
		pod.Spec.ImagePullSecrets = slices.Clone(account.ImagePullSecrets)
	}
	wanted := pod.Spec.AutomountServiceAccountToken
	if wanted == nil {
		wanted = account.AutomountServiceAccountToken
	}
	if wanted == nil || *wanted {
		mountToken(pod)
	}
	return nil
}

const (
	// tokenDirectory is where programs look for their token.
	tokenDirectory = "/var/run/secrets/kubernetes.io/serviceaccount"
	tokenVolume    = "kube-api-access-"
	// tokenLife in seconds is an hour and a little: it stands out from what somebody chose.
	tokenLife = int64(3607)
	// rootCA is the ConfigMap that holds the cluster's CA in every namespace.
	rootCA = "kube-root-ca.crt"
)

// mountToken gives every container that has nothing there yet the directory with token, CA
// and namespace by which programs reach the API.
func mountToken(pod *corev1.Pod) {
	name := ""
	for i := range pod.Spec.Volumes {
		if strings.HasPrefix(pod.Spec.Volumes[i].Name, tokenVolume) {
			name = pod.Spec.Volumes[i].Name // written by hand or copied from another pod
		}
	}
	add := name == ""
	if add {
		name = tokenVolume + utilrand.String(5)
	}
	mounted := false
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			container := &containers[i]
			if slices.ContainsFunc(container.VolumeMounts, func(m corev1.VolumeMount) bool { return path.Clean(m.MountPath) == tokenDirectory }) {
				continue
			}
			container.VolumeMounts = append(container.VolumeMounts, corev1.VolumeMount{Name: name, MountPath: tokenDirectory, ReadOnly: true})
			mounted = true
		}
	}
	if !add || !mounted {
		return
	}
	life, mode := tokenLife, corev1.ProjectedVolumeSourceDefaultMode
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
		Projected: &corev1.ProjectedVolumeSource{DefaultMode: &mode, Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{ExpirationSeconds: &life, Path: "token"}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: rootCA}, Items: []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
				{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"}},
			}}},
		}},
	}})
}

func isMirror(pod *corev1.Pod) bool {
	_, ok := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return ok
}
