package rest

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// stream is an open watch.
type stream struct {
	h    *harness
	resp *http.Response
	buf  *bufio.Reader
}

func (h *harness) open(path, accept string) *stream {
	h.t.Helper()
	r, err := http.NewRequestWithContext(h.t.Context(), http.MethodGet, h.http.URL+path, nil)
	h.must(err)
	if accept != "" {
		r.Header.Set("Accept", accept)
	}
	resp, err := h.admin.Do(r)
	h.must(err)
	h.t.Cleanup(func() { _ = resp.Body.Close() })
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(resp.Body)
		h.t.Fatalf("%s: %d %s", path, resp.StatusCode, body)
	}
	return &stream{h, resp, bufio.NewReader(resp.Body)}
}

type jsonEvent struct {
	Type   string
	Object json.RawMessage
}

func (s *stream) next() jsonEvent {
	s.h.t.Helper()
	line, err := s.buf.ReadBytes('\n')
	s.h.must(err)
	var e jsonEvent
	s.h.must(json.Unmarshal(line, &e))
	return e
}

func (e jsonEvent) is(t *testing.T, kind string, texts ...string) {
	t.Helper()
	if e.Type != kind {
		t.Errorf("type %s, want %s: %s", e.Type, kind, e.Object)
	}
	for _, text := range texts {
		if !strings.Contains(string(e.Object), text) {
			t.Errorf("event lacks %q: %s", text, e.Object)
		}
	}
}

// frame reads a protobuf event.
func (s *stream) frame() (string, *runtime.Unknown) {
	s.h.t.Helper()
	var size [4]byte
	_, err := io.ReadFull(s.buf, size[:])
	s.h.must(err)
	data := make([]byte, binary.BigEndian.Uint32(size[:]))
	_, err = io.ReadFull(s.buf, data)
	s.h.must(err)
	var event metav1.WatchEvent
	s.h.must(event.Unmarshal(data))
	raw, ok := strings.CutPrefix(string(event.Object.Raw), protobufMagic)
	if !ok {
		s.h.t.Fatalf("no magic: %q", event.Object.Raw)
	}
	var envelope runtime.Unknown
	s.h.must(envelope.Unmarshal([]byte(raw)))
	return event.Type, &envelope
}

func TestWatchJSON(t *testing.T) {
	h := newHarness(t)
	h.call("POST", configMaps, configMapX)
	w := h.open(configMaps+"?watch=true&timeoutSeconds=60", "")
	w.next().is(t, "ADDED", `"name":"x"`, `"kind":"ConfigMap"`, `"apiVersion":"v1"`)
	h.call("PUT", configMaps+"/x", strings.Replace(configMapX, `"v"`, `"w"`, 1))
	w.next().is(t, "MODIFIED", `"k":"w"`, `"resourceVersion":"102"`)
	h.call("DELETE", configMaps+"/x", "")
	w.next().is(t, "DELETED", `"k":"w"`, `"resourceVersion":"103"`)
}

func TestWatchProtobufWithInitialEvents(t *testing.T) {
	h := newHarness(t)
	h.call("POST", configMaps, configMapX)
	const query = "?watch=1&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
	w := h.open(configMaps+query, "application/vnd.kubernetes.protobuf;stream=watch,application/json")
	if got := w.resp.Header.Get("Content-Type"); got != "application/vnd.kubernetes.protobuf;stream=watch" {
		t.Errorf("content type %q", got)
	}
	kind, envelope := w.frame()
	var cm corev1.ConfigMap
	h.must(cm.Unmarshal(envelope.Raw))
	if kind != "ADDED" || envelope.Kind != "ConfigMap" || envelope.APIVersion != "v1" || cm.Data["k"] != "v" || cm.ResourceVersion != "101" {
		t.Errorf("%s %v %+v", kind, envelope.TypeMeta, cm)
	}
	kind, envelope = w.frame()
	cm = corev1.ConfigMap{}
	h.must(cm.Unmarshal(envelope.Raw))
	if kind != "BOOKMARK" || cm.Annotations[metav1.InitialEventsAnnotationKey] != "true" || cm.ResourceVersion != "101" {
		t.Errorf("%s %+v", kind, cm)
	}
	partial := h.open(configMaps+query, "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1;stream=watch")
	kind, envelope = partial.frame()
	var meta metav1.PartialObjectMetadata
	h.must(meta.Unmarshal(envelope.Raw))
	if kind != "ADDED" || envelope.Kind != "PartialObjectMetadata" || meta.Name != "x" {
		t.Errorf("%s %v %+v", kind, envelope.TypeMeta, meta)
	}
	if kind, envelope = partial.frame(); kind != "BOOKMARK" || envelope.Kind != "PartialObjectMetadata" {
		t.Errorf("%s %v", kind, envelope.TypeMeta)
	}
}

