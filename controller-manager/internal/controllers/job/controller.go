// Package job runs pods until enough of them have succeeded, or too many have failed. Each pod
// carries the finalizer batch.kubernetes.io/job-tracking until the job has counted it.
package job

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"kijabi.dev/controller-manager/internal/podset"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
)

// IndexTracked is the index, by the key of their job, of pods that a job still has to count,
// which the pod informer must have; see Tracked.
const IndexTracked = "job-tracked"

// Tracked is IndexTracked's function. Pods that no controller owns any more are found under
// their namespace and an empty name.
func Tracked(pod *corev1.Pod) []string {
	if !tracked(pod) {
		return nil
	}
	owner := metav1.GetControllerOfNoCopy(pod)
	switch {
	case owner == nil:
		return []string{pod.Namespace + "/"}
	case owner.Kind != "Job" || !strings.HasPrefix(owner.APIVersion, batchv1.GroupName+"/"):
		return nil
	}
	return []string{pod.Namespace + "/" + owner.Name}
}

// Config lists what the controller reads; every field is required.
type Config struct {
	Jobs *informer.Informer[*batchv1.Job]
	Pods *informer.Informer[*corev1.Pod]
	// Live reads a job past the cache.
	Live  func(ctx context.Context, key object.Key) (*batchv1.Job, error)
	Clock clock.PassiveClock
	// Event tells users what happened; it must not block.
	Event func(about object.Object, severity, reason, message string)
}

// Controller runs jobs.
type Controller struct {
	cfg    Config
	writes podset.Writes
	memory memory
}

var _ controller.Controller = (*Controller)(nil)

// New returns the controller.
func New(cfg Config) *Controller {
	return &Controller{cfg: cfg, writes: podset.Writes{Event: cfg.Event}}
}

// Name is "job".
func (*Controller) Name() string { return "job" }

// Inputs are jobs, their pods, and pods that have lost their job.
func (c *Controller) Inputs() []controller.Input {
	return []controller.Input{
		controller.Self(c.cfg.Jobs),
		controller.Mapped(c.cfg.Pods, c.jobsOf),
	}
}

// Outputs are pods of jobs, and jobs' status.
func (*Controller) Outputs() []controller.Output {
	return []controller.Output{
		controller.Owns[*corev1.Pod]("Job"), controller.Fields[*corev1.Pod]("finalizer " + batchv1.JobTrackingFinalizer),
		controller.StatusOf[*batchv1.Job](),
	}
}

// jobsOf lists the keys that a pod makes due: its job's, or those of the jobs that would adopt
// it, and that of its namespace's strays if it is one.
func (c *Controller) jobsOf(pod *corev1.Pod) []object.Key {
	if owner := metav1.GetControllerOfNoCopy(pod); owner != nil {
		if owner.Kind != "Job" {
			return nil
		}
		return []object.Key{{Namespace: pod.Namespace, Name: owner.Name}}
	}
	keys := podset.Adopters(pod, c.cfg.Jobs.List(), selectorOf)
	if tracked(pod) {
		keys = append(keys, object.Key{Namespace: pod.Namespace})
	}
	return keys
}

func selectorOf(job *batchv1.Job) (labels.Selector, error) {
	return metav1.LabelSelectorAsSelector(job.Spec.Selector)
}

// Reconcile moves one job on. A key without a name stands for the strays of a namespace.
func (c *Controller) Reconcile(ctx context.Context, key object.Key, w client.Writer, log *zap.Logger) (time.Duration, error) {
	if key.Name == "" {
		return 0, c.freeStrays(ctx, w, key.Namespace)
	}
	job, err := c.cfg.Jobs.Get(key)
	if apierrors.IsNotFound(err) {
		c.memory.forget(key)
		if err := c.freeAbandoned(ctx, w, key, ""); err != nil { // the garbage collector removes them
			return 0, err
		}
		return 0, c.freeStrays(ctx, w, key.Namespace) // those it has orphaned
	}
	if err != nil {
		return 0, fmt.Errorf("read job %s: %w", key, err)
	}
	if by := ptr.Deref(job.Spec.ManagedBy, batchv1.JobControllerName); by != batchv1.JobControllerName {
		return 0, nil
	}
	if err := c.freeAbandoned(ctx, w, key, job.UID); err != nil {
		return 0, err
	}
	if job, err = c.current(ctx, key, job); err != nil || job == nil {
		return 0, err
	}
	if finished(job) {
		c.memory.forget(key)
	}
	taken := func(name string) bool {
		_, err := c.cfg.Pods.Get(object.Key{Namespace: key.Namespace, Name: name})
		return err == nil
	}
	orphans := c.cfg.Pods.ByIndex(podset.IndexOrphans, job.Namespace)
	p, err := decide(job, c.cfg.Pods.OwnedBy(job.UID), orphans, taken, c.memory.past(key, job.UID), c.cfg.Clock.Now())
	if err != nil {
		return 0, fmt.Errorf("decide job %s: %w", key, err)
	}
	log.Debug("decided", zap.Int("create", len(p.create)), zap.Int("delete", len(p.surplus)+len(p.doomed)), zap.Int("release", len(p.release)))
	return c.apply(ctx, w, key, job, p)
}

