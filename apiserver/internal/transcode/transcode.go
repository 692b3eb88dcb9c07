// Package transcode writes stored objects as JSON without decoding them: from the
// protobuf encoding of a Kubernetes Go type straight to what encoding/json makes of the
// decoded object, byte for byte. A plan per type, made from the tags of its fields, says
// how.
//
// It reads what encoders of the Go types write, and the resource version that the store
// appends. Any other encoding of an object is decoded, and means what it means there.
package transcode

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/platform/kube/object"
)

// Transcoders holds one Transcoder for each kind that it was asked for. The zero value is
// ready. It is safe for concurrent use.
type Transcoders struct {
	mu    sync.Mutex
	plans compiler
	kinds map[schema.GroupVersionKind]*Transcoder
	// spare writers, for their room.
	spare sync.Pool
}

// Of returns the Transcoder of a kind's objects.
func (t *Transcoders) Of(kind object.Kind) *Transcoder {
	return t.of(kind.GVK, reflect.TypeOf(kind.New()), func(value []byte) (any, error) {
		return object.Decode(kind, value)
	})
}

// OfMetadata returns the Transcoder that shows objects of any kind as
// PartialObjectMetadata; gvk says in which version of it.
func (t *Transcoders) OfMetadata(gvk schema.GroupVersionKind) *Transcoder {
	return t.of(gvk, reflect.TypeFor[*metav1.PartialObjectMetadata](), func(value []byte) (any, error) {
		obj := &metav1.PartialObjectMetadata{}
		if err := obj.Unmarshal(value); err != nil {
			return nil, fmt.Errorf("decode metadata: %w", err)
		}
		obj.SetGroupVersionKind(gvk)
		return obj, nil
	})
}

func (t *Transcoders) of(gvk schema.GroupVersionKind, goType reflect.Type, decode func([]byte) (any, error)) *Transcoder {
	t.mu.Lock()
	defer t.mu.Unlock()
	if known, ok := t.kinds[gvk]; ok && known.goType == goType {
		return known
	}
	if t.kinds == nil {
		t.kinds, t.plans = map[schema.GroupVersionKind]*Transcoder{}, compiler{}
	}
	made := &Transcoder{goType: goType, decode: decode, item: &message{decoded: true}, spare: &t.spare}
	if goType.Elem().Kind() == reflect.Struct {
		made.item = t.plans.of(goType.Elem())
	}
	made.whole = withHead(made.item, gvk)
	t.kinds[gvk] = made
	return made
}

// Transcoder writes objects of one kind. It is immutable.
type Transcoder struct {
	goType reflect.Type
	// whole shows apiVersion and kind, item does not.
	whole, item *message
	// decode returns the object with its apiVersion and kind.
	decode func(value []byte) (any, error)
	spare  *sync.Pool
}

// Append appends an encoded object to dst, with its apiVersion and kind. It fails where
// decoding the object does; dst is returned as it was then.
func (t *Transcoder) Append(dst, value []byte) ([]byte, error) {
	return t.append(dst, value, t.whole)
}

// AppendItem is Append for items of a list of the kind, which carry neither apiVersion nor
// kind.
func (t *Transcoder) AppendItem(dst, value []byte) ([]byte, error) {
	return t.append(dst, value, t.item)
}

func (t *Transcoder) append(dst, value []byte, m *message) ([]byte, error) {
	if !m.decoded && len(value) < math.MaxInt32 {
		w, _ := t.spare.Get().(*writer)
		if w == nil {
			w = &writer{fields: make([]span, 256)}
		}
		w.value, w.version = value, span{}
		out, ok := w.object(dst, m, span{0, uint32(len(value))}, 0, 0) //nolint:gosec // checked
		w.value = nil
		t.spare.Put(w)
		if ok {
			return out, nil
		}
	}
	obj, err := t.decode(value)
	if err != nil {
		return dst, err
	}
	if typed, ok := obj.(interface {
		SetGroupVersionKind(gvk schema.GroupVersionKind)
	}); ok && m == t.item {
		typed.SetGroupVersionKind(schema.GroupVersionKind{})
	}
	var out bytes.Buffer
	if err := json.NewEncoder(&out).Encode(obj); err != nil {
		return dst, fmt.Errorf("encode %s: %w", t.goType.Elem().Name(), err)
	}
	return append(dst, bytes.TrimSuffix(out.Bytes(), []byte("\n"))...), nil
}
