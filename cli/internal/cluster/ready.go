package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kijabi.dev/platform/kube/client"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"

	"kijabi.dev/cli/internal/access"
	"kijabi.dev/cli/internal/install"
)

// ProbeCommand is the hidden command that asks the cluster's DNS from inside a machine.
const ProbeCommand = "machine-probe-dns"

// awaitReady waits for a leader, for all nodes and for DNS in every machine.
func (r *run) awaitReady(ctx context.Context, user *access.Access) error {
	if err := r.Progress.Wait(ctx, "a master leads", func(ctx context.Context) error { return r.checkLeader(ctx, user) }); err != nil {
		return err
	}
	if err := r.Progress.Wait(ctx, fmt.Sprintf("all %d nodes are Ready", len(r.fleet.State.Machines)),
		func(ctx context.Context) error { return r.checkNodes(ctx, user) }); err != nil {
		return err
	}
	for _, name := range r.fleet.Names() {
		if err := r.Progress.Wait(ctx, name+": DNS answers", func(ctx context.Context) error {
			return r.exec(ctx, name, r.fleet.Program, ProbeCommand)
		}); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) checkLeader(ctx context.Context, user *access.Access) error {
	conn, _, err := user.Connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	status, err := mastersv1pb.NewMastersServiceClient(conn).Status(ctx, &mastersv1pb.StatusRequest{})
	if err != nil {
		return err
	}
	if status.GetLeader() == "" || status.GetEpoch() == 0 {
		return errors.New("no master leads yet")
	}
	return nil
}

func (r *run) checkNodes(ctx context.Context, user *access.Access) error {
	conn, _, err := user.Connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	page, err := client.List[*corev1.Node](ctx, client.New(conn), client.ListOptions{})
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	nodes := map[string]*corev1.Node{}
	for _, node := range page.Items {
		nodes[node.Name] = node
	}
	var reasons []string
	for _, name := range r.fleet.Names() {
		node, ok := nodes[name]
		if !ok {
			reasons = append(reasons, "node "+name+" is not registered")
			continue
		}
		if err := install.NodeReady(node); err != nil {
			reasons = append(reasons, err.Error())
		}
	}
	if len(reasons) > 0 {
		return errors.New(strings.Join(reasons, "; "))
	}
	return nil
}

// ProbeDNS asks the cluster's DNS for the address of the API, from a member.
func ProbeDNS(ctx context.Context) error {
	layout, err := install.InstalledLayout()
	if err != nil {
		return err
	}
	network, err := layout.Network()
	if err != nil {
		return err
	}
	server := net.JoinHostPort(network.DNSAddress, "53")
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, protocol, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, protocol, server)
	}}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	name := "kubernetes.default.svc." + network.ClusterDomain + "."
	if _, err := resolver.LookupHost(ctx, name); err != nil {
		return fmt.Errorf("DNS at %s does not answer for %s: %w", server, name, err)
	}
	return nil
}
