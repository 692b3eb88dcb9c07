package app

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/rpc"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"
)

// processVariable names the configuration with which this test program, started anew, is an
// apiserver: only a process of its own can be killed or stopped as a machine is.
const processVariable = "KIJABI_TEST_APISERVER"

func TestMain(m *testing.M) {
	if file := os.Getenv(processVariable); file != "" {
		os.Args = []string{"apiserver", "--config", file}
		os.Exit(lifecycle.Main("apiserver", DefaultConfig(), Run))
	}
	os.Exit(m.Run())
}

// process is an apiserver as a process of its own.
type process struct {
	cfg  *configv1.APIServerConfiguration
	file string
	cmd  *exec.Cmd
	done sync.WaitGroup
}

// start starts the apiserver; what it logs is shown when the test fails.
func (p *process) start(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(p.file+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	p.cmd = exec.CommandContext(context.WithoutCancel(t.Context()), os.Args[0])
	p.cmd.Env = append(os.Environ(), processVariable+"="+p.file)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // nothing outlives the test
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cmd := p.cmd
	p.done.Go(func() { _ = cmd.Wait() })
}

// kill ends it as a loss of power does.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	p.done.Wait()
}

func (p *process) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// trio is a cluster of three masters.
type trio struct {
	*cluster

	masters []*process
	web     *http.Client
}

func newTrio(t *testing.T) *trio {
	t.Helper()
	c := &trio{cluster: newCluster(t)}
	c.web = c.client()
	// Of 127.0.0.0/8 every address is this host's; a random one has its ports to itself.
	var random [2]byte
	if _, err := rand.Read(random[:]); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		name := fmt.Sprintf("m%d", i+1)
		cfg := c.master(name, fmt.Sprintf("127.%d.%d.%d", 80+i, random[0], 1+random[1]%254))
		if i > 0 {
			cfg.Join = []string{c.masters[0].cfg.PeerAddress}
		}
		text, err := json.Marshal(cfg) // JSON is YAML
		c.must(err)
		p := &process{cfg: cfg, file: filepath.Join(c.dir, name+".yaml")}
		c.must(os.WriteFile(p.file, text, 0o600))
		p.start(t)
		t.Cleanup(p.kill)
		c.masters = append(c.masters, p)
		c.eventually(name+" is ready", func() error { return c.answers(p, "/readyz", http.StatusOK) })
	}
	t.Cleanup(func() {
		for _, p := range c.masters {
			if text, err := os.ReadFile(p.file + ".log"); t.Failed() && err == nil {
				t.Logf("%s:\n%s", p.cfg.NodeName, text[max(0, len(text)-4000):])
			}
		}
	})
	c.eventually("three vote", func() error {
		members, _, err := c.status(c.masters[0])
		for _, m := range members {
			if m.GetRole() != mastersv1pb.MemberRole_MEMBER_ROLE_VOTER {
				return fmt.Errorf("%s is %s", m.GetName(), m.GetRole())
			}
		}
		if len(members) != 3 {
			return errors.Join(err, fmt.Errorf("%d masters", len(members)))
		}
		return err
	})
	return c
}

func (c *trio) eventually(what string, check func() error) {
	c.t.Helper()
	var err error
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	c.t.Fatalf("not in time: %s: %v", what, err)
}

// status is what a master says of all.
func (c *trio) status(p *process) (members []*mastersv1pb.Member, leader string, err error) {
	conn, err := rpc.Dial(p.cfg.ListenAddress, c.admin())
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
	defer cancel()
	res, err := mastersv1pb.NewMastersServiceClient(conn).Status(ctx, &mastersv1pb.StatusRequest{})
	return res.GetMembers(), res.GetLeader(), err
}

// reply is an answer over REST.
type reply struct {
	code   int
	header http.Header
	body   string
}

// ask makes a request of one master.
func (c *trio) ask(p *process, method, path, body string) (reply, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), 40*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, "https://"+p.cfg.RESTAddress+path, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	if method == http.MethodPatch {
		r.Header.Set("Content-Type", "application/merge-patch+json")
	}
	resp, err := c.web.Do(r)
	if err != nil {
		return reply{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, string(text)}, err
}

