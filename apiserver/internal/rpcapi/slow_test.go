package rpcapi_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/rpc"
	objectv1pb "kijabi.dev/proto/gen/kijabi/object/v1"
)

// Who opens a watch or a list and does not read it loses its connection; writers and other
// watchers do not notice.
func TestSlowReaders(t *testing.T) {
	d := openOn(t, memoryBackend(), func(cfg *rpc.ServerConfig) { cfg.Timeouts.Send = 500 * time.Millisecond })
	writer := client.New(d.dial(t, "admin"))
	written := 0
	write := func() {
		t.Helper()
		_, err := writer.Create(t.Context(), &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("big-%d", written)},
			Data:       map[string]string{"k": strings.Repeat("x", 400<<10)},
		})
		if err != nil {
			t.Fatalf("write %d: %v", written, err)
		}
		written++
	}
	const more = 12 // than a client takes unasked
	for range more {
		write()
	}
	configMaps := &objectv1pb.Resource{Version: "v1", Resource: "configmaps"}
	quick, err := objectv1pb.NewObjectServiceClient(d.dial(t, "admin")).Watch(t.Context(), &objectv1pb.WatchRequest{Resource: configMaps, SendInitialEvents: true})
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	follow := func() {
		t.Helper()
		for seen < written {
			message, err := quick.Recv()
			if err != nil {
				t.Fatalf("a watcher that reads, after %d of %d: %v", seen, written, err)
			}
			seen += len(message.GetEvents())
		}
	}
	follow()
	for name, openStream := range map[string]func(objectv1pb.ObjectServiceClient) (receive func() error, err error){
		"watch": func(c objectv1pb.ObjectServiceClient) (func() error, error) {
			stream, err := c.Watch(t.Context(), &objectv1pb.WatchRequest{Resource: configMaps})
			return func() error { _, err := stream.Recv(); return err }, err
		},
		"watch of what is there": func(c objectv1pb.ObjectServiceClient) (func() error, error) {
			stream, err := c.Watch(t.Context(), &objectv1pb.WatchRequest{Resource: configMaps, SendInitialEvents: true})
			return func() error { _, err := stream.Recv(); return err }, err
		},
		"list": func(c objectv1pb.ObjectServiceClient) (func() error, error) {
			stream, err := c.List(t.Context(), &objectv1pb.ListRequest{Resource: configMaps})
			return func() error { _, err := stream.Recv(); return err }, err
		},
	} {
		conn := d.dial(t, "admin")
		receive, err := openStream(objectv1pb.NewObjectServiceClient(conn))
		if err == nil && name == "watch" {
			err = receive() // it has begun
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		state := conn.GetState()
		for range more {
			write()
			follow()
		}
		patience, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		if !conn.WaitForStateChange(patience, state) {
			t.Fatalf("%s: the connection is kept", name)
		}
		cancel()
		for err == nil {
			err = receive()
		}
		if errors.Is(err, io.EOF) || status.Code(err) != codes.Unavailable {
			t.Errorf("%s ends with %v", name, err)
		}
	}
}
