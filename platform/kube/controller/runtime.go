package controller

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/clock"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/lifecycle"
)

// Client performs the writes of controllers, as *client.Client does.
type Client interface {
	client.Writer
	// Version is one that everything written before the call is part of. kind is one that the controller reads.
	Version(ctx context.Context, kind object.Kind) (string, error)
	// DeleteObject is Delete, and returns the object's last or terminating state.
	DeleteObject(ctx context.Context, obj object.Object, opts client.DeleteOptions) (object.Object, error)
}

// RuntimeConfig describes a Runtime. All fields are required but Workers.
type RuntimeConfig struct {
	Client      Client
	Clock       clock.WithTicker
	Log         *zap.Logger
	Controllers []Controller
	// Workers per controller, default 16.
	Workers int
}

// Runtime runs controllers. Run may be called again after it returned, as when
// leadership comes back. All other methods may be called at any time from anywhere.
type Runtime struct {
	loops []*loop
}

// NewRuntime checks the declarations and subscribes to the inputs.
func NewRuntime(cfg RuntimeConfig) (*Runtime, error) {
	if cfg.Workers == 0 {
		cfg.Workers = 16
	}
	names, writers := map[string]bool{}, map[string]string{}
	r := &Runtime{}
	for _, c := range cfg.Controllers {
		name := c.Name()
		if names[name] {
			return nil, fmt.Errorf("two controllers are named %s", name)
		}
		names[name] = true
		for _, out := range c.Outputs() {
			if other, taken := writers[out.String()]; taken {
				return nil, fmt.Errorf("%s and %s both write %s", other, name, out)
			}
			writers[out.String()] = name
		}
		r.loops = append(r.loops, newLoop(c, cfg))
	}
	partial := map[schema.GroupVersionKind]bool{}
	for _, l := range r.loops {
		l.partial = partial
		for _, in := range l.inputs {
			if p, ok := in.source.(interface{ Partial() bool }); ok && p.Partial() {
				partial[in.source.Kind().GVK] = true
			}
		}
	}
	slices.SortFunc(r.loops, func(a, b *loop) int { return strings.Compare(a.name, b.name) })
	return r, nil
}

// Run works on every controller's queue until ctx ends. It starts with every
// existing key due, since nobody may have worked on it before, and with no loop paused.
func (r *Runtime) Run(ctx context.Context) error {
	tasks := make([]lifecycle.Task, 0, len(r.loops))
	for _, l := range r.loops {
		tasks = append(tasks, l.run)
	}
	return lifecycle.RunAll(ctx, tasks...)
}

// Loops describes every controller, by name.
func (r *Runtime) Loops() []LoopStatus {
	out := make([]LoopStatus, 0, len(r.loops))
	for _, l := range r.loops {
		out = append(out, l.queue.status(l.name))
	}
	return out
}

// Why a queue cannot be paused or resumed.
var (
	errNotRunning = errors.New("the loop does not run")
	errResumed    = errors.New("the loop was resumed meanwhile")
)

// Pause makes a loop work on nothing until Resume; its queue goes on gathering what is due. It
// returns when nothing is in work any more. A pause ends with Run. A loop that is paused stays so.
//
// It fails with a NotFound StatusError that names the loops there are, with ServiceUnavailable
// while the loops do not run, with Conflict when somebody resumes the loop meanwhile, and with
// Timeout when ctx ends before the work in progress does: the loop is paused then all the same.
func (r *Runtime) Pause(ctx context.Context, name string) (LoopStatus, error) {
	l, err := r.find(name)
	if err != nil {
		return LoopStatus{}, err
	}
	err = l.queue.pause(ctx)
	status := l.queue.status(l.name)
	switch {
	case err == nil:
		return status, nil
	case errors.Is(err, errNotRunning):
		return LoopStatus{}, notRunning(name, "pause")
	case errors.Is(err, errResumed):
		return LoopStatus{}, apierrors.NewConflict(loopResource(), name, errResumed)
	default:
		return LoopStatus{}, apierrors.NewTimeoutError(fmt.Sprintf(
			"loop %s is paused, but %d keys are in work still, %s for %s: ask again to wait for them, or see what the log says of them",
			name, status.Active, status.LongestKey, status.Longest.Round(time.Millisecond)), 0)
	}
}

// Resume ends a loop's pause. A loop that is not paused stays so. It fails as Pause does, but for
// Conflict and Timeout.
func (r *Runtime) Resume(name string) (LoopStatus, error) {
	l, err := r.find(name)
	if err != nil {
		return LoopStatus{}, err
	}
	if l.queue.resume() != nil {
		return LoopStatus{}, notRunning(name, "resume")
	}
	return l.queue.status(l.name), nil
}

// loopResource is what errors call a loop.
func loopResource() schema.GroupResource {
	return schema.GroupResource{Group: "kijabi.dev", Resource: "loops"}
}

func (r *Runtime) find(name string) (*loop, error) {
	var names []string
	for _, l := range r.loops {
		if l.name == name {
			return l, nil
		}
		names = append(names, l.name)
	}
	err := apierrors.NewNotFound(loopResource(), name)
	err.ErrStatus.Message = fmt.Sprintf("there is no loop %q: the loops are %s", name, strings.Join(names, ", "))
	return nil, err
}

func notRunning(name, verb string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusServiceUnavailable, Reason: metav1.StatusReasonServiceUnavailable,
		Message: fmt.Sprintf("cannot %s loop %s: the loops do not run here, since this master does not lead", verb, name),
		Details: &metav1.StatusDetails{Group: loopResource().Group, Kind: loopResource().Resource, Name: name},
	}}
}
