package nodetest

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"kijabi.dev/platform/lifecycle"
	kubeletv1pb "kijabi.dev/proto/gen/kijabi/kubelet/v1"
)

func dial(t *testing.T, k *kubelet) kubeletv1pb.KubeletServiceClient {
	t.Helper()
	socket, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	kubeletv1pb.RegisterKubeletServiceServer(s, k.service)
	group := lifecycle.NewGroup(testContext())
	group.Go(func(context.Context) error { return s.Serve(socket) })
	conn, err := grpc.NewClient(socket.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		s.Stop()
		_ = group.Wait()
	})
	return kubeletv1pb.NewKubeletServiceClient(conn)
}

func target(pod string) *kubeletv1pb.Target {
	return &kubeletv1pb.Target{Namespace: "default", Pod: pod}
}

func TestService(t *testing.T) {
	c, k := begin(t)
	c.create(pod("app", "serve"))
	c.await(t, "app", "ready", ready)
	client := dial(t, k)
	t.Run("logs", func(t *testing.T) {
		stream, err := client.Logs(t.Context(), &kubeletv1pb.LogsRequest{Target: target("app"), Follow: true})
		if err != nil {
			t.Fatal(err)
		}
		message, err := stream.Recv()
		if err != nil || string(message.GetData()) != "serving\n" {
			t.Fatalf("%q %v", message.GetData(), err)
		}
		if stream, err = client.Logs(t.Context(), &kubeletv1pb.LogsRequest{Target: target("app"), Previous: true}); err == nil {
			_, err = stream.Recv()
		}
		if err == nil || !strings.Contains(err.Error(), "previous") {
			t.Fatalf("previous log: %v", err)
		}
	})
	t.Run("exec", func(t *testing.T) {
		out, code := run(t, client, &kubeletv1pb.ExecStart{Target: target("app"), Command: []string{"/workload", "copy"}, Stdin: true, Stdout: true, Stderr: true}, "to and fro")
		if out != "to and fro" || code != 0 {
			t.Fatalf("%q, exit code %d", out, code)
		}
		if _, code = run(t, client, &kubeletv1pb.ExecStart{Target: target("app"), Command: []string{"/workload", "exit", "7"}, Stdout: true}, ""); code != 7 {
			t.Fatalf("exit code %d, want 7", code)
		}
		out, code = run(t, client, &kubeletv1pb.ExecStart{Target: target("app"), Command: []string{"/workload", "print", "on a terminal"}, Stdout: true, Tty: true}, "")
		if out != "on a terminal\r\n" || code != 0 {
			t.Fatalf("%q, exit code %d", out, code)
		}
	})
	t.Run("forward", func(t *testing.T) {
		stream, err := client.PortForward(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, request := range []*kubeletv1pb.PortForwardRequest{
			{Message: &kubeletv1pb.PortForwardRequest_Start{Start: &kubeletv1pb.PortForwardStart{Target: target("app"), Port: 8080}}},
			{Message: &kubeletv1pb.PortForwardRequest_Data{Data: []byte("GET / HTTP/1.0\r\n\r\n")}},
		} {
			if err := stream.Send(request); err != nil {
				t.Fatal(err)
			}
		}
		var answer strings.Builder
		for {
			message, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			answer.Write(message.GetData())
		}
		if !strings.HasPrefix(answer.String(), "HTTP/1.0 200") || !strings.HasSuffix(answer.String(), "app\n") {
			t.Fatalf("answer %q", answer.String())
		}
	})
	t.Run("stats", func(t *testing.T) {
		stats, err := client.Stats(t.Context(), &kubeletv1pb.StatsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, pod := range stats.GetPods() {
			if pod.GetName() == "app" && pod.GetContainers()[0].GetUse().GetMemoryBytes() > 0 {
				return
			}
		}
		t.Fatalf("stats %v", stats)
	})
	t.Run("no such pod", func(t *testing.T) {
		stream, err := client.Logs(t.Context(), &kubeletv1pb.LogsRequest{Target: target("none")})
		if err == nil {
			_, err = stream.Recv()
		}
		if err == nil || !strings.Contains(err.Error(), "not found") {
			t.Fatal(err)
		}
	})
}

func run(t *testing.T, client kubeletv1pb.KubeletServiceClient, start *kubeletv1pb.ExecStart, input string) (output string, code int32) {
	t.Helper()
	stream, err := client.Exec(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	requests := []*kubeletv1pb.ExecRequest{{Message: &kubeletv1pb.ExecRequest_Start{Start: start}}}
	if input != "" {
		requests = append(requests, &kubeletv1pb.ExecRequest{Message: &kubeletv1pb.ExecRequest_Stdin{Stdin: []byte(input)}},
			&kubeletv1pb.ExecRequest{Message: &kubeletv1pb.ExecRequest_StdinClose{StdinClose: true}})
	}
	for _, request := range requests {
		if err := stream.Send(request); err != nil {
			t.Fatal(err)
		}
	}
	var out strings.Builder
	for {
		message, err := stream.Recv()
		if err != nil {
			t.Fatalf("exec: %v (output so far %q)", err, out.String())
		}
		switch message := message.GetMessage().(type) {
		case *kubeletv1pb.ExecResponse_Stdout:
			out.Write(message.Stdout)
		case *kubeletv1pb.ExecResponse_ExitCode:
			return out.String(), message.ExitCode
		}
	}
}
