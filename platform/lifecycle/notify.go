package lifecycle

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"go.uber.org/zap"
)

// Variables by which systemd says where it listens and how often it wants to hear of a
// program. See sd_notify(3) and sd_watchdog_enabled(3).
const (
	notifySocket = "NOTIFY_SOCKET"
	watchdogUsec = "WATCHDOG_USEC"
	watchdogPID  = "WATCHDOG_PID"
)

// Notifier tells the service manager that the program serves, and then that it lives,
// for units of Type=notify with WatchdogSec. Where no service manager listens it does
// nothing. A program whose parts hang goes silent, and is killed and started again.
type Notifier struct {
	// Ready returns once the program serves. Required.
	Ready Task
	// Alive calls into parts of the program, each returning when its part has answered.
	// What they answer does not matter: a program that cannot serve because others are
	// away must not be restarted for it. An error says that the part did not answer.
	Alive []Task
	// Log is required.
	Log *zap.Logger
}

// Run tells until ctx ends. Failing to reach the service manager is logged and not
// returned: it will act on the silence itself.
func (n Notifier) Run(ctx context.Context) error {
	socket := os.Getenv(notifySocket)
	if socket == "" {
		return nil
	}
	if err := n.Ready(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // asked to end before it served
		}
		return err
	}
	n.tell(ctx, socket, "READY=1")
	if interval := watchdogInterval(); interval > 0 {
		n.keepAlive(ctx, socket, interval)
	}
	<-ctx.Done()
	n.tell(context.WithoutCancel(ctx), socket, "STOPPING=1")
	return nil
}

// keepAlive tells again and again that all parts have answered. Parts get half of the
// interval to answer in, and are asked again soon if they do not: on a machine that is
// short of CPU everything takes long, and to start programs again would make it worse.
func (n Notifier) keepAlive(ctx context.Context, socket string, interval time.Duration) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		if err := n.ask(ctx, interval/2); err == nil {
			n.tell(ctx, socket, "WATCHDOG=1")
			timer.Reset(interval / 4)
		} else {
			if ctx.Err() == nil {
				n.Log.Warn("a part of the program does not answer, service manager not told", zap.Error(err))
			}
			timer.Reset(interval / 20)
		}
	}
}

// ask calls every part, one after the other. A call that does not return holds up the
// next round, too, which is what the watchdog is for.
func (n Notifier) ask(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for _, part := range n.Alive {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (n Notifier) tell(ctx context.Context, socket, state string) {
	if err := notify(ctx, socket, state); err != nil {
		n.Log.Warn("service manager not told", zap.String("state", state), zap.Error(err))
	}
}

// notify sends one datagram. An address that begins with @ is in the abstract namespace,
// which the net package writes the same way.
func notify(ctx context.Context, socket, state string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unixgram", socket)
	if err != nil {
		return fmt.Errorf("notify the service manager at %s: %w", socket, err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("notify the service manager at %s: %w", socket, err)
	}
	return nil
}

// watchdogInterval is within what time the service manager wants to hear of this process;
// 0 if it does not, or wants to hear of another.
func watchdogInterval() time.Duration {
	if pid := os.Getenv(watchdogPID); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	usec, err := strconv.ParseInt(os.Getenv(watchdogUsec), 10, 64)
	if err != nil || usec <= 0 {
		return 0
	}
	return time.Duration(usec) * time.Microsecond
}
