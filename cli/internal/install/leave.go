package install

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/yaml"

	"kijabi.dev/platform/atomicfile"
	"kijabi.dev/platform/config"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"

	"kijabi.dev/cli/internal/access"
	"kijabi.dev/cli/internal/output"
)

// LeaveOptions of LeaveMasters.
type LeaveOptions struct {
	// Layout of the machine's files. Required.
	Layout Layout
	// Services is the machine's service manager. Required.
	Services Services
	// Progress is told each step. May be nil.
	Progress *output.Progress
	// Force is that of the RemoveRequest.
	Force bool
	// Confirm is shown what the removal comes to before anything is done, and stops it
	// by an error; the plan is nil when the machine is off the roster already. Required.
	Confirm func(name string, plan *mastersv1pb.RemoveResponse) error
}

// LeaveMasters takes this machine off the masters and leaves it in the cluster as a node: its
// containers, kubelet, proxy, network and DNS go on by way of the other masters; the masters'
// programs, units, data and keys are removed. It may be repeated, and goes on where it was
// interrupted.
func LeaveMasters(ctx context.Context, o LeaveOptions) error {
	member, ok, err := ReadMember(o.Layout)
	switch {
	case err != nil:
		return err
	case !ok:
		return errors.New("this machine is no member of a cluster: there is nothing to leave")
	case !member.Master && o.Layout.masterPart() == "":
		return fmt.Errorf("this machine is %s: only masters leave the masters; `kijabi reset` takes it out of the cluster", member)
	}
	if member.Master {
		if err := o.becomeNode(ctx, member); err != nil {
			return err
		}
	}
	return o.removeMasterParts(ctx, member.Name)
}

