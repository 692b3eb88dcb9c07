package audit

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"kijabi.dev/platform/lifecycle"
)

func open(t *testing.T, maxBytes int64, maxFiles int) (*Log, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "audit", "audit.log")
	l, err := Open(Config{File: file, MaxBytes: maxBytes, MaxFiles: maxFiles, Log: zaptest.NewLogger(t)})
	if err != nil {
		t.Fatal(err)
	}
	return l, file
}

// run runs the log; the returned function ends it and waits.
func run(t *testing.T, l *Log) func() {
	t.Helper()
	group := lifecycle.NewGroup(t.Context())
	group.Go(l.Run)
	stop := func() {
		group.Cancel()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func lines(t *testing.T, file string) []map[string]any {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var out []map[string]any
	for scanner := bufio.NewScanner(f); scanner.Scan(); {
		var line map[string]any
		if err := json.Unmarshal(scanner.Bytes(), &line); err != nil {
			t.Fatalf("%v: %s", err, scanner.Text())
		}
		out = append(out, line)
	}
	return out
}

var moment = time.Date(2026, 3, 4, 5, 6, 7, 8000, time.FixedZone("", 3600))

func TestEventIsWhatKubernetesWrites(t *testing.T) {
	l, file := open(t, 1<<20, 1)
	stop := run(t, l)
	l.Record(&Event{
		ID: "id", URI: "/apis/apps/v1/namespaces/a/deployments/b/scale?x=\"y\"\n", Verb: "patch",
		User: User{"root", []string{"system:masters", "système"}}, Impersonated: User{Name: "jane"},
		SourceIP: "10.0.0.1", UserAgent: "kubectl/1",
		Object: &ObjectRef{Group: "apps", Version: "v1", Resource: "deployments", Subresource: "scale", Namespace: "a", Name: "b"},
		Code:   409, Reason: "Conflict", Received: moment, Answered: moment.Add(time.Second),
		Annotations: []Annotation{{"a", "1"}, {"b", "2"}},
	})
	l.Record(&Event{ID: "plain", URI: "/version", Verb: "get", Code: 200, Received: moment, Answered: moment})
	stop()
	got := lines(t, file)
	if len(got) != 2 {
		t.Fatalf("%d lines", len(got))
	}
	want := `{"annotations":{"a":"1","b":"2"},"apiVersion":"audit.k8s.io/v1","auditID":"id","impersonatedUser":{"username":"jane"},"kind":"Event","level":"Metadata",` +
		`"objectRef":{"apiGroup":"apps","apiVersion":"v1","name":"b","namespace":"a","resource":"deployments","subresource":"scale"},` +
		`"requestReceivedTimestamp":"2026-03-04T04:06:07.000008Z","requestURI":"/apis/apps/v1/namespaces/a/deployments/b/scale?x=\"y\"\n",` +
		`"responseStatus":{"code":409,"metadata":{},"reason":"Conflict","status":"Failure"},"sourceIPs":["10.0.0.1"],"stage":"ResponseComplete",` +
		`"stageTimestamp":"2026-03-04T04:06:08.000008Z","user":{"groups":["system:masters","système"],"username":"root"},"userAgent":"kubectl/1","verb":"patch"}`
	if text, _ := json.Marshal(got[0]); string(text) != want {
		t.Errorf("got\n%s\nwant\n%s", text, want)
	}
	want = `{"apiVersion":"audit.k8s.io/v1","auditID":"plain","kind":"Event","level":"Metadata","requestReceivedTimestamp":"2026-03-04T04:06:07.000008Z",` +
		`"requestURI":"/version","responseStatus":{"code":200,"metadata":{}},"stage":"ResponseComplete","stageTimestamp":"2026-03-04T04:06:07.000008Z",` +
		`"user":{"username":""},"verb":"get"}`
	if text, _ := json.Marshal(got[1]); string(text) != want {
		t.Errorf("got\n%s\nwant\n%s", text, want)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v: %v", info.Mode(), err)
	}
}

// What clients choose cannot blow up the file.
func TestLongValuesAreCut(t *testing.T) {
	long := strings.Repeat("é", 100_000)
	e := Event{URI: long, UserAgent: long, User: User{Name: long}, Object: &ObjectRef{Name: long, Resource: long}}
	line := e.append(nil)
	if len(line) > 12<<10 {
		t.Errorf("the line has %d bytes", len(line))
	}
	if !json.Valid(line) {
		t.Errorf("not JSON: %s", line)
	}
}

func TestFilesAreBounded(t *testing.T) {
	l, file := open(t, 1<<20, 2)
	stop := run(t, l)
	const events = 20_000 // 280 bytes each
	for i := range events {
		l.Record(&Event{ID: fmt.Sprint(i), URI: "/api/v1/pods", Verb: "list", Received: moment, Answered: moment})
	}
	stop()
	if recorded, dropped := l.Counts(); recorded != events || dropped != 0 {
		t.Errorf("%d recorded, %d dropped", recorded, dropped)
	}
	var total int64
	var files int
	for _, path := range filesBeside(t, file) {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		files++
		total += info.Size()
		if info.Size() > 1<<20 {
			t.Errorf("%s has %d bytes", path, info.Size())
		}
	}
	if files != 3 || total < 2<<20-4096 { // two full ones, but for the event that did not fit, and the last
		t.Errorf("%d files, %d bytes", files, total)
	}
	if last := lines(t, file); last[len(last)-1]["auditID"] != fmt.Sprint(events-1) {
		t.Errorf("the last event is %v", last[len(last)-1]["auditID"])
	}
}

func filesBeside(t *testing.T, file string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(filepath.Dir(file), "*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// Files that fill at once, within one tick of any clock, do not replace each other.
func TestFilesThatFillAtOnce(t *testing.T) {
	l, file := open(t, 1<<20, 20)
	const events = 20_000
	for i := range events { // nobody writes yet
		l.Record(&Event{ID: fmt.Sprint(i), URI: "/api/v1/pods", Verb: "list", Received: moment, Answered: moment})
	}
	run(t, l)()
	seen := 0
	for _, path := range filesBeside(t, file) { // the times in their names give the order, the present one is last
		for _, line := range lines(t, path) {
			if line["auditID"] != fmt.Sprint(seen) {
				t.Fatalf("%s has event %v, want %d", path, line["auditID"], seen)
			}
			seen++
		}
	}
	if seen != events {
		t.Errorf("%d events of %d are left", seen, events)
	}
}

// Only files that the log has named are removed.
func TestForeignFilesStay(t *testing.T) {
	l, file := open(t, 1<<20, 1)
	dir := filepath.Dir(file)
	for _, name := range []string{"audit-notes.log", "audit.log.gz", "audit-2026-03-04T05-06-07.008.log", "audit-2026-03-04T05-06-07.log"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 8_000 {
		l.Record(&Event{URI: "/api/v1/pods", Verb: "list", Received: moment, Answered: moment})
	}
	run(t, l)()
	var names []string
	for _, path := range filesBeside(t, file) {
		names = append(names, filepath.Base(path))
	}
	if text := strings.Join(names, " "); len(names) != 4 || strings.Contains(text, "audit-2026-03") || !strings.Contains(text, "audit-notes.log audit.log audit.log.gz") {
		t.Errorf("left: %s", text)
	}
}

// With nobody writing, requests go on and what is lost is counted.
func TestOverflowIsDroppedAndCounted(t *testing.T) {
	l, _ := open(t, 1<<20, 1)
	var group sync.WaitGroup
	const workers, each = 8, 5_000
	for range workers {
		group.Go(func() {
			for range each {
				l.Record(&Event{URI: strings.Repeat("x", 1000)})
			}
		})
	}
	group.Wait()
	l.mu.Lock()
	waiting, size := l.lines, len(l.waiting)
	l.mu.Unlock()
	_, dropped := l.Counts()
	if waiting+dropped != workers*each || dropped == 0 || size > bufferBytes+2048 {
		t.Errorf("%d wait (%d bytes), %d dropped, of %d", waiting, size, dropped, workers*each)
	}
	stop := run(t, l)
	stop()
	if recorded, after := l.Counts(); recorded != waiting || after != dropped {
		t.Errorf("%d recorded of %d that waited, %d dropped", recorded, waiting, after)
	}
}

func TestFileThatCannotBeWritten(t *testing.T) {
	l, file := open(t, 1<<20, 1)
	dir := filepath.Dir(file)
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir, nil, 0o600); err != nil { // no directory any more
		t.Fatal(err)
	}
	stop := run(t, l)
	l.Record(&Event{ID: "lost"})
	stop()
	if recorded, dropped := l.Counts(); recorded != 0 || dropped != 1 {
		t.Errorf("%d recorded, %d dropped", recorded, dropped)
	}
}

func BenchmarkEvent(b *testing.B) {
	e := &Event{
		ID: "5b0b3a4e-0d1c-4d5c-9f7e-000000000000", URI: "/api/v1/namespaces/default/pods/web-0", Verb: "get",
		User: User{"system:node:n1", []string{"system:nodes", "system:authenticated"}}, SourceIP: "10.0.0.1", UserAgent: "kubelet/1",
		Object: &ObjectRef{Version: "v1", Resource: "pods", Namespace: "default", Name: "web-0"},
		Code:   200, Received: moment, Answered: moment.Add(time.Second),
	}
	var line []byte
	b.ReportAllocs()
	for b.Loop() {
		line = e.append(line[:0])
	}
}
