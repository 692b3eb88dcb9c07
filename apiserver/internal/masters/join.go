package masters

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
	"k8s.io/utils/clock"

	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"
)

// AskToJoin asks the given masters, one after the other and again, to take this machine in, until one
// agrees or ctx ends. It is what a master with an empty data directory does before it
// starts etcd with the answer's initial cluster. It may be repeated, and must be when etcd finds that
// the cluster has changed meanwhile.
func AskToJoin(ctx context.Context, addresses []string, dial Dial, req *mastersv1pb.JoinRequest, log *zap.Logger) (*mastersv1pb.JoinResponse, error) {
	conns := newConns(dial)
	defer conns.close()
	err := errors.New("no addresses to join through")
	for {
		for _, address := range addresses {
			var resp *mastersv1pb.JoinResponse
			if resp, err = askToJoin(ctx, conns, address, req); err == nil {
				return resp, nil
			}
			log.Warn("not joined yet", zap.String("through", address), zap.Error(err))
		}
		timer := clock.RealClock{}.NewTimer(200 * time.Millisecond)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, fmt.Errorf("join through %v: %w", addresses, errors.Join(ctx.Err(), err))
		case <-timer.C():
		}
	}
}

func askToJoin(ctx context.Context, conns *conns, address string, req *mastersv1pb.JoinRequest) (*mastersv1pb.JoinResponse, error) {
	conn, err := conns.get(address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*raftTimeout)
	defer cancel()
	return mastersv1pb.NewMastersServiceClient(conn).Join(ctx, req)
}
