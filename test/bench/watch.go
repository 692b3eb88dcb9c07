package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"

	"kijabi.dev/platform/kube/client"
	objectv1pb "kijabi.dev/proto/gen/kijabi/object/v1"
)

const (
	watchersPerConn = 25
	watchFor        = 4 * time.Second
	// outstanding is the number of updates that the writer has under way at full rate, each
	// of an object of its own.
	outstanding = 16
	// stampMark begins the time in an object, in nanoseconds and of stampDigits digits.
	stampMark   = "sent-at:"
	stampDigits = 19
	// sampleEvery is how many events of a watcher make one of which the delay is kept.
	sampleEvery = 7
)

// measureWatch lets one writer change ConfigMaps while many watchers follow on few
// connections: first as fast as it can, then at half of that rate, for the delay between the
// begin of an update and its event. Watchers do not decode objects.
func measureWatch(ctx context.Context, b *bench) error {
	for _, watchers := range []int{100, 1000} {
		if err := b.withCluster(ctx, 1, 0, func(c *cluster) error { return c.fanOut(ctx, watchers) }); err != nil {
			return err
		}
	}
	return nil
}

// audience is watchers of the ConfigMaps of a namespace.
type audience struct {
	watchers int
	received atomic.Int64

	mu     sync.Mutex
	delays []time.Duration
}

// follow reads one watch until watching ends; synced is called when the objects that were
// there have come.
func (a *audience) follow(watching context.Context, conn *grpc.ClientConn, synced func()) error {
	stream, err := objectv1pb.NewObjectServiceClient(conn).Watch(watching, &objectv1pb.WatchRequest{
		Resource: &objectv1pb.Resource{Version: "v1", Resource: "configmaps"}, Namespace: "default", SendInitialEvents: true,
	})
	if err != nil {
		return err
	}
	begun, seen := false, 0
	var delays []time.Duration
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.delays = append(a.delays, delays...)
	}()
	for {
		res, err := stream.Recv()
		if err != nil {
			if watching.Err() != nil {
				return nil
			}
			return err
		}
		if begun {
			now := time.Now()
			for _, event := range res.GetEvents() {
				if seen++; seen%sampleEvery == 0 {
					if sent, ok := sentAt(event.GetObject().GetValue()); ok {
						delays = append(delays, now.Sub(sent))
					}
				}
			}
			a.received.Add(int64(len(res.GetEvents())))
		}
		if res.GetInitialEventsEnd() {
			begun = true
			synced()
		}
	}
}

// sentAt finds the time at which an encoded object was sent.
func sentAt(value []byte) (time.Time, bool) {
	_, rest, found := bytes.Cut(value, []byte(stampMark))
	if !found || len(rest) < stampDigits {
		return time.Time{}, false
	}
	nanoseconds, err := strconv.ParseInt(string(rest[:stampDigits]), 10, 64)
	return time.Unix(0, nanoseconds), err == nil
}

// gather starts watchers and returns once all of them follow. stop ends them.
func (c *cluster) gather(ctx context.Context, watchers int) (a *audience, stop func() error, err error) {
	watching, cancel := context.WithCancel(ctx)
	a = &audience{watchers: watchers}
	group, groupCtx := errgroup.WithContext(watching)
	var conns []*grpc.ClientConn
	stop = func() error {
		cancel()
		err := group.Wait()
		for _, conn := range conns {
			_ = conn.Close()
		}
		return err
	}
	ready := make(chan struct{}, watchers)
	for i := range watchers {
		if i%watchersPerConn == 0 {
			conn, err := c.dial(1)
			if err != nil {
				return nil, nil, errors.Join(err, stop())
			}
			conns = append(conns, conn)
		}
		conn := conns[len(conns)-1]
		group.Go(func() error { return a.follow(groupCtx, conn, func() { ready <- struct{}{} }) })
	}
	for range watchers {
		select {
		case <-ready:
		case <-groupCtx.Done():
			return nil, nil, stop()
		}
	}
	return a, stop, nil
}

// all waits until every watcher has seen a number of writes.
func (a *audience) all(ctx context.Context, writes int64) error {
	want := writes * int64(a.watchers)
	for deadline := time.Now().Add(20 * time.Second); a.received.Load() < want; {
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d events arrived", a.received.Load(), want)
		}
		if err := pause(ctx, time.Millisecond); err != nil { // polling a counter: nothing else tells that the last event came
			return err
		}
	}
	return nil
}

// writer updates ConfigMaps.
type writer struct {
	api *client.Client

	mu    sync.Mutex
	acked []time.Duration // between the begin of an update and its answer
}

func (w *writer) prepare(ctx context.Context) error {
	for i := range outstanding {
		if _, err := w.api.Create(ctx, watched(i)); err != nil {
			return err
		}
	}
	return nil
}

func watched(i int) *corev1.ConfigMap {
	return smallConfigMap(fmt.Sprintf("watched-%d", i)).(*corev1.ConfigMap)
}

// write updates one of the objects; no two at a time may be of the same.
func (w *writer) write(ctx context.Context, i int) error {
	obj := watched(i)
	began := time.Now()
	obj.Data["key"] = fmt.Sprintf("%s%0*d", stampMark, stampDigits, began.UnixNano())
	_, err := w.api.Update(ctx, obj)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.acked = append(w.acked, time.Since(began))
	return err
}

