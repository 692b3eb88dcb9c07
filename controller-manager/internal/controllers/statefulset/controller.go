// Package statefulset keeps pods that have a name, a place in an order and claims of their own.
package statefulset

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"

	"kijabi.dev/controller-manager/internal/history"
	"kijabi.dev/controller-manager/internal/podset"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
)

// hashLabel carries the hash of a revision.
const hashLabel = "controller.kubernetes.io/hash"

// Config lists what the controller reads; every field is required.
type Config struct {
	StatefulSets *informer.Informer[*appsv1.StatefulSet]
	// Pods needs podset.IndexOrphans, Revisions history.IndexOrphans.
	Pods      *informer.Informer[*corev1.Pod]
	Revisions *informer.Informer[*appsv1.ControllerRevision]
	Claims    *informer.Informer[*corev1.PersistentVolumeClaim]
	Clock     clock.PassiveClock
	// Event tells users what happened; it must not block.
	Event func(about object.Object, severity, reason, message string)
}

// Controller keeps pods.
type Controller struct {
	cfg    Config
	writes podset.Writes
}

var _ controller.Controller = (*Controller)(nil)

// New returns the controller.
func New(cfg Config) *Controller {
	return &Controller{cfg: cfg, writes: podset.Writes{Event: cfg.Event}}
}

// Name is "statefulset".
func (*Controller) Name() string { return "statefulset" }

// Inputs are sets, and pods, claims and revisions that are theirs or might be.
func (c *Controller) Inputs() []controller.Input {
	return []controller.Input{
		controller.Self(c.cfg.StatefulSets),
		controller.OwnedBy(c.cfg.Pods, "StatefulSet"),
		controller.Mapped(c.cfg.Pods, func(pod *corev1.Pod) []object.Key { return c.named(pod.Namespace, pod.Name) }),
		controller.Mapped(c.cfg.Claims, c.claimants),
		controller.OwnedBy(c.cfg.Revisions, "StatefulSet"),
		controller.Mapped(c.cfg.Revisions, func(revision *appsv1.ControllerRevision) []object.Key {
			return history.Adopters(revision, c.cfg.StatefulSets.List(), func(set *appsv1.StatefulSet) *metav1.LabelSelector { return set.Spec.Selector })
		}),
	}
}

// Outputs are pods, claims and revisions of sets, and sets' status.
func (*Controller) Outputs() []controller.Output {
	return []controller.Output{
		controller.Owns[*corev1.Pod]("StatefulSet"),
		controller.Owns[*corev1.PersistentVolumeClaim]("StatefulSet"),
		controller.Owns[*appsv1.ControllerRevision]("StatefulSet"),
		controller.StatusOf[*appsv1.StatefulSet](),
	}
}

// named is the set, if there is one, whose pod would have a name: a stranger of that
// name stands in its way.
func (c *Controller) named(namespace, pod string) []object.Key {
	name, _, ok := split(pod)
	if !ok {
		return nil
	}
	key := object.Key{Namespace: namespace, Name: name}
	if _, err := c.cfg.StatefulSets.Get(key); err != nil {
		return nil
	}
	return []object.Key{key}
}

// claimants are the sets that a claim's name may come from.
func (c *Controller) claimants(claim *corev1.PersistentVolumeClaim) []object.Key {
	var keys []object.Key
	for i, char := range claim.Name {
		if char == '-' {
			keys = append(keys, c.named(claim.Namespace, claim.Name[i+1:])...)
		}
	}
	return keys
}

// Reconcile moves one set a step and reports it.
func (c *Controller) Reconcile(ctx context.Context, key object.Key, w client.Writer, log *zap.Logger) (time.Duration, error) {
	set, err := c.cfg.StatefulSets.Get(key)
	if apierrors.IsNotFound(err) {
		return 0, nil // the garbage collector removes its pods
	}
	if err != nil {
		return 0, fmt.Errorf("read statefulset %s: %w", key, err)
	}
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil {
		return 0, fmt.Errorf("selector of statefulset %s: %w", key, err)
	}
	past, err := history.Of(history.Question{
		Owner: set, Template: &set.Spec.Template, Selector: selector, Collisions: set.Status.CollisionCount, HashLabel: hashLabel,
		Owned:   c.cfg.Revisions.OwnedBy(set.UID),
		Orphans: c.cfg.Revisions.ByIndex(history.IndexOrphans, set.Namespace),
		Taken:   func(name string) bool { return known(c.cfg.Revisions, set.Namespace, name) },
	})
	if err != nil {
		return 0, fmt.Errorf("history of statefulset %s: %w", key, err)
	}
	current := past.Find(set.Status.CurrentRevision)
	if current == nil {
		current = past.Update
	}
	p, err := decide(world{
		set:   set,
		pods:  members(set, selector, c.cfg.Pods.OwnedBy(set.UID), c.cfg.Pods.ByIndex(podset.IndexOrphans, set.Namespace)),
		taken: func(name string) bool { return known(c.cfg.Pods, set.Namespace, name) },
		claimOf: func(name string) *corev1.PersistentVolumeClaim {
			claim, err := c.cfg.Claims.Get(object.Key{Namespace: set.Namespace, Name: name})
			if err != nil {
				return nil
			}
			return claim
		},
		current: current, update: past.Update, collisions: past.Collisions, now: c.cfg.Clock.Now(),
	})
	if err != nil {
		return 0, fmt.Errorf("decide statefulset %s: %w", key, err)
	}
	log.Debug("decided", zap.Int("create", len(p.create)), zap.Int("delete", len(p.remove)), zap.Int("blocked", len(p.blocked)))
	return p.requeueAfter, c.apply(ctx, w, set, &past, p)
}

func known[T object.Object](inf *informer.Informer[T], namespace, name string) bool {
	_, err := inf.Get(object.Key{Namespace: namespace, Name: name})
	return err == nil
}
