// Command kube-proxy turns the cluster's Services into packet rules on one machine.
package main

import (
	"fmt"
	"os"
	"slices"

	"kijabi.dev/kube-proxy/internal/app"
	"kijabi.dev/platform/lifecycle"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	// Not among the documented flags: `kijabi reset` calls it, nobody else should.
	if slices.Contains(args, "--cleanup") {
		if err := app.Cleanup(); err != nil {
			_, _ = fmt.Fprintf(os.Stderr, "kube-proxy: %v\n", err)
			return 1
		}
		return 0
	}
	return lifecycle.Main("kube-proxy", app.DefaultConfig(), app.Run)
}
