package rpc

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
)

// maxDepth bounds the nesting of received messages; the default of 10,000 lets a
// small message cost much stack.
const maxDepth = 100

// codec encodes protobuf as gRPC's own does, and refuses messages nested deeper
// than maxDepth.
type codec struct{}

var _ encoding.CodecV2 = codec{}

// Name is the content subtype, application/grpc+proto.
func (codec) Name() string { return "proto" }

// Marshal encodes into a pooled buffer where that pays.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	message, err := messageOf(v)
	if err != nil {
		return nil, err
	}
	size := proto.Size(message)
	options := proto.MarshalOptions{UseCachedSize: true}
	if mem.IsBelowBufferPoolingThreshold(size) {
		data, err := options.Marshal(message)
		if err != nil {
			return nil, err
		}
		return mem.BufferSlice{mem.SliceBuffer(data)}, nil
	}
	pool := mem.DefaultBufferPool()
	buffer := pool.Get(size)
	data, err := options.MarshalAppend((*buffer)[:0], message)
	if err != nil {
		pool.Put(buffer)
		return nil, err
	}
	*buffer = data
	return mem.BufferSlice{mem.NewBuffer(buffer, pool)}, nil
}

// Unmarshal decodes; the result does not refer to data.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	message, err := messageOf(v)
	if err != nil {
		return err
	}
	buffer := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buffer.Free()
	return proto.UnmarshalOptions{RecursionLimit: maxDepth}.Unmarshal(buffer.ReadOnlyData(), message)
}

func messageOf(v any) (proto.Message, error) {
	switch v := v.(type) {
	case proto.Message:
		return v, nil
	case protoadapt.MessageV1:
		return protoadapt.MessageV2Of(v), nil
	default:
		return nil, fmt.Errorf("%T is no protobuf message", v)
	}
}
