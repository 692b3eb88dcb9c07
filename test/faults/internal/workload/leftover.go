package workload

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/rpc"

	"kijabi.dev/test/faults/internal/history"
)

// Leftover writes through each master as a component would that was started under an epoch which
// is over and has not noticed. It returns how often that was refused as it must be, and what was
// wrong otherwise.
func Leftover(ctx context.Context, masters []Master, namespace string, epoch uint64) (refused int, violations []string) {
	for _, master := range masters {
		call, cancel := context.WithTimeout(rpc.WithEpoch(ctx, epoch), 10*time.Second)
		name := fmt.Sprintf("leftover-%d-%s", epoch, master.Name)
		err := refusal(call, master, configMap(object.Key{Namespace: namespace, Name: name}, name))
		cancel()
		if err != nil {
			violations = append(violations, fmt.Sprintf("a write under epoch %d, which is over, through %s: %v", epoch, master.Name, err))
			continue
		}
		refused++
	}
	return refused, violations
}

// refusal is nil when the write was refused for its epoch. A master that cannot say yet is asked again.
func refusal(ctx context.Context, master Master, obj object.Object) error {
	for {
		_, err := master.API.Create(ctx, obj)
		var status apierrors.APIStatus
		switch {
		case err == nil:
			return errors.New("it was acknowledged")
		case errors.As(err, &status) && status.Status().Code == http.StatusPreconditionFailed:
			return nil
		case outcome(err) != history.Unknown || ctx.Err() != nil:
			return err
		}
	}
}
