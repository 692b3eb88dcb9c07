package rest

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"go.uber.org/zap"
	appsv1 "k8s.io/api/apps/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"kijabi.dev/apiserver/internal/authz"
	"kijabi.dev/apiserver/internal/fuzztest"
	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/registry/customkinds"
	"kijabi.dev/apiserver/internal/registry/kinds"
	"kijabi.dev/platform/kube/object"
)

// sample has what kinds are made of: maps, lists, times, quantities, numbers that may be text.
const sample = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","labels":{"a":"b"},"creationTimestamp":"2026-01-02T03:04:05Z",
"managedFields":[{"manager":"m","operation":"Apply","fieldsType":"FieldsV1","fieldsV1":{"f:spec":{}}}]},
"spec":{"overhead":{"cpu":"1500m","memory":1024},"containers":[{"name":"c","image":"i","args":["é😀\u2028"],
"env":[{"name":"E","valueFrom":{"fieldRef":{"fieldPath":"a"}}}],"livenessProbe":{"httpGet":{"port":"web"},"tcpSocket":{"port":80}}}]},"status":{"startTime":null}}`

var (
	validations = []string{metav1.FieldValidationStrict, metav1.FieldValidationWarn, metav1.FieldValidationIgnore}
	encodings   = []encoding{encodeJSON, encodeYAML, encodeProtobuf}
)

// inEveryEncoding returns an object, given as JSON, in the order of encodings.
func inEveryEncoding(f *testing.F, text string, into interface{ Marshal() ([]byte, error) }, gvk schema.GroupVersionKind) [][]byte {
	f.Helper()
	asYAML, err := yaml.JSONToYAML([]byte(text))
	if err != nil {
		f.Fatal(err)
	}
	if err := json.Unmarshal([]byte(text), into); err != nil {
		f.Fatal(err)
	}
	raw, err := into.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	return [][]byte{[]byte(text), asYAML, protobufBody(gvk, raw)}
}

// FuzzBody decodes bodies of every kind and media type. What is accepted is the same object
// in all of them.
func FuzzBody(f *testing.F) {
	c := newCodec(kinds.Default())
	var served []schema.GroupVersionKind
	for gvk := range c.scheme.AllKnownTypes() {
		if _, former := formerKinds()[gvk]; !former {
			served = append(served, gvk)
		}
	}
	slices.SortFunc(served, func(a, b schema.GroupVersionKind) int { return strings.Compare(a.String(), b.String()) })
	for number, gvk := range served {
		obj, err := c.scheme.New(gvk)
		if err != nil {
			f.Fatal(err)
		}
		text := `{"apiVersion":"` + gvk.GroupVersion().String() + `","kind":"` + gvk.Kind + `","metadata":{"name":"a"},"spec":{},"status":{}}`
		if gvk.Kind == "Pod" {
			text = sample
		}
		for enc, body := range inEveryEncoding(f, text, obj.(object.Object), gvk) {
			f.Add(byte(number), byte(enc), byte(number), body)
		}
	}
	f.Fuzz(func(t *testing.T, number, enc, validation byte, body []byte) {
		gvk, said := served[int(number)%len(served)], validations[int(validation)%len(validations)]
		fuzztest.Bounded(t, len(body), func() {
			obj, warnings, err := c.decode(body, encodings[int(enc)%len(encodings)], gvk, said)
			if err != nil {
				fuzztest.Refused(t, err)
				return
			}
			if len(warnings) > 0 && said != metav1.FieldValidationWarn {
				t.Errorf("warnings where none are wanted: %q", warnings)
			}
			sameInEveryEncoding(t, c, gvk, obj)
		})
	})
}

// sameInEveryEncoding checks that what a door has accepted it can show, and would accept again.
func sameInEveryEncoding(t *testing.T, c *codec, gvk schema.GroupVersionKind, obj runtime.Object) {
	t.Helper()
	if err := object.CheckReadable(obj); err != nil {
		t.Errorf("accepted and not readable: %v", err)
	}
	again := func(enc encoding, obj runtime.Object) runtime.Object {
		body, err := encodeObject(format{encoding: enc}, obj)
		if err != nil {
			t.Fatalf("encoding %d: %v", enc, err)
		}
		back, _, err := c.decode(body, enc, gvk, metav1.FieldValidationStrict)
		if err != nil {
			t.Fatalf("encoding %d: accepted, and not as %q: %v", enc, body, err)
		}
		return back
	}
	text := func(obj runtime.Object) string {
		body, err := encodeObject(format{}, obj)
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	first := again(encodeJSON, obj)
	if got, want := text(first), text(obj); got != want {
		t.Errorf("JSON makes %s of %s", got, want)
	}
	if got, want := text(again(encodeYAML, obj)), text(obj); got != want {
		t.Errorf("YAML makes %s of %s", got, want)
	}
	// protobuf knows neither empty lists nor the kind of a set's claims.
	if set, ok := first.(*appsv1.StatefulSet); ok {
		for i := range set.Spec.VolumeClaimTemplates {
			set.Spec.VolumeClaimTemplates[i].TypeMeta = metav1.TypeMeta{}
		}
	}
	if second := again(encodeProtobuf, first); !apiequality.Semantic.DeepEqual(first, second) {
		t.Errorf("protobuf makes %s of %s", text(second), text(first))
	}
}

// certKind is the kind that the definition certificates defines.
func certKind(f *testing.F) *registry.Kind {
	f.Helper()
	var crd apiextensionsv1.CustomResourceDefinition
	if err := yaml.Unmarshal([]byte(certificates), &crd); err != nil {
		f.Fatal(err)
	}
	customkinds.Row().Default(&crd)
	customkinds.Settle(&crd, customkinds.Taken{})
	encoded, err := crd.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	defined, err := customkinds.New(encoded, nil)
	if err != nil || len(defined.Kinds) == 0 {
		f.Fatalf("no kinds: %v", err)
	}
	return defined.Kinds[0]
}

// FuzzCustomBody does what FuzzBody does for a kind that users have defined.
func FuzzCustomBody(f *testing.F) {
	kind := certKind(f)
	const text = `{"apiVersion":"pki.example.com/v1","kind":"Cert","metadata":{"name":"a"},"spec":{"secretName":"s","replicas":3,"port":"web","usages":["sign"],"template":{"apiVersion":"v1","kind":"Pod","metadata":{"name":"b","other":1},"x":[1.5,null,-0]},"unknown":{}}}`
	asYAML, err := yaml.JSONToYAML([]byte(text))
	if err != nil {
		f.Fatal(err)
	}
	for validation := range validations {
		f.Add(byte(0), byte(validation), []byte(text))
		f.Add(byte(1), byte(validation), asYAML)
	}
	f.Add(byte(0), byte(1), []byte(strings.ReplaceAll(text, `"x":[`, `"x":[`+strings.Repeat("[", 1100))))
	f.Fuzz(func(t *testing.T, enc, validation byte, body []byte) {
		fuzztest.Bounded(t, len(body), func() {
			obj, _, err := decodeCustom(body, encodings[int(enc)%len(encodings)], kind, validations[int(validation)%len(validations)])
			if err != nil {
				fuzztest.Refused(t, err)
				return
			}
			if err := object.CheckReadable(obj); err != nil {
				t.Errorf("accepted and not readable: %v", err)
			}
			text, err := json.Marshal(obj)
			if err != nil {
				t.Fatalf("accepted and not readable: %v", err)
			}
			asYAML, err := encodeObject(format{encoding: encodeYAML}, obj)
			if err != nil {
				t.Fatal(err)
			}
			for enc, body := range [][]byte{text, asYAML} {
				back, _, err := decodeCustom(body, encodings[enc], kind, metav1.FieldValidationStrict)
				if err != nil {
					t.Fatalf("accepted, and not as %q: %v", body, err)
				}
				if got, err := json.Marshal(back); err != nil || !bytes.Equal(got, text) {
					t.Errorf("%q became %s, want %s: %v", body, got, text, err)
				}
			}
		})
	})
}

// FuzzDeleteOptions decodes bodies of deletions.
func FuzzDeleteOptions(f *testing.F) {
	const text = `{"apiVersion":"v1","kind":"DeleteOptions","gracePeriodSeconds":5,"propagationPolicy":"Foreground","orphanDependents":true,"dryRun":["All"],"preconditions":{"uid":"u","resourceVersion":"7"}}`
	gvk := schema.GroupVersionKind{Version: "v1", Kind: "DeleteOptions"}
	for enc, body := range inEveryEncoding(f, text, &metav1.DeleteOptions{}, gvk) {
		f.Add(byte(enc), body)
	}
	f.Fuzz(func(t *testing.T, enc byte, body []byte) {
		fuzztest.Bounded(t, len(body), func() {
			options, err := decodeDeleteOptions(body, encodings[int(enc)%len(encodings)])
			if err != nil {
				fuzztest.Refused(t, err)
				return
			}
			if err := object.CheckReadable(&options); err != nil {
				t.Errorf("accepted and not readable: %v", err)
			}
			text, err := json.Marshal(options)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := decodeDeleteOptions(text, encodeJSON); err != nil || !apiequality.Semantic.DeepEqual(options, again) {
				t.Errorf("%+v became %+v: %v", options, again, err)
			}
		})
	})
}

// FuzzContentType: a media type is one of those with a decoder, or refused.
func FuzzContentType(f *testing.F) {
	for _, seed := range []string{"", mediaJSON, mediaYAML, mediaProtobuf, "application/json; charset=utf-8", "application/cbor", "a/b/c", ";", "application/json;a=b;a=c", "\xff/x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		fuzztest.Bounded(t, len(header), func() {
			enc, err := contentEncoding(&http.Request{Header: http.Header{"Content-Type": {header}}})
			if err != nil {
				fuzztest.Refused(t, err)
				return
			}
			if header == "" {
				return
			}
			media := format{encoding: enc}.contentType()
			if given, _, _ := strings.Cut(header, ";"); !strings.EqualFold(strings.TrimSpace(given), media) {
				t.Errorf("%q is read as %s", header, media)
			}
		})
	})
}

// door is a Server without a listener, over an empty registry.
func door(tb testing.TB) *Server {
	tb.Helper()
	s, err := New(Config{
		Registry: newFakeRegistry(), Authorizer: authz.New(authz.Config{Pods: noPods{}, Policy: authz.NewPolicy()}),
		Nodes: &fakeNodes{}, Log: zap.NewNop(),
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Close)
	return s
}

// canonical is the path by which a target is asked for.
func canonical(t target) string {
	root := "/apis/" + t.kind.GVR.GroupVersion().String()
	if t.kind.GVR.Group == "" {
		root = "/api/" + t.kind.GVR.Version
	}
	parts := []string{root}
	if t.ref.Namespace != "" {
		parts = append(parts, "namespaces", t.ref.Namespace)
	}
	parts = append(parts, t.kind.GVR.Resource)
	for _, part := range []string{t.ref.Name, t.ref.Subresource, t.rest} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, "/")
}

// FuzzRequest asks an administrator's door for any path: it answers, and a path that names
// something names the same as that thing's own.
func FuzzRequest(f *testing.F) {
	s := door(f)
	for _, uri := range []string{
		"/", "/api", "/apis/apps/v1", "/api/v1/pods?limit=1&labelSelector=a%3Db", "/api/v1/namespaces/default/pods/a/status", "/api/v1/namespaces/default/status",
		"/api/v1/namespaces/a/namespaces/b", "/apis/apps//deployments", "/api//pods", "//api/v1/pods", "/api/v1/pods//", "/api/v1/namespaces//pods", "/api/v1/namespaces/%ff/pods/%ff",
		"/api/v1/namespaces/a/pods/b/log?follow=true", "/api/v1/namespaces/a/services/b:c/proxy/d/../e%2f", "/apis/apps/v1/namespaces/a/deployments/b/scale",
		"/api/v1/namespaces/a/pods?fieldManager=%ff&fieldSelector=%ff", "/openapi/v3/api/v1", "/livez/x?verbose", "/version", "/api/v1/nodes/a/proxy/metrics",
	} {
		for i := range requestMethods {
			f.Add(byte(i), uri)
		}
	}
	admin := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{Subject: pkix.Name{CommonName: "admin", Organization: []string{authz.GroupAdmins}}}}}
	admin.VerifiedChains = [][]*x509.Certificate{admin.PeerCertificates}
	f.Fuzz(func(t *testing.T, number byte, uri string) {
		u, err := url.ParseRequestURI(uri)
		if err != nil || !strings.HasPrefix(uri, "/") {
			return // net/http refuses it
		}
		r := &http.Request{
			Method: requestMethods[int(number)%len(requestMethods)], URL: u, RequestURI: uri, Header: http.Header{}, TLS: admin,
			Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Body: http.NoBody,
		}
		fuzztest.Bounded(t, len(uri), func() {
			if gv, segments, ok := splitPath(strings.TrimSuffix(u.Path, "/")); ok {
				target, err := s.resolve(r, gv, segments)
				switch {
				case err != nil:
					fuzztest.Refused(t, err)
				default:
					sameTarget(t, s, r, target)
				}
				if target.verb == "watch" || target.sub != nil && target.sub.Stream {
					return // it would last
				}
			} else if strings.HasPrefix(u.Path, profilePath) {
				return
			}
			answer := httptest.NewRecorder()
			s.ServeHTTP(answer, r.WithContext(t.Context()))
			if answer.Code >= http.StatusBadRequest && answer.Header().Get("Content-Type") != plain { // as health is told
				var status metav1.Status
				if err := json.Unmarshal(answer.Body.Bytes(), &status); err != nil || status.Kind != "Status" || int(status.Code) != answer.Code {
					t.Errorf("%s: %d with %q", r.Method, answer.Code, answer.Body)
				}
			}
			if answer.Code >= http.StatusInternalServerError {
				t.Errorf("%s: %d %s", r.Method, answer.Code, answer.Body)
			}
		})
	})
}

var requestMethods = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions}

// sameTarget checks a target against what its own path names.
func sameTarget(t *testing.T, s *Server, r *http.Request, got target) {
	t.Helper()
	gv, segments, ok := splitPath(canonical(got))
	if !ok {
		t.Fatalf("%s names nothing", canonical(got))
	}
	want, err := s.resolve(r, gv, segments)
	if err != nil {
		t.Fatalf("%s: %v", canonical(got), err)
	}
	if got.ref != want.ref || got.kind != want.kind || got.sub != want.sub || got.rest != want.rest || got.verb != want.verb {
		t.Errorf("%+v, and by %s %+v", got, canonical(got), want)
	}
	for _, part := range []string{got.ref.Namespace, got.ref.Name} {
		if !utf8.ValidString(part) || strings.Contains(part, "/") {
			t.Errorf("a name is %q", part)
		}
	}
}

// FuzzAccept negotiates by any Accept header: the answer is in the form that the first of the
// most wanted acceptable clauses names.
func FuzzAccept(f *testing.F) {
	for _, seed := range []string{
		"", "*/*", mediaJSON, "application/json;as=Table;v=v1;g=meta.k8s.io,application/json", mediaProtobuf + ";q=0.5," + mediaYAML + ";q=0.7",
		"application/json;q=NaN", "application/json;q=-1, */*;q=1e400", "text/html, */*;q=0.8", "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
		`application/json;as="Table,";v=v1`, ",,;", "application/json;q=0x1p-2", "application/yaml;as=Table;v=v1;g=meta.k8s.io",
	} {
		f.Add(seed, true, true)
		f.Add(seed, false, false)
	}
	f.Fuzz(func(t *testing.T, header string, shapes, protobuf bool) {
		ask := func(header string) (format, error) {
			return negotiateFor(&http.Request{URL: &url.URL{}, Header: http.Header{"Accept": {header}}}, shapes, protobuf)
		}
		fuzztest.Bounded(t, len(header), func() {
			got, err := ask(header)
			if err != nil {
				fuzztest.Refused(t, err)
			}
			if header == "" {
				return
			}
			var want *format
			best := 0.0
			for part := range strings.SplitSeq(header, ",") {
				one, refused := ask(part)
				if clauses := parseAccept(part); refused == nil && len(clauses) == 1 && clauses[0].q > best {
					best, want = clauses[0].q, &one
				}
			}
			switch {
			case (want == nil) != (err != nil), want != nil && *want != got:
				t.Errorf("%q: %+v %v, want %+v", header, got, err, want)
			case err == nil && got.shape != shapePartial: // nothing says that of a content type
				if again, err := ask(got.contentType()); err != nil || again.encoding != got.encoding || got.shape == shapeTable && got.encoding == encodeJSON && again != got {
					t.Errorf("%q is answered with %s, which is %+v, %v", header, got.contentType(), again, err)
				}
			}
		})
	})
}

// FuzzBearer takes tokens out of requests: what is left holds none, and nothing else is lost.
func FuzzBearer(f *testing.F) {
	const token = bearerProtocol + "YS5iLmM"
	for _, seed := range [][3]string{
		{"Bearer a.b.c", "", ""}, {"bearer  a ", "", ""}, {"Basic YTpi", "", ""}, {"Bearer", "", ""}, {" ", "", ""}, {"Bearer \xff", "", ""},
		{"", "websocket", token + ", v4.channel.k8s.io"}, {"", "WebSocket", token + "\nv4.channel.k8s.io"}, {"", "websocket", token},
		{"", "websocket", token + "," + token + ",a"}, {"", "h2c, websocket", token + ", a"}, {"Bearer a", "websocket", token + ", a"}, {"", "", token}, {"", "websocket", bearerProtocol + "====, a"},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	f.Fuzz(func(t *testing.T, authorization, upgrade, protocols string) {
		header := http.Header{"Other": {"kept"}}
		for name, value := range map[string]string{"Authorization": authorization, "Upgrade": upgrade, "Sec-Websocket-Protocol": protocols} {
			if value != "" {
				header[name] = strings.Split(value, "\n")
			}
		}
		offered := protocolsOf(header)
		fuzztest.Bounded(t, len(authorization)+len(upgrade)+len(protocols), func() {
			token, found, err := bearerToken(&http.Request{Header: header})
			if err != nil {
				fuzztest.Refused(t, err)
			}
			if found != (token != "") || found && err != nil {
				t.Errorf("%q, found %v, %v", token, found, err)
			}
			if err != nil {
				return // nobody sees what is left
			}
			if header.Get("Other") != "kept" || header.Get("Upgrade") != strings.Split(upgrade, "\n")[0] || header.Get("Authorization") != "" {
				t.Errorf("left: %q", header)
			}
			offered = slices.DeleteFunc(offered, func(p string) bool { return strings.HasPrefix(p, bearerProtocol) })
			if left := protocolsOf(header); !slices.Equal(left, offered) {
				t.Errorf("the protocols %s became %s", strconv.Quote(protocols), left)
			}
			if !found || !utf8.ValidString(token) {
				return
			}
			socket := http.Header{"Upgrade": {"websocket"}, "Sec-Websocket-Protocol": {"a," + bearerProtocol + base64.RawURLEncoding.EncodeToString([]byte(token))}}
			if again, _, err := bearerToken(&http.Request{Header: socket}); err != nil || again != token {
				t.Errorf("by a WebSocket %q is %q, %v", token, again, err)
			}
		})
	})
}

// protocolsOf are the subprotocols that a client offers.
func protocolsOf(header http.Header) []string {
	var out []string
	for _, line := range header.Values("Sec-WebSocket-Protocol") {
		for part := range strings.SplitSeq(line, ",") {
			out = append(out, strings.TrimSpace(part))
		}
	}
	return out
}
