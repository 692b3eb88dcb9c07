package horizontalpodautoscaler

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/logging"
	kubeletv1pb "kijabi.dev/proto/gen/kijabi/kubelet/v1"
	nodev1pb "kijabi.dev/proto/gen/kijabi/node/v1"
)

// Times of asking kubelets.
const (
	// askTimeout bounds one answer.
	askTimeout = 5 * time.Second
	// asksAtOnce is how many kubelets are asked at the same time.
	asksAtOnce = 16
	// unwantedAfter is after how many periods without a question a node is forgotten.
	unwantedAfter = 8
)

// KubeletsConfig describes Kubelets; every field is required.
type KubeletsConfig struct {
	// Nodes reaches the kubelets through the local apiserver.
	Nodes nodev1pb.NodeServiceClient
	// Every is how often a node is asked: what a CPU use is averaged over.
	Every time.Duration
	Clock clock.WithTicker
	Log   *zap.Logger
}

// Kubelets measures pods by asking the kubelets of those nodes whose pods somebody wants
// to know of. It knows no metrics but the use of resources.
type Kubelets struct {
	cfg KubeletsConfig

	mu    sync.Mutex
	nodes map[string]*asked
	wake  chan struct{} // has a token when a node is new
}

// asked is a node with its last two answers.
type asked struct {
	wanted       time.Time
	last, before map[figureOf]figure
	failure      error
}

// figureOf names a container of a pod.
type figureOf struct {
	pod       types.UID
	container string
}

// figure is what a container has used.
type figure struct {
	cpu    uint64 // nanoseconds since its start
	memory uint64 // bytes
	at     time.Time
}

var _ Metrics = (*Kubelets)(nil)

// NewKubelets returns a source that knows nothing yet.
func NewKubelets(cfg KubeletsConfig) *Kubelets {
	return &Kubelets{cfg: cfg, nodes: map[string]*asked{}, wake: make(chan struct{}, 1)}
}

// Run asks until ctx ends.
func (k *Kubelets) Run(ctx context.Context) error {
	ticker := k.cfg.Clock.NewTicker(k.cfg.Every)
	defer ticker.Stop()
	fresh := false // only nodes that were never asked
	for {
		k.askAll(ctx, fresh)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
			fresh = false
		case <-k.wake:
			fresh = true
		}
	}
}

func (k *Kubelets) askAll(ctx context.Context, fresh bool) {
	k.mu.Lock()
	var names []string
	for name, node := range k.nodes {
		switch {
		case k.cfg.Clock.Since(node.wanted) > unwantedAfter*k.cfg.Every:
			delete(k.nodes, name)
		case !fresh || node.last == nil && node.failure == nil:
			names = append(names, name)
		}
	}
	k.mu.Unlock()
	group := lifecycle.NewGroup(ctx)
	next := make(chan string, len(names))
	for _, name := range names {
		next <- name
	}
	close(next)
	for range min(asksAtOnce, len(names)) {
		group.Go(func(ctx context.Context) error {
			for name := range next {
				k.ask(ctx, name)
			}
			return nil
		})
	}
	_ = group.Wait() // asking returns no errors
}

func (k *Kubelets) ask(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	res, err := k.cfg.Nodes.Stats(ctx, &nodev1pb.StatsRequest{Node: name})
	if err != nil {
		k.cfg.Log.Debug("no figures", logging.Node(name), zap.Error(err))
	}
	figures := figuresOf(res.GetStats())
	k.mu.Lock()
	defer k.mu.Unlock()
	node := k.nodes[name]
	if node == nil {
		return
	}
	node.failure = err
	if err != nil {
		node.last, node.before = nil, nil // what is old is not known
		return
	}
	node.last, node.before = figures, merge(node, figures)
}

// merge keeps, as the figures before the new ones, those of the last answer that are
// older than the new: a kubelet may answer twice with what it read once.
func merge(node *asked, figures map[figureOf]figure) map[figureOf]figure {
	out := make(map[figureOf]figure, len(figures))
	for of, f := range figures {
		if old, ok := node.last[of]; ok && old.at.Before(f.at) {
			out[of] = old
		} else if old, ok := node.before[of]; ok {
			out[of] = old
		}
	}
	return out
}

func figuresOf(stats *kubeletv1pb.StatsResponse) map[figureOf]figure {
	out := map[figureOf]figure{}
	for _, pod := range stats.GetPods() {
		for _, c := range pod.GetContainers() {
			use := c.GetUse()
			out[figureOf{types.UID(pod.GetUid()), c.GetName()}] = figure{use.GetCpuNanoseconds(), use.GetMemoryBytes(), use.GetTime().AsTime()}
		}
	}
	return out
}

// Resource implements Metrics. A node whose pods were never asked for is asked soon.
func (k *Kubelets) Resource(resource corev1.ResourceName, container string, pods []*corev1.Pod) (map[string]Sample, error) {
	if resource != corev1.ResourceCPU && resource != corev1.ResourceMemory {
		return nil, fmt.Errorf("no metrics known for resource %s, only for cpu and memory", resource)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	out := map[string]Sample{}
	var failure error
	for _, pod := range pods {
		if pod.Spec.NodeName == "" {
			continue
		}
		node := k.want(pod.Spec.NodeName)
		if node.failure != nil {
			failure = node.failure
		}
		if sample, ok := node.sample(resource, container, pod); ok {
			out[pod.Name] = sample
		}
	}
	if len(out) == 0 {
		if failure != nil {
			return nil, fmt.Errorf("%w: %w", errNoResourceMetrics, failure)
		}
		return nil, errNoResourceMetrics
	}
	return out, nil
}

// want notes that a node's figures are wanted. The caller holds mu.
func (k *Kubelets) want(name string) *asked {
	node := k.nodes[name]
	if node == nil {
		node = &asked{}
		k.nodes[name] = node
		select {
		case k.wake <- struct{}{}:
		default:
		}
	}
	node.wanted = k.cfg.Clock.Now()
	return node
}

// sample adds up a pod's containers; false if one of them is not known.
func (n *asked) sample(resource corev1.ResourceName, container string, pod *corev1.Pod) (Sample, bool) {
	var out Sample
	found := false
	for _, c := range measuredContainers(pod) {
		if container != "" && c.Name != container {
			continue
		}
		of := figureOf{pod.UID, c.Name}
		now, ok := n.last[of]
		if !ok {
			return Sample{}, false
		}
		found = true
		out.Time = now.at
		if resource == corev1.ResourceMemory {
			out.Value += int64(now.memory) * 1000
			continue
		}
		then, ok := n.before[of]
		window := now.at.Sub(then.at)
		if !ok || window <= 0 || now.cpu < then.cpu { // just started, or started anew
			return Sample{}, false
		}
		out.Value += (int64(now.cpu-then.cpu)*1000 + window.Nanoseconds() - 1) / window.Nanoseconds()
		out.Window = window
	}
	return out, found
}

// Pods implements Metrics.
func (*Kubelets) Pods(context.Context, string, labels.Selector, autoscalingv2.MetricIdentifier) (map[string]Sample, error) {
	return nil, errNoCustomMetrics
}

// Object implements Metrics.
func (*Kubelets) Object(context.Context, string, autoscalingv2.CrossVersionObjectReference, autoscalingv2.MetricIdentifier) (int64, error) {
	return 0, errNoCustomMetrics
}

// External implements Metrics.
func (*Kubelets) External(context.Context, string, autoscalingv2.MetricIdentifier) ([]int64, error) {
	return nil, errNoExternalMetrics
}
