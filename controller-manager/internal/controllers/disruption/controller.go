// Package disruption keeps the status of disruption budgets, from which the eviction API
// takes, and takes back announcements of a pod's end that does not come.
package disruption

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"kijabi.dev/controller-manager/internal/scales"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
)

// IndexNamespace is the index by namespace that the informers of budgets and pods must have.
const IndexNamespace = "disruption-namespace"

// retry is when a budget is tried again whose pods could not be counted.
const retry = 10 * time.Second

// podsWait bounds the wait for pods as new as their budget.
const podsWait = 5 * time.Second

// Config lists what the controller reads; every field is required.
type Config struct {
	Budgets      *informer.Informer[*policyv1.PodDisruptionBudget]
	Pods         *informer.Informer[*corev1.Pod]
	Deployments  *informer.Informer[*appsv1.Deployment]
	ReplicaSets  *informer.Informer[*appsv1.ReplicaSet]
	StatefulSets *informer.Informer[*appsv1.StatefulSet]
	Controllers  *informer.Informer[*corev1.ReplicationController]
	// Scales reads the size of owners of other kinds.
	Scales *scales.Source
	Clock  clock.PassiveClock
	// Event tells users what happened; it must not block.
	Event func(about object.Object, severity, reason, message string)
}

// Controller keeps budgets' status.
type Controller struct{ cfg Config }

var _ controller.Controller = (*Controller)(nil)

// New returns the controller.
func New(cfg Config) *Controller { return &Controller{cfg: cfg} }

// Name is "disruption".
func (*Controller) Name() string { return "disruption" }

// Inputs are budgets and the pods that they select; what owns pods is only read.
func (c *Controller) Inputs() []controller.Input {
	return []controller.Input{
		controller.Self(c.cfg.Budgets),
		controller.Mapped(c.cfg.Pods, c.selecting),
		controller.Reads(c.cfg.Deployments), controller.Reads(c.cfg.ReplicaSets),
		controller.Reads(c.cfg.StatefulSets), controller.Reads(c.cfg.Controllers),
	}
}

// Outputs are budgets' status.
func (*Controller) Outputs() []controller.Output {
	return []controller.Output{controller.StatusOf[*policyv1.PodDisruptionBudget]()}
}

// selecting lists the budgets that select a pod.
func (c *Controller) selecting(pod *corev1.Pod) []object.Key {
	var keys []object.Key
	for _, pdb := range c.cfg.Budgets.ByIndex(IndexNamespace, pod.Namespace) {
		selector, err := metav1.LabelSelectorAsSelector(pdb.Spec.Selector)
		if err == nil && selector.Matches(labels.Set(pod.Labels)) {
			keys = append(keys, object.KeyOf(pdb))
		}
	}
	return keys
}

// Reconcile counts one budget's pods. Evictions write the same status: who comes second
// starts again from what the first has written.
func (c *Controller) Reconcile(ctx context.Context, key object.Key, w client.Writer, log *zap.Logger) (time.Duration, error) {
	pdb, err := c.cfg.Budgets.Get(key)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read budget %s: %w", key, err)
	}
	// Pods older than the budget may be ones that the budget has forgotten since they went.
	wait, cancel := context.WithTimeout(ctx, podsWait)
	defer cancel()
	if err := c.cfg.Pods.WaitVersion(wait, pdb.ResourceVersion); err != nil {
		return 0, fmt.Errorf("budget %s: %w", key, err)
	}
	now := c.cfg.Clock.Now()
	p, err := c.plan(ctx, pdb, now)
	if err != nil {
		c.cfg.Event(pdb, corev1.EventTypeWarning, "CalculateExpectedPodCountFailed", fmt.Sprintf("Failed to calculate the number of expected pods: %v", err))
		p = plan{status: failed(pdb, err, now), requeueAfter: retry}
	}
	log.Debug("decided", zap.Int32("allowed", p.status.DisruptionsAllowed), zap.Int32("healthy", p.status.CurrentHealthy))
	return p.requeueAfter, c.apply(ctx, w, pdb, p)
}

func (c *Controller) plan(ctx context.Context, pdb *policyv1.PodDisruptionBudget, now time.Time) (plan, error) {
	selector, err := metav1.LabelSelectorAsSelector(pdb.Spec.Selector)
	if err != nil {
		return plan{}, err
	}
	var pods []*corev1.Pod
	for _, pod := range c.cfg.Pods.ByIndex(IndexNamespace, pdb.Namespace) {
		if selector.Matches(labels.Set(pod.Labels)) {
			pods = append(pods, pod)
		}
	}
	var sizes map[types.UID]size
	if scaled(pdb) {
		if sizes, err = c.sizes(ctx, pods); err != nil {
			return plan{}, err
		}
	}
	return decide(pdb, pods, sizes, now)
}

