package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"

	"kijabi.dev/cli/internal/install"
	"kijabi.dev/cli/internal/output"
)

func newMasterRemove() *cobra.Command {
	c := &cobra.Command{
		Use: "remove NAME", Short: "Take a master off the roster; its machine may be gone",
		Long: `remove takes a master out of the group of masters, from wherever there is access to the
cluster. It shows how many voters there are before and after, and how many more of them
may fail, and asks. It is refused when the living voters that remain would be no majority.

A master that leads hands leadership over first. One that is alive stops: run ` + "`kijabi reset`" + `
on it, or ` + "`kijabi master leave`" + `, which keeps it as a node. Its Node stays until it is deleted.`,
		Example: `  kijabi master remove master-3
  kijabi master remove master-3 --yes`,
		Args: cobra.ExactArgs(1),
	}
	yes := c.Flags().Bool("yes", false, "do not ask")
	force := forceFlag(c)
	find := clusterFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		found, err := find()
		if err != nil {
			return err
		}
		request := &mastersv1pb.RemoveRequest{Name: args[0], Force: *force, PlanOnly: true}
		plan, err := install.RemoveMaster(c.Context(), found, request)
		if err != nil {
			return fmt.Errorf("remove %s: %w", args[0], err)
		}
		if err := printRemoval(c.OutOrStdout(), args[0], plan); err != nil {
			return err
		}
		if plan.GetRefusal() != "" {
			return fmt.Errorf("%s stays: %s", args[0], plan.GetRefusal())
		}
		if err := agree(c.Context(), c.OutOrStdout(), *yes); err != nil {
			return err
		}
		request.PlanOnly = false
		if _, err := install.RemoveMaster(c.Context(), found, request); err != nil {
			return fmt.Errorf("remove %s: %w", args[0], err)
		}
		_, _ = fmt.Fprintf(c.OutOrStdout(), "%[1]s is off the masters. What is left of it:\n%[2]s  its Node: kijabi kubectl delete node %[1]s\n", args[0], leftAlive(plan))
		return nil
	}
	return c
}

// leftAlive says what to do with the machine of a removed master.
func leftAlive(plan *mastersv1pb.RemoveResponse) string {
	if plan.GetAlive() {
		return "  its machine, where its apiserver ends now: `kijabi reset` on it, or `kijabi master leave` to keep it as a node\n"
	}
	return "  its machine, if it comes back: `kijabi reset` on it, or `kijabi master leave` to keep it as a node\n"
}

func newMasterLeave() *cobra.Command {
	c := &cobra.Command{
		Use: "leave", Short: "Take this machine off the masters and keep it as a node",
		Long: `leave takes this master off the roster, unless that is done already, and removes the
masters' programs, units, data and keys from it. Its containers, kubelet, proxy, network
and DNS go on, by way of the other masters, and its Node loses the mark of a master.

It shows what becomes of the quorum first, and asks. An interrupted leave is repeated.
` + "`kijabi reset`" + ` takes the machine out of the cluster altogether.`,
		Example: `  sudo kijabi master leave`,
		Args:    cobra.NoArgs,
	}
	yes := c.Flags().Bool("yes", false, "do not ask")
	force := forceFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := requireRoot(); err != nil {
			return err
		}
		layout, err := install.InstalledLayout()
		if err != nil {
			return err
		}
		services, err := install.DetectServices(layout)
		if err != nil {
			return err
		}
		err = install.LeaveMasters(c.Context(), install.LeaveOptions{
			Layout: layout, Services: services, Progress: newProgress(), Force: *force,
			Confirm: func(name string, plan *mastersv1pb.RemoveResponse) error {
				if plan != nil {
					if err := printRemoval(c.OutOrStdout(), name, plan); err != nil {
						return err
					}
				}
				_, _ = fmt.Fprintln(c.OutOrStdout(), "The masters' programs, data and keys are removed from this machine; it stays as a node.")
				return agree(c.Context(), c.OutOrStdout(), *yes)
			},
		})
		if err != nil {
			return err
		}
		_, _ = fmt.Fprintln(c.OutOrStdout(), "This machine is a node now. See `kijabi status` on a master.")
		return nil
	}
	return c
}

func forceFlag(c *cobra.Command) *bool {
	return c.Flags().Bool("force", false, "count voters as living that answer raft but no question; what raft cannot commit is refused all the same")
}

// agree asks, unless that was answered by a flag.
func agree(ctx context.Context, out io.Writer, yes bool) error {
	if yes {
		return nil
	}
	return confirm(ctx, out)
}

// printRemoval shows what taking a master off the roster comes to.
func printRemoval(out io.Writer, name string, plan *mastersv1pb.RemoveResponse) error {
	if plan.GetBefore() == nil || plan.GetAfter() == nil {
		return errors.New("the master that was asked does not tell what becomes of the quorum: its version is older than this command")
	}
	what := []string{roleText(plan.GetRole())}
	if plan.GetLeader() {
		what = append(what, "leads and hands over first")
	}
	if !plan.GetAlive() {
		what = append(what, "does not answer")
	}
	_, _ = fmt.Fprintf(out, "%s: %s\n\n", name, strings.Join(what, ", "))
	row := func(when string, q *mastersv1pb.Quorum) []string {
		may := strconv.Itoa(int(q.GetTolerated()))
		if q.GetTolerated() < 0 {
			may = "none: the quorum is lost"
		}
		return []string{when, strconv.Itoa(int(q.GetVoters())), strconv.Itoa(int(q.GetLiving())), strconv.Itoa(int(q.GetNeeded())), may}
	}
	err := output.Table(out, []string{"QUORUM", "VOTERS", "LIVING", "NEEDED", "MORE MAY FAIL"}, [][]string{row("before", plan.GetBefore()), row("after", plan.GetAfter())})
	if err == nil {
		_, err = fmt.Fprintln(out)
	}
	return err
}

// roleText is a role as it is printed.
func roleText(role mastersv1pb.MemberRole) string {
	return strings.ToLower(strings.TrimPrefix(role.String(), "MEMBER_ROLE_"))
}
