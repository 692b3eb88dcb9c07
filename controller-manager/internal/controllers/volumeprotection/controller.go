// Package volumeprotection keeps claims that pods use, and volumes that claims are bound to,
// from vanishing: by a finalizer that it takes off once nothing needs the object any more.
//
// Keys are claims, and volumes, which have no namespace.
package volumeprotection

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/controller-manager/internal/storage"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/kube/volume"
)

// Config lists what the controller reads; every field is required.
type Config struct {
	Claims  *informer.Informer[*corev1.PersistentVolumeClaim]
	Volumes *informer.Informer[*corev1.PersistentVolume]
	// Pods have index IndexPodClaims.
	Pods *informer.Informer[*corev1.Pod]
	// API lists the pods that the cache may not show yet, before a claim is let go.
	API *client.Client
}

// Controller protects claims and volumes.
type Controller struct{ cfg Config }

var _ controller.Controller = (*Controller)(nil)

// New returns the controller.
func New(cfg Config) *Controller { return &Controller{cfg: cfg} }

// Name is "volumeprotection".
func (*Controller) Name() string { return "volumeprotection" }

// Inputs are claims and volumes, and pods with their claims.
func (c *Controller) Inputs() []controller.Input {
	return []controller.Input{
		controller.Mapped(c.cfg.Claims, func(claim *corev1.PersistentVolumeClaim) []object.Key {
			keys := []object.Key{object.KeyOf(claim)}
			if claim.Spec.VolumeName != "" {
				keys = append(keys, object.Key{Name: claim.Spec.VolumeName})
			}
			return keys
		}),
		controller.Self(c.cfg.Volumes),
		controller.Mapped(c.cfg.Pods, storage.ClaimsOfPod),
	}
}

// Outputs are the finalizers.
func (*Controller) Outputs() []controller.Output {
	return []controller.Output{
		controller.Fields[*corev1.PersistentVolumeClaim]("finalizer " + volume.FinalizerClaim),
		controller.Fields[*corev1.PersistentVolume]("finalizer " + volume.FinalizerVolume),
	}
}

// Reconcile adds or removes one object's finalizer.
func (c *Controller) Reconcile(ctx context.Context, key object.Key, w client.Writer, log *zap.Logger) (time.Duration, error) {
	if key.Namespace == "" {
		return 0, c.protectVolume(ctx, key, w)
	}
	claim, err := c.cfg.Claims.Get(key)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read claim %s: %w", key, err)
	}
	used := slices.ContainsFunc(c.cfg.Pods.ByIndex(storage.IndexPodClaims, key.String()), func(pod *corev1.Pod) bool { return uses(pod, claim) })
	what := decide(&claim.ObjectMeta, volume.FinalizerClaim, used)
	if what == remove {
		// The cache may be behind, and what has lost its claim has lost its data.
		page, err := client.List[*corev1.Pod](ctx, c.cfg.API, client.ListOptions{Namespace: claim.Namespace})
		if err != nil {
			return 0, fmt.Errorf("list pods that may use claim %s: %w", key, err)
		}
		for _, pod := range page.Items {
			if uses(pod, claim) {
				log.Debug("a pod uses the claim that the cache does not show", zap.String("pod", pod.Name))
				return 0, nil // its events are yet to come
			}
		}
	}
	updated := claim.DeepCopy()
	return 0, write(ctx, w, updated, &updated.ObjectMeta, volume.FinalizerClaim, what)
}

func (c *Controller) protectVolume(ctx context.Context, key object.Key, w client.Writer) error {
	v, err := c.cfg.Volumes.Get(key)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read volume %s: %w", key, err)
	}
	var claim *corev1.PersistentVolumeClaim
	if ref, ok := volume.ClaimOf(v); ok {
		if found, err := c.cfg.Claims.Get(ref); err == nil && volume.ReservedFor(v, found) {
			claim = found
		}
	}
	updated := v.DeepCopy()
	return write(ctx, w, updated, &updated.ObjectMeta, volume.FinalizerVolume, decide(&v.ObjectMeta, volume.FinalizerVolume, held(v, claim)))
}

// write changes the finalizer at the version that was looked at.
func write(ctx context.Context, w client.Writer, obj object.Object, meta *metav1.ObjectMeta, finalizer string, what action) error {
	switch what {
	case nothing:
		return nil
	case add:
		meta.Finalizers = append(meta.Finalizers, finalizer)
	case remove:
		meta.Finalizers = slices.DeleteFunc(meta.Finalizers, func(f string) bool { return f == finalizer })
	}
	if _, err := w.Update(ctx, obj); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("finalizer of %T %s: %w", obj, object.KeyOf(obj), err)
	}
	return nil
}
