package cluster

import (
	"context"
	"errors"

	"kijabi.dev/cli/internal/machine"
)

// Down removes a cluster and everything that Up has made on the host. It works after an
// Up that was cut off at any point. KeepData leaves the machines' disks and the user's
// access, for a later Up.
func Down(ctx context.Context, name string, o Options, keepData bool) error {
	unlock, err := machine.Lock(o.Root, name)
	if err != nil {
		return err
	}
	defer unlock()
	fleet, err := machine.Open(o.Root, name)
	if errors.Is(err, machine.ErrNotFound) {
		// Whatever an interrupted run may have left goes, too.
		fleet, err = machine.New(o.Root, machine.State{Name: name})
		o.Progress.Say("no cluster %q in %s", name, o.Root)
	}
	if err != nil {
		return err
	}
	return down(ctx, fleet, o, keepData)
}

func down(ctx context.Context, fleet *machine.Fleet, o Options, keepData bool) error {
	if keepData {
		// Disks that will be used again deserve a clean end.
		if err := fleet.StopAll(ctx, fleet.Names()...); err != nil {
			o.Progress.Say("not stopped in order: %v", err)
		}
	}
	if err := fleet.Destroy(ctx, keepData); err != nil {
		return err
	}
	o.Progress.Say("%d machines and their network removed", len(fleet.State.Machines))
	if keepData {
		return nil
	}
	return o.Home.Forget(fleet.State.Name)
}
