package registry

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/apiserver/internal/store"
)

const maxOperations = 1000

// Transact performs operations in one batch, all or none unless independent.
func (e *Engine) Transact(ctx context.Context, caller Caller, ops []Operation, independent bool) ([]OperationResult, error) {
	if len(ops) == 0 {
		return nil, nil
	}
	if len(ops) > maxOperations {
		return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("a transaction holds at most %d operations, got %d", maxOperations, len(ops)))
	}
	var out []OperationResult
	var t *transaction
	local := func(ctx context.Context, caller Caller) error {
		for attempt := 0; ; attempt++ {
			var err error
			if t == nil {
				if t, err = e.planAll(ctx, caller, ops, independent); err != nil {
					return err
				}
			}
			out, err = e.commitAll(ctx, caller, t, independent)
			if attempt == maxReplans || !errors.Is(err, errReplan) {
				if err == nil {
					return e.repeatChanged(ctx, caller, ops, t, out)
				}
				return err
			}
			t = nil
		}
	}
	remote := func(ctx context.Context, caller Caller) error {
		var err error
		if out, err = e.cfg.Forwarder.Transact(ctx, caller, ops, independent); err != nil {
			return err
		}
		return e.reached(ctx, out...)
	}
	err := e.write(ctx, caller, local, remote)
	return out, err
}

// transaction is a planned Transact.
type transaction struct {
	plans []*plan // nil where planning failed
	errs  []error
	verbs []Verb
	dry   bool
}

// repeatChanged performs those operations of an independent transaction by themselves whose
// objects have changed since they were prepared.
func (e *Engine) repeatChanged(ctx context.Context, caller Caller, ops []Operation, t *transaction, out []OperationResult) error {
	id := caller.RequestID
	for i, p := range t.plans {
		if p == nil || !p.replan || out[i].Err == nil {
			continue
		}
		caller.RequestID = id + "-" + strconv.Itoa(i)
		var err error
		if out[i], err = e.one(ctx, caller, ops[i]); err != nil {
			out[i].Err = err
		}
	}
	return nil
}

func (e *Engine) planAll(ctx context.Context, caller Caller, ops []Operation, independent bool) (*transaction, error) {
	t := &transaction{plans: make([]*plan, len(ops)), errs: make([]error, len(ops)), verbs: make([]Verb, len(ops))}
	if err := e.planEach(ctx, caller, ops, t); err != nil {
		return nil, err
	}
	seen := make(map[store.Key]bool, len(ops))
	for i := range ops {
		t.dry = t.dry || dryRun(ops[i])
		t.verbs[i] = ops[i].Verb
		p, err := t.plans[i], t.errs[i]
		if err == nil && seen[p.key] {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("operation %d: %s is written twice in one transaction", i, p.key))
		}
		if err == nil && len(p.with) > 0 && ops[i].Ref.Subresource == "eviction" {
			err = apierrors.NewBadRequest(fmt.Sprintf("operation %d: an eviction under a disruption budget cannot be part of a transaction", i))
		}
		if err != nil {
			if !independent {
				return nil, err
			}
			t.plans[i], t.errs[i] = nil, err
			continue
		}
		seen[p.key] = true
	}
	return t, nil
}

// planEach plans the operations one by one, or some at once when somebody is asked about them.
func (e *Engine) planEach(ctx context.Context, caller Caller, ops []Operation, t *transaction) error {
	asked := false
	for i := range ops {
		d := e.decisionsOn(ctx, caller, ops[i])
		if asked = asked || d != nil; asked {
			break
		}
		if t.plans[i], t.errs[i] = e.plan(caller, ops[i], nil); t.errs[i] != nil {
			t.plans[i] = nil
		}
	}
	if !asked {
		return nil
	}
	return eachAtOnce(ctx, len(ops), func(i int) {
		t.plans[i], t.errs[i] = e.plan(caller, ops[i], e.decisionsOn(ctx, caller, ops[i]))
	})
}

func (e *Engine) commitAll(ctx context.Context, caller Caller, t *transaction, independent bool) ([]OperationResult, error) {
	out := make([]OperationResult, len(t.plans))
	var plans []*plan
	var at []int
	written := make(map[store.Key]bool, len(t.plans))
	for i, p := range t.plans {
		if p == nil {
			out[i].Err = t.errs[i]
			continue
		}
		plans, at = append(plans, p), append(at, i)
		written[p.key] = true
	}
	if len(plans) == 0 {
		return out, nil
	}
	if !t.dry {
		if err := e.prepareAll(ctx, plans, func(i int) Verb { return t.verbs[at[i]] }); err != nil {
			return nil, err
		}
	}
	if t.dry {
		for i, p := range plans {
			r, err := e.rehearse(ctx, p)
			if err != nil && !independent {
				return nil, err
			}
			r.Err = statusError(err)
			p.decisions.report(&r)
			out[at[i]] = r
		}
		return out, nil
	}
	for _, i := range at {
		for _, other := range t.plans[i].with {
			if !written[other.key] {
				plans = append(plans, other)
			}
		}
	}
	results, err := e.commit(ctx, caller, plans, !independent)
	if err != nil {
		if independent && len(plans) == 1 && apiError(err) {
			out[at[0]].Err = err
			return out, nil
		}
		return nil, err
	}
	for i, r := range results[:len(at)] {
		plans[i].decisions.report(&r)
		out[at[i]] = r
	}
	return out, nil
}

// apiError tells an answer about the object from a failure of the store.
func apiError(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status)
}
