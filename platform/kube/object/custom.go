package object

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	strictjson "sigs.k8s.io/json"
)

// customTypeURL is what an Any with a custom object carries.
const customTypeURL = typeURLPrefix + "kijabi.object.v1.JSONObject"

// Fields of the message JSONObject. Metadata has the number that it has in every
// Kubernetes object, and its encoding.
const (
	fieldMetadata   protowire.Number = 1
	fieldAPIVersion protowire.Number = 2
	fieldKind       protowire.Number = 3
	fieldContent    protowire.Number = 4
	fieldRevision   protowire.Number = 5
)

// Custom is an object of a kind that users have defined. Beside its metadata it holds
// arbitrary JSON, which stays encoded until somebody asks for it. Encoded as protobuf it is
// the message JSONObject.
//
// A Custom that is shared must not be asked for its Content, since that decodes it in place.
type Custom struct {
	metav1.TypeMeta
	metav1.ObjectMeta
	// Resource is the plural name of the kind, as far as whoever made the object knows it. It
	// does not travel.
	Resource string
	// Revision is that of the definition whose defaults the content holds; 0 if unknown.
	Revision int64

	// content is nil while raw, a JSON object that is never changed, holds it.
	content map[string]any
	raw     []byte
}

var _ Object = (*Custom)(nil)

// CustomKind describes a kind that users have defined.
func CustomKind(gvk schema.GroupVersionKind, resource string, namespaced bool) Kind {
	return Kind{
		GVK: gvk, GVR: gvk.GroupVersion().WithResource(resource), Namespaced: namespaced,
		New:     func() Object { return &Custom{Resource: resource} },
		NewList: func() runtime.Object { return &unstructured.UnstructuredList{} },
		typeURL: customTypeURL,
	}
}

// IsCustom tells whether users have defined the kind.
func (k Kind) IsCustom() bool { return k.typeURL == customTypeURL }

// Content returns all fields but apiVersion, kind and metadata, as encoding/json has them
// except that whole numbers are int64. It belongs to the object and may be changed.
func (c *Custom) Content() map[string]any {
	if c.content == nil {
		c.content = map[string]any{}
		if len(c.raw) > 0 {
			// Whoever set raw has checked it.
			_ = strictjson.UnmarshalCaseSensitivePreserveInts(c.raw, &c.content)
		}
		c.raw = nil
	}
	return c.content
}

// SetContent replaces all fields but apiVersion, kind and metadata. The object owns content
// afterwards.
func (c *Custom) SetContent(content map[string]any) {
	if content == nil {
		content = map[string]any{}
	}
	c.content, c.raw = content, nil
}

// DropContent forgets all but the metadata; for caches that need no more.
func (c *Custom) DropContent() { c.content, c.raw = nil, nil }

// ToUnstructured returns the whole object in the form that schemas are about. It shares
// the content with the object.
func (c *Custom) ToUnstructured() map[string]any {
	content := c.Content()
	out := make(map[string]any, len(content)+3)
	maps.Copy(out, content)
	out["apiVersion"], out["kind"] = c.APIVersion, c.Kind
	meta, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&c.ObjectMeta)
	if err != nil { // a struct without anything that could fail
		meta = map[string]any{"name": c.Name, "namespace": c.Namespace}
	}
	if meta["creationTimestamp"] == nil {
		delete(meta, "creationTimestamp")
	}
	out["metadata"] = meta
	return out
}

// FromUnstructured replaces the object by what a map holds, which the object owns
// afterwards. The metadata must have the types of ObjectMeta.
func (c *Custom) FromUnstructured(whole map[string]any) error {
	apiVersion, _ := whole["apiVersion"].(string)
	kind, _ := whole["kind"].(string)
	var meta metav1.ObjectMeta
	switch m := whole["metadata"].(type) {
	case nil:
	case map[string]any:
		text, err := json.Marshal(m)
		if err == nil {
			err = json.Unmarshal(text, &meta)
		}
		if err != nil {
			return fmt.Errorf("metadata: %w", err)
		}
	default:
		return fmt.Errorf("metadata is a %T, no object", m)
	}
	delete(whole, "apiVersion")
	delete(whole, "kind")
	delete(whole, "metadata")
	c.APIVersion, c.Kind, c.ObjectMeta = apiVersion, kind, meta
	c.SetContent(whole)
	return nil
}

