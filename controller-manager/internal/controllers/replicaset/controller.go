// Package replicaset keeps as many pods alive as each ReplicaSet asks for.
package replicaset

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

	"kijabi.dev/controller-manager/internal/podset"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
)

// Config lists what the controller reads; every field is required.
type Config struct {
	ReplicaSets *informer.Informer[*appsv1.ReplicaSet]
	Pods        *informer.Informer[*corev1.Pod]
	Clock       clock.PassiveClock
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

// Name is "replicaset".
func (*Controller) Name() string { return "replicaset" }

// Inputs are sets, their pods and pods without a controller.
func (c *Controller) Inputs() []controller.Input {
	return []controller.Input{
		controller.Self(c.cfg.ReplicaSets),
		controller.OwnedBy(c.cfg.Pods, "ReplicaSet"),
		controller.Mapped(c.cfg.Pods, c.adopters),
	}
}

// Outputs are pods of sets, and sets' status.
func (*Controller) Outputs() []controller.Output {
	return []controller.Output{controller.Owns[*corev1.Pod]("ReplicaSet"), controller.StatusOf[*appsv1.ReplicaSet]()}
}

// adopters lists the sets that would adopt a pod without a controller.
func (c *Controller) adopters(pod *corev1.Pod) []object.Key {
	return podset.Adopters(pod, c.cfg.ReplicaSets.List(), func(set *appsv1.ReplicaSet) (labels.Selector, error) {
		return metav1.LabelSelectorAsSelector(set.Spec.Selector)
	})
}

// Reconcile brings one set's pods to the wanted number and reports them.
func (c *Controller) Reconcile(ctx context.Context, key object.Key, w client.Writer, log *zap.Logger) (time.Duration, error) {
	set, err := c.cfg.ReplicaSets.Get(key)
	if apierrors.IsNotFound(err) {
		return 0, nil // the garbage collector removes its pods
	}
	if err != nil {
		return 0, fmt.Errorf("read replicaset %s: %w", key, err)
	}
	taken := func(name string) bool {
		_, err := c.cfg.Pods.Get(object.Key{Namespace: key.Namespace, Name: name})
		return err == nil
	}
	p, err := decide(set, c.cfg.Pods.OwnedBy(set.UID), c.cfg.Pods.ByIndex(podset.IndexOrphans, set.Namespace), taken, c.cfg.Clock.Now())
	if err != nil {
		return 0, fmt.Errorf("decide replicaset %s: %w", key, err)
	}
	log.Debug("decided", zap.Int("create", len(p.create)), zap.Int("delete", len(p.remove)))
	return p.requeueAfter, c.apply(ctx, w, set, p)
}

// apply writes a plan. Failures of single pods do not keep the status from being written.
func (c *Controller) apply(ctx context.Context, w client.Writer, set *appsv1.ReplicaSet, p plan) error {
	writes, err := p.claim.Writes(set)
	if err != nil {
		return err
	}
	for _, name := range p.create {
		pod, err := podset.New(set, &set.Spec.Template, name)
		if err != nil {
			return err
		}
		writes = append(writes, podset.Create(pod))
	}
	for _, pod := range p.remove {
		writes = append(writes, podset.Delete(pod))
	}
	failure := c.writes.Do(ctx, w, set, writes)

	setFailureCondition(&p.status, failure, metav1.NewTime(c.cfg.Clock.Now()))
	if !equality.Semantic.DeepEqual(p.status, set.Status) {
		updated := set.DeepCopy()
		updated.Status = p.status
		if _, err := w.UpdateStatus(ctx, updated); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("status of replicaset %s: %w", object.KeyOf(set), err)
		}
	}
	return failure
}

func setFailureCondition(status *appsv1.ReplicaSetStatus, failure error, now metav1.Time) {
	kept := status.Conditions[:0:0]
	for _, c := range status.Conditions {
		if c.Type != appsv1.ReplicaSetReplicaFailure {
			kept = append(kept, c)
		} else if failure != nil && c.Message == failure.Error() {
			return // said already
		}
	}
	if failure != nil {
		kept = append(kept, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate",
			Message: failure.Error(), LastTransitionTime: now,
		})
	}
	status.Conditions = kept
}
