package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"

	"kijabi.dev/controller-manager/internal/podstate"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
	objectv1pb "kijabi.dev/proto/gen/kijabi/object/v1"
)

// world is a job with its pods as an apiserver keeps them, and what has happened to them. The
// loop writes through a client, whose every call can be the last.
type world struct {
	job     *batchv1.Job
	pods    map[string]*corev1.Pod // by name
	version int
	made    int
	clock   *clocktesting.FakePassiveClock
	loop    *Controller
	events  []string

	// calls is how many calls get through before the program dies; less than 0 for all. The
	// last one is carried out or not.
	calls int
	last  bool
	// between happens after the loop has decided, before its first call.
	between   func()
	lostPods  bool // the call whose answer was lost was about pods
	lostJob   bool // … about the job
	stale     *snapshot
	listed    map[types.UID]int
	succeeded map[types.UID]bool // pods that were let go after a success
	wrong     []string
}

// snapshot is an older state of either kind.
type snapshot struct {
	job  *batchv1.Job
	pods []*corev1.Pod
}

var errLost = errors.New("the connection is lost")

func newWorld(job *batchv1.Job) *world {
	w := &world{
		job: job.DeepCopy(), pods: map[string]*corev1.Pod{}, version: 100, calls: -1,
		clock: clocktesting.NewFakePassiveClock(now), listed: map[types.UID]int{}, succeeded: map[types.UID]bool{},
	}
	w.job.ResourceVersion = w.next()
	w.restart()
	return w
}

func (w *world) next() string {
	w.version++
	return strconv.Itoa(w.version)
}

// restart begins anew, with nothing in memory.
func (w *world) restart() {
	w.loop = New(Config{Clock: w.clock, Event: func(_ object.Object, severity, reason, message string) {
		w.events = append(w.events, severity+" "+reason+" "+message)
	}})
}

func (w *world) wrongIf(is bool, format string, args ...any) {
	if is {
		w.wrong = append(w.wrong, fmt.Sprintf(format, args...))
	}
}

// reconcile is one round of the loop. It returns when it wants to be called again.
func (w *world) reconcile() (time.Duration, error) {
	seen := snapshot{job: w.job, pods: w.owned()}
	if w.stale != nil {
		if w.stale.job != nil {
			seen.job = w.stale.job
		}
		if w.stale.pods != nil {
			seen.pods = w.stale.pods
		}
		w.stale = nil
	}
	key := object.KeyOf(w.job)
	known := map[string]bool{}
	for _, pod := range seen.pods {
		known[pod.Name] = true
	}
	p, err := decide(seen.job, seen.pods, nil, func(name string) bool { return known[name] }, w.loop.memory.past(key, w.job.UID), w.clock.Now())
	if err != nil {
		return 0, err
	}
	w.lostPods, w.lostJob = false, false
	before := snapshot{job: w.job.DeepCopy(), pods: w.owned()}
	again, err := w.loop.apply(context.Background(), client.New(w), key, seen.job, p)
	w.between = nil
	if w.lostPods {
		w.stale = &snapshot{pods: before.pods}
	}
	if w.lostJob {
		w.stale = &snapshot{job: before.job}
	}
	return again, err
}

func (w *world) owned() []*corev1.Pod {
	var out []*corev1.Pod
	for _, pod := range w.pods {
		out = append(out, pod.DeepCopy())
	}
	return out
}

// list returns pods in the order of their names.
func (w *world) list(which func(*corev1.Pod) bool) []*corev1.Pod {
	var names []string
	for name, pod := range w.pods {
		if which(pod) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	out := make([]*corev1.Pod, len(names))
	for i, name := range names {
		out[i] = w.pods[name]
	}
	return out
}

func (w *world) active() []*corev1.Pod { return w.list(podstate.Active) }

// NewStream is not used.
func (w *world) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errors.New("no streams here")
}

// Invoke is the apiserver.
func (w *world) Invoke(_ context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	if between := w.between; between != nil {
		w.between = nil
		between()
	}
	if w.calls == 0 && !w.last {
		return errLost
	}
	lost := w.calls == 0
	if w.calls >= 0 {
		w.calls = max(w.calls-1, 0)
	}
	var err error
	switch req := args.(type) {
	case *objectv1pb.UpdateRequest:
		w.lostJob = lost
		var out *objectv1pb.UpdateResponse
		if out, err = w.updateStatus(req); err == nil {
			proto.Merge(reply.(proto.Message), out)
		}
	case *objectv1pb.TransactRequest:
		w.lostPods = lost
		out := &objectv1pb.TransactResponse{}
		for _, op := range req.GetOperations() {
			out.Results = append(out.Results, w.write(op))
		}
		proto.Merge(reply.(proto.Message), out)
	default:
		err = fmt.Errorf("unexpected call of %s", method)
	}
	if lost {
		w.last = false
		return errLost
	}
	return err
}

func (w *world) updateStatus(req *objectv1pb.UpdateRequest) (*objectv1pb.UpdateResponse, error) {
	obj, err := object.Unpack(req.GetObject())
	if err != nil {
		return nil, err
	}
	sent := obj.(*batchv1.Job)
	if sent.ResourceVersion != w.job.ResourceVersion {
		return nil, apierrors.NewConflict(batchv1.Resource("jobs"), sent.Name, errors.New("it has changed"))
	}
	w.checkStatus(&sent.Status)
	w.job = w.job.DeepCopy()
	w.job.Status, w.job.ResourceVersion = sent.Status, w.next()
	packed, err := object.Pack(w.job)
	return &objectv1pb.UpdateResponse{Object: packed}, err
}

