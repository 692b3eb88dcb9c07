package install

import (
	"context"
	"fmt"
	"slices"
	"strings"

	configv1 "kijabi.dev/platform/config/v1"

	"kijabi.dev/cli/internal/preflight"
)

// preflight checks quickly, before anything is done, what would fail later and less
// clearly. Failures that were asked to be ignored are said and passed over.
func (o *Options) preflight(ctx context.Context, master bool, join string) error {
	if err := preflight.CheckIgnore(o.IgnorePreflight); err != nil {
		return err
	}
	report := preflight.Run(ctx, preflight.Local(), o.target(master, join), preflight.Options{
		Ignore: o.IgnorePreflight, Quick: true, ProgramsElsewhere: o.ProgramsElsewhere,
	})
	for _, found := range report.Findings {
		if found.Ignored {
			o.Progress.Say("%s: ignored, as asked: %s", o.Name, found)
		}
	}
	return report.Err()
}

func (o *Options) target(master bool, join string) preflight.Target {
	listens := ports(master)
	if o.Said.Etcd.Separate() { // which may be on this machine
		listens = slices.DeleteFunc(listens, func(port int) bool { return port == configv1.PortEtcdPeer })
	}
	return preflight.Target{
		Master: master, Name: o.Name, Address: o.Address, StateDir: o.Layout.StateDir,
		DataDir: o.Layout.etcdDir(), Ports: listens, Network: o.Said.Network.WithDefaults(), Join: join,
	}
}

// PreflightOptions of Preflight.
type PreflightOptions struct {
	// Layout of the machine's files. Required.
	Layout Layout
	// Master is the role to check for. A machine that is a member is checked for its own.
	Master bool
	// Name and Address of the machine; by default as an installation chooses them.
	Name, Address string
	// Join is HOST or HOST:PORT of a master; empty if there is none.
	Join string
	// Ignore names checks whose failure is accepted.
	Ignore []string
}

// Preflight checks this machine thoroughly and changes nothing. An error means that it
// could not be asked; what is wrong with the machine is in the report.
func Preflight(ctx context.Context, p PreflightOptions) (*preflight.Report, error) {
	if err := preflight.CheckIgnore(p.Ignore); err != nil {
		return nil, err
	}
	member, isMember, err := ReadMember(p.Layout)
	if err != nil {
		return nil, err
	}
	o := Options{Layout: p.Layout, Name: p.Name, Address: p.Address}
	described := ""
	if isMember {
		o.Name, o.Address, p.Master = member.Name, member.Address, member.Master
		described = member.String()
	}
	if err := o.resolveName(); err != nil {
		return nil, err
	}
	if err := o.resolveAddress(); err != nil {
		return nil, err
	}
	if p.Join != "" {
		if p.Join, err = withPort(p.Join, configv1.PortGRPC); err != nil {
			return nil, err
		}
	}
	target := o.target(p.Master, p.Join)
	if target.Member = described; !isMember {
		target.Unfinished = p.Layout.Unfinished()
	}
	return preflight.Run(ctx, preflight.Local(), target, preflight.Options{Ignore: p.Ignore}), nil
}

// String says what the machine is.
func (m Member) String() string {
	role := "node"
	if m.Master {
		role = "master"
	}
	return fmt.Sprintf("%s %s of cluster %s", role, m.Name, m.ClusterID)
}

// SplitIgnore splits the value of --ignore-preflight.
func SplitIgnore(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}
