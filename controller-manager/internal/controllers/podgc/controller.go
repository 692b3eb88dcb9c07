// Package podgc ends pods that no kubelet ever will: those of nodes that are no more, those that
// are deleted before they had a node, and those on nodes that are out of service. It also bounds
// how many finished pods are kept.
package podgc

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"kijabi.dev/controller-manager/internal/podstate"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/logging"
)

// Indexes that the pod informer must have.
const (
	// IndexNode is of pods by node.
	IndexNode = "node"
	// IndexEnded is of pods that have finished; see Ended.
	IndexEnded = "podgc-ended"
)

// Ended is IndexEnded's function.
func Ended(pod *corev1.Pod) []string {
	if !podstate.Finished(pod) {
		return nil
	}
	return []string{""}
}

const (
	// Threshold is the usual number of finished pods that are kept.
	Threshold = 12500
	// quarantine is how long a node has to be unknown before its pods are ended. It may be
	// registered anew.
	quarantine = 40 * time.Second
	// sweep is the least time between two counts of the finished pods.
	sweep = 20 * time.Second
	// batch bounds one transaction.
	batch = 250
)

// Config lists what the controller reads; every field is required.
type Config struct {
	Pods  *informer.Informer[*corev1.Pod]
	Nodes *informer.Informer[*corev1.Node]
	// Live reads a node past the cache.
	Live func(ctx context.Context, key object.Key) (*corev1.Node, error)
	// Threshold is how many finished pods are kept; less than 0 keeps all.
	Threshold int
	Clock     clock.PassiveClock
}

// Controller ends pods.
type Controller struct {
	cfg Config

	mu      sync.Mutex
	unknown map[string]time.Time // nodes that pods name and that are not known, since when
	swept   time.Time
}

var _ controller.Controller = (*Controller)(nil)

// New returns the controller.
func New(cfg Config) *Controller { return &Controller{cfg: cfg, unknown: map[string]time.Time{}} }

// Name is "podgc".
func (*Controller) Name() string { return "podgc" }

// ended is the key of all finished pods together. No pod is without a namespace.
func ended() object.Key { return object.Key{Name: "ended"} }

// Inputs are pods, and nodes on behalf of their pods.
func (c *Controller) Inputs() []controller.Input {
	return []controller.Input{
		controller.Mapped(c.cfg.Pods, func(pod *corev1.Pod) []object.Key {
			keys := []object.Key{object.KeyOf(pod)}
			if podstate.Finished(pod) {
				keys = append(keys, ended())
			}
			return keys
		}),
		controller.Mapped(c.cfg.Nodes, func(node *corev1.Node) []object.Key {
			if _, err := c.cfg.Nodes.Get(object.Key{Name: node.Name}); err == nil && !outOfService(node) {
				return nil // its heartbeats concern nobody here
			}
			var keys []object.Key
			for _, pod := range c.cfg.Pods.ByIndex(IndexNode, node.Name) {
				keys = append(keys, object.KeyOf(pod))
			}
			return keys
		}),
	}
}

// Outputs are the ends of pods.
func (*Controller) Outputs() []controller.Output {
	return []controller.Output{
		controller.StatusPart[*corev1.Pod]("phase of pods that no kubelet reports"),
		controller.Deletes[*corev1.Pod]("no kubelet ends it, or too many have finished"),
	}
}

// Reconcile judges one pod, or counts those that have finished.
func (c *Controller) Reconcile(ctx context.Context, key object.Key, w client.Writer, log *zap.Logger) (time.Duration, error) {
	if key == ended() {
		return c.bound(ctx, w, log)
	}
	pod, err := c.cfg.Pods.Get(key)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read pod %s: %w", key, err)
	}
	node, err := c.cfg.Nodes.Get(object.Key{Name: pod.Spec.NodeName})
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, fmt.Errorf("read node %s: %w", pod.Spec.NodeName, err)
	}
	switch judge(pod, node) {
	case homeless:
		if left, err := c.gone(ctx, pod.Spec.NodeName); err != nil || left > 0 {
			return left, err
		}
		log.Info("ending pod of a node that is no more", logging.Node(pod.Spec.NodeName))
		return 0, end(ctx, w, pod, &corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(c.cfg.Clock.Now()),
			Reason: "DeletionByPodGC", Message: "PodGC: node no longer exists",
		})
	case unbound:
		log.Info("ending deleted pod that had no node")
		return 0, end(ctx, w, pod, nil)
	case abandoned:
		log.Info("ending deleted pod of a node that is out of service", logging.Node(pod.Spec.NodeName))
		return 0, end(ctx, w, pod, nil)
	case stays:
	}
	return 0, nil
}

