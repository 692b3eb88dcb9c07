// Command cloud-controller-manager keeps what the cluster and its cloud know of
// each other in step, through a provider, while this machine's master leads.
package main

import (
	"os"

	"kijabi.dev/cloud-controller-manager/internal/app"
	"kijabi.dev/platform/lifecycle"
)

func main() {
	os.Exit(lifecycle.Main("cloud-controller-manager", app.DefaultConfig(), app.Run))
}
