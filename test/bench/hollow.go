package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
)

const (
	hollowLabel = "bench.kijabi.dev/hollow"
	// together bounds the writes of one transaction of the hollow kubelets.
	together = 250
	// leaseEvery is how often a kubelet renews its Lease.
	leaseEvery = 10 * time.Second
)

// fleet is nodes without machines: one program posts what their kubelets would post, many
// pods in a transaction. What it does is part of what is measured.
type fleet struct {
	api   *client.Client
	nodes []string

	mu      sync.Mutex
	pods    map[types.UID]*corev1.Pod
	due     map[types.UID]*corev1.Pod // pods to be brought up or confirmed to be gone
	kick    chan struct{}             // has a token when there is something due
	changed chan struct{}             // has a token after a change
	seen    int                       // pods ever seen
	alone   map[types.UID]bool        // pods whose status somebody else posts
}

// leaveAlone makes the caller the one who posts a pod's status, as long as it is not deleted.
func (f *fleet) leaveAlone(pod types.UID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.alone[pod] = true
}

// newFleet registers hollow nodes and looks after their pods until ctx ends; stop waits for that.
func newFleet(ctx context.Context, api *client.Client, nodes int) (f *fleet, stop func() error, err error) {
	f = &fleet{
		api: api, pods: map[types.UID]*corev1.Pod{}, due: map[types.UID]*corev1.Pod{},
		kick: make(chan struct{}, 1), changed: make(chan struct{}, 1), alone: map[types.UID]bool{},
	}
	var registrations []client.Op
	for i := range nodes {
		name := fmt.Sprintf("hollow-%04d", i)
		f.nodes = append(f.nodes, name)
		registrations = append(registrations, client.CreateOp(&corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{hollowLabel: "yes", corev1.LabelHostname: name}},
		}))
	}
	if err := f.write(ctx, registrations); err != nil {
		return nil, nil, err
	}
	if err := f.beat(ctx, true); err != nil {
		return nil, nil, err
	}
	if err := f.wellNodes(ctx); err != nil {
		return nil, nil, err
	}
	running, cancel := context.WithCancel(ctx)
	group, groupCtx := errgroup.WithContext(running)
	quiet := func(err error) error {
		if running.Err() != nil {
			return nil
		}
		return err
	}
	group.Go(func() error { return quiet(f.watch(groupCtx)) })
	group.Go(func() error {
		for {
			if err := pause(groupCtx, leaseEvery); err != nil {
				return quiet(err)
			}
			if err := f.beat(groupCtx, false); err != nil && apierrors.IsForbidden(err) {
				return fmt.Errorf("leases of hollow nodes: %w", err)
			} // else between leaders: the next one is in time
		}
	})
	for range 2 {
		group.Go(func() error { return quiet(f.work(groupCtx)) })
	}
	return f, func() error {
		cancel()
		return group.Wait()
	}, nil
}

// write performs writes that must all succeed, in any order.
func (f *fleet) write(ctx context.Context, ops []client.Op) error {
	for chunk := range slices.Chunk(ops, together) {
		if _, err := f.api.Transact(ctx, chunk, false); err != nil {
			return err
		}
	}
	return nil
}

// beat renews all nodes' Leases.
func (f *fleet) beat(ctx context.Context, first bool) error {
	now := metav1.NowMicro()
	seconds := int32(40)
	ops := make([]client.Op, 0, len(f.nodes))
	for _, node := range f.nodes {
		lease := &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: node},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &node, RenewTime: &now, LeaseDurationSeconds: &seconds},
		}
		if first {
			ops = append(ops, client.CreateOp(lease))
		} else {
			ops = append(ops, client.UpdateOp(lease, ""))
		}
	}
	return f.write(ctx, ops)
}