func (c *Controller) apply(ctx context.Context, w client.Writer, pdb *policyv1.PodDisruptionBudget, p plan) error {
	if equality.Semantic.DeepEqual(p.status, pdb.Status) {
		return nil
	}
	if p.status.ExpectedPods == 0 && p.status.CurrentHealthy == 0 {
		c.cfg.Event(pdb, corev1.EventTypeNormal, "NoPods", "No matching pods found")
	}
	if len(p.unmanaged) > 0 {
		c.cfg.Event(pdb, corev1.EventTypeWarning, "UnmanagedPods", fmt.Sprintf(
			"The budget selects %d pods without a controller, which a percentage and maxUnavailable do not count. Set spec.minAvailable to a number instead.", len(p.unmanaged)))
	}
	for _, pod := range p.stayed {
		c.cfg.Event(pod, corev1.EventTypeWarning, "NotDeleted", fmt.Sprintf("Pod was expected by PDB %s to be deleted but it wasn't", object.KeyOf(pdb)))
	}
	updated := pdb.DeepCopy()
	updated.Status = p.status
	if _, err := w.UpdateStatus(ctx, updated); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("status of budget %s: %w", object.KeyOf(pdb), err)
	}
	return nil
}

// sizes finds what the controllers of pods ask for. A controller that is gone is left out.
func (c *Controller) sizes(ctx context.Context, pods []*corev1.Pod) (map[types.UID]size, error) {
	out := map[types.UID]size{}
	for _, pod := range pods {
		owner := metav1.GetControllerOfNoCopy(pod)
		if owner == nil {
			continue
		}
		if _, known := out[owner.UID]; known {
			continue
		}
		found, err := c.sizeOf(ctx, object.Key{Namespace: pod.Namespace, Name: owner.Name}, owner)
		if err != nil {
			return nil, err
		}
		if found.uid != "" {
			out[owner.UID] = found
		}
	}
	return out, nil
}

// sizeOf finds what one owner asks for: of a ReplicaSet that belongs to a Deployment, what
// that does. The zero size means that there is no such owner.
func (c *Controller) sizeOf(ctx context.Context, key object.Key, owner *metav1.OwnerReference) (size, error) {
	kind, err := c.cfg.Scales.Kind(owner.APIVersion, owner.Kind)
	if err != nil {
		return size{}, err
	}
	switch kind.GVK.GroupKind() {
	case object.KindOf[*appsv1.ReplicaSet]().GVK.GroupKind():
		set, err := c.cfg.ReplicaSets.Get(key)
		if err != nil || set.UID != owner.UID {
			return size{}, nil //nolint:nilerr // the cache knows no other error than that it is gone
		}
		above := metav1.GetControllerOfNoCopy(set)
		if above == nil || above.Kind != "Deployment" {
			return size{set.UID, ptr.Deref(set.Spec.Replicas, 1)}, nil
		}
		d, err := c.cfg.Deployments.Get(object.Key{Namespace: key.Namespace, Name: above.Name})
		if err != nil || d.UID != above.UID {
			return size{}, nil //nolint:nilerr // as above
		}
		return size{d.UID, ptr.Deref(d.Spec.Replicas, 1)}, nil
	case object.KindOf[*appsv1.StatefulSet]().GVK.GroupKind():
		set, err := c.cfg.StatefulSets.Get(key)
		if err != nil || set.UID != owner.UID {
			return size{}, nil //nolint:nilerr // as above
		}
		return size{set.UID, ptr.Deref(set.Spec.Replicas, 1)}, nil
	case object.KindOf[*corev1.ReplicationController]().GVK.GroupKind():
		rc, err := c.cfg.Controllers.Get(key)
		if err != nil || rc.UID != owner.UID {
			return size{}, nil //nolint:nilerr // as above
		}
		return size{rc.UID, ptr.Deref(rc.Spec.Replicas, 1)}, nil
	}
	scale, err := c.cfg.Scales.Get(ctx, kind, key)
	switch {
	case apierrors.IsNotFound(err):
		return size{}, nil
	case err != nil:
		return size{}, err
	case scale.UID != owner.UID:
		return size{}, nil
	}
	return size{scale.UID, scale.Spec.Replicas}, nil
}
