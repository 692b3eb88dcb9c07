// Package systemd writes units in systemd's format and has systemctl install, start, stop
// and remove them. It knows how to harden a service; which service bears what is for its
// callers to say.
package systemd

import (
	"fmt"
	"strings"
	"time"
)

// Service is one program.
type Service struct {
	// Name of the unit without ".service". Required.
	Name string
	// Description for people. Required.
	Description string
	// Exec is the program, an absolute path, and its arguments. It must support
	// sd_notify(3). Required.
	Exec []string
	// Env holds NAME=value entries.
	Env []string
	// After names services that must be up before this one starts and that stop after it.
	After []string
	// Target that starts and stops the service, without ".target"; its cgroup lies in the
	// slice of the same name. Required.
	Target string
	// Mounts are paths that must be mounted before.
	Mounts []string
	// StartTimeout is how long it may take to be ready; 0 means any time.
	StartTimeout time.Duration
	// StopTimeout passes before SIGKILL. Required.
	StopTimeout time.Duration
	// Watchdog is the silence after which the program is killed and started again; 0
	// means that it is not watched.
	Watchdog time.Duration
	// MemoryHigh is the use of memory above which the kernel slows the program down and
	// takes memory back, as "256M" or "75%"; "" means no bound.
	MemoryHigh string
	// KeepChildren is for a program whose children outlive it and whose cgroup is its own.
	KeepChildren bool
	// KeepSockets is how many sockets systemd keeps open for the program over restarts.
	KeepSockets int
	// Growing makes the delay between restarts grow. It needs systemd 254.
	Growing bool
	// Sandbox of the program. Nil for one that must see the machine as it is.
	Sandbox *Sandbox
}

// Sandbox is what a sandboxed program has left of root's power, beside reading most
// files and talking TCP and UDP.
type Sandbox struct {
	// Capabilities it keeps.
	Capabilities []string
	// Netlink lets it talk to the kernel's networking.
	Netlink bool
	// RawNetwork lets it send and receive raw packets.
	RawNetwork bool
	// Writable are directories that it may change; they must exist.
	Writable []string
	// Hidden are paths that it may not see.
	Hidden []string
	// Programs is the directory of the programs, kept visible if it lies in a home.
	Programs string
	// KernelSettings are directories below /proc/sys that it may change.
	KernelSettings []string
}

// restartDelay is how long a program that ended stays down, so that one that cannot start
// leaves the machine alone. With Growing it is the first delay.
const (
	restartDelay  = "1s"
	lastDelay     = "10s"
	restartSteps  = 5
	openFiles     = 1 << 20
	rootHome      = "/root"
	userHomes     = "/home"
	runtimeHomes  = "/run/user"
	lowestOOM     = -999
	protectedOOM  = -500
	unlimitedTime = "infinity"
)

// lines gathers the lines of a unit.
type lines struct{ strings.Builder }

func (l *lines) section(name string) {
	if l.Len() > 0 {
		l.WriteByte('\n')
	}
	l.WriteString("[" + name + "]\n")
}

func (l *lines) set(key, value string) { l.WriteString(key + "=" + value + "\n") }

func (l *lines) yes(keys ...string) {
	for _, key := range keys {
		l.set(key, "yes")
	}
}

// Render returns the unit's text.
func (s Service) Render() string {
	var l lines
	l.WriteString("# Written by kijabi.\n")
	l.section("Unit")
	l.set("Description", s.Description)
	l.set("PartOf", s.Target+".target")
	l.set("Wants", "network-online.target")
	after := []string{"network-online.target"}
	for _, name := range s.After {
		after = append(after, name+".service")
	}
	l.set("After", strings.Join(after, " "))
	if len(s.Mounts) > 0 {
		l.set("RequiresMountsFor", quoteAll(s.Mounts))
	}
	// A member has no state in which giving up helps.
	l.set("StartLimitIntervalSec", "0")
	l.section("Service")
	s.process(&l)
	if s.KeepChildren {
		s.keepChildren(&l)
	}
	if s.Sandbox != nil {
		s.Sandbox.render(&l)
	}
	l.section("Install")
	l.set("WantedBy", s.Target+".target")
	return l.String()
}

