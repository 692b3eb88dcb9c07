package command

import (
	"cmp"
	"fmt"

	"github.com/spf13/cobra"

	configv1 "kijabi.dev/platform/config/v1"

	"kijabi.dev/cli/internal/install"
)

// vipFlags adds those of a master's virtual address to its options; founding tells which it is.
func vipFlags(c *cobra.Command, founding bool, options func() (install.Options, error)) func() (install.Options, error) {
	var addresses []string
	if founding {
		c.Flags().StringSliceVar(&addresses, "vip", nil, "virtual `ADDRESS[,ADDRESS]` that the leading master holds, one IPv4, one IPv6 or both; masters that join learn it")
	}
	on := c.Flags().String("vip-interface", "", "interface of this machine that holds it (default: that whose subnet contains it)")
	return func() (install.Options, error) {
		o, err := options()
		if len(addresses) > 0 {
			o.Said.VIP.Addresses = addresses
		}
		o.Said.VIP.Interface = cmp.Or(*on, o.Said.VIP.Interface)
		if err == nil {
			err = o.Said.Validate()
		}
		return o, err
	}
}

// memberFlags adds what master init, master join and node join share.
func memberFlags(c *cobra.Command) func() (install.Options, error) {
	name := c.Flags().String("name", "", "name of this machine in the cluster (default: its host name)")
	address := c.Flags().String("advertise-address", "", "IP that other machines reach this one at (default: that of the default route)")
	bin := c.Flags().String("bin", "", "directory of the programs (default: that of kijabi)")
	timeout := c.Flags().Duration("timeout", 0, "give up waiting after this time (default 2m)")
	file := c.Flags().String("options", "", "options `FILE`, kind MemberOptions; flags win over it (default: "+configv1.OptionsFile+", if it exists)")
	ignored := ignoreFlag(c)
	return func() (install.Options, error) {
		dir, err := absolute(*bin)
		if err != nil {
			return install.Options{}, err
		}
		if err := requireRoot(); err != nil {
			return install.Options{}, err
		}
		said, err := install.ReadOptions(*file)
		if err != nil {
			return install.Options{}, err
		}
		layout, err := install.InstalledLayout()
		if err != nil {
			return install.Options{}, err
		}
		if _, ok, err := install.ReadMember(layout); err == nil && !ok { // else its own layout finds it
			layout = layout.With(said.Directories)
		}
		services, err := install.DetectServices(layout)
		if err != nil {
			return install.Options{}, err
		}
		return install.Options{
			Layout: layout, Said: said, Name: *name, Address: *address, BinDir: dir,
			Services: services, Progress: newProgress(), Timeout: *timeout, IgnorePreflight: ignored(),
		}, nil
	}
}

func newMaster() *cobra.Command {
	c := &cobra.Command{
		Use: "master", Short: "Make this machine a master, or masters fewer",
		Example: `  vm1$ sudo kijabi master init
  vm2$ sudo kijabi master join vm1 --token kijabi.m.…
  vm2$ sudo kijabi master leave      # it stays as a node
  kijabi master remove vm3           # its machine may be gone`,
	}
	c.AddCommand(newMasterInit(), newMasterJoin(), newMasterLeave(), newMasterRemove())
	return c
}