// gone returns 0 once a node is known not to exist, else how long to wait until that is asked
// again. Only the apiserver can tell that there is none.
func (c *Controller) gone(ctx context.Context, node string) (time.Duration, error) {
	now := c.cfg.Clock.Now()
	c.mu.Lock()
	since, noted := c.unknown[node]
	if !noted {
		since = now
		c.unknown[node] = now
		c.forgetKnown()
	}
	c.mu.Unlock()
	if left := quarantine - now.Sub(since); left > 0 {
		return left, nil
	}
	_, err := c.cfg.Live(ctx, object.Key{Name: node})
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read node %s: %w", node, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.unknown, node)
	return quarantine, nil
}

// forgetKnown drops nodes that have appeared, and those that no pod names any more. The caller
// holds mu.
func (c *Controller) forgetKnown() {
	for node := range c.unknown {
		if _, err := c.cfg.Nodes.Get(object.Key{Name: node}); err == nil || len(c.cfg.Pods.ByIndex(IndexNode, node)) == 0 {
			delete(c.unknown, node)
		}
	}
}

// end marks a pod as failed, unless it has ended already, and removes it without waiting.
func end(ctx context.Context, w client.Writer, pod *corev1.Pod, condition *corev1.PodCondition) error {
	if !podstate.Finished(pod) {
		status := map[string]any{"phase": corev1.PodFailed}
		if condition != nil {
			status["conditions"] = []*corev1.PodCondition{condition} // merged by type
		}
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
		if err != nil {
			return err
		}
		if _, err := w.Patch(ctx, pod, types.StrategicMergePatchType, patch, "status"); err != nil {
			if apierrors.IsNotFound(err) {
				return nil
			}
			return fmt.Errorf("status of pod %s: %w", object.KeyOf(pod), err)
		}
	}
	err := w.Delete(ctx, pod, client.DeleteOptions{UID: pod.UID, GracePeriodSeconds: ptr.To[int64](0)})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete pod %s: %w", object.KeyOf(pod), err)
	}
	return nil
}

// bound removes finished pods beyond the threshold.
func (c *Controller) bound(ctx context.Context, w client.Writer, log *zap.Logger) (time.Duration, error) {
	now := c.cfg.Clock.Now()
	c.mu.Lock()
	left := min(sweep, sweep-now.Sub(c.swept))
	if left <= 0 {
		c.swept = now
	}
	c.mu.Unlock()
	if left > 0 {
		return left, nil
	}
	pods := excess(c.cfg.Pods.ByIndex(IndexEnded, ""), c.cfg.Threshold)
	if len(pods) > 0 {
		log.Info("removing the oldest finished pods", zap.Int("count", len(pods)))
	}
	for some := range slices.Chunk(pods, batch) {
		ops := make([]client.Op, len(some))
		for i, pod := range some {
			ops[i] = client.DeleteOp(pod, client.DeleteOptions{UID: pod.UID, GracePeriodSeconds: ptr.To[int64](0)})
		}
		results, err := w.Transact(ctx, ops, true)
		if err != nil {
			return 0, fmt.Errorf("remove finished pods: %w", err)
		}
		for _, result := range results {
			if result.Err != nil && !apierrors.IsNotFound(result.Err) {
				return 0, fmt.Errorf("remove finished pods: %w", result.Err)
			}
		}
	}
	return 0, nil
}
