// Package namespace empties namespaces that are being deleted and then lets them go.
package namespace

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/clock"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
)

// Contents reads and deletes what is in a namespace, whatever its kind.
// Implemented by *client.Client.
type Contents interface {
	ListKind(ctx context.Context, kind object.Kind, opts client.ListOptions) ([]object.Object, error)
	DeleteCollection(ctx context.Context, kind object.Kind, namespace string, opts client.DeleteOptions) (int64, error)
}

// Config lists what the controller reads; every field is required.
type Config struct {
	Namespaces *informer.Informer[*corev1.Namespace]
	Contents   Contents
	// Customs are the kinds that users define; *informer.Customs implements it.
	Customs interface {
		// Kinds returns those that were served at a resource version.
		Kinds(ctx context.Context, resourceVersion string) ([]object.Kind, error)
	}
	Clock clock.PassiveClock
}

// Controller empties namespaces.
type Controller struct{ cfg Config }

var _ controller.Controller = (*Controller)(nil)

// New returns the controller.
func New(cfg Config) *Controller { return &Controller{cfg: cfg} }

// Name is "namespace".
func (*Controller) Name() string { return "namespace" }

// Inputs are namespaces.
func (c *Controller) Inputs() []controller.Input {
	return []controller.Input{controller.Self(c.cfg.Namespaces)}
}

// Outputs are a namespace's status and finalizer, and everything in it.
func (*Controller) Outputs() []controller.Output {
	return []controller.Output{
		controller.StatusOf[*corev1.Namespace](),
		controller.Fields[*corev1.Namespace]("spec.finalizers"),
		controller.DeletesAny("its namespace is deleted"),
	}
}

// Reconcile empties one namespace.
func (c *Controller) Reconcile(ctx context.Context, key object.Key, w client.Writer, log *zap.Logger) (time.Duration, error) {
	ns, err := c.cfg.Namespaces.Get(key)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read namespace %s: %w", key, err)
	}
	if ns.DeletionTimestamp == nil || !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		return 0, nil
	}
	f := c.empty(ctx, ns)
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	if !f.empty() {
		log.Debug("namespace still holds objects", zap.Int("left", f.total()))
		if err := c.report(ctx, w, ns, f); err != nil {
			return 0, err
		}
		return f.again(), errors.Join(append(f.failed, f.undiscovered)...)
	}
	updated := ns.DeepCopy()
	updated.Spec.Finalizers = slices.DeleteFunc(updated.Spec.Finalizers, func(f corev1.FinalizerName) bool {
		return f == corev1.FinalizerKubernetes
	})
	if _, err := w.UpdateSubresource(ctx, updated, "finalize"); err != nil && !apierrors.IsNotFound(err) {
		return 0, fmt.Errorf("finalize: %w", err)
	}
	return 0, nil
}

// empty deletes what is in a namespace: pods first, and the rest once they have ended, so
// that no pod runs without the policies that bound it. What fails does not keep the rest.
func (c *Controller) empty(ctx context.Context, ns *corev1.Namespace) *found {
	f := &found{left: map[schema.GroupVersionResource]int{}, held: map[string]int{}}
	c.clear(ctx, object.KindOf[*corev1.Pod](), ns.Name, f)
	if len(f.left)+len(f.failed) > 0 {
		return f
	}
	defined, err := c.cfg.Customs.Kinds(ctx, ns.ResourceVersion)
	if err != nil {
		f.undiscovered = fmt.Errorf("kinds that users have defined: %w", err)
	}
	for _, kind := range slices.Concat(object.Kinds(), defined) {
		if kind.Namespaced && kind.NewList != nil && !kind.View {
			c.clear(ctx, kind, ns.Name, f)
		}
	}
	return f
}

// clear deletes the objects of a kind and notes what is left of them.
func (c *Controller) clear(ctx context.Context, kind object.Kind, namespace string, f *found) {
	list := func() ([]object.Object, bool) {
		objects, err := c.cfg.Contents.ListKind(ctx, kind, client.ListOptions{Namespace: namespace})
		if kind.IsCustom() && apierrors.IsNotFound(err) {
			return nil, true // its definition is gone meanwhile, and so are its objects
		}
		if err != nil {
			f.failed = append(f.failed, fmt.Errorf("list %s: %w", kind.GVR.Resource, err))
		}
		return objects, err == nil
	}
	objects, ok := list()
	if !ok || len(objects) == 0 {
		return
	}
	if slices.ContainsFunc(objects, func(o object.Object) bool { return o.GetDeletionTimestamp() == nil }) {
		if _, err := c.cfg.Contents.DeleteCollection(ctx, kind, namespace, client.DeleteOptions{Propagation: metav1.DeletePropagationBackground}); err != nil {
			f.failed = append(f.failed, fmt.Errorf("delete %s: %w", kind.GVR.Resource, err))
		}
		if objects, ok = list(); !ok {
			return
		}
	}
	if len(objects) == 0 {
		return
	}
	f.left[kind.GVR] = len(objects)
	for _, obj := range objects {
		for _, finalizer := range obj.GetFinalizers() {
			f.held[finalizer]++
		}
	}
}

// report says in the namespace's conditions what keeps it.
func (c *Controller) report(ctx context.Context, w client.Writer, ns *corev1.Namespace, f *found) error {
	updated := ns.DeepCopy()
	updated.Status.Phase = corev1.NamespaceTerminating
	updated.Status.Conditions = conditions(ns.Status.Conditions, f, metav1.NewTime(c.cfg.Clock.Now().Truncate(time.Second)))
	if equality.Semantic.DeepEqual(updated.Status, ns.Status) {
		return nil
	}
	if _, err := w.UpdateStatus(ctx, updated); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("status: %w", err)
	}
	return nil
}
