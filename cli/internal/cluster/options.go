package cluster

import (
	"fmt"
	"os"
	"path/filepath"

	"kijabi.dev/platform/atomicfile"
	configv1 "kijabi.dev/platform/config/v1"

	"kijabi.dev/cli/internal/install"
	"kijabi.dev/cli/internal/machine"
)

// readOptions reads and checks the options file before any machine is made.
func (r *run) readOptions() error {
	if r.OptionsFile == "" {
		return nil
	}
	said, err := install.ReadOptions(r.OptionsFile)
	if err != nil {
		return err
	}
	if said.Name != "" || said.AdvertiseAddress != "" || said.Directories != (configv1.Directories{}) {
		return fmt.Errorf("options: %s: name, advertiseAddress and directories are for real machines; `kijabi up` gives its machines their own", r.OptionsFile)
	}
	if r.said, err = os.ReadFile(r.OptionsFile); err != nil {
		return fmt.Errorf("options: %w", err)
	}
	return nil
}

// giveOptions puts the options where a machine's commands look for them.
func (r *run) giveOptions(m machine.Machine) error {
	if r.said == nil {
		return nil
	}
	path := filepath.Join(r.fleet.ConfigDir(m.Name), filepath.Base(configv1.OptionsFile))
	if err := atomicfile.Write(path, r.said, 0o644); err != nil {
		return fmt.Errorf("%s: options: %w", m.Name, err)
	}
	return nil
}
