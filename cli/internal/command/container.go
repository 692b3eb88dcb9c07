package command

import (
	"errors"
	"time"

	"github.com/spf13/cobra"

	"kijabi.dev/cli/internal/container"
	"kijabi.dev/cli/internal/install"
)

func newContainerSetup() *cobra.Command {
	c := &cobra.Command{
		Use: "container-setup", Hidden: true,
		Short: "Make a machine whose programs are containers a member of a cluster",
		Long: `container-setup is what the container MACHINE-setup of the compose demo runs, once, in
the network and with the volumes of its machine. The programs of the machine are
containers of their own that wait for their configuration; this command obtains
certificates, writes the configuration and waits until the programs are healthy, by the
same code as master init, master join and node join.

The first master founds the cluster and writes a token for each other machine into a
directory that the setups share; the others wait for theirs. A machine that is a member
is left alone, so that everything may be started again. A setup that fails says why in
one line, and is safe to try again.`,
		Example: `  kijabi container-setup found --name master-1 --advertise-address 10.90.0.11 \
    --invite-masters master-2,master-3 --invite-nodes node-1,node-2
  kijabi container-setup join master-1 --name node-1 --advertise-address 10.90.0.21 --role node`,
	}
	c.AddCommand(newContainerFound(), newContainerJoin())
	return c
}

// containerFlags adds what both commands share.
func containerFlags(c *cobra.Command) func() (*container.Machine, error) {
	name := c.Flags().String("name", "", "name of the machine (required)")
	address := c.Flags().String("advertise-address", "", "IP of the machine (required)")
	invitations := c.Flags().String("invitations", "/join", "directory that the setups of all machines share")
	timeout := c.Flags().Duration("timeout", 5*time.Minute, "give up each wait after this time")
	return func() (*container.Machine, error) {
		if *name == "" || *address == "" {
			return nil, errors.New("which machine is this? Give --name and --advertise-address")
		}
		return &container.Machine{
			Name: *name, Address: *address, Layout: install.DefaultLayout(), BinDir: defaultBin(),
			Invitations: *invitations, Timeout: *timeout, Progress: newProgress(),
		}, nil
	}
}

func newContainerFound() *cobra.Command {
	c := &cobra.Command{
		Use: "found", Short: "Found the cluster with this machine and invite the others", Args: cobra.NoArgs,
	}
	masters := c.Flags().StringSlice("invite-masters", nil, "machines that may join as masters")
	nodes := c.Flags().StringSlice("invite-nodes", nil, "machines that may join as nodes")
	machine := containerFlags(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		m, err := machine()
		if err != nil {
			return err
		}
		if err := m.Found(c.Context()); err != nil {
			return err
		}
		return m.Invite(c.Context(), *masters, *nodes)
	}
	return c
}

func newContainerJoin() *cobra.Command {
	c := &cobra.Command{
		Use: "join MASTER...", Short: "Wait for the invitation of this machine and join", Args: cobra.MinimumNArgs(1),
	}
	role := c.Flags().String("role", "", "master or node (required)")
	machine := containerFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if *role != "master" && *role != "node" {
			return errors.New("as what does this machine join? Give --role master or --role node")
		}
		m, err := machine()
		if err != nil {
			return err
		}
		return m.Join(c.Context(), *role == "master", args)
	}
	return c
}
