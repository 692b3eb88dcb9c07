package fencecheck

import (
	"strings"
	"testing"

	"kijabi.dev/test/faults/internal/history"
)

func claim(number int64) Revision { return Revision{Number: number, Claim: true} }

func batch(number int64, epoch, count uint64, changes ...Change) Revision {
	return Revision{Number: number, Manifest: true, Epoch: epoch, Batch: count, Changes: changes}
}

func TestEpochs(t *testing.T) {
	for name, c := range map[string]struct {
		ledger Ledger
		stale  int
		wrong  string
	}{
		"two terms":              {Ledger{claim(2), batch(3, 2, 1), batch(4, 2, 2), claim(5), batch(6, 5, 1)}, 0, ""},
		"a batch of an old term": {Ledger{claim(2), batch(3, 2, 1), claim(4), batch(5, 2, 2)}, 1, "while 4 was claimed"},
		"a batch before a claim": {Ledger{batch(2, 0, 1), claim(3)}, 0, ""},
		"a batch twice":          {Ledger{claim(2), batch(3, 2, 1), batch(4, 2, 1)}, 0, "after batch 1"},
		"a change without guard": {Ledger{claim(2), {Number: 3, Changes: []Change{{Path: "/o/pods/a/b"}}}}, 0, "outside a guarded batch"},
	} {
		t.Run(name, func(t *testing.T) {
			fence := Epochs(c.ledger)
			text := strings.Join(fence.Violations, "\n")
			if fence.Stale != c.stale || (text == "") != (c.wrong == "") || !strings.Contains(text, c.wrong) {
				t.Errorf("%d stale, violations %q; want %d and %q", fence.Stale, text, c.stale, c.wrong)
			}
		})
	}
}

func TestComponentEpochs(t *testing.T) {
	ledger := Ledger{claim(2), batch(3, 2, 1, Change{Path: "/o/pods/a/b", RequestID: "one"}), claim(4), batch(5, 4, 1, Change{Path: "/o/pods/a/c", RequestID: "two"})}
	line := func(id, user, epoch string, code int) Line {
		l := Line{AuditID: id, Annotations: map[string]string{"kijabi.dev/epoch": epoch}}
		l.User.Username, l.ResponseStatus.Code = user, code
		return l
	}
	const scheduler = "system:kube-scheduler"
	checked, refused, violations := ComponentEpochs(ledger, []Line{
		line("one", scheduler, "2", 200), line("two", scheduler, "2", 200), line("three", scheduler, "2", 412), line("two", "somebody", "", 200),
	})
	if checked != 2 || refused != 1 || len(violations) != 1 || !strings.Contains(violations[0], "epoch 2, was committed in revision 5 of epoch 4") {
		t.Errorf("%d checked, %d refused, %q", checked, refused, violations)
	}
	if _, _, violations := ComponentEpochs(ledger, []Line{line("one", scheduler, "", 200)}); len(violations) != 1 {
		t.Errorf("a component that names no epoch: %q", violations)
	}
}

func TestLost(t *testing.T) {
	ledger := Ledger{claim(2), batch(3, 2, 1,
		Change{Path: "/p/a", Version: 12288, RequestID: "a"}, Change{Path: "/p/b", Version: 12289, RequestID: "b"}, Change{Path: "/p/c", Version: 12290, RequestID: "b"})}
	write := func(id, key string, outcome history.Outcome, version uint64) history.Operation {
		return history.Operation{RequestID: id, Key: key, Verb: history.Create, Outcome: outcome, Version: version}
	}
	for name, c := range map[string]struct {
		operation history.Operation
		lost      int
		wrong     string
	}{
		"there":             {write("a", "a", history.OK, 12288), 0, ""},
		"lost":              {write("x", "a", history.OK, 12288), 1, "lost"},
		"another version":   {write("a", "a", history.OK, 12289), 0, "otherwise"},
		"done twice":        {write("b", "b", history.OK, 12289), 0, "done 2 times"},
		"refused, yet done": {write("a", "a", history.Exists, 0), 0, "refused and yet done"},
		"unknown":           {write("x", "a", history.Unknown, 0), 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, lost, violations := Lost(ledger, "/p/", []history.Operation{c.operation})
			text := strings.Join(violations, "\n")
			if lost != c.lost || (text == "") != (c.wrong == "") || !strings.Contains(text, c.wrong) {
				t.Errorf("%d lost, violations %q; want %d and %q", lost, text, c.lost, c.wrong)
			}
		})
	}
}
