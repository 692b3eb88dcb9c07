// Package deployment rolls pods from one template to the next by growing and
// shrinking ReplicaSets.
package deployment

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"kijabi.dev/controller-manager/internal/ownership"
	"kijabi.dev/controller-manager/internal/pace"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
)

// Config lists what the controller reads; every field is required.
type Config struct {
	Deployments *informer.Informer[*appsv1.Deployment]
	ReplicaSets *informer.Informer[*appsv1.ReplicaSet]
	Clock       clock.PassiveClock
	// Event tells users what happened; it must not block.
	Event func(about object.Object, severity, reason, message string)
}

// Controller rolls Deployments.
type Controller struct {
	cfg  Config
	pace *pace.Pace
}

var _ controller.Controller = (*Controller)(nil)

// New returns the controller.
func New(cfg Config) *Controller { return &Controller{cfg: cfg, pace: pace.New(cfg.Clock)} }

// Name is "deployment".
func (*Controller) Name() string { return "deployment" }

// Inputs are Deployments, their ReplicaSets and ReplicaSets without a controller.
func (c *Controller) Inputs() []controller.Input {
	return []controller.Input{
		controller.Self(c.cfg.Deployments),
		controller.OwnedBy(c.cfg.ReplicaSets, "Deployment"),
		controller.Mapped(c.cfg.ReplicaSets, c.adopters),
	}
}

// adopters lists the Deployments that would adopt a set without a controller.
func (c *Controller) adopters(set *appsv1.ReplicaSet) []object.Key {
	if metav1.GetControllerOfNoCopy(set) != nil {
		return nil
	}
	var keys []object.Key
	for _, d := range c.cfg.Deployments.List() {
		if d.Namespace != set.Namespace {
			continue
		}
		if selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector); err == nil && selector.Matches(labels.Set(set.Labels)) {
			keys = append(keys, object.KeyOf(d))
		}
	}
	return keys
}

// Outputs are ReplicaSets of Deployments, their status and revision.
func (*Controller) Outputs() []controller.Output {
	return []controller.Output{
		controller.Owns[*appsv1.ReplicaSet]("Deployment"),
		controller.StatusOf[*appsv1.Deployment](),
		controller.Fields[*appsv1.Deployment]("annotation " + annotationRevision),
	}
}

// Reconcile moves one Deployment a step and reports it.
func (c *Controller) Reconcile(ctx context.Context, key object.Key, w client.Writer, log *zap.Logger) (time.Duration, error) {
	d, err := c.cfg.Deployments.Get(key)
	if apierrors.IsNotFound(err) {
		return 0, nil // the garbage collector removes its sets
	}
	if err != nil {
		return 0, fmt.Errorf("read deployment %s: %w", key, err)
	}
	p, err := decide(d, c.cfg.ReplicaSets.OwnedBy(d.UID), c.cfg.ReplicaSets.ByIndex(ownership.IndexOrphans, d.Namespace), c.cfg.Clock.Now())
	if err != nil {
		return 0, fmt.Errorf("decide deployment %s: %w", key, err)
	}
	log.Debug("decided", zap.Bool("create", p.create != nil), zap.Int("update", len(p.update)), zap.Int("delete", len(p.remove)))
	return c.apply(ctx, w, d, p)
}

func (c *Controller) apply(ctx context.Context, w client.Writer, d *appsv1.Deployment, p plan) (time.Duration, error) {
	if err := c.write(ctx, w, d, p); err != nil {
		return 0, err
	}
	failure := c.createIn(ctx, w, d, p.create, &p.status)
	if failure == nil && p.revision != "" {
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
			"uid": d.UID, "annotations": map[string]string{annotationRevision: p.revision},
		}})
		if err != nil {
			return 0, err
		}
		if _, err := w.Patch(ctx, d, types.MergePatchType, patch, ""); err != nil {
			return 0, fmt.Errorf("revision: %w", err)
		}
	}
	if equality.Semantic.DeepEqual(p.status, d.Status) {
		return p.requeueAfter, failure
	}
	if passing(d, &p.status) {
		if hold := c.pace.Hold(d.UID); hold > 0 {
			return hold, failure
		}
	}
	updated := d.DeepCopy()
	updated.Status = p.status
	updated.ResourceVersion = "" // nobody else writes the status; the revision patch moved the version
	if _, err := w.UpdateStatus(ctx, updated); err != nil && !apierrors.IsNotFound(err) {
		return 0, errors.Join(failure, fmt.Errorf("status: %w", err))
	}
	return p.requeueAfter, failure
}

