package rpcapi

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/rpc"
	objectv1pb "kijabi.dev/proto/gen/kijabi/object/v1"
)

// Fields of ListResponse, WatchResponse, WatchEvent and google.protobuf.Any.
const (
	listObjects, listVersion, listContinue, listRemaining = 1, 2, 3, 4
	watchEvents, watchProgress, watchInitialEnd           = 1, 2, 3
	eventType, eventObject                                = 1, 2
	anyType, anyValue                                     = 1, 2
)

// copyBelow is the size below which a value is rather copied than sent as a part of its own.
const copyBelow = 512

// message writes a ListResponse or WatchResponse around objects that are kept encoded: their
// bytes are sent from where they are. Encoding those messages as others are would copy each
// object, and cost each watcher more than sending does.
type message struct {
	typeURL string
	watch   bool
	parts   mem.BufferSlice
	own     []byte // written since the last part
	// size is how many bytes of objects it holds, and objects how many of them.
	size, objects int
}

var _ rpc.Encoded = (*message)(nil)

func newListMessage(kind *registry.Kind) *message {
	return &message{typeURL: kind.TypeURL(), own: make([]byte, 0, 1024)}
}

func newWatchMessage(kind *registry.Kind) *message {
	return &message{typeURL: kind.TypeURL(), watch: true, own: make([]byte, 0, 256)}
}

// Parts implements rpc.Encoded.
func (m *message) Parts() mem.BufferSlice {
	m.part()
	return m.parts
}

// send sends what was written and begins another message.
func (m *message) send(out grpc.ServerStream) error {
	err := out.SendMsg(m)
	m.parts, m.size, m.objects = nil, 0, 0
	return err
}

// part makes a part of what was written last.
func (m *message) part() {
	if len(m.own) > 0 {
		m.parts = append(m.parts, mem.SliceBuffer(m.own))
		m.own = m.own[len(m.own):]
	}
}

// listed adds an object to a ListResponse.
func (m *message) listed(record *store.Record) {
	m.own = protowire.AppendTag(m.own, listObjects, protowire.BytesType)
	m.object(record)
}

// happened adds an event to a WatchResponse.
func (m *message) happened(kind objectv1pb.EventType, record *store.Record) {
	any := m.anyBytes(record)
	size := protowire.SizeTag(eventType) + protowire.SizeVarint(uint64(kind)) + protowire.SizeTag(eventObject) + protowire.SizeBytes(any)
	m.own = protowire.AppendTag(m.own, watchEvents, protowire.BytesType)
	m.own = protowire.AppendVarint(m.own, uint64(size))
	m.own = protowire.AppendTag(m.own, eventType, protowire.VarintType)
	m.own = protowire.AppendVarint(m.own, uint64(kind))
	m.own = protowire.AppendTag(m.own, eventObject, protowire.BytesType)
	m.object(record)
}

func (m *message) anyBytes(record *store.Record) int {
	return protowire.SizeTag(anyType) + protowire.SizeBytes(len(m.typeURL)) + protowire.SizeTag(anyValue) + protowire.SizeBytes(len(record.Value))
}

// object writes an object as an Any, behind its tag.
func (m *message) object(record *store.Record) {
	m.own = protowire.AppendVarint(m.own, uint64(m.anyBytes(record)))
	m.own = protowire.AppendTag(m.own, anyType, protowire.BytesType)
	m.own = protowire.AppendString(m.own, m.typeURL)
	m.own = protowire.AppendTag(m.own, anyValue, protowire.BytesType)
	if len(record.Value) < copyBelow {
		m.own = protowire.AppendBytes(m.own, record.Value)
	} else {
		m.own = protowire.AppendVarint(m.own, uint64(len(record.Value)))
		m.part()
		m.parts = append(m.parts, mem.SliceBuffer(record.Value))
	}
	m.size += len(record.Value)
	m.objects++
}

func (m *message) text(field protowire.Number, s string) {
	if s != "" {
		m.own = protowire.AppendTag(m.own, field, protowire.BytesType)
		m.own = protowire.AppendString(m.own, s)
	}
}

func (m *message) number(field protowire.Number, n int64) {
	if n != 0 {
		m.own = protowire.AppendTag(m.own, field, protowire.VarintType)
		m.own = protowire.AppendVarint(m.own, uint64(n))
	}
}

func (m *message) flag(field protowire.Number, set bool) {
	if set {
		m.own = protowire.AppendTag(m.own, field, protowire.VarintType)
		m.own = protowire.AppendVarint(m.own, 1)
	}
}
