package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"

	"kijabi.dev/cli/internal/access"
	"kijabi.dev/cli/internal/install"
	"kijabi.dev/cli/internal/output"
)

// rescueTimeout bounds restoration and recovery.
const rescueTimeout = 10 * time.Minute

func newSnapshot() *cobra.Command {
	c := &cobra.Command{
		Use: "snapshot", Short: "Copies of all objects: make, list, verify, restore",
		Long: `A snapshot is a copy of all objects of the cluster, encrypted with its storage key
(/var/lib/kijabi/pki/encryption.key on each master: keep a copy of that folder elsewhere).
One is made every hour by one of the masters and kept in /var/lib/kijabi/snapshots there, or
in a bucket (docs/operate.md).`,
		Example: `  kijabi snapshot save                # now, into the archive
  kijabi snapshot save before.kijabi  # into a file here
  kijabi snapshot list
  sudo kijabi snapshot verify before.kijabi
  sudo kijabi snapshot restore before.kijabi`,
	}
	c.AddCommand(newSnapshotSave(), newSnapshotList(), newSnapshotVerify(), newSnapshotRestore())
	return c
}

// withMasters calls use with a living master's service, for as long as it takes.
func withMasters(ctx context.Context, find func() (*access.Access, error), use func(mastersv1pb.MastersServiceClient) error) error {
	found, err := find()
	if err != nil {
		return err
	}
	conn, _, err := found.Connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	return use(mastersv1pb.NewMastersServiceClient(conn))
}

func newSnapshotSave() *cobra.Command {
	c := &cobra.Command{
		Use: "save [FILE]", Short: "Make a snapshot now", Args: cobra.MaximumNArgs(1),
		Long: `save has a master make a snapshot and keep it in its archive, or writes it into FILE
here. One in the archive has been verified; verify a FILE on a master.`,
		Example: `  kijabi snapshot save
  kijabi snapshot save before-upgrade.kijabi`,
	}
	find := clusterFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		return withMasters(c.Context(), find, func(masters mastersv1pb.MastersServiceClient) error {
			stream, err := masters.SaveSnapshot(c.Context(), &mastersv1pb.SaveSnapshotRequest{Content: len(args) > 0})
			if err != nil {
				return err
			}
			first, err := stream.Recv()
			if err != nil {
				return fmt.Errorf("make a snapshot: %s", access.Brief(err))
			}
			made := first.GetSnapshot()
			if len(args) == 0 {
				_, err := fmt.Fprintf(c.OutOrStdout(), "%s (%s) on %s\n", made.GetName(), size(made.GetBytes()), made.GetMaster())
				return err
			}
			n, err := receive(stream, args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s (%s), made by %s\n", args[0], size(n), made.GetMaster())
			return err
		})
	}
	return c
}

// receive writes a snapshot into a file that is there only once it is whole.
func receive(stream grpc.ServerStreamingClient[mastersv1pb.SaveSnapshotResponse], path string) (n int64, err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".snapshot-*") // mode 0600
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	for {
		piece, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, errors.Join(fmt.Errorf("receive the snapshot: %s", access.Brief(err)), tmp.Close())
		}
		written, err := tmp.Write(piece.GetData())
		if err != nil {
			return 0, errors.Join(err, tmp.Close())
		}
		n += int64(written)
	}
	if err := errors.Join(tmp.Sync(), tmp.Close()); err != nil {
		return 0, err
	}
	return n, os.Rename(tmp.Name(), path)
}

func newSnapshotList() *cobra.Command {
	c := &cobra.Command{
		Use: "list", Short: "List the snapshots of all masters, newest first", Args: cobra.NoArgs,
		Example: "  kijabi snapshot list\n  kijabi snapshot list -o json",
	}
	asJSON := outputFlag(c)
	find := clusterFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		wantJSON, err := asJSON()
		if err != nil {
			return err
		}
		return withMasters(c.Context(), find, func(masters mastersv1pb.MastersServiceClient) error {
			ctx, cancel := context.WithTimeout(c.Context(), callTimeout)
			defer cancel()
			answer, err := masters.ListSnapshots(ctx, &mastersv1pb.ListSnapshotsRequest{})
			if err != nil {
				return fmt.Errorf("list snapshots: %s", access.Brief(err))
			}
			for _, missing := range answer.GetMissing() {
				_, _ = fmt.Fprintf(c.ErrOrStderr(), "not listed: %s\n", oneLine(errors.New(missing)))
			}
			all := make([]SnapshotStatus, 0, len(answer.GetSnapshots()))
			var rows [][]string
			for _, s := range answer.GetSnapshots() {
				all = append(all, *snapshotStatus(s))
				rows = append(rows, []string{s.GetName(), s.GetMaster(), s.GetTime().AsTime().Format(time.RFC3339), fmt.Sprint(s.GetRevision()), size(s.GetBytes())})
			}
			if wantJSON {
				return output.JSON(c.OutOrStdout(), all)
			}
			return output.Table(c.OutOrStdout(), []string{"NAME", "MASTER", "TIME", "REVISION", "SIZE"}, rows)
		})
	}
	return c
}

