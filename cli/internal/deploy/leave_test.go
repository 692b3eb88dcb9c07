package deploy

import (
	"context"
	"io"
	"slices"
	"strings"
	"testing"

	"kijabi.dev/cli/internal/remote"
)

// anchorStandIn is a master whose kijabi says that m3 is dead.
type anchorStandIn struct{ ran []string }

var _ Shell = (*anchorStandIn)(nil)

func (a *anchorStandIn) Run(_ context.Context, s remote.Script) error {
	command := strings.Join(s.Args[1:], " ")
	a.ran = append(a.ran, command)
	answer := ""
	switch {
	case strings.HasPrefix(command, "status"):
		answer = `{"leader":"m1","masters":[{"name":"m1","alive":true},{"name":"m2","alive":true},{"name":"m3","alive":false}]}`
	case strings.HasPrefix(command, "kubectl get nodes"):
		answer = `{"items":[{"metadata":{"name":"m3"},"status":{"conditions":[{"type":"Ready","status":"Unknown"}]}}]}`
	}
	_, err := io.WriteString(s.Output, answer)
	return err
}

func (*anchorStandIn) Exec(context.Context, remote.Program) error { return nil }

func (*anchorStandIn) Close() error { return nil }

// TestDeadMasterIsForgotten prunes a master whose machine is gone.
func TestDeadMasterIsForgotten(t *testing.T) {
	anchor := &anchorStandIn{}
	r := &run{
		Deployment: &Deployment{
			Options: Options{Hosts: threeAndOne(), Trust: &remote.Trust{}},
			Plan:    &Plan{Anchor: "m1", ClusterID: "id"}, facts: allMembers(), shells: map[string]Shell{"m1": anchor},
		},
		anchor: "m1", results: map[string]*Result{},
	}
	gone := Host{Name: "m3", Role: Master, Address: "127.0.0.1:1", User: "root"}
	err := r.leaveMaster(t.Context(), gone)
	if err == nil || !strings.Contains(err.Error(), "off the masters") || !strings.Contains(err.Error(), "was not reset") || !strings.Contains(err.Error(), "kijabi reset --local") {
		t.Errorf("forgotten with %v", err)
	}
	remove := slices.Index(anchor.ran, "master remove m3 --yes")
	deleted := slices.IndexFunc(anchor.ran, func(c string) bool { return strings.HasPrefix(c, "kubectl delete node m3") })
	if remove < 0 || deleted < remove {
		t.Errorf("the anchor was asked for %q", anchor.ran)
	}
}
