package rpc_test

import (
	"context"
	"slices"
	"sync"
	"testing"

	"google.golang.org/grpc"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/pki/pkitest"
	"kijabi.dev/platform/rpc"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"
)

// counting counts the messages of a stream.
type counting struct {
	grpc.ServerStream

	sent func()
}

func (c *counting) SendMsg(m any) error {
	c.sent()
	return c.ServerStream.SendMsg(m)
}

// What surrounds calls sees all of them, admitted or not, and can refuse one and watch a stream.
func TestSurround(t *testing.T) {
	const prefix = "/kijabi.masters.v1.MastersService/"
	var mu sync.Mutex
	var seen []string
	note := func(text string) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, text)
	}
	ca := pkitest.NewCA(t)
	server := start(t, ca, &service{name: "m1", watchLeader: func(out grpc.ServerStreamingServer[mastersv1pb.WatchLeaderResponse]) error {
		return out.Send(&mastersv1pb.WatchLeaderResponse{Leader: "m1"})
	}}, func(cfg *rpc.ServerConfig) {
		cfg.Surround = func(ctx context.Context, call *rpc.Call, next func(context.Context) error) error {
			text := call.Method + " by " + call.Caller.Name
			if _, unary := call.Request.(*mastersv1pb.StatusRequest); unary && call.Caller.Name == "system:kube-proxy" {
				note(text + ": too many")
				return apierrors.NewTooManyRequests("later", 1)
			}
			if call.Stream != nil {
				call.Stream = &counting{ServerStream: call.Stream, sent: func() { note(call.Method + " sends") }}
			}
			err := next(ctx)
			switch {
			case call.Refused != nil && err != nil:
				note(text + ": refused")
			case err != nil:
				note(text + ": " + err.Error())
			default:
				note(text)
			}
			return err
		}
	})
	client := func(component string) mastersv1pb.MastersServiceClient {
		return mastersv1pb.NewMastersServiceClient(dial(t, ca, server.address, component, "m1"))
	}
	scheduler, proxy := client(pki.ComponentScheduler), client(pki.ComponentKubeProxy)
	if _, err := scheduler.Status(within(t), &mastersv1pb.StatusRequest{}); err != nil {
		t.Error(err)
	}
	if _, err := proxy.Status(within(t), &mastersv1pb.StatusRequest{}); !apierrors.IsTooManyRequests(rpc.FromStatus(err)) {
		t.Errorf("status by the proxy: %v", err)
	}
	if _, err := scheduler.Transfer(within(t), &mastersv1pb.TransferRequest{}); !apierrors.IsForbidden(rpc.FromStatus(err)) {
		t.Errorf("transfer by the scheduler: %v", err)
	}
	stream, err := scheduler.WatchLeader(within(t), &mastersv1pb.WatchLeaderRequest{Component: "scheduler"})
	for err == nil {
		_, err = stream.Recv()
	}
	want := []string{
		prefix + "Status by system:kube-scheduler",
		prefix + "Status by system:kube-proxy: too many",
		prefix + "Transfer by system:kube-scheduler: refused",
		prefix + "WatchLeader sends",
		prefix + "WatchLeader by system:kube-scheduler",
	}
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(seen, want) {
		t.Errorf("seen %q, want %q", seen, want)
	}
}
