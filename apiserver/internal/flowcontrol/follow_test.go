package flowcontrol

import (
	"context"
	"testing"

	"go.uber.org/zap/zaptest"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"

	"kijabi.dev/apiserver/internal/storage/memory"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/lifecycle"
)

func TestFollowsTheStore(t *testing.T) {
	log := zaptest.NewLogger(t)
	s, err := store.New(store.Config{
		Name: "m1", Backend: memory.New(), Log: log,
		Indexer: func(store.Key, []byte) (store.Index, error) { return store.Index{}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	l := New(Config{Concurrency: 600})
	group := lifecycle.NewGroup(context.Background())
	t.Cleanup(func() {
		group.Cancel()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
	})
	group.Go(s.Run)
	group.Go(s.Lead)
	group.Go(NewFollower(s, l, log).Run)
	eventually(t, "the store leads", func() bool { return s.Term().Leading })
	write := func(resource, name string, object interface{ Marshal() ([]byte, error) }) {
		t.Helper()
		change := store.Change{Delete: object == nil}
		if object != nil {
			var err error
			if change.Value, err = object.Marshal(); err != nil {
				t.Fatal(err)
			}
		}
		_, err := s.Commit(t.Context(), store.Group{User: "test", Writes: []store.Write{{
			Key: store.Key{Resource: resource, Name: name}, Decide: func(*store.Record) (store.Change, error) { return change, nil },
		}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	of := func(user string) string {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.classify(Request{User: user, Groups: []string{"system:authenticated"}, Verb: "list", Resource: "pods"}).level.name
	}
	before := l.load(levelGlobalDefault).Seats

	level := queued("mine", 245, 0, 64, 6)
	level.UID = "uid-of-mine"
	write(resourceLevels, "mine", level)
	all := []string{"*"}
	anything := rules{resources: []flowcontrolv1.ResourcePolicyRule{resourceRule(all, all, all, true, all)}}
	write(resourceSchemas, "jane", flowSchema("jane", "mine", 1000, "", anything, user("jane")))
	eventually(t, "jane has a level of her own", func() bool { return of("jane") == "mine" })
	if load := l.load("mine"); load.Seats != 300 {
		t.Errorf("%+v", load)
	}
	if seat, err := l.Acquire(t.Context(), Request{User: "jane", Verb: "list", Resource: "pods"}); err != nil || seat.LevelUID != "uid-of-mine" {
		t.Errorf("seat of %q: %v", seat.LevelUID, err)
	}
	// An object in the place of a built-in one, and one that cannot be read.
	write(resourceLevels, levelGlobalDefault, queued(levelGlobalDefault, 1000, 0, 64, 6))
	write(resourceSchemas, "damaged", garbage{})
	eventually(t, "global-default has grown", func() bool { return l.load(levelGlobalDefault).Seats > 2*before })
	if of("jane") != "mine" {
		t.Error("jane has lost her level")
	}
	write(resourceLevels, levelGlobalDefault, nil)
	write(resourceSchemas, "jane", nil)
	eventually(t, "all is as before", func() bool { return of("jane") == levelGlobalDefault && l.load(levelGlobalDefault).Seats < before })
}

// garbage is no object.
type garbage struct{}

func (garbage) Marshal() ([]byte, error) { return []byte{0xff, 0xff, 0xff}, nil }
