// Package events tells users what happened to their objects. Events are a courtesy:
// they are written beside the work, several in one transaction, joined when they
// repeat, combined when they are alike, and dropped rather than kept without bound.
package events

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
)

const (
	// gather is how long an event waits for others that go into the same transaction.
	gather = 50 * time.Millisecond
	// quiet is how long repetitions are only counted.
	quiet = 10 * time.Second
	// forget is how long after its last repetition an event may still be repeated.
	forget = 10 * time.Minute
	// sweep is how often old events are looked for.
	sweep = time.Minute
	// retry is the pause after a transaction that did not get through.
	retry = time.Second
	// batch bounds the events of one transaction.
	batch = 128
	// alike is the number of different messages of one reason about one object;
	// further ones share an event.
	alike = 10
	// remembered bounds the events kept for repetition, and those that wait to be
	// written, perhaps because no master answers; more are dropped.
	remembered = 4096

	timeout    = 3 * time.Second
	maxMessage = 1024
	// maxName leaves room for the suffix that makes an event's name unique.
	maxName  = 253 - 17
	combined = "(combined from similar events): "
)

// Writer performs several writes at once; client.Client does.
type Writer interface {
	Transact(ctx context.Context, ops []client.Op, independent bool) ([]client.OpResult, error)
}

// Config of a Recorder; every field but Host is required.
type Config struct {
	Writer Writer
	// Component is who reports, by the name that users know, such as "kubelet".
	Component string
	// Host is the node of a component that speaks for one.
	Host  string
	Clock clock.Clock
	Log   *zap.Logger
}

// Recorder writes events. Safe for concurrent use.
type Recorder struct {
	cfg  Config
	wake chan struct{} // has a token when an event is new

	mu      sync.Mutex
	topics  map[topic]map[string]*series // by message
	size    int                          // of all series
	pending []*series
}

type topic struct {
	uid                types.UID
	kind, name, reason string
}

// series is an event and its repetitions; mu of the recorder guards it.
type series struct {
	event  *corev1.Event
	stored bool
	queued bool
	due    time.Time // when it may be written
}

// New returns a recorder that writes while it runs.
func New(cfg Config) *Recorder {
	return &Recorder{cfg: cfg, wake: make(chan struct{}, 1), topics: map[topic]map[string]*series{}}
}

// Record notes something about an object of a kind of object.Kinds; others are
// ignored. severity is Normal or Warning. It neither blocks nor keeps about.
func (r *Recorder) Record(about object.Object, severity, reason, message string) {
	r.RecordPart(about, "", severity, reason, message)
}

// RecordPart is Record about a part of an object, such as spec.containers{web}.
func (r *Recorder) RecordPart(about object.Object, fieldPath, severity, reason, message string) {
	kind, err := object.KindOfObject(about)
	if err != nil {
		return
	}
	r.record(corev1.ObjectReference{
		Kind: kind.GVK.Kind, APIVersion: kind.GVK.GroupVersion().String(), Namespace: about.GetNamespace(), Name: about.GetName(),
		UID: about.GetUID(), ResourceVersion: about.GetResourceVersion(), FieldPath: fieldPath,
	}, severity, reason, message)
}

func (r *Recorder) record(about corev1.ObjectReference, severity, reason, message string) {
	now := r.cfg.Clock.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.pending) >= remembered {
		return
	}
	if r.size >= remembered {
		clear(r.topics) // what repeats after this is a new event; joining is a courtesy, too
		r.size = 0
	}
	t := topic{about.UID, about.Kind, about.Name, reason + about.FieldPath}
	known := r.topics[t]
	if known == nil {
		known = map[string]*series{}
		r.topics[t] = known
	}
	key := message
	if known[key] == nil && len(known) >= alike {
		key, message = combined, combined+message
	}
	if len(message) > maxMessage {
		message = strings.ToValidUTF8(message[:maxMessage], "")
	}
	s := known[key]
	if s == nil {
		s = &series{event: r.event(about, severity, reason, now), due: now}
		known[key] = s
		r.size++
	}
	s.event.Message = message
	s.event.Count++
	s.event.LastTimestamp = metav1.NewTime(now)
	if s.queued {
		return
	}
	s.queued = true
	r.pending = append(r.pending, s)
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *Recorder) event(about corev1.ObjectReference, severity, reason string, now time.Time) *corev1.Event {
	namespace := about.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault // where events about cluster-wide objects live
	}
	return &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace,
			Name:      fmt.Sprintf("%s.%x", strings.TrimRight(about.Name[:min(len(about.Name), maxName)], ".-"), now.UnixNano()),
		},
		InvolvedObject: about, Reason: reason, Type: severity,
		Source:         corev1.EventSource{Component: r.cfg.Component, Host: r.cfg.Host},
		FirstTimestamp: metav1.NewTime(now), ReportingController: r.cfg.Component, ReportingInstance: r.cfg.Host,
	}
}

