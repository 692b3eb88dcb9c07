package masters

import (
	"testing"
	"time"

	"kijabi.dev/apiserver/internal/etcdnode"
)

func TestLongestDead(t *testing.T) {
	member := func(name string, role Role) standing {
		return standing{member: Member{Name: name, Role: role}, inEtcd: true, etcd: etcdnode.Member{Name: name, Learner: role != Voter}, votesRaf: role == Voter}
	}
	silent := map[string]time.Duration{"dead": 6 * time.Minute, "deader": 9 * time.Minute, "late": 4 * time.Minute, "gone": time.Hour}
	for _, test := range []struct {
		name string
		all  []standing
		want string
	}{
		{"nobody is dead", []standing{member("a", Voter), member("s", Spare)}, ""},
		{"not for long enough", []standing{member("late", Voter), member("s", Spare)}, ""},
		{"a dead voter and a spare", []standing{member("a", Voter), member("dead", Voter), member("s", Spare)}, "dead"},
		{"no spare", []standing{member("a", Voter), member("dead", Voter)}, ""},
		{"a spare that is not ready", []standing{member("dead", Voter), member("gone", Spare)}, ""},
		{"a learner is no spare yet", []standing{member("dead", Voter), member("l", Learner)}, ""},
		{"a dead spare is left alone", []standing{member("a", Voter), member("gone", Spare), member("s", Spare)}, ""},
		{"of two the one that is dead for longer", []standing{member("dead", Voter), member("deader", Voter), member("s", Spare)}, "deader"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := longestDead(test.all, 5*time.Minute, func(m Member) time.Duration { return silent[m.Name] },
				func(s standing) bool { return s.member.Role == Spare && silent[s.member.Name] == 0 })
			name := ""
			if got != nil {
				name = got.member.Name
			}
			if name != test.want {
				t.Errorf("chose %q, want %q", name, test.want)
			}
		})
	}
}

// TestVigilBeginsAnew: liveness that was known before a claim or a pause counts for nothing.
func TestVigilBeginsAnew(t *testing.T) {
	at := func(seconds int) time.Time { return time.Unix(int64(1000+seconds), 0) }
	var v vigil
	for _, step := range []struct {
		name  string
		epoch uint64
		now   int
		since int
	}{
		{"the claim", 7, 0, 0},
		{"it goes on", 7, 1, 0},
		{"and on", 7, 5, 0},
		{"the process was paused", 7, 60, 60},
		{"it goes on", 7, 62, 60},
		{"another claim", 9, 63, 63},
	} {
		v.look(step.epoch, at(step.now))
		if !v.since.Equal(at(step.since)) {
			t.Errorf("%s: watching since %s, want %s", step.name, v.since, at(step.since))
		}
	}
}