// apply writes a plan. That pods cannot be created does not keep those that end from being counted.
func (c *Controller) apply(ctx context.Context, w client.Writer, key object.Key, job *batchv1.Job, p plan) (time.Duration, error) {
	failure, err := c.managePods(ctx, w, job, &p)
	if err != nil {
		return 0, err
	}
	if !equality.Semantic.DeepEqual(p.status, job.Status) {
		now := c.cfg.Clock.Now()
		if wait := c.memory.pace(key, now); wait > 0 && !p.urgent {
			// Pods of a large job end one by one: they are counted together.
			if p.requeueAfter == 0 || wait < p.requeueAfter {
				p.requeueAfter = wait
			}
			return p.requeueAfter, failure
		}
		updated := job.DeepCopy()
		updated.Status = p.status
		if _, err := w.UpdateStatus(ctx, updated); err != nil {
			if apierrors.IsNotFound(err) {
				return 0, nil
			}
			return 0, fmt.Errorf("status of job %s: %w", key, err)
		}
		c.memory.wrote(key, job.UID, now, p.past)
		for _, e := range p.told {
			c.cfg.Event(job, e.severity, e.reason, e.message)
		}
	}
	writes := make([]podset.Write, 0, len(p.doomed))
	for _, pod := range p.doomed {
		writes = append(writes, podset.Delete(pod))
	}
	if err := c.writes.Do(ctx, w, job, writes); err != nil {
		return 0, err
	}
	if err := c.free(ctx, w, p.release); err != nil {
		return 0, err
	}
	writes = writes[:0]
	for _, pod := range p.waive {
		writes = append(writes, podset.RemoveFinalizer(pod, batchv1.JobTrackingFinalizer, true))
	}
	if err := c.writes.Do(ctx, w, job, writes); err != nil {
		return 0, err
	}
	return p.requeueAfter, failure
}

// managePods adopts, removes and creates. failure is a refusal of the API, after which only the
// number of pods in the plan is corrected.
func (c *Controller) managePods(ctx context.Context, w client.Writer, job *batchv1.Job, p *plan) (failure, err error) {
	writes, err := p.claim.WritesWithFinalizer(job, batchv1.JobTrackingFinalizer)
	if err != nil {
		return nil, err
	}
	// A pod that has changed meanwhile may have ended: then it counts after all.
	for _, pod := range p.surplus {
		if tracked(pod) {
			writes = append(writes, podset.RemoveFinalizer(pod, batchv1.JobTrackingFinalizer, true))
		}
	}
	if err := c.writes.Do(ctx, w, job, writes); err != nil {
		return nil, err
	}
	writes = writes[:0]
	for _, pod := range p.surplus {
		writes = append(writes, podset.Delete(pod))
	}
	for _, b := range p.create {
		pod, err := b.pod(job)
		if err != nil {
			return nil, err
		}
		writes = append(writes, podset.Create(pod))
	}
	failure = c.writes.Do(ctx, w, job, writes)
	if failure != nil {
		p.status.Active = p.active
		p.status.Ready = ptr.To(min(ptr.Deref(p.status.Ready, 0), p.active))
	}
	return failure, nil
}

// free takes the finalizer from pods that need not be counted, or are.
func (c *Controller) free(ctx context.Context, w client.Writer, pods []*corev1.Pod) error {
	if len(pods) == 0 {
		return nil
	}
	writes := make([]podset.Write, len(pods))
	for i, pod := range pods {
		writes[i] = podset.RemoveFinalizer(pod, batchv1.JobTrackingFinalizer, false)
	}
	return c.writes.Do(ctx, w, pods[0], writes)
}

// freeStrays frees the pods of a namespace that have lost their job and that none will adopt.
func (c *Controller) freeStrays(ctx context.Context, w client.Writer, namespace string) error {
	adopters := slices.DeleteFunc(c.cfg.Jobs.List(), func(job *batchv1.Job) bool { return job.DeletionTimestamp != nil || finished(job) })
	var strays []*corev1.Pod
	for _, pod := range c.cfg.Pods.ByIndex(IndexTracked, namespace+"/") {
		if len(podset.Adopters(pod, adopters, selectorOf)) == 0 {
			strays = append(strays, pod)
		}
	}
	return c.free(ctx, w, strays)
}

// freeAbandoned frees the pods whose job had the key but is no more; uid is that of the job
// that has it now. A cache that does not show a pod's job may be behind: the apiserver decides.
func (c *Controller) freeAbandoned(ctx context.Context, w client.Writer, key object.Key, uid types.UID) error {
	abandoned := func(uid types.UID) []*corev1.Pod {
		var out []*corev1.Pod
		for _, pod := range c.cfg.Pods.ByIndex(IndexTracked, key.String()) {
			if metav1.GetControllerOfNoCopy(pod).UID != uid {
				out = append(out, pod)
			}
		}
		return out
	}
	if len(abandoned(uid)) == 0 {
		return nil
	}
	live, err := c.cfg.Live(ctx, key)
	switch {
	case err == nil:
		return c.free(ctx, w, abandoned(live.UID))
	case apierrors.IsNotFound(err):
		return c.free(ctx, w, abandoned(""))
	}
	return fmt.Errorf("read job %s: %w", key, err)
}
