package loops

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
	controllermanagerv1pb "kijabi.dev/proto/gen/kijabi/controllermanager/v1"
	"kijabi.dev/test/harness"
)

// person has access to a stack and the command.
type person struct{ program, dir string }

// administrator makes an access directory, as `kijabi` keeps it.
func (s *stack) administrator(t *harness.T) *person {
	t.Helper()
	who := &person{filepath.Join(harness.Programs(t), "kijabi"), t.TempDir()}
	subject := pki.Subject(pki.ComponentAdmin, "admin")
	subject.Life = time.Hour
	cert, key, err := s.ca.Issue(subject)
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := json.Marshal(map[string]any{"name": "loops", "masters": []map[string]string{
		{"name": machine, "grpc": s.at(configv1.PortGRPC), "rest": s.at(configv1.PortREST)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"user.crt": cert, "user.key": key, "ca.crt": s.ca.CertificatePEM(), "cluster.json": cluster} {
		if err := os.WriteFile(filepath.Join(who.dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return who
}

// says runs the command and returns what it prints, and an error with what it complains of.
func (p *person) says(t *harness.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), p.program, args...)
	cmd.Env = append(os.Environ(), "KIJABI_ACCESS="+p.dir)
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, complaint.String())
	}
	return string(out), err
}

// shownLoop is a loop in `kijabi controllers -o json`.
type shownLoop struct {
	Name       string
	State      string
	Depth      int
	Reconciles int
	Oldest     *struct{ Key string }
}

func (p *person) loop(t *harness.T, name string) (shownLoop, error) {
	t.Helper()
	out, err := p.says(t, "controllers", "-o", "json")
	if err != nil {
		return shownLoop{}, err
	}
	var all struct {
		Master string
		Loops  []shownLoop
	}
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, loop := range all.Loops {
		if loop.Name == name && all.Master == machine {
			return loop, nil
		}
	}
	return shownLoop{}, fmt.Errorf("no loop %s in %s", name, out)
}

// TestControllersCommand pauses and resumes a loop by `kijabi controllers`, and reads the metrics.
func TestControllersCommand(tt *testing.T) {
	t := harness.Begin(tt)
	s := newStack(t, "controller-manager")
	admin := s.administrator(t)
	running := func(name string) func() error {
		return func() error {
			loop, err := admin.loop(t, name)
			if err == nil && loop.State != "running" {
				err = fmt.Errorf("%+v", loop)
			}
			return err
		}
	}
	harness.Eventually(t, patience, "the loops run", running("deployment"))
	ns := namespace(t, s, "command")
	said := func(want string, args ...string) {
		t.Helper()
		if out, err := admin.says(t, args...); err != nil || !strings.Contains(out, want) {
			t.Errorf("kijabi %s: %v, %q, want %q", strings.Join(args, " "), err, out, want)
		}
	}
	sets := func(n int) func() error {
		return func() error {
			if have := len(list[*appsv1.ReplicaSet](t, s, ns)); have != n {
				return fmt.Errorf("%d sets", have)
			}
			return nil
		}
	}
	paused := func(name string) func() error {
		return func() error {
			loop, err := admin.loop(t, "deployment")
			if err == nil && (loop.State != "paused" || loop.Depth != 1 || loop.Oldest == nil || loop.Oldest.Key != ns+"/"+name) {
				err = fmt.Errorf("%+v", loop)
			}
			return err
		}
	}

	said("loop deployment on m1 is paused, 0 due", "controllers", "pause", "deployment")
	create(t, s, deployment(ns, "first", 1))
	harness.Eventually(t, patience, "what is due gathers", paused("first"))
	if err := sets(0)(); err != nil {
		t.Errorf("a paused loop works: %v", err)
	}
	said("paused for ", "controllers")
	said("loop deployment is paused since ", "status")
	said("loop deployment on m1 is running", "controllers", "resume", "deployment")
	harness.Eventually(t, patience, "the loop goes on", sets(1))
	harness.Eventually(t, patience, "and shows it", running("deployment"))

	// A pause is of the program that was asked.
	said("is paused", "controllers", "pause", "deployment")
	create(t, s, deployment(ns, "second", 1))
	harness.Eventually(t, patience, "what is due gathers again", paused("second"))
	s.restart(t, "controller-manager")
	harness.Eventually(t, patience, "a new program is not paused", sets(2))
	harness.Eventually(t, patience, "and shows it, too", running("deployment"))

	for _, verb := range []string{"pause", "resume"} {
		_, err := admin.says(t, "controllers", verb, "deploymnt")
		if err == nil || !strings.Contains(err.Error(), `there is no loop "deploymnt": the loops are `) || !strings.Contains(err.Error(), ", deployment, ") {
			t.Errorf("%s of a loop that there is not: %v", verb, err)
		}
	}
	stranger, err := rpc.DialName(s.at(configv1.PortControllerManager), pki.ServerName(pki.ComponentControllerManager, machine), s.identity(t, pki.ComponentScheduler, machine))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stranger.Close() }()
	ctx, cancel := contextOf(t)
	defer cancel()
	_, err = controllermanagerv1pb.NewControllerManagerServiceClient(stranger).PauseLoop(ctx, &controllermanagerv1pb.PauseLoopRequest{Name: "deployment"})
	if !apierrors.IsForbidden(err) {
		t.Errorf("the scheduler pauses a loop: %v", err)
	}
	testLoopMetrics(t, s)
	s.kill("controller-manager")
	if _, err := admin.says(t, "controllers"); err == nil || !strings.Contains(err.Error(), "the controller-manager of m1, which leads, at "+s.at(configv1.PortControllerManager)) {
		t.Errorf("without the program: %v", err)
	}
}

// testLoopMetrics reads the controller-manager's metrics by way of the apiserver.
func testLoopMetrics(t *harness.T, s *stack) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: s.identity(t, pki.ComponentAdmin, "admin").ClientTLS(pki.APIServerName), ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	harness.Eventually(t, patience, "the metrics of the loops", func() error {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+s.at(configv1.PortREST)+"/metrics/controller-manager", nil)
		if err != nil {
			return err
		}
		answer, err := (&http.Client{Transport: transport}).Do(request)
		if err != nil {
			return err
		}
		defer func() { _ = answer.Body.Close() }()
		text, err := io.ReadAll(answer.Body)
		if err != nil || answer.StatusCode != http.StatusOK || !strings.HasPrefix(answer.Header.Get("Content-Type"), "text/plain") {
			return errors.Join(err, fmt.Errorf("%s %s: %s", answer.Status, answer.Header.Get("Content-Type"), text))
		}
		for _, want := range []string{
			"\nkijabi_loops_running 1\n", "\nworkqueue_depth{name=\"deployment\"} 0\n", "\nkijabi_loop_paused{name=\"deployment\"} 0\n",
			"\nworkqueue_adds_total{name=\"deployment\"} ", "\nworkqueue_work_duration_seconds_bucket{name=\"deployment\",le=\"+Inf\"} ",
			"\nworkqueue_retries_total{name=\"deployment\"} ", "\nprocess_cpu_seconds_total ",
		} {
			if !strings.Contains(string(text), want) {
				return fmt.Errorf("no %q in %s", want, text)
			}
		}
		return nil
	})
}
