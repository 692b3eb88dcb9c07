package command

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"kijabi.dev/cli/internal/access"
	"kijabi.dev/cli/internal/deploy"
	"kijabi.dev/cli/internal/output"
	"kijabi.dev/cli/internal/remote"
)

// deployFlags of `kijabi deploy`.
type deployFlags struct {
	yes, planOnly, prune, acceptNew bool
	knownHosts, ignorePreflight     string
}

func newDeploy() *cobra.Command {
	c := &cobra.Command{
		Use:   "deploy HOSTS.YAML",
		Short: "Make the machines that a file names into a cluster, over SSH",
		Long: `deploy logs in to every machine of the file, finds out what it is, shows what it is
going to do, and does it when you agree: it puts the programs of the bundle into
/opt/kijabi-VERSION, runs "kijabi master init" on the first master, "kijabi master join"
on the others one by one, and "kijabi node join" on the nodes. At the end it writes your
access and kubeconfig to ~/.kijabi.

It can be run again at any time: only what differs from the file is done, and a run that
was cut off is continued. A machine that fails is left as it was and stops no other.
Machines of the cluster that are not in the file are taken out with --prune: a node is
drained and reset, a master is taken off the roster first, and only while the others keep
a majority. Programs that run are never replaced.

Logging in is by key: one that keyFile names, else those of the agent and of ~/.ssh. Host
keys must be in known_hosts, or --accept-new adds those of machines that are new to you.
A user other than root needs sudo without a password.

The file:

  apiVersion: kijabi.dev/v1
  kind: Hosts
  cluster: home                      # its name on this computer
  bundle: kijabi-0.1-linux-amd64.tar.gz   # of "make bundle"; or a directory of them
  defaults: {user: root, keyFile: ~/.ssh/id_ed25519}
  hosts:                             # 1, 3 or 5 of role master
  - {name: vm1, address: 192.0.2.11, role: master}
  - {name: vm2, address: 192.0.2.12, role: master, advertiseAddress: 10.0.0.12}
  - {name: vm3, address: "vm3.example:2222", role: master, schedulable: true}
  - {name: vm4, address: 192.0.2.14, role: node, user: debian, labels: {disk: ssd}}`,
		Example: `  kijabi deploy hosts.yaml --plan        # show what would be done
  kijabi deploy hosts.yaml               # show it, ask, do it
  kijabi deploy hosts.yaml --yes --prune # without asking; take out what is not in the file`,
		Args: cobra.ExactArgs(1),
	}
	var flags deployFlags
	c.Flags().BoolVarP(&flags.yes, "yes", "y", false, "do not ask")
	c.Flags().BoolVar(&flags.planOnly, "plan", false, "show the plan and stop")
	c.Flags().BoolVar(&flags.prune, "prune", false, "take machines out of the cluster that are not in the file")
	c.Flags().BoolVar(&flags.acceptNew, "accept-new", false, "add host keys that are not known to known_hosts")
	c.Flags().StringVar(&flags.knownHosts, "known-hosts", "", "file of host keys (default ~/.ssh/known_hosts)")
	c.Flags().StringVar(&flags.ignorePreflight, "ignore-preflight", "", "go on although these checks of a machine fail: NAME[,NAME], or all")
	c.RunE = func(c *cobra.Command, args []string) error { return runDeploy(c, args[0], flags) }
	return c
}

func runDeploy(c *cobra.Command, path string, flags deployFlags) error {
	hosts, err := deploy.Load(path)
	if err != nil {
		return err
	}
	options, err := deployOptions(hosts, flags)
	if err != nil {
		return err
	}
	deployment, err := deploy.Prepare(c.Context(), options)
	if err != nil {
		return err
	}
	defer deployment.Close()
	plan := deployment.Plan
	if err := printPlan(c.OutOrStdout(), hosts.Cluster, plan); err != nil {
		return err
	}
	if flags.planOnly {
		return outcome(plan.Faults(), len(plan.Hosts))
	}
	if plan.Changes() && !flags.yes {
		if err := confirm(c.Context(), c.OutOrStdout()); err != nil {
			return err
		}
	}
	results, err := deployment.Apply(c.Context())
	var failed []string
	for _, result := range results {
		if result.Err != nil {
			failed = append(failed, fmt.Sprintf("%s: %v", result.Name, result.Err))
		}
	}
	if err != nil {
		failed = append(failed, fmt.Sprintf("your access to the cluster: %v", err))
	}
	if err := outcome(failed, len(results)); err != nil {
		return err
	}
	options.Progress.Say("cluster %q is as the file wants it: %d machines", hosts.Cluster, len(hosts.Hosts))
	deployed(options.Home.Kubeconfig(), deployment.Access())
	return nil
}

