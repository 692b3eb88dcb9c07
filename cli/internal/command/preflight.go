package command

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"kijabi.dev/cli/internal/install"
	"kijabi.dev/cli/internal/output"
	"kijabi.dev/cli/internal/preflight"
)

// ignoreFlag adds --ignore-preflight.
func ignoreFlag(c *cobra.Command) func() []string {
	list := c.Flags().String("ignore-preflight", "", "go on although these checks fail: NAME[,NAME], or all; `kijabi preflight` shows them")
	return func() []string { return install.SplitIgnore(*list) }
}

func newPreflight() *cobra.Command {
	c := &cobra.Command{
		Use: "preflight", Short: "Check whether this machine can become a member, and say how to make it so",
		Long: `preflight looks at kernel, control groups, memory, disk, network, clock and names of
this machine, and tries what it can instead of believing a version: it makes network
interfaces and packet filter rules in namespaces that it throws away, mounts an overlay,
and times 200 synced writes beside the place of the data store. It changes nothing.

Each finding is ok, a warning (it works; the consequence is named) or a failure, with the
fix below it. The exit code is 1 when something fails. master init, master join and node
join ask the same, in less than a second, before they do anything; --ignore-preflight NAME
makes them go on.

With --join the master is asked, too: whether it can be reached and how far the clocks are
apart.`,
		Example: `  sudo kijabi preflight --role master
  sudo kijabi preflight --role node --join 10.0.0.11
  sudo kijabi preflight -o json | jq -r '.findings[] | select(.level == "failure") | .fix'

  # A slow disk is known and accepted
  sudo kijabi master init --ignore-preflight disk-latency`,
		Args: cobra.NoArgs,
	}
	role := c.Flags().String("role", "node", "what the machine shall become: master or node")
	name := c.Flags().String("name", "", "name of this machine in the cluster (default: its host name)")
	address := c.Flags().String("advertise-address", "", "IP that other machines reach this one at (default: that of the default route)")
	join := c.Flags().String("join", "", "HOST or HOST:6444 of a master that it shall join through")
	ignored := ignoreFlag(c)
	asJSON := outputFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		wantJSON, err := asJSON()
		if err != nil {
			return err
		}
		if *role != "master" && *role != "node" {
			return fmt.Errorf("role %q is not known: use --role master or --role node", *role)
		}
		// Root is not asked for by sudo: not being root is a finding.
		report, err := install.Preflight(c.Context(), install.PreflightOptions{
			Layout: install.DefaultLayout(), Master: *role == "master", Name: *name, Address: *address, Join: *join, Ignore: ignored(),
		})
		if err != nil {
			return err
		}
		if wantJSON {
			err = output.JSON(c.OutOrStdout(), report)
		} else {
			err = printReport(c.OutOrStdout(), report)
		}
		if err == nil && !report.OK {
			return exitError(1)
		}
		return err
	}
	return c
}

// printReport prints the findings for people, the fix below what it fixes.
func printReport(out io.Writer, report *preflight.Report) error {
	var text strings.Builder
	fmt.Fprintf(&text, "%s as a %s, at %s\n\n", report.Name, report.Role, report.Address)
	for _, f := range report.Findings {
		level := string(f.Level)
		if f.Ignored {
			level = "ignored"
		}
		fmt.Fprintf(&text, "%-8s  %-13s  %s\n", level, f.Check, f.Text)
		if f.Fix != "" {
			fmt.Fprintf(&text, "%-8s  %-13s  fix: %s\n", "", "", f.Fix)
		}
	}
	failures, warnings := report.Count(preflight.Failure), report.Count(preflight.Warning)
	verdict := "This machine can become a " + report.Role
	if !report.OK {
		verdict = "This machine cannot become a " + report.Role + " yet"
	}
	fmt.Fprintf(&text, "\n%s: %d failures, %d warnings.\n", verdict, failures, warnings)
	_, err := io.WriteString(out, text.String())
	return err
}
