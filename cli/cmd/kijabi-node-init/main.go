// Command kijabi-node-init is process 1 of the two containers in which a machine of the
// compose demo runs containerd and the kubelet.
package main

import (
	"fmt"
	"os"

	"kijabi.dev/platform/logging"

	"kijabi.dev/cli/internal/nodeinit"
)

const usage = `kijabi-node-init MODE

Process 1 of a container that runs one program of a machine. MODE is

  containerd   mount cgroups, wait for containerd's configuration, run containerd, and
               lend its mounts to the kubelet's container
  kubelet      borrow the mounts of containerd's container and run the kubelet in them,
               for as long as that container lives

Both are started by deploy/compose/docker-compose.yaml; nothing else should.
`

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	if len(args) != 1 || args[0] == "-h" || args[0] == "--help" {
		fmt.Fprint(os.Stderr, usage)
		return 2
	}
	log, err := logging.New("info")
	if err == nil {
		err = nodeinit.Run(args[0], log)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "kijabi-node-init: %v\n", err)
		return 1
	}
	return 0
}
