package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
)

const (
	recoveries      = 3
	recoveryObjects = 10_000
)

// measureRecovery ends two masters of three for good and times one command on the third,
// until a write is acknowledged; everything must still be there.
func measureRecovery(ctx context.Context, b *bench) error {
	var took []time.Duration
	for range recoveries {
		if err := b.withCluster(ctx, 3, 0, func(c *cluster) error {
			d, err := c.recover(ctx)
			took = append(took, d)
			return err
		}); err != nil {
			return err
		}
	}
	b.table.add(row{
		what:   fmt.Sprintf("two masters of three lost for good, %d objects: `kijabi recover` → first acknowledged write, %d times, p50 / max", recoveryObjects, recoveries),
		figure: milliseconds(quantile(took, 0.5)) + " / " + milliseconds(quantile(took, 1)), goal: "≤ 60 s",
	})
	return nil
}

func (c *cluster) recover(ctx context.Context) (time.Duration, error) {
	name := func(n int) string { return fmt.Sprintf("kept-%05d", n) }
	if err := c.fillMaps(ctx, recoveryObjects, name); err != nil {
		return 0, err
	}
	for _, master := range []string{"master-1", "master-2"} {
		if _, err := c.kijabi(ctx, "machine", "kill", "--name", clusterName, master); err != nil {
			return 0, err
		}
	}
	began := time.Now()
	for { // it is refused while the third master has not noticed yet
		_, err := c.kijabi(ctx, "machine", "shell", "--name", clusterName, "master-3", "--", filepath.Join(c.bin, "kijabi"), "recover", "--yes")
		if err == nil {
			break
		}
		if !strings.Contains(err.Error(), "the quorum is not lost") || time.Since(began) > 30*time.Second {
			return 0, err
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return 0, err
		}
	}
	conn, err := c.dial(3)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	api := client.New(conn)
	waiting, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for n := 0; ; n++ {
		attempt, done := context.WithTimeout(waiting, 5*time.Second)
		_, err := api.Create(attempt, smallConfigMap(fmt.Sprintf("after-%d", n)))
		done()
		if err == nil || apierrors.IsAlreadyExists(err) {
			break
		}
		if pauseErr := pause(waiting, 20*time.Millisecond); pauseErr != nil {
			return 0, errors.Join(pauseErr, err)
		}
	}
	took := time.Since(began)
	page, err := client.List[*corev1.ConfigMap](ctx, api, client.ListOptions{Namespace: "default"})
	if err != nil {
		return 0, err
	}
	kept := map[string]bool{}
	for _, item := range page.Items {
		kept[object.KeyOf(item).Name] = true
	}
	for n := range recoveryObjects {
		if !kept[name(n)] {
			return 0, fmt.Errorf("%s is lost", name(n))
		}
	}
	return took, nil
}

// fillMaps creates ConfigMaps through the first master.
func (c *cluster) fillMaps(ctx context.Context, n int, name func(n int) string) error {
	conn, err := c.dial(1)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	ops := make([]client.Op, n)
	for i := range ops {
		ops[i] = client.CreateOp(smallConfigMap(name(i)))
	}
	return (&fleet{api: client.New(conn)}).write(ctx, ops)
}
