package machine

import (
	"fmt"
	"os"
	"path/filepath"
)

// RefreshHosts rewrites every machine's /etc/hosts in place, so that machines that run
// know those that were added.
func (f *Fleet) RefreshHosts() error {
	for _, m := range f.State.Machines {
		path := filepath.Join(f.MachineDir(m.Name), "hosts")
		if f.State.OwnRoots {
			path = f.inRoot(m.Name, "/etc/hosts")
		}
		if _, err := os.Stat(path); err != nil {
			continue // never started
		}
		if err := os.WriteFile(path, []byte(f.hosts(m)), 0o644); err != nil {
			return fmt.Errorf("hosts of machine %s: %w", m.Name, err)
		}
	}
	return nil
}
