package rpc

import (
	"slices"
	"testing"

	"google.golang.org/grpc/metadata"
)

func TestAuditAnnotations(t *testing.T) {
	want := [][2]string{{"a.example.com/key", "value with \"quotes\""}, {"b", ""}, {"ü\n", "日本"}}
	header := metadata.MD{}
	for _, a := range want {
		header = metadata.Join(header, AuditAnnotation(a[0], a[1]))
	}
	header.Append(MetadataAuditAnnotation, "not quoted", `"half`, `"key"`, `"key" value`)
	if got := AuditAnnotationsOf(header); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
