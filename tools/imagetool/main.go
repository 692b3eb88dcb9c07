// Command imagetool makes container images from static binaries, without a base
// image, a daemon or a network. The same input gives the same bytes. Each image carries
// labels and a bill of materials.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"kijabi.dev/tools/internal/commandline"
)

func main() { os.Exit(commandline.Main(command())) }

func command() *cobra.Command {
	return commandline.Tool("imagetool", "Make container images from static binaries", buildCommand(), buildAllCommand())
}
