// Command bench measures a real cluster and prints one table, each figure beside
// the floor measured in the same run. It needs root and the programs in bin/.
//
//	make bench                     everything
//	go run ./bench -only lists     one part: up requests lists memory watch pods idle failover recovery spares vip loops loops-failover
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// part is one measurement.
type part struct {
	name string
	run  func(ctx context.Context, b *bench) error
}

// parts in the order in which they run; each starts the cluster it needs.
var parts = []part{
	{"up", measureUp},
	{"requests", measureRequests},
	{"lists", measureLists},
	{"memory", measureMemory},
	{"watch", measureWatch},
	{"pods", measurePods},
	{"idle", measureIdle},
	{"failover", measureFailover},
	{"recovery", measureRecovery},
	{"spares", measureSpares},
	{"vip", measureVIP},
	{"loops", measureLoops},
	{"loops-failover", measureLoopsFailover},
}

// bench is what the parts share.
type bench struct {
	bin    string // directory of the programs
	source string // root of the repository
	home   string // kept apart from the user's
	table  table
}

func main() {
	do := run
	if len(os.Args) > 1 {
		switch os.Args[1] { // what the benchmarks themselves start
		case "cri-floor": // inside a machine, see pods.go
			do = func() error { return criFloor(os.Args[2:]) }
		case httpFloorCommand:
			do = serveFloor
		}
	}
	if err := do(); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run() error {
	only := flag.String("only", "", "comma-separated parts to run; all if empty")
	flag.Parse()
	if os.Geteuid() != 0 {
		return errors.New("the benchmarks start machines and need root: run them by `make bench`")
	}
	bin := os.Getenv("KIJABI_BIN")
	if bin == "" {
		return errors.New("KIJABI_BIN is not set: run the benchmarks by `make bench`")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	home, err := os.MkdirTemp("", "kijabi-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(home) }()
	workspace, err := exec.CommandContext(ctx, "go", "env", "GOWORK").Output()
	if err != nil {
		return fmt.Errorf("find the repository: %w", err)
	}
	b := &bench{bin: bin, source: filepath.Dir(string(bytes.TrimSpace(workspace))), home: home}
	chosen := strings.Split(*only, ",")
	for _, p := range parts {
		if *only != "" && !slices.Contains(chosen, p.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "bench: %s\n", p.name)
		began := time.Now()
		if err := p.run(ctx, b); err != nil {
			b.table.print(os.Stdout) // what was measured before is worth as much
			return fmt.Errorf("%s: %w", p.name, err)
		}
		fmt.Fprintf(os.Stderr, "bench: %s took %s\n", p.name, time.Since(began).Round(time.Second))
	}
	b.table.print(os.Stdout)
	return nil
}
