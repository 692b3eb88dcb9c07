package faults

import (
	"context"
	"fmt"
	"time"
)

// power takes machines away: their processes, networks and cgroups are gone at once.
func power() []Fault {
	return []Fault{
		{
			ID: "F2/leader", About: "the leader's machine is killed", Hold: 300 * time.Millisecond, Limit: 10 * time.Second,
			Inject: func(ctx context.Context, s Scene) (*Injection, error) { return kill(ctx, s, s.Leader) },
		},
		{
			ID: "F2/follower", About: "the machine of a follower is killed", Hold: 300 * time.Millisecond, Limit: 10 * time.Second,
			KeepsLeader: true,
			Inject:      func(ctx context.Context, s Scene) (*Injection, error) { return kill(ctx, s, s.follower()) },
		},
		{
			ID: "F4/temporary", About: "a majority of the masters is killed for a while", Hold: 3 * time.Second, Limit: 10 * time.Second, NoQuorum: true,
			Inject: func(ctx context.Context, s Scene) (*Injection, error) {
				names := s.Cluster.Masters()
				s.Pick.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
				return kill(ctx, s, names[:len(names)/2+1]...)
			},
		},
	}
}

func kill(ctx context.Context, s Scene, names ...string) (*Injection, error) {
	return &Injection{
		Victims: names, Killed: names,
		Verify: func(context.Context) error {
			for _, name := range names {
				if pid, err := s.Cluster.Init(name); err == nil {
					return fmt.Errorf("machine %s lives, its process 1 is %d", name, pid)
				}
			}
			return nil
		},
		Heal: func(ctx context.Context) error { return s.Cluster.Power(ctx, "start", names...) },
	}, s.Cluster.Power(ctx, "kill", names...)
}
