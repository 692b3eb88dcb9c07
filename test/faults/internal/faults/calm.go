package faults

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"kijabi.dev/test/faults/internal/cluster"
)

// calm breaks nothing, for as long as a change of the leader would be one too many.
func calm() []Fault {
	return []Fault{
		{
			ID: "calm/idle", About: "nothing, and clients do next to nothing", Hold: 5 * time.Minute, Limit: 2 * time.Second, KeepsLeader: true, Gentle: true,
			Inject: func(context.Context, Scene) (*Injection, error) {
				return &Injection{Verify: nothing, Heal: nothing}, nil
			},
		},
		{
			ID: "calm/busy", About: "another program keeps a CPU of the host busy, and clients do next to nothing", Hold: 5 * time.Minute, Limit: 2 * time.Second, KeepsLeader: true, Gentle: true,
			Inject: busy,
		},
	}
}

// busy runs a program that never waits.
func busy(ctx context.Context, _ Scene) (*Injection, error) {
	cmd := exec.CommandContext(ctx, "sh", "-c", "while :; do :; done")
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	began := time.Now()
	return &Injection{
		Verify: func(context.Context) error {
			p := cluster.Process{PID: cmd.Process.Pid, Name: "sh"}
			if ran := p.Ran(); ran < time.Since(began)/4 {
				return fmt.Errorf("the busy program had a CPU for %s of %s", ran, time.Since(began))
			}
			return nil
		},
		Heal: func(context.Context) error {
			err := cmd.Process.Kill()
			var ended *exec.ExitError
			if waited := cmd.Wait(); !errors.As(waited, &ended) {
				err = errors.Join(err, waited)
			}
			return err
		},
	}, nil
}
