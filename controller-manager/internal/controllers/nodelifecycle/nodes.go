// Package nodelifecycle takes nodes that no master hears out of traffic, and
// replaces their pods later, unless so many are silent that the fault is likely elsewhere.
package nodelifecycle

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"

	"kijabi.dev/controller-manager/internal/podset"
	"kijabi.dev/controller-manager/internal/podstate"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
)

// IndexNode is the index of pods by node that the pod informer must have.
const IndexNode = "node"

// stormShare is the part of silent nodes above which nothing is taken out of
// traffic and no pod replaced: then the masters' network is the likelier culprit
// (Kubernetes' large-zone threshold).
const stormShare = 0.55

// suspectAfter is the silence after which a node counts towards a storm, as a part of
// UnreachableAfter: 2.5 s of 4 s. Nodes that fall silent together were last heard up to
// a heartbeat apart, so when the first is due the others are not yet.
const suspectAfter = 0.625

// Config lists what the controllers read; every field is required.
type Config struct {
	Nodes    *informer.Informer[*corev1.Node]
	Pods     *informer.Informer[*corev1.Pod]
	Liveness *Liveness
	// UnreachableAfter is the silence after which a node leaves traffic.
	UnreachableAfter time.Duration
	Clock            clock.PassiveClock
	// Event tells users what happened; it must not block.
	Event func(about object.Object, severity, reason, message string)
}

// storm says whether most nodes are silent at once.
func (c Config) storm() bool {
	there := func(node string) bool {
		_, err := c.Nodes.Get(object.Key{Name: node})
		return err == nil
	}
	return c.Liveness.silentShare(time.Duration(suspectAfter*float64(c.UnreachableAfter)), there) > stormShare
}

// Nodes keeps nodes' taints and the readiness of silent nodes and their pods.
type Nodes struct {
	cfg Config

	told transitions
}

var _ controller.Controller = (*Nodes)(nil)

// NewNodes returns the controller.
func NewNodes(cfg Config) *Nodes { return &Nodes{cfg: cfg} }

// transitions logs when most nodes fall silent and when they are heard again, not for each node
// that is looked at meanwhile.
type transitions struct {
	mu     sync.Mutex
	stormy bool
}

func (t *transitions) note(stormy bool, log *zap.Logger) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case stormy && !t.stormy:
		log.Warn("most nodes are silent at once, leaving them as they are")
	case t.stormy && !stormy:
		log.Info("most nodes are heard again")
	}
	t.stormy = stormy
}

// last is what was noted last.
func (t *transitions) last() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stormy
}

// Name is "nodelifecycle".
func (*Nodes) Name() string { return "nodelifecycle" }

// Inputs are nodes and their liveness.
func (n *Nodes) Inputs() []controller.Input {
	return []controller.Input{
		controller.Self(n.cfg.Nodes),
		controller.Triggered(n.cfg.Liveness.subscribe),
		controller.Reads(n.cfg.Pods),
	}
}

// Outputs are conditions and taints of nodes, and readiness of pods on silent ones.
func (*Nodes) Outputs() []controller.Output {
	return []controller.Output{
		controller.Fields[*corev1.Node]("spec.taints that follow from conditions"),
		controller.StatusPart[*corev1.Node]("conditions of silent nodes"),
		controller.StatusPart[*corev1.Pod]("Ready on silent nodes"),
	}
}

