package deploy

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"kijabi.dev/cli/internal/access"
	"kijabi.dev/cli/internal/output"
	"kijabi.dev/cli/internal/remote"
)

// Shell runs commands as root on one machine. Safe for concurrent use.
type Shell interface {
	// Run runs a shell script. An error of the script is a *remote.ExitError.
	Run(ctx context.Context, s remote.Script) error
	// Exec runs a program that undoes its work when it is told to end, which it is when
	// ctx ends.
	Exec(ctx context.Context, p remote.Program) error
	// Close ends the connection.
	Close() error
}

var _ Shell = (*remote.Machine)(nil)

// Options of a deployment.
type Options struct {
	// Hosts is the file. Required.
	Hosts *Hosts
	// Home of the user, who gets access. Required.
	Home access.UserHome
	// Program is the kijabi command that the kubeconfig calls. Required.
	Program string
	// Trust knows the host keys. Required.
	Trust *remote.Trust
	// Progress is told each step. May be nil.
	Progress *output.Progress
	// Prune takes machines out of the cluster that are not in the file.
	Prune bool
	// IgnorePreflight is handed to the checks and the installing commands; empty for
	// none.
	IgnorePreflight string
}

// Deployment is one run: what was found, what is to be done, and the connections.
type Deployment struct {
	Options
	// Plan to carry out.
	Plan *Plan

	version string // of the bundle
	facts   map[string]Facts
	cluster *Cluster       // before anything was changed; nil if there was none
	user    *access.Access // what is known on this computer, or new

	mu     sync.Mutex
	shells map[string]Shell
}

// atOnce is how many machines are worked on at the same time.
const atOnce = 4

// accessTimeout bounds writing down the user's access at the end.
const accessTimeout = time.Minute

// Prepare asks all machines what they are and decides what to do. Nothing is changed.
func Prepare(ctx context.Context, o Options) (_ *Deployment, err error) {
	bundles, err := OpenBundles(o.Hosts.Bundle, o.Hosts.BundleKey)
	if err != nil {
		return nil, err
	}
	d := &Deployment{Options: o, version: bundles.Version(), facts: map[string]Facts{}, shells: map[string]Shell{}}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	d.gatherAll(ctx)
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("interrupted: %w", err)
	}
	in := Input{Hosts: o.Hosts, Bundles: bundles, Facts: d.facts, Prune: o.Prune, Known: recall(o.Home, o.Hosts.Cluster)}
	anchor, _, err := FindAnchor(o.Hosts, d.facts)
	if err != nil {
		return nil, err
	}
	if err := d.checkAccess(ctx, anchor); err != nil {
		return nil, err
	}
	if anchor != "" {
		if in.Cluster, err = d.readCluster(ctx, anchor); err != nil {
			return nil, err
		}
	}
	d.cluster = in.Cluster
	d.Plan, err = Decide(in)
	return d, err
}

// gatherAll asks all machines at once.
func (d *Deployment) gatherAll(ctx context.Context) {
	var wait sync.WaitGroup
	for _, host := range d.Hosts.Hosts {
		wait.Go(func() {
			var facts Facts
			if m, err := d.shell(ctx, host); err != nil {
				facts.Err = err
			} else {
				facts = gather(ctx, m)
			}
			d.mu.Lock()
			defer d.mu.Unlock()
			d.facts[host.Name] = facts
		})
	}
	wait.Wait()
}

// shell returns the connection to a machine, made when it is first asked for.
func (d *Deployment) shell(ctx context.Context, host Host) (Shell, error) {
	d.mu.Lock()
	m, ok := d.shells[host.Name]
	d.mu.Unlock()
	if ok {
		return m, nil
	}
	m, err := remote.Dial(ctx, host.target(), d.Trust)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shells[host.Name] = m
	return m, nil
}

// anchorShell is the connection to the master that the cluster is asked through.
func (d *Deployment) anchorShell(name string) (Shell, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	m, ok := d.shells[name]
	if !ok {
		return nil, fmt.Errorf("there is no connection to master %s", name)
	}
	return m, nil
}

// Close ends all connections.
func (d *Deployment) Close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	var group errgroup.Group
	for _, m := range d.shells {
		group.Go(m.Close)
	}
	_ = group.Wait()
	d.shells = map[string]Shell{}
}
