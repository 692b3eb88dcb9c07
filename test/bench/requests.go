package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	requestsFor = 1500 * time.Millisecond
	rounds      = 3
)

// throughput runs call by workers for a while and returns calls per second and the server's
// CPU time per call.
func throughput(ctx context.Context, pid, workers int, call func(ctx context.Context, worker int, n int64) error) (rate float64, used time.Duration, err error) {
	before, err := cpu(pid)
	if err != nil {
		return 0, 0, err
	}
	var count atomic.Int64
	began := time.Now()
	deadline, cancel := context.WithTimeout(ctx, requestsFor)
	defer cancel()
	group, groupCtx := errgroup.WithContext(ctx)
	for worker := range workers {
		group.Go(func() error {
			for deadline.Err() == nil {
				if err := call(groupCtx, worker, count.Add(1)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err = group.Wait()
	took := time.Since(began)
	after, cpuErr := cpu(pid)
	calls := count.Load()
	return float64(calls) / took.Seconds(), (after - before) / time.Duration(max(1, calls)), errors.Join(err, cpuErr)
}

// measureRequests measures creates and gets through every door of one master, and creates
// through gRPC with three.
func measureRequests(ctx context.Context, b *bench) error {
	commits, err := b.groupCommit(ctx)
	if err != nil {
		return err
	}
	b.table.add(row{what: "group commit alone, in process, 64 writers", figure: fmt.Sprintf("%.0f/s", commits)})
	err = b.withCluster(ctx, 1, 0, func(c *cluster) error {
		return c.requests(ctx, []int{1, 16, 64}, []string{"create", "get"}, func(door) bool { return true })
	})
	if err != nil {
		return err
	}
	return b.withCluster(ctx, 3, 0, func(c *cluster) error {
		return c.requests(ctx, []int{64}, []string{"create"}, func(d door) bool { return d.name() == "gRPC" })
	})
}

// groupCommit runs the store's own benchmark: group commit alone, in process.
func (b *bench) groupCommit(ctx context.Context) (float64, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "BenchmarkCommit/writers=64$", "-benchtime", "2s", "./internal/store/")
	cmd.Dir = b.source + "/apiserver"
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("group commit: %w\n%s", err, out)
	}
	match := regexp.MustCompile(`([0-9.]+) (?:commits|writes|puts)/s`).FindSubmatch(out)
	if match == nil {
		if match = regexp.MustCompile(`\s([0-9.]+) ns/op`).FindSubmatch(out); match == nil {
			return 0, fmt.Errorf("group commit: no figure in\n%s", bytes.TrimSpace(out))
		}
		ns, err := strconv.ParseFloat(string(match[1]), 64)
		return 1e9 / ns, err
	}
	return strconv.ParseFloat(string(match[1]), 64)
}

// requestGoals are of 64 workers and one master.
var requestGoals = map[string]string{
	"gRPC create": "≥ 10,000/s", "REST protobuf create": "≥ 7,000/s", "gRPC get": "≥ 20,000/s", "REST protobuf get": "≥ 20,000/s",
}

// series is one measurement's results, round by round.
type series struct {
	rate []float64
	cpu  []time.Duration
}

func (s *series) String() string {
	return fmt.Sprintf("%.0f/s, %d µs of server CPU each", median(s.rate), quantile(s.cpu, 0.5).Microseconds())
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

func (c *cluster) requests(ctx context.Context, workers []int, verbs []string, chosen func(door) bool) error {
	leader, err := c.leader(ctx)
	if err != nil {
		return err
	}
	number, err := strconv.Atoi(leader[len("master-"):])
	if err != nil {
		return err
	}
	pid, err := c.apiserver(leader)
	if err != nil {
		return err
	}
	changes, err := c.leaderChanges(ctx, number)
	if err != nil {
		return err
	}
	all, err := c.doors(number)
	if err != nil {
		return err
	}
	defer func() {
		for _, d := range all {
			d.close()
		}
	}()
	doors := slices.DeleteFunc(slices.Clone(all), func(d door) bool { return !chosen(d) })
	for _, kind := range []string{"ConfigMap", "Pod"} {
		if err := doors[0].create(ctx, 0, smallKinds[kind]("read")); err != nil {
			return err
		}
	}
	results := map[string]*series{}
	measure := func(key string, workers int, call func(context.Context, int, int64) error) error {
		rate, used, err := throughput(ctx, pid, workers, call)
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		if results[key] == nil {
			results[key] = &series{}
		}
		results[key].rate, results[key].cpu = append(results[key].rate, rate), append(results[key].cpu, used)
		return nil
	}
	for round := range rounds { // alternating, so that a slow moment hits all
		for _, n := range workers {
			for i, d := range doors {
				if err := measure(fmt.Sprint(d.name(), " echo ", n), n, func(ctx context.Context, worker int, _ int64) error { return d.echo(ctx, worker) }); err != nil {
					return err
				}
				for kind, object := range smallKinds {
					for _, verb := range verbs {
						err := measure(fmt.Sprint(d.name(), " ", verb, " ", kind, " ", n), n, func(ctx context.Context, worker int, call int64) error {
							if verb == "get" {
								return d.get(ctx, worker, object("read"))
							}
							return d.create(ctx, worker, object(fmt.Sprintf("b-%d-%d-%d-%d", i, n, round, call)))
						})
						if err != nil {
							return err
						}
					}
				}
			}
		}
	}
	changesAfter, err := c.leaderChanges(ctx, number)
	if err != nil {
		return err
	}
	for _, n := range workers {
		for _, d := range doors {
			echo := results[fmt.Sprint(d.name(), " echo ", n)]
			c.table.add(row{what: fmt.Sprintf("%s echo, %d workers, %d master(s), leader changes %d", d.name(), n, c.masters, changesAfter-changes), figure: echo.String()})
			for _, verb := range verbs {
				for _, kind := range []string{"ConfigMap", "Pod"} {
					s, goal := results[fmt.Sprint(d.name(), " ", verb, " ", kind, " ", n)], ""
					if n == 64 && c.masters == 1 {
						goal = requestGoals[d.name()+" "+verb]
					}
					c.table.add(row{
						what:  fmt.Sprintf("%s %s %s, %d workers, %d master(s)", d.name(), verb, kind, n, c.masters),
						floor: fmt.Sprintf("echo %.0f/s", median(echo.rate)), figure: s.String(), ratio: ratio(median(s.rate), median(echo.rate)), goal: goal,
					})
				}
			}
		}
	}
	return nil
}
