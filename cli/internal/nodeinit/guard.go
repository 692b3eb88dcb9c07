package nodeinit

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// poll is how often the order to run, a file on a shared volume, is looked at.
const poll = 250 * time.Millisecond

// guard runs one program as process 1 does: it passes signals on, collects orphans, and
// ends with the program. Start and loop are called by one goroutine, which decides about
// the program's namespaces.
type guard struct {
	log *zap.Logger
	// argv and env of the program.
	argv, env []string
	// orderFile is the program's configuration: it runs while that exists. Empty means
	// always.
	orderFile string
	// lost ends the program when it is closed; nil means never.
	lost <-chan struct{}

	pid      int // 0 before the program was started
	stopping bool
}

// errLost is the end of a program whose surroundings went away.
var errLost = errors.New("containerd's container has ended: starting anew")

// asked returns the signals that ask this process to end.
func asked() <-chan os.Signal {
	stop := make(chan os.Signal, 4)
	signal.Notify(stop, unix.SIGTERM, unix.SIGINT)
	return stop
}

// loop returns when the program has ended: nil if it was asked to by a signal from stop.
func (g *guard) loop(stop <-chan os.Signal) error {
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	tick := time.NewTicker(poll)
	defer tick.Stop()
	if g.orderFile != "" && !g.ordered() {
		g.log.Info("waiting for configuration", zap.String("file", g.orderFile))
	}
	lost := g.lost
	for {
		if err := g.follow(); err != nil {
			return err
		}
		select {
		case <-children:
			if status, ended := g.reap(); ended {
				return g.ended(status)
			}
		case received := <-stop:
			if g.pid == 0 {
				return nil
			}
			g.stop(received.(syscall.Signal)) // signals of this system are
		case <-lost:
			lost = nil
			_ = unix.Kill(g.pid, unix.SIGKILL) // nothing it could still do would reach the pods
		case <-tick.C:
		}
	}
}

// follow starts the program when it is ordered, and stops it when it is not any more.
func (g *guard) follow() error {
	switch ordered := g.ordered(); {
	case ordered && g.pid == 0:
		return g.start()
	case !ordered && g.pid != 0 && !g.stopping:
		g.log.Info("configuration was taken away", zap.String("file", g.orderFile))
		g.stop(unix.SIGTERM)
	}
	return nil
}

func (g *guard) ordered() bool {
	if g.orderFile == "" {
		return true
	}
	_, err := os.Stat(g.orderFile)
	return err == nil
}

func (g *guard) stop(by syscall.Signal) {
	g.stopping = true
	_ = unix.Kill(g.pid, by)
}

// start uses the system call: os.StartProcess waits through a handle of its own, which
// collecting all children would race with.
func (g *guard) start() error {
	pid, err := syscall.ForkExec(g.argv[0], g.argv, &syscall.ProcAttr{
		Dir: "/", Env: g.env, Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", g.argv[0], err)
	}
	g.pid = pid
	g.log.Info("started", zap.Strings("program", g.argv), zap.Int("pid", pid))
	return nil
}

// reap collects every child that has ended and says whether the program was among them.
func (g *guard) reap() (status unix.WaitStatus, ended bool) {
	for {
		var got unix.WaitStatus
		pid, err := unix.Wait4(-1, &got, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return status, ended
		}
		if pid == g.pid {
			status, ended = got, true
		}
	}
}

func (g *guard) ended(status unix.WaitStatus) error {
	select {
	case <-g.lost:
		return errLost
	default:
	}
	if g.stopping && g.ordered() {
		return nil
	}
	how := "exit code " + strconv.Itoa(status.ExitStatus())
	if status.Signaled() {
		how = "killed by " + unix.SignalName(status.Signal())
	}
	return fmt.Errorf("%s has ended: %s", g.argv[0], how)
}
