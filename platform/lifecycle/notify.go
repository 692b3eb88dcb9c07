package lifecycle

import (
	"context"
	"fmt"
	"net"
	"os"
)

// notifySocket is the variable by which systemd names the socket it listens on.
const notifySocket = "NOTIFY_SOCKET"

// NotifyReady tells the service manager that the program is ready to serve, for
// units of Type=notify. Without a service manager that listens it does nothing.
func NotifyReady(ctx context.Context) error {
	// An address that begins with @ is in the abstract namespace, which the net package
	// writes the same way.
	path := os.Getenv(notifySocket)
	if path == "" {
		return nil
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unixgram", path)
	if err != nil {
		return fmt.Errorf("notify the service manager at %s: %w", path, err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write([]byte("READY=1")); err != nil {
		return fmt.Errorf("notify the service manager at %s: %w", path, err)
	}
	return nil
}
