package rest

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"unicode/utf8"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
)

// get answers with one object.
func (s *Server) get(w http.ResponseWriter, r *http.Request, t target) error {
	f, err := t.negotiate(r)
	if err != nil {
		return err
	}
	record, err := s.cfg.Registry.Get(r.Context(), t.ref)
	if err != nil {
		return err
	}
	if f.shape == shapeObject && f.encoding == encodeProtobuf {
		writeBody(w, mediaProtobuf, http.StatusOK, protobufBody(t.gvk(), record.Value))
		return nil
	}
	if f.shape == shapePartial && f.encoding == encodeProtobuf {
		raw, err := metadataOnly(record.Value)
		if err != nil {
			return err
		}
		writeBody(w, mediaProtobuf, http.StatusOK, protobufBody(partialKind(f, ""), raw))
		return nil
	}
	if f.transcodes() {
		return s.writeTranscoded(w, f, http.StatusOK, t, record)
	}
	obj, err := decodeRecord(t, record)
	if err != nil {
		return err
	}
	return s.writeShaped(w, r, f, http.StatusOK, t, obj)
}

// bodyKind is the kind of the stored object, or of the body of a subresource.
func (t target) bodyKind() (object.Kind, error) {
	if t.sub == nil || t.sub.GVK == t.kind.GVK {
		return t.kind.Kind, nil
	}
	body, ok := object.KindFor(t.sub.GVK)
	if !ok {
		return object.Kind{}, fmt.Errorf("no kind %s for %s of %s", t.sub.GVK, t.sub.Name, t.kind.GVR.Resource)
	}
	return body, nil
}

// decodeRecord decodes a stored object, or the body of a subresource.
func decodeRecord(t target, record *store.Record) (object.Object, error) {
	kind, err := t.bodyKind()
	if err != nil {
		return nil, err
	}
	return object.Decode(kind, record.Value)
}

// writeShaped answers with an object in the negotiated shape.
func (s *Server) writeShaped(w http.ResponseWriter, r *http.Request, f format, code int, t target, obj object.Object) error {
	obj.GetObjectKind().SetGroupVersionKind(t.gvk())
	switch f.shape {
	case shapeTable:
		include, err := includeObject(r)
		if err != nil {
			return err
		}
		table := s.newTable(f, t, metav1.ListMeta{ResourceVersion: obj.GetResourceVersion()})
		row, err := s.row(f, t, obj, include)
		if err != nil {
			return err
		}
		table.Rows = append(table.Rows, row)
		s.writeObject(w, f, code, table)
	case shapePartial:
		s.writeObject(w, f, code, partial(f, obj))
	default:
		s.writeObject(w, f, code, obj)
	}
	return nil
}

// selection reads what a list, watch or collection deletion is restricted to.
func selection(r *http.Request, t target) (labels.Selector, string, error) {
	query := r.URL.Query()
	selector, err := labels.Parse(query.Get("labelSelector"))
	if err != nil {
		return nil, "", apierrors.NewBadRequest("unable to parse labelSelector: " + err.Error())
	}
	fieldSelector := query.Get("fieldSelector")
	if !utf8.ValidString(fieldSelector) {
		return nil, "", apierrors.NewBadRequest("unable to parse fieldSelector: it is no UTF-8")
	}
	if _, err := fields.ParseSelector(fieldSelector); err != nil {
		return nil, "", apierrors.NewBadRequest("unable to parse fieldSelector: " + err.Error())
	}
	if t.ref.Name != "" { // a watch of one object
		one := fields.OneTermEqualSelector("metadata.name", t.ref.Name).String()
		if fieldSelector != "" {
			one += "," + fieldSelector
		}
		fieldSelector = one
	}
	return selector, fieldSelector, nil
}

func listOptions(r *http.Request, t target) (registry.ListOptions, error) {
	query := r.URL.Query()
	selector, fieldSelector, err := selection(r, t)
	if err != nil {
		return registry.ListOptions{}, err
	}
	opts := registry.ListOptions{
		Labels: selector, Fields: fieldSelector, Continue: query.Get("continue"),
		ResourceVersion: query.Get("resourceVersion"), ResourceVersionMatch: metav1.ResourceVersionMatch(query.Get("resourceVersionMatch")),
	}
	if limit := query.Get("limit"); limit != "" {
		if opts.Limit, err = strconv.ParseInt(limit, 10, 64); err != nil || opts.Limit < 0 {
			return opts, apierrors.NewBadRequest(fmt.Sprintf("limit %q is not a number of objects", limit))
		}
	}
	if query.Has("sendInitialEvents") {
		return opts, invalidListOptions("sendInitialEvents", "sendInitialEvents is forbidden for list")
	}
	switch opts.ResourceVersionMatch {
	case "":
	case metav1.ResourceVersionMatchExact, metav1.ResourceVersionMatchNotOlderThan:
		if opts.ResourceVersion == "" {
			return opts, invalidListOptions("resourceVersionMatch", "resourceVersionMatch is forbidden unless resourceVersion is provided")
		}
		if opts.Continue != "" {
			return opts, invalidListOptions("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided")
		}
		if opts.ResourceVersionMatch == metav1.ResourceVersionMatchExact && opts.ResourceVersion == "0" {
			return opts, invalidListOptions("resourceVersionMatch", `resourceVersionMatch "exact" is forbidden for resourceVersion "0"`)
		}
	default:
		return opts, invalidListOptions("resourceVersionMatch", fmt.Sprintf("unsupported value %q: supported values: %q, %q", opts.ResourceVersionMatch, metav1.ResourceVersionMatchExact, metav1.ResourceVersionMatchNotOlderThan))
	}
	return opts, nil
}

