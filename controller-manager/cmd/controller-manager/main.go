// Command controller-manager moves the cluster toward its spec: all control loops
// in one program, working only while this machine's master leads.
package main

import (
	"os"

	"kijabi.dev/controller-manager/internal/app"
	"kijabi.dev/platform/lifecycle"
)

func main() { os.Exit(lifecycle.Main("controller-manager", app.DefaultConfig(), app.Run)) }
