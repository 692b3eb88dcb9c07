package app

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"sigs.k8s.io/yaml"

	"kijabi.dev/apiserver/internal/storage/etcd/etcdtest"
	configv1 "kijabi.dev/platform/config/v1"
)

// beside gives a master a separate etcd instead of a member of its own.
func beside(cfg *configv1.APIServerConfiguration, c *etcdtest.Cluster) {
	cfg.Etcd = configv1.Etcd{SeparateEtcd: configv1.SeparateEtcd{
		Endpoints: c.Endpoints, CAFile: c.Files.CAFile, CertFile: c.Files.CertFile, KeyFile: c.Files.KeyFile,
	}}
}

// TestSeparateEtcd runs three masters beside an etcd of three members, over TLS, kills all of etcd and
// starts it again: writes fail in time, then go on, and none is lost. Then two of the masters are lost.
func TestSeparateEtcd(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.Options{Members: 3, TLS: true})
	first, client := founder(t)
	beside(first, etcd)
	if err := first.Validate(); err != nil {
		t.Fatal(err)
	}
	ask := asker{t, client}
	all := []*configv1.APIServerConfiguration{first}
	stops := []func(){supervise(t, first)}
	ask.until("m1 ready", first, "GET", "/readyz", "", http.StatusOK)
	first.Bootstrap = false
	for _, name := range []string{"m2", "m3"} {
		cfg := companion(t, first, name)
		beside(cfg, etcd)
		all, stops = append(all, cfg), append(stops, supervise(t, cfg))
		ask.until(name+" ready", cfg, "GET", "/readyz", "", http.StatusOK)
	}
	know(t, all)
	if _, err := os.Stat(filepath.Join(first.DataDir, "etcd")); err == nil {
		t.Error("there is a directory for an embedded member")
	}

	acked := map[string]bool{}
	n := 0
	write := func(cfg *configv1.APIServerConfiguration) bool {
		n++
		name := fmt.Sprintf("c%03d", n)
		began := time.Now()
		code, text := ask.call(cfg, "POST", configMaps+"?timeout=2s", fmt.Sprintf(`{"metadata":{"name":%q}}`, name))
		if took := time.Since(began); took > 4*time.Second || code == 0 {
			t.Errorf("%s was answered after %s: %d %s", name, took, code, text)
		}
		acked[name] = code == http.StatusCreated
		return acked[name]
	}
	for round := range 2 {
		for i := range 10 {
			if !write(all[i%3]) {
				t.Errorf("write %d of round %d fails", i, round)
			}
		}
		for i := range 3 {
			etcd.Kill(i)
		}
		for i := range 3 {
			if write(all[i]) {
				t.Error("a write without etcd was acknowledged")
			}
		}
		for i := range 3 {
			etcd.Restart(i)
		}
		began := time.Now()
		ask.write(first, fmt.Sprintf("again-%d", round))
		acked[fmt.Sprintf("again-%d", round)] = true
		t.Logf("writes go on after %s", time.Since(began).Round(time.Millisecond))
		for _, cfg := range all {
			ask.until(cfg.NodeName+" ready again", cfg, "GET", "/readyz", "", http.StatusOK)
		}
	}
	found := func(cfg *configv1.APIServerConfiguration) {
		t.Helper()
		text := ask.until("list on "+cfg.NodeName, cfg, "GET", configMaps, "", http.StatusOK)
		for name, was := range acked {
			if was && !strings.Contains(text, fmt.Sprintf("%q", name)) {
				t.Errorf("%s has lost %s", cfg.NodeName, name)
			}
		}
	}
	for _, cfg := range all {
		found(cfg)
	}

	for _, stop := range stops {
		stop()
	}
	survivor := all[2]
	command := func(cfg *configv1.APIServerConfiguration, words ...string) (int, string) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "apiserver.yaml")
		content, err := yaml.Marshal(cfg)
		if err == nil {
			err = os.WriteFile(file, content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		var stdout, stderr bytes.Buffer
		code, _ := Command(t.Context(), append(words, "--config", file), &stdout, &stderr)
		return code, stdout.String() + stderr.String()
	}
	if code, said := command(survivor, "recover"); code != 0 || !strings.Contains(said, `"generation": 1`) {
		t.Fatalf("recover: %d %s", code, said)
	}
	stops[2] = supervise(t, survivor)
	ask.write(survivor, "alone")
	acked["alone"] = true
	stops[0], stops[1] = supervise(t, first), supervise(t, all[1]) // a majority of the former group
	for _, cfg := range all {
		ask.until(cfg.NodeName+" is back", cfg, "GET", configMaps+"/alone", "", http.StatusOK)
	}
	ask.write(first, "together")
	acked["together"] = true
	for _, cfg := range all {
		found(cfg)
	}
}

// TestEtcdOfOthers starts masters over an etcd that is not their cluster's.
func TestEtcdOfOthers(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.Options{TLS: true})
	first, client := founder(t)
	beside(first, etcd)
	stop := supervise(t, first)
	asker{t, client}.write(first, "founded") // it has led
	refused := func(what string, cfg *configv1.APIServerConfiguration, parts ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		err := Run(ctx, cfg, zap.NewNop())
		for _, part := range parts {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v, want %q", what, err, part)
			}
		}
	}
	other, _ := founder(t)
	beside(other, etcd)
	other.ClusterID = "other"
	refused("founding another cluster", other, "the data of the cluster test", "belongs to other")
	again, _ := founder(t)
	beside(again, etcd)
	refused("founding it again", again, "already holds the data of this cluster", "kijabi recover")
	embedding := companion(t, first, "m2")
	embedding.Etcd = configv1.Etcd{PeerURL: "https://" + free(t)}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := Run(ctx, embedding, zap.NewNop()); err == nil || !strings.Contains(err.Error(), "m2 would embed a member: give it their etcd.endpoints") {
		t.Errorf("a master that embeds a member: %v", err)
	}
	stop()
}
