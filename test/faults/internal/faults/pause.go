package faults

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"kijabi.dev/test/faults/internal/cluster"
)

// pauses stop a leader so that another wins, and let it go on as if nothing had happened.
func pauses() []Fault {
	return []Fault{
		{
			ID: "F12/apiserver", About: "the leader's apiserver is stopped until another leads, and goes on", Hold: 500 * time.Millisecond, Limit: 10 * time.Second,
			Inject: func(_ context.Context, s Scene) (*Injection, error) { return pause(s, s.Leader, "apiserver") },
		},
		{
			ID: "F12/machine", About: "all programs of the leader's machine are stopped until another leads, and go on", Hold: 500 * time.Millisecond, Limit: 10 * time.Second,
			Inject: func(_ context.Context, s Scene) (*Injection, error) { return pause(s, s.Leader, "") },
		},
		{
			ID: "F12/components", About: "the leader's scheduler and controller-manager are stopped, its apiserver loses the leadership, and they go on",
			Hold: 500 * time.Millisecond, Limit: 10 * time.Second, Inject: leftover,
		},
		{
			ID: "F12/10s", About: "the leader's apiserver is stopped for ten seconds", Hold: 10 * time.Second, Limit: 10 * time.Second,
			Inject: func(_ context.Context, s Scene) (*Injection, error) { return pause(s, s.Leader, "apiserver") },
		},
	}
}

// suspend is a machine that is suspended: its clocks have moved on when it wakes.
func suspend() []Fault {
	return []Fault{{
		ID: "F9/suspend", About: "all programs of a follower's machine are stopped for a minute", Hold: time.Minute, Limit: 10 * time.Second, KeepsLeader: true,
		Inject: func(_ context.Context, s Scene) (*Injection, error) { return pause(s, s.follower(), "") },
	}}
}

// pause stops a program of a machine, or all.
func pause(s Scene, master, program string) (*Injection, error) {
	all, err := s.Cluster.Processes(master)
	if err != nil {
		return nil, err
	}
	var chosen []cluster.Process
	for _, p := range all {
		if program == "" || p.Name == program {
			chosen = append(chosen, p)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("no %s runs in %s", program, master)
	}
	return stop(master, chosen), signal(chosen, syscall.SIGSTOP)
}

func stop(master string, chosen []cluster.Process) *Injection {
	return &Injection{
		Victims: []string{master},
		Verify: func(context.Context) error {
			for _, p := range chosen {
				if state := p.State(); state != 'T' && state != 0 {
					return fmt.Errorf("%s (%d) of %s is not stopped but %c", p.Name, p.PID, master, state)
				}
			}
			return nil
		},
		Heal: func(context.Context) error { return signal(chosen, syscall.SIGCONT) },
	}
}

func signal(all []cluster.Process, signal syscall.Signal) error {
	var errs []error
	for _, p := range all {
		if err := p.Signal(signal); err != nil && !errors.Is(err, syscall.ESRCH) { // some end by themselves
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// leftover stops the leader's components and kills its apiserver: when they go on, they must
// not write under the epoch that they were started in.
func leftover(_ context.Context, s Scene) (*Injection, error) {
	var components []cluster.Process
	for _, name := range []string{"scheduler", "controller-manager"} {
		p, err := s.Cluster.Process(s.Leader, name)
		if err != nil {
			return nil, err
		}
		components = append(components, p)
	}
	if err := signal(components, syscall.SIGSTOP); err != nil {
		return nil, err
	}
	in := stop(s.Leader, components)
	in.Killed = []string{s.Leader}
	killed, err := killProgram(s, s.Leader, "apiserver")
	if err != nil {
		return nil, errors.Join(err, in.Heal(context.Background()))
	}
	stopped := in.Verify
	in.Verify = func(ctx context.Context) error { return errors.Join(stopped(ctx), killed.Verify(ctx)) }
	return in, nil
}
