package disruption

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
)

// Announced takes back the condition DisruptionTarget of pods that were to go and stay.
type Announced struct {
	pods  *informer.Informer[*corev1.Pod]
	clock clock.PassiveClock
}

var _ controller.Controller = (*Announced)(nil)

// NewAnnounced returns the controller.
func NewAnnounced(pods *informer.Informer[*corev1.Pod], clk clock.PassiveClock) *Announced {
	return &Announced{pods: pods, clock: clk}
}

// Name is "disruption-announced".
func (*Announced) Name() string { return "disruption-announced" }

// Inputs are pods whose end is announced.
func (a *Announced) Inputs() []controller.Input {
	return []controller.Input{controller.Mapped(a.pods, func(pod *corev1.Pod) []object.Key {
		if announced, _ := stale(pod, a.clock.Now()); announced {
			return []object.Key{object.KeyOf(pod)}
		}
		return nil
	})}
}

// Outputs is the condition.
func (*Announced) Outputs() []controller.Output {
	return []controller.Output{controller.StatusPart[*corev1.Pod]("condition DisruptionTarget that came to nothing")}
}

// Reconcile looks at one pod.
func (a *Announced) Reconcile(ctx context.Context, key object.Key, w client.Writer, log *zap.Logger) (time.Duration, error) {
	pod, err := a.pods.Get(key)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read pod %s: %w", key, err)
	}
	now := a.clock.Now()
	announced, in := stale(pod, now)
	if !announced || in > 0 {
		return in, nil
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID, "resourceVersion": pod.ResourceVersion},
		"status": map[string]any{"conditions": []any{map[string]any{
			"type": corev1.DisruptionTarget, "status": corev1.ConditionFalse, "reason": nil, "message": nil,
			"lastTransitionTime": metav1.NewTime(now),
		}}},
	})
	if err != nil {
		return 0, err
	}
	if _, err := w.Patch(ctx, pod, types.StrategicMergePatchType, patch, "status"); err != nil && !apierrors.IsNotFound(err) {
		return 0, fmt.Errorf("pod %s: %w", key, err)
	}
	log.Info("an announced end did not come")
	return 0, nil
}
