// Package customresources deletes the objects of kinds whose definitions are being
// deleted, and has definitions ask again for names that somebody else has given up.
package customresources

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
)

type definition = *apiextensionsv1.CustomResourceDefinition

// Contents reads and deletes objects of any kind. Implemented by *client.Client.
type Contents interface {
	ListKind(ctx context.Context, kind object.Kind, opts client.ListOptions) ([]object.Object, error)
	DeleteCollection(ctx context.Context, kind object.Kind, namespace string, opts client.DeleteOptions) (int64, error)
}

// Config lists what the controller reads; every field is required.
type Config struct {
	Definitions *informer.Informer[definition]
	Contents    Contents
	Clock       clock.PassiveClock
}

// Controller empties kinds that are to go.
type Controller struct{ cfg Config }

var _ controller.Controller = (*Controller)(nil)

// New returns the controller.
func New(cfg Config) *Controller { return &Controller{cfg: cfg} }

// Name is "customresources".
func (*Controller) Name() string { return "customresources" }

// Inputs are definitions: each makes itself due, and those of its group that wait for names.
func (c *Controller) Inputs() []controller.Input {
	return []controller.Input{controller.Mapped(c.cfg.Definitions, func(crd definition) []object.Key {
		keys := []object.Key{object.KeyOf(crd)}
		for _, other := range c.cfg.Definitions.List() {
			if other.Spec.Group == crd.Spec.Group && other.Name != crd.Name && waits(other) {
				keys = append(keys, object.KeyOf(other))
			}
		}
		return keys
	})}
}

// Outputs are a definition's status and finalizer, and all objects of its kind.
func (*Controller) Outputs() []controller.Output {
	return []controller.Output{
		controller.StatusOf[definition](), controller.Fields[definition]("metadata.finalizers"),
		controller.DeletesAny("its kind's definition is deleted"),
	}
}

// again is how soon a kind that still has objects is looked at anew: nothing tells when the
// last finalizer is gone.
const again = 200 * time.Millisecond

// Reconcile empties one kind.
func (c *Controller) Reconcile(ctx context.Context, key object.Key, w client.Writer, log *zap.Logger) (time.Duration, error) {
	crd, err := c.cfg.Definitions.Get(key)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read definition %s: %w", key, err)
	}
	plan := decide(crd)
	switch {
	case plan.askAgain:
		// The apiserver settles names with every write.
		_, err := w.UpdateStatus(ctx, crd)
		return 0, ignoreGone(err)
	case !plan.empty:
		return 0, nil
	}
	left := 0
	if kind, served := informer.CustomKindOf(crd); served {
		if left, err = c.empty(ctx, kind); err != nil {
			return 0, err
		}
	} else if plan.mayHaveObjects {
		return 0, fmt.Errorf("no version of %s is served, its objects cannot be deleted", crd.Name)
	}
	if left > 0 {
		log.Debug("objects are left", zap.Int("count", left))
		return again, c.report(ctx, w, crd, apiextensionsv1.ConditionTrue, "InstanceDeletionInProgress", fmt.Sprintf("CustomResource deletion is in progress: %d are left", left))
	}
	updated := crd.DeepCopy()
	updated.Finalizers = slices.DeleteFunc(updated.Finalizers, func(f string) bool { return f == apiextensionsv1.CustomResourceCleanupFinalizer })
	_, err = w.Update(ctx, updated)
	return 0, ignoreGone(err)
}

// empty deletes the objects of a kind and tells how many are left.
func (c *Controller) empty(ctx context.Context, kind object.Kind) (int, error) {
	if _, err := c.cfg.Contents.DeleteCollection(ctx, kind, "", client.DeleteOptions{Propagation: metav1.DeletePropagationBackground}); err != nil {
		return 0, fmt.Errorf("delete %s: %w", kind.GroupResource(), err)
	}
	objects, err := c.cfg.Contents.ListKind(ctx, kind, client.ListOptions{})
	if err != nil {
		return 0, fmt.Errorf("list %s: %w", kind.GroupResource(), err)
	}
	return len(objects), nil
}

// report says in the definition's conditions how far its deletion has come.
func (c *Controller) report(ctx context.Context, w client.Writer, crd definition, status apiextensionsv1.ConditionStatus, reason, message string) error {
	updated := crd.DeepCopy()
	i := slices.IndexFunc(updated.Status.Conditions, func(c apiextensionsv1.CustomResourceDefinitionCondition) bool {
		return c.Type == apiextensionsv1.Terminating
	})
	want := apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.Terminating, Status: status, Reason: reason, Message: message, LastTransitionTime: metav1.NewTime(c.cfg.Clock.Now()),
	}
	switch {
	case i < 0:
		updated.Status.Conditions = append(updated.Status.Conditions, want)
	default:
		have := &updated.Status.Conditions[i]
		if have.Reason == reason && have.Message == message && have.Status == status {
			return nil
		}
		if have.Status == status {
			want.LastTransitionTime = have.LastTransitionTime
		}
		*have = want
	}
	_, err := w.UpdateStatus(ctx, updated)
	return ignoreGone(err)
}

func ignoreGone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
