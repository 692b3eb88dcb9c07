package app

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
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/events"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/logging"
	"kijabi.dev/scheduler/internal/placement"
	"kijabi.dev/scheduler/internal/queue"
)

// schedulerName is the spec.schedulerName of the pods this scheduler places.
const schedulerName = corev1.DefaultSchedulerName

// batch bounds the pods bound by one transaction.
const batch = 256

// decisionsKept bounds the remembered decisions, and verdictsKept the verdicts in them, of one
// node each; the oldest go first.
const (
	decisionsKept = 10_000
	verdictsKept  = 200_000
)

// scheduler places pods. Its knowledge follows the caches all the time, on every
// master, so that taking over needs no list; run acts on it.
type scheduler struct {
	api    *client.Client
	events *events.Recorder
	clock  clock.PassiveClock
	log    *zap.Logger

	mu        sync.Mutex
	cluster   *placement.Cluster
	queue     *queue.Queue
	decisions map[types.UID]decision
	recent    []types.UID // keys of decisions, oldest first; some may be gone
	verdicts  int         // in all decisions
	names     map[object.Key]types.UID
	wake      chan struct{} // has a token when there is something to do

	waiting map[types.UID]*waiting // pods whose claims are being bound
	recheck bool                   // something changed that those may have waited for
	checkAt time.Time              // when they are looked at though nothing changed
}

// decision is the last word on a pod.
type decision struct {
	placement.Decision
	at       time.Time
	attempts int
}

func newScheduler(api *client.Client, recorder *events.Recorder, clk clock.PassiveClock, log *zap.Logger) *scheduler {
	return &scheduler{
		api: api, events: recorder, clock: clk, log: log,
		cluster: placement.NewCluster(), queue: queue.New(),
		decisions: map[types.UID]decision{}, names: map[object.Key]types.UID{},
		wake: make(chan struct{}, 1), waiting: map[types.UID]*waiting{},
	}
}

func (s *scheduler) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// nodeChanged follows the node cache. Whatever may let a pod fit wakes those that wait.
func (s *scheduler) nodeChanged(before, after *corev1.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if after == nil {
		s.cluster.RemoveNode(before.Name)
		s.storageChanged(func(*corev1.Pod) bool { return false })
		return
	}
	s.cluster.SetNode(after)
	if before == nil || !equality.Semantic.DeepEqual(before.Spec, after.Spec) ||
		!equality.Semantic.DeepEqual(before.Status.Allocatable, after.Status.Allocatable) ||
		!equality.Semantic.DeepEqual(before.Labels, after.Labels) {
		s.queue.Wake()
		s.signal()
	}
}

func finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// podChanged follows the pod cache.
func (s *scheduler) podChanged(before, after *corev1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if before != nil && (after == nil || after.UID != before.UID) {
		s.forget(before)
	}
	if after == nil {
		return
	}
	s.names[object.KeyOf(after)] = after.UID
	switch {
	case after.Spec.NodeName != "":
		s.queue.Remove(after.UID)
		delete(s.waiting, after.UID)
		if finished(after) {
			s.release(after.UID)
			return
		}
		s.cluster.SetPod(after)
		if before != nil && !equality.Semantic.DeepEqual(before.Labels, after.Labels) {
			s.queue.Wake() // affinity may now be met
			s.signal()
		}
	case after.DeletionTimestamp != nil || finished(after) || after.Spec.SchedulerName != schedulerName || len(after.Spec.SchedulingGates) > 0:
		s.queue.Remove(after.UID)
		s.dropWaiting(after.UID)
	case before != nil && before.UID == after.UID && s.queue.Has(after.UID) && sameForPlacement(before, after):
		s.queue.Update(after)
	default:
		s.dropWaiting(after.UID)
		s.queue.Add(after, s.clock.Now())
		s.signal()
	}
}

// forget drops what is known of a pod that is gone. The caller holds mu.
func (s *scheduler) forget(pod *corev1.Pod) {
	s.queue.Remove(pod.UID)
	s.verdicts -= len(s.decisions[pod.UID].Verdicts)
	delete(s.waiting, pod.UID)
	delete(s.decisions, pod.UID)
	if s.names[object.KeyOf(pod)] == pod.UID {
		delete(s.names, object.KeyOf(pod))
	}
	if pod.Spec.NodeName != "" {
		s.release(pod.UID)
	} else {
		s.cluster.RemovePod(pod.UID)
	}
}

// release gives a pod's room back. The caller holds mu.
func (s *scheduler) release(uid types.UID) {
	s.cluster.RemovePod(uid)
	s.queue.Wake()
	s.signal()
}

// run places pods until ctx ends. It begins by forgetting what an earlier term left
// unfinished: bindings that were committed are in the caches.
func (s *scheduler) run(ctx context.Context) error {
	s.mu.Lock()
	s.cluster.ForgetAssumed()
	clear(s.waiting)
	s.queue.Restart()
	s.mu.Unlock()
	for ctx.Err() == nil {
		chosen, unbound, parked, next := s.decide()
		s.bind(ctx, chosen)
		s.bindVolumes(ctx, unbound)
		s.report(ctx, parked)
		if len(chosen)+len(unbound)+len(parked) > 0 {
			continue
		}
		var timer <-chan time.Time
		if next > 0 {
			timer = time.After(next)
		}
		select {
		case <-s.wake:
		case <-timer:
		case <-ctx.Done():
		}
	}
	return nil
}

