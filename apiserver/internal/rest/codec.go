package rest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kjson "k8s.io/apimachinery/pkg/runtime/serializer/json"

	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/reviews"
	"kijabi.dev/platform/kube/object"
)

// protobufMagic begins every Kubernetes protobuf body.
const protobufMagic = "k8s\x00"

// codec decodes request bodies.
type codec struct {
	scheme      *runtime.Scheme
	strictJSON  runtime.Serializer
	strictYAML  runtime.Serializer
	lenientJSON runtime.Serializer
	lenientYAML runtime.Serializer
}

// newCodec knows the served kinds, the bodies of their subresources and the reviews
// this package answers by itself.
func newCodec(served []*registry.Kind) *codec {
	scheme := runtime.NewScheme()
	add := func(gvk schema.GroupVersionKind, obj runtime.Object) {
		if !scheme.Recognizes(gvk) {
			scheme.AddKnownTypeWithName(gvk, obj)
		}
	}
	for _, k := range served {
		if k.Custom != nil {
			continue // see decodeCustom
		}
		add(k.GVK, k.New())
		for _, sub := range k.Subresources {
			if body, ok := object.KindFor(sub.GVK); ok && !sub.Stream {
				add(sub.GVK, body.New())
			}
		}
	}
	for _, k := range reviews.Kinds() {
		add(k.GVK, k.New())
	}
	build := func(yaml, strict bool) runtime.Serializer {
		return kjson.NewSerializerWithOptions(kjson.DefaultMetaFactory, scheme, scheme, kjson.SerializerOptions{Yaml: yaml, Strict: strict})
	}
	return &codec{
		scheme:     scheme,
		strictJSON: build(false, true), strictYAML: build(true, true),
		lenientJSON: build(false, false), lenientYAML: build(true, false),
	}
}

// readBody reads a bounded body within a bounded time.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	control := http.NewResponseController(w)
	// Not every transport has deadlines; the size bound holds anyhow.
	_ = control.SetReadDeadline(time.Now().Add(readBodyTimeout))
	defer func() { _ = control.SetReadDeadline(time.Time{}) }()
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", maxBodyBytes))
	}
	if err != nil {
		return nil, apierrors.NewBadRequest("read request body: " + err.Error())
	}
	return body, nil
}

// contentEncoding tells how a body is written.
func contentEncoding(r *http.Request) (encoding, error) {
	header := r.Header.Get("Content-Type")
	if header == "" {
		return encodeJSON, nil
	}
	media, _, err := mime.ParseMediaType(header)
	if err != nil {
		media = header
	}
	switch media {
	case mediaJSON:
		return encodeJSON, nil
	case mediaYAML:
		return encodeYAML, nil
	case mediaProtobuf:
		return encodeProtobuf, nil
	default:
		return 0, unsupportedMediaType(media, mediaJSON, mediaYAML, mediaProtobuf)
	}
}

// decode reads a body of the wanted kind. Unknown and duplicate fields become an error,
// warnings or nothing, as validation ("Strict", "Warn", "Ignore") says.
func (c *codec) decode(body []byte, enc encoding, want schema.GroupVersionKind, validation string) (runtime.Object, []string, error) {
	if enc == encodeProtobuf {
		obj, err := c.decodeProtobuf(body, want)
		return obj, nil, err
	}
	serializer := c.strictJSON
	switch {
	case enc == encodeYAML && validation == metav1.FieldValidationIgnore:
		serializer = c.lenientYAML
	case enc == encodeYAML:
		serializer = c.strictYAML
	case validation == metav1.FieldValidationIgnore:
		serializer = c.lenientJSON
	}
	into, err := c.scheme.New(want)
	if err != nil {
		return nil, nil, fmt.Errorf("decode %s: %w", want, err)
	}
	obj, got, err := serializer.Decode(body, &want, into)
	var warnings []string
	if strict, ok := runtime.AsStrictDecodingError(err); ok && obj != nil && validation != metav1.FieldValidationStrict {
		for _, one := range strict.Errors() {
			warnings = append(warnings, one.Error())
		}
		err = nil
	}
	if err != nil {
		if got != nil && got.Kind != "" && *got != want {
			return nil, nil, mismatch(*got, want)
		}
		return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", want.Kind, want.Version, want.Kind, err))
	}
	if got != nil && *got != want {
		return nil, nil, mismatch(*got, want)
	}
	obj.GetObjectKind().SetGroupVersionKind(want)
	return obj, warnings, nil
}