func newMasterInit() *cobra.Command {
	c := &cobra.Command{
		Use: "init", Short: "Found a new cluster with this machine as its first master",
		Long: `init makes the cluster's keys, writes configuration and units, starts the programs
and waits until they are healthy. It then prints how other machines join. If it fails,
nothing is left behind.`,
		Example: `  sudo kijabi master init
  sudo kijabi master init --advertise-address 10.0.0.11 --name vm1
  sudo kijabi master init --vip 10.0.0.10
  sudo kijabi master init --options options.yaml

  # options.yaml: every field has a default (docs/vms.md has all of them)
  apiVersion: kijabi.dev/v1
  kind: MemberOptions
  network: {podCIDR: 10.32.0.0/14, serviceCIDR: 10.36.0.0/16}
  directories: {state: /data/kijabi, etcd: /ssd/etcd}
  etcd: {quotaBytes: 8589934592}
  node: {labels: {disk: ssd}}`,
		Args: cobra.NoArgs,
	}
	options := vipFlags(c, true, memberFlags(c))
	c.RunE = func(c *cobra.Command, _ []string) error {
		o, err := options()
		if err != nil {
			return err
		}
		founded, err := install.InitMaster(c.Context(), o)
		if err != nil {
			return err
		}
		_, _ = fmt.Fprintf(c.OutOrStdout(), `
The cluster is up with one master: no failure is tolerated yet.

add a master (token: one use, 1 hour; the cluster wants 3 or 5 masters):
  sudo kijabi master join %[1]s --token %[2]s

add a node (token: 24 hours):
  sudo kijabi node join %[1]s --token %[3]s

more tokens: kijabi token create --role node
`, founded.Address, founded.MasterToken, founded.NodeToken)
		return nil
	}
	return c
}

func newMasterJoin() *cobra.Command {
	c := &cobra.Command{
		Use: "join HOST[:6444]", Short: "Join this machine to a cluster as a further master",
		Long: `join proves to a master of the cluster that this machine may be one, gets the masters'
shared keys, starts the programs, and waits until this master has caught up and votes.
The token carries a pin of the cluster's CA: it is sent to no other cluster. If joining
fails, nothing is left behind.`,
		Example: `  sudo kijabi master join 10.0.0.11 --token kijabi.m.…`,
		Args:    cobra.ExactArgs(1),
	}
	token := c.Flags().String("token", "", "join token of role master (required)")
	options := vipFlags(c, false, memberFlags(c))
	c.RunE = func(c *cobra.Command, args []string) error {
		o, err := options()
		if err != nil {
			return err
		}
		if err := install.JoinMaster(c.Context(), install.Invitation{Master: args[0], Token: *token}, o); err != nil {
			return err
		}
		_, _ = fmt.Fprintln(c.OutOrStdout(), "This machine is a master now. See `kijabi status`.")
		return nil
	}
	return c
}

func newNode() *cobra.Command {
	c := &cobra.Command{
		Use: "node", Short: "Make this machine a node",
		Example: `  vm4$ sudo kijabi node join vm1 --token kijabi.n.…`,
	}
	join := &cobra.Command{
		Use: "join HOST[:6444]", Short: "Join this machine to a cluster as a node",
		Long: `join obtains certificates for this machine's programs from a master of the cluster,
starts them, and waits until the node is Ready. The token carries a pin of the cluster's
CA: it is sent to no other cluster. If joining fails, nothing is left behind.`,
		Example: `  sudo kijabi node join 10.0.0.11 --token kijabi.n.…`,
		Args:    cobra.ExactArgs(1),
	}
	token := join.Flags().String("token", "", "join token of role node (required)")
	options := memberFlags(join)
	join.RunE = func(c *cobra.Command, args []string) error {
		o, err := options()
		if err != nil {
			return err
		}
		if err := install.JoinNode(c.Context(), install.Invitation{Master: args[0], Token: *token}, o); err != nil {
			return err
		}
		_, _ = fmt.Fprintln(c.OutOrStdout(), "This machine is a node now. See `kijabi status` on a master.")
		return nil
	}
	c.AddCommand(join)
	return c
}

func newReset() *cobra.Command {
	c := &cobra.Command{
		Use: "reset", Short: "Take this machine out of its cluster and remove what was installed",
		Long: `reset stops the programs and containers of this machine and removes their units,
network, configuration, certificates and data. A master is taken off the roster first.`,
		Example: `  sudo kijabi reset
  sudo kijabi reset --force   # the cluster is gone anyway`,
		Args: cobra.NoArgs,
	}
	local := c.Flags().Bool("local", false, "do not talk to the cluster")
	force := c.Flags().Bool("force", false, "go on when the cluster does not let the machine go")
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
		return install.Reset(c.Context(), install.ResetOptions{
			Layout: layout, Services: services, Progress: newProgress(), Local: *local, Force: *force,
		})
	}
	return c
}
