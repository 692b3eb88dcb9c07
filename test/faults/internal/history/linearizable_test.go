package history

import (
	"testing"
	"time"
)

func op(verb Verb, called, returned int, outcome Outcome, o Operation) Operation {
	o.Key, o.Verb, o.Outcome = "k", verb, outcome
	o.Called, o.Returned = time.Duration(called), time.Duration(returned)
	o.Client = called
	return o
}

func TestLinearizable(t *testing.T) {
	for name, c := range map[string]struct {
		good       bool
		operations []Operation
	}{
		"one after the other": {true, []Operation{
			op(Create, 0, 1, OK, Operation{Value: "a", Version: 5}),
			op(Get, 2, 3, OK, Operation{Read: "a", Version: 5}),
			op(Update, 4, 5, OK, Operation{Value: "b", Expected: 5, Version: 9}),
			op(Delete, 6, 7, OK, Operation{Expected: 9, Version: 12}),
			op(Get, 8, 9, NotFound, Operation{}),
		}},
		"a stale read": {false, []Operation{
			op(Create, 0, 1, OK, Operation{Value: "a", Version: 5}),
			op(Update, 2, 3, OK, Operation{Value: "b", Version: 6}),
			op(Get, 4, 5, OK, Operation{Read: "a", Version: 5}),
		}},
		"a read beside the write": {true, []Operation{
			op(Create, 0, 1, OK, Operation{Value: "a", Version: 5}),
			op(Update, 2, 6, OK, Operation{Value: "b", Version: 6}),
			op(Get, 4, 5, OK, Operation{Read: "a", Version: 5}),
		}},
		"a lost write": {false, []Operation{
			op(Create, 0, 1, OK, Operation{Value: "a", Version: 5}),
			op(Get, 2, 3, NotFound, Operation{}),
		}},
		"two updates of one version": {false, []Operation{
			op(Create, 0, 1, OK, Operation{Value: "a", Version: 5}),
			op(Update, 2, 9, OK, Operation{Value: "b", Expected: 5, Version: 6}),
			op(Update, 3, 9, OK, Operation{Value: "c", Expected: 5, Version: 7}),
		}},
		"an unknown write that is seen later": {true, []Operation{
			op(Create, 0, 1, OK, Operation{Value: "a", Version: 5}),
			op(Update, 2, 3, Unknown, Operation{Value: "b", Expected: 5}),
			op(Get, 4, 5, OK, Operation{Read: "a", Version: 5}),
			op(Get, 6, 7, OK, Operation{Read: "b", Version: 8}),
			op(Update, 8, 9, OK, Operation{Value: "c", Expected: 8, Version: 10}),
		}},
		"an unknown write that comes and goes": {false, []Operation{
			op(Create, 0, 1, OK, Operation{Value: "a", Version: 5}),
			op(Update, 2, 3, Unknown, Operation{Value: "b", Expected: 5}),
			op(Get, 4, 5, OK, Operation{Read: "b", Version: 8}),
			op(Get, 6, 7, OK, Operation{Read: "a", Version: 5}),
		}},
		"a conflict with the present version": {false, []Operation{
			op(Create, 0, 1, OK, Operation{Value: "a", Version: 5}),
			op(Update, 2, 3, Conflict, Operation{Value: "b", Expected: 5}),
		}},
		"an unfounded refusal": {false, []Operation{
			op(Create, 0, 1, Exists, Operation{Value: "a"}),
		}},
		"versions that go back": {false, []Operation{
			op(Create, 0, 1, OK, Operation{Value: "a", Version: 5}),
			op(Delete, 2, 3, OK, Operation{Version: 6}),
			op(Create, 4, 5, OK, Operation{Value: "b", Version: 4}),
		}},
	} {
		t.Run(name, func(t *testing.T) {
			violations, keys := Linearizable(c.operations, time.Minute)
			if (len(violations) == 0) != c.good || keys != 1 {
				t.Errorf("violations %q of %d keys, want none: %t", violations, keys, c.good)
			}
		})
	}
}

func TestResolve(t *testing.T) {
	operations := []Operation{
		op(Create, 0, 1, OK, Operation{Value: "a", Version: 5}),
		op(Update, 2, 3, Unknown, Operation{Value: "b", Expected: 5, RequestID: "happened"}),
		op(Update, 4, 5, Unknown, Operation{Value: "c", Expected: 5, RequestID: "did not"}),
		op(Get, 6, 7, OK, Operation{Read: "a", Version: 5}),
		op(Get, 8, 9, OK, Operation{Read: "b", Version: 8}),
	}
	resolved := Resolve(operations, func(o Operation) uint64 { return map[string]uint64{"happened": 8}[o.RequestID] })
	if violations, _ := Linearizable(resolved, time.Minute); len(resolved) != 4 || len(violations) > 0 {
		t.Errorf("%d operations, violations %q", len(resolved), violations)
	}
	// The version is what the cluster's history says, not what fits.
	resolved = Resolve(operations, func(o Operation) uint64 { return map[string]uint64{"happened": 7}[o.RequestID] })
	if violations, _ := Linearizable(resolved, time.Minute); len(violations) != 1 {
		t.Errorf("a write of version 7 was read as version 8: violations %q", violations)
	}
}
