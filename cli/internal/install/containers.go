package install

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"kijabi.dev/cli/internal/machine/supervisor"
)

// Containers is the service manager of a machine whose programs are containers. They
// were started before the machine was installed and wait for their configuration: that
// file is the order to run.
type Containers struct {
	// Layout of the machine's files. Required.
	Layout Layout
	// Machine is its name, which begins those of the containers. Required.
	Machine string
	// Address that the programs listen on. Required.
	Address string
}

var _ Services = (*Containers)(nil)

// Install does nothing: the container engine knows the programs.
func (*Containers) Install(context.Context, []supervisor.Unit) error { return nil }

// Start does nothing: the program runs as soon as its configuration is there.
func (*Containers) Start(context.Context, string) error { return nil }

// quiet is how often a program that is to end is looked at.
const quiet = 50 * time.Millisecond

// Stop takes the program's configuration away and waits until nobody serves in its
// place. The engine starts the container again, which then waits.
func (c *Containers) Stop(ctx context.Context, name string) error {
	if err := os.Remove(c.Layout.config(name)); errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("stop %s: %w", name, err)
	}
	network, address := "unix", c.Layout.containerdSocket()
	for _, known := range components(true) {
		if known.program == name && known.port != 0 {
			network, address = "tcp", hostPort(c.Address, known.port)
		}
	}
	tick := time.NewTicker(quiet)
	defer tick.Stop()
	for {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, network, address)
		if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if conn != nil {
			_ = conn.Close()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("container %s does not end although its configuration was taken away: %w (%s)",
				c.container(name), ctx.Err(), c.LogHint(name))
		}
	}
}

// Remove does nothing: the containers stay, and wait.
func (*Containers) Remove(context.Context, []string) error { return nil }

// LogHint tells a person where a program's output is.
func (c *Containers) LogHint(name string) string { return "docker logs " + c.container(name) }

func (c *Containers) container(name string) string { return c.Machine + "-" + name }
