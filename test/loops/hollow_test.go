package loops

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
	nodev1pb "kijabi.dev/proto/gen/kijabi/node/v1"
	"kijabi.dev/test/harness"
)

// unreadyAnnotation on a pod makes its hollow kubelet say that it is not Ready.
const unreadyAnnotation = "loops.kijabi.dev/unready"

// endsAnnotation on a pod makes its hollow kubelet say that it has ended: with the exit code that
// is the annotation's value, or for a pod of a completion index with that of an entry such as
// "3=1". Without it a pod runs until it is deleted.
const endsAnnotation = "loops.kijabi.dev/ends"

// brokenImage never becomes Ready.
const brokenImage = "broken"

// kubelets stand in for the kubelets of hollow nodes: they send heartbeats and post
// the status of nodes and pods, but nothing runs.
type kubelets struct {
	s    *stack
	ctx  context.Context
	done sync.WaitGroup

	mu    sync.Mutex
	beats map[string]context.CancelFunc // running heartbeats by node
	ips   map[types.UID]string
	errs  []error
}

func newKubelets(t *harness.T, s *stack) *kubelets {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	k := &kubelets{s: s, ctx: ctx, beats: map[string]context.CancelFunc{}, ips: map[types.UID]string{}}
	k.done.Go(k.watch)
	t.Cleanup(func() {
		cancel()
		k.done.Wait()
		for _, err := range k.errs {
			t.Errorf("hollow kubelet: %v", err)
		}
	})
	return k
}

func (k *kubelets) fail(err error) {
	// What changed meanwhile is seen again.
	if err == nil || k.ctx.Err() != nil || apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.errs = append(k.errs, err)
}

// hollowNode is a node as its kubelet registers it.
func hollowNode(name, cpu string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"kubernetes.io/hostname": name}}, Status: hollowStatus(cpu)}
}

func hollowStatus(cpu string) corev1.NodeStatus {
	room := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse("64Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	return corev1.NodeStatus{
		Capacity: room, Allocatable: room,
		Conditions: []corev1.NodeCondition{{
			Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", LastTransitionTime: metav1.Now(), LastHeartbeatTime: metav1.Now(),
		}},
	}
}

// register stores a node with its status.
func (s *stack) register(ctx context.Context, node *corev1.Node) error {
	ctx, cancel := context.WithTimeout(ctx, request)
	defer cancel()
	stored, err := s.api.Create(ctx, node)
	if err != nil {
		return err
	}
	ready := stored.(*corev1.Node)
	ready.ResourceVersion, ready.Status = "", node.Status // loops may have written since
	_, err = s.api.UpdateStatus(ctx, ready)
	return err
}

// well waits until a node that sends heartbeats is Ready and without taints. As a
// real kubelet does, it posts its status anew when somebody changed it.
func (k *kubelets) well(t *harness.T, node string) {
	t.Helper()
	harness.Eventually(t, patience, "node "+node+" is healthy", func() error {
		err := healthy(k.s, node)()
		if err == nil {
			return nil
		}
		have, getErr := get[*corev1.Node](k.s, "", node)
		if getErr != nil || harness.NodeReady(have) == corev1.ConditionTrue {
			return errors.Join(err, getErr)
		}
		have.Status = hollowStatus("64")
		ctx, cancel := contextOf(t)
		defer cancel()
		_, postErr := k.s.api.UpdateStatus(ctx, have)
		return errors.Join(err, postErr)
	})
}

// beat sends heartbeats of a node until silence; it returns after the first was answered.
func (k *kubelets) beat(t *harness.T, node string) {
	t.Helper()
	conn, err := rpc.Dial(k.s.at(configv1.PortGRPC), k.s.identity(t, pki.ComponentKubelet, node))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(k.ctx)
	k.mu.Lock()
	k.beats[node] = cancel
	k.mu.Unlock()
	heard := make(chan error, 1)
	k.done.Go(func() {
		defer func() { _ = conn.Close() }()
		err := heartbeats(ctx, conn, heard)
		if ctx.Err() == nil {
			k.fail(fmt.Errorf("heartbeats of %s: %w", node, err))
		}
	})
	if err := <-heard; err != nil {
		t.Fatalf("first heartbeat of %s: %v", node, err)
	}
}