// outcome is nil when nothing has failed.
func outcome(failed []string, of int) error {
	if len(failed) == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d machines are not as the file wants them: %s; correct that and run this again: what is done stays done",
		len(failed), of, strings.Join(failed, "; "))
}

func deployOptions(hosts *deploy.Hosts, flags deployFlags) (deploy.Options, error) {
	home, err := access.Home()
	if err != nil {
		return deploy.Options{}, err
	}
	program, err := os.Executable()
	if err != nil {
		return deploy.Options{}, fmt.Errorf("path of this program: %w", err)
	}
	files := []string{flags.knownHosts}
	if flags.knownHosts == "" {
		user, err := os.UserHomeDir()
		if err != nil {
			return deploy.Options{}, fmt.Errorf("home directory: %w", err)
		}
		files = []string{filepath.Join(user, ".ssh", "known_hosts"), "/etc/ssh/ssh_known_hosts"}
	}
	progress := newProgress()
	trust, err := remote.OpenTrust(remote.TrustConfig{
		Files: files, AcceptNew: flags.acceptNew,
		Accepted: func(name, fingerprint string) { progress.Say("%s: new host key %s accepted", name, fingerprint) },
	})
	if err != nil {
		return deploy.Options{}, err
	}
	return deploy.Options{
		Hosts: hosts, Home: home, Program: program, Trust: trust, Progress: progress,
		Prune: flags.prune, IgnorePreflight: flags.ignorePreflight,
	}, nil
}

func printPlan(out io.Writer, cluster string, plan *deploy.Plan) error {
	_, _ = fmt.Fprintf(out, "Plan for cluster %q, programs %s:\n\n", cluster, plan.Version)
	var rows [][]string
	for _, h := range plan.Hosts {
		rows = append(rows, []string{h.Host.Name, h.Host.Address, string(h.Host.Role), h.Text()})
	}
	if err := output.Table(out, []string{"HOST", "SSH", "ROLE", "PLAN"}, rows); err != nil {
		return err
	}
	_, err := fmt.Fprintln(out)
	return err
}

// confirm asks on the terminal. Without one it refuses.
func confirm(ctx context.Context, out io.Writer) error {
	if !isTerminal(os.Stdin) {
		return errors.New("nothing was done: there is no terminal to ask on; agree to the plan with --yes")
	}
	_, _ = fmt.Fprint(out, "Do this? [y/N] ")
	answers := make(chan string, 1)
	//nolint:forbidigo // ends with the process; reading a terminal cannot be interrupted
	go func() {
		text, _ := bufio.NewReader(os.Stdin).ReadString('\n')
		answers <- strings.ToLower(strings.TrimSpace(text))
	}()
	select {
	case answer := <-answers:
		if answer == "y" || answer == "yes" {
			return nil
		}
		return errors.New("nothing was done: you did not agree to the plan")
	case <-ctx.Done():
		return fmt.Errorf("nothing was done: %w", ctx.Err())
	}
}

func deployed(kubeconfig string, user *access.Access) {
	_, _ = fmt.Fprintf(os.Stdout, `
kubeconfig: %[1]s

Next:
  kijabi status --cluster %[2]s      who leads, who is Ready
  kijabi kubectl get nodes          kubectl, built in
  export KUBECONFIG=%[1]s
  change the file and run this again: only what differs is done
`, kubeconfig, user.Cluster.Name)
}
