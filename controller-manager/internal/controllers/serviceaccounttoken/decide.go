package serviceaccounttoken

import (
	corev1 "k8s.io/api/core/v1"
)

// plan is what a secret needs.
type plan struct {
	// remove: its account is gone.
	remove bool
	// update is the secret as it must be written again; nil if it is complete.
	update *corev1.Secret
}

// decide compares a secret for an account's token with the account, which is nil if there is
// none. A secret that never had its account waits for it. It is pure.
func decide(secret *corev1.Secret, account *corev1.ServiceAccount, bundle string) plan {
	uid := secret.Annotations[corev1.ServiceAccountUIDKey]
	switch {
	case secret.DeletionTimestamp != nil:
		return plan{}
	case account == nil:
		return plan{remove: uid != ""}
	case uid != "" && uid != string(account.UID):
		return plan{remove: true}
	}
	complete := uid != "" && len(secret.Data[corev1.ServiceAccountTokenKey]) > 0 &&
		string(secret.Data[corev1.ServiceAccountRootCAKey]) == bundle &&
		string(secret.Data[corev1.ServiceAccountNamespaceKey]) == secret.Namespace
	if complete {
		return plan{}
	}
	if secret.Immutable != nil && *secret.Immutable {
		return plan{} // whoever wants it so has it so
	}
	updated := secret.DeepCopy() // its type has the annotation of the account's name
	updated.Annotations[corev1.ServiceAccountUIDKey] = string(account.UID)
	if updated.Data == nil {
		updated.Data = map[string][]byte{}
	}
	updated.Data[corev1.ServiceAccountRootCAKey] = []byte(bundle)
	updated.Data[corev1.ServiceAccountNamespaceKey] = []byte(secret.Namespace)
	return plan{update: updated}
}
