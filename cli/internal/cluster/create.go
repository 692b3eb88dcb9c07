package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"kijabi.dev/cli/internal/machine"
)

// Create makes machines with own, almost empty root directories and starts them. They
// are members of nothing: whoever asked for them installs them, as a person installs
// virtual machines. Run again, it adds machines and starts those that are down. If a new
// fleet does not start, it is removed again. It returns the fleet.
func Create(ctx context.Context, plan Plan, o Options) (*machine.Fleet, error) {
	unlock, err := machine.Lock(o.Root, plan.Name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	fleet, err := machine.Open(o.Root, plan.Name)
	fresh := errors.Is(err, machine.ErrNotFound)
	if fresh {
		fleet, err = machine.New(o.Root, machine.State{Name: plan.Name, OwnRoots: true})
	}
	if err != nil {
		return nil, err
	}
	if !fleet.State.OwnRoots {
		return nil, fmt.Errorf("cluster %q was started by `kijabi up`: choose another --name for machines to install by hand", plan.Name)
	}
	if fleet.State, _, err = plan.extend(fleet.State); err != nil {
		return nil, err
	}
	if err := fleet.CheckSubnet(); err != nil {
		return nil, err
	}
	if err := startFleet(ctx, fleet, o); err != nil {
		if fresh {
			cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
			defer cancel()
			err = errors.Join(err, fleet.Destroy(cleanup, false))
		}
		return nil, err
	}
	return fleet, nil
}

func startFleet(ctx context.Context, fleet *machine.Fleet, o Options) error {
	if err := fleet.Save(); err != nil {
		return err
	}
	if err := fleet.EnsureNetwork(); err != nil {
		return err
	}
	if err := fleet.RefreshHosts(); err != nil {
		return err
	}
	for _, name := range fleet.Names() {
		if fleet.PID(name) != 0 {
			continue
		}
		if ctx.Err() != nil {
			return fmt.Errorf("machine %s not started: %w", name, ctx.Err())
		}
		if err := fleet.Start(ctx, name); err != nil {
			return err
		}
		o.Progress.Say("machine %s started", name)
	}
	return nil
}
