package cluster

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kijabi.dev/cli/internal/access"
	"kijabi.dev/cli/internal/machine"
)

func TestVirtualAddressIsOfTheSubnet(t *testing.T) {
	home := access.UserHome{Dir: t.TempDir()}
	dir := filepath.Join(home.Dir, "c")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	known := &access.Access{Dir: dir, Cluster: access.Cluster{
		Name: "c", Masters: []access.Master{{Name: "m1"}}, VIP: access.Doors([]string{"10.1.0.21"}),
	}}
	if err := known.Save(access.Owner{UID: os.Getuid(), GID: os.Getgid()}); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		vip    string
		fresh  bool
		second string // address of a second machine
		err    string // part of it
	}{
		"none":             {fresh: true},
		"good":             {vip: "10.1.0.100", fresh: true},
		"no address":       {vip: "vip", fresh: true, err: "virtual address vip: give an address of the machines' subnet 10.1.0.0/24"},
		"elsewhere":        {vip: "10.2.0.100", fresh: true, err: "give an address of the machines' subnet"},
		"of all":           {vip: "10.1.0.255", fresh: true, err: "give an address of the machines' subnet"},
		"the host's":       {vip: "10.1.0.1", fresh: true, err: "a machine has it"},
		"a machine's":      {vip: "10.1.0.11", fresh: true, err: "a machine has it"},
		"as before":        {vip: "10.1.0.21"},
		"another":          {vip: "10.1.0.100", err: "was founded with other virtual addresses"},
		"taken by another": {second: "10.1.0.21", err: "virtual address 10.1.0.21: a machine has it"},
	} {
		t.Run(name, func(t *testing.T) {
			state := machine.State{Name: "c", Subnet: netip.MustParsePrefix("10.1.0.0/24"), Machines: []machine.Machine{{Name: "m1", Address: netip.MustParseAddr("10.1.0.11")}}}
			if test.second != "" {
				state.Machines = append(state.Machines, machine.Machine{Name: "n1", Address: netip.MustParseAddr(test.second)})
			}
			fleet, err := machine.New(t.TempDir(), state)
			if err != nil {
				t.Fatal(err)
			}
			r := &run{Options: Options{Home: home, VIP: test.vip}, fleet: fleet, fresh: test.fresh}
			err = r.readOptions()
			if err == nil {
				err = r.checkVIP()
			}
			if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("got %v, want %q", err, test.err)
			}
		})
	}
}
