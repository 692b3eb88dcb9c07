// Command toolbox holds the small programs that tests and troubleshooting need
// inside a pod, in one static binary: an image of it needs no shell and no base.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// command is one of the toolbox's programs. It writes to out and returns when done
// or when ctx ends.
type command struct {
	name, usage, help string
	run               func(ctx context.Context, args []string, out io.Writer) error
}

func commands() []command {
	return []command{
		{"sleep", "[DURATION]", "wait, for ever by default; SIGTERM ends it well", sleep},
		{"get", "[flags] URL", "request a URL, once or again and again; fails if any request does", get},
		{"nslookup", "[flags] NAME", "resolve a name by the pod's resolver or a given server", nslookup},
		{"tcp-echo", "[ADDRESS]", "send back what comes in, on :7 by default", tcpEcho},
		{"tcp-send", "ADDRESS TEXT", "send a line and print the answer", tcpSend},
		{"cat", "FILE...", "print files", cat},
		{"ls", "[PATH...]", "list directories with mode, size and name", ls},
		{"write", "FILE TEXT", "write a line into a file", write},
		{"env", "[NAME...]", "print the environment, or some of it", env},
		{"hostname", "", "print the host name", hostname},
		{"echo", "TEXT...", "print a line", echo},
		{"exit", "CODE", "end with this exit status", exit},
		{"memory", "SIZE", "allocate and touch memory, such as 64Mi, then wait", memory},
	}
}

// statusError ends the program with a chosen status and without a message.
type statusError int

// Error names the status.
func (e statusError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

func run(ctx context.Context, args []string, out, complaints io.Writer) int {
	if len(args) == 0 || args[0] == "help" || args[0] == "-h" || args[0] == "--help" {
		usage(complaints)
		return 2
	}
	for _, c := range commands() {
		if c.name != args[0] {
			continue
		}
		err := c.run(ctx, args[1:], out)
		var status statusError
		switch {
		case err == nil:
			return 0
		case errors.As(err, &status):
			return int(status)
		case errors.Is(err, flag.ErrHelp):
			_, _ = fmt.Fprintf(complaints, "usage: toolbox %s %s\n", c.name, c.usage)
			return 2
		default:
			_, _ = fmt.Fprintf(complaints, "toolbox %s: %v\n", c.name, err)
			return 1
		}
	}
	_, _ = fmt.Fprintf(complaints, "toolbox: there is no %q; 'toolbox help' lists what there is\n", args[0])
	return 2
}

func usage(out io.Writer) {
	var text strings.Builder
	text.WriteString("usage: toolbox COMMAND [ARGUMENT...]\n\n")
	for _, c := range commands() {
		fmt.Fprintf(&text, "  %-26s %s\n", strings.TrimSpace(c.name+" "+c.usage), c.help)
	}
	_, _ = io.WriteString(out, text.String())
}

// count refuses a wrong number of arguments; most less than 0 means any number.
func count(args []string, least, most int) error {
	if len(args) < least || (most >= 0 && len(args) > most) {
		return flag.ErrHelp
	}
	return nil
}
