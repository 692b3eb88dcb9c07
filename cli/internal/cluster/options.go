package cluster

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"kijabi.dev/platform/atomicfile"
	configv1 "kijabi.dev/platform/config/v1"

	"kijabi.dev/cli/internal/access"
	"kijabi.dev/cli/internal/install"
	"kijabi.dev/cli/internal/machine"
)

// readOptions reads and checks the options file before any machine is made.
func (r *run) readOptions() error {
	if r.VIP != "" {
		r.vip = []string{r.VIP}
	}
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
	if r.vip == nil {
		r.vip = said.VIP.Addresses
	}
	if r.said, err = os.ReadFile(r.OptionsFile); err != nil {
		return fmt.Errorf("options: %w", err)
	}
	return nil
}

// checkVIP refuses a virtual address that the machines cannot hold, or that a cluster which
// exists already does not have, and machines that would take it from one.
func (r *run) checkVIP() error {
	subnet := r.fleet.State.Subnet
	known, err := access.Load(filepath.Join(r.Home.Dir, r.fleet.State.Name))
	if exists := err == nil && !r.fresh; exists && r.VIP != "" && !slices.Equal(known.Cluster.VIP, access.Doors(r.vip)) {
		return fmt.Errorf("cluster %q was founded with other virtual addresses than %s: see docs/vms.md on how to change them", r.fleet.State.Name, r.VIP)
	} else if exists {
		r.vip = known.Addresses()
	}
	for _, text := range r.vip {
		address, err := netip.ParseAddr(text)
		if err != nil || !subnet.Contains(address) || !subnet.Contains(address.Next()) || address == subnet.Masked().Addr() {
			return fmt.Errorf("virtual address %s: give an address of the machines' subnet %s with --vip", text, subnet)
		}
		taken := func(m machine.Machine) bool { return m.Address == address }
		if address == r.fleet.HostAddress() || slices.ContainsFunc(r.fleet.State.Machines, taken) {
			return fmt.Errorf("virtual address %s: a machine has it: give another of %s with --vip", text, subnet)
		}
	}
	return nil
}

func (r *run) vipFlags() []string {
	if r.VIP == "" {
		return nil
	}
	return []string{"--vip", r.VIP}
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
