package rest

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/encoding/protowire"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	watchapi "k8s.io/apimachinery/pkg/watch"

	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
)

// bookmarkEvery is the least time between two bookmarks of an idle watch.
const bookmarkEvery = 10 * time.Second

// watchOptions reads the query of a watch.
func watchOptions(r *http.Request, t target) (registry.WatchOptions, error) {
	query := r.URL.Query()
	selector, fieldSelector, err := selection(r, t)
	if err != nil {
		return registry.WatchOptions{}, err
	}
	opts := registry.WatchOptions{
		Labels: selector, Fields: fieldSelector, ResourceVersion: query.Get("resourceVersion"),
		Bookmarks: isTrue(query.Get("allowWatchBookmarks")),
	}
	match := metav1.ResourceVersionMatch(query.Get("resourceVersionMatch"))
	initial := query.Get("sendInitialEvents")
	if initial == "" {
		if match != "" {
			return opts, invalidListOptions("resourceVersionMatch", "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")
		}
		return opts, nil
	}
	wanted := isTrue(initial)
	opts.SendInitialEvents = &wanted
	if match != metav1.ResourceVersionMatchNotOlderThan {
		return opts, invalidListOptions("resourceVersionMatch", "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
	}
	return opts, nil
}

// watchTimeout ends a watch that names no time after half an hour to an hour, so that
// clients spread anew over the masters.
func watchTimeout(r *http.Request) (time.Duration, error) {
	asked := r.URL.Query().Get("timeoutSeconds")
	if asked == "" || asked == "0" {
		return 30*time.Minute + rand.N(30*time.Minute), nil
	}
	seconds, err := strconv.ParseInt(asked, 10, 32)
	if err != nil || seconds < 0 {
		return 0, apierrors.NewBadRequest(fmt.Sprintf("timeoutSeconds %q is not a number of seconds", asked))
	}
	return time.Duration(seconds) * time.Second, nil
}

// watchWriter writes events in the negotiated format.
type watchWriter struct {
	s       *Server
	w       http.ResponseWriter
	f       format
	t       target
	include metav1.IncludeObjectPolicy
	// columnsSent is true once a table event has told the columns.
	columnsSent  bool
	lastBookmark time.Time
	frame        []byte
	// transcode appends a stored object; nil before the first.
	transcode func(dst, value []byte) ([]byte, error)
	// sent counts events.
	sent func(events int)
}

// serveWatch serves a watch for as long as its caller still may.
func (s *Server) serveWatch(w http.ResponseWriter, r *http.Request, t target, still func(context.Context) error) {
	ctx, cancel := s.untilStop(r.Context())
	defer cancel()
	if err := s.watch(ctx, w, r, t, still); err != nil {
		s.failSoon(w, r, err)
	}
}

// watch streams until the time is over, the client leaves, the server stops or the
// registry ends it. It returns an error only before the answer has begun.
func (s *Server) watch(ctx context.Context, w http.ResponseWriter, r *http.Request, t target, still func(context.Context) error) error {
	f, err := t.negotiate(r)
	if err != nil {
		return err
	}
	if f.encoding == encodeYAML {
		return notAcceptable() // YAML has no frames
	}
	include, err := includeObject(r)
	if err != nil {
		return err
	}
	opts, err := watchOptions(r, t)
	if err != nil {
		return err
	}
	timeout, err := watchTimeout(r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	ref := t.ref
	ref.Name = "" // selection made it a field selector
	batches, err := s.cfg.Registry.Watch(ctx, ref, opts)
	if err != nil {
		return err
	}
	contentType := f.contentType()
	if f.encoding == encodeProtobuf {
		contentType = mediaProtobuf + ";stream=watch"
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-cache, private")
	w.WriteHeader(http.StatusOK)
	out := &watchWriter{s: s, w: w, f: f, t: t, sent: observation(r).Sent, include: include, lastBookmark: s.cfg.Clock.Now()}
	out.flush()
	for batch, err := range batches {
		if err == nil {
			err = still(ctx)
		}
		if err != nil {
			if ctx.Err() == nil {
				out.sendError(err)
			}
			return nil
		}
		if err := out.send(batch, opts); err != nil {
			if ctx.Err() == nil {
				s.cfg.Log.Debug("watch ended", zap.String("resource", t.ref.Resource.Resource), zap.Error(err))
			}
			return nil
		}
	}
	return nil
}

func (o *watchWriter) flush() {
	_ = http.NewResponseController(o.w).Flush() // no flush, no stream: the next write tells
}

// send writes one batch and flushes it.
func (o *watchWriter) send(batch registry.WatchBatch, opts registry.WatchOptions) error {
	for _, event := range batch.Events {
		if err := o.event(event); err != nil {
			return err
		}
	}
	o.sent(len(batch.Events))
	now := o.s.cfg.Clock.Now()
	atEnd := batch.InitialEnd && opts.SendInitialEvents != nil && *opts.SendInitialEvents
	idle := len(batch.Events) == 0 && now.Sub(o.lastBookmark) >= bookmarkEvery
	if opts.Bookmarks && (atEnd || idle) && batch.Progress > 0 {
		if err := o.bookmark(batch.Progress, atEnd); err != nil {
			return err
		}
		o.lastBookmark = now
	} else if len(batch.Events) == 0 {
		return nil
	}
	o.flush()
	return nil
}

func eventType(t store.EventType) watchapi.EventType {
	switch t {
	case store.Added:
		return watchapi.Added
	case store.Deleted:
		return watchapi.Deleted
	default:
		return watchapi.Modified
	}
}

func (o *watchWriter) event(event store.Event) error {
	kind := eventType(event.Type)
	if o.f.encoding == encodeProtobuf {
		gvk, raw := o.t.gvk(), event.Record.Value
		if o.f.shape == shapePartial {
			var err error
			if raw, err = metadataOnly(raw); err != nil {
				return err
			}
			gvk = partialKind(o.f, "")
		}
		return o.protobufFrame(kind, protobufBody(gvk, raw))
	}
	if o.f.transcodes() {
		return o.stored(kind, event.Record)
	}
	obj, err := decodeRecord(o.t, event.Record)
	if err != nil {
		return err
	}
	return o.object(kind, obj)
}

// stored writes an event of a stored object as JSON.
func (o *watchWriter) stored(kind watchapi.EventType, record *store.Record) (err error) {
	if o.transcode == nil {
		if o.transcode, err = o.s.transcoding(o.f, o.t, false); err != nil {
			return err
		}
	}
	if o.frame, err = o.transcode(appendEventHead(o.frame[:0], kind), record.Value); err != nil {
		return fmt.Errorf("encode event: %w", err)
	}
	return o.endEvent()
}

// appendEventHead begins a JSON event, up to its object.
func appendEventHead(b []byte, kind watchapi.EventType) []byte {
	b = append(b, `{"type":"`...)
	b = append(b, kind...)
	return append(b, `","object":`...)
}

// endEvent ends the JSON event in o.frame and writes it.
func (o *watchWriter) endEvent() error {
	o.frame = append(o.frame, "}\n"...)
	_, err := o.w.Write(o.frame)
	return err
}

// object writes an event that carries a decoded object.
func (o *watchWriter) object(kind watchapi.EventType, obj object.Object) error {
	var shown runtime.Object = obj
	switch o.f.shape {
	case shapeTable:
		table := o.s.newTable(o.f, o.t, metav1.ListMeta{ResourceVersion: obj.GetResourceVersion()})
		if o.columnsSent {
			table.ColumnDefinitions = nil
		}
		o.columnsSent = true
		row, err := o.s.row(o.f, o.t, obj, o.include)
		if err != nil {
			return err
		}
		if kind == watchapi.Bookmark {
			row.Cells = []any{}
		}
		table.Rows = append(table.Rows, row)
		shown = table
	case shapePartial:
		shown = partial(o.f, obj)
	case shapeObject:
	}
	return o.any(kind, shown)
}

// any writes an event in the stream's encoding.
func (o *watchWriter) any(kind watchapi.EventType, obj runtime.Object) error {
	if o.f.encoding == encodeProtobuf {
		body, err := encodeObject(o.f, obj)
		if err != nil {
			return err
		}
		return o.protobufFrame(kind, body)
	}
	data, err := marshalJSON(obj, false)
	if err != nil {
		return fmt.Errorf("encode event: %w", err)
	}
	o.frame = append(appendEventHead(o.frame[:0], kind), trimNewline(data)...)
	return o.endEvent()
}

// protobufFrame writes a metav1.WatchEvent behind its length.
func (o *watchWriter) protobufFrame(kind watchapi.EventType, body []byte) error {
	// WatchEvent{type=1, object=2 RawExtension{raw=1}}
	b := append(o.frame[:0], 0, 0, 0, 0)
	b = protowire.AppendTag(b, 1, protowire.BytesType)
	b = protowire.AppendString(b, string(kind))
	b = protowire.AppendTag(b, 2, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(protowire.SizeTag(1)+protowire.SizeBytes(len(body))))
	b = protowire.AppendTag(b, 1, protowire.BytesType)
	b = protowire.AppendBytes(b, body)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4)) //nolint:gosec // objects are at most a few MB
	o.frame = b
	_, err := o.w.Write(b)
	return err
}

// bookmark tells how far the watch has come.
func (o *watchWriter) bookmark(version uint64, initialEnd bool) error {
	obj := o.t.kind.New()
	obj.SetResourceVersion(object.FormatVersion(version))
	if initialEnd {
		obj.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	obj.GetObjectKind().SetGroupVersionKind(o.t.kind.GVK)
	return o.object(watchapi.Bookmark, obj)
}

// sendError ends the stream with a Status.
func (o *watchWriter) sendError(err error) {
	status := statusOf(err)
	if o.any(watchapi.Error, &status) == nil {
		o.flush()
	}
}
