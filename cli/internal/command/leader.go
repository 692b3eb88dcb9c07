package command

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"

	"kijabi.dev/cli/internal/access"
)

const callTimeout = 20 * time.Second

// connected calls use with a connection to a living master.
func connected(ctx context.Context, find func() (*access.Access, error), use func(context.Context, *grpc.ClientConn) error) error {
	found, err := find()
	if err != nil {
		return err
	}
	conn, _, err := found.Connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return use(ctx, conn)
}

func newLeader() *cobra.Command {
	c := &cobra.Command{
		Use: "leader", Short: "Show which master leads, or hand leadership over",
		Example: `  kijabi leader
  kijabi leader transfer                 # to the best other master
  kijabi leader transfer --to master-2`,
		Args: cobra.NoArgs,
	}
	find := clusterFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		return connected(c.Context(), find, func(ctx context.Context, conn *grpc.ClientConn) error {
			status, err := mastersv1pb.NewMastersServiceClient(conn).Status(ctx, &mastersv1pb.StatusRequest{})
			if err != nil {
				return fmt.Errorf("status of the masters: %w", err)
			}
			if status.GetLeader() == "" {
				return errors.New("no master leads: see `kijabi status`")
			}
			_, _ = fmt.Fprintln(c.OutOrStdout(), status.GetLeader())
			return nil
		})
	}
	transfer := &cobra.Command{
		Use: "transfer", Short: "Hand leadership to another master",
		Example: "  kijabi leader transfer --to master-2", Args: cobra.NoArgs,
	}
	to := transfer.Flags().String("to", "", "master that shall lead (default: the best one)")
	findForTransfer := clusterFlag(transfer)
	transfer.RunE = func(c *cobra.Command, _ []string) error {
		return connected(c.Context(), findForTransfer, func(ctx context.Context, conn *grpc.ClientConn) error {
			answer, err := mastersv1pb.NewMastersServiceClient(conn).Transfer(ctx, &mastersv1pb.TransferRequest{To: *to})
			if err != nil {
				return fmt.Errorf("transfer leadership: %w", err)
			}
			_, _ = fmt.Fprintf(c.OutOrStdout(), "%s leads\n", answer.GetLeader())
			return nil
		})
	}
	c.AddCommand(transfer)
	return c
}
