package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
)

// Command names a request.
type Command string

// The commands of the control socket.
const (
	// List returns every unit.
	List Command = "list"
	// Status returns one unit.
	Status Command = "status"
	// Start starts a unit; nothing happens to one that runs.
	Start Command = "start"
	// Stop stops a unit and answers when it has ended.
	Stop Command = "stop"
	// Restart stops and starts a unit.
	Restart Command = "restart"
	// Poweroff stops all units in reverse order and ends the machine.
	Poweroff Command = "poweroff"
)

// Request is one JSON value sent to the control socket.
type Request struct {
	// Command to run. Required.
	Command Command `json:"command"`
	// Unit is required by Status, Start, Stop and Restart.
	Unit string `json:"unit,omitempty"`
}

// Response is the one JSON value answered.
type Response struct {
	// Error is empty on success.
	Error string `json:"error,omitempty"`
	// Units asked for.
	Units []UnitStatus `json:"units,omitempty"`
}

// UnitStatus describes a unit.
type UnitStatus struct {
	// Name of the unit.
	Name string `json:"name"`
	// State it is in.
	State State `json:"state"`
	// PID of the main process in the machine, 0 when there is none.
	PID int `json:"pid,omitempty"`
	// Since is when the state began.
	Since time.Time `json:"since"`
	// Restarts counts ends that were not asked for.
	Restarts int `json:"restarts"`
	// LastExit tells how the last run ended.
	LastExit string `json:"lastExit,omitempty"`
}

const requestTimeout = 2 * time.Minute

// listen opens a control socket that only root may use.
func listen(ctx context.Context, path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	address, release, err := shortPath(path)
	if err != nil {
		return nil, err
	}
	defer release()
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", address)
	if err != nil {
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = listener.Close()
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return listener, nil
}

// serve answers requests on a socket until ctx ends.
func (s *Supervisor) serve(ctx context.Context, listener net.Listener, path string) error {
	defer func() { _ = os.Remove(path) }()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		<-ctx.Done()
		return listener.Close()
	})
	group.Go(func() error {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return errors.Join(ctx.Err(), ignoreClosed(err))
			}
			group.Go(func() error {
				s.answer(ctx, conn)
				return nil
			})
		}
	})
	return group.Wait()
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// answer serves one request. A broken connection concerns its client only.
func (s *Supervisor) answer(ctx context.Context, conn net.Conn) {
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(requestTimeout))
	// A client that says nothing must not hold up the end; an answer still goes out.
	defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Now()) })()
	var request Request
	if err := json.NewDecoder(conn).Decode(&request); err != nil {
		_ = json.NewEncoder(conn).Encode(Response{Error: fmt.Sprintf("request: %v", err)})
		return
	}
	units, err := s.handle(ctx, request)
	response := Response{Units: units}
	if err != nil {
		response.Error = err.Error()
	}
	_ = json.NewEncoder(conn).Encode(response)
}

// handle runs a request in the loop and waits for the end of a stop.
func (s *Supervisor) handle(ctx context.Context, request Request) ([]UnitStatus, error) {
	var units []UnitStatus
	var wait <-chan struct{}
	if err := s.do(ctx, func() (err error) {
		wait, err = s.apply(request)
		if err == nil {
			units = s.describe(request.Unit)
		}
		return err
	}); err != nil || wait == nil {
		return units, err
	}
	select {
	case <-wait:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	err := s.do(ctx, func() error {
		units = s.describe(request.Unit)
		return nil
	})
	return units, err
}

// do runs fn in the loop.
func (s *Supervisor) do(ctx context.Context, fn func() error) error {
	result := make(chan error, 1)
	select {
	case s.requests <- func() { result <- fn() }:
		return <-result
	case <-ctx.Done():
		return errors.New("the machine is stopping")
	}
}

func (s *Supervisor) apply(request Request) (<-chan struct{}, error) {
	if err := s.reload(); err != nil {
		return nil, err
	}
	switch request.Command {
	case List:
		return nil, nil
	case Poweroff:
		s.down = true
		return nil, nil
	case Status, Start, Stop, Restart:
	default:
		return nil, fmt.Errorf("command %q is not known: use list, status, start, stop, restart or poweroff", request.Command)
	}
	service, ok := s.services[request.Unit]
	if !ok {
		return nil, fmt.Errorf("unit %q does not exist in %s", request.Unit, s.cfg.UnitDir)
	}
	switch request.Command {
	case Start:
		s.startOrQueue(service)
	case Stop:
		service.again = false
		return s.stop(service), nil
	case Restart:
		if service.state == Running || service.state == Stopping {
			service.again = true
			return s.stop(service), nil
		}
		s.startOrQueue(service)
	case List, Status, Poweroff:
	}
	return nil, nil
}

func (s *Supervisor) startOrQueue(service *service) {
	switch service.state {
	case Stopped, Restarting:
		service.deadline = time.Time{}
		s.start(service)
	case Stopping:
		service.again = true
	case Running:
	}
}

func (s *Supervisor) describe(name string) []UnitStatus {
	var units []UnitStatus
	for _, known := range s.order {
		if name != "" && name != known {
			continue
		}
		service := s.services[known]
		units = append(units, UnitStatus{
			Name: known, State: service.state, PID: service.pid, Since: service.since,
			Restarts: service.restarts, LastExit: service.lastExit,
		})
	}
	return units
}

// Call sends a request to a control socket and returns the units of its answer.
func Call(ctx context.Context, path string, request Request) ([]UnitStatus, error) {
	address, release, err := shortPath(path)
	if err != nil {
		return nil, err
	}
	defer release()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", address)
	if err != nil {
		return nil, fmt.Errorf("supervisor at %s: %w", path, err)
	}
	defer func() { _ = conn.Close() }()
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(requestTimeout)
	}
	_ = conn.SetDeadline(deadline)
	if err := json.NewEncoder(conn).Encode(request); err != nil {
		return nil, fmt.Errorf("supervisor at %s: %w", path, err)
	}
	var response Response
	if err := json.NewDecoder(conn).Decode(&response); err != nil {
		return nil, fmt.Errorf("supervisor at %s: %w", path, err)
	}
	if response.Error != "" {
		return nil, errors.New(response.Error)
	}
	return response.Units, nil
}

// shortPath returns an address for a socket path longer than the kernel takes: the
// same file seen through an open directory.
func shortPath(path string) (string, func(), error) {
	const longest = 100
	if len(path) <= longest {
		return path, func() {}, nil
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return "", nil, fmt.Errorf("socket directory: %w", err)
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)), func() { _ = dir.Close() }, nil
}
