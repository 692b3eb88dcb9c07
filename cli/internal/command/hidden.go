package command

import (
	"context"
	"fmt"
	"os"
	"strconv"

	"kijabi.dev/platform/logging"

	"kijabi.dev/cli/internal/cluster"
	"kijabi.dev/cli/internal/machine"
)

// hidden runs the commands that kijabi calls itself with. They are not parsed by the
// command tree: one is process 1 of a machine, and the others must start fast.
func hidden(args []string) (code int, ran bool) {
	if len(args) < 2 {
		return 0, false
	}
	var err error
	switch args[1] {
	case machine.InitCommand:
		err = machine.Init()
	case machine.RunCommand:
		err = runMachine()
	case machine.EnterCommand:
		code, err = enter(args[2:])
	case cluster.ProbeCommand:
		err = cluster.ProbeDNS(context.Background())
	default:
		return 0, false
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "Error: "+oneLine(err))
		return 1, true
	}
	return code, true
}

func runMachine() error {
	log, err := logging.New("info")
	if err != nil {
		return err
	}
	return machine.Run(context.Background(), log)
}

// enter is: PID CGROUP -- ARGV.
func enter(args []string) (int, error) {
	if len(args) < 4 || args[2] != "--" {
		return 0, fmt.Errorf("%s is used by `kijabi machine shell` only", machine.EnterCommand)
	}
	pid, err := strconv.Atoi(args[0])
	if err != nil {
		return 0, fmt.Errorf("process id: %w", err)
	}
	return machine.Enter(pid, args[1], args[3:])
}
