package command

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	controllermanagerv1pb "kijabi.dev/proto/gen/kijabi/controllermanager/v1"
)

func TestControllersAreShown(t *testing.T) {
	now := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	answer := &controllermanagerv1pb.ListLoopsResponse{Running: true, Epoch: 77, Loops: []*controllermanagerv1pb.Loop{
		{
			Name: "deployment", Depth: 12, Delayed: 3, Active: 4, Rate: 1.234, Reconciles: 99, Failures: 5, Retries: 6,
			Oldest: durationpb.New(90 * time.Minute), OldestKey: &controllermanagerv1pb.Key{Namespace: "default", Name: "web"},
			Longest: durationpb.New(7 * time.Second), LongestKey: &controllermanagerv1pb.Key{Namespace: "default", Name: "slow"},
			LastFailure: &controllermanagerv1pb.Failure{
				Key: &controllermanagerv1pb.Key{Namespace: "default", Name: "bad"}, Error: strings.Repeat("no ", 100), Time: timestamppb.New(now.Add(-30 * time.Second)),
			},
		},
		{Name: "nodes", Paused: true, PausedSince: timestamppb.New(now.Add(-3 * time.Minute)), OldestKey: &controllermanagerv1pb.Key{Name: "n1"}, Oldest: durationpb.New(0), Depth: 1},
		{Name: "quiet"},
	}}
	var out bytes.Buffer
	all := controllersOf("m1", answer)
	if err := all.print(&out, now); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 4 {
		t.Fatalf("%d lines:\n%s", len(lines), out.String())
	}
	for i, want := range [][]string{
		{"NAME", "STATE", "QUEUE", "OLDEST", "ACTIVE", "RATE", "FAILURES", "LAST ERROR"},
		{"deployment", "running", "12 +3", "1h30m default/web", "4 (7s default/slow)", "1.23/s", "5", "30s ago, default/bad: no no", "…"},
		{"nodes", "paused for 3m", "1", "0s n1", "0", "0.00/s", "0", "-"},
		{"quiet", "running", "0", "-", "0", "0.00/s", "0", "-"},
	} {
		rest := lines[i]
		for _, part := range want {
			_, after, found := strings.Cut(rest, part)
			if !found {
				t.Errorf("line %q lacks %q at its place", lines[i], part)
			}
			rest = after
		}
	}
	answer.Running = false
	if state := controllersOf("m1", answer).Loops[2].State; state != loopStopped {
		t.Errorf("where the master does not lead any more: %s", state)
	}
	if e := all.Loops[0].LastError; e == nil || e.Error != strings.Repeat("no ", 100) {
		t.Errorf("JSON has not the whole error: %+v", e)
	}
}
