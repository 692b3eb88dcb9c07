package volumes

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kijabi.dev/platform/lifecycle"
)

// masters answers from the volumes of a world.
type masters struct {
	world  *world
	origin Origin
	silent bool

	mu        sync.Mutex
	forgotten map[string]bool
}

func (m *masters) forget(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forgotten = map[string]bool{name: true}
}

var errSilent = errors.New("no master answers")

// Origin implements Masters.
func (m *masters) Origin(context.Context) (Origin, error) {
	if m.silent {
		return Origin{}, errSilent
	}
	return m.origin, nil
}

// Exists implements Masters.
func (m *masters) Exists(_ context.Context, name string) (bool, error) {
	if m.silent {
		return false, errSilent
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.world.volumes[name]
	return ok && !m.forgotten[name], nil
}

func TestJudge(t *testing.T) {
	own, other := Origin{Cluster: "c", Generation: 1}, Origin{Cluster: "d", Generation: 1}
	for name, row := range map[string]struct {
		known, by Origin
		exists    bool
		since     time.Duration
		want      verdict
	}{
		"exists":                        {own, own, true, -1, keepIt},
		"exists, though it was gone":    {own, own, true, time.Hour, keepIt},
		"restored cluster has it":       {own, Origin{Cluster: "c", Generation: 2}, true, -1, keepIt},
		"first answer":                  {own, own, false, -1, askAgain},
		"soon after":                    {own, own, false, secondOpinion - time.Second, askAgain},
		"gone":                          {own, own, false, secondOpinion, removeIt},
		"a restored cluster forgot it":  {own, Origin{Cluster: "c", Generation: 2}, false, time.Hour, orphan},
		"another cluster":               {own, other, false, time.Hour, orphan},
		"nobody ever said it was there": {Origin{}, own, false, time.Hour, orphan},
	} {
		if got := judge(record{Known: row.known}, row.by, row.exists, row.since); got != row.want {
			t.Errorf("%s: %v, want %v", name, got, row.want)
		}
	}
}

// collecting is a volume of a pod that has ended.
func collecting(t *testing.T) (w *world, s *sweeper, place string) {
	t.Helper()
	w = newWorld(t)
	w.bind("data")
	writeTo(t, filepath.Join(w.setup(t, claiming("u", "data")), "file"), "kept")
	s = &sweeper{volumes: w.Volumes, absent: map[string]time.Time{}, told: map[string]bool{}}
	s.confirm(t.Context())
	return w, s, filepath.Join(w.cfg.Root, "pvc-data")
}

func (w *world) gone(t *testing.T) {
	t.Helper()
	delete(w.volumes, "pvc-data")
	delete(w.claims, "data")
	if err := w.Teardown("u"); err != nil {
		t.Fatal(err)
	}
}

func has(t *testing.T, place string, want bool) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(place, "file")); (err == nil) != want {
		t.Fatalf("data is there: %v, want %v", err == nil, want)
	}
}

func TestVolumeIsRemovedAfterASecondOpinion(t *testing.T) {
	w, s, place := collecting(t)
	outside := filepath.Join(t.TempDir(), "outside")
	writeTo(t, outside, "")
	for name, target := range map[string]string{"link": outside, "way": filepath.Dir(outside)} {
		if err := os.Symlink(target, filepath.Join(place, name)); err != nil {
			t.Fatal(err)
		}
	}
	delete(w.volumes, "pvc-data")
	for range 3 { // a pod uses it still
		s.sweep(t.Context())
		w.clock.Step(time.Minute)
	}
	has(t, place, true)
	w.gone(t)
	if wait := s.sweep(t.Context()); wait != secondOpinion {
		t.Errorf("asked again after %v", wait)
	}
	w.clock.Step(secondOpinion - 1)
	s.sweep(t.Context())
	has(t, place, true)
	w.clock.Step(1)
	s.sweep(t.Context())
	has(t, place, false)
	if entries, err := os.ReadDir(w.cfg.Root); err != nil || len(entries) > 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
	if list, err := w.records.all(); err != nil || len(list) > 0 {
		t.Errorf("records left: %v, %v", list, err)
	}
	if _, err := os.Stat(outside); err != nil {
		t.Errorf("a link led out of the volume: %v", err)
	}
}

