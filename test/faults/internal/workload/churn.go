package workload

import (
	"context"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/platform/kube/object"
)

const (
	// churnEvery is how often the number of replicas changes.
	churnEvery = 200 * time.Millisecond
	// churnReplicas is the higher of the two numbers.
	churnReplicas = 12
)

// Churn changes the number of replicas of a Deployment all the time until ctx ends, so that
// there are always writes of the leader's components under way. It asks one master after the
// other and does not care for what becomes of it.
func Churn(ctx context.Context, deployment object.Key, masters []Master, pace *Pace) {
	named := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: deployment.Namespace, Name: deployment.Name}}
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-time.After(churnEvery):
		}
		if !pace.due(n) {
			continue
		}
		call, cancel := context.WithTimeout(ctx, churnEvery)
		_ = masters[n%len(masters)].API.Scale(call, named, int32(n%2*churnReplicas)) // it fails while there is no leader
		cancel()
	}
}