// DecodeCustom reads an object from JSON. Repeated fields, and those of the metadata that
// are not known, are returned as strict errors beside the object.
func DecodeCustom(text []byte) (obj *Custom, strict []error, err error) {
	var whole map[string]any
	if strict, err = strictjson.UnmarshalStrict(text, &whole); err != nil {
		return nil, nil, err
	}
	if whole == nil {
		return nil, nil, errors.New("not a JSON object")
	}
	if meta, ok := whole["metadata"]; ok {
		part, err := json.Marshal(map[string]any{"metadata": meta})
		if err != nil {
			return nil, nil, err
		}
		var typed struct {
			Metadata metav1.ObjectMeta `json:"metadata"`
		}
		unknown, err := strictjson.UnmarshalStrict(part, &typed)
		if err != nil {
			return nil, nil, err
		}
		strict = append(strict, unknown...)
	}
	obj = &Custom{}
	return obj, strict, obj.FromUnstructured(whole)
}

// DeepCopyObject returns a copy that shares nothing which can be changed.
func (c *Custom) DeepCopyObject() runtime.Object {
	out := &Custom{TypeMeta: c.TypeMeta, Resource: c.Resource, Revision: c.Revision, raw: c.raw}
	c.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	if c.content != nil {
		out.content = runtime.DeepCopyJSON(c.content)
	}
	return out
}

// encodedContent is the content as a JSON object.
func (c *Custom) encodedContent() ([]byte, error) {
	switch {
	case len(c.content) > 0:
		return json.Marshal(c.content)
	case c.content == nil && len(c.raw) > 0:
		return c.raw, nil
	}
	return []byte("{}"), nil
}

// MarshalJSON writes the object as clients know it.
func (c *Custom) MarshalJSON() ([]byte, error) {
	content, err := c.encodedContent()
	if err != nil {
		return nil, err
	}
	meta, err := json.Marshal(&c.ObjectMeta)
	if err != nil {
		return nil, err
	}
	apiVersion, err := json.Marshal(c.APIVersion)
	if err != nil {
		return nil, err
	}
	kind, err := json.Marshal(c.Kind)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 0, len(content)+len(meta)+len(apiVersion)+len(kind)+48)
	out = append(append(out, `{"apiVersion":`...), apiVersion...)
	out = append(append(out, `,"kind":`...), kind...)
	out = append(append(out, `,"metadata":`...), meta...)
	if rest := bytes.TrimSpace(content[1:]); len(rest) > 1 {
		return append(append(out, ','), rest...), nil
	}
	return append(out, '}'), nil
}

// UnmarshalJSON reads what MarshalJSON writes.
func (c *Custom) UnmarshalJSON(text []byte) error {
	var whole map[string]any
	if err := strictjson.UnmarshalCaseSensitivePreserveInts(text, &whole); err != nil {
		return err
	}
	if whole == nil {
		return errors.New("not a JSON object")
	}
	return c.FromUnstructured(whole)
}

// Marshal encodes the object as a JSONObject.
func (c *Custom) Marshal() ([]byte, error) {
	content, err := c.encodedContent()
	if err != nil {
		return nil, err
	}
	meta, err := c.ObjectMeta.Marshal()
	if err != nil {
		return nil, err
	}
	out := make([]byte, 0, len(meta)+len(content)+len(c.APIVersion)+len(c.Kind)+64)
	out = protowire.AppendBytes(protowire.AppendTag(out, fieldMetadata, protowire.BytesType), meta)
	out = protowire.AppendString(protowire.AppendTag(out, fieldAPIVersion, protowire.BytesType), c.APIVersion)
	out = protowire.AppendString(protowire.AppendTag(out, fieldKind, protowire.BytesType), c.Kind)
	out = protowire.AppendBytes(protowire.AppendTag(out, fieldContent, protowire.BytesType), content)
	if c.Revision != 0 {
		out = protowire.AppendVarint(protowire.AppendTag(out, fieldRevision, protowire.VarintType), uint64(c.Revision)) //nolint:gosec // the same bits
	}
	return out, nil
}

