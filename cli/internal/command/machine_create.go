package command

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"kijabi.dev/cli/internal/cluster"
)

func newMachineCreate(name *string) *cobra.Command {
	c := &cobra.Command{
		Use:   "create",
		Short: "Make empty machines, to install by hand as virtual machines are",
		Long: `create makes machines that see nothing of the host: their file systems are directories
that hold a few files of /etc and no program. They are members of nothing. Bring them a
release archive, and install them as you would install virtual machines. The host sees
the root of a machine in /var/lib/kijabi-up/NAME/machines/MACHINE/root.

Run again, it adds machines and starts those that are down. kijabi down removes them.`,
		Example: `  kijabi machine create --name vm --subnet 10.98.0.0/24 --masters 3 --nodes 2
  tar -C /var/lib/kijabi-up/vm/machines/master-1/root/opt -xf kijabi-0.1.0-linux-amd64.tar.gz
  kijabi machine shell --name vm master-1 -- /opt/kijabi-0.1.0/bin/kijabi master init
  kijabi down --name vm`,
		Args: cobra.NoArgs,
	}
	masters := c.Flags().Int("masters", -1, "how many machines called master-N: 1, 3 or 5 (default 3)")
	nodes := c.Flags().Int("nodes", -1, "how many machines called node-N (default 2)")
	subnet := c.Flags().String("subnet", "", "addresses of the machines (default 10.89.0.0/24); the host gets the first")
	c.RunE = func(c *cobra.Command, _ []string) error {
		plan := cluster.Plan{Name: *name, Masters: *masters, Nodes: *nodes}
		var err error
		if *subnet != "" {
			if plan.Subnet, err = netip.ParsePrefix(*subnet); err != nil {
				return fmt.Errorf("subnet %q: %w: give one like 10.89.0.0/24", *subnet, err)
			}
		}
		if err := requireRoot(); err != nil {
			return err
		}
		options, err := upOptions()
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(c.Context(), time.Minute)
		defer cancel()
		fleet, err := cluster.Create(ctx, plan, options)
		if err != nil {
			return err
		}
		for _, m := range fleet.State.Machines {
			_, _ = fmt.Fprintf(c.OutOrStdout(), "%s\t%s\t%s\n", m.Name, m.Address, fleet.RootDir(m.Name))
		}
		return nil
	}
	return c
}