// passing says whether a status is one on the way, which nobody waits for: counts alone have changed,
// and not to the end.
func passing(d *appsv1.Deployment, status *appsv1.DeploymentStatus) bool {
	want := deploymentReplicas(d)
	if status.ObservedGeneration != d.Status.ObservedGeneration || status.AvailableReplicas == want && status.UpdatedReplicas == want && status.Replicas == want {
		return false
	}
	return equality.Semantic.DeepEqual(outcomes(d.Status.Conditions), outcomes(status.Conditions))
}

// outcomes are what conditions say, without when and in which words.
func outcomes(conditions []appsv1.DeploymentCondition) map[appsv1.DeploymentConditionType]string {
	out := make(map[appsv1.DeploymentConditionType]string, len(conditions))
	for _, c := range conditions {
		out[c.Type] = string(c.Status) + c.Reason
	}
	return out
}

// write performs what is planned for sets that exist. Any part of it may be refused: what
// shrinks leaves no less available than it should by itself, and what grows relies on
// nothing that shrinks with it.
func (c *Controller) write(ctx context.Context, w client.Writer, d *appsv1.Deployment, p plan) error {
	var ops []client.Op
	for _, set := range p.update {
		ops = append(ops, client.UpdateOp(set, ""))
	}
	for _, set := range p.remove {
		ops = append(ops, client.DeleteOp(set, client.DeleteOptions{UID: set.UID, ResourceVersion: set.ResourceVersion}))
	}
	for _, set := range p.adopt {
		op, err := ownership.Adopt(d, set)
		if err != nil {
			return err
		}
		ops = append(ops, op)
	}
	for _, set := range p.release {
		ops = append(ops, ownership.Release(set))
	}
	before := make([]int32, len(p.update)) // read now: the cache may follow the write at once
	for i, set := range p.update {
		if old, err := c.cfg.ReplicaSets.Get(object.KeyOf(set)); err == nil {
			before[i] = replicas(old)
		}
	}
	results, err := w.Transact(ctx, ops, true)
	if err != nil {
		return fmt.Errorf("replica sets: %w", err)
	}
	var failure error
	for i, result := range results {
		switch {
		case result.Err == nil && i < len(p.update):
			c.tellScaling(d, p.update[i], before[i])
		case result.Err != nil && failure == nil && !apierrors.IsNotFound(result.Err):
			failure = fmt.Errorf("replica set: %w", result.Err)
		}
	}
	return failure
}

// tellScaling tells of a set that was written, if it now asks for another number of pods.
func (c *Controller) tellScaling(d *appsv1.Deployment, set *appsv1.ReplicaSet, before int32) {
	direction, after := "up", replicas(set)
	switch {
	case after == before:
		return
	case after < before:
		direction = "down"
	}
	c.cfg.Event(d, corev1.EventTypeNormal, "ScalingReplicaSet",
		fmt.Sprintf("Scaled %s replica set %s from %d to %d", direction, set.Name, before, after))
}

// createIn makes the new set, if there is one to be made, and corrects the status when
// that fails.
func (c *Controller) createIn(ctx context.Context, w client.Writer, d *appsv1.Deployment, set *appsv1.ReplicaSet, status *appsv1.DeploymentStatus) error {
	if set == nil {
		return nil
	}
	collided, err := c.create(ctx, w, d, set)
	switch {
	case err == nil && !collided:
		c.tellScaling(d, set, 0)
		return nil
	case collided:
		// The next hash counts the collision in.
		status.CollisionCount = ptr.To(ptr.Deref(d.Status.CollisionCount, 0) + 1)
	}
	status.Conditions = slices.Clone(d.Status.Conditions)
	if collided || apierrors.IsConflict(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return err
	}
	message := fmt.Sprintf("Failed to create new replica set %q: %v", set.Name, err)
	c.cfg.Event(d, corev1.EventTypeWarning, reasonCreateError, message)
	if hasDeadline(d) {
		setCondition(status, c.cfg.Clock.Now(), appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonCreateError, message)
	}
	return err
}

// create makes the new set. collided tells that the name is taken by a set of another
// template or of somebody else.
func (c *Controller) create(ctx context.Context, w client.Writer, d *appsv1.Deployment, set *appsv1.ReplicaSet) (collided bool, err error) {
	_, err = w.Create(ctx, set)
	if !apierrors.IsAlreadyExists(err) {
		return false, err
	}
	existing, err := c.cfg.ReplicaSets.Get(object.KeyOf(set))
	if apierrors.IsNotFound(err) {
		return false, apierrors.NewConflict(object.KindOf[*appsv1.ReplicaSet]().GroupResource(), set.Name, errors.New("it exists, the cache does not show it yet"))
	}
	if err != nil {
		return false, err
	}
	owner := metav1.GetControllerOf(existing)
	return owner == nil || owner.UID != d.UID || !sameTemplate(&existing.Spec.Template, &set.Spec.Template), nil
}