func heartbeats(ctx context.Context, conn grpc.ClientConnInterface, heard chan<- error) error {
	stream, err := nodev1pb.NewNodeServiceClient(conn).Heartbeat(ctx)
	if err != nil {
		heard <- err
		return err
	}
	for sequence := uint64(1); ; sequence++ {
		err := stream.Send(&nodev1pb.HeartbeatRequest{Sequence: sequence})
		var answer *nodev1pb.HeartbeatResponse
		if err == nil {
			answer, err = stream.Recv()
		}
		if sequence == 1 {
			heard <- err
		}
		if err != nil {
			return err
		}
		if answer.GetSequence() != sequence {
			return fmt.Errorf("heartbeat %d is answered as %d", sequence, answer.GetSequence())
		}
		pause := time.NewTimer(answer.GetInterval().AsDuration())
		select {
		case <-pause.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// silence ends the heartbeats of nodes; their pods are no longer looked after.
func (k *kubelets) silence(nodes ...string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, node := range nodes {
		k.beats[node]()
		delete(k.beats, node)
	}
}

// revive brings silent nodes back: they become healthy and look after their pods.
func (k *kubelets) revive(t *harness.T, nodes ...string) {
	t.Helper()
	for _, node := range nodes {
		k.beat(t, node)
	}
	for _, node := range nodes {
		k.well(t, node)
	}
	for _, pod := range list[*corev1.Pod](t, k.s, "") {
		k.look(pod)
	}
}

// watch looks after every pod that changes.
func (k *kubelets) watch() {
	for k.ctx.Err() == nil {
		for message, err := range client.Watch[*corev1.Pod](k.ctx, k.s.api, client.WatchOptions{SendInitialEvents: true}) {
			if err != nil {
				k.fail(err)
			}
			for _, event := range message.Events {
				if event.Type != "DELETED" {
					k.look(event.Object)
				}
			}
		}
	}
}

// look does for one pod what its kubelet would.
func (k *kubelets) look(pod *corev1.Pod) {
	k.mu.Lock()
	_, alive := k.beats[pod.Spec.NodeName]
	ip, ok := k.ips[pod.UID]
	if !ok {
		ip = fmt.Sprintf("10.200.%d.%d", len(k.ips)/250, 1+len(k.ips)%250)
		k.ips[pod.UID] = ip
	}
	k.mu.Unlock()
	if !alive {
		return
	}
	ctx, cancel := context.WithTimeout(k.ctx, request)
	defer cancel()
	if pod.DeletionTimestamp != nil {
		if slices.Contains(pod.Finalizers, batchv1.JobTrackingFinalizer) { // its job waits to be told how it ended
			if !ended(pod) {
				_, err := k.s.api.UpdateStatus(ctx, endedWith(pod, 143))
				k.fail(err)
				return
			}
			if grace := pod.DeletionGracePeriodSeconds; grace != nil && *grace == 0 {
				return // confirmed already
			}
		}
		now := int64(0)
		k.fail(k.s.api.Delete(ctx, pod, client.DeleteOptions{GracePeriodSeconds: &now, UID: pod.UID}))
		return
	}
	if ended(pod) {
		return
	}
	if code, ends := exitCode(pod); ends {
		_, err := k.s.api.UpdateStatus(ctx, endedWith(pod, code))
		k.fail(err)
		return
	}
	status := corev1.ConditionTrue
	if pod.Annotations[unreadyAnnotation] != "" || pod.Spec.Containers[0].Image == brokenImage {
		status = corev1.ConditionFalse
	}
	if harness.PodReady(pod) == status {
		return
	}
	posted := pod.DeepCopy()
	posted.Status.Phase, posted.Status.PodIP, posted.Status.PodIPs = corev1.PodRunning, ip, []corev1.PodIP{{IP: ip}}
	if posted.Status.StartTime == nil {
		posted.Status.StartTime = &metav1.Time{Time: time.Now()}
	}
	posted.Status.Conditions = slices.DeleteFunc(posted.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady })
	posted.Status.Conditions = append(posted.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: status, LastTransitionTime: metav1.Now()})
	_, err := k.s.api.UpdateStatus(ctx, posted)
	k.fail(err)
}

func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// exitCode is the code that a pod is to end with; false if it is to run on.
func exitCode(pod *corev1.Pod) (int32, bool) {
	code, found := "", false
	for entry := range strings.FieldsSeq(pod.Annotations[endsAnnotation]) {
		index, of, isOne := strings.Cut(entry, "=")
		switch {
		case !isOne && !found:
			code, found = entry, true
		case isOne && index == pod.Annotations[batchv1.JobCompletionIndexAnnotation]:
			code, found = of, true
		}
	}
	n, err := strconv.ParseInt(code, 10, 32)
	return int32(n), found && err == nil
}

// endedWith is a pod as its kubelet posts it when its containers have ended.
func endedWith(pod *corev1.Pod, code int32) *corev1.Pod {
	posted := pod.DeepCopy()
	posted.Status.Phase = corev1.PodSucceeded
	if code != 0 {
		posted.Status.Phase = corev1.PodFailed
	}
	posted.Status.ContainerStatuses = nil
	for _, c := range pod.Spec.Containers {
		posted.Status.ContainerStatuses = append(posted.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, Image: c.Image, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, FinishedAt: metav1.Now()}},
		})
	}
	posted.Status.Conditions = slices.DeleteFunc(posted.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady })
	posted.Status.Conditions = append(posted.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionFalse, LastTransitionTime: metav1.Now()})
	return posted
}

