// Package daemonset keeps a pod on every node that a DaemonSet is for.
package daemonset

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/clock"

	"kijabi.dev/controller-manager/internal/history"
	"kijabi.dev/controller-manager/internal/podset"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
)

// Config lists what the controller reads; every field is required.
type Config struct {
	DaemonSets *informer.Informer[*appsv1.DaemonSet]
	Nodes      *informer.Informer[*corev1.Node]
	// Pods needs podset.IndexOrphans, Revisions history.IndexOrphans.
	Pods      *informer.Informer[*corev1.Pod]
	Revisions *informer.Informer[*appsv1.ControllerRevision]
	Clock     clock.PassiveClock
	// Event tells users what happened; it must not block.
	Event func(about object.Object, severity, reason, message string)
}

// Controller keeps pods.
type Controller struct {
	cfg      Config
	writes   podset.Writes
	eligible eligibility
	gone     departed
	pauses   backoff
}

var _ controller.Controller = (*Controller)(nil)

// New returns the controller.
func New(cfg Config) *Controller {
	return &Controller{cfg: cfg, writes: podset.Writes{Event: cfg.Event}}
}

// Name is "daemonset".
func (*Controller) Name() string { return "daemonset" }

// Inputs are sets, pods and revisions that are theirs or might be, and nodes that become
// something else to a set: their heartbeats make nothing due.
func (c *Controller) Inputs() []controller.Input {
	return []controller.Input{
		controller.Self(c.cfg.DaemonSets),
		// Before the input that makes the set due because a pod has gone.
		controller.Triggered(func(func(object.Key)) { c.cfg.Pods.OnChange(c.gone.note) }),
		controller.OwnedBy(c.cfg.Pods, "DaemonSet"),
		controller.Mapped(c.cfg.Pods, func(pod *corev1.Pod) []object.Key {
			return podset.Adopters(pod, c.cfg.DaemonSets.List(), selectorOf)
		}),
		controller.OwnedBy(c.cfg.Revisions, "DaemonSet"),
		controller.Mapped(c.cfg.Revisions, func(revision *appsv1.ControllerRevision) []object.Key {
			return history.Adopters(revision, c.cfg.DaemonSets.List(), func(set *appsv1.DaemonSet) *metav1.LabelSelector { return set.Spec.Selector })
		}),
		controller.Reads(c.cfg.Nodes),
		controller.Triggered(c.followNodes),
	}
}

func selectorOf(set *appsv1.DaemonSet) (labels.Selector, error) {
	return metav1.LabelSelectorAsSelector(set.Spec.Selector)
}

func (c *Controller) followNodes(enqueue func(object.Key)) {
	c.cfg.Nodes.OnChange(func(before, after *corev1.Node) {
		for _, set := range c.cfg.DaemonSets.List() {
			if c.eligible.differs(set, before, after) {
				enqueue(object.KeyOf(set))
			}
		}
	})
}

// Outputs are pods and revisions of sets, and sets' status.
func (*Controller) Outputs() []controller.Output {
	return []controller.Output{
		controller.Owns[*corev1.Pod]("DaemonSet"),
		controller.Owns[*appsv1.ControllerRevision]("DaemonSet"),
		controller.StatusOf[*appsv1.DaemonSet](),
	}
}

