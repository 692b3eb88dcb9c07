package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/platform/kube/client"

	"kijabi.dev/test/faults/internal/cluster"
)

// watchers have many clients watch while a master's apiserver is killed: all must soon go on
// where they were, hardly any by a list, and the others must not swell.
func watchers() []Fault {
	with := func(id, about string, connections, watches int, within time.Duration) Fault {
		return Fault{
			ID: id, About: about, Hold: time.Second, Limit: 20 * time.Second, KeepsLeader: true,
			Inject: func(ctx context.Context, s Scene) (*Injection, error) {
				c := &crowd{scene: s, connections: connections, watches: watches, within: within}
				return c.inject(ctx)
			},
		}
	}
	return []Fault{
		with("F14", "a follower's apiserver is killed while 1000 clients of 25 connections watch", 25, 40, 5*time.Second),
		with("F15", "a follower's apiserver is killed while 200 connections with 10 watches each are open", 200, 10, 10*time.Second),
	}
}

// crowd is many watches.
type crowd struct {
	scene                Scene
	connections, watches int
	// within is how soon after the kill all must watch again.
	within time.Duration

	stop    context.CancelFunc
	done    sync.WaitGroup
	conns   []*grpc.ClientConn
	seen    []atomic.Int64 // by watch, when it was last told of progress, in nanoseconds since 1970
	relists atomic.Int64
}

func (c *crowd) inject(ctx context.Context) (*Injection, error) {
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	c.stop = stop
	in := &Injection{Verify: nothing, Heal: func(context.Context) error { return c.leave() }}
	if err := c.gather(watching); err != nil {
		return in, err
	}
	began := time.Now()
	if err := c.await(ctx, time.Minute, began); err != nil {
		return in, fmt.Errorf("before the kill: %w", err)
	}
	victim := c.scene.follower()
	before := c.memory(victim)
	killed, err := killProgram(c.scene, victim, "apiserver")
	if err != nil {
		return in, err
	}
	began = time.Now()
	killed.Verify = nothing // it is back long before all is checked
	in.Verify = func(ctx context.Context) error {
		err := c.await(ctx, c.within-time.Since(began), began)
		if n := c.relists.Load(); n > int64(len(c.seen)/100) {
			err = errors.Join(err, fmt.Errorf("%d of %d watches had to list", n, len(c.seen)))
		}
		for name, was := range before {
			if is := c.memory(victim)[name]; is > was*3/2 {
				err = errors.Join(err, fmt.Errorf("the apiserver of %s had %d MiB and has %d", name, was>>20, is>>20))
			}
		}
		return err
	}
	return killed.and(in), nil
}

// gather opens the connections, each to every master so that its watches can move, and the watches.
func (c *crowd) gather(ctx context.Context) error {
	c.seen = make([]atomic.Int64, c.connections*c.watches)
	masters := c.scene.Cluster.Masters()
	for i := range c.connections {
		var apis []*client.Client
		for _, master := range masters {
			conn, err := c.scene.Cluster.Dial(master)
			if err != nil {
				return err
			}
			c.conns = append(c.conns, conn)
			apis = append(apis, client.New(conn))
		}
		for j := range c.watches {
			number := i*c.watches + j
			c.done.Go(func() { c.watch(ctx, number, i, apis) })
		}
	}
	return nil
}

// watch watches through one master until that fails, and then through the next.
func (c *crowd) watch(ctx context.Context, number, at int, apis []*client.Client) {
	version := ""
	for ; ctx.Err() == nil; at++ {
		var failed error
		for message, err := range client.Watch[*corev1.ConfigMap](ctx, apis[at%len(apis)], client.WatchOptions{Namespace: "default", ResourceVersion: version}) {
			if failed = err; err == nil && message.Progress != "" {
				version = message.Progress
				c.seen[number].Store(time.Now().UnixNano())
			}
		}
		if apierrors.IsResourceExpired(failed) || apierrors.IsGone(failed) {
			c.relists.Add(1)
			version = ""
		}
		select {
		case <-ctx.Done():
		case <-time.After(rand.N(200 * time.Millisecond)): //nolint:gosec // jitter
		}
	}
}

// await waits until every watch has been told of progress after a time.
func (c *crowd) await(ctx context.Context, limit time.Duration, after time.Time) error {
	return cluster.Await(ctx, max(limit, 0), "all clients watch", func() error {
		late := 0
		for i := range c.seen {
			if c.seen[i].Load() < after.UnixNano() {
				late++
			}
		}
		if late > 0 {
			return fmt.Errorf("%d of %d do not", late, len(c.seen))
		}
		return nil
	})
}

// memory of the apiservers but the victim's.
func (c *crowd) memory(victim string) map[string]int64 {
	all := map[string]int64{}
	for _, master := range c.scene.Cluster.Others(victim) {
		if p, err := c.scene.Cluster.Process(master, "apiserver"); err == nil {
			all[master] = p.RSS()
		}
	}
	return all
}

func (c *crowd) leave() error {
	c.stop()
	c.done.Wait()
	var errs []error
	for _, conn := range c.conns {
		errs = append(errs, conn.Close())
	}
	return errors.Join(errs...)
}
