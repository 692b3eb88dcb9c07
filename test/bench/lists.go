package main

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"kijabi.dev/platform/kube/client"
)

const listRounds = 15

// usualPod is a pod that takes about 2 KB once it is stored, defaults and the record of who
// owns its fields included.
func usualPod(n int) *corev1.Pod {
	pod := smallPod(fmt.Sprintf("pod-%06d", n)).(*corev1.Pod)
	pod.Labels["share"] = fmt.Sprint(n % 100)
	pod.Annotations = map[string]string{} // no owner: who has one that is not there is collected
	for _, part := range []string{"config", "secrets"} {
		pod.Annotations["example.com/checksum-"+part] = "d2a84f4b8b650937ec8f73cd8be2c74add5a911ba64df27458ed8229da804a26"
	}
	for i := range 2 {
		pod.Spec.Containers[0].Env = append(pod.Spec.Containers[0].Env, corev1.EnvVar{Name: fmt.Sprintf("SETTING_%d", i), Value: "a value of a length that is common in such settings"})
	}
	pod.Spec.Containers[0].LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz"}}, PeriodSeconds: 10}
	pod.Spec.Containers[0].LivenessProbe.HTTPGet.Port.IntVal = 8080
	return pod
}

// fill creates pods from one number up to another, many in a transaction.
func (c *cluster) fill(ctx context.Context, from, to int, pod func(n int) *corev1.Pod) error {
	conn, err := c.dial(1)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	api := client.New(conn)
	const together = 50
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4)
	for first := from; first < to; first += together {
		group.Go(func() error {
			var ops []client.Op
			for n := first; n < min(first+together, to); n++ {
				ops = append(ops, client.CreateOp(pod(n)))
			}
			_, err := api.Transact(ctx, ops, false)
			return err
		})
	}
	return group.Wait()
}

// listGoals are of 10,000 pods.
var listGoals = map[string]string{"gRPC": "≤ 15 ms", "REST protobuf": "≤ 15 ms", "REST JSON": "≤ 60 ms"}

// measureLists lists 10,000 small pods through every door.
func measureLists(ctx context.Context, b *bench) error {
	return b.withCluster(ctx, 1, 0, func(c *cluster) error {
		pid, err := c.apiserver("master-1")
		if err != nil {
			return err
		}
		const pods = 10_000
		if err := c.fill(ctx, 0, pods, func(n int) *corev1.Pod {
			pod := smallPod(fmt.Sprintf("pod-%06d", n)).(*corev1.Pod)
			pod.Labels["share"] = fmt.Sprint(n % 100)
			return pod
		}); err != nil {
			return err
		}
		return c.lists(ctx, pid, pods)
	})
}

// measureMemory weighs the apiserver with 10,000 and 50,000 pods of 2 KB.
func measureMemory(ctx context.Context, b *bench) error {
	return b.withCluster(ctx, 1, 0, func(c *cluster) error {
		pid, err := c.apiserver("master-1")
		if err != nil {
			return err
		}
		empty, err := settledPSS(ctx, pid)
		if err != nil {
			return err
		}
		for _, step := range []struct{ from, to int }{{0, 10_000}, {10_000, 50_000}} {
			if err := c.fill(ctx, step.from, step.to, usualPod); err != nil {
				return err
			}
			full, err := settledPSS(ctx, pid)
			if err != nil {
				return err
			}
			doors, err := c.doors(1)
			if err != nil {
				return err
			}
			items, size, err := doors[0].list(ctx, "")
			for _, d := range doors {
				d.close()
			}
			if err != nil {
				return err
			}
			c.table.add(row{
				what: fmt.Sprintf("apiserver memory, %d pods of %d bytes", items, size/items),
				figure: fmt.Sprintf("%.1f KB per pod, %.1f of it anonymous; %d MB in all, %d MB empty",
					float64(full.all-empty.all)/float64(step.to)/1000, float64(full.anonymous-empty.anonymous)/float64(step.to)/1000,
					full.all/1e6, empty.all/1e6),
				goal: "≤ 10 KB per pod",
			})
			for _, watcher := range []struct{ name, goal string }{{"controller-manager", "≤ 150 MB at 50,000"}, {"scheduler", ""}} {
				if err := c.weigh(ctx, watcher.name, watcher.goal, items); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// weigh adds the memory of a program that watches all pods.
func (c *cluster) weigh(ctx context.Context, name, goal string, pods int) error {
	pid, err := c.program("master-1", name)
	if err != nil {
		return err
	}
	memory, err := settledPSS(ctx, pid)
	if err != nil {
		return err
	}
	c.table.add(row{what: fmt.Sprintf("%s memory, %d pods", name, pods), figure: fmt.Sprintf("%d MB PSS, %d of it anonymous", memory.all/1e6, memory.anonymous/1e6), goal: goal})
	return nil
}

// settledPSS waits until a process gives back no more memory.
func settledPSS(ctx context.Context, pid int) (pages, error) {
	last, err := pss(pid)
	for err == nil {
		if err = pause(ctx, 10*time.Second); err != nil {
			break
		}
		var now pages
		if now, err = pss(pid); err == nil && now.all >= last.all-last.all/50 {
			return now, nil
		}
		last = now
	}
	return pages{}, err
}

func (c *cluster) lists(ctx context.Context, pid, pods int) error {
	doors, err := c.doors(1)
	if err != nil {
		return err
	}
	floor, end, err := httpFloor(ctx)
	if err != nil {
		return err
	}
	defer end()
	type result struct {
		took, cpu, floor []time.Duration
		items, size      int
	}
	results := map[string]*result{}
	selectors := []string{"", "share=7"}
	for range listRounds {
		for _, d := range doors {
			for _, selector := range selectors {
				key := d.name() + selector
				if results[key] == nil {
					results[key] = &result{}
				}
				r := results[key]
				runtime.GC() // the client's garbage is not the server's time
				before, err := cpu(pid)
				if err != nil {
					return err
				}
				began := time.Now()
				if r.items, r.size, err = d.list(ctx, selector); err != nil {
					return err
				}
				r.took = append(r.took, time.Since(began))
				after, err := cpu(pid)
				if err != nil {
					return err
				}
				r.cpu = append(r.cpu, after-before)
				runtime.GC()
				began = time.Now()
				if err := floor.bytes(ctx, r.size); err != nil {
					return err
				}
				r.floor = append(r.floor, time.Since(began))
			}
		}
	}
	for _, d := range doors {
		for _, selector := range selectors {
			r, want, goal := results[d.name()+selector], pods, listGoals[d.name()]
			if selector != "" {
				want, goal = pods/100, ""
			}
			if r.items != want {
				return fmt.Errorf("list of pods %q by %s shows %d, want %d", selector, d.name(), r.items, want)
			}
			var cpu time.Duration
			for _, used := range r.cpu {
				cpu += used
			}
			took, least := quantile(r.took, 0.5), quantile(r.floor, 0.5)
			c.table.add(row{
				what:   fmt.Sprintf("LIST %d of %d pods by %s, not decoded", r.items, pods, d.name()),
				figure: fmt.Sprintf("p50 %s, %s of server CPU each; %d KB", milliseconds(took), milliseconds(cpu/listRounds), r.size/1000), goal: goal,
				floor: "plain HTTPS server, same bytes " + milliseconds(least), ratio: ratio(float64(took), float64(least)),
			})
		}
		d.close()
	}
	return nil
}
