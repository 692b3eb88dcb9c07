package rpcapi

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"kijabi.dev/apiserver/internal/fuzztest"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/rpc"
)

// FuzzUnpack decodes whatever an Any holds: what is accepted is what clients of both doors
// can read, and is accepted again as it is sent.
func FuzzUnpack(f *testing.F) {
	for _, kind := range object.Kinds() {
		obj := kind.New()
		obj.SetName("a")
		obj.SetLabels(map[string]string{"a": "b"})
		value, err := obj.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(kind.TypeURL(), value)
		f.Add(kind.TypeURL(), append(value, 0x12, 0x06, 0x82, 0x02, 0x03, 0x0a, 0x01, 0xff))
	}
	custom := &object.Custom{}
	custom.SetContent(map[string]any{"spec": map[string]any{"size": int64(3)}})
	value, err := custom.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	url := object.CustomKind(custom.GroupVersionKind(), "things", true).TypeURL()
	f.Add(url, value)
	f.Add(url, bytes.ReplaceAll(value, []byte(":3"), []byte(":\xff")))
	f.Add(url, append([]byte{0x22, 0x80, 0x10}, strings.Repeat("[", 1024)+strings.Repeat("]", 1024)...))
	f.Add("type.googleapis.com/\xff", value)
	f.Fuzz(func(t *testing.T, url string, value []byte) {
		fuzztest.Bounded(t, len(url)+len(value), func() {
			obj, err := unpack(&anypb.Any{TypeUrl: url, Value: value})
			if err != nil {
				fuzztest.Refused(t, err)
				if back := rpc.FromStatus(rpc.ToStatus(err)); back == nil || back.Error() != err.Error() {
					t.Errorf("%q arrives as %q", err, back)
				}
				return
			}
			text, err := json.Marshal(obj)
			if err != nil {
				t.Fatalf("accepted and not readable: %v", err)
			}
			if err := json.Unmarshal(text, obj.DeepCopyObject()); err != nil {
				t.Fatalf("accepted and not readable: %v: %s", err, text)
			}
			packed, err := object.Pack(obj)
			if err != nil {
				t.Fatal(err)
			}
			again, err := unpack(packed)
			if err != nil {
				t.Fatalf("accepted and not again: %v", err)
			}
			if back, err := object.Pack(again); err != nil || !proto.Equal(packed, back) {
				t.Errorf("%+v became %+v: %v", obj, again, err)
			}
		})
	})
}
