package app

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"kijabi.dev/apiserver/internal/masters"
	"kijabi.dev/apiserver/internal/rescue"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/pki"
)

// companion returns the configuration of a further master of first's cluster, who joins by it.
func companion(t *testing.T, first *configv1.APIServerConfiguration, name string) *configv1.APIServerConfiguration {
	t.Helper()
	cfg, dir := *first, t.TempDir()
	cfg.NodeName, cfg.ListenAddress, cfg.RESTAddress, cfg.PeerAddress = name, free(t), free(t), free(t)
	cfg.DataDir, cfg.Etcd.PeerURL, cfg.Bootstrap, cfg.Join = filepath.Join(dir, "data"), "https://"+free(t), false, []string{first.PeerAddress}
	for base, into := range map[string]*configv1.Identity{"ca": &cfg.Identity, "peer-ca": &cfg.Peer} {
		ca, err := pki.LoadCA(filepath.Join(first.PKIDir, base+".crt"), filepath.Join(first.PKIDir, base+".key"))
		if err != nil {
			t.Fatal(err)
		}
		request := pki.Subject(pki.ComponentAPIServer, name)
		request.IPs, request.Life = append(request.IPs, net.ParseIP("127.0.0.1")), time.Hour
		cert, key, err := ca.Issue(request)
		if err != nil {
			t.Fatal(err)
		}
		into.CertFile, into.KeyFile = filepath.Join(dir, base+"-leaf.crt"), filepath.Join(dir, base+"-leaf.key")
		for file, content := range map[string][]byte{into.CertFile: cert, into.KeyFile: key} {
			if err := os.WriteFile(file, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return &cfg
}

// supervise runs an apiserver and starts it again whenever it ends, as a service manager does.
func supervise(t *testing.T, cfg *configv1.APIServerConfiguration) (stop func()) {
	t.Helper()
	group := lifecycle.NewGroup(context.WithoutCancel(t.Context()))
	group.Go(func(ctx context.Context) error {
		for ctx.Err() == nil {
			if err := Run(ctx, cfg, zap.NewNop()); err != nil && ctx.Err() == nil {
				t.Logf("%s ended: %v", cfg.NodeName, err)
			}
		}
		return nil
	})
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		group.Cancel()
		_ = group.Wait()
	}
	t.Cleanup(stop)
	return stop
}

// asker calls the REST doors.
type asker struct {
	t      *testing.T
	client *http.Client
}

func (a asker) call(cfg *configv1.APIServerConfiguration, method, path, body string) (int, string) {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), 5*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, "https://"+cfg.RESTAddress+path, strings.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	resp, err := a.client.Do(r)
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

func (a asker) until(what string, cfg *configv1.APIServerConfiguration, method, path, body string, want int) string {
	a.t.Helper()
	for deadline := time.Now().Add(90 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		code, text := a.call(cfg, method, path, body)
		if code == want {
			return text
		}
		if time.Now().After(deadline) {
			a.t.Fatalf("not in time: %s: %d %s", what, code, text)
		}
	}
}

func (a asker) write(cfg *configv1.APIServerConfiguration, name string) {
	a.t.Helper()
	a.until("write "+name+" through "+cfg.NodeName, cfg, "POST", configMaps, fmt.Sprintf(`{"metadata":{"name":%q}}`, name), http.StatusCreated)
}

// tolerates waits until a master counts as many voters that may fail.
func (a asker) tolerates(cfg *configv1.APIServerConfiguration, failures int) {
	a.t.Helper()
	want := fmt.Sprintf("\nkijabi_failures_tolerated %d\n", failures)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		code, text := a.call(cfg, "GET", "/metrics", "")
		if code == http.StatusOK && strings.Contains(text, want) {
			return
		}
		if time.Now().After(deadline) {
			a.t.Fatalf("not in time: %s tolerates %d failures: %d", cfg.NodeName, failures, code)
		}
	}
}

func place(cfg *configv1.APIServerConfiguration) rescue.Place {
	return rescue.Place{
		Name: cfg.NodeName, ClusterID: cfg.ClusterID, PeerAddress: cfg.PeerAddress, PeerURL: cfg.Etcd.PeerURL,
		EtcdDir: etcdDir(cfg), RaftDir: raftDir(cfg), Now: time.Now(), Log: zap.NewNop(),
	}
}

// know waits until every master has the others on its roster.
func know(t *testing.T, all []*configv1.APIServerConfiguration) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		ignorant := ""
		for _, cfg := range all {
			text, _ := os.ReadFile(knownFile(cfg))
			for _, other := range all {
				if other != cfg && !strings.Contains(string(text), other.PeerAddress) {
					ignorant = cfg.NodeName + " does not know " + other.NodeName
				}
			}
		}
		if ignorant == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", ignorant)
		}
	}
}