// forgetOld drops what has not repeated for long.
func (r *Recorder) forgetOld(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for t, known := range r.topics {
		for key, s := range known {
			if !s.queued && now.Sub(s.event.LastTimestamp.Time) > forget {
				delete(known, key)
				r.size--
			}
		}
		if len(known) == 0 {
			delete(r.topics, t)
		}
	}
}

// Run writes until ctx ends. It may run again later, with what is left.
func (r *Recorder) Run(ctx context.Context) error {
	swept := r.cfg.Clock.Now()
	for {
		chosen, next := r.take()
		if len(chosen) > 0 {
			if err := r.write(ctx, chosen); err == nil {
				continue
			}
			next = retry
		}
		now := r.cfg.Clock.Now()
		if now.Sub(swept) > sweep {
			r.forgetOld(now)
			swept = now
		}
		var timer <-chan time.Time
		if next > 0 {
			timer = r.cfg.Clock.After(next)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer:
			continue
		case <-r.wake:
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.cfg.Clock.After(gather):
		}
	}
}

// writing is a state of a series on its way to the store.
type writing struct {
	series *series
	event  *corev1.Event
	stored bool
}

// take removes what is due from pending, and returns also how long the rest has to
// wait; 0 if there is none.
func (r *Recorder) take() (chosen []writing, next time.Duration) {
	now := r.cfg.Clock.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	var rest []*series
	for _, s := range r.pending {
		wait := s.due.Sub(now)
		if wait > 0 || len(chosen) == batch {
			rest = append(rest, s)
			if next == 0 || wait < next {
				next = max(wait, time.Millisecond)
			}
			continue
		}
		s.queued = false
		s.due = now.Add(quiet)
		chosen = append(chosen, writing{s, s.event.DeepCopy(), s.stored})
	}
	r.pending = rest
	return chosen, next
}

// write stores events. An error means that none of them got through; they are
// pending again.
func (r *Recorder) write(ctx context.Context, chosen []writing) error {
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	ops := make([]client.Op, 0, len(chosen))
	for _, w := range chosen {
		if w.stored {
			ops = append(ops, client.UpdateOp(w.event, ""))
		} else {
			ops = append(ops, client.CreateOp(w.event))
		}
	}
	results, err := r.cfg.Writer.Transact(bounded, ops, true)
	now := r.cfg.Clock.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, w := range chosen {
		switch {
		case err != nil:
			r.again(w.series, now)
		case results[i].Err == nil || apierrors.IsAlreadyExists(results[i].Err):
			w.series.stored = true
		case w.stored && apierrors.IsNotFound(results[i].Err):
			w.series.stored = false // somebody removed it, but it goes on
			r.again(w.series, now)
		case apierrors.IsServiceUnavailable(results[i].Err), apierrors.IsServerTimeout(results[i].Err),
			apierrors.IsTimeout(results[i].Err), apierrors.IsTooManyRequests(results[i].Err):
			// The masters are choosing a leader: the loop comes back to it.
			r.again(w.series, now.Add(retry))
		default:
			// Such as in a namespace that is going away: nobody will read it.
			r.cfg.Log.Debug("event not written", zap.String("reason", w.event.Reason), zap.Error(results[i].Err))
		}
	}
	return err
}

// again makes a series pending at once. The caller holds mu.
func (r *Recorder) again(s *series, now time.Time) {
	s.due = now
	if !s.queued {
		s.queued = true
		r.pending = append(r.pending, s)
	}
}
