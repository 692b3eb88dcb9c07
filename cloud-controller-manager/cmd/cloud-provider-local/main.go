// Command cloud-provider-local is the provider for machines without a cloud: it
// answers for the machines that joined.
package main

import (
	"os"

	"kijabi.dev/cloud-controller-manager/providers/local"
	"kijabi.dev/platform/lifecycle"
)

func main() { os.Exit(lifecycle.Main("cloud-provider-local", local.DefaultConfig(), local.Run)) }