// MarshalToSizedBuffer encodes into the end of data and returns how long that is.
func (c *Custom) MarshalToSizedBuffer(data []byte) (int, error) {
	encoded, err := c.Marshal()
	if err != nil {
		return 0, err
	}
	if len(encoded) > len(data) {
		return 0, fmt.Errorf("%d bytes do not fit into %d", len(encoded), len(data))
	}
	return copy(data[len(data)-len(encoded):], encoded), nil
}

// Size of the encoding in bytes.
func (c *Custom) Size() int {
	encoded, err := c.Marshal()
	if err != nil {
		return 0
	}
	return len(encoded)
}

// errCustom is what is wrong with an encoding that is no JSONObject.
var errCustom = errors.New("not a JSONObject")

// Unmarshal reads a JSONObject. Repeated occurrences of its metadata are merged.
func (c *Custom) Unmarshal(data []byte) error {
	c.TypeMeta, c.ObjectMeta, c.Revision = metav1.TypeMeta{}, metav1.ObjectMeta{}, 0
	c.content, c.raw = nil, nil
	var meta []byte
	var raw []byte
	err := EachField(data, func(number protowire.Number, content []byte, value uint64) error {
		switch number {
		case fieldMetadata:
			meta = append(meta, content...) // concatenated encodings are merged
		case fieldAPIVersion:
			c.APIVersion = string(content)
		case fieldKind:
			c.Kind = string(content)
		case fieldContent:
			raw = content
		case fieldRevision:
			c.Revision = int64(value) //nolint:gosec // the same bits
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := c.ObjectMeta.Unmarshal(meta); err != nil {
		return err
	}
	if trimmed := bytes.TrimSpace(raw); len(trimmed) > 0 {
		if trimmed[0] != '{' || !json.Valid(trimmed) {
			return fmt.Errorf("%w: its content is no JSON object", errCustom)
		}
		c.raw = slices.Clone(trimmed)
	}
	return nil
}

// errWire is what is wrong with an encoding that is no protobuf.
var errWire = errors.New("malformed protobuf")

// EachField calls f for every length-delimited field of an encoded message, with its content,
// which is shared, and for every varint, with its value. It ends with f's first error, or with
// one where the message is malformed.
func EachField(data []byte, f func(number protowire.Number, content []byte, value uint64) error) error {
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return errWire
		}
		data = data[n:]
		switch kind {
		case protowire.BytesType:
			content, n := protowire.ConsumeBytes(data)
			if n < 0 {
				return errWire
			}
			if err := f(number, content, 0); err != nil {
				return err
			}
			data = data[n:]
		case protowire.VarintType:
			value, n := protowire.ConsumeVarint(data)
			if n < 0 {
				return errWire
			}
			if err := f(number, nil, value); err != nil {
				return err
			}
			data = data[n:]
		default:
			n := protowire.ConsumeFieldValue(number, kind, data)
			if n < 0 {
				return errWire
			}
			data = data[n:]
		}
	}
	return nil
}

// RevisionOf reads the Revision of an encoded custom object without decoding the rest.
func RevisionOf(encoded []byte) int64 {
	var revision int64
	// Of an encoding that is broken, decoding will tell.
	_ = EachField(encoded, func(number protowire.Number, _ []byte, value uint64) error {
		if number == fieldRevision {
			revision = int64(value) //nolint:gosec // the same bits
		}
		return nil
	})
	return revision
}
