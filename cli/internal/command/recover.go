package command

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"
)

func newRecover() *cobra.Command {
	c := &cobra.Command{
		Use: "recover", Short: "Let the cluster go on with this master when a majority is lost forever",
		Long: `recover is for the case that so many masters are gone for good that no majority can ever
vote again. Run it on ONE of the masters that are left, the one with the highest revision.

With --from-member, the default, this master keeps all that its own data and log hold. With
--from-snapshot it goes on from a snapshot. Either way its data is moved aside, not removed;
it leads alone afterwards, and masters that come back after all move their data aside and join
it by themselves. Pods and services are not touched. Clients list everything anew.

If a majority will come back, wait for it instead: nothing is lost then.`,
		Example: `  sudo kijabi recover
  sudo kijabi recover --yes
  sudo kijabi recover --from-snapshot /mnt/backup/20261130T080000Z-r41-m1.kijabi`,
		Args: cobra.NoArgs,
	}
	fromMember := c.Flags().Bool("from-member", true, "keep what this master has")
	fromSnapshot := c.Flags().String("from-snapshot", "", "go on from this `FILE|NAME` instead")
	yes := c.Flags().Bool("yes", false, "do not ask")
	c.MarkFlagsMutuallyExclusive("from-member", "from-snapshot")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if *fromSnapshot != "" {
			return restoreSnapshot(c, *fromSnapshot, *yes)
		}
		if !*fromMember {
			return errors.New("nothing to recover from: leave --from-member as it is, or give --from-snapshot FILE")
		}
		return recoverMember(c, *yes)
	}
	return c
}

func recoverMember(c *cobra.Command, yes bool) error {
	rescue, err := openRescue()
	if err != nil {
		return err
	}
	leader, err := rescue.Leader(c.Context())
	if err != nil {
		return err
	}
	if leader != "" {
		return fmt.Errorf("%s leads: the quorum is not lost, and there is nothing to recover; to go back, use `kijabi snapshot restore`", leader)
	}
	status, err := rescue.Masters(c.Context())
	if err != nil {
		return err
	}
	member := rescue.Member()
	out := c.OutOrStdout()
	own := int64(0)
	for _, m := range status.GetMembers() {
		if m.GetName() == member.Name {
			own = m.GetAppliedRevision()
		}
	}
	describeLoss(out, status, member.Name, own)
	_, _ = fmt.Fprintln(out, `
What this master has not received is lost. Its programs are stopped, its data is moved aside and
made anew of what it holds, and it leads alone.`)
	if !yes {
		if err := confirm(c.Context(), out); err != nil {
			return err
		}
	}
	outcome, err := rescue.Recover(c.Context())
	if err != nil {
		return err
	}
	return printOutcome(out, member.Name, outcome)
}

// describeLoss says which masters are given up, and what they are known to have had beyond the
// given revision (0: not known).
func describeLoss(out io.Writer, status *mastersv1pb.StatusResponse, self string, revision int64) {
	if revision > 0 {
		_, _ = fmt.Fprintf(out, "The cluster goes on from revision %d or a later one.\n", revision)
	} else {
		_, _ = fmt.Fprintln(out, "This master's revision is known once its log has been read.")
	}
	for _, m := range status.GetMembers() {
		if m.GetName() == self {
			continue
		}
		text := "given up: " + m.GetName()
		switch had := m.GetAppliedRevision(); {
		case m.GetAlive():
			text += ", which is ALIVE and has revision " + fmt.Sprint(had)
		case had > 0 && revision > 0 && had > revision:
			text += fmt.Sprintf(", which had revision %d: %d revisions are lost", had, had-revision)
		case had > 0:
			text += fmt.Sprintf(", which had revision %d when it was last heard, at %s", had, m.GetLastSeen().AsTime().Format(time.RFC3339))
		default:
			text += ", of whose revision nothing is known"
		}
		_, _ = fmt.Fprintln(out, text)
	}
}
