package node

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"

	"kijabi.dev/kubelet/internal/runtime"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/lifecycle"
)

const (
	// postEvery bounds the age of the posted status when nothing changes.
	postEvery = 5 * time.Minute
	// lookEvery is how often a healthy machine looks at itself; an unready one looks more often.
	lookEvery      = 10 * time.Second
	lookWhenUnwell = 200 * time.Millisecond
	retryPost      = time.Second
	maxImages      = 50
	pidReserve     = 10 // percent
)

// Config of a Reporter; every field is required.
type Config struct {
	Kubelet *configv1.KubeletConfiguration
	Facts   Facts
	Client  *client.Client
	Runtime runtime.Runtime
	// Ready is called when the runtime and the pod network became ready. It must not block.
	Ready func()
	// Event tells users what happened to the node. It must not block.
	Event   func(about object.Object, severity, reason, message string)
	Version string
	Clock   clock.WithTicker
	Log     *zap.Logger
}

// Reporter keeps the Node object.
type Reporter struct {
	labels atomic.Pointer[map[string]string] // as the Node last had them

	cfg    Config
	ready  bool
	posted time.Time
	met    bool // the node's object has been read or made once
	images []corev1.ContainerImage
	listed time.Time
}

// NewReporter returns a reporter that works once it runs.
func NewReporter(cfg Config) *Reporter { return &Reporter{cfg: cfg} }

// Run registers the machine and reports until ctx ends.
func (r *Reporter) Run(ctx context.Context) error {
	health := make(chan corev1.NodeStatus, 1)
	return lifecycle.RunAll(ctx,
		func(ctx context.Context) error { return r.look(ctx, health) },
		func(ctx context.Context) error { return r.post(ctx, health) })
}

// look watches the machine. It does not wait for masters: readiness matters to pods
// of a snapshot, too.
func (r *Reporter) look(ctx context.Context, health chan corev1.NodeStatus) error {
	for {
		status := r.status(ctx)
		select {
		case <-health: // only the newest matters
		default:
		}
		health <- status
		ready := isReady(&status)
		if ready && !r.ready {
			r.cfg.Ready()
		}
		r.ready = ready
		wait := lookEvery
		if !ready {
			wait = lookWhenUnwell
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.cfg.Clock.After(wait):
		}
	}
}

func isReady(status *corev1.NodeStatus) bool {
	return slices.ContainsFunc(status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// post writes what changed.
func (r *Reporter) post(ctx context.Context, health <-chan corev1.NodeStatus) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case status := <-health:
			for {
				err := r.write(ctx, status)
				if apierrors.IsConflict(err) {
					continue // somebody else wrote in between; read again
				}
				if err == nil || ctx.Err() != nil {
					break
				}
				r.cfg.Log.Warn("node status not posted", zap.Error(err))
				select {
				case <-ctx.Done():
				case status = <-health:
				case <-r.cfg.Clock.After(retryPost):
				}
			}
		}
	}
}

func (r *Reporter) write(ctx context.Context, status corev1.NodeStatus) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	node, err := client.Get[*corev1.Node](ctx, r.cfg.Client, object.Key{Name: r.cfg.Kubelet.NodeName})
	registered := apierrors.IsNotFound(err)
	if registered {
		created, err := r.cfg.Client.Create(ctx, r.register(status))
		if err != nil {
			return fmt.Errorf("register node %s: %w", r.cfg.Kubelet.NodeName, err)
		}
		r.cfg.Log.Info("registered")
		node = created.(*corev1.Node)
	} else if err != nil {
		return fmt.Errorf("read node %s: %w", r.cfg.Kubelet.NodeName, err)
	}
	if labeled := node.DeepCopy(); r.label(labeled) {
		updated, err := r.cfg.Client.Update(ctx, labeled)
		if err != nil {
			return fmt.Errorf("label node %s: %w", r.cfg.Kubelet.NodeName, err)
		}
		node = updated.(*corev1.Node)
	}
	r.labels.Store(&node.Labels)
	wasReady := isReady(&node.Status) && !registered
	if !r.met {
		r.met = true
		r.cfg.Event(node, corev1.EventTypeNormal, "Starting", "Starting kubelet.")
	}
	merged := mergeStatus(&node.Status, &status, r.cfg.Clock.Now().Truncate(time.Second))
	if sameStatus(merged, &node.Status) && r.cfg.Clock.Since(r.posted) < postEvery {
		return nil
	}
	now := metav1.NewTime(r.cfg.Clock.Now())
	for i := range merged.Conditions {
		merged.Conditions[i].LastHeartbeatTime = now
	}
	next := node.DeepCopy()
	next.Status = *merged
	if _, err := r.cfg.Client.UpdateStatus(ctx, next); err != nil {
		return fmt.Errorf("post status of node %s: %w", r.cfg.Kubelet.NodeName, err)
	}
	r.posted = r.cfg.Clock.Now()
	if ready := isReady(merged); ready != wasReady {
		reason := map[bool]string{true: "NodeReady", false: "NodeNotReady"}[ready]
		r.cfg.Event(node, corev1.EventTypeNormal, reason, "Node "+node.Name+" status is now: "+reason)
	}
	return nil
}

