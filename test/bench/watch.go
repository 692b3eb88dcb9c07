package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"

	"kijabi.dev/platform/kube/client"
	objectv1pb "kijabi.dev/proto/gen/kijabi/object/v1"
)

const (
	watchers   = 100
	watchConns = 4
	watchFor   = 4 * time.Second
)

// measureWatch lets one writer change a ConfigMap at full speed while 100 watchers
// follow on a few connections. Watchers count what arrives without decoding objects.
func measureWatch(ctx context.Context, b *bench) error {
	return b.withCluster(ctx, 1, 0, func(c *cluster) error { return c.fanOut(ctx) })
}

func (c *cluster) fanOut(ctx context.Context) error {
	pid, err := c.apiserver("master-1")
	if err != nil {
		return err
	}
	changes, err := c.leaderChanges(ctx, 1)
	if err != nil {
		return err
	}
	conn, err := c.dial(1)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	api := client.New(conn)
	if _, err := api.Create(ctx, smallConfigMap("watched")); err != nil {
		return err
	}

	watching, stop := context.WithCancel(ctx)
	defer stop()
	group, groupCtx := errgroup.WithContext(watching)
	var received atomic.Int64
	ready := make(chan struct{}, watchers)
	conns := make([]*grpc.ClientConn, watchConns)
	for i := range conns {
		if conns[i], err = c.dial(1); err != nil {
			return err
		}
		defer func() { _ = conns[i].Close() }()
	}
	for i := range watchers {
		group.Go(func() error {
			stream, err := objectv1pb.NewObjectServiceClient(conns[i%watchConns]).Watch(groupCtx, &objectv1pb.WatchRequest{
				Resource: &objectv1pb.Resource{Version: "v1", Resource: "configmaps"}, Namespace: "default", SendInitialEvents: true,
			})
			if err != nil {
				return err
			}
			synced := false
			for {
				res, err := stream.Recv()
				if err != nil {
					if watching.Err() != nil {
						return nil
					}
					return err
				}
				if synced {
					received.Add(int64(len(res.GetEvents())))
				}
				if res.GetInitialEventsEnd() {
					synced = true
					ready <- struct{}{}
				}
			}
		})
	}
	for range watchers {
		select {
		case <-ready:
		case <-groupCtx.Done():
			return group.Wait()
		}
	}

	before, err := cpu(pid)
	if err != nil {
		return err
	}
	began := time.Now()
	var writes int64
	var latencies []time.Duration
	for time.Since(began) < watchFor {
		obj := smallConfigMap("watched").(*corev1.ConfigMap)
		obj.Data["key"] = fmt.Sprint(writes)
		at := time.Now()
		if _, err := api.Update(ctx, obj); err != nil {
			return err
		}
		latencies = append(latencies, time.Since(at))
		writes++
	}
	// All events of all writes must arrive.
	deadline := time.Now().Add(10 * time.Second)
	for received.Load() < writes*watchers && time.Now().Before(deadline) && groupCtx.Err() == nil {
		time.Sleep(time.Millisecond) // polling a counter: nothing else tells that the last event came
	}
	took := time.Since(began)
	after, err := cpu(pid)
	if err != nil {
		return err
	}
	stop()
	if err := group.Wait(); err != nil {
		return err
	}
	total := received.Load()
	if total < writes*watchers {
		return fmt.Errorf("%d of %d events arrived", total, writes*watchers)
	}
	changesAfter, err := c.leaderChanges(ctx, 1)
	if err != nil {
		return err
	}
	c.table.add(row{
		what: fmt.Sprintf("watch fan-out, 1 writer, %d watchers, leader changes %d", watchers, changesAfter-changes),
		figure: fmt.Sprintf("%.0f events/s, %.1f µs of server CPU each; %d writes, p50 %s p99 %s",
			float64(total)/took.Seconds(), float64((after-before).Microseconds())/float64(total), writes,
			milliseconds(quantile(latencies, 0.5)), milliseconds(quantile(latencies, 0.99))),
	})
	return nil
}
