package admission

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
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
	return nil
}

func isMirror(pod *corev1.Pod) bool {
	_, ok := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return ok
}
