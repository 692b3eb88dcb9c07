package rest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"time"

	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kjson "k8s.io/apimachinery/pkg/runtime/serializer/json"
	"sigs.k8s.io/yaml"

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
	for former, gvk := range formerKinds() {
		if body, ok := object.KindFor(gvk); ok {
			add(former, body.New())
		}
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

// formerKinds are kinds under whose names clients still send what is another kind by now,
// field for field: kubectl before 1.22 drains by evictions of policy/v1beta1
// (https://github.com/kubernetes/kubernetes/pull/100724).
func formerKinds() map[schema.GroupVersionKind]schema.GroupVersionKind {
	eviction := policyv1.SchemeGroupVersion.WithKind("Eviction")
	return map[schema.GroupVersionKind]schema.GroupVersionKind{{Group: eviction.Group, Version: "v1beta1", Kind: eviction.Kind}: eviction}
}

// means says whether a body that names a kind is one of the wanted kind.
func means(got, want schema.GroupVersionKind) bool { return got == want || formerKinds()[got] == want }

// awaitBody bounds the time in which a request's body must have come. Nothing but having read
// all of it lifts the bound: what a handler leaves, net/http reads.
func (s *Server) awaitBody(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength != 0 {
		// Not every transport has deadlines; the size bound holds anyhow.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.readTimeout))
	}
}

// readBody reads a bounded body.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return nil, encodedBody(encoding)
	}
	tooLarge := apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", maxBodyBytes))
	if r.ContentLength > maxBodyBytes {
		return nil, tooLarge
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	var more *http.MaxBytesError
	switch {
	case errors.As(err, &more):
		return nil, tooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, slowBody()
	case err != nil:
		return nil, apierrors.NewBadRequest("read request body: " + err.Error())
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
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
	into, err := c.scheme.New(want)
	if err != nil {
		return nil, nil, fmt.Errorf("decode %s: %w", want, err)
	}
	if enc == encodeYAML && registry.IsJSON(body) {
		enc = encodeJSON // what most send as YAML, and a tenth of the work
	}
	if err := c.check(body, enc, into); err != nil {
		return nil, nil, cannotHandle(want, err)
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
	obj, got, err := serializer.Decode(body, &want, into)
	var warnings []string
	if strict, ok := runtime.AsStrictDecodingError(err); ok && obj != nil && validation != metav1.FieldValidationStrict {
		for _, one := range strict.Errors() {
			warnings = append(warnings, one.Error())
		}
		err = nil
	}
	if err != nil {
		if got != nil && got.Kind != "" && !means(*got, want) {
			return nil, nil, mismatch(*got, want)
		}
		return nil, nil, cannotHandle(want, err)
	}
	if got != nil && !means(*got, want) {
		return nil, nil, mismatch(*got, want)
	}
	obj.GetObjectKind().SetGroupVersionKind(want)
	return obj, warnings, nil
}

// check refuses what would cost too much to decode.
func (c *codec) check(body []byte, enc encoding, into runtime.Object) error {
	if enc == encodeYAML {
		text, err := yaml.YAMLToJSON(body)
		if err != nil {
			return err
		}
		body = text
	}
	return registry.CheckJSON(body, into)
}

// maxErrorBytes bounds what a client is told of its own body.
const maxErrorBytes = 4 << 10

func cannotHandle(want schema.GroupVersionKind, err error) error {
	text := err.Error()
	return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %s", want.Kind, want.Version, want.Kind, strings.ToValidUTF8(text[:min(len(text), maxErrorBytes)], "")))
}

func mismatch(got, want schema.GroupVersionKind) error {
	if got.GroupVersion() != want.GroupVersion() {
		return apierrors.NewBadRequest(fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)", shown(got.GroupVersion().String()), want.GroupVersion()))
	}
	return wrongKind(got.Kind, want.Kind)
}

func wrongKind(got, want string) error {
	return apierrors.NewBadRequest(fmt.Sprintf("the kind in the data (%s) does not match the expected kind (%s)", shown(got), want))
}

// shown is what a client's own name for something is told as.
func shown(name string) string {
	return strings.ToValidUTF8(name[:min(len(name), 256)], "?")
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
		if got := schema.FromAPIVersionAndKind(envelope.APIVersion, envelope.Kind); !means(got, want) {
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
	err = object.CheckProtobuf(envelope.Raw, obj)
	if err == nil {
		err = wire.Unmarshal(envelope.Raw)
	}
	if err == nil {
		err = object.CheckReadable(obj)
	}
	if err != nil {
		return nil, cannotHandle(want, err)
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
			return options, wrongKind(envelope.Kind, "DeleteOptions")
		}
		err = options.Unmarshal(envelope.Raw)
		if err == nil {
			err = object.CheckReadable(&options)
		}
		if err != nil {
			return options, apierrors.NewBadRequest("decode DeleteOptions: " + err.Error())
		}
		return options, nil
	}
	if err := unmarshalLenient(body, enc, &options); err != nil {
		return options, apierrors.NewBadRequest("decode DeleteOptions: " + err.Error())
	}
	if options.Kind != "" && options.Kind != "DeleteOptions" {
		return options, wrongKind(options.Kind, "DeleteOptions")
	}
	return options, nil
}
