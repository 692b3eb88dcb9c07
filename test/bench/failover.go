package main

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
)

const (
	kills     = 10
	transfers = 10
)

// measureFailover kills the leader's machine, and then has leadership handed over, ten times
// each, while a writer creates objects through another master, and checks that nothing
// acknowledged was lost.
func measureFailover(ctx context.Context, b *bench) error {
	return b.withCluster(ctx, 3, 0, func(c *cluster) error {
		conn, err := c.failover()
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		running, stop := context.WithCancel(ctx)
		defer stop()
		ended := make(chan error, 1)
		go func() { ended <- conn.Run(running) }()

		var gaps []time.Duration
		var acknowledged []string
		for round := range kills {
			leader, err := c.awaitWhole(ctx)
			if err != nil {
				return err
			}
			gap, names, err := c.disturb(ctx, leader, fmt.Sprintf("kill-%d", round), "machine", "kill", "--name", clusterName, leader)
			if err != nil {
				return err
			}
			gaps, acknowledged = append(gaps, gap), append(acknowledged, names...)
			if _, err := c.kijabi(ctx, "machine", "start", "--name", clusterName, leader); err != nil {
				return err
			}
		}
		leader, err := c.awaitWhole(ctx)
		if err != nil {
			return err
		}
		var handOvers []time.Duration
		for round := range transfers {
			gap, names, err := c.disturb(ctx, leader, fmt.Sprintf("transfer-%d", round), "leader", "transfer")
			if err != nil {
				return err
			}
			handOvers, acknowledged = append(handOvers, gap), append(acknowledged, names...)
			if leader, err = c.awaitWhole(ctx); err != nil {
				return err
			}
		}
		lost, err := countLost(ctx, client.New(conn), acknowledged)
		if err != nil {
			return err
		}
		c.table.add(row{
			what:   fmt.Sprintf("leader's machine killed → next acknowledged write, %d kills, p50 / max", kills),
			figure: milliseconds(quantile(gaps, 0.5)) + " / " + milliseconds(quantile(gaps, 1)), goal: "≤ 1 s",
		})
		c.table.add(row{
			what:   fmt.Sprintf("leadership handed over, longest pause between acknowledged writes, %d times, p50 / max", transfers),
			figure: milliseconds(quantile(handOvers, 0.5)) + " / " + milliseconds(quantile(handOvers, 1)), goal: "≤ 100 ms",
		})
		c.table.add(row{what: fmt.Sprintf("acknowledged writes lost over all that, of %d", len(acknowledged)), figure: fmt.Sprint(lost), goal: "0"})
		return nil
	})
}

// awaitWhole waits until all masters are alive and one leads, whose name it returns.
func (c *cluster) awaitWhole(ctx context.Context) (string, error) {
	deadline := time.Now().Add(60 * time.Second)
	for {
		_, err := c.kijabi(ctx, "up", "--name", clusterName) // repairs nothing: it waits until all is Ready
		if err == nil {
			return c.leader(ctx)
		}
		if time.Now().After(deadline) {
			return "", err
		}
	}
}

// disturb writes through a master that does not lead all the time, runs a command that ends the
// leadership, and returns the longest pause between acknowledged writes around it, and the names
// of what was written.
func (c *cluster) disturb(ctx context.Context, leader, prefix string, command ...string) (time.Duration, []string, error) {
	survivor := 1
	if leader == "master-1" {
		survivor = 2
	}
	conn, err := c.dial(survivor)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = conn.Close() }()
	api := client.New(conn)

	type ack struct {
		name string
		at   time.Time
	}
	acks := make(chan ack, 100000)
	writing, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; writing.Err() == nil; n++ {
			name := fmt.Sprintf("%s-%d", prefix, n)
			attempt, cancel := context.WithTimeout(writing, 5*time.Second)
			_, err := api.Create(attempt, smallConfigMap(name))
			cancel()
			if err == nil {
				acks <- ack{name, time.Now()}
			}
			if err := pause(writing, time.Millisecond); err != nil {
				return
			}
		}
	}()
	if err := pause(ctx, 500*time.Millisecond); err != nil {
		return 0, nil, err
	}
	began := time.Now()
	if _, err := c.kijabi(ctx, command...); err != nil {
		return 0, nil, err
	}
	if err := pause(ctx, 4*time.Second); err != nil {
		return 0, nil, err
	}
	stop()
	<-done
	close(acks)
	var names []string
	var last time.Time
	var gap time.Duration
	for a := range acks { // from the last write before it
		if !last.IsZero() && a.at.After(began) {
			gap = max(gap, a.at.Sub(last))
		}
		last = a.at
		names = append(names, a.name)
	}
	if last.Before(began) {
		return 0, nil, fmt.Errorf("no write was acknowledged within 4 s of %q with %s leading", command, leader)
	}
	return gap, names, nil
}

func countLost(ctx context.Context, api *client.Client, names []string) (int, error) {
	lost := 0
	for _, name := range names {
		_, err := client.Get[*corev1.ConfigMap](ctx, api, object.Key{Namespace: "default", Name: name})
		if apierrors.IsNotFound(err) {
			lost++
		} else if err != nil {
			return 0, err
		}
	}
	return lost, nil
}
