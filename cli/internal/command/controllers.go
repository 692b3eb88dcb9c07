package command

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/platform/rpc"
	controllermanagerv1pb "kijabi.dev/proto/gen/kijabi/controllermanager/v1"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"

	"kijabi.dev/cli/internal/access"
	"kijabi.dev/cli/internal/install"
	"kijabi.dev/cli/internal/output"
)

func newControllers() *cobra.Command {
	c := &cobra.Command{
		Use: "controllers", Aliases: []string{"controller"}, Short: "Show the control loops and their queues, pause and resume one",
		Long: `controllers asks the controller-manager of the leading master, where the loops run, what each
does: a loop takes what is due from its queue and moves it toward what its spec asks for.

  STATE       running, or paused and for how long
  QUEUE       what is due and waits; +N will be due at a known time, such as the next try after a failure
  OLDEST      what has been due for longest. Seconds mean that the loop is behind or stuck
  ACTIVE      what is in work, and for how long the longest
  RATE        reconciles a second, as the mean of the last minute
  FAILURES    failed reconciles since the program started; conflicts with other writers are no failures
  LAST ERROR  the newest of them: when, at what, why. It stays after it is overcome

Numbers begin anew when the program starts and when another master leads.`,
		Example: `  kijabi controllers
  kijabi controllers -o json | jq '.loops[] | select(.depth > 100)'
  kijabi controllers pause deployment
  kijabi controllers resume deployment`,
		Args: cobra.NoArgs,
	}
	asJSON := outputFlag(c)
	find := clusterFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		wantJSON, err := asJSON()
		if err != nil {
			return err
		}
		return withLoops(c.Context(), find, callTimeout, func(ctx context.Context, master string, loops controllermanagerv1pb.ControllerManagerServiceClient) error {
			answer, err := loops.ListLoops(ctx, &controllermanagerv1pb.ListLoopsRequest{})
			if err != nil {
				return err
			}
			all := controllersOf(master, answer)
			if wantJSON {
				return output.JSON(c.OutOrStdout(), all)
			}
			return all.print(c.OutOrStdout(), time.Now())
		})
	}
	c.AddCommand(newControllersPause(), newControllersResume())
	return c
}

func newControllersPause() *cobra.Command {
	c := &cobra.Command{
		Use: "pause NAME", Short: "Make a loop work on nothing, until it is resumed",
		Long: `pause makes a loop work on nothing, while its queue goes on gathering what is due, so that
resume misses nothing. It returns when what is in work has ended.

Use it to keep a loop off objects while you repair them by hand. All that the loop does stops,
for all objects: without replicaset, say, no pod that dies is replaced.

A pause ends by itself when the controller-manager starts anew and when another master leads.
` + "`kijabi status` and `kijabi controllers`" + ` show it until then.`,
		Example: `  kijabi controllers pause replicaset
  kijabi controllers pause garbagecollector --timeout 2m`,
		Args: cobra.ExactArgs(1),
	}
	timeout := c.Flags().Duration("timeout", callTimeout, "how long to wait for what is in work; the loop is paused in any case")
	find := clusterFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		return withLoops(c.Context(), find, *timeout, func(ctx context.Context, master string, loops controllermanagerv1pb.ControllerManagerServiceClient) error {
			answer, err := loops.PauseLoop(ctx, &controllermanagerv1pb.PauseLoopRequest{Name: args[0]})
			if apierrors.IsTimeout(err) {
				err = stillInWork(c.Context(), loops, args[0], *timeout, err)
			}
			if err != nil {
				return fmt.Errorf("pause loop %s: %w", args[0], err)
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "loop %[1]s on %[2]s is paused, %[3]d due. It ends with `kijabi controllers resume %[1]s`, "+
				"a new start of its controller-manager or another leader.\n", args[0], master, answer.GetLoop().GetDepth())
			return err
		})
	}
	return c
}

// stillInWork says what a pause has waited for in vain; cause if the loop is not paused.
func stillInWork(ctx context.Context, loops controllermanagerv1pb.ControllerManagerServiceClient, name string, waited time.Duration, cause error) error {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	answer, err := loops.ListLoops(ctx, &controllermanagerv1pb.ListLoopsRequest{})
	if err != nil {
		return cause
	}
	for _, loop := range answer.GetLoops() {
		if loop.GetName() == name && loop.GetPaused() {
			return fmt.Errorf("it is paused, but %d were in work still after %s, the longest %s: pause it again to wait longer, resume it to take the pause back",
				loop.GetActive(), waited, keyText(loop.GetLongestKey()))
		}
	}
	return cause
}

