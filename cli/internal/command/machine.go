package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kijabi.dev/cli/internal/machine"
	"kijabi.dev/cli/internal/machine/supervisor"
	"kijabi.dev/cli/internal/output"
)

func newMachine() *cobra.Command {
	c := &cobra.Command{
		Use:   "machine",
		Short: "Make, list, kill, stop, start and enter machines on this host",
		Example: `  kijabi machine list
  kijabi machine kill master-1          # like pulling the plug
  kijabi machine start master-1         # the same disk comes back
  kijabi machine shell node-1           # a shell inside
  kijabi machine shell node-1 -- ss -ltnp
  kijabi machine logs node-1 kubelet -f
  kijabi machine restart node-1 kubelet # one program`,
	}
	name := c.PersistentFlags().String("name", defaultName, "name of the cluster on this host")
	c.AddCommand(newMachineList(name), newMachineShell(name), newMachineLogs(name), newMachineRestart(name), newMachineCreate(name),
		newPower(name, "kill", "End machines like pulling their plugs", "killed", (*machine.Fleet).Kill),
		newPower(name, "stop", "Shut machines down: programs are stopped in order", "stopped", (*machine.Fleet).Stop),
		newPower(name, "start", "Start machines that are down", "started", (*machine.Fleet).Start))
	return c
}

// openFleet opens the fleet as root.
func openFleet(name string) (*machine.Fleet, error) {
	if err := requireRoot(); err != nil {
		return nil, err
	}
	return machine.Open(machine.Root(), name)
}

func newPower(cluster *string, verb, short, done string, act func(*machine.Fleet, context.Context, string) error) *cobra.Command {
	return &cobra.Command{
		Use: verb + " NAME...", Short: short, Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, names []string) error {
			fleet, err := openFleet(*cluster)
			if err != nil {
				return err
			}
			for _, name := range names { // all or none: a misspelt name must not be found half way
				if _, err := fleet.Machine(name); err != nil {
					return err
				}
			}
			if verb == "start" {
				if err := fleet.EnsureNetwork(); err != nil { // gone after a reboot of the host
					return err
				}
			}
			ctx, cancel := context.WithTimeout(c.Context(), time.Minute)
			defer cancel()
			for _, name := range names {
				if err := act(fleet, ctx, name); err != nil {
					return err
				}
				_, _ = fmt.Fprintf(c.OutOrStdout(), "machine %s %s\n", name, done)
			}
			return nil
		},
	}
}

// machineView is a machine as `machine list -o json` prints it.
type machineView struct {
	Name    string                  `json:"name"`
	Role    machine.Role            `json:"role"`
	Address string                  `json:"address"`
	PID     int                     `json:"pid,omitempty"`
	Up      bool                    `json:"up"`
	Units   []supervisor.UnitStatus `json:"units,omitempty"`
}

func newMachineList(cluster *string) *cobra.Command {
	c := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the machines and what runs in them", Args: cobra.NoArgs,
	}
	asJSON := outputFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		wantJSON, err := asJSON()
		if err != nil {
			return err
		}
		fleet, err := openFleet(*cluster)
		if err != nil {
			return err
		}
		views := []machineView{}
		var rows [][]string
		for _, m := range fleet.State.Machines {
			view := machineView{Name: m.Name, Role: m.Role, Address: m.Address.String(), PID: fleet.PID(m.Name)}
			view.Up = view.PID != 0
			state, programs := "down", ""
			if view.Up {
				state = "up"
				ctx, cancel := context.WithTimeout(c.Context(), 2*time.Second)
				view.Units, _ = fleet.Units(ctx, m.Name) // a machine that is leaving has none
				cancel()
				programs = summary(view.Units)
			}
			views = append(views, view)
			rows = append(rows, []string{m.Name, string(m.Role), view.Address, state, pidText(view.PID), programs})
		}
		if wantJSON {
			return output.JSON(c.OutOrStdout(), views)
		}
		return output.Table(c.OutOrStdout(), []string{"NAME", "ROLE", "ADDRESS", "STATE", "PID", "PROGRAMS"}, rows)
	}
	return c
}

func pidText(pid int) string {
	if pid == 0 {
		return ""
	}
	return strconv.Itoa(pid)
}

// summary is "9 running" or names what does not run.
func summary(units []supervisor.UnitStatus) string {
	running := 0
	var others []string
	for _, unit := range units {
		if unit.State == supervisor.Running {
			running++
		} else {
			others = append(others, unit.Name+" "+string(unit.State))
		}
	}
	return strings.Join(append([]string{fmt.Sprintf("%d running", running)}, others...), ", ")
}