// wellNodes posts that all nodes are Ready, until none has a taint.
func (f *fleet) wellNodes(ctx context.Context) error {
	room := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("64"), corev1.ResourceMemory: resource.MustParse("256Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	for {
		page, err := client.List[*corev1.Node](ctx, f.api, client.ListOptions{LabelSelector: hollowLabel})
		if err != nil {
			return err
		}
		var ops []client.Op
		for _, node := range page.Items {
			if len(node.Spec.Taints) == 0 && len(node.Status.Allocatable) > 0 {
				continue
			}
			now := metav1.Now()
			node.ResourceVersion = ""
			node.Status = corev1.NodeStatus{Capacity: room, Allocatable: room, Conditions: []corev1.NodeCondition{{
				Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", LastTransitionTime: now, LastHeartbeatTime: now,
			}}}
			ops = append(ops, client.UpdateOp(node, "status"))
		}
		if len(ops) == 0 && len(page.Items) == len(f.nodes) {
			return nil
		}
		if err := f.write(ctx, ops); err != nil {
			return err
		}
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
}

func (f *fleet) watch(ctx context.Context) error {
	version := ""
	for {
		for message, err := range client.Watch[*corev1.Pod](ctx, f.api, client.WatchOptions{SendInitialEvents: version == "", ResourceVersion: version}) {
			if err != nil {
				if ctx.Err() != nil {
					return err
				}
				break // the master has gone; another one goes on
			}
			f.note(message)
			if message.Progress != "" {
				version = message.Progress
			}
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

func (f *fleet) note(message client.WatchMessage[*corev1.Pod]) {
	f.mu.Lock()
	for _, event := range message.Events {
		pod := event.Object
		if event.Type == "DELETED" {
			delete(f.pods, pod.UID)
			delete(f.due, pod.UID)
			continue
		}
		if f.pods[pod.UID] == nil {
			f.seen++
		}
		f.pods[pod.UID] = pod
		if pod.Spec.NodeName != "" && (pod.DeletionTimestamp != nil || !ready(pod) && !finished(pod) && !f.alone[pod.UID]) {
			f.due[pod.UID] = pod
		} else {
			delete(f.due, pod.UID)
		}
	}
	work := len(f.due) > 0
	f.mu.Unlock()
	token(f.changed)
	if work {
		token(f.kick)
	}
}

func finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

func token(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// jobImage is of pods that succeed at once.
const jobImage = "registry.kijabi.dev/done:1"

// work posts what is due, as many pods at once as there are.
func (f *fleet) work(ctx context.Context) error {
	for {
		select {
		case <-f.kick:
		case <-ctx.Done():
			return ctx.Err()
		}
		for {
			f.mu.Lock()
			batch := make([]*corev1.Pod, 0, together)
			for uid, pod := range f.due {
				if len(batch) == together {
					break
				}
				batch = append(batch, pod)
				delete(f.due, uid)
			}
			f.mu.Unlock()
			if len(batch) == 0 {
				break
			}
			if err := f.post(ctx, batch); err != nil {
				if ctx.Err() != nil {
					return err
				}
				// Between leaders; all of it is due again.
				f.mu.Lock()
				for _, pod := range batch {
					if f.pods[pod.UID] != nil {
						f.due[pod.UID] = f.pods[pod.UID]
					}
				}
				f.mu.Unlock()
				if err := pause(ctx, 20*time.Millisecond); err != nil {
					return err
				}
			}
		}
	}
}

func (f *fleet) post(ctx context.Context, pods []*corev1.Pod) error {
	zero := int64(0)
	ops := make([]client.Op, len(pods))
	for i, pod := range pods {
		if pod.DeletionTimestamp != nil {
			ops[i] = client.DeleteOp(pod, client.DeleteOptions{GracePeriodSeconds: &zero, UID: pod.UID})
			continue
		}
		ops[i] = client.UpdateOp(upAndRunning(pod), "status")
	}
	results, err := f.api.Transact(ctx, ops, true)
	if err != nil {
		return err
	}
	for i, result := range results {
		if result.Err != nil && !apierrors.IsConflict(result.Err) && !apierrors.IsNotFound(result.Err) {
			return fmt.Errorf("pod %s: %w", object.KeyOf(pods[i]), result.Err)
		}
	}
	return nil
}

// upAndRunning is a pod whose containers run, or have ended well if it is one of a Job.
func upAndRunning(pod *corev1.Pod) *corev1.Pod {
	now := metav1.Now()
	posted := &corev1.Pod{ObjectMeta: *pod.ObjectMeta.DeepCopy(), Spec: pod.Spec}
	posted.ManagedFields = nil
	container := pod.Spec.Containers[0]
	address := fmt.Sprintf("10.200.%d.%d", pod.UID[0], pod.UID[1])
	posted.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: address, PodIPs: []corev1.PodIP{{IP: address}}, StartTime: &now, QOSClass: pod.Status.QOSClass,
		ContainerStatuses: []corev1.ContainerStatus{{
			Name: container.Name, Image: container.Image, ImageID: container.Image, ContainerID: "hollow://" + string(pod.UID), Ready: true,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
		}},
	}
	status := corev1.ConditionTrue
	if container.Image == jobImage {
		posted.Status.Phase, status = corev1.PodSucceeded, corev1.ConditionFalse
		posted.Status.ContainerStatuses[0].Ready = false
		posted.Status.ContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed", StartedAt: now, FinishedAt: now}}
	}
	for _, condition := range []corev1.PodConditionType{corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady, corev1.PodScheduled} {
		posted.Status.Conditions = append(posted.Status.Conditions, corev1.PodCondition{Type: condition, Status: status, LastTransitionTime: now})
	}
	return posted
}

// until waits for a condition on the pods that are there.
func (f *fleet) until(ctx context.Context, what string, holds func(pods map[types.UID]*corev1.Pod) bool) error {
	for {
		f.mu.Lock()
		done, n := holds(f.pods), len(f.pods)
		f.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-f.changed:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w; there are %d pods", what, ctx.Err(), n)
		}
	}
}
