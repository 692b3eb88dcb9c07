package lifecycle_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"kijabi.dev/platform/lifecycle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errBroken = errors.New("broken")

func untilDone(ctx context.Context) error {
	<-ctx.Done()
	return fmt.Errorf("wrapped: %w", ctx.Err())
}

func TestRunAllFirstFailureEndsAll(t *testing.T) {
	var ended atomic.Int32
	wait := func(ctx context.Context) error {
		defer ended.Add(1)
		return untilDone(ctx)
	}
	err := lifecycle.RunAll(t.Context(), wait, func(context.Context) error { return errBroken }, wait)
	if !errors.Is(err, errBroken) || ended.Load() != 2 {
		t.Errorf("got %v with %d tasks ended", err, ended.Load())
	}
}

func TestRunAllEndsWellWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	err := lifecycle.RunAll(ctx, untilDone, func(context.Context) error { cancel(); return nil })
	if err != nil {
		t.Errorf("got %v", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 0)
	defer cancel()
	if err := lifecycle.RunAll(ctx, untilDone); err != nil {
		t.Errorf("after a deadline: %v", err)
	}
}

func TestRunAllReportsFailuresWhileEnding(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := lifecycle.RunAll(ctx, func(ctx context.Context) error { <-ctx.Done(); return errBroken })
	if !errors.Is(err, errBroken) {
		t.Errorf("got %v", err)
	}
}

func TestCancelledByItselfIsAFailure(t *testing.T) {
	err := lifecycle.RunAll(t.Context(), untilDone, func(context.Context) error { return context.Canceled })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a task that ended as if cancelled, without being so, gave %v", err)
	}
}

func TestTaskThatIsDoneEndsNothing(t *testing.T) {
	first := make(chan struct{})
	err := lifecycle.RunAll(t.Context(), func(context.Context) error { close(first); return nil }, func(ctx context.Context) error {
		<-first
		return ctx.Err()
	})
	if err != nil {
		t.Errorf("got %v", err)
	}
}

func TestPanicBecomesAnError(t *testing.T) {
	err := lifecycle.RunAll(t.Context(), untilDone, func(context.Context) error { panic(errBroken) })
	var panicked *lifecycle.PanicError
	if !errors.As(err, &panicked) || !errors.Is(err, errBroken) || !strings.Contains(err.Error(), "group_test.go") {
		t.Errorf("got %v", err)
	}
}

func TestGroupGrowsFromWithin(t *testing.T) {
	group := lifecycle.NewGroup(t.Context())
	var ran atomic.Int32
	group.Go(func(context.Context) error {
		for range 3 {
			group.Go(func(context.Context) error { ran.Add(1); return nil })
		}
		return nil
	})
	if err := group.Wait(); err != nil || ran.Load() != 3 {
		t.Errorf("%d ran, %v", ran.Load(), err)
	}
	if group.Context().Err() == nil {
		t.Error("the context outlives the group")
	}
}

func TestGroupCancelIsNoFailure(t *testing.T) {
	group := lifecycle.NewGroup(t.Context())
	group.Go(untilDone)
	group.Cancel()
	if err := group.Wait(); err != nil {
		t.Errorf("got %v", err)
	}
}
