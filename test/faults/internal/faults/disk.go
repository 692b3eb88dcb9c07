package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"kijabi.dev/test/faults/internal/cluster"
)

// hung is longer than any fault lasts.
const hung = 10 * time.Minute

// slowDisk delays what syncs a file, of one master's apiserver. strace stops the program at
// every other system call, too, so it is slower all over.
func slowDisk() []Fault {
	delay := func(id, about string, by time.Duration, leader bool) Fault {
		return Fault{
			ID: "F6/" + id, About: about, Hold: 2 * time.Second, Limit: 30 * time.Second, KeepsLeader: !leader,
			Inject: func(ctx context.Context, s Scene) (*Injection, error) {
				master := s.follower()
				if leader {
					master = s.Leader
				}
				in, err := strace(ctx, s, master, fmt.Sprintf("delay_enter=%d", by.Microseconds()), "DELAYED")
				if in != nil && by == hung {
					in.Verify = func(ctx context.Context) error { return hangs(ctx, s, master) }
				}
				return in, err
			},
		}
	}
	return []Fault{
		delay("100ms", "each fsync of the leader takes 100 ms longer", 100*time.Millisecond, true),
		delay("2s", "each fsync of the leader takes 2 s longer", 2*time.Second, true),
		delay("hung", "no fsync of the leader returns", hung, true),
		{
			ID: "F6/durable", About: "each fsync of every master takes 150 ms longer: a write that is faster is not on disk", Hold: 2 * time.Second, Limit: 30 * time.Second,
			AtLeast: 150 * time.Millisecond,
			Inject: func(ctx context.Context, s Scene) (*Injection, error) {
				all := &Injection{Verify: nothing, Heal: nothing}
				for _, master := range s.Cluster.Masters() {
					one, err := strace(ctx, s, master, "delay_enter=150000", "DELAYED")
					if one != nil {
						all = all.and(one)
					}
					if err != nil {
						return all, err
					}
				}
				all.Victims = nil
				return all, nil
			},
		},
		delay("follower-2s", "each fsync of a follower takes 2 s longer", 2*time.Second, false),
		delay("follower-hung", "no fsync of a follower returns", hung, false),
	}
}

// brokenDisk fails what syncs a file.
func brokenDisk() []Fault {
	return []Fault{{
		ID: "F7", About: "an fsync of the leader fails with EIO", Hold: time.Second, Limit: 20 * time.Second,
		Inject: func(ctx context.Context, s Scene) (*Injection, error) {
			before, err := s.Cluster.Process(s.Leader, "apiserver")
			if err != nil {
				return nil, err
			}
			in, err := strace(ctx, s, s.Leader, "error=EIO", "INJECTED")
			if in != nil {
				in.Killed = []string{s.Leader}
				injected := in.Verify
				in.Verify = func(ctx context.Context) error {
					if before.State() != 0 {
						return fmt.Errorf("the apiserver of %s goes on after a failed fsync", s.Leader)
					}
					return injected(ctx)
				}
			}
			return in, err
		},
	}}
}

// strace has a master's apiserver meet what inject says at each fsync and fdatasync; mark is
// what strace writes beside a call that it has tampered with.
func strace(ctx context.Context, s Scene, master, inject, mark string) (*Injection, error) {
	p, err := s.Cluster.Process(master, "apiserver")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "kijabi-faults-strace-")
	if err != nil {
		return nil, err
	}
	log := filepath.Join(dir, "calls")
	//nolint:noctx // ended by Heal, not with the context
	tracer := exec.Command("strace", "--follow-forks", "--quiet=all", "--output="+log, "--attach="+strconv.Itoa(p.PID),
		"--trace=fsync,fdatasync", "--inject=fsync,fdatasync:"+inject)
	var stderr bytes.Buffer
	tracer.Stderr = &stderr
	if err := tracer.Start(); err != nil {
		return nil, fmt.Errorf("strace: %w", err)
	}
	in := &Injection{
		Victims: []string{master},
		Verify: func(context.Context) error {
			calls, err := os.ReadFile(log)
			if err == nil && !bytes.Contains(calls, []byte(mark)) {
				err = fmt.Errorf("no fsync of %s was tampered with: %s", master, stderr.String())
			}
			return err
		},
		Heal: func(context.Context) error {
			err := tracer.Process.Signal(syscall.SIGINT)
			if errors.Is(err, os.ErrProcessDone) {
				err = nil
			}
			ended := time.AfterFunc(5*time.Second, func() { _ = tracer.Process.Kill() })
			_ = tracer.Wait() // it ends by the signal
			ended.Stop()
			return errors.Join(err, os.RemoveAll(dir))
		},
	}
	err = cluster.Await(ctx, 5*time.Second, "strace has attached", func() error {
		if calls, err := os.ReadFile(log); err == nil && bytes.Contains(calls, []byte(mark)) {
			return nil // and may have ended the program already
		}
		if by := tracerOf(p); by != tracer.Process.Pid {
			return fmt.Errorf("process %d is traced by %d: %s", p.PID, by, stderr.String())
		}
		return nil
	})
	return in, err
}

