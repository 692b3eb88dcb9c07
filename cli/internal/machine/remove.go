package machine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// Remove ends the machines called names and deletes their disks.
func (f *Fleet) Remove(ctx context.Context, names ...string) error {
	if err := f.KillAll(ctx, names...); err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		if err := os.RemoveAll(f.MachineDir(name)); err != nil {
			errs = append(errs, fmt.Errorf("disk of machine %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// KillAll pulls the plugs of several machines at once.
func (f *Fleet) KillAll(ctx context.Context, names ...string) error {
	return f.each(names, func(name string) error { return f.Kill(ctx, name) })
}

// StopAll shuts several machines down at once.
func (f *Fleet) StopAll(ctx context.Context, names ...string) error {
	return f.each(names, func(name string) error { return f.Stop(ctx, name) })
}

func (f *Fleet) each(names []string, act func(name string) error) error {
	var wait sync.WaitGroup
	errs := make([]error, len(names))
	for i, name := range names {
		wait.Go(func() { errs[i] = act(name) })
	}
	wait.Wait()
	return errors.Join(errs...)
}

// Names of the machines, in order.
func (f *Fleet) Names() []string {
	names := make([]string, 0, len(f.State.Machines))
	for _, m := range f.State.Machines {
		names = append(names, m.Name)
	}
	return names
}

// Destroy removes the whole fleet: processes, network, cgroups and, unless keepData,
// the disks. It also works on a fleet that was only half made.
func (f *Fleet) Destroy(ctx context.Context, keepData bool) error {
	if err := f.KillAll(ctx, f.Names()...); err != nil {
		return err
	}
	if err := errors.Join(f.removeNetwork(), f.removeCgroups("")); err != nil {
		return err
	}
	if keepData {
		_ = os.Remove(f.networkPath())
		return nil
	}
	if err := os.RemoveAll(f.Dir); err != nil {
		return fmt.Errorf("state of cluster %q: %w", f.State.Name, err)
	}
	removeMountPoints()
	return nil
}

// removeMountPoints removes the empty directories that machines were mounted over. A
// directory that is a mount point in some other namespace stays: removing it would
// take the mount away from there.
func removeMountPoints() {
	used := mountedAnywhere()
	for _, target := range overlaid() {
		if !used[target] {
			_ = os.Remove(target) // fails when not empty
		}
	}
}

// mountedAnywhere returns the mount points of all mount namespaces.
func mountedAnywhere() map[string]bool {
	points, seen := map[string]bool{}, map[string]bool{}
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, process := range processes {
		space, err := os.Readlink(process + "/ns/mnt")
		if err != nil || seen[space] {
			continue
		}
		seen[space] = true
		file, err := os.Open(process + "/mountinfo")
		if err != nil {
			continue
		}
		for scanner := bufio.NewScanner(file); scanner.Scan(); {
			if fields := strings.Fields(scanner.Text()); len(fields) > 4 {
				points[fields[4]] = true
			}
		}
		_ = file.Close()
	}
	return points
}