func TestWhatIsNotRemoved(t *testing.T) {
	for name, meanwhile := range map[string]func(t *testing.T, w *world, s *sweeper, place string){
		"masters are silent": func(_ *testing.T, w *world, _ *sweeper, _ string) { w.masters.silent = true },
		"masters were silent between two answers": func(t *testing.T, w *world, s *sweeper, _ string) {
			t.Helper()
			s.sweep(t.Context())
			w.masters.silent = true
			w.clock.Step(time.Hour)
			s.sweep(t.Context())
			w.masters.silent = false
		},
		"it came back": func(t *testing.T, w *world, s *sweeper, _ string) {
			t.Helper()
			s.sweep(t.Context())
			w.bind("data")
			w.clock.Step(time.Hour)
			s.sweep(t.Context())
			w.gone(t)
		},
		"the cluster was restored": func(t *testing.T, w *world, s *sweeper, _ string) {
			t.Helper()
			w.masters.origin.Generation++
			s.sweep(t.Context())
			w.clock.Step(time.Hour)
		},
		"the cluster is another": func(t *testing.T, w *world, s *sweeper, _ string) {
			t.Helper()
			w.masters.origin.Cluster = "d"
			s.sweep(t.Context())
			w.clock.Step(time.Hour)
		},
		"the kubelet does not know it": func(t *testing.T, w *world, s *sweeper, _ string) {
			t.Helper()
			if err := w.records.drop("pvc-data"); err != nil {
				t.Fatal(err)
			}
			s.sweep(t.Context())
			w.clock.Step(time.Hour)
		},
		"something is mounted in it": func(t *testing.T, w *world, s *sweeper, place string) {
			t.Helper()
			inner := filepath.Join(place, "inner")
			if err := os.Mkdir(inner, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount("tmpfs", inner, "tmpfs", 0, ""); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = detach(inner) })
			s.sweep(t.Context())
			w.clock.Step(time.Hour)
		},
		"nobody ever said that it is there": func(t *testing.T, w *world, s *sweeper, _ string) {
			t.Helper()
			if err := w.records.confirm("pvc-data", Origin{}); err != nil {
				t.Fatal(err)
			}
			s.confirm(t.Context())
			s.sweep(t.Context())
			w.clock.Step(time.Hour)
		},
		"a pod is about to mount it": func(t *testing.T, w *world, s *sweeper, _ string) {
			t.Helper()
			t.Cleanup(w.hold("pvc-data"))
			s.sweep(t.Context())
			w.clock.Step(time.Hour)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, s, place := collecting(t)
			w.gone(t)
			meanwhile(t, w, s, place)
			s.sweep(t.Context())
			has(t, place, true)
		})
	}
}

// TestRestoredVolumeIsCollectedLater: one that the restored cluster knows is its own again.
func TestRestoredVolumeIsCollectedLater(t *testing.T) {
	w, s, place := collecting(t)
	w.masters.origin.Generation++
	s.sweep(t.Context()) // in use
	w.gone(t)
	s.sweep(t.Context())
	w.clock.Step(secondOpinion)
	s.sweep(t.Context())
	has(t, place, false)
}

func TestRemovalGoesOnAfterARestart(t *testing.T) {
	w, _, place := collecting(t)
	w.gone(t)
	if err := w.remove("pvc-data"); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(w.cfg.Root)
	if err != nil || len(entries) != 1 {
		t.Fatalf("%v %v", entries, err)
	}
	w.restart()
	w.masters.silent = true // it was decided
	s := &sweeper{volumes: w.Volumes, absent: map[string]time.Time{}, told: map[string]bool{}}
	s.sweep(t.Context())
	if entries, err := os.ReadDir(w.cfg.Root); err != nil || len(entries) > 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
	has(t, place, false)
}

// TestCollectorRuns: it hears of volumes that are made and of pods that end.
func TestCollectorRuns(t *testing.T) {
	w := newWorld(t)
	w.bind("data")
	ctx, cancel := context.WithCancel(t.Context())
	group := lifecycle.NewGroup(ctx)
	group.Go(w.Run)
	t.Cleanup(func() {
		cancel()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
	})
	until := func(what string, done func() bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !done(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("not in time: " + what)
			}
			w.clock.Step(time.Second)
		}
	}
	w.setup(t, claiming("u", "data"))
	until("the volume is confirmed", func() bool {
		list, err := w.records.all()
		return err == nil && list["pvc-data"].Known == w.masters.origin
	})
	w.masters.forget("pvc-data")
	if err := w.Teardown("u"); err != nil {
		t.Fatal(err)
	}
	until("the directory is gone", func() bool {
		_, err := os.Stat(filepath.Join(w.cfg.Root, "pvc-data"))
		return errors.Is(err, os.ErrNotExist)
	})
}