// becomeNode does what needs the cluster. At its end the machine is a node with leftovers of
// a master.
func (o *LeaveOptions) becomeNode(ctx context.Context, member Member) error {
	admin, err := o.Layout.admin()
	if err != nil {
		return err
	}
	members, err := rosterOf(ctx, admin)
	if err != nil {
		return fmt.Errorf("%w: without a master that answers, `kijabi reset --local` is what is left", err)
	}
	others := accessThrough(admin, members, member.Name)
	if len(others.Cluster.Masters) == 0 {
		return fmt.Errorf("%s is the only master and goes with its cluster: `kijabi reset` removes both", member.Name)
	}
	if err := o.leaveRoster(ctx, admin, members, member.Name); err != nil {
		return err
	}
	if err := o.rewriteConfigurations(hostsOf(members, member.Name)); err != nil {
		return err
	}
	o.Progress.Say("%s: its node's programs are configured for the other masters", member.Name)
	if err := unmarkMaster(ctx, others, member.Name); err != nil {
		return err
	}
	o.Progress.Say("%s: its Node is no longer marked as a master's", member.Name)
	member.Master = false
	content, err := json.MarshalIndent(member, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(o.Layout.member(), append(content, '\n'), 0o644)
}

// leaveRoster has the machine taken off the roster, after it was confirmed.
func (o *LeaveOptions) leaveRoster(ctx context.Context, admin *access.Access, members []*mastersv1pb.Member, name string) error {
	if !onRoster(members, name) {
		if err := o.Confirm(name, nil); err != nil {
			return err
		}
		o.Progress.Say("%s: is off the roster of masters already", name)
		return nil
	}
	plan, err := RemoveMaster(ctx, admin, &mastersv1pb.RemoveRequest{Name: name, Force: o.Force, PlanOnly: true})
	if err != nil {
		return err
	}
	if plan.GetRefusal() != "" {
		return errors.New(plan.GetRefusal())
	}
	if err := o.Confirm(name, plan); err != nil {
		return err
	}
	if _, err := RemoveMaster(ctx, admin, &mastersv1pb.RemoveRequest{Name: name, Force: o.Force}); err != nil {
		return fmt.Errorf("take %s off the masters: %w", name, err)
	}
	o.Progress.Say("%s: off the roster of masters", name)
	return nil
}

// rewriteConfigurations makes the node's programs use the masters at hosts, and no longer
// this machine. What else is in their files stays. Programs that run have learned of the other
// masters and are left alone.
func (o *LeaveOptions) rewriteConfigurations(hosts []string) error {
	doors := settings{masters: hosts}.apiServers()
	kubelet, proxy := &configv1.KubeletConfiguration{}, &configv1.KubeProxyConfiguration{}
	agent, resolver := &configv1.NetworkAgentConfiguration{}, &configv1.DNSConfiguration{}
	for _, program := range []struct {
		name  string
		value any
		doors *[]string
	}{
		{"kubelet", kubelet, &kubelet.APIServers},
		{"kube-proxy", proxy, &proxy.APIServers},
		{networkAgent, agent, &agent.APIServers},
		{dns, resolver, &resolver.APIServers},
	} {
		path := o.Layout.config(program.name)
		if err := config.Load(path, program.value); err != nil {
			return err
		}
		*program.doors = doors
		kubelet.Taints = slices.DeleteFunc(kubelet.Taints, func(t configv1.Taint) bool { return t.Key == controlPlane })
		content, err := yaml.Marshal(program.value)
		if err != nil {
			return fmt.Errorf("configuration of %s: %w", program.name, err)
		}
		if err := atomicfile.Write(path, append([]byte(heading(program.name)), content...), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// unmarkMaster takes a master's label and taint off the machine's Node, if there is one.
func unmarkMaster(ctx context.Context, others *access.Access, name string) error {
	conn, _, err := others.Connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	api := client.New(conn)
	for {
		node, err := client.Get[*corev1.Node](ctx, api, object.Key{Name: name})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("node %s: %w", name, err)
		}
		marked := node.DeepCopy()
		delete(marked.Labels, controlPlane)
		marked.Spec.Taints = slices.DeleteFunc(marked.Spec.Taints, func(t corev1.Taint) bool { return t.Key == controlPlane })
		_, err = api.Update(ctx, marked)
		if !apierrors.IsConflict(err) { // its kubelet writes to it, too
			if err != nil {
				return fmt.Errorf("unmark node %s: %w", name, err)
			}
			return nil
		}
	}
}

// removeMasterParts removes what only a master has.
func (o *LeaveOptions) removeMasterParts(ctx context.Context, name string) error {
	var names []string
	for _, c := range components(true) {
		if c.masterOnly {
			names = append(names, c.program)
		}
	}
	var errs []error
	for _, program := range slices.Backward(names) {
		errs = append(errs, o.Services.Stop(ctx, program))
	}
	if err := joinLine(append(errs, o.Services.Remove(ctx, names))); err != nil {
		return err
	}
	o.Progress.Say("%s: programs of a master stopped, their units removed", name)
	errs = nil
	for _, path := range o.Layout.masterFiles() {
		errs = append(errs, os.RemoveAll(path))
	}
	if err := joinLine(errs); err != nil {
		return err
	}
	o.Progress.Say("%s: data and keys of a master removed", name)
	return nil
}

// masterFiles are the files and directories that only a master has; of the key material last.
func (l Layout) masterFiles() []string {
	var all []string
	entries, _ := os.ReadDir(l.etcdDir()) // it may be gone
	for _, entry := range entries {
		if !keep(entry.Name()) {
			all = append(all, filepath.Join(l.etcdDir(), entry.Name()))
		}
	}
	for _, c := range components(true) {
		if c.masterOnly {
			all = append(all, l.config(c.program), filepath.Join(l.StateDir, c.program), l.leaf(c.identity).CertFile, l.leaf(c.identity).KeyFile)
		}
	}
	peer := settings{layout: l}.peer()
	all = append(all, peer.CertFile, peer.KeyFile, l.AdminDir())
	keys, _ := os.ReadDir(l.pki(""))
	for _, entry := range keys {
		if entry.Name() != "ca.crt" { // every node has it
			all = append(all, l.pki(entry.Name()))
		}
	}
	return all
}

// masterPart names a file of a master that is there; empty if there is none.
func (l Layout) masterPart() string {
	for _, path := range l.masterFiles() {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return path
		}
	}
	return ""
}
