package refs

import (
	"context"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/logging"
)

const (
	// patience is how long a first answer is awaited before the snapshot stands in.
	patience = 2 * time.Second
	// maxWatches leaves streams of the connection to everything else; what is beyond is polled.
	maxWatches = 120
	pollEvery  = 30 * time.Second
	retryFirst = 200 * time.Millisecond
	retryLast  = 10 * time.Second
)

// begin is called with mu held and group set.
func (s *Store) begin(e *entry) {
	if e.gone {
		return
	}
	ctx, cancel := context.WithCancel(s.group.Context())
	e.cancel = cancel
	s.group.Go(func(context.Context) error {
		defer cancel()
		switch e.id.kind {
		case kindSecret:
			follow[*corev1.Secret](ctx, s, e)
		case kindClaim:
			follow[*corev1.PersistentVolumeClaim](ctx, s, e)
		case kindVolume:
			follow[*corev1.PersistentVolume](ctx, s, e)
		default:
			follow[*corev1.ConfigMap](ctx, s, e)
		}
		return nil
	})
	s.group.Go(func(context.Context) error {
		select {
		case <-e.ready:
		case <-ctx.Done():
		case <-s.cfg.Clock.After(patience):
			s.restore(e)
		}
		return nil
	})
}

// restore takes the object from the snapshot while no master answers.
func (s *Store) restore(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-e.ready:
		return
	default:
	}
	value, ok := s.snapshot[e.id]
	if !ok {
		return
	}
	obj, err := object.Decode(kindOf(e.id.kind), value)
	if err != nil {
		s.cfg.Log.Error("snapshot of referenced object unusable", logging.Key(e.id.key), zap.Error(err))
		return
	}
	e.obj, e.err = obj, nil
	s.known(e)
	s.notify(e)
	s.touch()
}

// known tells that an object was looked up, found or not. Its claims' volumes are on the list
// of what a pod waits for before the claims are off it. Called with mu held.
func (s *Store) known(e *entry) {
	if e.id.kind == kindClaim {
		for uid := range e.users {
			s.relate(uid)
		}
	}
	e.once.Do(func() { close(e.ready) })
}

func kindOf(name string) object.Kind {
	switch name {
	case kindSecret:
		return object.KindOf[*corev1.Secret]()
	case kindClaim:
		return object.KindOf[*corev1.PersistentVolumeClaim]()
	case kindVolume:
		return object.KindOf[*corev1.PersistentVolume]()
	}
	return object.KindOf[*corev1.ConfigMap]()
}

// follow watches one object, or polls it when there are too many.
func follow[T object.Object](ctx context.Context, s *Store, e *entry) {
	retry := retryFirst
	for ctx.Err() == nil {
		var err error
		select {
		case s.slots <- struct{}{}:
			err = watchOne[T](ctx, s, e)
			<-s.slots
		default:
			err = pollOne[T](ctx, s, e)
		}
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			retry = retryFirst
		} else {
			s.fail(e, err)
		}
		select {
		case <-s.cfg.Clock.After(retry):
		case <-ctx.Done():
		}
		if err != nil {
			retry = min(2*retry, retryLast)
		}
	}
}

func watchOne[T object.Object](ctx context.Context, s *Store, e *entry) error {
	var latest object.Object
	complete := false
	options := client.WatchOptions{
		Namespace: e.id.key.Namespace, FieldSelector: "metadata.name=" + e.id.key.Name, SendInitialEvents: true,
	}
	for message, err := range client.Watch[T](ctx, s.cfg.Client, options) {
		if err != nil {
			return err
		}
		for _, event := range message.Events {
			latest = event.Object
			if event.Type == watch.Deleted {
				latest = nil
			}
		}
		complete = complete || message.InitialEnd
		if complete && (message.InitialEnd || len(message.Events) > 0) {
			s.set(e, latest)
		}
	}
	return nil
}

func pollOne[T object.Object](ctx context.Context, s *Store, e *entry) error {
	for {
		obj, err := client.Get[T](ctx, s.cfg.Client, e.id.key)
		switch {
		case err == nil:
			s.set(e, obj)
		case apierrors.IsNotFound(err):
			s.set(e, nil)
		default:
			return err
		}
		select {
		case <-s.cfg.Clock.After(pollEvery):
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *Store) set(e *entry, obj object.Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	same := e.err == nil && (e.obj == nil) == (obj == nil) &&
		(obj == nil || e.obj.GetResourceVersion() == obj.GetResourceVersion())
	e.obj, e.err = obj, nil
	s.known(e)
	if !same {
		s.notify(e)
		s.touch()
	}
}

// fail records why an object cannot be read. What is known already stays known.
func (s *Store) fail(e *entry, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.obj == nil {
		e.err = err
	}
	if apierrors.IsForbidden(err) {
		e.once.Do(func() { close(e.ready) }) // waiting would not help
	}
}

func (s *Store) notify(e *entry) {
	for uid := range e.users {
		s.cfg.Changed(uid)
	}
}
