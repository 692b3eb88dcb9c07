// Command network-agent connects the pods of one machine with those of the others.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"slices"

	"kijabi.dev/addons/internal/network/app"
	"kijabi.dev/platform/lifecycle"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	// Not among the documented flags: `kijabi reset` calls it, nobody else should.
	if slices.Contains(args, "--cleanup") {
		flags := flag.NewFlagSet("network-agent", flag.ContinueOnError)
		flags.SetOutput(io.Discard)
		_ = flags.Bool("cleanup", true, "remove whatever the agent made on this machine")
		dir := flags.String("cni-config-dir", app.DefaultCNIConfigDir, "where the network configuration was written")
		err := flags.Parse(args)
		if err == nil {
			err = app.Cleanup(*dir)
		}
		if err != nil {
			_, _ = fmt.Fprintf(os.Stderr, "network-agent: %v\n", err)
			return 1
		}
		return 0
	}
	return lifecycle.Main("network-agent", app.DefaultConfig(), app.Run)
}
