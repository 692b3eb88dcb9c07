// Package lifecycle starts and ends programs and the parts inside them. It is the
// one place that starts goroutines, so that none outlives its program part, none
// dies unnoticed and a panic becomes an error.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
)

// Task runs until ctx ends or it fails. A task that has done its work returns nil,
// which ends nothing else.
type Task = func(ctx context.Context) error

// PanicError is what a panic inside a task becomes.
type PanicError struct {
	// Value was passed to panic.
	Value any
	// Stack of the goroutine that panicked.
	Stack []byte
}

// Error names the value; the stack is for the log.
func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v\n%s", e.Value, e.Stack) }

// Unwrap returns the panic's value if it was an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// Call runs task in this goroutine and turns a panic into a *PanicError.
func Call(ctx context.Context, task Task) (err error) {
	defer func() {
		if value := recover(); value != nil {
			err = &PanicError{Value: value, Stack: debug.Stack()}
		}
	}()
	return task(ctx)
}

// RunAll runs the tasks and waits for all of them. The first failure cancels the
// others and is what RunAll returns. When ctx ends from outside, tasks that return
// nil or ctx's error count as ended well and RunAll returns nil.
func RunAll(ctx context.Context, tasks ...Task) error {
	group := NewGroup(ctx)
	for _, task := range tasks {
		group.Go(task)
	}
	return group.Wait()
}

// Group runs tasks that are added over time. All methods may be called from
// several goroutines, Go also from a running task; Go must not be called after
// Wait has returned.
type Group struct {
	parent context.Context //nolint:containedctx // a Group is a context's extension: it lives as long
	ctx    context.Context //nolint:containedctx // handed to every task
	cancel context.CancelCauseFunc
	wait   sync.WaitGroup
	once   sync.Once
	err    error
}

// NewGroup returns an empty group whose tasks end with ctx.
func NewGroup(ctx context.Context) *Group {
	inner, cancel := context.WithCancelCause(ctx)
	return &Group{parent: ctx, ctx: inner, cancel: cancel}
}

// Context ends when the group ends: from outside, by Cancel or by a failure.
func (g *Group) Context() context.Context { return g.ctx }

// Go starts task.
func (g *Group) Go(task Task) {
	g.wait.Go(func() {
		if err := Call(g.ctx, task); err != nil && !g.endedWell(err) {
			g.once.Do(func() { g.err = err })
			g.cancel(err)
		}
	})
}

// endedWell says whether err only reports that the group was told to end.
func (g *Group) endedWell(err error) bool {
	return g.ctx.Err() != nil && (errors.Is(err, context.Canceled) ||
		g.parent.Err() != nil && errors.Is(err, g.parent.Err()))
}

// Cancel ends all tasks; that is no failure.
func (g *Group) Cancel() { g.cancel(context.Canceled) }

// Wait returns when all tasks have ended, with the first failure.
func (g *Group) Wait() error {
	g.wait.Wait()
	g.cancel(context.Canceled)
	return g.err
}
