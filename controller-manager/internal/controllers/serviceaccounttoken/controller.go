// Package serviceaccounttoken keeps the secrets that users have made for a service account's
// token: complete while the account is there, and gone when it is. The apiserver alone makes
// tokens, whenever such a secret is written without one.
package serviceaccounttoken

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
)

// IndexAccount is the index of secrets by the account whose token they are for, with Account,
// that the secret informer must have.
const IndexAccount = "service-account"

// Account is IndexAccount's function.
func Account(secret *corev1.Secret) []string {
	if secret.Type != corev1.SecretTypeServiceAccountToken {
		return nil
	}
	return []string{secret.Namespace + "/" + secret.Annotations[corev1.ServiceAccountNameKey]}
}

// Config lists what the controller reads; every field is required.
type Config struct {
	Secrets  *informer.Informer[*corev1.Secret]
	Accounts *informer.Informer[*corev1.ServiceAccount]
	// CABundle is the PEM of the cluster's CAs.
	CABundle string
}

// Controller keeps secrets.
type Controller struct{ cfg Config }

var _ controller.Controller = (*Controller)(nil)

// New returns the controller.
func New(cfg Config) *Controller { return &Controller{cfg: cfg} }

// Name is "serviceaccounttoken".
func (*Controller) Name() string { return "serviceaccounttoken" }

// Inputs are the secrets, and accounts on behalf of theirs.
func (c *Controller) Inputs() []controller.Input {
	return []controller.Input{
		controller.Mapped(c.cfg.Secrets, func(secret *corev1.Secret) []object.Key {
			if secret.Type != corev1.SecretTypeServiceAccountToken {
				return nil
			}
			return []object.Key{object.KeyOf(secret)}
		}),
		controller.Mapped(c.cfg.Accounts, func(account *corev1.ServiceAccount) []object.Key {
			var keys []object.Key
			for _, secret := range c.cfg.Secrets.ByIndex(IndexAccount, account.Namespace+"/"+account.Name) {
				keys = append(keys, object.KeyOf(secret))
			}
			return keys
		}),
	}
}

// Outputs are the secrets.
func (*Controller) Outputs() []controller.Output {
	return []controller.Output{controller.Owns[*corev1.Secret]("ServiceAccount")}
}

// Reconcile keeps one secret.
func (c *Controller) Reconcile(ctx context.Context, key object.Key, w client.Writer, _ *zap.Logger) (time.Duration, error) {
	secret, err := c.cfg.Secrets.Get(key)
	if apierrors.IsNotFound(err) || err == nil && secret.Type != corev1.SecretTypeServiceAccountToken {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read secret %s: %w", key, err)
	}
	p, err := c.judge(secret)
	if err == nil && p.remove {
		// The account may be newer than what this cache has seen.
		if err = c.cfg.Accounts.WaitVersion(ctx, secret.ResourceVersion); err == nil {
			p, err = c.judge(secret)
		}
	}
	if err != nil {
		return 0, err
	}
	switch {
	case p.remove:
		err = w.Delete(ctx, secret, client.DeleteOptions{UID: secret.UID})
	case p.update != nil:
		_, err = w.Update(ctx, p.update)
	default:
		return 0, nil
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, fmt.Errorf("secret %s: %w", key, err)
	}
	return 0, nil
}

func (c *Controller) judge(secret *corev1.Secret) (plan, error) {
	account, err := c.cfg.Accounts.Get(object.Key{Namespace: secret.Namespace, Name: secret.Annotations[corev1.ServiceAccountNameKey]})
	if err != nil && !apierrors.IsNotFound(err) {
		return plan{}, fmt.Errorf("read account of secret %s: %w", object.KeyOf(secret), err)
	}
	return decide(secret, account, c.cfg.CABundle), nil
}
