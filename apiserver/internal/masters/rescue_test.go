package masters_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kijabi.dev/apiserver/internal/masters"
	peerv1pb "kijabi.dev/proto/gen/kijabi/peer/v1"
)

// TestFoundedGroupIsOfItsGeneration makes raft's data by hand and starts with it: alone, it leads,
// under the old cluster ID; what a master of another generation sends is refused.
func TestFoundedGroupIsOfItsGeneration(t *testing.T) { onBoth(t, foundedGroupIsOfItsGeneration) }

func foundedGroupIsOfItsGeneration(t *testing.T, on where) {
	mc := on.newMachine(t, "m1")
	dir := filepath.Join(mc.dir, "raft")
	if err := masters.Found(masters.Founding{Dir: dir, Name: "m1", PeerAddress: mc.peer, ClusterID: "c0", Generation: 7}); err != nil {
		t.Fatal(err)
	}
	mc.start()
	leader(t, []*machine{mc})
	eventually(t, "the roster holds it", func() bool { return len(mc.running.Members()) == 1 })
	if id, generation := mc.running.ClusterID(), mc.running.Generation(); id != "c0" || generation != 7 {
		t.Errorf("cluster %q, generation %d", id, generation)
	}
	for _, generation := range []uint64{0, 6, 8} {
		_, err := mc.running.HandleRaft(t.Context(), &peerv1pb.RaftRequest{Kind: "RequestVote", Generation: generation})
		if err == nil || !strings.Contains(err.Error(), "restored or recovered") {
			t.Errorf("a vote for generation %d: %v", generation, err)
		}
		_, err = mc.running.HandleSnapshot(t.Context(), &peerv1pb.InstallSnapshotRequest{Generation: generation}, nil)
		if err == nil || !strings.Contains(err.Error(), "restored or recovered") {
			t.Errorf("a roster of generation %d: %v", generation, err)
		}
	}
	for _, ask := range []struct {
		cluster    string
		generation uint64
		found      bool
	}{{"c0", 6, true}, {"c0", 0, true}, {"c0", 7, false}, {"c0", 8, false}, {"c1", 0, false}, {"", 0, false}} {
		newer := masters.FindSuccessor(t.Context(), ask.cluster, ask.generation, []string{mc.peer, "127.0.0.1:1"}, dial)
		if (newer != nil) != ask.found || newer != nil && (newer.Generation != 7 || newer.Address != mc.peer) {
			t.Errorf("%+v: found %v", ask, newer)
		}
	}
	mc.stop()
	data, err := masters.ReadData(dir)
	if err != nil || data.ClusterID != "c0" || data.Generation != 7 || len(data.Members) != 1 || data.Members[0].Name != "m1" {
		t.Errorf("its data is %+v: %v", data, err)
	}
}

// TestRunningMasterNoticesItsSuccessor keeps a master running whose peer was founded anew.
func TestRunningMasterNoticesItsSuccessor(t *testing.T) { onBoth(t, runningMasterNoticesItsSuccessor) }

func runningMasterNoticesItsSuccessor(t *testing.T, on where) {
	machines := on.form(t, 2)
	gone := machines[1]
	gone.stop()
	ended := machines[0].running.ended
	successor := &machine{t: t, on: on, name: "m2", dir: t.TempDir(), peer: gone.peer, url: gone.url}
	t.Cleanup(func() { successor.stop() })
	if err := masters.Found(masters.Founding{
		Dir: filepath.Join(successor.dir, "raft"), Name: "m2", PeerAddress: successor.peer, ClusterID: "c1", Generation: 1,
	}); err != nil {
		t.Fatal(err)
	}
	successor.start()
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), "generation 1 of the cluster") {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("it does not notice")
	}
	leader(t, []*machine{successor})
}
