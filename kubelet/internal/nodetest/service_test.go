package nodetest

import (
	"context"
	"errors"
	"io"
	"net"
	"regexp"
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
		for _, c := range []struct {
			port    uint32
			address bool
			wrong   string
		}{
			{8080, false, ""}, {8081, false, ""}, {8080, true, ""},
			{8081, true, "connection refused"}, // what the pod serves to itself only
			{8082, true, "connect to pod app: "},
		} {
			answer, err := forward(t, client, &kubeletv1pb.PortForwardStart{Target: target("app"), Port: c.port, PodAddress: c.address}, "GET / HTTP/1.0\r\n\r\n")
			if c.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), c.wrong) {
					t.Errorf("%+v: %v", c, err)
				}
				continue
			}
			if err != nil || !strings.HasPrefix(answer, "HTTP/1.0 200") || !strings.HasSuffix(answer, "app\n") {
				t.Errorf("%+v: %q %v", c, answer, err)
			}
		}
	})
	t.Run("pages", func(t *testing.T) { pages(t, client) })
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

// forward sends text to a port, and no more, and returns what comes back.
func forward(t *testing.T, client kubeletv1pb.KubeletServiceClient, start *kubeletv1pb.PortForwardStart, text string) (string, error) {
	t.Helper()
	stream, err := client.PortForward(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, request := range []*kubeletv1pb.PortForwardRequest{
		{Message: &kubeletv1pb.PortForwardRequest_Start{Start: start}}, {Message: &kubeletv1pb.PortForwardRequest_Data{Data: []byte(text)}},
	} {
		if err := stream.Send(request); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
	if start.GetPodAddress() {
		if err := stream.CloseSend(); err != nil { // half of the connection; the answer still comes
			t.Fatal(err)
		}
	}
	var answer strings.Builder
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return answer.String(), nil
		}
		if err != nil {
			return answer.String(), err
		}
		answer.Write(message.GetData())
	}
}

// pages reads all pages of a node that runs the ready pod app.
func pages(t *testing.T, client kubeletv1pb.KubeletServiceClient) {
	t.Helper()
	read := func(name kubeletv1pb.PageName) (contentType, text string) {
		t.Helper()
		stream, err := client.Page(t.Context(), &kubeletv1pb.PageRequest{Page: name})
		if err != nil {
			t.Fatal(err)
		}
		for {
			message, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return contentType, text
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			contentType, text = contentType+message.GetContentType(), text+string(message.GetData())
		}
	}
	const figure = ` \d+(\.\d+)?(e\+\d+)?`
	for name, want := range map[kubeletv1pb.PageName][]string{
		kubeletv1pb.PageName_PAGE_NAME_HEALTHZ: {`^text/plain; charset=utf-8\nok$`},
		kubeletv1pb.PageName_PAGE_NAME_PODS:    {`^application/json\n{"kind":"PodList","apiVersion":"v1"`, `"name":"app"`, `"phase":"Running"`},
		kubeletv1pb.PageName_PAGE_NAME_CONFIGZ: {`^application/json\n{"kubeletconfig":{"kind":"Test"}}$`},
		kubeletv1pb.PageName_PAGE_NAME_STATS_SUMMARY: {
			`"node":{"nodeName":"node","startTime":"1970-01-01T00:00:01Z","cpu":{"time":"2`, `"podRef":{"name":"app","namespace":"default","uid":"uid-app`,
			`{"name":"main","startTime":"2[^"]*","cpu":{"time":"2[^"]*","usageCoreNanoSeconds":[1-9]\d*},"memory":{"time":"2[^"]*","workingSetBytes":[1-9]`,
		},
		kubeletv1pb.PageName_PAGE_NAME_METRICS: {
			`^text/plain; version=0.0.4`, `\nkubelet_running_pods [1-9]`, `\nkubelet_running_containers{container_state="running"} [1-9]`, `\nkubelet_node_name{node="node"} 1\n`,
			`\ngo_goroutines \d`, `\nprocess_cpu_seconds_total \d`,
		},
		kubeletv1pb.PageName_PAGE_NAME_METRICS_RESOURCE: {
			`\nresource_scrape_error 0\n`, `\n# TYPE node_cpu_usage_seconds_total counter\nnode_cpu_usage_seconds_total` + figure + ` \d{13}\n`, `\nnode_memory_working_set_bytes` + figure + ` \d{13}\n`,
			`\npod_cpu_usage_seconds_total{namespace="default",pod="app"}` + figure + ` \d{13}\n`, `\npod_memory_working_set_bytes{namespace="default",pod="app"}` + figure + ` \d{13}\n`,
			`\ncontainer_cpu_usage_seconds_total{container="main",namespace="default",pod="app"}` + figure + ` \d{13}\n`,
			`\ncontainer_memory_working_set_bytes{container="main",namespace="default",pod="app"}` + figure + ` \d{13}\n`,
			`\ncontainer_start_time_seconds{container="main",namespace="default",pod="app"}` + figure + `\n`,
		},
	} {
		contentType, text := read(name)
		for _, pattern := range want {
			if !regexp.MustCompile(pattern).MatchString(contentType + "\n" + text) {
				t.Errorf("%s lacks %s:\n%s\n%s", name, pattern, contentType, text[:min(len(text), 3000)])
			}
		}
	}
	stream, err := client.Page(t.Context(), &kubeletv1pb.PageRequest{Page: 99})
	if err == nil {
		_, err = stream.Recv()
	}
	if err == nil || !strings.Contains(err.Error(), "no page 99") {
		t.Errorf("a page that there is not: %v", err)
	}
}
