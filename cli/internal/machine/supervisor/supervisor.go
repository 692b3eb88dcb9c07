package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// State of a unit.
type State string

const (
	// Stopped units wait for a start.
	Stopped State = "stopped"
	// Running units have a live main process.
	Running State = "running"
	// Restarting units ended by themselves and are started again after a delay.
	Restarting State = "restarting"
	// Stopping units were told to end and have not yet.
	Stopping State = "stopping"
)

const (
	firstDelay = 100 * time.Millisecond
	lastDelay  = 5 * time.Second
	// A unit that ran this long starts over with the first delay.
	healthyAfter = 10 * time.Second
)

// Config of a Supervisor.
type Config struct {
	// UnitDir holds the unit files. It is read again on every request. Required.
	UnitDir string
	// LogDir receives <unit>.log. Required.
	LogDir string
	// CgroupDir is a directory of the unified hierarchy for one cgroup a unit; empty
	// means units are not told apart by cgroup.
	CgroupDir string
	// Sockets to answer on. The first is required.
	Sockets []string
	// ReapAll collects orphans; true as process 1.
	ReapAll bool
	// OnReady is called once when all sockets answer; may be nil.
	OnReady func()
	// Log is required.
	Log *zap.Logger
}

// Supervisor runs units. Its methods belong to the goroutine of Run.
type Supervisor struct {
	cfg      Config
	services map[string]*service
	order    []string
	requests chan func()
	down     bool // poweroff was asked for
	writers  *errgroup.Group
	notify   *net.UnixConn // nil when it could not be opened
}

// service is a unit and what became of it.
type service struct {
	unit     Unit
	state    State
	pid      int
	since    time.Time
	restarts int
	lastExit string
	delay    time.Duration
	deadline time.Time // of the restart while Restarting, of SIGKILL while Stopping
	again    bool      // start again once stopped
	output   *os.File
	stored   []stored        // in the order they came
	waiting  []chan struct{} // closed when stopped
}

// New returns a supervisor that Run starts.
func New(cfg Config) *Supervisor {
	return &Supervisor{cfg: cfg, services: map[string]*service{}, requests: make(chan func()), writers: &errgroup.Group{}}
}