func newControllersResume() *cobra.Command {
	c := &cobra.Command{
		Use: "resume NAME", Short: "Let a paused loop work again, on all that has gathered",
		Example: "  kijabi controllers resume replicaset", Args: cobra.ExactArgs(1),
	}
	find := clusterFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		return withLoops(c.Context(), find, callTimeout, func(ctx context.Context, master string, loops controllermanagerv1pb.ControllerManagerServiceClient) error {
			answer, err := loops.ResumeLoop(ctx, &controllermanagerv1pb.ResumeLoopRequest{Name: args[0]})
			if err != nil {
				return fmt.Errorf("resume loop %s: %w", args[0], err)
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "loop %s on %s is running, %d due\n", args[0], master, answer.GetLoop().GetDepth())
			return err
		})
	}
	return c
}

// withLoops calls use with the controller-manager of the master that leads, and its name.
func withLoops(ctx context.Context, find func() (*access.Access, error), timeout time.Duration,
	use func(ctx context.Context, master string, loops controllermanagerv1pb.ControllerManagerServiceClient) error,
) error {
	found, err := find()
	if err != nil {
		return err
	}
	door, _, err := found.Connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = door.Close() }()
	asking, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	status, err := mastersv1pb.NewMastersServiceClient(door).Status(asking, &mastersv1pb.StatusRequest{})
	if err != nil {
		return fmt.Errorf("status of the masters: %w", err)
	}
	conn, address, err := dialLoops(asking, found, status)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	calling, cancelCall := context.WithTimeout(ctx, timeout)
	defer cancelCall()
	err = use(calling, status.GetLeader(), controllermanagerv1pb.NewControllerManagerServiceClient(conn))
	if apierrors.IsServiceUnavailable(err) {
		return fmt.Errorf("the controller-manager of %s, which leads, at %s: %w (is it starting, is leadership moving: see `kijabi status`; "+
			"is the port closed to this machine: run this on a master)", status.GetLeader(), address, err)
	}
	return err
}

// dialLoops returns a connection to the controller-manager of the master that leads, and its address.
func dialLoops(ctx context.Context, found *access.Access, status *mastersv1pb.StatusResponse) (*grpc.ClientConn, string, error) {
	leader := status.GetLeader()
	if leader == "" {
		return nil, "", errors.New("no master leads, so no loop runs: see `kijabi status`")
	}
	id, err := found.Identity(ctx)
	if err != nil {
		return nil, "", err
	}
	for _, member := range status.GetMembers() {
		if member.GetName() != leader {
			continue
		}
		for _, endpoint := range install.Endpoints(true, leader, hostOf(member.GetGrpcAddress())) {
			if endpoint.Component == "controller-manager" {
				conn, err := rpc.DialName(endpoint.Address, endpoint.ServerName, id)
				return conn, endpoint.Address, err
			}
		}
	}
	return nil, "", fmt.Errorf("master %s, which leads, is not on the roster that the answering master knows: try again", leader)
}

// pausedLoops are warnings about the loops of the leading master that are paused. A
// controller-manager that does not answer is among the components that are not healthy.
func pausedLoops(ctx context.Context, found *access.Access, status *mastersv1pb.StatusResponse) []string {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	conn, _, err := dialLoops(ctx, found, status)
	if err != nil {
		return nil
	}
	defer func() { _ = conn.Close() }()
	answer, err := controllermanagerv1pb.NewControllerManagerServiceClient(conn).ListLoops(ctx, &controllermanagerv1pb.ListLoopsRequest{})
	if err != nil {
		return nil
	}
	var warnings []string
	for _, loop := range answer.GetLoops() {
		if loop.GetPaused() {
			warnings = append(warnings, fmt.Sprintf("loop %[1]s is paused since %[2]s, %[3]d due: `kijabi controllers resume %[1]s`",
				loop.GetName(), loop.GetPausedSince().AsTime().Local().Format(time.DateTime), loop.GetDepth()))
		}
	}
	return warnings
}
