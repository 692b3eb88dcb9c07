package deploy

import (
	"context"
	"fmt"

	"kijabi.dev/cli/internal/remote"
)

// forgetScript removes the programs that deploy has put on a machine.
const forgetScript = `for dir in /opt/kijabi-*; do
	[ ! -f "$dir/SHA256SUMS" ] || rm -rf "$dir"
done
[ ! -L /opt/kijabi ] || rm -f /opt/kijabi`

// leaveNode drains a node, resets its machine and deletes its Node.
func (r *run) leaveNode(ctx context.Context, host Host) error {
	cluster, err := r.readCluster(ctx, r.anchor)
	if err != nil {
		return err
	}
	if err := r.drain(ctx, cluster, host.Name); err != nil {
		return err
	}
	resetErr := r.reset(ctx, host)
	if ctx.Err() != nil {
		return resetErr
	}
	if err := r.deleteNode(ctx, host.Name); err != nil {
		return err
	}
	if resetErr != nil {
		return fmt.Errorf("its Node was deleted, but the machine was not reset: %w: run `kijabi reset --local` on it", resetErr)
	}
	return nil
}

// drain moves the pods of a node elsewhere. On a dead machine there is nothing that can
// be moved in an orderly way.
func (r *run) drain(ctx context.Context, cluster *Cluster, name string) error {
	if node, _ := cluster.node(name); !node.Ready {
		return nil
	}
	_, err := r.ask(ctx, r.anchor, "kubectl", "drain", name, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=2m")
	if err != nil {
		return fmt.Errorf("drain it: %w: correct what keeps its pods, and run this again", err)
	}
	r.Progress.Say("%s: drained", name)
	return nil
}

// leaveMaster drains and resets a master's machine, which leaves the roster first, waits until the
// others have a leader, and deletes its Node. A dead master whose machine is not there is only
// forgotten by the others.
func (r *run) leaveMaster(ctx context.Context, host Host) error {
	// Others may have died since the plan was made.
	cluster, err := r.readCluster(ctx, r.anchor)
	if err != nil {
		return err
	}
	var left []ClusterMaster
	var leaving ClusterMaster
	for _, master := range cluster.Masters {
		if master.Name == host.Name {
			leaving = master
			continue
		}
		left = append(left, master)
	}
	if err := quorate(left, leaving); err != nil {
		return err
	}
	if err := r.drain(ctx, cluster, host.Name); err != nil {
		return err
	}
	if _, err := r.shell(ctx, host); err != nil && !leaving.Alive {
		return r.forgetMaster(ctx, host, err)
	}
	if err := r.reset(ctx, host); err != nil {
		return fmt.Errorf("%w (a master that is gone for good: `kijabi master remove %s`)", err, host.Name)
	}
	err = r.Progress.Wait(ctx, host.Name+": off the masters, and another leads", func(ctx context.Context) error {
		_, err := r.status(ctx, r.anchor)
		return err
	})
	if err != nil {
		return err
	}
	return r.deleteNode(ctx, host.Name)
}

// forgetMaster takes a dead master whose machine cannot be reached out of the cluster.
func (r *run) forgetMaster(ctx context.Context, host Host, unreached error) error {
	if _, err := r.ask(ctx, r.anchor, "master", "remove", host.Name, "--yes"); err != nil {
		return fmt.Errorf("take it off the masters: %w", err)
	}
	r.Progress.Say("%s: off the masters", host.Name)
	if err := r.deleteNode(ctx, host.Name); err != nil {
		return err
	}
	return fmt.Errorf("it is off the masters and its Node was deleted, but its machine was not reset: %w: run `kijabi reset --local` on it if it comes back", unreached)
}

// reset removes what was installed on a machine.
func (r *run) reset(ctx context.Context, host Host) error {
	m, err := r.shell(ctx, host)
	if err != nil {
		return err
	}
	facts := gather(ctx, m)
	if facts.Err != nil {
		return facts.Err
	}
	if facts.Member != nil && facts.Member.Name != host.Name {
		return fmt.Errorf("%s is not %s but %s: it is left alone", host.Address, host.Name, facts.Member.Name)
	}
	if facts.Member != nil && facts.Member.ClusterID != r.Plan.ClusterID {
		return fmt.Errorf("%s is a member of another cluster, %s: it is left alone", host.Address, facts.Member.ClusterID)
	}
	r.mu.Lock()
	r.facts[host.Name] = facts
	r.mu.Unlock()
	if facts.Member != nil || facts.Partial {
		if err := r.exec(ctx, m, host, "reset it", program{args: []string{"reset"}}); err != nil {
			return err
		}
	}
	return m.Run(ctx, remote.Script{Text: forgetScript})
}

func (r *run) deleteNode(ctx context.Context, name string) error {
	if _, err := r.ask(ctx, r.anchor, "kubectl", "delete", "node", name, "--ignore-not-found"); err != nil {
		return fmt.Errorf("delete its Node: %w", err)
	}
	r.Progress.Say("%s: out of the cluster", name)
	return nil
}