// process writes what every program has.
func (s Service) process(l *lines) {
	l.set("Type", "notify")
	l.set("ExecStart", quoteAll(s.Exec))
	for _, entry := range s.Env {
		l.set("Environment", quote(entry))
	}
	l.set("Restart", "always")
	l.set("RestartSec", restartDelay)
	if s.Growing {
		l.set("RestartSteps", fmt.Sprint(restartSteps))
		l.set("RestartMaxDelaySec", lastDelay)
	}
	l.set("TimeoutStartSec", seconds(s.StartTimeout))
	l.set("TimeoutStopSec", seconds(s.StopTimeout))
	if s.Watchdog > 0 {
		l.set("WatchdogSec", seconds(s.Watchdog))
	}
	if s.KeepSockets > 0 {
		l.set("FileDescriptorStoreMax", fmt.Sprint(s.KeepSockets))
	}
	l.set("Slice", s.Target+".slice")
	if s.MemoryHigh != "" {
		l.set("MemoryHigh", s.MemoryHigh)
	}
	l.set("LimitNOFILE", fmt.Sprint(openFiles))
	l.set("LimitCORE", "0")
	// Where the machine may not lower it, systemd leaves it as it is.
	oom := protectedOOM
	if s.KeepChildren {
		oom = lowestOOM
	}
	l.set("OOMScoreAdjust", fmt.Sprint(oom))
}

// keepChildren writes what keeps children alive. Nothing here may give the program mounts
// of its own: volumes that it mounts must reach the containers, and what containers
// inherit must not bind them.
func (Service) keepChildren(l *lines) {
	l.set("KillMode", "process")
	l.yes("Delegate")
	l.set("TasksMax", "infinity")
	l.set("LimitNPROC", "infinity")
}

func (s *Sandbox) render(l *lines) {
	l.set("UMask", "0077")
	l.yes("NoNewPrivileges")
	l.set("CapabilityBoundingSet", strings.Join(s.Capabilities, " "))
	l.set("ProtectSystem", "strict")
	writable := append([]string{}, s.Writable...)
	if len(writable) > 0 {
		l.set("ReadWritePaths", quoteAll(writable))
	}
	if len(s.KernelSettings) > 0 {
		// Not there on machines without the feature.
		l.set("ReadWritePaths", quoteAll(optional(s.KernelSettings)))
	}
	if len(s.Hidden) > 0 {
		l.set("InaccessiblePaths", quoteAll(optional(s.Hidden)))
	}
	if inHome(s.Programs) {
		l.set("ProtectHome", "tmpfs")
		l.set("BindReadOnlyPaths", quote(s.Programs))
	} else {
		l.yes("ProtectHome")
	}
	l.yes("PrivateTmp", "PrivateDevices", "ProtectClock", "ProtectControlGroups", "ProtectHostname",
		"ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables")
	l.set("ProtectProc", "invisible")
	l.set("KeyringMode", "private")
	families := "AF_UNIX AF_INET AF_INET6"
	if s.Netlink {
		families += " AF_NETLINK"
	}
	if s.RawNetwork {
		families += " AF_PACKET"
	}
	l.set("RestrictAddressFamilies", families)
	l.yes("RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID", "LockPersonality", "MemoryDenyWriteExecute")
	l.set("SystemCallArchitectures", "native")
	l.set("SystemCallFilter", "@system-service")
	l.set("SystemCallFilter", "~@privileged @resources")
	l.set("SystemCallErrorNumber", "EPERM")
}

func inHome(path string) bool {
	for _, home := range []string{rootHome, userHomes, runtimeHomes} {
		if strings.HasPrefix(path, home+"/") {
			return true
		}
	}
	return false
}

// optional marks paths that need not exist.
func optional(paths []string) []string {
	marked := make([]string, 0, len(paths))
	for _, path := range paths {
		marked = append(marked, "-"+path)
	}
	return marked
}

func seconds(d time.Duration) string {
	if d == 0 {
		return unlimitedTime
	}
	return fmt.Sprintf("%ds", int(d.Seconds()))
}

func quoteAll(args []string) string {
	quoted := make([]string, 0, len(args))
	for _, arg := range args {
		quoted = append(quoted, quote(arg))
	}
	return strings.Join(quoted, " ")
}

// quote quotes an argument so that systemd changes nothing in it.
func quote(arg string) string {
	escaped := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%", "$", "$$", "\n", `\n`).Replace(arg)
	if escaped == arg && !strings.ContainsAny(arg, " \t;'") {
		return arg
	}
	return `"` + escaped + `"`
}

// Target is a group of services that are started and stopped together.
type Target struct {
	// Name without ".target". Required.
	Name string
	// Description for people. Required.
	Description string
}

// Render returns the unit's text. The target does not wait for its services, nor does
// the start of the machine wait for it: a master whose fellows are down is not ready for
// as long as they are.
func (t Target) Render() string {
	var l lines
	l.WriteString("# Written by kijabi.\n")
	l.section("Unit")
	l.set("Description", t.Description)
	l.set("DefaultDependencies", "no")
	l.set("Conflicts", "shutdown.target")
	l.set("Before", "shutdown.target")
	l.section("Install")
	l.set("WantedBy", "multi-user.target")
	return l.String()
}
