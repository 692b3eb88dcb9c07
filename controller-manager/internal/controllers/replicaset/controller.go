// Package replicaset keeps as many pods alive as each ReplicaSet asks for.
package replicaset

import (
	"context"
	"encoding/json"
	"fmt"
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

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
)

// IndexOrphans is the index of pods without a controller, by namespace, that the
// pod informer must have; see Orphans.
const IndexOrphans = "replicaset-orphans"

// Orphans is IndexOrphans' function.
func Orphans(pod *corev1.Pod) []string {
	if metav1.GetControllerOfNoCopy(pod) != nil {
		return nil
	}
	return []string{pod.Namespace}
}

// Config lists what the controller reads; every field is required.
type Config struct {
	ReplicaSets *informer.Informer[*appsv1.ReplicaSet]
	Pods        *informer.Informer[*corev1.Pod]
	Clock       clock.PassiveClock
	// Event tells users what happened; it must not block.
	Event func(about object.Object, severity, reason, message string)
}

// Controller keeps pods.
type Controller struct{ cfg Config }

var _ controller.Controller = (*Controller)(nil)

// New returns the controller.
func New(cfg Config) *Controller { return &Controller{cfg: cfg} }

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
	if metav1.GetControllerOfNoCopy(pod) != nil || len(pod.Labels) == 0 {
		return nil
	}
	var keys []object.Key
	for _, set := range c.cfg.ReplicaSets.List() {
		if set.Namespace != pod.Namespace {
			continue
		}
		selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
		if err == nil && !selector.Empty() && selector.Matches(labels.Set(pod.Labels)) {
			keys = append(keys, object.KeyOf(set))
		}
	}
	return keys
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
	p, err := decide(set, c.cfg.Pods.OwnedBy(set.UID), c.cfg.Pods.ByIndex(IndexOrphans, set.Namespace), c.cfg.Clock.Now())
	if err != nil {
		return 0, fmt.Errorf("decide replicaset %s: %w", key, err)
	}
	log.Debug("decided", zap.Int("create", len(p.create)), zap.Int("delete", len(p.remove)))
	return p.requeueAfter, c.apply(ctx, w, set, p)
}

// batch bounds the pods written in one transaction.
const batch = 250

// apply writes a plan. Failures of single pods do not keep the status from being written.
func (c *Controller) apply(ctx context.Context, w client.Writer, set *appsv1.ReplicaSet, p plan) error {
	writes := make([]write, 0, len(p.create)+len(p.remove)+len(p.adopt)+len(p.release))
	for _, pod := range p.adopt {
		writes = append(writes, write{op: ownerPatch(pod, metav1.NewControllerRef(set, object.KindOf[*appsv1.ReplicaSet]().GVK))})
	}
	for _, pod := range p.release {
		writes = append(writes, write{op: ownerPatch(pod, nil)})
	}
	for _, name := range p.create {
		writes = append(writes, write{
			op:   client.CreateOp(podFor(set, name)),
			good: told{"SuccessfulCreate", "Created pod: " + name}, bad: told{"FailedCreate", "Error creating: "},
		})
	}
	for _, pod := range p.remove {
		writes = append(writes, write{
			op:   client.DeleteOp(pod, client.DeleteOptions{UID: pod.UID}),
			good: told{"SuccessfulDelete", "Deleted pod: " + pod.Name}, bad: told{"FailedDelete", "Error deleting: "},
		})
	}
	failure := c.writeAll(ctx, w, set, writes)

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

// write is an operation on a pod and the events that tell of its end, if any do.
type write struct {
	op        client.Op
	good, bad told
}

// told is an event; a bad one's message is followed by the error.
type told struct{ reason, message string }

// writeAll performs writes in batches and returns the first failure that matters.
func (c *Controller) writeAll(ctx context.Context, w client.Writer, set *appsv1.ReplicaSet, writes []write) error {
	var failure error
	for len(writes) > 0 {
		n := min(len(writes), batch)
		ops := make([]client.Op, n)
		for i := range ops {
			ops[i] = writes[i].op
		}
		results, err := w.Transact(ctx, ops, true)
		if err != nil {
			return err
		}
		for i, result := range results {
			good, bad := writes[i].good, writes[i].bad
			switch {
			case result.Err == nil && good.reason != "":
				c.cfg.Event(set, corev1.EventTypeNormal, good.reason, good.message)
			// A pod that exists already is this set's own, from an attempt whose answer was
			// lost; one that is gone needs no deleting.
			case result.Err == nil || apierrors.IsAlreadyExists(result.Err) || apierrors.IsNotFound(result.Err):
			case failure == nil:
				failure = result.Err
				if bad.reason != "" {
					c.cfg.Event(set, corev1.EventTypeWarning, bad.reason, bad.message+failure.Error())
				}
			}
		}
		if failure != nil {
			return failure // a quota or admission refusal would only be repeated
		}
		writes = writes[n:]
	}
	return nil
}

// ownerPatch sets or removes the controlling owner of a pod, if it is still the same pod.
func ownerPatch(pod *corev1.Pod, owner *metav1.OwnerReference) client.Op {
	owners := []metav1.OwnerReference{}
	for _, ref := range pod.OwnerReferences {
		if !ptr.Deref(ref.Controller, false) {
			owners = append(owners, ref)
		}
	}
	if owner != nil {
		owners = append(owners, *owner)
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": pod.UID, "resourceVersion": pod.ResourceVersion, "ownerReferences": owners,
	}})
	if err != nil {
		panic(err) // owner references always encode
	}
	return client.PatchOp(pod, types.MergePatchType, patch, "")
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
