package rpc

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func TestCodecKeepsMessagesOfAllSizes(t *testing.T) {
	for _, size := range []int{0, 1, 1 << 10, 64 << 10, 5 << 20} {
		want := wrapperspb.String(strings.Repeat("x", size))
		data, err := codec{}.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		got := &wrapperspb.StringValue{}
		if err := (codec{}).Unmarshal(data, got); err != nil || !proto.Equal(want, got) {
			t.Errorf("%d bytes: %v", size, err)
		}
		data.Free()
		if got.GetValue() != want.GetValue() {
			t.Errorf("%d bytes: the message refers to a freed buffer", size)
		}
	}
}

func TestCodecRefusesDeepMessages(t *testing.T) {
	for depth, want := range map[int]bool{20: true, 200: false} {
		value := structpb.NewNullValue()
		for range depth {
			value = structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{value}})
		}
		data, err := codec{}.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		if err := (codec{}).Unmarshal(data, &structpb.Value{}); (err == nil) != want {
			t.Errorf("depth %d: %v", depth, err)
		}
	}
}

func TestCodecRefusesOtherTypes(t *testing.T) {
	if _, err := (codec{}).Marshal("text"); err == nil {
		t.Error("a string was encoded")
	}
	if err := (codec{}).Unmarshal(nil, new(string)); err == nil {
		t.Error("a string was decoded")
	}
}
