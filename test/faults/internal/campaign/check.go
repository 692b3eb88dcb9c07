package campaign

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"kijabi.dev/test/faults/internal/fencecheck"
	"kijabi.dev/test/faults/internal/history"
	"kijabi.dev/test/faults/internal/watchcheck"
	"kijabi.dev/test/faults/internal/workload"
)

const (
	// checkLimit of one object's history.
	checkLimit = time.Minute
	// auditDelay is how long audit events may wait for the file: a killed master loses these.
	auditDelay = time.Second
)

// check stops the cluster, reads what it has on disk and compares.
func (s *session) check(ctx context.Context) error {
	operations := s.recorder.Operations()
	s.record.Operations = len(operations)
	states := s.lists(ctx)
	if err := s.cluster.Power(ctx, "stop", s.cluster.Masters()...); err != nil {
		return err
	}
	members := map[string]fencecheck.Ledger{}
	for _, name := range s.cluster.Masters() {
		member, err := fencecheck.Open(s.cluster.Database(name))
		if err != nil {
			s.violate("the database of %s: %v", name, err)
			continue
		}
		members[name] = member
	}
	s.violateAll(fencecheck.SameData(members))
	ledger := fencecheck.Longest(members)
	s.checkFence(ledger)
	s.checkWrites(ledger, operations, states)
	s.checkHistories(ledger, operations)
	s.checkWatches(ledger)
	return s.checkLogs(ledger, operations)
}

func (s *session) violateAll(violations []string) {
	for _, text := range violations {
		s.violate("%s", text)
	}
}

// lists are the versions of all objects as each master lists them that can.
func (s *session) lists(ctx context.Context) map[string]map[string]uint64 {
	all := map[string]map[string]uint64{}
	for _, master := range s.masters {
		page, err := list(ctx, master.API)
		if err != nil {
			s.violate("list through %s: %v", master.Name, err)
			continue
		}
		state := map[string]uint64{}
		for _, cm := range page.Items {
			state[cm.Name] = workload.Version(cm)
		}
		all[master.Name] = state
	}
	return all
}

func (s *session) checkFence(ledger fencecheck.Ledger) {
	fence := fencecheck.Epochs(ledger)
	s.record.Claims, s.record.Batches, s.record.Stale = fence.Claims, fence.Batches, fence.Stale
	s.violateAll(fence.Violations)
	for _, c := range s.changes {
		for _, r := range ledger {
			if r.Claim && uint64(r.Number) > c.after && uint64(r.Number) <= c.to {
				s.logf("leadership changed in revision %d without need (%s), host stalled %.0f ms", r.Number, c.during, c.host)
				if c.host < milliseconds(stallOfHost) {
					s.record.Unexplained++
				}
			}
		}
	}
}

func (s *session) checkWrites(ledger fencecheck.Ledger, operations []history.Operation, states map[string]map[string]uint64) {
	checked, lost, violations := fencecheck.Lost(ledger, prefix, operations)
	s.record.Checked, s.record.Lost = checked, lost
	s.violateAll(violations)
	for _, o := range operations {
		if o.Outcome == history.Unknown {
			s.record.Unknown++
		}
	}
	truth := fencecheck.State(ledger, prefix)
	for master, state := range states {
		wrong := 0
		for name, version := range truth {
			if state[name] != version {
				wrong++
			}
		}
		if wrong > 0 || len(state) != len(truth) {
			s.violate("%s lists %d objects, %d of them in another version than the %d on disk", master, len(state), wrong, len(truth))
		}
	}
}

// checkHistories checks that objects behaved like registers. The ledger says which writes of
// unknown outcome have happened: otherwise every one of them would have to be tried at every
// later time.
func (s *session) checkHistories(ledger fencecheck.Ledger, operations []history.Operation) {
	happened := fencecheck.Versions(ledger)
	violations, keys := history.Linearizable(history.Resolve(operations, func(o history.Operation) uint64 {
		return happened[o.RequestID]
	}), checkLimit)
	s.record.Keys = keys
	s.violateAll(violations)
}

func (s *session) checkWatches(ledger fencecheck.Ledger) {
	var truth []watchcheck.Change
	for _, r := range ledger {
		for _, c := range r.Changes {
			if name, ours := strings.CutPrefix(c.Path, prefix); ours {
				truth = append(truth, watchcheck.Change{Name: name, Version: c.Version, Delete: c.Delete})
			}
		}
	}
	for _, w := range s.watchers {
		result := w.Check(truth)
		s.record.WatchEvents += result.Events
		s.record.WatchStreams += result.Streams
		s.record.Relists += result.Relists
		s.record.WatchViolations += len(result.Violations)
		s.violateAll(result.Violations)
	}
}

// checkLogs reads the audit logs, and looks for the secret in all logs and databases.
func (s *session) checkLogs(ledger fencecheck.Ledger, operations []history.Operation) error {
	var lines []fencecheck.Line
	for _, name := range s.cluster.Masters() {
		files, err := s.cluster.AuditLogs(name)
		if err != nil {
			return err
		}
		own, err := fencecheck.ReadAudit(name, files)
		if err != nil {
			return err
		}
		lines = append(lines, own...)
	}
	writes, refused, violations := fencecheck.ComponentEpochs(ledger, lines)
	s.record.ComponentWrites, s.record.ComponentsFenced = writes, refused
	s.violateAll(violations)
	s.violateAll(fencecheck.Evicted(lines, "default"))

	acknowledged := map[string]string{}
	ended := map[string]time.Duration{}
	for _, o := range operations {
		if o.Outcome != history.Unknown {
			acknowledged[o.RequestID], ended[o.RequestID] = o.Master, o.Returned
		}
	}
	s.record.Audited = len(acknowledged)
	violations = fencecheck.AuditedOnce(lines, acknowledged, func(id, master string) bool {
		for _, k := range s.killed {
			if k.master == master && ended[id] > k.from-auditDelay && ended[id] < k.to {
				return true
			}
		}
		return false
	})
	if len(violations) > 20 {
		violations = append(violations[:20], fmt.Sprintf("%d more requests are not audited once", len(violations)-20))
	}
	s.violateAll(violations)

	files, err := s.cluster.Logs()
	if err != nil {
		return err
	}
	for _, name := range s.cluster.Masters() {
		files = append(files, s.cluster.Database(name))
	}
	leaks, err := fencecheck.Leaked(files, s.canary)
	s.violateAll(leaks)
	return err
}

// keep saves the record, the history and the logs.
func (s *session) keep() {
	dir := filepath.Join(s.cfg.Artifacts, fmt.Sprintf("seed-%d", s.cfg.Seed))
	if err := s.save(dir); err != nil {
		s.logf("keep what is needed to understand it: %v", err)
		return
	}
	s.logf("the record, the history and the logs are in %s", dir)
}

func (s *session) save(dir string) error {
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(dir, "history.jsonl"))
	if err != nil {
		return err
	}
	encoder := json.NewEncoder(f)
	for _, o := range s.recorder.Operations() {
		if err := encoder.Encode(o); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	record, err := json.MarshalIndent(s.record, "", "  ")
	if err := errors.Join(err, f.Close(), os.WriteFile(filepath.Join(dir, "record.json"), record, 0o644)); err != nil {
		return err
	}
	files, err := s.cluster.Logs()
	if err != nil {
		return err
	}
	for _, name := range files {
		rest, _ := filepath.Rel(s.cluster.Dir(".."), name) // both are absolute
		if err := copyFile(name, filepath.Join(dir, strings.ReplaceAll(strings.TrimPrefix(rest, "machines/"), "/", "-"))); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
