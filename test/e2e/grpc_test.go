package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	grpcstatus "google.golang.org/grpc/status"

	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
	"kijabi.dev/test/harness"
)

// testGRPC uses examples/grpc as a user does, and reflection.
func testGRPC(t *harness.T, c *cluster) {
	c.guestbook(t)
	program := filepath.Join(t.TempDir(), "grpc")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./grpc")
	build.Dir = filepath.Join(c.Root, "examples")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build examples/grpc: %v: %s", err, out)
	}
	example := func(args ...string) string {
		t.Helper()
		result := c.Run(t, harness.Invocation{Env: []string{"KIJABI_ACCESS=" + c.AccessDir(clusterName)}, Argv: append([]string{program}, args...)})
		if result.Code != 0 {
			t.Fatal(result)
		}
		return result.Stdout
	}
	harness.Contains(t, "pods", example("pods"), "guestbook-", "Running", "10.244.")
	harness.Contains(t, "create", example("create", "over-grpc", "--replicas", "2"), "deployment default/over-grpc created")
	c.awaitDeployment(t, 30*time.Second, "default", "over-grpc", 2)
	harness.Contains(t, "pods", example("pods", "--namespace", "default"), "over-grpc-")
	again := c.Run(t, harness.Invocation{Env: []string{"KIJABI_ACCESS=" + c.AccessDir(clusterName)}, Argv: []string{program, "create", "over-grpc"}})
	if again.Code != 1 || !strings.Contains(again.Stderr, "exists already") {
		t.Errorf("create again: %s", again)
	}
	harness.Contains(t, "delete", example("delete", "over-grpc"), "deployment default/over-grpc deleted")

	services, err := c.reflect(t, c.Identity(clusterName).CertFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"kijabi.object.v1.ObjectService", "kijabi.masters.v1.MastersService", "grpc.health.v1.Health"} {
		if !slices.Contains(services, name) {
			t.Errorf("reflection does not tell of %s: %v", name, services)
		}
	}
	if services, err := c.reflect(t, ""); grpcstatus.Code(err) != codes.Unauthenticated && grpcstatus.Code(err) != codes.Unavailable {
		t.Errorf("reflection without a certificate: %v, %v", services, err)
	}
}

// reflect lists the services of an apiserver, with a certificate or without.
func (c *cluster) reflect(t *harness.T, certificate string) ([]string, error) {
	t.Helper()
	files := c.Identity(clusterName)
	if certificate == "" {
		ca, err := pki.NewCA("stranger", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		cert, key, err := ca.Issue(pki.LeafRequest{CommonName: "stranger", Life: time.Hour, Client: true})
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		files.CertFile, files.KeyFile = filepath.Join(dir, "crt"), filepath.Join(dir, "key")
		for path, content := range map[string][]byte{files.CertFile: cert, files.KeyFile: key} {
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	identity, err := pki.OpenIdentity(files)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := rpc.Dial(c.Masters(t, clusterName)[0], identity)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	stream, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err != nil {
		return nil, err
	}
	if err := stream.Send(&reflectionv1.ServerReflectionRequest{
		MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{},
	}); err != nil {
		return nil, err
	}
	answer, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, service := range answer.GetListServicesResponse().GetService() {
		names = append(names, service.GetName())
	}
	return names, nil
}
