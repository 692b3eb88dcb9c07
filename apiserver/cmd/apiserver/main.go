// Command apiserver is the hub of a Kijabi cluster: both doors to the objects, the
// store behind them with its etcd member, and this machine's seat among the masters.
package main

import (
	"os"

	"kijabi.dev/apiserver/internal/app"
	"kijabi.dev/platform/lifecycle"
)

func main() { os.Exit(lifecycle.Main("apiserver", app.DefaultConfig(), app.Run)) }
