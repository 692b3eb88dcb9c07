// Command kubelet makes one machine run the pods that are bound to it.
package main

import (
	"os"

	"kijabi.dev/kubelet/internal/app"
	"kijabi.dev/platform/lifecycle"
)

func main() { os.Exit(lifecycle.Main("kubelet", app.DefaultConfig(), app.Run)) }
