package registry

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
)

// versionWait is how long a read waits for a version this master has not reached yet.
const versionWait = 3 * time.Second

// Get returns an object as of now.
func (e *Engine) Get(ctx context.Context, ref Ref) (*store.Record, error) {
	kind, err := e.resolve(ref, true)
	if err != nil {
		return nil, err
	}
	if err := e.store.Fresh(ctx); err != nil {
		return nil, statusError(err)
	}
	record, ok := e.store.Get(keyOf(kind, ref.Namespace, ref.Name))
	if !ok {
		return nil, notFound(kind, ref.Name)
	}
	if ref.Subresource == "scale" {
		return scaleRecord(kind, record)
	}
	return served(kind, record)
}

// served returns a stored record as the kind shows it.
func served(kind *Kind, record *store.Record) (*store.Record, error) {
	if asStored(kind, record) {
		return record, nil
	}
	obj, err := decode(kind, record)
	if err != nil {
		return nil, err
	}
	value, err := obj.Marshal()
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return &store.Record{Key: record.Key, Version: record.Version, Value: value, Index: record.Index}, nil
}

// continueToken says where a page ended. Later pages show the collection as it was at the
// first page's version, while the store still knows that; after that the client gets a new
// token, with which it sees the rest as it is by then.
type continueToken struct {
	// Version of the first page; 0: the present one.
	Version uint64 `json:"rv,omitempty"`
	// Namespace and Name of the last object sent.
	Namespace string `json:"ns,omitempty"`
	Name      string `json:"name"`
}

func (t continueToken) encode() string {
	text, _ := json.Marshal(t) // a struct of strings and a number
	return base64.RawURLEncoding.EncodeToString(text)
}

func decodeContinue(s string) (continueToken, error) {
	var t continueToken
	text, err := base64.RawURLEncoding.DecodeString(s)
	if err == nil {
		err = json.Unmarshal(text, &t)
	}
	if err != nil || t.Name == "" {
		return t, apierrors.NewBadRequest(fmt.Sprintf("continue key is not valid: %q", truncate(s, 64)))
	}
	return t, nil
}

// tooOld refuses a token whose version is not known any more, and offers one without.
func (t continueToken) tooOld(cause error) error {
	t.Version = 0
	err := apierrors.NewResourceExpired(cause.Error() + ": begin the list anew, or go on with the continue token given here, which shows the rest as it is now")
	err.ErrStatus.Continue = t.encode()
	return err
}

// rest returns the records behind the last one sent.
func (t continueToken) rest(records []*store.Record) []*store.Record {
	start, _ := slices.BinarySearchFunc(records, t, func(r *store.Record, t continueToken) int {
		return cmp.Or(strings.Compare(r.Key.Namespace, t.Namespace), strings.Compare(r.Key.Name, t.Name), -1) // that one was sent
	})
	return records[start:]
}

func truncate(s string, n int) string {
	if len(s) > n {
		return s[:n] + "..."
	}
	return s
}

// List returns a page of a collection.
func (e *Engine) List(ctx context.Context, ref Ref, opts ListOptions) (List, error) {
	kind, err := e.resolve(ref, false)
	if err != nil {
		return List{}, err
	}
	selected, err := parseSelectors(kind, ref, opts.Labels, opts.Fields)
	if err != nil {
		return List{}, err
	}
	snapshot, from, err := e.collection(ctx, kind, ref, opts)
	if err != nil {
		return List{}, err
	}
	list := List{ResourceVersion: object.FormatVersion(snapshot.Version)}
	return page(kind, list, from.rest(snapshot.Records), &selected, opts.Limit, snapshot.Version)
}

// collection returns what a list is made of: the collection at the version that the client
// wants, and behind which object its page begins.
func (e *Engine) collection(ctx context.Context, kind *Kind, ref Ref, opts ListOptions) (store.Snapshot, continueToken, error) {
	resource := keyOf(kind, "", "").Resource
	if opts.Continue == "" {
		if err := e.reach(ctx, opts.ResourceVersion, opts.ResourceVersionMatch); err != nil {
			return store.Snapshot{}, continueToken{}, err
		}
		if opts.ResourceVersionMatch != metav1.ResourceVersionMatchExact {
			return e.store.Snapshot(resource, ref.Namespace), continueToken{}, nil
		}
		exact, err := object.ParseVersion(opts.ResourceVersion)
		if err != nil {
			return store.Snapshot{}, continueToken{}, apierrors.NewBadRequest("invalid resource version: " + err.Error())
		}
		snapshot, err := e.store.SnapshotAt(ctx, resource, ref.Namespace, exact)
		return snapshot, continueToken{}, statusError(err)
	}
	if opts.ResourceVersion != "" && opts.ResourceVersion != "0" {
		return store.Snapshot{}, continueToken{}, apierrors.NewBadRequest("specifying resource version is not allowed when using continue")
	}
	from, err := decodeContinue(opts.Continue)
	if err != nil {
		return store.Snapshot{}, from, err
	}
	if err := e.reach(ctx, object.FormatVersion(from.Version), ""); err != nil {
		return store.Snapshot{}, from, err
	}
	if from.Version == 0 {
		return e.store.Snapshot(resource, ref.Namespace), from, nil
	}
	snapshot, err := e.store.SnapshotAt(ctx, resource, ref.Namespace, from.Version)
	if errors.Is(err, store.ErrExpired) {
		return snapshot, from, from.tooOld(err)
	}
	return snapshot, from, statusError(err)
}