// list answers with a page of a collection.
func (s *Server) list(w http.ResponseWriter, r *http.Request, t target) error {
	f, err := t.negotiate(r)
	if err != nil {
		return err
	}
	include, err := includeObject(r)
	if err != nil {
		return err
	}
	opts, err := listOptions(r, t)
	if err != nil {
		return err
	}
	page, err := s.cfg.Registry.List(r.Context(), t.ref, opts)
	if err != nil {
		return err
	}
	meta := listMeta(page.ResourceVersion, page.Continue, page.Remaining)
	switch {
	case f.shape == shapeTable:
		table := s.newTable(f, t, meta)
		for _, record := range page.Records {
			obj, err := decodeRecord(t, record)
			if err != nil {
				return err
			}
			row, err := s.row(f, t, obj, include)
			if err != nil {
				return err
			}
			table.Rows = append(table.Rows, row)
		}
		s.writeObject(w, f, http.StatusOK, table)
		return nil
	case f.encoding == encodeProtobuf:
		items, err := encodedItems(f, page.Records)
		if err != nil {
			return err
		}
		w.Header().Set("Content-Type", mediaProtobuf)
		w.WriteHeader(http.StatusOK)
		abortOn(protobufList(w, listKind(f, t), meta, items))
		return nil
	case f.encoding == encodeYAML:
		data, err := s.yamlList(f, t, page, meta)
		if err != nil {
			return err
		}
		writeBody(w, f.contentType(), http.StatusOK, data)
		return nil
	default:
		w.Header().Set("Content-Type", f.contentType())
		w.WriteHeader(http.StatusOK)
		abortOn(s.jsonList(w, f, t, page.Records, meta))
		return nil
	}
}

// abortOn ends a request whose answer has begun: the client must see it broken off,
// not shortened.
func abortOn(err error) {
	if err != nil {
		panic(http.ErrAbortHandler)
	}
}

func encodedItems(f format, records []*store.Record) ([][]byte, error) {
	items := make([][]byte, 0, len(records))
	for _, record := range records {
		value := record.Value
		if f.shape == shapePartial {
			var err error
			if value, err = metadataOnly(value); err != nil {
				return nil, err
			}
		}
		items = append(items, value)
	}
	return items, nil
}

func listKind(f format, t target) schema.GroupVersionKind {
	if f.shape == shapePartial {
		return partialKind(f, "List")
	}
	return t.kind.GVK.GroupVersion().WithKind(t.kind.GVK.Kind + "List")
}

// jsonList writes a list of encoded objects as JSON.
func (s *Server) jsonList(w io.Writer, f format, t target, records []*store.Record, meta metav1.ListMeta) error {
	gvk := listKind(f, t)
	head, err := marshalJSON(meta, false)
	if err != nil {
		return err
	}
	write, err := s.transcoding(f, t, true)
	if err != nil {
		return err
	}
	return inPieces(w, func(p *pieces) ([]byte, error) {
		b := fmt.Appendf(p.empty(), `{"kind":%q,"apiVersion":%q,"metadata":%s,"items":[`, gvk.Kind, gvk.GroupVersion().String(), trimNewline(head))
		for i, record := range records {
			if i > 0 {
				b = append(b, ',')
			}
			if b, err = write(b, record.Value); err != nil {
				return nil, err
			}
			if b, err = p.give(b); err != nil {
				return nil, err
			}
		}
		return append(b, "]}\n"...), nil
	})
}

// transcoding returns what appends a stored object, or its metadata, as JSON.
func (s *Server) transcoding(f format, t target, item bool) (func(dst, value []byte) ([]byte, error), error) {
	if f.shape == shapePartial {
		return s.transcoders.OfMetadata(partialKind(f, "")).Append, nil
	}
	kind, err := t.bodyKind()
	if err != nil {
		return nil, err
	}
	if item && !t.isCustom() { // items of a typed list carry neither apiVersion nor kind
		return s.transcoders.Of(kind).AppendItem, nil
	}
	return s.transcoders.Of(kind).Append, nil
}

// transcodes tells whether a format shows stored objects in a form for which nothing needs
// decoding.
func (f format) transcodes() bool {
	return f.encoding == encodeJSON && f.shape != shapeTable && !f.pretty
}

// writeTranscoded answers with a stored object as JSON.
func (s *Server) writeTranscoded(w http.ResponseWriter, f format, code int, t target, record *store.Record) error {
	write, err := s.transcoding(f, t, false)
	if err != nil {
		return err
	}
	data, err := write(make([]byte, 0, 2*len(record.Value)+64), record.Value)
	if err != nil {
		return err
	}
	writeBody(w, f.contentType(), code, append(data, '\n'))
	return nil
}

func trimNewline(b []byte) []byte {
	if n := len(b); n > 0 && b[n-1] == '\n' {
		return b[:n-1]
	}
	return b
}

func (s *Server) yamlList(f format, t target, page registry.List, meta metav1.ListMeta) ([]byte, error) {
	var b byteBuffer
	if err := s.jsonList(&b, f, t, page.Records, meta); err != nil {
		return nil, fmt.Errorf("encode list of %s: %w", t.kind.GVR.Resource, err)
	}
	return jsonToYAML(b)
}

// byteBuffer is the simplest io.Writer into memory.
type byteBuffer []byte

func (b *byteBuffer) Write(p []byte) (int, error) {
	*b = append(*b, p...)
	return len(p), nil
}
