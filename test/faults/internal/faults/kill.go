package faults

import (
	"context"
	"fmt"
	"syscall"
	"time"
)

// kills end single programs.
func kills() []Fault {
	one := func(id, about, program string, leader bool) Fault {
		return Fault{
			ID: id, About: about, Hold: 300 * time.Millisecond, Limit: 10 * time.Second,
			Inject: func(_ context.Context, s Scene) (*Injection, error) {
				master := s.follower()
				if leader {
					master = s.Leader
				}
				return killProgram(s, master, program)
			},
		}
	}
	return []Fault{
		one("F1/apiserver", "kill -9 of the leader's apiserver", "apiserver", true),
		one("F1/follower", "kill -9 of a follower's apiserver", "apiserver", false),
		one("F1/scheduler", "kill -9 of the leader's scheduler", "scheduler", true),
		one("F1/controller-manager", "kill -9 of the leader's controller-manager", "controller-manager", true),
		one("F1/kubelet", "kill -9 of a master's kubelet", "kubelet", false),
	}
}

func killProgram(s Scene, master, program string) (*Injection, error) {
	victim, err := s.Cluster.Process(master, program)
	if err != nil {
		return nil, err
	}
	in := &Injection{
		Heal: nothing, // the machine's supervisor starts it again
		Verify: func(context.Context) error {
			if now, err := s.Cluster.Process(master, program); err == nil && now.PID == victim.PID {
				return fmt.Errorf("%s of %s survived kill -9", program, master)
			}
			return nil
		},
	}
	if program == "apiserver" {
		in.Victims, in.Killed = []string{master}, []string{master}
	}
	return in, victim.Signal(syscall.SIGKILL)
}
