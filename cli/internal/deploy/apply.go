package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Result is how it went for one machine.
type Result struct {
	// Name of the machine.
	Name string
	// Done are the steps that were carried out.
	Done []Step
	// Err is why the rest was not.
	Err error
}

// run carries a plan out.
type run struct {
	*Deployment
	anchor string // the master to ask; empty until there is one
	at     string // its address

	resultsMu sync.Mutex
	results   map[string]*Result
}

// Apply carries out the plan. A machine that fails stops only itself, unless it is the
// founder. The results have the order of the plan. The error is about what follows the
// machines: the user's access.
func (d *Deployment) Apply(ctx context.Context) ([]Result, error) {
	r := &run{Deployment: d, anchor: d.Plan.Anchor, results: map[string]*Result{}}
	for _, h := range d.Plan.Hosts {
		r.results[h.Host.Name] = &Result{Name: h.Host.Name, Err: h.Fault}
	}
	if r.anchor != "" {
		r.at = d.facts[r.anchor].Member.Address
	}
	r.each(ctx, atOnce, []Action{Install, Upload, Clean, Check})
	r.each(ctx, 1, []Action{Init})
	r.join(ctx)
	r.each(ctx, atOnce, []Action{Adjust})
	r.each(ctx, 1, []Action{LeaveNode})
	r.each(ctx, 1, []Action{LeaveMaster})
	err := r.giveAccess(ctx)
	var all []Result
	for _, h := range d.Plan.Hosts {
		all = append(all, *r.results[h.Host.Name])
	}
	return all, err
}

// join lets masters join one by one, and nodes meanwhile.
func (r *run) join(ctx context.Context) {
	if r.anchor == "" {
		r.notFounded()
		return
	}
	var wait sync.WaitGroup
	wait.Go(func() { r.each(ctx, 1, []Action{JoinMaster}) })
	wait.Go(func() { r.each(ctx, atOnce, []Action{JoinNode}) })
	wait.Wait()
}

// notFounded says of all who would have joined why they did not.
func (r *run) notFounded() {
	for _, h := range r.Plan.Hosts {
		if slices.ContainsFunc(h.Steps, func(s Step) bool { return s.Action == JoinMaster || s.Action == JoinNode }) {
			r.fail(h.Host.Name, errors.New("not begun: the cluster was not founded"))
		}
	}
}

// each carries out the steps of these kinds, in a machine's own order, on limit
// machines at the same time.
func (r *run) each(ctx context.Context, limit int, kinds []Action) {
	var group errgroup.Group
	group.SetLimit(limit)
	for _, h := range r.Plan.Hosts {
		group.Go(func() error {
			for _, step := range h.Steps {
				if slices.Contains(kinds, step.Action) {
					r.do(ctx, h.Host, step)
				}
			}
			return nil
		})
	}
	_ = group.Wait()
}

// do carries out a step, unless one before it has failed.
func (r *run) do(ctx context.Context, host Host, step Step) {
	r.resultsMu.Lock()
	failed := r.results[host.Name].Err != nil
	r.resultsMu.Unlock()
	if failed {
		return
	}
	err := ctx.Err()
	if err == nil {
		err = r.carryOut(ctx, host, step)
	} else {
		err = fmt.Errorf("not done: %s: %w", step.Text(), err)
	}
	if err != nil {
		r.fail(host.Name, err)
		return
	}
	r.resultsMu.Lock()
	defer r.resultsMu.Unlock()
	r.results[host.Name].Done = append(r.results[host.Name].Done, step)
}

func (r *run) fail(name string, err error) {
	r.resultsMu.Lock()
	defer r.resultsMu.Unlock()
	if result := r.results[name]; result.Err == nil {
		result.Err = err
		r.Progress.Say("%s: FAILED: %v", name, err)
	}
}

func (r *run) carryOut(ctx context.Context, host Host, step Step) error {
	switch step.Action {
	case LeaveNode:
		return r.leaveNode(ctx, host)
	case LeaveMaster:
		return r.leaveMaster(ctx, host)
	case Adjust:
		return r.adjust(ctx, host, step)
	}
	m, err := r.shell(ctx, host)
	if err != nil {
		return err
	}
	switch step.Action {
	case Install, Upload:
		return r.upload(ctx, m, host, step)
	case Clean:
		return r.exec(ctx, m, host, "remove the unfinished installation", program{args: []string{"reset", "--local"}})
	case Check:
		return r.check(ctx, m, host, step)
	case Init:
		return r.found(ctx, m, host, step)
	case JoinMaster, JoinNode:
		return r.joinOne(ctx, m, host, step)
	default:
		return fmt.Errorf("step %q is not known", step.Action)
	}
}