// flat writes as fast as it can and returns the number of writes.
func (w *writer) flat(ctx context.Context) (int64, error) {
	var writes atomic.Int64
	deadline, cancel := context.WithTimeout(ctx, watchFor)
	defer cancel()
	group, groupCtx := errgroup.WithContext(ctx)
	for i := range outstanding {
		group.Go(func() error {
			for deadline.Err() == nil {
				if err := w.write(groupCtx, i); err != nil {
					return err
				}
				writes.Add(1)
			}
			return nil
		})
	}
	err := group.Wait()
	return writes.Load(), err
}

// paced writes at a rate, whatever becomes of earlier writes, and returns their number.
func (w *writer) paced(ctx context.Context, perSecond float64) (int64, error) {
	free := make(chan int, outstanding)
	for i := range outstanding {
		free <- i
	}
	group, groupCtx := errgroup.WithContext(ctx)
	began, writes := time.Now(), int64(0)
	for time.Since(began) < watchFor && groupCtx.Err() == nil {
		due := began.Add(time.Duration(float64(writes) / perSecond * float64(time.Second)))
		if err := pause(groupCtx, time.Until(due)); err != nil {
			break
		}
		i := <-free
		group.Go(func() error {
			defer func() { free <- i }()
			return w.write(groupCtx, i)
		})
		writes++
	}
	return writes, group.Wait()
}

// alone returns how long writes at a rate take to their answers while nobody watches: what
// of an event's delay is the write's own.
func (w *writer) alone(ctx context.Context, perSecond float64) ([]time.Duration, error) {
	w.acked = nil
	_, err := w.paced(ctx, perSecond)
	return w.acked, err
}

func (c *cluster) fanOut(ctx context.Context, watchers int) error {
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
	w := &writer{api: client.New(conn)}
	if err := w.prepare(ctx); err != nil {
		return err
	}
	full, err := c.fullRate(ctx, pid, watchers, w)
	if err != nil {
		return err
	}
	alone, err := w.alone(ctx, full.writesPerSecond/2)
	if err != nil {
		return err
	}
	w.acked = nil
	half, err := c.halfRate(ctx, watchers, w, full.writesPerSecond/2)
	if err != nil {
		return err
	}
	acked := w.acked
	changesAfter, err := c.leaderChanges(ctx, 1)
	if err != nil {
		return err
	}
	rateGoal, delayGoal := "", ""
	if watchers == 100 {
		rateGoal, delayGoal = "≥ 300,000 events/s", "p99 ≤ 3 ms"
	}
	c.table.add(row{
		what:   fmt.Sprintf("watch fan-out by gRPC, 1 writer, %d watchers, full rate, leader changes %d", watchers, changesAfter-changes),
		figure: fmt.Sprintf("%.0f events/s, %.1f µs of server CPU each; %.0f writes/s", full.writesPerSecond*float64(watchers), full.cpuPerEvent, full.writesPerSecond),
		goal:   rateGoal,
	})
	c.table.add(row{
		what:   fmt.Sprintf("from update to event, %d watchers, half of that rate", watchers),
		figure: fmt.Sprintf("p50 %s, p99 %s of %d", milliseconds(quantile(half, 0.5)), milliseconds(quantile(half, 0.99)), len(half)), goal: delayGoal,
		floor: fmt.Sprintf("to its answer p50 %s, p99 %s; the same without watchers p50 %s, p99 %s",
			milliseconds(quantile(acked, 0.5)), milliseconds(quantile(acked, 0.99)),
			milliseconds(quantile(alone, 0.5)), milliseconds(quantile(alone, 0.99))),
		ratio: ratio(float64(quantile(half, 0.99)), float64(quantile(alone, 0.99))),
	})
	return nil
}

type fullRate struct{ writesPerSecond, cpuPerEvent float64 }

func (c *cluster) fullRate(ctx context.Context, pid, watchers int, w *writer) (fullRate, error) {
	a, stop, err := c.gather(ctx, watchers)
	if err != nil {
		return fullRate{}, err
	}
	before, err := cpu(pid)
	if err != nil {
		return fullRate{}, errors.Join(err, stop())
	}
	began := time.Now()
	writes, err := w.flat(ctx)
	if err == nil {
		err = a.all(ctx, writes)
	}
	took := time.Since(began)
	after, cpuErr := cpu(pid)
	return fullRate{
		writesPerSecond: float64(writes) / took.Seconds(), cpuPerEvent: float64((after - before).Microseconds()) / float64(max(1, a.received.Load())),
	}, errors.Join(err, cpuErr, stop())
}

// halfRate returns the delays of a sample of all events.
func (c *cluster) halfRate(ctx context.Context, watchers int, w *writer, perSecond float64) ([]time.Duration, error) {
	a, stop, err := c.gather(ctx, watchers)
	if err != nil {
		return nil, err
	}
	writes, err := w.paced(ctx, perSecond)
	if err == nil {
		err = a.all(ctx, writes)
	}
	if err = errors.Join(err, stop()); err != nil {
		return nil, err
	}
	return a.delays, nil
}
