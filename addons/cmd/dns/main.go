// Command dns answers the DNS questions of one machine and its pods.
package main

import (
	"os"

	"kijabi.dev/addons/internal/dns/app"
	"kijabi.dev/platform/lifecycle"
)

func main() { os.Exit(lifecycle.Main("dns", app.DefaultConfig(), app.Run)) }
