package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
)

const (
	workers      = 64
	createFor    = 3 * time.Second
	rounds       = 3
	createsConns = 4
)

// smallConfigMap and smallPod are what is created.
func smallConfigMap(name string) object.Object {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"bench": "creates"}},
		Data:       map[string]string{"key": "a value of a length that is common in such maps", "other": "another"},
	}
}

func smallPod(name string) object.Object {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"bench": "creates", "app": "small"}},
		Spec: corev1.PodSpec{
			// No scheduler answers to this name: the creates alone are measured.
			SchedulerName: "nobody",
			Containers: []corev1.Container{{
				Name: "c", Image: "registry.kijabi.dev/toolbox:1", Command: []string{"/toolbox", "sleep"},
				Ports: []corev1.ContainerPort{{ContainerPort: 8080}},
				Env:   []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "2"}},
				Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
					corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("16Mi"),
				}},
			}},
		},
	}
}

// throughput runs call by 64 workers for a while and returns calls per second and
// the server's CPU time per call.
func throughput(ctx context.Context, pid int, call func(ctx context.Context, worker int, n int64) error) (float64, time.Duration, error) {
	before, err := cpu(pid)
	if err != nil {
		return 0, 0, err
	}
	var count atomic.Int64
	began := time.Now()
	deadline, cancel := context.WithTimeout(ctx, createFor)
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

func measureCreates(ctx context.Context, b *bench) error {
	commits, err := b.groupCommit(ctx)
	if err != nil {
		return err
	}
	for _, masters := range []int{1, 3} {
		if err := b.withCluster(ctx, masters, 0, func(c *cluster) error { return c.creates(ctx, commits) }); err != nil {
			return err
		}
	}
	return nil
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

func (c *cluster) creates(ctx context.Context, commits float64) error {
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
	var clients []*client.Client
	var checks []grpc_health_v1.HealthClient
	for range createsConns {
		conn, err := c.dial(number, grpc.WithDefaultCallOptions(grpc.StaticMethod()))
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		clients = append(clients, client.New(conn))
		checks = append(checks, grpc_health_v1.NewHealthClient(conn))
	}
	type series struct {
		rate []float64
		cpu  []time.Duration
	}
	results := map[string]*series{"echo": {}, "ConfigMap": {}, "Pod": {}}
	measure := func(name string, round int, call func(context.Context, int, int64) error) error {
		rate, used, err := throughput(ctx, pid, call)
		if err != nil {
			return fmt.Errorf("%s, round %d: %w", name, round, err)
		}
		results[name].rate = append(results[name].rate, rate)
		results[name].cpu = append(results[name].cpu, used)
		return nil
	}
	for round := range rounds { // alternating, so that a slow moment hits all
		err := errors.Join(
			measure("echo", round, func(ctx context.Context, worker int, _ int64) error {
				_, err := checks[worker%createsConns].Check(ctx, &grpc_health_v1.HealthCheckRequest{})
				return err
			}),
			measure("ConfigMap", round, func(ctx context.Context, worker int, n int64) error {
				_, err := clients[worker%createsConns].Create(ctx, smallConfigMap(fmt.Sprintf("bench-%d-%d", round, n)))
				return err
			}),
			measure("Pod", round, func(ctx context.Context, worker int, n int64) error {
				_, err := clients[worker%createsConns].Create(ctx, smallPod(fmt.Sprintf("bench-%d-%d", round, n)))
				return err
			}))
		if err != nil {
			return err
		}
	}
	changesAfter, err := c.leaderChanges(ctx, number)
	if err != nil {
		return err
	}
	median := func(values []float64) float64 {
		durations := make([]time.Duration, len(values))
		for i, v := range values {
			durations[i] = time.Duration(v * 1000)
		}
		return float64(quantile(durations, 0.5)) / 1000
	}
	echo := median(results["echo"].rate)
	c.table.add(row{what: fmt.Sprintf("group commit alone, in process, %d writers", workers), figure: fmt.Sprintf("%.0f/s", commits)})
	c.table.add(row{
		what:   fmt.Sprintf("unary echo over the same TLS, %d workers, %d master(s)", workers, c.masters),
		figure: fmt.Sprintf("%.0f/s, %d µs of server CPU each", echo, quantile(results["echo"].cpu, 0.5).Microseconds()),
	})
	for _, kind := range []string{"ConfigMap", "Pod"} {
		rate := median(results[kind].rate)
		goal := ""
		if c.masters == 1 {
			goal = "≥ 10,000/s"
		}
		c.table.add(row{
			what:   fmt.Sprintf("create %s by gRPC, %d workers, %d master(s), leader changes %d", kind, workers, c.masters, changesAfter-changes),
			figure: fmt.Sprintf("%.0f/s, %d µs of server CPU each", rate, quantile(results[kind].cpu, 0.5).Microseconds()),
			floor:  fmt.Sprintf("echo %.0f/s", echo), ratio: ratio(rate, echo), goal: goal,
		})
	}
	return nil
}
