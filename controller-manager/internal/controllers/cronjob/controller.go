// Package cronjob makes jobs at the times of a schedule.
package cronjob

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
)

// Config lists what the controller reads; every field is required.
type Config struct {
	CronJobs *informer.Informer[*batchv1.CronJob]
	Jobs     *informer.Informer[*batchv1.Job]
	// Live reads a job past the cache.
	Live  func(ctx context.Context, key object.Key) (*batchv1.Job, error)
	Clock clock.PassiveClock
	// Event tells users what happened; it must not block.
	Event func(about object.Object, severity, reason, message string)
}

// Controller makes jobs.
type Controller struct{ cfg Config }

var _ controller.Controller = (*Controller)(nil)

// New returns the controller.
func New(cfg Config) *Controller { return &Controller{cfg: cfg} }

// Name is "cronjob".
func (*Controller) Name() string { return "cronjob" }

// Inputs are cron jobs and their jobs.
func (c *Controller) Inputs() []controller.Input {
	return []controller.Input{controller.Self(c.cfg.CronJobs), controller.OwnedBy(c.cfg.Jobs, "CronJob")}
}

// Outputs are jobs of cron jobs, and cron jobs' status.
func (*Controller) Outputs() []controller.Output {
	return []controller.Output{controller.Owns[*batchv1.Job]("CronJob"), controller.StatusOf[*batchv1.CronJob]()}
}

// Reconcile makes the job that is due, if one is.
func (c *Controller) Reconcile(ctx context.Context, key object.Key, w client.Writer, log *zap.Logger) (time.Duration, error) {
	cron, err := c.cfg.CronJobs.Get(key)
	if apierrors.IsNotFound(err) {
		return 0, nil // the garbage collector removes its jobs
	}
	if err != nil {
		return 0, fmt.Errorf("read cron job %s: %w", key, err)
	}
	p := decide(cron, c.cfg.Jobs.OwnedBy(cron.UID), c.cfg.Clock.Now())
	log.Debug("decided", zap.Bool("create", p.create != nil), zap.Int("delete", len(p.remove)))
	for _, ref := range p.lost {
		live, err := c.cfg.Live(ctx, object.Key{Namespace: key.Namespace, Name: ref.Name})
		if err == nil && metav1.IsControlledBy(live, cron) && (ref.UID == "" || ref.UID == live.UID) {
			return time.Second, nil // it is there, the cache has not got it yet
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return 0, fmt.Errorf("read job %s: %w", ref.Name, err)
		}
	}
	return p.requeueAfter, c.apply(ctx, w, cron, p)
}

func (c *Controller) apply(ctx context.Context, w client.Writer, cron *batchv1.CronJob, p plan) error {
	if err := c.remove(ctx, w, cron, p.remove); err != nil {
		return err
	}
	updated := cron.DeepCopy()
	updated.Status = p.status
	if p.create != nil {
		created, err := c.create(ctx, w, cron, updated, p.create)
		if err != nil {
			return err
		}
		if created {
			c.tell(cron, p.told)
			return nil
		}
	}
	if !equality.Semantic.DeepEqual(p.status, cron.Status) {
		if _, err := w.UpdateStatus(ctx, updated); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("status of cron job %s: %w", object.KeyOf(cron), err)
		}
	}
	c.tell(cron, p.told)
	return nil
}

func (c *Controller) tell(cron *batchv1.CronJob, told []event) {
	for _, e := range told {
		c.cfg.Event(cron, e.severity, e.reason, e.message)
	}
}

// create makes a job and stores the status that says so, both or neither: a job that is gone
// again by the time the status is written would otherwise run once more. It returns false if
// only the status is left to be written, because an earlier leader has made the job.
func (c *Controller) create(ctx context.Context, w client.Writer, cron, updated *batchv1.CronJob, job *batchv1.Job) (bool, error) {
	_, err := w.Transact(ctx, []client.Op{client.CreateOp(job), client.UpdateOp(updated, "status")}, false)
	switch {
	case err == nil:
		c.cfg.Event(cron, corev1.EventTypeNormal, "SuccessfulCreate", "Created job "+job.Name)
		return true, nil
	case apierrors.IsAlreadyExists(err):
		live, liveErr := c.cfg.Live(ctx, object.KeyOf(job))
		if liveErr != nil {
			return false, fmt.Errorf("read job %s: %w", job.Name, liveErr)
		}
		if metav1.IsControlledBy(live, cron) {
			return false, nil
		}
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return true, nil // nothing can be made there any more
	case apierrors.IsConflict(err):
		return false, err
	}
	c.cfg.Event(cron, corev1.EventTypeWarning, "FailedCreate", "Error creating job: "+err.Error())
	return false, fmt.Errorf("create job %s: %w", job.Name, err)
}

// remove deletes jobs, whose pods the garbage collector removes.
func (c *Controller) remove(ctx context.Context, w client.Writer, cron *batchv1.CronJob, jobs []*batchv1.Job) error {
	ops := make([]client.Op, len(jobs))
	for i, job := range jobs {
		ops[i] = client.DeleteOp(job, client.DeleteOptions{UID: job.UID, Propagation: metav1.DeletePropagationBackground})
	}
	results, err := w.Transact(ctx, ops, true)
	if err != nil {
		return fmt.Errorf("delete jobs of %s: %w", object.KeyOf(cron), err)
	}
	for i, result := range results {
		switch {
		case result.Err == nil:
			c.cfg.Event(cron, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted job "+jobs[i].Name)
		case apierrors.IsNotFound(result.Err):
		default:
			c.cfg.Event(cron, corev1.EventTypeWarning, "FailedDelete", "Deleted job: "+result.Err.Error())
			return fmt.Errorf("delete job %s: %w", jobs[i].Name, result.Err)
		}
	}
	return nil
}
