// Command kijabi starts, joins, watches and operates clusters.
package main

import (
	"os"

	"kijabi.dev/cli/internal/command"
)

func main() { os.Exit(command.Main(os.Args)) }
