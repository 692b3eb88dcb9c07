package install

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	configv1 "kijabi.dev/platform/config/v1"

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
	tick := time.NewTicker(quiet)
	defer tick.Stop()
	for c.serves(ctx, name) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("container %s does not end although its configuration was taken away: %w (%s)",
				c.container(name), ctx.Err(), c.LogHint(name))
		}
	}
	return nil
}

// serves says whether anybody accepts connections where the program does.
func (c *Containers) serves(ctx context.Context, name string) bool {
	if name == containerd {
		return accepts(ctx, "unix", c.Layout.containerdSocket())
	}
	var ports []int
	for _, known := range components(true) {
		if known.program == name {
			ports = append(ports, known.port)
		}
	}
	if name == apiserver {
		ports = append(ports, configv1.PortREST, configv1.PortPeer, configv1.PortEtcdPeer)
	}
	return slices.ContainsFunc(ports, func(port int) bool { return accepts(ctx, "tcp", hostPort(c.Address, port)) })
}

// accepts is false only if it is certain that nobody is there.
func accepts(ctx context.Context, network, address string) bool {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, network, address)
	if conn != nil {
		_ = conn.Close()
	}
	return !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, os.ErrNotExist)
}

// Remove does nothing: the containers stay, and wait.
func (*Containers) Remove(context.Context, []string) error { return nil }

// LogHint tells a person where a program's output is.
func (c *Containers) LogHint(name string) string { return "docker logs " + c.container(name) }

func (c *Containers) container(name string) string { return c.Machine + "-" + name }
