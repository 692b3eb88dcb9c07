// Package ttlafterfinished deletes jobs some time after they have finished, if they ask for it.
package ttlafterfinished

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"
	batchv1 "k8s.io/api/batch/v1"
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
	Jobs  *informer.Informer[*batchv1.Job]
	Clock clock.PassiveClock
}

// Controller deletes jobs whose time to live is over.
type Controller struct{ cfg Config }

var _ controller.Controller = (*Controller)(nil)

// New returns the controller.
func New(cfg Config) *Controller { return &Controller{cfg: cfg} }

// Name is "ttlafterfinished".
func (*Controller) Name() string { return "ttlafterfinished" }

// Inputs are jobs.
func (c *Controller) Inputs() []controller.Input {
	return []controller.Input{controller.Self(c.cfg.Jobs)}
}

// Outputs are deletions of jobs.
func (*Controller) Outputs() []controller.Output {
	return []controller.Output{controller.Deletes[*batchv1.Job]("its time to live is over")}
}

// Reconcile judges one job. The job goes after its pods, and only as it was judged: who changes
// its time to live meanwhile is heard.
func (c *Controller) Reconcile(ctx context.Context, key object.Key, w client.Writer, log *zap.Logger) (time.Duration, error) {
	job, err := c.cfg.Jobs.Get(key)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read job %s: %w", key, err)
	}
	in, ends := decide(job, c.cfg.Clock.Now())
	if !ends || in > 0 {
		return in, nil
	}
	log.Info("time to live is over, deleting")
	err = w.Delete(ctx, job, client.DeleteOptions{UID: job.UID, ResourceVersion: job.ResourceVersion, Propagation: metav1.DeletePropagationForeground})
	if apierrors.IsNotFound(err) {
		err = nil
	}
	return 0, err
}