// hangs checks that a thread of a master's apiserver does not get out of a call that is delayed;
// strace writes nothing about one that has not returned.
func hangs(ctx context.Context, s Scene, master string) error {
	p, err := s.Cluster.Process(master, "apiserver")
	if err != nil {
		return nil //nolint:nilerr // the master has given up and ended
	}
	stopped := map[int]time.Time{}
	return cluster.Await(ctx, 5*time.Second, "an fsync of "+master+" hangs", func() error {
		now := map[int]time.Time{}
		for thread, state := range p.Threads() {
			if state != 't' { // stopped by its tracer
				continue
			}
			since, found := stopped[thread]
			if !found {
				since = time.Now()
			}
			if now[thread] = since; time.Since(since) > 500*time.Millisecond {
				return nil
			}
		}
		stopped = now
		return fmt.Errorf("%d threads are stopped for a moment", len(now))
	})
}

// tracerOf is the process that traces p, 0 for none.
func tracerOf(p cluster.Process) int {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(content), "TracerPid:")
	line, _, _ := strings.Cut(rest, "\n")
	pid, _ := strconv.Atoi(strings.TrimSpace(line)) // the kernel writes a number
	return pid
}

// lostDisk removes what a master has stored.
func lostDisk() []Fault {
	return []Fault{{
		ID: "F3", About: "the data of a follower is lost while it is down", Hold: 300 * time.Millisecond, Limit: 10 * time.Second, Rest: 90 * time.Second, KeepsLeader: true,
		Inject: func(ctx context.Context, s Scene) (*Injection, error) {
			master := s.follower()
			in, err := kill(ctx, s, master)
			if err != nil {
				return in, err
			}
			return in, errors.Join(os.RemoveAll(filepath.Join(s.Cluster.DataDir(master), "etcd")), os.RemoveAll(filepath.Join(s.Cluster.DataDir(master), "raft")))
		},
	}}
}

// flips damage a bit of what a follower has stored while it is down. It must give that up by itself.
func flips() []Fault {
	down := func(id, about string, damage func(database string) error) Fault {
		return Fault{
			ID: "F13/" + id, About: about, Hold: 300 * time.Millisecond, Limit: 10 * time.Second, Rest: 2 * time.Minute, KeepsLeader: true,
			Inject: func(ctx context.Context, s Scene) (*Injection, error) {
				master := s.follower()
				in, err := kill(ctx, s, master)
				if err != nil {
					return in, err
				}
				start := in.Heal
				in.Heal = func(ctx context.Context) error {
					if err := start(ctx); err != nil {
						return err
					}
					return rebuilt(ctx, s, master)
				}
				return in, damage(s.Cluster.Database(master))
			},
		}
	}
	return []Fault{
		down("db", "the value of an object in a follower's database is damaged while it is down", flip),
		down("log", "a record of a follower's log is damaged while it is down", flipLog),
	}
}

// rebuilt waits until a master has moved damaged data aside, and removes that.
func rebuilt(ctx context.Context, s Scene, master string) error {
	pattern := filepath.Join(s.Cluster.DataDir(master), "etcd", "aside-*-damaged")
	return cluster.Await(ctx, 2*time.Minute, master+" gives its damaged data up", func() error {
		aside, err := filepath.Glob(pattern)
		if err != nil || len(aside) == 0 {
			return errors.Join(err, fmt.Errorf("there is no %s", pattern))
		}
		return os.RemoveAll(aside[0])
	})
}
