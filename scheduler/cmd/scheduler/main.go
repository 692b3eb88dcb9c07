// Command scheduler assigns pending pods to nodes while this machine's master leads.
package main

import (
	"os"

	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/scheduler/internal/app"
)

func main() { os.Exit(lifecycle.Main("scheduler", app.DefaultConfig(), app.Run)) }