// SnapshotStatus is a snapshot as commands print it in JSON.
type SnapshotStatus struct {
	Name     string    `json:"name"`
	Master   string    `json:"master"`
	Time     time.Time `json:"time"`
	Revision int64     `json:"revision"`
	Bytes    int64     `json:"bytes"`
}

func snapshotStatus(s *mastersv1pb.Snapshot) *SnapshotStatus {
	return &SnapshotStatus{Name: s.GetName(), Master: s.GetMaster(), Time: s.GetTime().AsTime(), Revision: s.GetRevision(), Bytes: s.GetBytes()}
}

func size(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// openRescue returns this machine as a master whose data can be worked on.
func openRescue() (*install.Rescue, error) {
	if err := requireRoot(); err != nil {
		return nil, err
	}
	layout, err := install.InstalledLayout()
	if err != nil {
		return nil, err
	}
	services, err := install.DetectServices(layout)
	if err != nil {
		return nil, err
	}
	return install.OpenRescue(install.RescueOptions{Layout: layout, Services: services, Progress: newProgress(), Timeout: rescueTimeout})
}

func newSnapshotVerify() *cobra.Command {
	c := &cobra.Command{
		Use: "verify FILE|NAME", Short: "Restore a snapshot on trial, on a master", Args: cobra.ExactArgs(1),
		Long: `verify decrypts all of a snapshot with this master's keys, compares its digest, checks
the database in it and decodes every object. Nothing else is touched.`,
		Example: "  sudo kijabi snapshot verify 20261130T080000Z-r41-m1.kijabi",
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		rescue, err := openRescue()
		if err != nil {
			return err
		}
		content, err := rescue.Verify(c.Context(), args[0])
		if err != nil {
			return err
		}
		return printContent(c.OutOrStdout(), args[0], content)
	}
	return c
}

func printContent(out io.Writer, name string, content *install.SnapshotContent) error {
	h := content.Header
	var members []string
	for _, m := range h.Members {
		members = append(members, m.Name)
	}
	_, err := fmt.Fprintf(out, "%s is whole: %d objects at revision %d\ncluster   %s\nmade      %s by %s, %s, epoch %d\nmasters   %s\n",
		name, content.Objects, content.Revision, h.ClusterID, h.Time.Format(time.RFC3339), h.Master, h.Version, h.Epoch, strings.Join(members, ", "))
	for _, object := range content.Unreadable {
		_, _ = fmt.Fprintf(out, "cannot be read: %s\n", object)
	}
	return err
}

func newSnapshotRestore() *cobra.Command {
	c := &cobra.Command{
		Use: "restore FILE|NAME", Short: "Let the cluster go on from a snapshot, with this master alone", Args: cobra.ExactArgs(1),
		Long: `restore is for a cluster of which nothing else is left, or that shall go back. What was
written after the snapshot is lost. This master's data is moved aside and made of the
snapshot; it leads alone then, and other masters that still have data of the cluster move
theirs aside and join it by themselves. Clients list everything anew.`,
		Example: `  kijabi snapshot list
  sudo kijabi snapshot restore 20261130T080000Z-r41-m1.kijabi`,
	}
	yes := c.Flags().Bool("yes", false, "do not ask")
	c.RunE = func(c *cobra.Command, args []string) error { return restoreSnapshot(c, args[0], *yes) }
	return c
}

func restoreSnapshot(c *cobra.Command, name string, yes bool) error {
	rescue, err := openRescue()
	if err != nil {
		return err
	}
	content, err := rescue.Verify(c.Context(), name)
	if err != nil {
		return err
	}
	out := c.OutOrStdout()
	if err := printContent(out, name, content); err != nil {
		return err
	}
	member := rescue.Member()
	if content.Header.ClusterID != member.ClusterID {
		return fmt.Errorf("the snapshot is of the cluster %s, this master belongs to %s", content.Header.ClusterID, member.ClusterID)
	}
	if status, err := rescue.Masters(c.Context()); err == nil {
		describeLoss(out, status, member.Name, content.Revision)
	}
	_, _ = fmt.Fprintf(out, `
Everything written since %s is lost. The programs of this master are
stopped, its data is moved aside, and it goes on with the snapshot, alone; other masters that
are alive move their data aside and join it. Running pods that the snapshot does not know are
ended, those that it knows are started.
`, content.Header.Time.Format(time.RFC3339))
	if !yes {
		if err := confirm(c.Context(), out); err != nil {
			return err
		}
	}
	outcome, err := rescue.Restore(c.Context(), name)
	if err != nil {
		return err
	}
	return printOutcome(out, member.Name, outcome)
}

func printOutcome(out io.Writer, name string, outcome *install.RescueOutcome) error {
	from := fmt.Sprintf("from revision %d", outcome.Revision)
	if outcome.Revision == 0 {
		from = "with the data of the separate etcd as it is"
	}
	_, err := fmt.Fprintf(out, "%s leads alone, %s, in generation %d of the masters.\n", name, from, outcome.Generation)
	for _, dir := range outcome.Aside {
		_, _ = fmt.Fprintf(out, "The former data is in %s; remove it when it is no longer wanted.\n", dir)
	}
	_, _ = fmt.Fprintln(out, "One master tolerates no failure: let others return, or add some (`kijabi token create --role master`).")
	return err
}