// register returns the object that a machine joins with.
func (r *Reporter) register(status corev1.NodeStatus) *corev1.Node {
	complete := mergeStatus(&corev1.NodeStatus{}, &status, r.cfg.Clock.Now().Truncate(time.Second))
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: r.cfg.Kubelet.NodeName}, Status: *complete}
	r.label(node)
	for _, taint := range r.cfg.Kubelet.Taints {
		node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: taint.Key, Value: taint.Value, Effect: corev1.TaintEffect(taint.Effect)})
	}
	return node
}

// Labels returns those of the Node as it was last read, before that those that the kubelet
// answers for. They are shared.
func (r *Reporter) Labels() map[string]string {
	if known := r.labels.Load(); known != nil {
		return *known
	}
	node := &corev1.Node{}
	r.label(node)
	return node.Labels
}

// label sets the labels that the kubelet answers for; others are left alone.
func (r *Reporter) label(node *corev1.Node) (changed bool) {
	if node.Labels == nil {
		node.Labels = map[string]string{}
	}
	set := func(key, value string) {
		// A label may be there for its key alone, with an empty value.
		if present, known := node.Labels[key]; !known || present != value {
			node.Labels[key], changed = value, true
		}
	}
	set(corev1.LabelHostname, r.cfg.Kubelet.NodeName)
	set(corev1.LabelOSStable, r.cfg.Facts.Info.OperatingSystem)
	set(corev1.LabelArchStable, r.cfg.Facts.Info.Architecture)
	for key, value := range r.cfg.Kubelet.Labels {
		if _, known := node.Labels[key]; !known { // an operator's change stays
			set(key, value)
		}
	}
	return changed
}

