package main

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// measureUp times `kijabi up` with everything built; the command returns once all
// nodes are Ready and the DNS of every machine answers.
func measureUp(ctx context.Context, b *bench) error {
	for _, size := range []struct{ masters, nodes int }{{1, 1}, {3, 2}} {
		var times []time.Duration
		for range 3 {
			began := time.Now()
			if _, err := b.kijabi(ctx, "up", "--name", clusterName, "--subnet", subnet,
				"--masters", strconv.Itoa(size.masters), "--nodes", strconv.Itoa(size.nodes)); err != nil {
				return err
			}
			times = append(times, time.Since(began))
			if _, err := b.kijabi(ctx, "down", "--name", clusterName); err != nil {
				return err
			}
		}
		b.table.add(row{
			what:   fmt.Sprintf("up to Ready and DNS answering, %d masters + %d nodes, median of 3", size.masters, size.nodes),
			figure: milliseconds(quantile(times, 0.5)),
		})
	}
	return nil
}
