// Package command holds the commands of `kijabi`: their flags, help and output. What
// they do lives in the packages beside it.
package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"kijabi.dev/platform/lifecycle"

	"kijabi.dev/cli/internal/access"
	"kijabi.dev/cli/internal/output"
)

// exitError ends the program with a code and without a message of its own.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// Main runs the command line and returns the exit code.
func Main(args []string) int {
	if code, ran := hidden(args); ran {
		return code
	}
	if len(args) > 1 && args[1] == "kubectl" {
		return kubectl(args)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newRoot()
	root.SetArgs(args[1:])
	err := root.ExecuteContext(ctx)
	var exit exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return int(exit)
	default:
		fmt.Fprintln(os.Stderr, "Error: "+oneLine(err))
		return 1
	}
}

// oneLine keeps an error readable in one line.
func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "kijabi",
		Short: "Run Kubernetes clusters made of small gRPC services",
		Long: `kijabi starts a Kijabi cluster on this host, makes machines members of a cluster,
shows how a cluster is doing, and is its kubectl.`,
		Example: `  # A cluster of 3 masters and 2 nodes on this Linux host, and the end of it
  kijabi up
  kijabi status
  kijabi kubectl get nodes
  kijabi down

  # A cluster of virtual machines
  vm1$ sudo kijabi master init
  vm2$ sudo kijabi master join vm1 --token kijabi.m.…
  vm4$ sudo kijabi node join vm1 --token kijabi.n.…

  # The same over SSH, for all machines that a file names
  kijabi deploy hosts.yaml`,
		Version: lifecycle.Version(), SilenceUsage: true, SilenceErrors: true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddGroup(
		&cobra.Group{ID: "host", Title: "A cluster on this host:"},
		&cobra.Group{ID: "member", Title: "This machine as a member:"},
		&cobra.Group{ID: "operate", Title: "Any cluster:"},
	)
	grouped := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	grouped("host", newUp(), newDown(), newMachine(), newImage(), newCompose())
	grouped("member", newMaster(), newNode(), newReset(), newRecover())
	grouped("member", newPreflight(), newSupportBundle(), newBundle())
	root.AddCommand(newContainerSetup())
	grouped("operate", newDeploy(), newStatus(), newControllers(), newLeader(), newSnapshot(), newToken(), newRestart(), newKubectl(), newCredential())
	return root
}

// newProgress prints to stderr, so that results can be piped.
func newProgress() *output.Progress {
	if os.Getenv("KIJABI_PROGRESS") == "lines" {
		return output.NewLineProgress(os.Stderr)
	}
	return output.NewProgress(os.Stderr)
}

// defaultBin is the directory of this program.
func defaultBin() string {
	program, err := os.Executable()
	if err != nil {
		return ""
	}
	return filepath.Dir(program)
}

// absolute makes a directory given on the command line independent of where we are.
func absolute(dir string) (string, error) {
	if dir == "" {
		return defaultBin(), nil
	}
	path, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("directory %q: %w", dir, err)
	}
	return filepath.EvalSymlinks(path)
}

// requireRoot continues as root: by sudo, if this process is not root already.
func requireRoot() error {
	if os.Geteuid() == 0 {
		return nil
	}
	what := "kijabi " + strings.Join(os.Args[1:min(len(os.Args), 2)], " ")
	sudo, err := lookPath("sudo")
	if err != nil {
		return fmt.Errorf("%s needs root (it makes namespaces, mounts and network interfaces), and there is neither root nor sudo: run it as root or install sudo", what)
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("path of this program: %w", err)
	}
	args := []string{"sudo", "--preserve-env=KIJABI_STATE,KIJABI_ACCESS,KIJABI_PROGRESS"}
	if !isTerminal(os.Stdin) {
		args = append(args, "--non-interactive") // nobody is there to type a password
	}
	args = append(append(args, "--", program), os.Args[1:]...)
	return fmt.Errorf("continue with sudo: %w", syscall.Exec(sudo, args, os.Environ()))
}

// lookPath finds a program in $PATH and where system administration programs are.
func lookPath(name string) (string, error) {
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/bin", "/bin", "/usr/sbin", "/sbin") {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", os.ErrNotExist
}

func isTerminal(file *os.File) bool {
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}

// clusterFlag adds --cluster and returns a function that finds the access.
func clusterFlag(c *cobra.Command) func() (*access.Access, error) {
	name := c.Flags().String("cluster", "", "name of the cluster, if several are known")
	return func() (*access.Access, error) { return access.Find(*name) }
}

// outputFlag adds -o and returns whether JSON is wanted.
func outputFlag(c *cobra.Command) func() (bool, error) {
	format := c.Flags().StringP("output", "o", "", "json, or nothing for people")
	return func() (bool, error) {
		switch *format {
		case "":
			return false, nil
		case "json":
			return true, nil
		default:
			return false, fmt.Errorf("output format %q is not known: use -o json", *format)
		}
	}
}
