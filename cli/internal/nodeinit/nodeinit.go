// Package nodeinit lets containerd and the kubelet of one machine run in two containers.
//
// What the kubelet mounts, secrets in memory for instance, containerd must see. So the
// process 1 of containerd's container lends its mount namespace over a socket in the
// machine's run directory, and that of the kubelet's container runs the kubelet in it.
// The kubelet can be restarted alone: mounts and pods belong to containerd's container.
// When that one ends its pods end with it, as in a power cut, and the kubelet is started
// anew to find out.
package nodeinit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"go.uber.org/zap"

	configv1 "kijabi.dev/platform/config/v1"
)

// Modes of the program, its one argument.
const (
	// Containerd is the container of the runtime.
	Containerd = "containerd"
	// Kubelet is the container of the kubelet.
	Kubelet = "kubelet"
	// containerdRun is the second stage of Containerd.
	containerdRun = "containerd-run"
)

// socketPath is where the container of containerd lends its mounts.
const socketPath = configv1.RunDir + "/node-init.sock"

// Run is the whole life of process 1 in one of the modes. An error, or the end of the
// program that was not asked for, ends the container with a failure, so that it is
// restarted.
func Run(mode string, log *zap.Logger) error {
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("path of this program: %w", err)
	}
	bin := filepath.Dir(program)
	switch mode {
	case Containerd:
		return becomeMachine(program)
	case containerdRun:
		return runContainerd(bin, log)
	case Kubelet:
		return runKubelet(bin, log)
	default:
		return fmt.Errorf("mode %q is unknown: use %s or %s", mode, Containerd, Kubelet)
	}
}

// requireProcessOne keeps a person from mounting things over their own machine's.
func requireProcessOne() error {
	if os.Getpid() != 1 {
		return errors.New("this is no process 1 of a container: start it by deploy/compose/docker-compose.yaml only")
	}
	return nil
}

// programPath finds the shim, runc and the CNI plugins as well.
func programPath(bin string) string { return "PATH=" + bin + ":/usr/sbin:/usr/bin:/sbin:/bin" }