// Reconcile judges one node.
func (n *Nodes) Reconcile(ctx context.Context, key object.Key, w client.Writer, log *zap.Logger) (time.Duration, error) {
	node, err := n.cfg.Nodes.Get(key)
	if apierrors.IsNotFound(err) {
		n.cfg.Liveness.forget(key.Name)
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read node %s: %w", key, err)
	}
	n.cfg.Liveness.posted(node.Name, heartbeat(node))
	silence, known := n.cfg.Liveness.Silence(node.Name)
	silent := known && silence > n.cfg.UnreachableAfter
	stormy := (silent || n.told.last()) && n.cfg.storm()
	n.told.note(stormy, log)
	if silent && stormy {
		return time.Second, nil
	}
	if silent {
		changed, err := n.markUnknown(ctx, w, node, silence, log)
		if err != nil || changed {
			return 0, err // its own write makes the node due again, for its taints
		}
	}
	if err := n.taint(ctx, w, node, silent || !known && ready(node) == corev1.ConditionUnknown); err != nil {
		return 0, err
	}
	if known && !silent {
		return n.cfg.UnreachableAfter - silence + 10*time.Millisecond, nil
	}
	return 0, nil
}

// heartbeat is when a node's kubelet wrote its status, by the kubelet's clock.
func heartbeat(node *corev1.Node) time.Time {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.LastHeartbeatTime.Time
		}
	}
	return time.Time{}
}

func ready(node *corev1.Node) corev1.ConditionStatus {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status
		}
	}
	return corev1.ConditionUnknown
}

// markUnknown says that nothing is known of a node any more and that its pods serve nobody.
func (n *Nodes) markUnknown(ctx context.Context, w client.Writer, node *corev1.Node, silence time.Duration, log *zap.Logger) (changed bool, err error) {
	now := metav1.NewTime(n.cfg.Clock.Now().Truncate(time.Second))
	updated := node.DeepCopy()
	for i := range updated.Status.Conditions {
		c := &updated.Status.Conditions[i]
		if c.Status == corev1.ConditionUnknown || c.Type == corev1.NodeNetworkUnavailable {
			continue
		}
		c.Status, c.Reason, c.LastTransitionTime = corev1.ConditionUnknown, "NodeStatusUnknown", now
		c.Message = "No master hears the kubelet."
		changed = true
	}
	if changed {
		log.Warn("node is silent, taking it out of traffic", zap.Duration("silence", silence))
		if _, err := w.UpdateStatus(ctx, updated); err != nil {
			return false, fmt.Errorf("status of node %s: %w", node.Name, err)
		}
		n.cfg.Event(node, corev1.EventTypeNormal, "NodeNotReady", "Node "+node.Name+" status is now: NodeNotReady")
	}
	var ops []client.Op
	var pods []*corev1.Pod
	for _, pod := range n.cfg.Pods.ByIndex(IndexNode, node.Name) {
		if !podstate.Ready(pod) || podstate.Finished(pod) {
			continue
		}
		ops = append(ops, podset.ConditionOp(pod, corev1.PodCondition{
			Type: corev1.PodReady, Status: corev1.ConditionFalse, Reason: "NodeNotReady", Message: "Node is not ready", LastTransitionTime: now,
		}))
		pods = append(pods, pod)
	}
	results, err := w.Transact(ctx, ops, true)
	if err != nil {
		return changed, fmt.Errorf("pods of node %s: %w", node.Name, err)
	}
	for i, result := range results {
		if result.Err != nil && !apierrors.IsNotFound(result.Err) {
			return changed, fmt.Errorf("pod of node %s: %w", node.Name, result.Err)
		}
		n.cfg.Event(pods[i], corev1.EventTypeWarning, "NodeNotReady", "Node is not ready")
	}
	return changed, nil
}

// taint keeps the taints that follow from the node's conditions.
func (n *Nodes) taint(ctx context.Context, w client.Writer, node *corev1.Node, unreachable bool) error {
	taints := taintsFor(node, unreachable, metav1.NewTime(n.cfg.Clock.Now().Truncate(time.Second)))
	if equality.Semantic.DeepEqual(taints, node.Spec.Taints) {
		return nil
	}
	updated := node.DeepCopy()
	updated.Spec.Taints = taints
	if _, err := w.Update(ctx, updated); err != nil {
		return fmt.Errorf("taints of node %s: %w", node.Name, err)
	}
	return nil
}