// Reconcile brings one set's pods to its nodes and reports them.
func (c *Controller) Reconcile(ctx context.Context, key object.Key, w client.Writer, log *zap.Logger) (time.Duration, error) {
	set, err := c.cfg.DaemonSets.Get(key)
	if apierrors.IsNotFound(err) {
		c.eligible.forget(key)
		c.gone.forget(key)
		return 0, nil // the garbage collector removes its pods
	}
	if err != nil {
		return 0, fmt.Errorf("read daemonset %s: %w", key, err)
	}
	selector, err := selectorOf(set)
	if err != nil {
		return 0, fmt.Errorf("selector of daemonset %s: %w", key, err)
	}
	past, err := history.Of(history.Question{
		Owner: set, Template: &set.Spec.Template, Selector: selector, Collisions: set.Status.CollisionCount,
		HashLabel: appsv1.DefaultDaemonSetUniqueLabelKey,
		Owned:     c.cfg.Revisions.OwnedBy(set.UID),
		Orphans:   c.cfg.Revisions.ByIndex(history.IndexOrphans, set.Namespace),
		Taken:     func(name string) bool { return known(c.cfg.Revisions, set.Namespace, name) },
	})
	if err != nil {
		return 0, fmt.Errorf("history of daemonset %s: %w", key, err)
	}
	now, hash := c.cfg.Clock.Now(), hashOf(past.Update)
	p, err := decide(world{
		set:   set,
		seats: c.eligible.of(set, c.cfg.Nodes.List()),
		pods:  podset.Claimed(set, selector, c.cfg.Pods.OwnedBy(set.UID), c.cfg.Pods.ByIndex(podset.IndexOrphans, set.Namespace)),
		hash:  hash, collisions: past.Collisions, gone: c.gone.of(key), now: now,
		pause: func(node string) time.Duration { return c.pauses.left(place{set.UID, node, hash}, now) },
		taken: func(name string) bool { return known(c.cfg.Pods, set.Namespace, name) },
	})
	if err != nil {
		return 0, fmt.Errorf("decide daemonset %s: %w", key, err)
	}
	log.Debug("decided", zap.Int("create", len(p.create)), zap.Int("delete", len(p.remove)))
	return p.requeueAfter, c.apply(ctx, w, set, &past, p)
}

func hashOf(revision *appsv1.ControllerRevision) string {
	return history.Hash(revision, appsv1.DefaultDaemonSetUniqueLabelKey)
}

func known[T object.Object](inf *informer.Informer[T], namespace, name string) bool {
	_, err := inf.Get(object.Key{Namespace: namespace, Name: name})
	return err == nil
}

// apply writes a plan. Failures of single pods do not keep the status from being written.
func (c *Controller) apply(ctx context.Context, w client.Writer, set *appsv1.DaemonSet, past *history.History, p plan) error {
	if err := past.Save(ctx, w, set); err != nil {
		return err
	}
	writes, err := p.claim.Writes(set)
	if err != nil {
		return err
	}
	for _, pod := range p.remove {
		writes = append(writes, podset.Delete(pod))
	}
	for _, pod := range p.create {
		writes = append(writes, podset.Create(pod))
	}
	c.tellEnded(set, hashOf(past.Update), p.ended)
	failure := c.writes.Do(ctx, w, set, writes)
	if failure == nil && set.DeletionTimestamp == nil {
		used := map[string]bool{}
		for _, pod := range p.claim.Own {
			used[pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]] = true
		}
		failure = history.Remove(ctx, w, past.Expired(set.Spec.RevisionHistoryLimit, func(r *appsv1.ControllerRevision) bool { return used[hashOf(r)] }))
	}
	if !equality.Semantic.DeepEqual(p.status, set.Status) {
		updated := set.DeepCopy()
		updated.Status = p.status
		if _, err := w.UpdateStatus(ctx, updated); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("status of daemonset %s: %w", object.KeyOf(set), err)
		}
	}
	return failure
}

// tellEnded tells of pods that are replaced because they have finished, and lets the next ones wait.
func (c *Controller) tellEnded(set *appsv1.DaemonSet, hash string, ended []*corev1.Pod) {
	for _, pod := range ended {
		node := nodeOf(pod)
		c.pauses.replaced(place{set.UID, node, hash}, c.cfg.Clock.Now())
		severity, reason, what, how := corev1.EventTypeWarning, "FailedDaemonPod", "failed", "kill"
		if pod.Status.Phase == corev1.PodSucceeded {
			severity, reason, what, how = corev1.EventTypeNormal, "SucceededDaemonPod", "succeeded", "delete"
		}
		c.cfg.Event(set, severity, reason, fmt.Sprintf("Found %s daemon pod %s on node %s, will try to %s it", what, object.KeyOf(pod), node, how))
	}
}
