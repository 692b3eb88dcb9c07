package registry

import (
	"context"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/clock"

	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
)

// quotaPause gathers changes of usage, so that many writes in a namespace make few of its
// quota's status.
const quotaPause = 100 * time.Millisecond

// QuotaStatus writes what namespaces use into the status of their quotas, while this
// master leads. What is refused does not depend on it.
type QuotaStatus struct {
	engine *Engine
	clock  clock.WithTicker
	log    *zap.Logger
}

// NewQuotaStatus returns a QuotaStatus that is ready to run.
func NewQuotaStatus(engine *Engine, clk clock.WithTicker, log *zap.Logger) *QuotaStatus {
	return &QuotaStatus{engine: engine, clock: clk, log: log}
}

// Run works until ctx ends.
func (q *QuotaStatus) Run(ctx context.Context) error {
	led := false
	for {
		changed := q.engine.store.TermChanged() // before looking: no change is missed
		leads := q.engine.store.Term().Leading
		if leads && !led {
			q.engine.quotas.TouchAll() // whatever the former leader has left
		}
		led = leads
		var stale <-chan struct{}
		if leads {
			stale = q.engine.quotas.Changed()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			continue
		case <-stale:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-q.clock.After(quotaPause):
		}
		for key, status := range q.engine.quotas.Stale() {
			if err := q.write(ctx, key, status); err != nil && ctx.Err() == nil {
				q.log.Info("status of a quota not written, it is tried again", zap.String("namespace", key.Namespace), zap.String("name", key.Name), zap.Error(err))
				q.engine.quotas.Touch(key)
			}
		}
	}
}

func (q *QuotaStatus) write(ctx context.Context, key store.Key, status corev1.ResourceQuotaStatus) error {
	record, ok := q.engine.store.Get(key)
	if !ok {
		return nil
	}
	obj, err := object.Decode(object.KindOf[*corev1.ResourceQuota](), record.Value)
	if err != nil {
		return err
	}
	quota, ok := obj.(*corev1.ResourceQuota)
	if !ok || apiequality.Semantic.DeepEqual(quota.Status, status) {
		return nil
	}
	quota.Status = status
	ref := Ref{Resource: corev1.SchemeGroupVersion.WithResource(key.Resource), Namespace: key.Namespace, Name: key.Name, Subresource: "status"}
	_, err = q.engine.Update(ctx, clusterCaller(), ref, quota, WriteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