// Run starts the enabled units and serves until ctx ends or a poweroff is asked for;
// then it stops all units in reverse order and returns nil.
func (s *Supervisor) Run(ctx context.Context) error {
	if err := s.reload(); err != nil {
		// A machine with one bad unit file must stay reachable.
		s.cfg.Log.Error("units not loaded", zap.Error(err))
	}
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	defer signal.Stop(children)

	serveCtx, stopServing := context.WithCancel(ctx)
	defer stopServing()
	group, groupCtx := errgroup.WithContext(serveCtx)
	for _, path := range s.cfg.Sockets {
		listener, err := listen(ctx, path)
		if err != nil {
			return err
		}
		group.Go(func() error { return s.serve(groupCtx, listener, path) })
	}
	if err := s.openNotify(); err != nil {
		s.cfg.Log.Error("units cannot store descriptors", zap.Error(err))
	} else {
		defer s.closeNotify()
		group.Go(func() error { return s.serveNotify(groupCtx) })
	}
	if s.cfg.OnReady != nil {
		s.cfg.OnReady()
	}
	group.Go(func() error {
		defer stopServing()
		return s.loop(groupCtx, children)
	})
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// loop owns all state.
func (s *Supervisor) loop(ctx context.Context, children <-chan os.Signal) error {
	for _, name := range s.order {
		if service := s.services[name]; !service.unit.Disabled {
			s.start(service)
		}
	}
	defer s.closeOutputs()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	done := ctx.Done()
	for {
		if s.down {
			done = nil
			if s.stopNext() {
				return nil
			}
		}
		timer.Reset(s.untilDeadline())
		select {
		case <-done:
			s.down = true
		case <-children:
		case request := <-s.requests:
			request()
		case <-timer.C:
		}
		s.receive() // before its sender is forgotten
		s.collect()
		s.expire(time.Now())
	}
}

// reload reads the unit files. Changes of a running unit apply at its next start.
func (s *Supervisor) reload() error {
	units, err := LoadUnits(s.cfg.UnitDir)
	if err != nil {
		return err
	}
	order := make([]string, 0, len(units))
	for _, unit := range units {
		order = append(order, unit.Name)
		if known, ok := s.services[unit.Name]; ok {
			known.unit = unit
			continue
		}
		s.services[unit.Name] = &service{unit: unit, state: Stopped, since: time.Now()}
	}
	for name, service := range s.services {
		if slices.Contains(order, name) {
			continue
		}
		if service.state == Stopped {
			s.closeOutput(service)
			s.cgroup(name).remove()
			delete(s.services, name)
		} else {
			order = append(order, name)
		}
	}
	s.order = order
	return nil
}

func (s *Supervisor) cgroup(name string) cgroup {
	if s.cfg.CgroupDir == "" {
		return ""
	}
	return cgroup(filepath.Join(s.cfg.CgroupDir, name))
}

// start starts a stopped or delayed unit.
func (s *Supervisor) start(service *service) {
	log := s.cfg.Log.With(zap.String("unit", service.unit.Name))
	if err := s.openOutput(service); err != nil {
		s.retry(service, err.Error(), log)
		return
	}
	if service.unit.KillMode != KillProcess {
		s.cgroup(service.unit.Name).kill() // leftovers of a run that crashed
	}
	service.dropAbove(service.unit.FileDescriptorStoreMax)
	pid, err := spawn(&service.unit, s.cgroup(service.unit.Name), service.output, s.storeEnv(service), service.stored)
	if err != nil {
		s.retry(service, err.Error(), log)
		return
	}
	service.pid, service.state, service.since = pid, Running, time.Now()
	log.Info("unit started", zap.Int("pid", pid))
}

func (s *Supervisor) retry(service *service, cause string, log *zap.Logger) {
	if time.Since(service.since) > healthyAfter && service.state == Running {
		service.delay = 0
	}
	service.delay = min(max(2*service.delay, firstDelay), lastDelay)
	service.state, service.pid, service.lastExit = Restarting, 0, cause
	service.since, service.deadline = time.Now(), time.Now().Add(service.delay)
	service.restarts++
	log.Warn("unit ended, starting again", zap.String("cause", cause), zap.Duration("delay", service.delay))
}

// stop asks a unit to end; the channel closes when it has.
func (s *Supervisor) stop(service *service) <-chan struct{} {
	done := make(chan struct{})
	switch service.state {
	case Stopped:
		close(done)
		return done
	case Restarting:
		s.stopped(service)
		close(done)
		return done
	case Running:
		service.state = Stopping
		service.deadline = time.Now().Add(service.unit.stopTimeout())
		_ = unix.Kill(service.pid, stopSignals()[service.unit.StopSignal])
	case Stopping:
	}
	service.waiting = append(service.waiting, done)
	return done
}

// stopped ends a unit's life.
func (s *Supervisor) stopped(service *service) {
	if service.unit.KillMode != KillProcess {
		s.cgroup(service.unit.Name).kill()
	}
	service.state, service.pid, service.delay, service.since = Stopped, 0, 0, time.Now()
	for _, done := range service.waiting {
		close(done)
	}
	service.waiting = nil
	if service.again && !s.down {
		service.again = false
		s.start(service)
	} else {
		service.dropAbove(0)
	}
}

// collect handles processes that ended.
func (s *Supervisor) collect() {
	byPID := map[int]*service{}
	pids := make([]int, 0, len(s.services))
	for _, service := range s.services {
		if service.pid > 0 {
			byPID[service.pid] = service
			pids = append(pids, service.pid)
		}
	}
	for _, ended := range reap(s.cfg.ReapAll, pids) {
		service, ours := byPID[ended.pid]
		if !ours {
			continue // an orphan
		}
		service.lastExit = exitText(ended.status)
		if service.state == Stopping {
			s.stopped(service)
			continue
		}
		s.retry(service, service.lastExit, s.cfg.Log.With(zap.String("unit", service.unit.Name)))
	}
}

// expire acts on deadlines that have passed.
func (s *Supervisor) expire(now time.Time) {
	for _, service := range s.services {
		if service.deadline.IsZero() || now.Before(service.deadline) {
			continue
		}
		switch service.state {
		case Restarting:
			service.deadline = time.Time{}
			if !s.down {
				s.start(service)
			}
		case Stopping:
			_ = unix.Kill(service.pid, unix.SIGKILL)
			service.deadline = now.Add(time.Second)
		case Stopped, Running:
			service.deadline = time.Time{}
		}
	}
}

func (s *Supervisor) untilDeadline() time.Duration {
	next := time.Hour
	for _, service := range s.services {
		if !service.deadline.IsZero() {
			next = min(next, time.Until(service.deadline))
		}
	}
	return max(next, time.Millisecond)
}

// stopNext stops units one by one in reverse order and reports whether all have
// stopped.
func (s *Supervisor) stopNext() bool {
	for _, name := range slices.Backward(s.order) {
		service := s.services[name]
		if service.state != Stopped {
			s.stop(service)
		}
		if service.state != Stopped {
			return false
		}
	}
	return true
}

// openOutput makes the pipe between a unit and its log file. It lives as long as the
// supervisor knows the unit, since containers may hold the other end over restarts.
func (s *Supervisor) openOutput(service *service) error {
	if service.output != nil {
		return nil
	}
	file, err := openLog(filepath.Join(s.cfg.LogDir, service.unit.Name+".log"), service.unit.LogMaxBytes)
	if err != nil {
		return err
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		_ = file.Close()
		return fmt.Errorf("log pipe: %w", err)
	}
	service.output = writer
	s.writers.Go(func() error {
		defer func() { _, _ = reader.Close(), file.Close() }()
		_, err := io.Copy(struct{ io.Writer }{file}, reader)
		return err
	})
	return nil
}

func (s *Supervisor) closeOutput(service *service) {
	if service.output != nil {
		_ = service.output.Close()
		service.output = nil
	}
}

// closeOutputs lets the log writers end. Those whose other end a container still
// holds are not waited for: the machine is about to end them.
func (s *Supervisor) closeOutputs() {
	for _, service := range s.services {
		s.closeOutput(service)
	}
}