func mismatch(got, want schema.GroupVersionKind) error {
	if got.GroupVersion() != want.GroupVersion() {
		return apierrors.NewBadRequest(fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)", got.GroupVersion(), want.GroupVersion()))
	}
	return apierrors.NewBadRequest(fmt.Sprintf("the kind in the data (%s) does not match the expected kind (%s)", got.Kind, want.Kind))
}

// openProtobuf takes the envelope off.
func openProtobuf(body []byte) (*runtime.Unknown, error) {
	raw, ok := bytes.CutPrefix(body, []byte(protobufMagic))
	if !ok {
		return nil, apierrors.NewBadRequest("the body is not Kubernetes protobuf: it does not begin with k8s\\0")
	}
	var envelope runtime.Unknown
	if err := envelope.Unmarshal(raw); err != nil {
		return nil, apierrors.NewBadRequest("decode protobuf envelope: " + err.Error())
	}
	return &envelope, nil
}

func (c *codec) decodeProtobuf(body []byte, want schema.GroupVersionKind) (runtime.Object, error) {
	envelope, err := openProtobuf(body)
	if err != nil {
		return nil, err
	}
	if envelope.APIVersion != "" || envelope.Kind != "" {
		if got := schema.FromAPIVersionAndKind(envelope.APIVersion, envelope.Kind); got != want {
			return nil, mismatch(got, want)
		}
	}
	obj, err := c.scheme.New(want)
	if err != nil {
		return nil, fmt.Errorf("decode %s: %w", want, err)
	}
	wire, ok := obj.(interface{ Unmarshal([]byte) error })
	if !ok {
		return nil, fmt.Errorf("decode %s: %T has no protobuf form", want, obj)
	}
	if err := wire.Unmarshal(envelope.Raw); err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", want.Kind, want.Version, want.Kind, err))
	}
	obj.GetObjectKind().SetGroupVersionKind(want)
	return obj, nil
}

// decodeDeleteOptions reads the optional body of a deletion. Clients send it in v1, in
// meta.k8s.io/v1 or in the group version of what they delete.
func decodeDeleteOptions(body []byte, enc encoding) (metav1.DeleteOptions, error) {
	var options metav1.DeleteOptions
	if len(bytes.TrimSpace(body)) == 0 {
		return options, nil
	}
	if enc == encodeProtobuf {
		envelope, err := openProtobuf(body)
		if err != nil {
			return options, err
		}
		if envelope.Kind != "" && envelope.Kind != "DeleteOptions" {
			return options, apierrors.NewBadRequest(fmt.Sprintf("the kind in the data (%s) does not match the expected kind (DeleteOptions)", envelope.Kind))
		}
		if err := options.Unmarshal(envelope.Raw); err != nil {
			return options, apierrors.NewBadRequest("decode DeleteOptions: " + err.Error())
		}
		return options, nil
	}
	if err := unmarshalLenient(body, enc, &options); err != nil {
		return options, apierrors.NewBadRequest("decode DeleteOptions: " + err.Error())
	}
	if options.Kind != "" && options.Kind != "DeleteOptions" {
		return options, apierrors.NewBadRequest(fmt.Sprintf("the kind in the data (%s) does not match the expected kind (DeleteOptions)", options.Kind))
	}
	return options, nil
}
