// Package audittest opens an audit log for tests and reads what was written.
package audittest

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"kijabi.dev/apiserver/internal/audit"
	"kijabi.dev/platform/lifecycle"
)

// Event is a line of the log, as far as tests look at it.
type Event struct {
	AuditID    string `json:"auditID"`
	Stage      string `json:"stage"`
	RequestURI string `json:"requestURI"`
	Verb       string `json:"verb"`
	User       struct {
		Username string   `json:"username"`
		Groups   []string `json:"groups"`
	} `json:"user"`
	ImpersonatedUser struct {
		Username string `json:"username"`
	} `json:"impersonatedUser"`
	SourceIPs []string `json:"sourceIPs"`
	UserAgent string   `json:"userAgent"`
	ObjectRef struct {
		APIGroup, APIVersion, Resource, Subresource, Namespace, Name string
	} `json:"objectRef"`
	ResponseStatus struct {
		Code   int    `json:"code"`
		Reason string `json:"reason"`
	} `json:"responseStatus"`
	Annotations map[string]string `json:"annotations"`
}

// Log is a running audit log.
type Log struct {
	*audit.Log

	t    testing.TB
	file string
}

// Open starts a log that ends with the test.
func Open(t testing.TB) *Log {
	t.Helper()
	file := filepath.Join(t.TempDir(), "audit.log")
	l, err := audit.Open(audit.Config{File: file, MaxBytes: 10 << 20, MaxFiles: 1, Log: zaptest.NewLogger(t)})
	if err != nil {
		t.Fatal(err)
	}
	group := lifecycle.NewGroup(context.Background())
	group.Go(l.Run)
	t.Cleanup(func() {
		group.Cancel()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
	})
	return &Log{Log: l, t: t, file: file}
}

// Events waits until the log holds at least n events and returns all of them with the file's
// content.
func (l *Log) Events(n int) ([]Event, []byte) {
	l.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		content, err := os.ReadFile(l.file)
		if err != nil && !os.IsNotExist(err) {
			l.t.Fatal(err)
		}
		if bytes.Count(content, []byte{'\n'}) >= n {
			var events []Event
			for line := range bytes.Lines(content) {
				var e Event
				if err := json.Unmarshal(line, &e); err != nil {
					l.t.Fatalf("%v: %s", err, line)
				}
				events = append(events, e)
			}
			return events, content
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("not in time: %d events in\n%s", n, content)
		}
	}
}