func TestWatchTable(t *testing.T) {
	h := newHarness(t)
	h.call("POST", configMaps, configMapX)
	w := h.open(configMaps+"/x?watch=true", "application/json;as=Table;v=v1;g=meta.k8s.io")
	w.next().is(t, "ADDED", `"kind":"Table"`, `"name":"Name"`, `"cells":["x",1,`)
	h.call("POST", configMaps, strings.Replace(configMapX, `"x"`, `"other"`, 1))
	h.call("DELETE", configMaps+"/x", "")
	second := w.next()
	second.is(t, "DELETED", `"cells":["x",1,`)
	if strings.Contains(string(second.Object), `"name":"Name"`) {
		t.Errorf("columns told twice: %s", second.Object)
	}
}

func TestWatchFromExpiredVersion(t *testing.T) {
	h := newHarness(t)
	a := h.call("GET", "/api/v1/pods?watch=true&resourceVersion=1", "")
	if s := a.status(t); a.code != http.StatusGone || s.Reason != metav1.StatusReasonExpired {
		t.Errorf("%d %+v", a.code, s)
	}
	for _, query := range []string{"timeoutSeconds=x", "sendInitialEvents=true", "resourceVersionMatch=Exact"} {
		if a := h.call("GET", "/api/v1/pods?watch=true&"+query, ""); a.code != 400 && a.code != 422 {
			t.Errorf("%s: %d", query, a.code)
		}
	}
	if a := h.call("GET", "/api/v1/pods?watch=true", "", "Accept: application/yaml"); a.code != 406 {
		t.Errorf("yaml watch: %d", a.code)
	}
}

func TestWatchEndsWithItsTimeAndWithTheServer(t *testing.T) {
	h := newHarness(t)
	timed := h.open("/api/v1/pods?watch=true&timeoutSeconds=1", "")
	endless := h.open("/api/v1/pods?watch=true", "")
	if rest, err := io.ReadAll(timed.buf); err != nil || len(rest) != 0 {
		t.Errorf("%q %v", rest, err)
	}
	h.server.Close()
	if rest, err := io.ReadAll(endless.buf); err != nil || len(rest) != 0 {
		t.Errorf("%q %v", rest, err)
	}
}

func TestIdleWatchOutlivesTheWriteTimeout(t *testing.T) {
	h := newHarness(t)
	h.server.writeTimeout = 50 * time.Millisecond
	for name, client := range map[string]*http.Client{"HTTP/2": h.admin, "HTTP/1.1": h.oldHTTP()} {
		// One second of silence, then a clean end.
		if a := h.callAs(client, "GET", "/api/v1/pods?watch=true&timeoutSeconds=1", ""); a.code != 200 || len(a.body) != 0 {
			t.Errorf("%s: %d %q", name, a.code, a.body)
		}
	}
}

func TestStoppedReaderIsLeft(t *testing.T) {
	h := newHarness(t)
	h.server.writeTimeout = 500 * time.Millisecond
	body := fmt.Sprintf(`{"metadata":{"name":"%%s"},"data":{"big":%q}}`, strings.Repeat("x", 1<<20))
	// A connection of its own: a stopped HTTP/2 stream takes the window of its neighbours.
	other := &http.Client{Transport: &http.Transport{TLSClientConfig: h.tls.Clone(), ForceAttemptHTTP2: true}}
	t.Cleanup(other.CloseIdleConnections)
	for _, client := range []*http.Client{other, h.oldHTTP()} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.http.URL+configMaps+"?watch=true", nil)
		h.must(err)
		resp, err := client.Do(r)
		h.must(err)
		for i := range 16 { // more than all buffers between hold
			h.call("POST", configMaps, fmt.Sprintf(body, fmt.Sprintf("c%d", i)))
			h.call("DELETE", configMaps+fmt.Sprintf("/c%d", i), "")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		h.must(waitFor(ctx, func() bool { return h.registry.watches() == 0 }))
		cancel()
		_ = resp.Body.Close()
	}
}

func TestIdleWatchIsMarked(t *testing.T) {
	h := newHarness(t)
	w := h.open("/api/v1/pods?watch=true&allowWatchBookmarks=true&resourceVersion=100", "")
	// The watch takes the time when it begins; two steps later a mark is due whenever that was.
	h.clock.SetTime(h.clock.Now().Add(2 * bookmarkEvery))
	h.call("POST", configMaps, configMapX) // another kind moves on
	w.next().is(t, "BOOKMARK", `"kind":"Pod"`, `"resourceVersion":"101"`)
}