// placed is a pod with the decision on it.
type placed struct {
	item *queue.Item
	pod  *corev1.Pod
	node string
	why  string
	// volumes is what comes before the binding, or nil.
	volumes *placement.VolumePlan
}

// decide takes due pods and decides on each, assuming those that fit: chosen ones can be
// bound, unbound ones once their claims are. It returns also how long to wait when nothing was
// due; 0 means until woken.
func (s *scheduler) decide() (chosen, unbound, parked []placed, next time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.Now()
	due, later := s.queue.Flush(now)
	if len(s.waiting) > 0 {
		if s.recheck || !now.Before(s.checkAt) {
			s.checkAt = now.Add(lookAgain)
			chosen = s.checkWaiting(now)
		}
		if !later || s.checkAt.Before(due) {
			due, later = s.checkAt, true
		}
	}
	for _, item := range s.queue.Pop(batch, now) {
		s.dropWaiting(item.Pod.UID)
		d := s.cluster.Choose(item.Pod)
		s.remember(item, d, now)
		if d.Node == "" {
			s.queue.Park(item, now)
			parked = append(parked, placed{item: item, pod: item.Pod, why: d.Summary()})
			continue
		}
		s.cluster.Assume(item.Pod, d.Node)
		if p := (placed{item: item, pod: item.Pod, node: d.Node, volumes: d.Volumes}); d.Volumes == nil {
			chosen = append(chosen, p)
		} else {
			s.cluster.AssumeVolumes(item.Pod.UID, d.Node, d.Volumes)
			unbound = append(unbound, p)
		}
	}
	if later {
		next = max(time.Millisecond, due.Sub(now))
	}
	return chosen, unbound, parked, next
}

func (s *scheduler) remember(item *queue.Item, d placement.Decision, now time.Time) {
	uid := item.Pod.UID
	last, known := s.decisions[uid]
	if !known {
		s.recent = append(s.recent, uid)
	}
	s.decisions[uid] = decision{Decision: d, at: now, attempts: item.Attempts}
	s.verdicts += len(d.Verdicts) - len(last.Verdicts)
	for len(s.recent) > 1 && (len(s.recent) > decisionsKept || s.verdicts > verdictsKept) {
		s.verdicts -= len(s.decisions[s.recent[0]].Verdicts)
		delete(s.decisions, s.recent[0])
		s.recent = s.recent[1:]
	}
}

// bind writes bindings in one transaction. Each stands or falls by itself; one
// that failed gives its node's room back.
func (s *scheduler) bind(ctx context.Context, chosen []placed) {
	if len(chosen) == 0 {
		return
	}
	ops := make([]client.Op, 0, len(chosen))
	for _, p := range chosen {
		ops = append(ops, client.BindOp(object.KeyOf(p.pod), p.pod.UID, p.node))
	}
	results, err := s.api.Transact(ctx, ops, true)
	now := s.clock.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, p := range chosen {
		failure := err
		if err == nil {
			failure = results[i].Err
		}
		switch {
		case failure == nil:
			s.log.Debug("bound", logging.Pod(p.pod.Namespace, p.pod.Name), logging.Node(p.node))
			s.events.Record(p.pod, corev1.EventTypeNormal, "Scheduled", fmt.Sprintf("Successfully assigned %s to %s", object.KeyOf(p.pod), p.node))
		case apierrors.IsNotFound(failure) || apierrors.IsConflict(failure):
			// Gone or bound by somebody else; the cache will say which.
			s.cluster.Forget(p.pod.UID)
			s.queue.Retry(p.item, now)
		default:
			s.log.Warn("binding failed", logging.Pod(p.pod.Namespace, p.pod.Name), logging.Node(p.node), zap.Error(failure))
			s.cluster.Forget(p.pod.UID)
			s.queue.Retry(p.item, now)
		}
	}
}

// report writes why pods fit nowhere into their PodScheduled condition, and an
// event, when it has changed.
func (s *scheduler) report(ctx context.Context, parked []placed) {
	var ops []client.Op
	now := metav1.NewTime(s.clock.Now().Truncate(time.Second))
	for _, p := range parked {
		updated := p.pod.DeepCopy()
		if !setUnschedulable(updated, p.why, now) {
			continue
		}
		updated.ResourceVersion = "" // the kubelet has no say before a pod is bound
		ops = append(ops, client.UpdateOp(updated, "status"))
		s.events.Record(p.pod, corev1.EventTypeWarning, "FailedScheduling", p.why)
	}
	results, err := s.api.Transact(ctx, ops, true)
	if err != nil {
		if ctx.Err() == nil {
			s.log.Warn("reporting unschedulable pods failed", zap.Error(err))
		}
		return
	}
	for _, result := range results {
		if result.Err != nil && !apierrors.IsNotFound(result.Err) && !apierrors.IsAlreadyExists(result.Err) {
			s.log.Warn("reporting an unschedulable pod failed", zap.Error(result.Err))
		}
	}
}

// setUnschedulable sets the condition and says whether that changed anything.
func setUnschedulable(pod *corev1.Pod, why string, now metav1.Time) bool {
	want := corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: why, LastTransitionTime: now}
	for i := range pod.Status.Conditions {
		have := &pod.Status.Conditions[i]
		if have.Type != corev1.PodScheduled {
			continue
		}
		if have.Status == want.Status && have.Reason == want.Reason && have.Message == want.Message {
			return false
		}
		if have.Status == want.Status {
			want.LastTransitionTime = have.LastTransitionTime
		}
		*have = want
		return true
	}
	pod.Status.Conditions = append(pod.Status.Conditions, want)
	return true
}