func page(kind *Kind, list List, records []*store.Record, selected *selectors, limit int64, version uint64) (List, error) {
	if selected.all() && (limit <= 0 || int64(len(records)) <= limit) && kind.StoredAs == nil && kind.Custom == nil {
		list.Records = records // shared, as the snapshot is
		return list, nil
	}
	for i, record := range records {
		if !selected.matches(record) {
			continue
		}
		if limit > 0 && int64(len(list.Records)) == limit {
			last := list.Records[limit-1].Key
			list.Continue = continueToken{Version: version, Namespace: last.Namespace, Name: last.Name}.encode()
			if selected.all() {
				list.Remaining = int64(len(records) - i)
			}
			break
		}
		shown, err := served(kind, record)
		if err != nil {
			return List{}, err
		}
		list.Records = append(list.Records, shown)
	}
	return list, nil
}

// reach waits until memory may answer a read of a resource version.
func (e *Engine) reach(ctx context.Context, version string, match metav1.ResourceVersionMatch) error {
	if match != "" && version == "" {
		return apierrors.NewBadRequest("resourceVersionMatch is forbidden unless resourceVersion is provided")
	}
	if match == metav1.ResourceVersionMatchExact && version == "0" {
		return apierrors.NewBadRequest(`resourceVersionMatch "Exact" is forbidden for resourceVersion "0"`)
	}
	wanted, err := object.ParseVersion(version)
	if err != nil {
		return apierrors.NewBadRequest("invalid resource version: " + err.Error())
	}
	// Version 0 is answered as fresh as none: a reader must never go back in time.
	if wanted == 0 {
		return statusError(e.store.Fresh(ctx))
	}
	if e.store.Version() >= wanted {
		return nil
	}
	waiting, cancel := context.WithTimeout(ctx, versionWait)
	defer cancel()
	if err := e.store.WaitVersion(waiting, wanted); err != nil {
		return tooLarge(wanted, e.store.Version())
	}
	return nil
}

func tooLarge(wanted, current uint64) error {
	err := apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %d, current: %d", wanted, current), 1)
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{
		Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version",
	}}
	return err
}

// Watch yields what happens to a collection.
func (e *Engine) Watch(ctx context.Context, ref Ref, opts WatchOptions) (iter.Seq2[WatchBatch, error], error) {
	kind, err := e.resolve(ref, false)
	if err != nil {
		return nil, err
	}
	selected, err := parseSelectors(kind, ref, opts.Labels, opts.Fields)
	if err != nil {
		return nil, err
	}
	version, err := object.ParseVersion(opts.ResourceVersion)
	if err != nil {
		return nil, apierrors.NewBadRequest("invalid resource version: " + err.Error())
	}
	want := selected.watchOptions(kind, ref.Namespace)
	initial := version == 0
	if opts.SendInitialEvents != nil {
		initial = *opts.SendInitialEvents
	}
	if !initial && version != 0 {
		return e.watchFrom(ctx, kind, want, version)
	}
	if err := e.reach(ctx, opts.ResourceVersion, ""); err != nil {
		return nil, err
	}
	snapshot, watcher, err := e.store.SnapshotAndWatch(ctx, want)
	if err != nil {
		return nil, statusError(err)
	}
	if !initial {
		return e.changes(ctx, kind, watcher, WatchBatch{Progress: snapshot.Version}), nil
	}
	first := WatchBatch{Progress: snapshot.Version, InitialEnd: true}
	for _, record := range snapshot.Records {
		if selected.matches(record) {
			first.Events = append(first.Events, store.Event{Type: store.Added, Record: record})
		}
	}
	return e.changes(ctx, kind, watcher, first), nil
}

func (e *Engine) watchFrom(ctx context.Context, kind *Kind, want store.WatchOptions, version uint64) (iter.Seq2[WatchBatch, error], error) {
	if e.store.Version() < version {
		if err := e.reach(ctx, object.FormatVersion(version), ""); err != nil {
			return nil, err
		}
	}
	want.After = version
	watcher, err := e.store.Watch(ctx, want)
	if err != nil {
		return nil, statusError(err)
	}
	return e.changes(ctx, kind, watcher, WatchBatch{}), nil
}

// changes yields first and then what the watcher sees. The watcher is closed when the
// iteration ends; one that is never begun is closed with ctx.
func (e *Engine) changes(ctx context.Context, kind *Kind, watcher *store.Watcher, first WatchBatch) iter.Seq2[WatchBatch, error] {
	stop := context.AfterFunc(ctx, watcher.Close)
	return func(yield func(WatchBatch, error) bool) {
		defer stop()
		defer watcher.Close()
		if first.InitialEnd || first.Progress > 0 {
			if err := showEvents(kind, &first); err != nil {
				yield(WatchBatch{}, err)
				return
			}
			if !yield(first, nil) {
				return
			}
		}
		for {
			batch, err := watcher.Next(ctx)
			if err != nil {
				if ctx.Err() == nil {
					yield(WatchBatch{}, statusError(err))
				}
				return
			}
			out := WatchBatch{Events: batch.Events, Progress: batch.Progress}
			if err := showEvents(kind, &out); err != nil {
				yield(WatchBatch{}, err)
				return
			}
			if !yield(out, nil) {
				return
			}
		}
	}
}

// showEvents converts a batch to the served kind.
func showEvents(kind *Kind, batch *WatchBatch) error {
	if kind.StoredAs == nil && kind.Custom == nil || len(batch.Events) == 0 {
		return nil
	}
	events := make([]store.Event, len(batch.Events))
	for i, event := range batch.Events {
		shown, err := served(kind, event.Record)
		if err != nil {
			return err
		}
		events[i] = store.Event{Type: event.Type, Record: shown, Previous: event.Previous}
	}
	batch.Events = events
	return nil
}
