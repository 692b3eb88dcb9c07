package compose

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kijabi.dev/platform/kube/client"

	"kijabi.dev/cli/internal/access"
	"kijabi.dev/cli/internal/install"
	"kijabi.dev/cli/internal/output"
)

// Options of Up and Down.
type Options struct {
	// File is the Compose file. Required by Up.
	File string
	// Images is the directory of the image archives. Required by Up.
	Images string
	// Home of the user who gets access. Required.
	Home access.UserHome
	// Program is what the kubeconfig calls for certificates. Required by Up.
	Program string
	// Progress is told each step. May be nil.
	Progress *output.Progress
	// Timeout of the whole; default 10 min for Up, 3 min for Down.
	Timeout time.Duration
}

// run is one `kijabi compose up`.
type run struct {
	Options
	engine *engine
	said   map[string]bool // machines that were announced as members
}

// Up starts the demo, or what of it is stopped, waits until every machine is Ready and
// gives the user access. It may be called again at any time. What a failed start has
// made stays for a look at it.
func Up(ctx context.Context, o Options) (*access.Access, error) {
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	found, err := findEngine(ctx)
	if err != nil {
		return nil, err
	}
	if err := found.findCompose(ctx); err != nil {
		return nil, err
	}
	r := &run{Options: o, engine: found, said: map[string]bool{}}
	if err := r.loadImages(ctx); err != nil {
		return nil, err
	}
	if err := r.start(ctx); err != nil {
		return nil, err
	}
	if err := r.rejoin(ctx); err != nil {
		return nil, err
	}
	if err := o.Progress.Wait(ctx, "every machine is a member", r.checkMembers); err != nil {
		return nil, err
	}
	user, err := r.giveAccess(ctx)
	if err != nil {
		return nil, err
	}
	if err := o.Progress.Wait(ctx, "every machine is Ready", func(ctx context.Context) error {
		return r.checkReady(ctx, user)
	}); err != nil {
		return nil, err
	}
	return user, nil
}

// start runs `compose up`.
func (r *run) start(ctx context.Context) error {
	if _, err := os.Stat(r.File); err != nil {
		return fmt.Errorf("compose file: %w: name it with --file", err)
	}
	args := append(slices.Clone(r.engine.compose), "--project-name", Project,
		"--project-directory", filepath.Dir(r.File), "--file", r.File, "up", "--detach")
	command := exec.CommandContext(ctx, args[0], args[1:]...)
	var out bytes.Buffer
	command.Stdout, command.Stderr = &out, &out
	command.Cancel = func() error { return command.Process.Signal(os.Interrupt) }
	command.WaitDelay = 10 * time.Second
	// Compose v1 gives the engine a minute for each call, which a busy machine may miss.
	command.Env = append(os.Environ(), "COMPOSE_HTTP_TIMEOUT=300")
	done := make(chan error, 1)
	if err := command.Start(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(r.engine.compose, " "), err)
	}
	go func() { done <- command.Wait() }()
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			if err != nil {
				return fmt.Errorf("%s up: %s", strings.Join(r.engine.compose, " "), whyUp(out.String(), err))
			}
			all, err := r.engine.containers(ctx)
			r.Progress.Say("%d containers started", len(all))
			return err
		case <-tick.C:
			if all, err := r.engine.containers(ctx); err == nil {
				r.Progress.Say("starting: %d containers so far", len(all))
			}
		}
	}
}

// rejoin starts again the containers of a machine whose holder was started after them:
// they are in a network that is gone.
func (r *run) rejoin(ctx context.Context) error {
	all, err := r.engine.containers(ctx)
	if err != nil {
		return err
	}
	started, err := r.engine.started(ctx, all)
	if err != nil {
		return err
	}
	var stranded []string
	for _, c := range all {
		if c.state == "running" && started[c.name].Before(started[c.machine]) {
			stranded = append(stranded, c.name)
		}
	}
	if len(stranded) == 0 {
		return nil
	}
	slices.Sort(stranded)
	if _, err := r.engine.run(ctx, append([]string{"restart", "--time", "5"}, stranded...)...); err != nil {
		return fmt.Errorf("start containers in the new network of their machine: %w", err)
	}
	r.Progress.Say("started again in the new network of their machine: %s", strings.Join(stranded, ", "))
	return nil
}

// whyUp finds the line in Compose's output that tells the cause, and adds the fix where
// it is known.
func whyUp(out string, err error) string {
	cause := lastLine(out, err.Error())
	for line := range strings.Lines(out) {
		if lower := strings.ToLower(line); strings.Contains(lower, "error") && !strings.HasPrefix(lower, "encountered errors") {
			cause = strings.TrimSpace(line)
		}
	}
	switch {
	case strings.Contains(cause, "overlaps") || strings.Contains(cause, "overlap"):
		return cause + ": choose other addresses, KIJABI_NET=10.91.0 for instance"
	case strings.Contains(cause, "is already in use by container"):
		return cause + ": remove that container, or the demo with `kijabi compose down`"
	}
	return cause
}

// checkMembers returns nil once the setup of every machine has ended well and all other
// containers run. A machine that got so far is announced.
func (r *run) checkMembers(ctx context.Context) error {
	all, err := r.engine.containers(ctx)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return errors.New("no container is there: was the demo removed meanwhile?")
	}
	var waiting []container
	for _, c := range all {
		if !c.ok() {
			waiting = append(waiting, c)
		} else if c.setup() && !r.said[c.machine] {
			r.said[c.machine] = true
			r.Progress.Say("%s is a member", c.machine)
		}
	}
	if len(waiting) == 0 {
		return nil
	}
	// One is enough to read: what failed explains more than what waits for it.
	reason := r.engine.explain(ctx, slices.MinFunc(waiting, func(a, b container) int {
		return cmp.Or(cmp.Compare(a.rank(), b.rank()), strings.Compare(a.name, b.name))
	}))
	err = errors.New(reason)
	if more := len(waiting) - 1; more > 0 {
		err = fmt.Errorf("%s (and %d more containers)", reason, more)
	}
	r.pause(ctx)
	return err
}

// pause keeps the engine from being asked all the time: each question starts a process.
func (r *run) pause(ctx context.Context) {
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
	}
}

// checkReady returns nil once every machine's node is Ready.
func (r *run) checkReady(ctx context.Context, user *access.Access) error {
	all, err := r.engine.containers(ctx)
	if err != nil {
		return err
	}
	conn, _, err := user.Connect(ctx)
	if err != nil {
		return fmt.Errorf("%w; the addresses of containers are reached from Linux hosts only, see deploy/compose/README.md for Docker Desktop", err)
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	page, err := client.List[*corev1.Node](ctx, client.New(conn), client.ListOptions{})
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	ready := map[string]error{}
	for _, node := range page.Items {
		ready[node.Name] = install.NodeReady(node)
	}
	for _, c := range all {
		if c.name != c.machine {
			continue
		}
		reason, known := ready[c.machine]
		if !known {
			return fmt.Errorf("node %s is not registered (docker logs %s-kubelet)", c.machine, c.machine)
		}
		if reason != nil {
			return fmt.Errorf("%w (docker logs %s-kubelet)", reason, c.machine)
		}
	}
	return nil
}
