package lifecycle

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/pki/pkitest"
)

// program is a scheduler on machine m1 that answers health checks at an address.
func program(t *testing.T, ca *pki.CA, component string) (address string, state *health.Server, files configv1.Identity) {
	t.Helper()
	files = pkitest.Files(t, ca, pki.Subject(component, "m1"))
	id, err := pki.OpenIdentity(files)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(id.ServerTLS(tls.RequireAndVerifyClientCert))))
	state = health.NewServer()
	grpc_health_v1.RegisterHealthServer(server, state)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return listener.Addr().String(), state, files
}

func writeScheduler(t *testing.T, path, address string, files configv1.Identity) {
	t.Helper()
	content := fmt.Sprintf(`
apiVersion: kijabi.dev/v1
kind: SchedulerConfiguration
nodeName: m1
listenAddress: %s
identity: {certFile: %s, keyFile: %s, caFile: %s}
apiServer: :2
logLevel: error
`, address, files.CertFile, files.KeyFile, files.CAFile)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func call(ctx context.Context, run func(context.Context) error, args ...string) (int, string) {
	output := &bytes.Buffer{}
	code := mainWith(ctx, "scheduler", args, output, output, &configv1.SchedulerConfiguration{},
		func(ctx context.Context, _ *configv1.SchedulerConfiguration, _ *zap.Logger) error { return run(ctx) })
	return code, output.String()
}

func TestHealth(t *testing.T) {
	ca := pkitest.NewCA(t)
	address, state, files := program(t, ca, pki.ComponentScheduler)
	other, _, _ := program(t, ca, pki.ComponentKubelet)
	file := filepath.Join(t.TempDir(), "scheduler.yaml")
	check := func(address string) (int, string) {
		writeScheduler(t, file, address, files)
		return call(t.Context(), nil, "--config", file, "--health")
	}
	if code, out := check(address); code != ExitOK || out != "scheduler: serving at "+address+"\n" {
		t.Errorf("serving: %d, %s", code, out)
	}
	state.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	if code, out := check(address); code != ExitFailure || !strings.Contains(out, "not_serving") {
		t.Errorf("not serving: %d, %s", code, out)
	}
	if code, out := check(other); code != ExitFailure || !strings.Contains(out, "kubelet.m1.kijabi") {
		t.Errorf("another program at the address: %d, %s", code, out)
	}
	if code, out := check("127.0.0.1:1"); code != ExitFailure || !strings.Contains(out, "refused") {
		t.Errorf("nobody at the address: %d, %s", code, out)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if code, out := call(t.Context(), nil, "--config", file, "--health"); code != ExitFailure || strings.Count(out, "\n") != 1 {
		t.Errorf("no configuration: %d, %s", code, out)
	}
}

func TestConfigurationIsTheOrderToRun(t *testing.T) {
	ca := pkitest.NewCA(t)
	files := pkitest.Files(t, ca, pki.Subject(pki.ComponentScheduler, "m1"))
	file := filepath.Join(t.TempDir(), "scheduler.yaml")
	started, ended := make(chan struct{}), make(chan int, 1)
	go func() {
		code, _ := call(t.Context(), func(ctx context.Context) error {
			close(started)
			<-ctx.Done()
			return ctx.Err()
		}, "--config", file, "--await-config", "--log-level", "error")
		ended <- code
	}()
	select {
	case <-started:
		t.Fatal("started without a configuration")
	case code := <-ended:
		t.Fatalf("ended with %d instead of waiting", code)
	case <-time.After(2 * configPoll):
	}
	writeScheduler(t, file, "127.0.0.1:1", files)
	select {
	case <-started:
	case <-time.After(10 * time.Second):
		t.Fatal("not started although the configuration is there")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	select {
	case code := <-ended:
		if code != ExitFailure {
			t.Errorf("ended with %d, want %d, so that it is started again", code, ExitFailure)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("runs on although its configuration is gone")
	}
}

func TestEndsWhileWaiting(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if code, out := call(ctx, nil, "--config", filepath.Join(t.TempDir(), "none"), "--await-config", "--log-level", "error"); code != ExitOK {
		t.Errorf("%d, %s", code, out)
	}
}
