// Package serviceaccount keeps in every namespace what pods expect there: the
// ServiceAccount "default" and the ConfigMap "kube-root-ca.crt" with the cluster's CA.
package serviceaccount

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
)

const (
	accountName = "default"
	rootCAName  = "kube-root-ca.crt"
	rootCAKey   = "ca.crt"
)

// Config lists what the controller reads; every field is required.
type Config struct {
	Namespaces *informer.Informer[*corev1.Namespace]
	Accounts   *informer.Informer[*corev1.ServiceAccount]
	ConfigMaps *informer.Informer[*corev1.ConfigMap]
	// CABundle is the PEM of the cluster's CAs.
	CABundle string
}

// Controller keeps the two objects; its keys are namespaces.
type Controller struct{ cfg Config }

var _ controller.Controller = (*Controller)(nil)

// New returns the controller.
func New(cfg Config) *Controller { return &Controller{cfg: cfg} }

// Name is "serviceaccount".
func (*Controller) Name() string { return "serviceaccount" }

// Inputs are namespaces and the objects kept in them.
func (c *Controller) Inputs() []controller.Input {
	return []controller.Input{
		controller.Self(c.cfg.Namespaces),
		controller.Mapped(c.cfg.Accounts, func(a *corev1.ServiceAccount) []object.Key { return namespaceOf(a, accountName) }),
		controller.Mapped(c.cfg.ConfigMaps, func(m *corev1.ConfigMap) []object.Key { return namespaceOf(m, rootCAName) }),
	}
}

func namespaceOf(obj metav1.Object, name string) []object.Key {
	if obj.GetName() != name {
		return nil
	}
	return []object.Key{{Name: obj.GetNamespace()}}
}

// Outputs are the two objects.
func (*Controller) Outputs() []controller.Output {
	return []controller.Output{
		controller.Fields[*corev1.ServiceAccount]("named " + accountName),
		controller.Fields[*corev1.ConfigMap]("named " + rootCAName),
	}
}

// Reconcile keeps one namespace's objects.
func (c *Controller) Reconcile(ctx context.Context, key object.Key, w client.Writer, _ *zap.Logger) (time.Duration, error) {
	ns, err := c.cfg.Namespaces.Get(key)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read namespace %s: %w", key, err)
	}
	if ns.DeletionTimestamp != nil || ns.Status.Phase == corev1.NamespaceTerminating {
		return 0, nil
	}
	if _, err := c.cfg.Accounts.Get(object.Key{Namespace: ns.Name, Name: accountName}); apierrors.IsNotFound(err) {
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: accountName}}
		if _, err := w.Create(ctx, account); err != nil && !expected(err) {
			return 0, fmt.Errorf("service account: %w", err)
		}
	}
	have, err := c.cfg.ConfigMaps.Get(object.Key{Namespace: ns.Name, Name: rootCAName})
	switch {
	case apierrors.IsNotFound(err):
		root := &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: ns.Name, Name: rootCAName,
				Annotations: map[string]string{"kubernetes.io/description": "Contains a CA bundle that can be used to verify the apiserver's certificate."},
			},
			Data: map[string]string{rootCAKey: c.cfg.CABundle},
		}
		if _, err := w.Create(ctx, root); err != nil && !expected(err) {
			return 0, fmt.Errorf("root CA: %w", err)
		}
	case err != nil:
		return 0, err
	case have.Data[rootCAKey] != c.cfg.CABundle || len(have.Data) != 1:
		updated := have.DeepCopy()
		updated.Data = map[string]string{rootCAKey: c.cfg.CABundle}
		if _, err := w.Update(ctx, updated); err != nil && !expected(err) {
			return 0, fmt.Errorf("root CA: %w", err)
		}
	}
	return 0, nil
}

// expected errors need no retry: somebody made the object, or the namespace is going.
func expected(err error) bool {
	return apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause)
}
