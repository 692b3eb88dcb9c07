package rpcapi

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"

	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/rpc"
	objectv1pb "kijabi.dev/proto/gen/kijabi/object/v1"
)

// sent keeps what is sent, as the wire has it.
type sent struct {
	grpc.ServerStream
	messages [][]byte
}

func (s *sent) SendMsg(m any) error {
	s.messages = append(s.messages, m.(rpc.Encoded).Parts().Materialize())
	return nil
}

func configMaps(t *testing.T) *registry.Kind {
	t.Helper()
	kind, err := object.KindOfObject(&corev1.ConfigMap{})
	if err != nil {
		t.Fatal(err)
	}
	return &registry.Kind{Kind: kind}
}

// TestMessagesAreWhatProtobufMakes compares messages written by hand with the generated ones,
// for values that are copied and values that are sent from where they are.
func TestMessagesAreWhatProtobufMakes(t *testing.T) {
	kind := configMaps(t)
	var records []*store.Record
	for _, size := range []int{0, 1, copyBelow - 1, copyBelow, 3 * copyBelow, 1, 200_000} {
		records = append(records, &store.Record{Value: bytes.Repeat([]byte{byte(size)}, size)})
	}
	for first := range records {
		for last := first; last <= len(records); last++ {
			t.Run(fmt.Sprintf("%d to %d", first, last), func(t *testing.T) {
				list := &objectv1pb.ListResponse{ResourceVersion: "17", Continue: "next", Remaining: 1 << 40}
				watch := &objectv1pb.WatchResponse{Progress: "18", InitialEventsEnd: first == 0}
				listed, watched := newListMessage(kind), newWatchMessage(kind)
				listed.text(listVersion, "17")
				for i, record := range records[first:last] {
					what := objectv1pb.EventType(i%3 + 1)
					list.Objects = append(list.Objects, pack(kind, record))
					watch.Events = append(watch.Events, &objectv1pb.WatchEvent{Type: what, Object: pack(kind, record)})
					listed.listed(record)
					watched.happened(what, record)
				}
				listed.text(listContinue, "next")
				listed.number(listRemaining, 1<<40)
				watched.text(watchProgress, "18")
				watched.flag(watchInitialEnd, first == 0)

				var out sent
				if err := listed.send(&out); err != nil {
					t.Fatal(err)
				}
				if err := watched.send(&out); err != nil {
					t.Fatal(err)
				}
				gotList, gotWatch := &objectv1pb.ListResponse{}, &objectv1pb.WatchResponse{}
				if err := proto.Unmarshal(out.messages[0], gotList); err != nil || !proto.Equal(gotList, list) {
					t.Errorf("list differs: %v", err)
				}
				if err := proto.Unmarshal(out.messages[1], gotWatch); err != nil || !proto.Equal(gotWatch, watch) {
					t.Errorf("watch differs: %v", err)
				}
			})
		}
	}
}

// TestMessageBeginsAnewAfterSending sends two messages from one writer.
func TestMessageBeginsAnewAfterSending(t *testing.T) {
	kind := configMaps(t)
	var out sent
	m := newListMessage(kind)
	for _, value := range []string{"first", "second"} {
		m.listed(&store.Record{Value: []byte(value)})
		if err := m.send(&out); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, b := range out.messages {
		var list objectv1pb.ListResponse
		if err := proto.Unmarshal(b, &list); err != nil {
			t.Fatal(err)
		}
		for _, packed := range list.GetObjects() {
			got = append(got, string(packed.GetValue()))
		}
	}
	if !slices.Equal(got, []string{"first", "second"}) {
		t.Errorf("objects %q", got)
	}
}
