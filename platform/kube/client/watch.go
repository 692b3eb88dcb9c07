package client

import (
	"context"
	"errors"
	"io"
	"iter"

	"k8s.io/apimachinery/pkg/watch"

	"kijabi.dev/platform/kube/object"
	objectv1pb "kijabi.dev/proto/gen/kijabi/object/v1"
)

// WatchOptions select changes.
type WatchOptions struct {
	Namespace     string // empty means all
	LabelSelector string
	FieldSelector string
	// ResourceVersion after which changes are sent; empty starts now.
	ResourceVersion string
	// SendInitialEvents sends the current objects first, as Added.
	SendInitialEvents bool
}

// Event is one change of an object.
type Event[T object.Object] struct {
	// Type is watch.Added, watch.Modified or watch.Deleted.
	Type watch.EventType
	// Object after the change; for Deleted its last state.
	Object T
}

// WatchMessage carries changes in order.
type WatchMessage[T object.Object] struct {
	Events []Event[T]
	// Progress is the version up to which everything has been sent; empty if not said.
	Progress string
	// InitialEnd is set once all initial objects have been sent.
	InitialEnd bool
}

// Watch yields changes until ctx ends or the stream fails; the last pair then
// carries the error. A watch that the server ends in good order yields no error.
func Watch[T object.Object](ctx context.Context, c *Client, opts WatchOptions) iter.Seq2[WatchMessage[T], error] {
	return WatchKind[T](ctx, c, object.KindOf[T](), opts)
}

// WatchKind is Watch for a kind that is only known at run time, whose objects are Ts.
func WatchKind[T object.Object](ctx context.Context, c *Client, kind object.Kind, opts WatchOptions) iter.Seq2[WatchMessage[T], error] {
	return func(yield func(WatchMessage[T], error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := c.objects.Watch(ctx, &objectv1pb.WatchRequest{
			Resource:          resource(kind),
			Namespace:         opts.Namespace,
			LabelSelector:     opts.LabelSelector,
			FieldSelector:     opts.FieldSelector,
			ResourceVersion:   opts.ResourceVersion,
			SendInitialEvents: opts.SendInitialEvents,
		})
		if err != nil {
			yield(WatchMessage[T]{}, err)
			return
		}
		for {
			res, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(WatchMessage[T]{}, err)
				return
			}
			message, err := watchMessage[T](kind, res)
			if !yield(message, err) || err != nil {
				return
			}
		}
	}
}

func watchMessage[T object.Object](kind object.Kind, res *objectv1pb.WatchResponse) (WatchMessage[T], error) {
	message := WatchMessage[T]{
		Events:     make([]Event[T], 0, len(res.GetEvents())),
		Progress:   res.GetProgress(),
		InitialEnd: res.GetInitialEventsEnd(),
	}
	for _, event := range res.GetEvents() {
		obj, err := unpackAs[T](event.GetObject())
		if err != nil {
			return WatchMessage[T]{}, err
		}
		named(kind, obj)
		var eventType watch.EventType
		switch event.GetType() {
		case objectv1pb.EventType_EVENT_TYPE_ADDED:
			eventType = watch.Added
		case objectv1pb.EventType_EVENT_TYPE_MODIFIED:
			eventType = watch.Modified
		case objectv1pb.EventType_EVENT_TYPE_DELETED:
			eventType = watch.Deleted
		case objectv1pb.EventType_EVENT_TYPE_UNSPECIFIED:
			return WatchMessage[T]{}, errors.New("watch: event without a type")
		}
		message.Events = append(message.Events, Event[T]{Type: eventType, Object: obj})
	}
	return message, nil
}