func (r *Reporter) status(ctx context.Context) corev1.NodeStatus {
	cfg, facts := r.cfg.Kubelet, r.cfg.Facts
	status := corev1.NodeStatus{
		Capacity: facts.Capacity(cfg.MaxPods), Allocatable: facts.Allocatable(cfg.MaxPods),
		Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: cfg.NodeIP},
			{Type: corev1.NodeHostName, Address: cfg.NodeName},
		},
		NodeInfo: facts.Info,
	}
	status.NodeInfo.KubeletVersion = r.cfg.Version
	add := func(kind corev1.NodeConditionType, ok bool, reason, message string) {
		condition := corev1.NodeCondition{Type: kind, Status: corev1.ConditionFalse, Reason: reason, Message: message}
		if ok {
			condition.Status = corev1.ConditionTrue
		}
		status.Conditions = append(status.Conditions, condition)
	}
	memory, _ := memoryInfo() // read at start, so it can be read now
	if available := memory["MemAvailable"]; available < reservedMemory {
		add(corev1.NodeMemoryPressure, true, "KubeletHasInsufficientMemory", fmt.Sprintf("only %d MiB are available", available>>20))
	} else {
		add(corev1.NodeMemoryPressure, false, "KubeletHasSufficientMemory", "kubelet has sufficient memory available")
	}
	if free := freePercent(cfg.DataDir); free < diskReserve {
		add(corev1.NodeDiskPressure, true, "KubeletHasDiskPressure", fmt.Sprintf("only %d%% of the disk below %s are free", free, cfg.DataDir))
	} else {
		add(corev1.NodeDiskPressure, false, "KubeletHasNoDiskPressure", "kubelet has no disk pressure")
	}
	if current, limit := processes(); limit > 0 && current > limit/100*(100-pidReserve) {
		add(corev1.NodePIDPressure, true, "KubeletHasInsufficientPID", fmt.Sprintf("%d of %d processes exist", current, limit))
	} else {
		add(corev1.NodePIDPressure, false, "KubeletHasSufficientPID", "kubelet has sufficient PID available")
	}
	answer, err := r.cfg.Runtime.Status(ctx)
	switch {
	case err != nil:
		add(corev1.NodeReady, false, "KubeletNotReady", "container runtime: "+err.Error())
	case !answer.Ready:
		add(corev1.NodeReady, false, "KubeletNotReady", "container runtime is not ready: "+answer.Reason)
	case !hasNetworkConfig(cfg.CNIConfigDir):
		add(corev1.NodeReady, false, "KubeletNotReady", "no network configuration in "+cfg.CNIConfigDir+" yet; the network agent writes it")
	case !answer.NetworkReady:
		add(corev1.NodeReady, false, "KubeletNotReady", "container runtime network is not ready: "+answer.NetworkReason)
	default:
		add(corev1.NodeReady, true, "KubeletReady", "kubelet is posting ready status")
	}
	if err == nil {
		status.NodeInfo.ContainerRuntimeVersion = answer.Name + "://" + answer.Version
		r.listImages(ctx)
	}
	status.Images = r.images
	return status
}

// listImages refreshes the list now and then: it informs, nothing depends on it.
func (r *Reporter) listImages(ctx context.Context) {
	if r.cfg.Clock.Since(r.listed) < time.Minute {
		return
	}
	images, err := r.cfg.Runtime.ListImages(ctx)
	if err != nil {
		return
	}
	r.listed = r.cfg.Clock.Now()
	slices.SortFunc(images, func(a, b runtime.Image) int {
		return cmp.Or(cmp.Compare(b.Size, a.Size), cmp.Compare(a.ID, b.ID))
	})
	r.images = nil
	for _, image := range images[:min(len(images), maxImages)] {
		r.images = append(r.images, corev1.ContainerImage{Names: append(slices.Clone(image.Digests), image.Names...), SizeBytes: int64(image.Size)})
	}
}

// mergeStatus puts ours over the present one, keeping transition times and what others wrote.
func mergeStatus(old, ours *corev1.NodeStatus, now time.Time) *corev1.NodeStatus {
	merged := old.DeepCopy()
	merged.Capacity, merged.Allocatable, merged.NodeInfo, merged.Images = ours.Capacity, ours.Allocatable, ours.NodeInfo, ours.Images
	for _, address := range ours.Addresses {
		if at := slices.IndexFunc(merged.Addresses, func(a corev1.NodeAddress) bool { return a.Type == address.Type }); at >= 0 {
			merged.Addresses[at] = address
		} else {
			merged.Addresses = append(merged.Addresses, address)
		}
	}
	for _, condition := range ours.Conditions {
		condition.LastTransitionTime, condition.LastHeartbeatTime = metav1.NewTime(now), metav1.NewTime(now)
		at := slices.IndexFunc(merged.Conditions, func(c corev1.NodeCondition) bool { return c.Type == condition.Type })
		if at < 0 {
			merged.Conditions = append(merged.Conditions, condition)
			continue
		}
		if before := &merged.Conditions[at]; before.Status == condition.Status {
			condition.LastTransitionTime, condition.LastHeartbeatTime = before.LastTransitionTime, before.LastHeartbeatTime
		}
		merged.Conditions[at] = condition
	}
	return merged
}

func sameStatus(a, b *corev1.NodeStatus) bool {
	left, err := a.Marshal()
	right, other := b.Marshal()
	return err == nil && other == nil && bytes.Equal(left, right)
}

func freePercent(path string) uint64 {
	var filesystem unix.Statfs_t
	if err := unix.Statfs(path, &filesystem); err != nil || filesystem.Blocks == 0 {
		return 100
	}
	return filesystem.Bavail * 100 / filesystem.Blocks
}
