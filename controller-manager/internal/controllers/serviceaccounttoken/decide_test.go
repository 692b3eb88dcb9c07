package serviceaccounttoken

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

func TestSecretsFollowTheirAccount(t *testing.T) {
	account := func(uid string) *corev1.ServiceAccount {
		return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "robot", UID: types.UID(uid)}}
	}
	secret := func(uid string, data map[string]string, change ...func(*corev1.Secret)) *corev1.Secret {
		out := &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "s", Annotations: map[string]string{corev1.ServiceAccountNameKey: "robot"}},
			Type:       corev1.SecretTypeServiceAccountToken, Data: map[string][]byte{},
		}
		if uid != "" {
			out.Annotations[corev1.ServiceAccountUIDKey] = uid
		}
		for key, value := range data {
			out.Data[key] = []byte(value)
		}
		for _, c := range change {
			c(out)
		}
		return out
	}
	full := map[string]string{"token": "t", "ca.crt": "ca", "namespace": "a"}
	for name, test := range map[string]struct {
		secret         *corev1.Secret
		account        *corev1.ServiceAccount
		remove, update bool
	}{
		"complete":               {secret("u1", full), account("u1"), false, false},
		"its account is gone":    {secret("u1", full), nil, true, false},
		"its account is a new":   {secret("u1", full), account("u2"), true, false},
		"waits for an account":   {secret("", nil), nil, false, false},
		"its account has come":   {secret("", nil), account("u1"), false, true},
		"has no data":            {secret("u1", nil, func(s *corev1.Secret) { s.Data = nil }), account("u1"), false, true},
		"has no token":           {secret("u1", map[string]string{"ca.crt": "ca", "namespace": "a"}), account("u1"), false, true},
		"has another CA":         {secret("u1", map[string]string{"token": "t", "ca.crt": "old", "namespace": "a"}), account("u1"), false, true},
		"says another namespace": {secret("u1", map[string]string{"token": "t", "ca.crt": "ca", "namespace": "b"}), account("u1"), false, true},
		"is not to be changed":   {secret("u1", nil, func(s *corev1.Secret) { s.Immutable = ptr.To(true) }), account("u1"), false, false},
		"is on its way out":      {secret("u1", nil, func(s *corev1.Secret) { s.DeletionTimestamp = ptr.To(metav1.Now()) }), nil, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := decide(test.secret, test.account, "ca")
			if p.remove != test.remove || (p.update != nil) != test.update {
				t.Fatalf("remove %v, update %v", p.remove, p.update)
			}
			if p.update == nil {
				return
			}
			p.update.Data["token"] = []byte("t") // the apiserver's part
			if again := decide(p.update, test.account, "ca"); again.remove || again.update != nil {
				t.Errorf("decided again: %+v", again)
			}
		})
	}
}
