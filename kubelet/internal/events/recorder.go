// Package events tells users what happened to their pods. Events are a courtesy:
// they are written beside the work, joined when they repeat, and dropped rather
// than queued without bound.
package events

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"kijabi.dev/platform/kube/object"
)

const (
	queueLength = 256
	// quiet is how long a repetition is only counted.
	quiet      = 30 * time.Second
	forget     = 10 * time.Minute
	maxMessage = 1024
	component  = "kubelet"
)

// Writer creates and updates objects.
type Writer interface {
	Create(ctx context.Context, obj object.Object) (object.Object, error)
	Update(ctx context.Context, obj object.Object) (object.Object, error)
}

// Config of a Recorder; every field is required.
type Config struct {
	Writer   Writer
	NodeName string
	Clock    clock.Clock
	Log      *zap.Logger
}

// Recorder writes events. Safe for concurrent use.
type Recorder struct {
	cfg   Config
	queue chan *corev1.Event

	mu    sync.Mutex
	known map[key]*series
}

type key struct {
	uid             types.UID
	reason, message string
}

type series struct {
	event *corev1.Event
	sent  time.Time
}

// New returns a recorder that writes once it runs.
func New(cfg Config) *Recorder {
	return &Recorder{cfg: cfg, queue: make(chan *corev1.Event, queueLength), known: map[key]*series{}}
}

// Pod records something about a pod. kind is Normal or Warning. It does not block.
func (r *Recorder) Pod(pod *corev1.Pod, kind, reason, message string) {
	r.record(corev1.ObjectReference{
		Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
	}, kind, reason, message)
}

func (r *Recorder) record(about corev1.ObjectReference, kind, reason, message string) {
	if len(message) > maxMessage {
		message = strings.ToValidUTF8(message[:maxMessage], "")
	}
	now := r.cfg.Clock.Now()
	k := key{about.UID, reason, message}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.known[k]
	if s == nil {
		if len(r.known) > 4*queueLength {
			clear(r.known) // joining is a courtesy, too
		}
		s = &series{event: &corev1.Event{
			ObjectMeta:     metav1.ObjectMeta{Namespace: about.Namespace, Name: fmt.Sprintf("%s.%x", about.Name, now.UnixNano())},
			InvolvedObject: about, Reason: reason, Message: message, Type: kind,
			Source:         corev1.EventSource{Component: component, Host: r.cfg.NodeName},
			FirstTimestamp: metav1.NewTime(now), ReportingController: component, ReportingInstance: r.cfg.NodeName,
		}}
		r.known[k] = s
	}
	s.event.Count++
	s.event.LastTimestamp = metav1.NewTime(now)
	if now.Sub(s.sent) < quiet {
		return
	}
	s.sent = now
	select {
	case r.queue <- s.event.DeepCopy():
	default:
	}
}

// Run writes until ctx ends.
func (r *Recorder) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case event := <-r.queue:
			r.write(ctx, event)
		}
	}
}

func (r *Recorder) write(ctx context.Context, event *corev1.Event) {
	bounded, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	var err error
	if event.Count > 1 {
		_, err = r.cfg.Writer.Update(bounded, event)
	}
	if event.Count == 1 || err != nil {
		_, err = r.cfg.Writer.Create(bounded, event)
	}
	if err != nil && ctx.Err() == nil {
		r.cfg.Log.Debug("event not written", zap.String("reason", event.Reason), zap.Error(err))
	}
	now := r.cfg.Clock.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, s := range r.known {
		if now.Sub(s.sent) > forget {
			delete(r.known, k)
		}
	}
}