func (c *trio) answers(p *process, path string, code int) error {
	a, err := c.ask(p, http.MethodGet, path, "")
	if err == nil && a.code != code {
		err = fmt.Errorf("%s: %d %s", path, a.code, a.body)
	}
	return err
}

const configMaps = "/api/v1/namespaces/default/configmaps"

func configMapNamed(name string) string {
	return fmt.Sprintf(`{"metadata":{"name":%q},"data":{"k":"v"}}`, name)
}

// A master whose others are gone says so to whoever asks what it cannot know, in time, and goes
// on answering what it can; when they return, so does everything.
func TestMasterCutOffFromItsQuorum(t *testing.T) {
	c := newTrio(t)
	for round, lose := range []struct {
		name     string
		away     func(*process)
		comeBack func(*process)
	}{
		{"stopped", func(p *process) { p.signal(t, syscall.SIGSTOP) }, func(p *process) { p.signal(t, syscall.SIGCONT) }},
		{"killed", func(p *process) { p.kill() }, func(p *process) { p.start(t) }},
	} {
		name := fmt.Sprintf("c%d", round)
		var leader string
		c.eventually("a master leads", func() (err error) {
			if _, leader, err = c.status(c.masters[0]); err == nil && leader == "" {
				err = errors.New("none does")
			}
			return err
		})
		// The survivor of the first round follows, that of the second led.
		i := slices.IndexFunc(c.masters, func(p *process) bool { return (p.cfg.NodeName == leader) == (round == 1) })
		survivor := c.masters[i]
		others := slices.Delete(slices.Clone(c.masters), i, i+1)
		c.eventually("an object is stored", func() error { return c.creates(survivor, name) })
		a, err := c.ask(survivor, http.MethodGet, configMaps, "")
		c.must(err)
		var list metav1.PartialObjectMetadataList
		c.must(json.Unmarshal([]byte(a.body), &list))
		watch := c.watch(survivor)

		t.Logf("%s: %s is cut off, %s led", lose.name, survivor.cfg.NodeName, leader)
		for _, p := range others {
			lose.away(p)
		}
		c.cutOff(survivor, name, list.ResourceVersion, watch)
		for _, p := range others {
			lose.comeBack(p)
		}
		for _, p := range c.masters {
			c.eventually(p.cfg.NodeName+" is ready again", func() error { return c.answers(p, "/readyz", http.StatusOK) })
		}
		for i, p := range c.masters {
			after := fmt.Sprintf("%s-after-%d", name, i)
			c.eventually(p.cfg.NodeName+" writes again", func() error { return c.creates(p, after) })
			c.eventually(p.cfg.NodeName+" reads again", func() error { return c.answers(p, configMaps+"/"+name, http.StatusOK) })
		}
	}
}

// creates makes a ConfigMap, or finds it made by an attempt whose answer was lost.
func (c *trio) creates(p *process, name string) error {
	a, err := c.ask(p, http.MethodPost, configMaps+"?timeout=5s", configMapNamed(name))
	if err == nil && a.code != http.StatusCreated && a.code != http.StatusConflict {
		err = fmt.Errorf("%d %s", a.code, a.body)
	}
	return err
}

// watch opens a watch; what is received is closed once it has ended.
func (c *trio) watch(p *process) (ended <-chan struct{}) {
	c.t.Helper()
	r, err := http.NewRequestWithContext(c.t.Context(), http.MethodGet, "https://"+p.cfg.RESTAddress+configMaps+"?watch=true", nil)
	c.must(err)
	resp, err := c.web.Do(r)
	c.must(err)
	c.t.Cleanup(func() { _ = resp.Body.Close() })
	events := bufio.NewReader(resp.Body)
	_, err = events.ReadBytes('\n')
	c.must(err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(io.Discard, events)
	}()
	return done
}

