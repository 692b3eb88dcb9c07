package deploy

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
)

// Text describes a step for people.
func (s Step) Text() string {
	switch s.Action {
	case Clean:
		return "remove an installation that did not finish"
	case Install:
		return "install programs " + s.Bundle.Version
	case Upload:
		return "upload programs " + s.Bundle.Version
	case Check:
		return "check the machine"
	case Init:
		return "found the cluster"
	case JoinMaster:
		return "join as master"
	case JoinNode:
		return "join as node"
	case Adjust:
		return s.adjustText()
	case LeaveNode:
		return "leave: drain it, reset it, delete its Node"
	case LeaveMaster:
		return "leave: drain it, take it off the masters, reset it, delete its Node"
	default:
		return string(s.Action)
	}
}

func (s Step) adjustText() string {
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(s.Labels)) {
		parts = append(parts, "label "+key+"="+s.Labels[key])
	}
	if s.Taint != nil && *s.Taint {
		parts = append(parts, "taint as master")
	} else if s.Taint != nil {
		parts = append(parts, "let pods be scheduled on it")
	}
	return strings.Join(parts, ", ")
}

// Text is what happens to the machine, in a line.
func (h HostPlan) Text() string {
	var parts []string
	for _, step := range h.Steps {
		parts = append(parts, step.Text())
	}
	parts = append(parts, h.Notes...)
	if h.Fault != nil {
		parts = append(parts, "FAULT: "+h.Fault.Error())
	}
	if len(parts) == 0 {
		return "nothing to do"
	}
	return strings.Join(parts, "; ")
}

// Faults are the machines for which nothing can be done, each in a line.
func (p *Plan) Faults() []string {
	var all []string
	for _, h := range p.Hosts {
		if h.Fault != nil {
			all = append(all, fmt.Sprintf("%s: %v", h.Host.Name, h.Fault))
		}
	}
	return all
}

// hostOf is the host of HOST:PORT.
func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return host
}