func (w *world) write(op *objectv1pb.Operation) *objectv1pb.OperationResult {
	var pod *corev1.Pod
	var err error
	switch op := op.GetOperation().(type) {
	case *objectv1pb.Operation_Create:
		pod, err = w.createPod(op.Create)
	case *objectv1pb.Operation_Delete:
		if pod, err = w.named(op.Delete.GetReference(), op.Delete.GetOptions().GetUid(), ""); err == nil {
			w.remove(pod, 30)
		}
	case *objectv1pb.Operation_Patch:
		pod, err = w.patch(op.Patch)
	}
	if err != nil {
		var status apierrors.APIStatus
		if !errors.As(err, &status) {
			w.wrongIf(true, "write: %v", err)
			status = apierrors.NewInternalError(err)
		}
		text, _ := json.Marshal(status.Status())
		return &objectv1pb.OperationResult{ErrorStatus: text}
	}
	packed, err := object.Pack(pod)
	w.wrongIf(err != nil, "pack: %v", err)
	return &objectv1pb.OperationResult{Object: packed}
}

func (w *world) named(ref *objectv1pb.Reference, uid, version string) (*corev1.Pod, error) {
	pod := w.pods[ref.GetName()]
	if pod == nil {
		return nil, apierrors.NewNotFound(corev1.Resource("pods"), ref.GetName())
	}
	if uid != "" && types.UID(uid) != pod.UID || version != "" && version != pod.ResourceVersion {
		return nil, apierrors.NewConflict(corev1.Resource("pods"), pod.Name, errors.New("it has changed"))
	}
	return pod, nil
}

func (w *world) createPod(req *objectv1pb.CreateRequest) (*corev1.Pod, error) {
	obj, err := object.Unpack(req.GetObject())
	if err != nil {
		return nil, err
	}
	pod := obj.(*corev1.Pod)
	if w.pods[pod.Name] != nil {
		return nil, apierrors.NewAlreadyExists(corev1.Resource("pods"), pod.Name)
	}
	w.made++
	pod.UID, pod.ResourceVersion = types.UID("pod-"+strconv.Itoa(w.made)), w.next()
	pod.CreationTimestamp, pod.Status.Phase = metav1.NewTime(w.clock.Now()), corev1.PodPending
	w.pods[pod.Name] = pod
	w.checkCreate(pod)
	return pod, nil
}

func (w *world) patch(req *objectv1pb.PatchRequest) (*corev1.Pod, error) {
	var patch struct {
		Metadata struct {
			UID             string   `json:"uid"`
			ResourceVersion string   `json:"resourceVersion"`
			Remove          []string `json:"$deleteFromPrimitiveList/finalizers"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(req.GetPatch(), &patch); err != nil {
		return nil, err
	}
	pod, err := w.named(req.GetReference(), patch.Metadata.UID, patch.Metadata.ResourceVersion)
	if err != nil {
		return nil, err
	}
	if tracked(pod) {
		w.checkRelease(pod)
	}
	pod.Finalizers = slices.DeleteFunc(pod.Finalizers, func(f string) bool { return slices.Contains(patch.Metadata.Remove, f) })
	w.changed(pod)
	return pod, nil
}

// changed gives a pod a new version, or lets it go if nothing keeps it.
func (w *world) changed(pod *corev1.Pod) {
	pod.ResourceVersion = w.next()
	if pod.DeletionTimestamp != nil && len(pod.Finalizers) == 0 && ptr.Deref(pod.DeletionGracePeriodSeconds, 0) == 0 {
		delete(w.pods, pod.Name)
	}
}

// remove begins the deletion of a pod, or with no grace confirms its end.
func (w *world) remove(pod *corev1.Pod, grace int64) {
	if pod.Spec.NodeName == "" || podstate.Finished(pod) {
		grace = 0
	}
	if pod.DeletionTimestamp == nil || grace < ptr.Deref(pod.DeletionGracePeriodSeconds, 0) {
		pod.DeletionTimestamp = ptr.To(metav1.NewTime(w.clock.Now().Add(time.Duration(grace) * time.Second)))
		pod.DeletionGracePeriodSeconds = &grace
	}
	w.changed(pod)
}

// ends lets a pod finish, with an exit code.
func (w *world) ends(pod *corev1.Pod, code int32) {
	pod.Status.Phase = corev1.PodSucceeded
	if code != 0 {
		pod.Status.Phase = corev1.PodFailed
	}
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{
		Terminated: &corev1.ContainerStateTerminated{ExitCode: code, FinishedAt: metav1.NewTime(w.clock.Now())},
	}}}
	w.changed(pod)
}

// until reconciles until nothing is left to do at this time.
func (w *world) until(t interface{ Fatalf(string, ...any) }) (again time.Duration) {
	for range 50 {
		before := w.version
		again, err := w.loopOnce()
		if err != nil && !apierrors.IsConflict(err) {
			t.Fatalf("reconcile: %v", err)
		}
		if w.version == before && err == nil {
			return again
		}
	}
	t.Fatalf("the loop does not come to rest: %+v", w.job.Status)
	return 0
}

func (w *world) loopOnce() (time.Duration, error) {
	w.calls = -1
	w.loop.memory = memory{jobs: w.loop.memory.jobs}
	return w.reconcile()
}
