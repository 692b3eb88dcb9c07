package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
)

const (
	// Each machine gets this share of a core, in periods so short that masters do not lose
	// touch: what grows with machines must not be the share of one host that they take together.
	sharePeriod, shareQuota = 10 * time.Millisecond, 1500 * time.Microsecond
	readersEach             = 64
	readsFor                = 3 * time.Second
)

// measureSpares reads through all masters while more and more join: three vote, the fourth is a
// spare.
func measureSpares(ctx context.Context, b *bench) error {
	return b.withCluster(ctx, 1, 3, func(c *cluster) error {
		addresses := []string{masterAddress(1)}
		if err := c.createOne(ctx, addresses[0], "read"); err != nil {
			return err
		}
		if err := limitCPU("master-1"); err != nil {
			return err
		}
		first, err := c.reads(ctx, addresses)
		if err != nil {
			return err
		}
		c.table.add(row{what: "reads through 1 master with 15 % of a core, voter", figure: fmt.Sprintf("%.0f/s", first)})
		for n := 1; n <= 3; n++ {
			machine := fmt.Sprintf("node-%d", n)
			roles, err := c.becomeMaster(ctx, machine, n+1)
			if err != nil {
				return err
			}
			address := fmt.Sprintf("10.95.0.%d:%d", 20+n, 6444)
			addresses = append(addresses, address)
			if err := c.createOne(ctx, address, "forwarded-"+machine); err != nil {
				return fmt.Errorf("a write through %s: %w", machine, err)
			}
			rate, err := c.reads(ctx, addresses)
			if err != nil {
				return err
			}
			c.table.add(row{
				what:   fmt.Sprintf("reads through %d masters with 15 %% of a core each, %s", n+1, roles),
				figure: fmt.Sprintf("%.0f/s", rate), floor: fmt.Sprintf("1 master %.0f/s", first), ratio: ratio(rate, first),
			})
		}
		return nil
	})
}

// becomeMaster makes a node a master with its share of a core, and waits until it and the others
// have settled; it says who votes.
func (c *cluster) becomeMaster(ctx context.Context, machine string, masters int) (string, error) {
	token, err := c.kijabi(ctx, "token", "create", "--cluster", clusterName, "--role", "master")
	if err != nil {
		return "", err
	}
	for _, command := range [][]string{{"reset"}, {"master", "join", "10.95.0.11", "--token", strings.TrimSpace(token)}} {
		if _, err := c.kijabi(ctx, append([]string{"machine", "shell", "--name", clusterName, machine, "--", "kijabi"}, command...)...); err != nil {
			return "", err
		}
	}
	if err := limitCPU(machine); err != nil {
		return "", err
	}
	for deadline := time.Now().Add(60 * time.Second); ; {
		voters, spares, err := c.roles(ctx)
		if err == nil && voters == min(masters, 3) && spares == masters-voters {
			return fmt.Sprintf("%d voters, %d spare", voters, spares), nil
		}
		if time.Now().After(deadline) {
			return "", errors.Join(fmt.Errorf("%d voters and %d spares a minute after the last of %d masters joined", voters, spares, masters), err)
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return "", err
		}
	}
}

func (c *cluster) roles(ctx context.Context) (voters, spares int, err error) {
	out, err := c.kijabi(ctx, "status", "-o", "json")
	if err != nil {
		return 0, 0, err
	}
	var status struct {
		Masters []struct{ Role string }
	}
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		return 0, 0, err
	}
	for _, master := range status.Masters {
		switch master.Role {
		case "voter":
			voters++
		case "spare":
			spares++
		}
	}
	return voters, spares, nil
}

// createOne writes through one master, which forwards it if it does not lead.
func (c *cluster) createOne(ctx context.Context, address, name string) error {
	conn, err := c.dialAddress(address)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_, err = client.New(conn).Create(ctx, smallConfigMap(name))
	return err
}

// reads reads an object, as it is now, through all masters at once and returns reads per second.
func (c *cluster) reads(ctx context.Context, addresses []string) (float64, error) {
	var total atomic.Int64
	group, groupCtx := errgroup.WithContext(ctx)
	deadline, cancel := context.WithTimeout(ctx, readsFor)
	defer cancel()
	key := object.Key{Namespace: "default", Name: "read"}
	for _, address := range addresses {
		conn, err := c.dialAddress(address)
		if err != nil {
			return 0, errors.Join(err, group.Wait())
		}
		defer func() { _ = conn.Close() }()
		api := client.New(conn)
		for range readersEach {
			group.Go(func() error {
				for ; deadline.Err() == nil; total.Add(1) {
					if _, err := client.Get[*corev1.ConfigMap](groupCtx, api, key); err != nil {
						return fmt.Errorf("read through %s: %w", address, err)
					}
				}
				return nil
			})
		}
	}
	err := group.Wait()
	return float64(total.Load()) / readsFor.Seconds(), err
}

// limitCPU leaves a machine its share of the CPU, by control groups of either version.
func limitCPU(machine string) error {
	content, err := os.ReadFile(filepath.Join("/var/lib/kijabi-up", clusterName, "machines", machine, "pid"))
	if err != nil {
		return err
	}
	groups, err := os.ReadFile("/proc/" + strings.Fields(string(content))[0] + "/cgroup")
	if err != nil {
		return err
	}
	period, quota := strconv.FormatInt(sharePeriod.Microseconds(), 10), strconv.FormatInt(shareQuota.Microseconds(), 10)
	for line := range strings.Lines(string(groups)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 || len(parts[2]) < 2 {
			continue
		}
		dir := filepath.Join("/sys/fs/cgroup", parts[1], parts[2])
		switch {
		case slices.Contains(strings.Split(parts[1], ","), "cpu"):
			return errors.Join(
				os.WriteFile(filepath.Join(dir, "cpu.cfs_period_us"), []byte(period), 0), os.WriteFile(filepath.Join(dir, "cpu.cfs_quota_us"), []byte(quota), 0))
		case parts[0] == "0":
			if err := os.WriteFile(filepath.Join(dir, "cpu.max"), []byte(quota+" "+period), 0); err == nil {
				return nil
			}
		}
	}
	return fmt.Errorf("machine %s has no control group of its own for its CPU", machine)
}
