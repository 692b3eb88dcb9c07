package faults

import (
	"context"
	"fmt"
	"time"
)

// loss has the packets between the leader and the other masters get lost now and then. Half
// of the rate is applied on the way in, half on the way out.
func loss() []Fault {
	rate := func(percent int, keeps bool) Fault {
		return Fault{
			ID: fmt.Sprintf("F11/%d", percent), About: fmt.Sprintf("%d%% of the packets to and from the leader are lost", percent),
			Hold: 10 * time.Second, Limit: 30 * time.Second, KeepsLeader: keeps,
			Inject: func(ctx context.Context, s Scene) (*Injection, error) { return lose(ctx, s, percent) },
		}
	}
	return []Fault{rate(5, false), rate(20, false), rate(50, false)}
}

func lose(ctx context.Context, s Scene, percent int) (*Injection, error) {
	others := addresses(s, s.Cluster.Others(s.Leader))
	chance := fmt.Sprintf("numgen random mod 100 < %d counter drop", percent)
	in, err := filter(ctx, s, s.Leader, rules(
		"ip saddr { %s } counter; ip saddr { %s } "+chance, "ip daddr { %s } counter; ip daddr { %s } "+chance, others))
	if in != nil {
		if percent >= 50 { // of four packets and their answers one arrives: no connection lives on that
			in.Victims = []string{s.Leader}
		}
		in.Verify = func(ctx context.Context) error {
			met, err := counters(ctx, s, s.Leader)
			if err != nil {
				return err
			}
			if len(met) != 4 {
				return fmt.Errorf("counters %v, want 4", met)
			}
			all, dropped := met[0]+met[2], met[1]+met[3]
			if all < 100 || dropped*100 < all*percent/2 || dropped*100 > all*percent*2 {
				return fmt.Errorf("of %d packets %d were lost, not %d%%", all, dropped, percent)
			}
			return nil
		}
	}
	return in, err
}
