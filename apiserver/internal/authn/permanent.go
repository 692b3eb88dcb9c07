package authn

import (
	"crypto/subtle"
	"fmt"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/apiserver/internal/store"
)

// Permanent issues a token of a service account that never ends, for a secret that is to hold
// it: it is worth something for as long as that secret holds it and both are there. It
// returns also the account's uid. The error is *apierrors.StatusError.
func (t *Tokens) Permanent(namespace, name, secret string, secretUID types.UID) (token string, accountUID types.UID, err error) {
	account, ok := t.cfg.Objects.Get(accountKey(namespace, name))
	if !ok {
		return "", "", apierrors.NewNotFound(schema.GroupResource{Resource: "serviceaccounts"}, name)
	}
	now := t.cfg.Clock.Now()
	token, err = t.sign(&claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: t.cfg.Issuer, Subject: ServiceAccount(namespace, name), Audience: t.cfg.Audiences[:1:1], ID: uuid.NewString(),
			IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now),
		},
		Kubernetes: bound{Namespace: namespace, ServiceAccount: reference{name, account.Index.UID}, Secret: &reference{secret, secretUID}},
	})
	return token, account.Index.UID, err
}

// held tells whether the secret that a permanent token is for still holds it: who takes it
// out of the secret makes it worthless.
func (t *Tokens) held(b *bound, token string) error {
	record, ok := t.cfg.Objects.Get(store.Key{Resource: "secrets", Namespace: b.Namespace, Name: b.Secret.Name})
	if !ok {
		return fmt.Errorf("service account token has been invalidated: secret %s is gone", b.Secret.Name)
	}
	var secret corev1.Secret
	if err := secret.Unmarshal(record.Value); err != nil {
		return fmt.Errorf("read secret %s: %w", b.Secret.Name, err)
	}
	if subtle.ConstantTimeCompare(secret.Data[corev1.ServiceAccountTokenKey], []byte(token)) != 1 {
		return fmt.Errorf("service account token has been invalidated: secret %s holds another", b.Secret.Name)
	}
	return nil
}
