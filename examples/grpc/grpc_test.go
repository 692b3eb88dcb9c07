package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"
	reflectionv1pb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"google.golang.org/protobuf/types/known/anypb"

	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
	"kijabi.dev/proto/descriptors"
	objectv1pb "kijabi.dev/proto/gen/kijabi/object/v1"
)

// objects is an ObjectService that holds one pod and remembers one creation.
type objects struct {
	objectv1pb.UnimplementedObjectServiceServer

	t       *testing.T
	created chan object.Object
}

func (o *objects) pod() *anypb.Any {
	packed, err := object.Pack(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-1"},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.244.1.7"},
	})
	if err != nil {
		o.t.Error(err)
	}
	return packed
}

func (o *objects) List(_ *objectv1pb.ListRequest, out grpc.ServerStreamingServer[objectv1pb.ListResponse]) error {
	return out.Send(&objectv1pb.ListResponse{Objects: []*anypb.Any{o.pod()}, ResourceVersion: "7"})
}

// Watch sends the pod, breaks off, and ends well when asked to go on from version 7.
func (o *objects) Watch(req *objectv1pb.WatchRequest, out grpc.ServerStreamingServer[objectv1pb.WatchResponse]) error {
	event := objectv1pb.EventType_EVENT_TYPE_ADDED
	if req.GetResourceVersion() == "7" {
		event = objectv1pb.EventType_EVENT_TYPE_DELETED
	}
	err := out.Send(&objectv1pb.WatchResponse{Events: []*objectv1pb.WatchEvent{{Type: event, Object: o.pod()}}, Progress: "7"})
	if err != nil || !req.GetSendInitialEvents() {
		<-out.Context().Done()
		return err
	}
	return apierrors.NewServiceUnavailable("this master is about to end")
}

func (o *objects) Create(_ context.Context, req *objectv1pb.CreateRequest) (*objectv1pb.CreateResponse, error) {
	obj, err := object.Unpack(req.GetObject())
	if err != nil {
		return nil, err
	}
	if obj.GetName() == "taken" {
		return nil, apierrors.NewAlreadyExists(schema.GroupResource{Group: "apps", Resource: "deployments"}, obj.GetName())
	}
	o.created <- obj
	return &objectv1pb.CreateResponse{Object: req.GetObject()}, nil
}

// cluster serves objects with real certificates, and returns the flags to reach it.
func cluster(t *testing.T) (*objects, []string) {
	t.Helper()
	ca, err := pki.NewCA("test", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	issue := func(component string) configv1.Identity {
		cert, key, err := ca.Issue(pki.Subject(component, "master-1"))
		if err != nil {
			t.Fatal(err)
		}
		files := configv1.Identity{
			CertFile: filepath.Join(dir, component+".crt"), KeyFile: filepath.Join(dir, component+".key"), CAFile: filepath.Join(dir, "ca.crt"),
		}
		for path, content := range map[string][]byte{files.CertFile: cert, files.KeyFile: key, files.CAFile: ca.CertificatePEM()} {
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return files
	}
	identity, err := pki.OpenIdentity(issue("apiserver"))
	if err != nil {
		t.Fatal(err)
	}
	server, err := rpc.NewServer(rpc.ServerConfig{Identity: identity, Log: zaptest.NewLogger(t), Descriptors: descriptors.Resolver()})
	if err != nil {
		t.Fatal(err)
	}
	service := &objects{t: t, created: make(chan object.Object, 1)}
	objectv1pb.RegisterObjectServiceServer(server, service)
	listener, err := rpc.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("server: %v", err)
		}
	})
	user := issue("scheduler") // any identity the cluster's CA has signed
	return service, []string{"--cert", user.CertFile, "--key", user.KeyFile, "--ca", user.CAFile, "--server", listener.Addr().String()}
}

func TestPods(t *testing.T) {
	_, access := cluster(t)
	var out bytes.Buffer
	if err := run(t.Context(), append(access, "pods"), &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "shop        web-1   Running          10.244.1.7") {
		t.Errorf("output:\n%s", out.String())
	}
}

func TestWatchGoesOnAfterABreak(t *testing.T) {
	_, access := cluster(t)
	ctx, cancel := context.WithCancel(t.Context())
	reader, writer := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, append(access, "watch"), writer, io.Discard) }()
	want := "ADDED    shop/web-1 Running\nDELETED  shop/web-1 Running\n"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(reader, got); err != nil || string(got) != want {
		t.Errorf("output %q, %v", got, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("watch ended with %v", err)
	}
}

func TestCreate(t *testing.T) {
	service, access := cluster(t)
	var out bytes.Buffer
	if err := run(t.Context(), append([]string{"create", "web", "--replicas", "3"}, access...), &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	created := <-service.created
	if created.GetName() != "web" || created.GetNamespace() != "default" || !strings.Contains(out.String(), "deployment default/web created") {
		t.Errorf("created %s/%s, output %q", created.GetNamespace(), created.GetName(), out.String())
	}
	err := run(t.Context(), append(access, "create", "taken"), &out, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "default/taken exists already") {
		t.Errorf("error %v", err)
	}
}

// TestReflectionDescribesObjects asks the way grpcurl does, with the user's certificate.
func TestReflectionDescribesObjects(t *testing.T) {
	_, access := cluster(t) // --cert FILE --key FILE --ca FILE --server ADDRESS
	identity, err := pki.OpenIdentity(configv1.Identity{CertFile: access[1], KeyFile: access[3], CAFile: access[5]})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := rpc.Dial(access[7], identity)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	stream, err := reflectionv1pb.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, symbol := range []string{"kijabi.object.v1.ObjectService", "k8s.io.api.apps.v1.Deployment"} {
		err := stream.Send(&reflectionv1pb.ServerReflectionRequest{
			MessageRequest: &reflectionv1pb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: symbol},
		})
		if err != nil {
			t.Fatal(err)
		}
		answer, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if len(answer.GetFileDescriptorResponse().GetFileDescriptorProto()) == 0 {
			t.Errorf("%s: %s", symbol, answer.GetErrorResponse())
		}
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{nil, {"dance"}, {"create"}, {"pods", "extra"}, {"--nonsense"}} {
		var complaints bytes.Buffer
		if err := run(t.Context(), args, io.Discard, &complaints); !errors.Is(err, flag.ErrHelp) || !strings.Contains(complaints.String(), "usage: grpc") {
			t.Errorf("%q: %v, %q", args, err, complaints.String())
		}
	}
}
