package masters_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"kijabi.dev/apiserver/internal/masters"
	"kijabi.dev/apiserver/internal/storage/etcd/etcdtest"
	"kijabi.dev/apiserver/internal/store"
)

// TestLeadersCompactASeparateEtcd lets revisions grow old under one leader and then another.
func TestLeadersCompactASeparateEtcd(t *testing.T) {
	const retention = 2 * time.Second
	on := where{etcdtest.Start(t, etcdtest.Options{})}
	machines := on.formWith(t, 3, func(c *masters.Config) { c.Retention = retention })
	for i := range 2 {
		lead := leader(t, machines)
		first, err := put(t.Context(), lead.running.store, key(1), "")
		if err != nil {
			t.Fatal(err)
		}
		written := time.Now()
		eventually(t, "the revision is forgotten", func() bool {
			if _, err := put(t.Context(), lead.running.store, key(2), ""); err != nil {
				t.Fatal(err)
			}
			_, err := lead.running.backend.Load(t.Context(), "/o/", store.RevisionOf(first.Record.Version), func([]store.Pair) error { return nil })
			return errors.Is(err, store.ErrCompacted)
		})
		if age := time.Since(written); age < retention {
			t.Errorf("it was forgotten after %s, before %s", age, retention)
		}
		converge(t, machines)
		if i == 0 {
			allAlive(t, lead, 3)
			if _, err := lead.running.Transfer(t.Context(), "", "the test"); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestMastersKeepTheirDataInOnePlace asks to join as one that embeds a member where none does, and
// the other way round.
func TestMastersKeepTheirDataInOnePlace(t *testing.T) { onBoth(t, mastersKeepTheirDataInOnePlace) }

func mastersKeepTheirDataInOnePlace(t *testing.T, on where) {
	lead := on.newMachine(t, "m1")
	lead.start()
	leader(t, []*machine{lead})
	other, want := masters.Member{Name: "m2", PeerAddress: "127.0.0.1:7443"}, "start it without etcd.endpoints"
	if on.separate != nil {
		other.EtcdPeerURL, want = "http://127.0.0.1:2380", "give it their etcd.endpoints"
	}
	if _, err := lead.running.Join(t.Context(), other); !errors.Is(err, masters.ErrConflict) || !strings.Contains(err.Error(), want) {
		t.Errorf("it joins with %v, want %q", err, want)
	}
	if n := len(lead.running.Members()); n > 1 {
		t.Errorf("the roster has %d masters", n)
	}
}

// TestPromotionWaits lets a master join whose memory cannot be loaded, and then keeps raft's log from
// it: it lives, and gets no vote before it could lead.
func TestPromotionWaits(t *testing.T) {
	on := where{etcdtest.Start(t, etcdtest.Options{})}
	machines := on.form(t, 1)
	lead, late := machines[0].running, on.newMachine(t, "m2")
	late.cut = true
	late.start(machines[0].peer)
	waits := func(what string) {
		t.Helper()
		eventually(t, "it lives", func() bool {
			status := lead.Status()
			return len(status.Members) > 1 && status.Members[1].Alive
		})
		const long = time.Second // ten looks of the leader at its members
		began := time.Now()
		eventually(t, "some time passes", func() bool {
			if voters(lead) != 1 || !lead.Status().Members[1].Alive || !lead.Leadership().Leading {
				t.Fatalf("it votes, has died, or has cost the leader its majority, %s", what)
			}
			return time.Since(began) > long
		})
	}
	waits("without its memory")
	late.running.door.mute.Store(true)
	if _, err := lead.Join(t.Context(), masters.Member{Name: "m9", PeerAddress: address(t) + ":7443"}); err != nil {
		t.Fatal(err)
	}
	late.running.backend.cut.Store(false)
	waits("without raft's log")
	late.running.door.mute.Store(false)
	eventually(t, "it votes", func() bool { return voters(lead) == 2 })
}
