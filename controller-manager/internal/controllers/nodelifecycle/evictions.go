package nodelifecycle

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/controller-manager/internal/podstate"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/kube/toleration"
	"kijabi.dev/platform/logging"
)

// Evictions deletes pods from nodes whose NoExecute taints they do not tolerate,
// once their toleration is over.
type Evictions struct{ cfg Config }

var _ controller.Controller = (*Evictions)(nil)

// NewEvictions returns the controller.
func NewEvictions(cfg Config) *Evictions { return &Evictions{cfg: cfg} }

// Name is "tainteviction".
func (*Evictions) Name() string { return "tainteviction" }

// Inputs are pods, and nodes on behalf of their pods.
func (e *Evictions) Inputs() []controller.Input {
	return []controller.Input{
		controller.Self(e.cfg.Pods),
		controller.Mapped(e.cfg.Nodes, func(node *corev1.Node) []object.Key {
			var keys []object.Key
			for _, pod := range e.cfg.Pods.ByIndex(IndexNode, node.Name) {
				keys = append(keys, object.KeyOf(pod))
			}
			return keys
		}),
	}
}

// Outputs are deletions of pods.
func (*Evictions) Outputs() []controller.Output {
	return []controller.Output{controller.Deletes[*corev1.Pod]("its node is tainted"), controller.StatusPart[*corev1.Pod]("DisruptionTarget on tainted nodes")}
}

// Reconcile judges one pod.
func (e *Evictions) Reconcile(ctx context.Context, key object.Key, w client.Writer, log *zap.Logger) (time.Duration, error) {
	pod, err := e.cfg.Pods.Get(key)
	if apierrors.IsNotFound(err) || err == nil && pod.Spec.NodeName == "" {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read pod %s: %w", key, err)
	}
	node, err := e.cfg.Nodes.Get(object.Key{Name: pod.Spec.NodeName})
	if apierrors.IsNotFound(err) {
		return 0, nil // its pods are ended by another loop
	}
	if err != nil {
		return 0, fmt.Errorf("read node %s: %w", pod.Spec.NodeName, err)
	}
	if pod.DeletionTimestamp != nil || podstate.Finished(pod) {
		return 0, nil
	}
	now := e.cfg.Clock.Now()
	due, evict := evictionTime(pod, node, now)
	if !evict {
		return 0, nil
	}
	if left := due.Sub(now); left > 0 {
		return left, nil
	}
	// The taint may be an old leader's word. What the masters hear now decides.
	if silence, known := e.cfg.Liveness.Silence(node.Name); hasTaint(node, corev1.TaintNodeUnreachable) &&
		(!known || silence <= e.cfg.UnreachableAfter || e.cfg.storm()) {
		return time.Second, nil
	}
	log.Info("evicting pod from tainted node", logging.Node(node.Name))
	if err := e.explain(ctx, w, pod); err != nil {
		return 0, err
	}
	err = w.Delete(ctx, pod, client.DeleteOptions{UID: pod.UID})
	switch {
	case err == nil:
		e.cfg.Event(pod, corev1.EventTypeNormal, "TaintManagerEviction", "Marking for deletion Pod "+key.String())
	case apierrors.IsNotFound(err):
		err = nil
	}
	return 0, err
}

// explain says in a pod's status why it is deleted: jobs may be told not to count such failures.
func (e *Evictions) explain(ctx context.Context, w client.Writer, pod *corev1.Pod) error {
	if c := podstate.Condition(pod, corev1.DisruptionTarget); c != nil && c.Status == corev1.ConditionTrue {
		return nil
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID},
		"status": map[string]any{"conditions": []corev1.PodCondition{{ // merged by type
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(e.cfg.Clock.Now()),
			Reason: "DeletionByTaintManager", Message: "Taint manager: deleting due to NoExecute taint",
		}}},
	})
	if err != nil {
		return err
	}
	if _, err := w.Patch(ctx, pod, types.StrategicMergePatchType, patch, "status"); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("status of pod %s: %w", object.KeyOf(pod), err)
	}
	return nil
}

func hasTaint(node *corev1.Node, key string) bool {
	for _, t := range node.Spec.Taints {
		if t.Key == key {
			return true
		}
	}
	return false
}

// evictionTime returns when a pod must leave its node; false when it may stay. A taint without
// a time has just been added: the other loop is about to note when.
func evictionTime(pod *corev1.Pod, node *corev1.Node, now time.Time) (time.Time, bool) {
	var earliest time.Time
	evict := false
	for i := range node.Spec.Taints {
		taint := &node.Spec.Taints[i]
		if taint.Effect != corev1.TaintEffectNoExecute {
			continue
		}
		added := now
		if taint.TimeAdded != nil {
			added = taint.TimeAdded.Time
		}
		seconds, tolerated := toleration.Seconds(pod, taint)
		if tolerated && seconds == nil {
			continue // for ever
		}
		due := added
		if tolerated {
			due = added.Add(time.Duration(max(0, *seconds)) * time.Second)
		}
		if !evict || due.Before(earliest) {
			earliest, evict = due, true
		}
	}
	return earliest, evict
}
