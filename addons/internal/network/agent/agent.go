// Package agent keeps one machine's pod network in step with the cluster's nodes.
package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"

	"kijabi.dev/addons/internal/network/cni"
	"kijabi.dev/addons/internal/network/plan"
)

const (
	// recheck is how often the machine is compared with the plan though no node changed.
	recheck = 10 * time.Second
	// retry is how long after a failure it is tried again.
	retry = time.Second
	// gather is how long further changes are waited for after one was applied.
	gather = 20 * time.Millisecond
)

// Machine is what the agent changes.
type Machine interface {
	// Apply makes the machine's network look like the plan, changing nothing that is right.
	Apply(plan.Plan) error
	// OnLink reports whether an address is reached without a router.
	OnLink(netip.Addr) bool
	// MTU of the link to the other machines.
	MTU() (int, error)
}

// Config of an Agent; every field is required.
type Config struct {
	NodeName string
	// Address of this machine.
	Address  netip.Addr
	Mode     plan.Mode
	PodRange netip.Prefix
	// CNIConfigDir gets the configuration for the container runtime.
	CNIConfigDir string
	// Bridged says whether pods can be joined by a bridge, see cni.Config.
	Bridged bool
	// Nodes lists the cluster's nodes.
	Nodes   func() []*corev1.Node
	Machine Machine
	// Ready is called once, when the network was first as planned.
	Ready func()
	Clock clock.Clock
	Log   *zap.Logger
}

// Agent applies plans.
type Agent struct {
	cfg     Config
	changed chan struct{}
	last    string // the last problem reported, so that each is reported once
}

// New returns an Agent.
func New(cfg Config) *Agent { return &Agent{cfg: cfg, changed: make(chan struct{}, 1)} }

// NodeChanged takes an informer's change and wakes the agent if it matters: most
// changes of a Node are heartbeats. Either may be nil.
func (a *Agent) NodeChanged(before, after *corev1.Node) {
	if before != nil && after != nil && node(before) == node(after) {
		return
	}
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// Run applies the plan whenever the nodes change, and now and then, until ctx ends.
// Call it once the nodes are complete. It leaves everything in place.
func (a *Agent) Run(ctx context.Context) error {
	ready := false
	for {
		done, err := a.once()
		wait := recheck
		switch {
		case err != nil:
			wait = retry
			a.report("network not as planned, trying again", err.Error())
		case done && !ready:
			ready = true
			a.cfg.Ready()
		}
		if !a.pause(ctx, gather, nil) || !a.pause(ctx, wait, a.changed) {
			return nil
		}
	}
}

// pause waits, not beyond a token of wake, and reports whether ctx goes on.
func (a *Agent) pause(ctx context.Context, d time.Duration, wake <-chan struct{}) bool {
	timer := a.cfg.Clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C():
	case <-wake:
	}
	return true
}

// once plans and applies, and reports whether there was something to apply.
func (a *Agent) once() (bool, error) {
	mtu, err := a.cfg.Machine.MTU()
	if err != nil {
		return false, err
	}
	in := plan.Input{
		Self: a.cfg.NodeName, Address: a.cfg.Address, Mode: a.cfg.Mode, PodRange: a.cfg.PodRange, OnLink: a.cfg.Machine.OnLink, MTU: mtu,
	}
	for _, n := range a.cfg.Nodes() {
		in.Nodes = append(in.Nodes, node(n))
	}
	p := plan.Make(in)
	if !p.Range.IsValid() {
		return false, nil // the node has no range yet; its arrival wakes us
	}
	if err := a.cfg.Machine.Apply(p); err != nil {
		return false, err
	}
	// Last: its appearance lets pods start.
	written, err := cni.Write(a.cfg.CNIConfigDir, cni.Config{Range: p.Range, MTU: p.MTU, Bridged: a.cfg.Bridged})
	if err != nil {
		return false, err
	}
	if written {
		a.cfg.Log.Info("network configuration written", zap.Stringer("range", p.Range), zap.Int("mtu", p.MTU), zap.Bool("bridged", a.cfg.Bridged))
	}
	if len(p.Problems) > 0 {
		a.report("some pods cannot be reached", fmt.Sprint(p.Problems))
	} else {
		a.last = ""
	}
	return true, nil
}

func (a *Agent) report(message, detail string) {
	if detail == a.last {
		return
	}
	a.last = detail
	a.cfg.Log.Warn(message, zap.String("detail", detail))
}

// node picks the IPv4 address and range of a Node.
func node(n *corev1.Node) plan.Node {
	out := plan.Node{Name: n.Name}
	for _, address := range n.Status.Addresses {
		if a, err := netip.ParseAddr(address.Address); err == nil && a.Is4() && address.Type == corev1.NodeInternalIP {
			out.Address = a
			break
		}
	}
	for _, text := range slices.Concat(n.Spec.PodCIDRs, []string{n.Spec.PodCIDR}) {
		if p, err := netip.ParsePrefix(text); err == nil && p.Addr().Is4() {
			out.Range = p.Masked()
			break
		}
	}
	return out
}