func isReady(pod *corev1.Pod) bool { return harness.PodReady(pod) == corev1.ConditionTrue }

// history follows every change of a namespace's pods, in order.
type history struct {
	mu      sync.Mutex
	created map[types.UID]string // names of all pods there ever were
	pods    map[types.UID]*corev1.Pod
	wrong   []string
	changed chan struct{} // has a token after a change
}

// follow watches a namespace; check is called after every change with all pods that are there.
func follow(t *harness.T, s *stack, ns string, check func(before, after *corev1.Pod, all map[types.UID]*corev1.Pod) string) *history {
	t.Helper()
	h := &history{created: map[types.UID]string{}, pods: map[types.UID]*corev1.Pod{}, changed: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	started, ended := make(chan struct{}), make(chan error, 1)
	var done sync.WaitGroup
	done.Go(func() {
		for message, err := range client.Watch[*corev1.Pod](ctx, s.api, client.WatchOptions{Namespace: ns, SendInitialEvents: true}) {
			if err != nil {
				ended <- err
				return
			}
			h.note(message, check)
			if message.InitialEnd {
				close(started)
			}
		}
		ended <- errors.New("the watch has ended")
	})
	t.Cleanup(func() {
		cancel()
		done.Wait()
		for _, wrong := range h.wrong {
			t.Error(wrong)
		}
	})
	select {
	case <-started:
	case err := <-ended:
		t.Fatal(err)
	}
	return h
}

func (h *history) note(message client.WatchMessage[*corev1.Pod], check func(before, after *corev1.Pod, all map[types.UID]*corev1.Pod) string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, event := range message.Events {
		pod, before := event.Object, h.pods[event.Object.UID]
		h.created[pod.UID] = pod.Name
		after := pod
		if event.Type == "DELETED" {
			delete(h.pods, pod.UID)
			after = nil
		} else {
			h.pods[pod.UID] = pod
		}
		if check == nil {
			continue
		}
		if wrong := check(before, after, h.pods); wrong != "" {
			h.wrong = append(h.wrong, fmt.Sprintf("at version %s, pod %s: %s", pod.ResourceVersion, pod.Name, wrong))
		}
	}
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

// total is how many pods were ever created.
func (h *history) total() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.created)
}

// until waits for a condition on the pods that are there.
func (h *history) until(t *harness.T, what string, condition func(all map[types.UID]*corev1.Pod) bool) {
	t.Helper()
	deadline := time.NewTimer(2 * patience)
	defer deadline.Stop()
	for {
		h.mu.Lock()
		holds, n := condition(h.pods), len(h.pods)
		h.mu.Unlock()
		if holds {
			return
		}
		select {
		case <-h.changed:
		case <-deadline.C:
			t.Fatalf("%s: not within %s; there are %d pods", what, 2*patience, n)
		}
	}
}

func contextOf(t *harness.T) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithTimeout(t.Context(), request)
}
