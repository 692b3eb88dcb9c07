package app

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/pki"
)

// free is a loopback address that nobody listens on.
func free(t *testing.T) string {
	t.Helper()
	for {
		// Below those that the kernel gives away: nobody gets it while a master that restarts is away.
		address := fmt.Sprintf("127.0.0.1:%d", 12_000+rand.IntN(20_000))
		if l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", address); err == nil {
			_ = l.Close()
			return address
		}
	}
}

// founder writes the keys of a new cluster and returns the configuration of its first master.
func founder(t *testing.T) (*configv1.APIServerConfiguration, *http.Client) {
	t.Helper()
	c := newCluster(t)
	cfg := c.master("m1", "127.0.0.1")
	cfg.ListenAddress, cfg.RESTAddress, cfg.PeerAddress, cfg.Etcd.PeerURL = free(t), free(t), free(t), "https://"+free(t)
	return cfg, c.client()
}

// TestRun is a whole apiserver: what it stores is sealed, what it is asked is audited and
// counted, and it finds its data again.
func TestRun(t *testing.T) {
	cfg, client := founder(t)
	var ended atomic.Bool // the apiserver, by an error
	call := func(method, path, body string) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, "https://"+cfg.RESTAddress+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(r)
		if err != nil {
			return 0, err.Error()
		}
		defer func() { _ = resp.Body.Close() }()
		content, err := io.ReadAll(resp.Body)
		if err != nil {
			return 0, err.Error()
		}
		return resp.StatusCode, string(content)
	}
	until := func(what, method, path, body string, want int) string {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
			code, text := call(method, path, body)
			if code == want {
				return text
			}
			if ended.Load() || time.Now().After(deadline) {
				t.Fatalf("not in time: %s: %d %s", what, code, text)
			}
		}
	}
	run := func() func() {
		group := lifecycle.NewGroup(context.WithoutCancel(t.Context()))
		group.Go(func(ctx context.Context) error {
			err := Run(ctx, cfg, zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel)))
			ended.Store(err != nil)
			return err
		})
		return func() {
			group.Cancel()
			if err := group.Wait(); err != nil {
				t.Error(err)
			}
		}
	}
	const canary = "canary-of-a-secret"
	const at = "/api/v1/namespaces/default"

	stop := run()
	until("ready", "GET", "/readyz", "", http.StatusOK)
	until("a secret", "POST", at+"/secrets", fmt.Sprintf(`{"metadata":{"name":"s"},"stringData":{"k":%q}}`, canary), http.StatusCreated)
	until("a ConfigMap", "POST", at+"/configmaps", `{"metadata":{"name":"c"},"data":{"k":"canary-of-a-configmap"}}`, http.StatusCreated)
	until("one check", "GET", "/readyz/etcd", "", http.StatusOK)
	metrics := until("metrics", "GET", "/metrics", "", http.StatusOK)
	for _, line := range []string{
		"kijabi_leading 1\n", `apiserver_storage_objects{resource="secrets"} 1`, `kijabi_sealed_objects{state="stale"} 0`,
		`etcd_request_duration_seconds_count{operation="txn"}`, `apiserver_flowcontrol_dispatched_requests_total{flow_schema="exempt",priority_level="exempt"}`,
		`apiserver_request_total{code="201",component="apiserver",door="rest",dry_run="",group="",resource="secrets",scope="namespace",subresource="",verb="POST",version="v1"} 1`,
	} {
		if !strings.Contains(metrics, line) {
			t.Errorf("metrics lack %s", line)
		}
	}
	stop()

	found := map[string]bool{}
	err := filepath.WalkDir(cfg.DataDir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		for _, text := range []string{canary, "canary-of-a-configmap"} {
			found[text] = found[text] || bytes.Contains(content, []byte(text))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if found[canary] || !found["canary-of-a-configmap"] {
		t.Errorf("found in clear: %v", found)
	}
	audited, err := os.ReadFile(filepath.Join(cfg.DataDir, "audit", "audit.log"))
	if err != nil || !bytes.Contains(audited, []byte(`"verb":"create","user":{"username":"kubernetes-admin"`)) || !bytes.Contains(audited, []byte(`"objectRef":{"resource":"secrets","namespace":"default"`)) {
		t.Errorf("audit log: %v: %s", err, audited)
	}

	cfg.Bootstrap = false
	file := filepath.Join(cfg.PKIDir, pki.StorageKeyFile)
	right, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, pki.NewStorageKey(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), cfg, zap.NewNop()); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("started with the key of another cluster: %v", err)
	}
	if err := os.WriteFile(file, right, 0o600); err != nil {
		t.Fatal(err)
	}
	stop = run()
	defer stop()
	text := until("the secret after a restart", "GET", at+"/secrets/s", "", http.StatusOK)
	if !strings.Contains(text, `"k":"Y2FuYXJ5LW9mLWEtc2VjcmV0"`) {
		t.Errorf("the secret after a restart: %s", text)
	}
}
