package rest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"go.uber.org/zap"
	"google.golang.org/protobuf/encoding/protowire"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

// appendEnvelope begins a protobuf body: magic, then a runtime.Unknown up to its raw
// field, whose size bytes the caller appends. So encoded objects are sent as they are.
func appendEnvelope(b []byte, gvk schema.GroupVersionKind, size int) []byte {
	b = append(b, protobufMagic...)
	apiVersion := gvk.GroupVersion().String()
	var meta []byte
	meta = protowire.AppendTag(meta, 1, protowire.BytesType)
	meta = protowire.AppendString(meta, apiVersion)
	meta = protowire.AppendTag(meta, 2, protowire.BytesType)
	meta = protowire.AppendString(meta, gvk.Kind)
	b = protowire.AppendTag(b, 1, protowire.BytesType)
	b = protowire.AppendBytes(b, meta)
	b = protowire.AppendTag(b, 2, protowire.BytesType)
	return protowire.AppendVarint(b, uint64(size))
}

// protobufBody wraps an encoded object. It ends with the empty contentEncoding and
// contentType, as other encoders write them.
func protobufBody(gvk schema.GroupVersionKind, raw []byte) []byte {
	b := make([]byte, 0, len(raw)+64)
	b = appendEnvelope(b, gvk, len(raw))
	b = append(b, raw...)
	return append(b, envelopeEnd...)
}

const envelopeEnd = "\x1a\x00\x22\x00"

func unmarshalLenient(body []byte, enc encoding, into any) error {
	if enc == encodeYAML {
		return yaml.Unmarshal(body, into)
	}
	return json.Unmarshal(body, into)
}

func marshalJSON(v any, pretty bool) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	if pretty {
		e.SetIndent("", "  ")
	}
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// encodeObject writes one object in a format; apiVersion and kind must be set.
func encodeObject(f format, obj runtime.Object) ([]byte, error) {
	switch f.encoding {
	case encodeProtobuf:
		wire, ok := obj.(interface{ Marshal() ([]byte, error) })
		if !ok {
			return nil, notAcceptable()
		}
		raw, err := wire.Marshal()
		if err != nil {
			return nil, fmt.Errorf("encode %T: %w", obj, err)
		}
		return protobufBody(obj.GetObjectKind().GroupVersionKind(), raw), nil
	case encodeYAML:
		data, err := marshalYAML(obj)
		if err != nil {
			return nil, fmt.Errorf("encode %T: %w", obj, err)
		}
		return data, nil
	default:
		data, err := marshalJSON(obj, f.pretty)
		if err != nil {
			return nil, fmt.Errorf("encode %T: %w", obj, err)
		}
		return data, nil
	}
}

// writeObject answers with one object as it is.
func (s *Server) writeObject(w http.ResponseWriter, f format, code int, obj runtime.Object) {
	data, err := encodeObject(f, obj)
	if err != nil {
		s.cfg.Log.Error("answer could not be encoded", zap.Error(err))
		status := statusOf(err)
		f, code = format{}, int(status.Code)
		if data, err = encodeObject(f, &status); err != nil {
			http.Error(w, "encode status", http.StatusInternalServerError)
			return
		}
	}
	writeBody(w, f.contentType(), code, data)
}

func writeBody(w http.ResponseWriter, contentType string, code int, data []byte) {
	w.Header().Set("Content-Type", contentType)
	if _, compressed := w.(*compressor); !compressed {
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	}
	w.WriteHeader(code)
	_, _ = w.Write(data) // a client that is gone needs no answer
}

func (s *Server) writeJSON(w http.ResponseWriter, r *http.Request, v any) {
	data, err := marshalJSON(v, isTrue(r.URL.Query().Get("pretty")))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	writeBody(w, mediaJSON, http.StatusOK, data)
}

// listMeta of a page.
func listMeta(version, next string, remaining int64) metav1.ListMeta {
	m := metav1.ListMeta{ResourceVersion: version, Continue: next}
	if next != "" && remaining > 0 {
		m.RemainingItemCount = &remaining
	}
	return m
}

// protobufList writes a list whose items are encoded already. Every Kubernetes list has
// metadata as field 1 and items as field 2.
func protobufList(w io.Writer, gvk schema.GroupVersionKind, meta metav1.ListMeta, items [][]byte) error {
	head, err := meta.Marshal()
	if err != nil {
		return fmt.Errorf("encode list metadata: %w", err)
	}
	size := protowire.SizeTag(1) + protowire.SizeBytes(len(head))
	for _, item := range items {
		size += protowire.SizeTag(2) + protowire.SizeBytes(len(item))
	}
	return inPieces(w, func(p *pieces) ([]byte, error) {
		b := appendEnvelope(p.empty(), gvk, size)
		b = protowire.AppendTag(b, 1, protowire.BytesType)
		b = protowire.AppendBytes(b, head)
		for _, item := range items {
			b = protowire.AppendTag(b, 2, protowire.BytesType)
			b = protowire.AppendBytes(b, item)
			if b, err = p.give(b); err != nil {
				return nil, err
			}
		}
		return append(b, envelopeEnd...), nil
	})
}

// metadataOnly keeps the metadata of an encoded object: the protobuf form of a
// PartialObjectMetadata, which has it under the same number.
func metadataOnly(value []byte) ([]byte, error) {
	var out []byte
	for len(value) > 0 {
		number, kind, n := protowire.ConsumeTag(value)
		if n < 0 {
			return nil, fmt.Errorf("read encoded object: %w", protowire.ParseError(n))
		}
		m := protowire.ConsumeFieldValue(number, kind, value[n:])
		if m < 0 {
			return nil, fmt.Errorf("read encoded object: %w", protowire.ParseError(m))
		}
		if number == 1 {
			out = append(out, value[:n+m]...)
		}
		value = value[n+m:]
	}
	return out, nil
}
