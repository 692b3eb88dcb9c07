package install

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"kijabi.dev/platform/pki"

	"kijabi.dev/cli/internal/machine/supervisor"
	"kijabi.dev/cli/internal/systemd"
)

// unitPrefix begins the names of all our units.
const unitPrefix = "kijabi-"

// watchdog is the silence after which systemd starts a program of ours again. It is long:
// a machine that is short of CPU must not lose programs on top.
const watchdog = time.Minute

// startTimeout bounds the start of programs that depend on no other machine.
const startTimeout = 90 * time.Second

// targets are the two parts of a member. A master has both.
func targets() []systemd.Target {
	return []systemd.Target{
		{Name: unitPrefix + "master", Description: "Kijabi master: API, scheduler, controllers"},
		{Name: unitPrefix + "node", Description: "Kijabi node: containers, network, services, DNS"},
	}
}

func (c component) target() string {
	if c.masterOnly {
		return unitPrefix + "master"
	}
	return unitPrefix + "node"
}

// underSystemd has systemd manage a member's programs.
type underSystemd struct {
	layout  Layout
	manager systemd.Manager
	started map[string]bool // targets, since the last installation
}

var _ Services = (*underSystemd)(nil)

func newSystemd(layout Layout, dir string) *underSystemd {
	return &underSystemd{layout: layout, manager: systemd.Manager{Dir: dir, Prefix: unitPrefix}, started: map[string]bool{}}
}

func (s *underSystemd) Install(ctx context.Context, units []supervisor.Unit) error {
	var services []systemd.Service
	wanted := map[string]bool{}
	for _, unit := range units {
		c, err := componentOf(unit.Name)
		if err != nil {
			return err
		}
		service, err := c.service(unit, s.layout)
		if err != nil {
			return err
		}
		wanted[service.Target] = true
		services = append(services, service)
	}
	groups := slices.DeleteFunc(targets(), func(t systemd.Target) bool { return !wanted[t.Name] })
	s.started = map[string]bool{}
	return s.manager.Install(ctx, groups, services)
}

// Start starts the target of the program, with which systemd starts all its others in their
// order: once is enough.
func (s *underSystemd) Start(ctx context.Context, name string) error {
	c, err := componentOf(name)
	if err != nil || s.started[c.target()] {
		return err
	}
	if err := s.manager.Start(ctx, c.target()); err != nil {
		return err
	}
	s.started[c.target()] = true
	return nil
}

func (s *underSystemd) Stop(ctx context.Context, name string) error {
	return s.manager.Stop(ctx, unitPrefix+name)
}

func (s *underSystemd) Remove(ctx context.Context, names []string) error {
	services := make([]string, 0, len(names))
	for _, name := range names {
		services = append(services, unitPrefix+name)
	}
	var groups []string
	for _, target := range targets() {
		groups = append(groups, target.Name)
	}
	return s.manager.Remove(ctx, services, groups)
}

func (s *underSystemd) LogHint(name string) string {
	return "journalctl -u " + unitPrefix + name
}

func componentOf(name string) (component, error) {
	for _, c := range components(true) {
		if c.program == name {
			return c, nil
		}
	}
	return component{}, fmt.Errorf("unit %s is no program of a member", name)
}

// service is a unit of our supervisor as systemd should run it.
func (c component) service(unit supervisor.Unit, layout Layout) (systemd.Service, error) {
	if len(unit.Exec) == 0 {
		return systemd.Service{}, errors.New("unit " + unit.Name + " runs nothing")
	}
	binDir := filepath.Dir(unit.Exec[0])
	service := systemd.Service{
		Name: unitPrefix + unit.Name, Description: unit.Description, Exec: unit.Exec, Env: unit.Env,
		Target: c.target(), Mounts: slices.Compact([]string{binDir, layout.ConfigDir, layout.StateDir}),
		StartTimeout: startTimeout, StopTimeout: c.profile.stopTimeout, MemoryHigh: c.profile.memoryHigh,
		KeepChildren: c.keepChildren, KeepSockets: unit.FileDescriptorStoreMax,
	}
	if service.StopTimeout == 0 {
		service.StopTimeout = 10 * time.Second
	}
	for _, name := range c.profile.waitsFor {
		service.After = append(service.After, unitPrefix+name)
	}
	if c.profile.waitsForOthers {
		service.StartTimeout = 0
	}
	if c.identity != "" { // ours
		service.Watchdog = watchdog
	}
	if c.profile.sandboxed {
		for _, volatile := range []string{"/tmp", "/var/tmp"} {
			if strings.HasPrefix(binDir+"/", volatile+"/") {
				return systemd.Service{}, fmt.Errorf("the programs are in %s, and %s is emptied at times: move them to a directory like /opt/kijabi/bin and name it with --bin", binDir, volatile)
			}
		}
		service.Sandbox = c.sandbox(layout, binDir)
		if unit.RawNetwork {
			service.Sandbox.Capabilities = append(service.Sandbox.Capabilities, "CAP_NET_ADMIN", "CAP_NET_RAW")
			service.Sandbox.Netlink, service.Sandbox.RawNetwork = true, true
		}
	}
	return service, nil
}

// sandbox is what a program may touch.
func (c component) sandbox(layout Layout, binDir string) *systemd.Sandbox {
	box := &systemd.Sandbox{
		Capabilities: c.profile.capabilities, Netlink: len(c.profile.capabilities) > 0, Programs: binDir,
		Writable: []string{layout.leafDir(), layout.pki("")},
		Hidden:   []string{"/boot", "/etc/gshadow", "/etc/shadow", "/etc/ssh", layout.AdminDir()},
	}
	if c.profile.data {
		box.Writable = append(box.Writable, filepath.Join(layout.StateDir, c.program))
	}
	if c.program == apiserver {
		box.Writable = append(box.Writable, filepath.Join(layout.StateDir, "snapshots"))
		if etcd := layout.etcdDir(); !strings.HasPrefix(etcd, filepath.Join(layout.StateDir, apiserver)+"/") {
			box.Writable = append(box.Writable, etcd)
		}
	} else {
		for _, name := range []string{"ca.key", pki.StorageKeyFile, "front-proxy-ca.key", "peer-ca.key", "service-account.key"} {
			box.Hidden = append(box.Hidden, layout.pki(name))
		}
	}
	if c.program == networkAgent {
		box.Writable = append(box.Writable, layout.cniConfigDir())
		box.KernelSettings = []string{"/proc/sys/net"}
	}
	return box
}
