package supportbundle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"

	"kijabi.dev/platform/config"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"

	"kijabi.dev/cli/internal/access"
	"kijabi.dev/cli/internal/install"
	"kijabi.dev/cli/internal/machine/supervisor"
)

// MachineOptions of Machine.
type MachineOptions struct {
	// Layout of the machine's files, and where programs log that systemd does not start. Required.
	Layout install.Layout
	LogDir string
	// Member the machine is. Required.
	Member install.Member
	// Since is how far back logs go. Required.
	Since time.Time
}

func (o MachineOptions) socket() string { return filepath.Join(o.Layout.RunDir, "init.sock") }

// supervised reports whether our supervisor runs the programs, and not systemd.
func (o MachineOptions) supervised() bool {
	_, err := os.Stat(o.socket())
	return err == nil
}

// Machine returns the collectors of what only the machine itself knows.
func Machine(o MachineOptions) []Collector {
	logs := logFiles(o.LogDir, o.Since)
	if !o.supervised() {
		var units []string
		for _, program := range install.Units(o.Member.Master) {
			units = append(units, "kijabi-"+program+".service")
		}
		logs = journal(units, o.Since)
	}
	return []Collector{
		{Name: "configuration", Collect: o.configuration},
		{Name: "certificates", Collect: o.certificates},
		{Name: "versions", Collect: o.versions},
		{Name: "units", Collect: o.units},
		{Name: "preflight", Timeout: time.Minute, Collect: o.preflight},
		{Name: "health of programs", Collect: o.health},
		{Name: "figures of programs", Collect: o.programs},
		{Name: "system", Collect: system},
		{Name: "control groups", Collect: controlGroups},
		{Name: "kernel log", Collect: kernelLog},
		{Name: "network", Collect: network},
		{Name: "packet filter", Collect: packetFilter},
		{Name: "disk usage", Timeout: 30 * time.Second, Collect: o.diskUsage},
		{Name: "containers", Timeout: 30 * time.Second, Collect: o.containers},
		logs,
	}
}

// configuration is taken by name: nothing else in these directories is read.
func (o MachineOptions) configuration(context.Context) ([]Entry, error) {
	var entries []Entry
	var errs []error
	for _, pattern := range []struct{ glob, into string }{
		{filepath.Join(o.Layout.ConfigDir, "*.yaml"), "configuration"},
		{filepath.Join(o.Layout.ConfigDir, "*.toml"), "configuration"},
		{filepath.Join(o.Layout.ConfigDir, "units", "*.yaml"), "configuration/units"},
		{"/etc/systemd/system/kijabi-*", "configuration/units"},
		{filepath.Join(o.Layout.StateDir, "cni", "net.d", "*.conf*"), "configuration/cni"},
		{filepath.Join(o.Layout.StateDir, "member.json"), "configuration"},
		{"/etc/hosts", "configuration/etc"}, {"/etc/resolv.conf", "configuration/etc"}, {"/etc/os-release", "configuration/etc"},
	} {
		paths, err := filepath.Glob(pattern.glob)
		errs = append(errs, err)
		for _, path := range paths {
			if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
				continue
			}
			content, cut, err := head(path)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			entries = append(entries, Entry{Path: pattern.into + "/" + filepath.Base(path), Content: content, Cut: cut})
		}
	}
	return entries, errors.Join(errs...)
}

// certificate is what is said of one; never its key.
type certificate struct {
	File      string    `json:"file"`
	Subject   string    `json:"subject"`
	Issuer    string    `json:"issuer"`
	Names     []string  `json:"names,omitempty"`
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
	Problem   string    `json:"problem,omitempty"`
}

func (o MachineOptions) certificates(context.Context) ([]Entry, error) {
	all := []certificate{}
	for _, dir := range []string{filepath.Join(o.Layout.StateDir, "identity"), filepath.Join(o.Layout.StateDir, "pki"), o.Layout.AdminDir()} {
		paths, err := filepath.Glob(filepath.Join(dir, "*.crt"))
		if err != nil {
			return nil, err
		}
		for _, path := range paths {
			one := certificate{File: path}
			content, err := os.ReadFile(path)
			if err != nil {
				one.Problem = err.Error()
			} else if parsed, err := pki.ParseCertificate(content); err != nil {
				one.Problem = err.Error()
			} else {
				one.Subject, one.Issuer, one.Names = parsed.Subject.String(), parsed.Issuer.String(), parsed.DNSNames
				one.NotBefore, one.NotAfter = parsed.NotBefore, parsed.NotAfter
			}
			all = append(all, one)
		}
	}
	entry, err := JSON("certificates.json", all)
	return []Entry{entry}, err
}

func (o MachineOptions) versions(ctx context.Context) ([]Entry, error) {
	var text strings.Builder
	fmt.Fprintf(&text, "kijabi %s, Kubernetes %s\n", lifecycle.Version(), lifecycle.KubernetesVersion)
	names := append(install.Units(o.Member.Master), "runc")
	slices.Sort(names)
	for _, name := range names {
		content, _, err := run(ctx, 1<<10, filepath.Join(o.Member.BinDir, name), "--version")
		if err != nil {
			content = []byte(err.Error())
		}
		fmt.Fprintf(&text, "%s: %s\n", name, strings.Join(strings.Fields(string(content)), " "))
	}
	return []Entry{{Path: "versions.txt", Content: []byte(text.String())}}, nil
}

