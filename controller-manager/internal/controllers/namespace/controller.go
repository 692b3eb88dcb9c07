// Package namespace empties namespaces that are being deleted and then lets them go.
package namespace

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

// again is how soon a namespace that still holds something is looked at anew: pods
// take time to stop, and nothing tells when the last object of any kind is gone.
const again = 200 * time.Millisecond

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
	defined, err := c.cfg.Customs.Kinds(ctx, ns.ResourceVersion)
	if err != nil {
		return 0, fmt.Errorf("kinds that users have defined: %w", err)
	}
	left, held, err := c.empty(ctx, slices.Concat(object.Kinds(), defined), ns.Name)
	if err != nil {
		return 0, err
	}
	if len(left) > 0 {
		log.Debug("namespace still holds objects", zap.Strings("left", left))
		return again, c.report(ctx, w, ns, left, held)
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

// empty deletes what is in a namespace and tells what is left: "pods (2)", and
// which of it waits for finalizers: "example.com/keep in pods/web".
func (c *Controller) empty(ctx context.Context, kinds []object.Kind, namespace string) (left, held []string, err error) {
	for _, kind := range kinds {
		if !kind.Namespaced || kind.NewList == nil || kind.View {
			continue
		}
		objects, err := c.cfg.Contents.ListKind(ctx, kind, client.ListOptions{Namespace: namespace})
		if kind.IsCustom() && apierrors.IsNotFound(err) {
			continue // its definition is gone meanwhile, and so are its objects
		}
		if err != nil {
			return nil, nil, fmt.Errorf("list %s: %w", kind.GVR.Resource, err)
		}
		if len(objects) == 0 {
			continue
		}
		if slices.ContainsFunc(objects, func(o object.Object) bool { return o.GetDeletionTimestamp() == nil }) {
			if _, err := c.cfg.Contents.DeleteCollection(ctx, kind, namespace, client.DeleteOptions{Propagation: metav1.DeletePropagationBackground}); err != nil {
				return nil, nil, fmt.Errorf("delete %s: %w", kind.GVR.Resource, err)
			}
			if objects, err = c.cfg.Contents.ListKind(ctx, kind, client.ListOptions{Namespace: namespace}); err != nil {
				return nil, nil, fmt.Errorf("list %s: %w", kind.GVR.Resource, err)
			}
		}
		if len(objects) == 0 {
			continue
		}
		left = append(left, fmt.Sprintf("%s (%d)", kind.GVR.Resource, len(objects)))
		for _, obj := range objects {
			for _, finalizer := range obj.GetFinalizers() {
				held = append(held, fmt.Sprintf("%s in %s/%s", finalizer, kind.GVR.Resource, obj.GetName()))
			}
		}
	}
	return left, held, nil
}

// report says in the namespace's conditions what keeps it.
func (c *Controller) report(ctx context.Context, w client.Writer, ns *corev1.Namespace, left, held []string) error {
	updated := ns.DeepCopy()
	updated.Status.Phase = corev1.NamespaceTerminating
	c.set(updated, corev1.NamespaceContentRemaining, true, "SomeResourcesRemain", "Some resources are remaining: "+strings.Join(left, ", "))
	c.set(updated, corev1.NamespaceFinalizersRemaining, len(held) > 0, "SomeFinalizersRemain", "Some content in the namespace has finalizers remaining: "+strings.Join(held, ", "))
	if equality.Semantic.DeepEqual(updated.Status, ns.Status) {
		return nil
	}
	if _, err := w.UpdateStatus(ctx, updated); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("status: %w", err)
	}
	return nil
}

func (c *Controller) set(ns *corev1.Namespace, t corev1.NamespaceConditionType, holds bool, reason, message string) {
	want := corev1.NamespaceCondition{Type: t, Status: corev1.ConditionTrue, Reason: reason, Message: message, LastTransitionTime: metav1.NewTime(c.cfg.Clock.Now())}
	if !holds {
		want.Status, want.Reason, want.Message = corev1.ConditionFalse, "ContentHasNoFinalizers", "All content-preserving finalizers finished"
	}
	for i := range ns.Status.Conditions {
		have := &ns.Status.Conditions[i]
		if have.Type != t {
			continue
		}
		if have.Status == want.Status {
			want.LastTransitionTime = have.LastTransitionTime
		}
		*have = want
		return
	}
	ns.Status.Conditions = append(ns.Status.Conditions, want)
}
