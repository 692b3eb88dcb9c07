package install

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"kijabi.dev/cli/internal/machine/supervisor"
)

// ledger is a service manager that notes what it is told.
type ledger struct{ orders []string }

var _ Services = (*ledger)(nil)

func (*ledger) Install(context.Context, []supervisor.Unit) error { return nil }
func (*ledger) Remove(context.Context, []string) error           { return nil }
func (*ledger) LogHint(name string) string                       { return name + ".log" }

func (l *ledger) Start(_ context.Context, name string) error {
	l.orders = append(l.orders, "start "+name)
	return nil
}

func (l *ledger) Stop(_ context.Context, name string) error {
	l.orders = append(l.orders, "stop "+name)
	return nil
}

// rescueWith returns a master whose apiserver program is a script.
func rescueWith(t *testing.T, script string) (*Rescue, *ledger) {
	t.Helper()
	dir := t.TempDir()
	layout := Layout{ConfigDir: filepath.Join(dir, "etc"), StateDir: filepath.Join(dir, "var"), RunDir: filepath.Join(dir, "run")}
	if err := os.MkdirAll(layout.StateDir, 0o700); err != nil {
		t.Fatal(err)
	}
	member, err := json.Marshal(Member{Name: "m1", Address: "127.0.0.1", Master: true, ClusterID: "c1", BinDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string]string{layout.member(): string(member), filepath.Join(dir, apiserver): "#!/bin/sh\n" + script} {
		if err := os.WriteFile(path, []byte(content), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	services := &ledger{}
	rescue, err := OpenRescue(RescueOptions{Layout: layout, Services: services, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return rescue, services
}

// TestFailedRescueStartsTheMasterAgain has the apiserver program fail, as on a full disk.
func TestFailedRescueStartsTheMasterAgain(t *testing.T) {
	rescue, services := rescueWith(t, "echo some log >&2\necho \"apiserver $*: no space left on device\" >&2\nexit 1\n")
	_, err := rescue.Recover(t.Context())
	if err == nil || !strings.Contains(err.Error(), "apiserver recover --config ") || !strings.Contains(err.Error(), "no space left") || strings.Contains(err.Error(), "some log") {
		t.Errorf("it says %v", err)
	}
	own := []string{"apiserver", "scheduler", "controller-manager", "cloud-provider-local", "cloud-controller-manager"}
	var want []string
	for _, name := range slices.Backward(own) {
		want = append(want, "stop "+name)
	}
	for _, name := range own {
		want = append(want, "start "+name)
	}
	if !slices.Equal(services.orders, want) {
		t.Errorf("ordered %v, want %v", services.orders, want)
	}
}

// TestVerifyTouchesNoProgram reads what the apiserver program prints.
func TestVerifyTouchesNoProgram(t *testing.T) {
	rescue, services := rescueWith(t, `echo '{"header": {"clusterID": "c1", "master": "'"$1 $2 $3"'"}, "revision": 42, "objects": 7}'`)
	content, err := rescue.Verify(t.Context(), "a.kijabi")
	if err != nil || content.Header.ClusterID != "c1" || content.Header.Master != "snapshot verify a.kijabi" || content.Revision != 42 || content.Objects != 7 {
		t.Errorf("%+v: %v", content, err)
	}
	if len(services.orders) > 0 {
		t.Errorf("ordered %v", services.orders)
	}
	status, err := rescue.Masters(t.Context()) // no apiserver listens: the data tells
	if err != nil {
		t.Errorf("masters: %v, %v", status, err)
	}
}

func TestRescueIsForMasters(t *testing.T) {
	dir := t.TempDir()
	_, err := OpenRescue(RescueOptions{Layout: Layout{ConfigDir: dir, StateDir: dir, RunDir: dir}, Services: &ledger{}})
	if err == nil || !strings.Contains(err.Error(), "no master") {
		t.Errorf("on a machine that is nothing: %v", err)
	}
}