// units tells which programs run, since when, and how often they were restarted.
func (o MachineOptions) units(ctx context.Context) ([]Entry, error) {
	if o.supervised() {
		listed, err := supervisor.Call(ctx, o.socket(), supervisor.Request{Command: supervisor.List})
		if err != nil {
			return nil, err
		}
		entry, err := JSON("units.json", listed)
		return []Entry{entry}, err
	}
	content, cut, err := run(ctx, entryLimit, "systemctl", "show", "kijabi-*", "--all", "--no-pager", "--property",
		"Id,LoadState,ActiveState,SubState,Result,MainPID,ExecMainStatus,ExecMainStartTimestamp,NRestarts,MemoryCurrent,TasksCurrent,UnitFileState")
	if err != nil {
		return nil, err
	}
	return []Entry{{Path: "units.txt", Content: content, Cut: cut}}, nil
}

func (o MachineOptions) preflight(ctx context.Context) ([]Entry, error) {
	report, err := install.Preflight(ctx, install.PreflightOptions{Layout: o.Layout})
	if err != nil {
		return nil, err
	}
	entry, err := JSON("preflight.json", report)
	return []Entry{entry}, err
}

// identity is the best that the machine has: the administrator's on a master, the
// kubelet's on a node.
func (o MachineOptions) identity() (*pki.Identity, error) {
	if o.Member.Master {
		dir := o.Layout.AdminDir()
		return pki.OpenIdentity(configv1.Identity{
			CertFile: filepath.Join(dir, "user.crt"), KeyFile: filepath.Join(dir, "user.key"), CAFile: filepath.Join(dir, "ca.crt"),
		})
	}
	leaf := filepath.Join(o.Layout.StateDir, "identity", "kubelet")
	return pki.OpenIdentity(configv1.Identity{
		CertFile: leaf + ".crt", KeyFile: leaf + ".key", CAFile: filepath.Join(o.Layout.StateDir, "pki", "ca.crt"),
	})
}

func (o MachineOptions) health(ctx context.Context) ([]Entry, error) {
	id, err := o.identity()
	if err != nil {
		return nil, err
	}
	type health struct {
		Component string `json:"component"`
		Address   string `json:"address"`
		Healthy   bool   `json:"healthy"`
		Reason    string `json:"reason,omitempty"`
	}
	endpoints := install.Endpoints(o.Member.Master, o.Member.Name, o.Member.Address)
	all := make([]health, len(endpoints))
	var wait sync.WaitGroup
	for i, endpoint := range endpoints {
		wait.Go(func() {
			all[i] = health{Component: endpoint.Component, Address: endpoint.Address, Healthy: true}
			if err := install.Health(ctx, endpoint, id); err != nil {
				all[i].Healthy, all[i].Reason = false, err.Error()
			}
		})
	}
	wait.Wait()
	entry, err := JSON("health.json", all)
	return []Entry{entry}, err
}

// askTimeout bounds how long one master may take to answer.
const askTimeout = 1500 * time.Millisecond

// Connect returns a connection to a master, as the machine itself. A node that has no
// access of an administrator asks with its kubelet's certificate, which shows little.
func (o MachineOptions) Connect(ctx context.Context) (*grpc.ClientConn, error) {
	id, err := o.identity()
	if err != nil {
		return nil, err
	}
	var kubelet configv1.KubeletConfiguration
	if err := config.Load(filepath.Join(o.Layout.ConfigDir, "kubelet.yaml"), &kubelet); err != nil {
		return nil, err
	}
	var reasons []string
	for _, door := range kubelet.APIServers {
		conn, err := rpc.Dial(door, id)
		if err != nil {
			return nil, err
		}
		probe, cancel := context.WithTimeout(ctx, askTimeout)
		_, err = grpc_health_v1.NewHealthClient(conn).Check(probe, &grpc_health_v1.HealthCheckRequest{})
		cancel()
		if err == nil {
			return conn, nil
		}
		_ = conn.Close()
		reasons = append(reasons, door+": "+access.Brief(err))
	}
	return nil, fmt.Errorf("no master answers: %s", strings.Join(reasons, "; "))
}

// containers lists what containerd knows. Names and images only: a container's settings
// hold its environment.
func (o MachineOptions) containers(ctx context.Context) ([]Entry, error) {
	var entries []Entry
	var errs []error
	socket := filepath.Join(o.Layout.RunDir, "containerd", "containerd.sock")
	for _, subject := range []string{"containers", "tasks", "images"} {
		content, cut, err := run(ctx, entryLimit, filepath.Join(o.Member.BinDir, "ctr"),
			"--address", socket, "--connect-timeout", "3s", "--timeout", "10s", "--namespace", "k8s.io", subject, "list")
		if err != nil {
			errs = append(errs, err)
			continue
		}
		entries = append(entries, Entry{Path: "containerd/" + subject + ".txt", Content: content, Cut: cut})
	}
	return entries, errors.Join(errs...)
}
