// Package replicas keeps a number of equal pods alive for an owner of any kind that asks
// for that: a ReplicaSet, a ReplicationController.
package replicas

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/clock"

	"kijabi.dev/controller-manager/internal/pace"
	"kijabi.dev/controller-manager/internal/podset"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
)

// again is when a set is looked at again whose writes have changed nothing that would say so.
const again = time.Second

// Config lists what a loop reads and how it sees its owners; every field is required.
type Config[T object.Object] struct {
	// Name of the loop.
	Name   string
	Owners *informer.Informer[T]
	Pods   *informer.Informer[*corev1.Pod]
	Clock  clock.PassiveClock
	// Event tells users what happened; it must not block.
	Event func(about object.Object, severity, reason, message string)
	// See reads an owner.
	See func(owner T) (Owner, error)
	// Report returns a copy of an owner with a status, or false if it has that status already.
	Report func(owner T, status Status) (T, bool)
}

// Controller keeps pods of owners of one kind.
type Controller[T object.Object] struct {
	cfg    Config[T]
	kind   string
	writes podset.Writes
	pace   *pace.Pace
}

// New returns the controller. The pod informer needs podset.IndexOrphans.
func New[T object.Object](cfg Config[T]) *Controller[T] {
	return &Controller[T]{cfg: cfg, kind: object.KindOf[T]().GVK.Kind, writes: podset.Writes{Event: cfg.Event}, pace: pace.New(cfg.Clock)}
}

// Name is the configured one.
func (c *Controller[T]) Name() string { return c.cfg.Name }

// Inputs are owners, their pods and pods without a controller.
func (c *Controller[T]) Inputs() []controller.Input {
	return []controller.Input{
		controller.Self(c.cfg.Owners),
		controller.OwnedBy(c.cfg.Pods, c.kind),
		controller.Mapped(c.cfg.Pods, c.adopters),
	}
}

// Outputs are pods of owners, and owners' status.
func (c *Controller[T]) Outputs() []controller.Output {
	return []controller.Output{controller.Owns[*corev1.Pod](c.kind), controller.StatusOf[T]()}
}

// adopters lists the owners that would adopt a pod without a controller.
func (c *Controller[T]) adopters(pod *corev1.Pod) []object.Key {
	return podset.Adopters(pod, c.cfg.Owners.List(), func(owner T) (labels.Selector, error) {
		seen, err := c.cfg.See(owner)
		return seen.Selector, err
	})
}

// Reconcile brings one owner's pods to the wanted number and reports them.
func (c *Controller[T]) Reconcile(ctx context.Context, key object.Key, w client.Writer, log *zap.Logger) (time.Duration, error) {
	obj, err := c.cfg.Owners.Get(key)
	if apierrors.IsNotFound(err) {
		return 0, nil // the garbage collector removes its pods
	}
	if err != nil {
		return 0, fmt.Errorf("read %s %s: %w", c.kind, key, err)
	}
	owner, err := c.cfg.See(obj)
	if err != nil {
		return 0, fmt.Errorf("read %s %s: %w", c.kind, key, err)
	}
	taken := func(name string) bool {
		_, err := c.cfg.Pods.Get(object.Key{Namespace: key.Namespace, Name: name})
		return err == nil
	}
	p := decide(owner, c.cfg.Pods.OwnedBy(obj.GetUID()), c.cfg.Pods.ByIndex(podset.IndexOrphans, key.Namespace), taken, c.cfg.Clock.Now())
	log.Debug("decided", zap.Int("create", len(p.create)), zap.Int("delete", len(p.remove)))
	return c.apply(ctx, w, obj, owner, p)
}

// apply writes a plan. Failures of single pods do not keep the status from being written.
func (c *Controller[T]) apply(ctx context.Context, w client.Writer, obj T, owner Owner, p plan) (time.Duration, error) {
	writes, err := p.claim.Writes(obj)
	if err != nil {
		return 0, err
	}
	for _, name := range p.create {
		pod, err := podset.New(obj, owner.Template, name)
		if err != nil {
			return 0, err
		}
		writes = append(writes, podset.Create(pod))
	}
	for _, pod := range p.remove {
		writes = append(writes, podset.Delete(pod))
	}
	failure := c.writes.Do(ctx, w, obj, writes)
	if failure == nil && len(writes) > 0 && owner.Status.ObservedGeneration < owner.Object.GetGeneration() {
		// The generation is observed once the pods that were made or removed for it are
		// counted, so that a Deployment may rely on the numbers. They come by the cache.
		return again, nil
	}
	p.status.Failure = failing(owner.Status.Failure, failure, len(p.remove) > 0, metav1.NewTime(c.cfg.Clock.Now()))
	if updated, changed := c.cfg.Report(obj, p.status); changed {
		if passing(owner, p.status) {
			if hold := c.pace.Hold(obj.GetUID()); hold > 0 {
				return hold, failure
			}
		}
		if _, err := w.UpdateStatus(ctx, updated); err != nil && !apierrors.IsNotFound(err) {
			return 0, fmt.Errorf("status of %s %s: %w", c.kind, object.KeyOf(obj), err)
		}
	}
	return p.requeueAfter, failure
}

// passing says whether a status is one on the way, which nobody waits for.
func passing(owner Owner, status Status) bool {
	return (owner.Status.Failure == nil) == (status.Failure == nil) && status.ObservedGeneration == owner.Status.ObservedGeneration &&
		(status.Available < owner.Replicas || status.Replicas != owner.Replicas)
}

// failing tells why writes were refused. That somebody else wrote first is no failure.
func failing(before *Failure, failure error, removing bool, now metav1.Time) *Failure {
	if failure == nil || apierrors.IsConflict(failure) {
		return nil
	}
	out := Failure{Reason: "FailedCreate", Message: failure.Error(), Since: now}
	if removing {
		out.Reason = "FailedDelete"
	}
	if before != nil {
		out.Since = before.Since
	}
	return &out
}
