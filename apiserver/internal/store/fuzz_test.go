package store

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"

	"kijabi.dev/apiserver/internal/fuzztest"
)

// FuzzManifest reads manifests that nobody wrote: what is read is as it would be written, and
// is safe to learn from.
func FuzzManifest(f *testing.F) {
	written := &manifest{epoch: 7, batch: 3, time: time.Unix(1, 2), groups: []manifestGroup{
		{user: "admin", requestID: "r", size: 2, writes: []manifestWrite{{position: 1, index: 5, path: "/o/pods/default/a"}, {index: 6, remove: true, path: "/e/leases//b"}}},
		{user: "none", requestID: "", size: 1, writes: []manifestWrite{}},
	}}
	text := written.encode()
	f.Add(text)
	f.Add(text[:len(text)-3])
	f.Add([]byte{manifestFormat, 0, 0, 0, 0x7f})
	// A size, a position and an index that are negative as int.
	huge := "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"
	f.Add([]byte("\x01\x01\x01\x01\x01\x01u\x01r" + huge + "\x00"))
	f.Add([]byte("\x01\x01\x01\x01\x01\x01u\x01r\x01\x01" + huge + "\x02\x0a/o/pods//a"))
	f.Add([]byte("\x01\x01\x01\x01\x01\x01u\x01r\x01\x01\x00" + huge + "\x0a/o/pods//a"))
	f.Fuzz(func(t *testing.T, encoded []byte) {
		fuzztest.Bounded(t, len(encoded), func() {
			m, err := decodeManifest(encoded)
			if err != nil {
				return
			}
			again, err := decodeManifest(m.encode())
			if err != nil || !reflect.DeepEqual(m, again) {
				t.Errorf("%+v became %+v: %v", m, again, err)
			}
			known := newRequests()
			known.learn(m, 9, time.Now())
			for _, o := range known.known {
				for _, w := range o.writes {
					if w.version != 0 && RevisionOf(w.version) != 9 {
						t.Errorf("%s is of revision %d, not 9", w.key, RevisionOf(w.version))
					}
				}
			}
			for path, place := range deletePlaces(m) {
				if place < 0 || RevisionOf(VersionOf(9, place)) != 9 {
					t.Errorf("%q is deleted at place %d", path, place)
				}
			}
		})
	})
}

// FuzzPair reads keys and values of etcd that nobody wrote: a key stands for one object, and
// an object has one key.
func FuzzPair(f *testing.F) {
	f.Add("/o/pods/default/a", encodeValue(7, []byte("x")))
	f.Add("/e/leases.coordination.k8s.io//a", []byte{valueFormat, 0xff, 0xff})
	for _, key := range []string{"", "/o/", "/o///", "/o//a/b", "/o/pods/a/b/c", "/o/pods/a/", "/e/pods", fenceKey, manifestKey, "/o/\xff//\x00"} {
		f.Add(key, []byte{2})
	}
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		fuzztest.Bounded(t, len(key)+len(value), func() {
			if k, ephemeral, ok := parsePath(key); ok {
				if !k.valid() || path(k, ephemeral) != key {
					t.Errorf("%q stands for %+v", key, k)
				}
				if prefixes := Prefixes(k.Resource); !strings.HasPrefix(key, prefixes[0]) && !strings.HasPrefix(key, prefixes[1]) {
					t.Errorf("%q is not below %q", key, prefixes)
				}
			}
			index, encoding, err := decodeValue(value)
			if err != nil {
				return
			}
			if again := encodeValue(index, encoding); !bytes.Equal(again, value) {
				t.Errorf("%x became %x", value, again)
			}
			if version := VersionOf(9, index); RevisionOf(version) != 9 {
				t.Errorf("the value is of revision %d, not 9", RevisionOf(version))
			}
		})
	})
}