// TestQuorumIsLostForever loses two of three masters, recovers with the third, writes on, and
// lets the others return with their old data. Then one loses its disk.
func TestQuorumIsLostForever(t *testing.T) {
	first, client := founder(t)
	ask := asker{t, client}
	all := []*configv1.APIServerConfiguration{first}
	stops := []func(){supervise(t, first)}
	ask.until("m1 ready", first, "GET", "/readyz", "", http.StatusOK)
	first.Bootstrap = false
	for _, name := range []string{"m2", "m3"} {
		cfg := companion(t, first, name)
		all, stops = append(all, cfg), append(stops, supervise(t, cfg))
		ask.until(name+" ready", cfg, "GET", "/readyz", "", http.StatusOK)
	}
	know(t, all)
	ask.write(first, "before")
	ask.until("before on m3", all[2], "GET", configMaps+"/before", "", http.StatusOK)
	for _, stop := range stops {
		stop()
	}

	survivor := all[2]
	began := time.Now()
	out, err := rescue.FromMember(t.Context(), place(survivor))
	if err != nil {
		t.Fatal(err)
	}
	if out.Generation != 1 || strings.Join(out.GivenUp, " ") != "m1 m2" || len(out.Aside) != 2 {
		t.Errorf("the outcome is %+v", out)
	}
	stops[2] = supervise(t, survivor)
	ask.write(survivor, "after")
	t.Logf("recovered in %s", time.Since(began).Round(time.Millisecond))
	if code, text := ask.call(survivor, "GET", configMaps+"/before", ""); code != http.StatusOK {
		t.Errorf("an acknowledged write is lost: %d %s", code, text)
	}

	// Both return at once and would be a majority of the old group.
	stops[0], stops[1] = supervise(t, first), supervise(t, all[1])
	for _, cfg := range all[:2] {
		ask.until("after on "+cfg.NodeName, cfg, "GET", configMaps+"/after", "", http.StatusOK)
		ask.until("before on "+cfg.NodeName, cfg, "GET", configMaps+"/before", "", http.StatusOK)
		for _, dir := range []string{etcdDir(cfg), raftDir(cfg)} {
			if aside, _ := filepath.Glob(filepath.Join(dir, "aside-*", "*")); len(aside) == 0 {
				t.Errorf("%s: nothing was moved aside in %s", cfg.NodeName, dir)
			}
		}
	}
	ask.write(first, "together")

	// The founder's disk is lost, but not its certificate; the others must be able to go on.
	ask.tolerates(survivor, 1)
	stops[0]()
	if err := os.RemoveAll(first.DataDir); err != nil {
		t.Fatal(err)
	}
	stops[0] = supervise(t, first)
	ask.until("together on m1", first, "GET", configMaps+"/together", "", http.StatusOK)
	for _, stop := range stops {
		stop()
	}
	for _, cfg := range all {
		data, err := masters.ReadData(raftDir(cfg))
		if err != nil || data.Generation != 1 {
			t.Errorf("%s ended with %+v: %v", cfg.NodeName, data, err)
		}
	}
}