// cutOff checks what a master answers while it has no quorum.
func (c *trio) cutOff(p *process, name, version string, watch <-chan struct{}) {
	t := c.t
	t.Helper()
	c.eventually("the master says that it is not ready", func() error { return c.answers(p, "/readyz", http.StatusInternalServerError) })
	a, err := c.ask(p, http.MethodGet, "/readyz", "")
	c.must(err)
	if !strings.Contains(a.body, "[-]etcd failed") || !strings.Contains(a.body, "[+]shutdown ok") {
		t.Errorf("readyz does not say what is wrong: %s", a.body)
	}
	select {
	case <-watch:
	case <-time.After(30 * time.Second):
		t.Error("a watch goes on")
	}

	const within = "?timeout=4s"
	for _, q := range []struct{ method, path, body string }{
		{http.MethodGet, configMaps + "/" + name + within, ""},
		{http.MethodGet, configMaps + within, ""},
		{http.MethodGet, configMaps + within + "&resourceVersion=0", ""}, // of a version that nobody has seen, but never an old one
		{http.MethodGet, configMaps + "?watch=true", ""},
		{http.MethodPost, configMaps + within, configMapNamed(name + "-meanwhile")},
		{http.MethodPatch, configMaps + "/" + name + within, `{"data":{"k":"meanwhile"}}`},
		{http.MethodPut, configMaps + "/" + name + within, configMapNamed(name)},
		{http.MethodDelete, configMaps + "/no-such" + within, ""},
	} {
		began := time.Now()
		a, err := c.ask(p, q.method, q.path, q.body)
		c.must(err)
		var s metav1.Status
		c.must(json.Unmarshal([]byte(a.body), &s))
		unavailable := a.code == http.StatusServiceUnavailable && s.Reason == metav1.StatusReasonServiceUnavailable
		late := a.code == http.StatusGatewayTimeout && s.Reason == metav1.StatusReasonTimeout
		if took := time.Since(began); !unavailable && !late || a.header.Get("Retry-After") == "" || took > 20*time.Second {
			t.Errorf("%s %s: %d after %s, Retry-After %q: %s", q.method, q.path, a.code, took, a.header.Get("Retry-After"), a.body)
		}
	}
	for path, text := range map[string]string{
		"/livez": "ok", "/version": "gitVersion", "/apis": "apps",
		configMaps + "?resourceVersion=" + version: `"name":"` + name + `"`, // what its client has seen is known
	} {
		if a, err := c.ask(p, http.MethodGet, path, ""); err != nil || a.code != http.StatusOK || !strings.Contains(a.body, text) {
			t.Errorf("%s: %v %d %s", path, err, a.code, a.body)
		}
	}
	c.cutOffGRPC(p, name)
}

func (c *trio) cutOffGRPC(p *process, name string) {
	t := c.t
	t.Helper()
	conn, err := rpc.Dial(p.cfg.ListenAddress, c.admin())
	c.must(err)
	defer func() { _ = conn.Close() }()
	api := client.New(conn)
	for what, call := range map[string]func(context.Context) error{
		"get": func(ctx context.Context) error {
			_, err := client.Get[*corev1.ConfigMap](ctx, api, object.Key{Namespace: "default", Name: name})
			return err
		},
		"list": func(ctx context.Context) error {
			_, err := client.List[*corev1.ConfigMap](ctx, api, client.ListOptions{Namespace: "default"})
			return err
		},
		"create": func(ctx context.Context) error {
			_, err := api.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name + "-by-grpc"}})
			return err
		},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
		err := call(ctx)
		cancel()
		var api interface{ Status() metav1.Status }
		if !errors.As(err, &api) || api.Status().Reason != metav1.StatusReasonServiceUnavailable && api.Status().Reason != metav1.StatusReasonTimeout {
			t.Errorf("%s: %v", what, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	health, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil || health.GetStatus() != grpc_health_v1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("health: %v, %v", health, err)
	}
	if code := status.Code(err); code != codes.OK {
		t.Errorf("health: %s", code)
	}
}