func newMachineShell(cluster *string) *cobra.Command {
	return &cobra.Command{
		Use: "shell NAME [-- COMMAND ARG...]", Short: "Run a shell or a command inside a machine",
		Example: `  kijabi machine shell master-1
  kijabi machine shell node-1 -- cat /etc/kijabi/kubelet.yaml`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			fleet, err := openFleet(*cluster)
			if err != nil {
				return err
			}
			argv := args[1:]
			if len(argv) == 0 {
				argv = []string{shell()}
			}
			// Signals reach the command by the terminal; it decides when to end.
			command, err := fleet.Command(context.WithoutCancel(c.Context()), args[0], argv...)
			if err != nil {
				return err
			}
			command.Stdin, command.Stdout, command.Stderr = os.Stdin, c.OutOrStdout(), c.ErrOrStderr()
			command.Env = append(os.Environ(), "PATH="+machinePath(fleet), "KIJABI_MACHINE="+args[0])
			err = command.Run()
			var failed *exec.ExitError
			if errors.As(err, &failed) {
				return exitError(failed.ExitCode())
			}
			return err
		},
	}
}

// machinePath is $PATH in a machine.
func machinePath(fleet *machine.Fleet) string {
	if fleet.State.OwnRoots { // nothing is where the host has it
		return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	return fleet.State.BinDir + ":" + os.Getenv("PATH")
}

func shell() string {
	for _, path := range []string{"/bin/bash", "/bin/sh"} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return "sh"
}

func newMachineLogs(cluster *string) *cobra.Command {
	c := &cobra.Command{
		Use: "logs NAME UNIT", Short: "Print the log of a program in a machine", Args: cobra.RangeArgs(1, 2),
		Example: `  kijabi machine logs node-1            # which units there are
  kijabi machine logs node-1 kubelet -f
  kijabi machine logs master-1 console  # process 1 of the machine`,
	}
	follow := c.Flags().BoolP("follow", "f", false, "go on as it grows")
	c.RunE = func(c *cobra.Command, args []string) error {
		fleet, err := openFleet(*cluster)
		if err != nil {
			return err
		}
		if _, err := fleet.Machine(args[0]); err != nil {
			return err
		}
		if len(args) == 1 {
			return listLogs(c.OutOrStdout(), fleet.LogDir(args[0]))
		}
		path := filepath.Join(fleet.LogDir(args[0]), filepath.Base(args[1])+".log")
		if args[1] == "console" {
			path = filepath.Join(fleet.MachineDir(args[0]), "console.log")
		}
		return printLog(c.Context(), c.OutOrStdout(), path, *follow)
	}
	return c
}

func listLogs(out io.Writer, dir string) error {
	paths, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		return err
	}
	for _, path := range paths {
		_, _ = fmt.Fprintln(out, strings.TrimSuffix(filepath.Base(path), ".log"))
	}
	return nil
}

// printLog prints a file and, when following, what is added to it. A file that was
// rotated is opened again.
func printLog(ctx context.Context, out io.Writer, path string, follow bool) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	defer func() { _ = file.Close() }()
	for {
		if _, err := io.Copy(out, file); err != nil || !follow {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(200 * time.Millisecond):
		}
		mine, err := file.Stat()
		if err != nil {
			return err
		}
		if now, err := os.Stat(path); err == nil && !os.SameFile(mine, now) {
			_ = file.Close()
			if file, err = os.Open(path); err != nil {
				return fmt.Errorf("log: %w", err)
			}
		}
	}
}

func newMachineRestart(cluster *string) *cobra.Command {
	return &cobra.Command{
		Use: "restart NAME UNIT", Short: "Restart one program in a machine", Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			fleet, err := openFleet(*cluster)
			if err != nil {
				return err
			}
			if _, err := fleet.Machine(args[0]); err != nil {
				return err
			}
			request := supervisor.Request{Command: supervisor.Restart, Unit: args[1]}
			units, err := supervisor.Call(c.Context(), fleet.Socket(args[0]), request)
			if err != nil {
				return fmt.Errorf("machine %s: %w", args[0], err)
			}
			for _, unit := range units {
				_, _ = fmt.Fprintf(c.OutOrStdout(), "%s on %s is %s\n", unit.Name, args[0], unit.State)
			}
			return nil
		},
	}
}
