// Package commandline begins and ends the tools that have commands.
package commandline

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// Main runs a tool and returns its exit code. An interrupt ends the context of its
// command; an error is printed after the tool's name.
func Main(tool *cobra.Command) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := tool.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", tool.Name(), err)
		return 1
	}
	return 0
}

// Tool is a program with these commands, which leaves it to Main to print errors.
func Tool(name, short string, commands ...*cobra.Command) *cobra.Command {
	tool := &cobra.Command{Use: name, Short: short, SilenceErrors: true, SilenceUsage: true}
	tool.AddCommand(commands...)
	return tool
}

// Require marks flags of a command that must be given.
func Require(command *cobra.Command, flags ...string) {
	for _, flag := range flags {
		if err := command.MarkFlagRequired(flag); err != nil {
			panic(err) // a flag that was not declared: a typing error of ours
		}
	}
}
