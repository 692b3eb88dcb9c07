// Command apiserver is the hub of a Kijabi cluster: both doors to the objects, the
// store behind them with its etcd member, and this machine's seat among the masters.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"kijabi.dev/apiserver/internal/app"
	"kijabi.dev/platform/lifecycle"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	code, ran := app.Command(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if ran {
		return code
	}
	return lifecycle.Main("apiserver", app.DefaultConfig(), app.Run)
}
