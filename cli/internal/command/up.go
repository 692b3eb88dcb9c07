package command

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kijabi.dev/cli/internal/access"
	"kijabi.dev/cli/internal/cluster"
	"kijabi.dev/cli/internal/machine"
)

const defaultName = "kijabi"

// nameFlag adds --name of a cluster on this host.
func nameFlag(c *cobra.Command) *string {
	return c.Flags().String("name", defaultName, "name of the cluster on this host")
}

func upOptions() (cluster.Options, error) {
	home, err := access.Home()
	if err != nil {
		return cluster.Options{}, err
	}
	return cluster.Options{Root: machine.Root(), Home: home, Progress: newProgress()}, nil
}

func newUp() *cobra.Command {
	c := &cobra.Command{
		Use:   "up",
		Short: "Start a cluster of machines on this host, or repair it",
		Long: `up starts a whole cluster on this Linux host. Every machine is a set of namespaces
with its own network address, processes, files and cgroups; Docker is not needed. The
machines become members by the same commands that a virtual machine uses.

Run again, it starts what is stopped, adds machines when more are asked for, and waits
until the cluster is Ready. If a new cluster does not come up, everything is removed
again and the machines' logs are kept.`,
		Example: `  kijabi up                                   # 3 masters, 2 nodes
  kijabi up --masters 1 --nodes 0             # as small as it gets
  kijabi up --nodes 4                         # two nodes more
  kijabi up --name second --subnet 10.90.0.0/24
  kijabi up --vip 10.89.0.100                 # an address that the leading master has
  kijabi up --bare                            # empty machines, to try installing in
  kijabi up --options options.yaml            # other address ranges, labels, …`,
		Args: cobra.NoArgs,
	}
	name := nameFlag(c)
	masters := c.Flags().Int("masters", -1, "how many masters: 1, 3 or 5 (default 3)")
	nodes := c.Flags().Int("nodes", -1, "how many nodes (default 2)")
	subnet := c.Flags().String("subnet", "", "addresses of the machines (default 10.89.0.0/24); the host gets the first")
	bin := c.Flags().String("bin", "", "directory of the programs (default: that of kijabi)")
	vip := c.Flags().String("vip", "", "virtual `ADDRESS` of the subnet that the leading master holds, and that kubeconfig names")
	keep := c.Flags().Bool("keep-on-failure", false, "leave a cluster that does not come up for a look at it")
	bare := c.Flags().Bool("bare", false, "start machines and install nothing in them")
	timeout := c.Flags().Duration("timeout", 5*time.Minute, "give up after this time")
	file := c.Flags().String("options", "", "options `FILE` of the machines, as for kijabi master init")
	c.RunE = func(c *cobra.Command, _ []string) error {
		plan := cluster.Plan{Name: *name, Masters: *masters, Nodes: *nodes}
		var err error
		if *subnet != "" {
			if plan.Subnet, err = netip.ParsePrefix(*subnet); err != nil {
				return fmt.Errorf("subnet %q: %w: give one like 10.89.0.0/24", *subnet, err)
			}
		}
		if plan.BinDir, err = absolute(*bin); err != nil {
			return err
		}
		if err := requireRoot(); err != nil {
			return err
		}
		options, err := upOptions()
		if err != nil {
			return err
		}
		options.KeepOnFailure, options.Timeout, options.OptionsFile, options.Bare = *keep, *timeout, *file, *bare
		options.VIP = *vip
		user, err := cluster.Up(c.Context(), plan, options)
		if err != nil {
			return err
		}
		if *bare {
			options.Progress.Say("the machines are up: see `kijabi machine list --name %s`", *name)
			return nil
		}
		options.Progress.Say("cluster %q is Ready", *name)
		nextSteps(options.Home.Kubeconfig(), *name, user)
		return nil
	}
	return c
}

// nextSteps prints what to try, as commands that work as they are.
func nextSteps(kubeconfig, cluster string, user *access.Access) {
	named := ""
	if cluster != defaultName {
		named = " --name " + cluster
	}
	machine := user.Cluster.Masters[0].Name
	_, _ = fmt.Fprintf(os.Stdout, "\nkubeconfig: %s\n\nNext:\n", kubeconfig)
	for _, step := range [][2]string{
		{"kijabi status", "who leads, who is Ready"},
		{"kijabi kubectl get nodes", "kubectl, built in"},
		{"export KUBECONFIG=" + kubeconfig, ""},
		{"kijabi machine kill" + named + " " + machine, "pull a plug and watch another master lead"},
		{"kijabi machine shell" + named + " " + machine, "look inside"},
		{"kijabi down" + named, "remove all of it"},
	} {
		_, _ = fmt.Fprintln(os.Stdout, strings.TrimRight(fmt.Sprintf("  %-43s %s", step[0], step[1]), " "))
	}
}

func newDown() *cobra.Command {
	c := &cobra.Command{
		Use:   "down",
		Short: "Remove the cluster on this host",
		Long: `down ends all machines of a cluster that up has started and removes everything that
up has made: processes, namespaces, mounts, network, cgroups, disks and the kubeconfig's
entries. It asks nothing. It also works after an up that was cut off.`,
		Example: `  kijabi down
  kijabi down --keep-data     # the disks stay; the next up starts the same cluster`,
		Args: cobra.NoArgs,
	}
	name := nameFlag(c)
	keep := c.Flags().Bool("keep-data", false, "keep the machines' disks for the next up")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := requireRoot(); err != nil {
			return err
		}
		options, err := upOptions()
		if err != nil {
			return err
		}
		return cluster.Down(c.Context(), *name, options, *keep)
	}
	return c
}
