package cluster

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	certificatev1pb "kijabi.dev/proto/gen/kijabi/certificate/v1"

	"kijabi.dev/cli/internal/access"
	"kijabi.dev/cli/internal/install"
	"kijabi.dev/cli/internal/machine"
	"kijabi.dev/cli/internal/machine/supervisor"
	"kijabi.dev/cli/internal/output"
)

// Options of Up and Down.
type Options struct {
	// Root is the directory of all fleets. Required.
	Root string
	// Home of the user who gets access. Required.
	Home access.UserHome
	// Progress is told each step. May be nil.
	Progress *output.Progress
	// KeepOnFailure leaves a cluster that did not come up for a look at it.
	KeepOnFailure bool
	// Timeout of the whole; default 5 min.
	Timeout time.Duration
	// OptionsFile holds the options of machines that this run makes members; may be "".
	OptionsFile string
	// VIP is the virtual address of a cluster that this run founds; may be "".
	VIP string
	// Bare starts machines and installs nothing in them: a cluster is then made by hand,
	// by `kijabi deploy`, or by an Up that is not bare.
	Bare bool
}

// run is one `kijabi up`.
type run struct {
	Options
	fleet *machine.Fleet
	fresh bool     // the fleet was made by this run
	added []string // machines made by this run
	said  []byte   // content of the options file
	vip   []string // virtual addresses that were asked for
}

// Up brings the cluster to what the plan asks for: it makes what is missing, starts
// what is stopped, and waits until the cluster is Ready. If it fails, what this run made
// is removed again. A bare Up returns no access.
func Up(ctx context.Context, plan Plan, o Options) (*access.Access, error) {
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Minute
	}
	unlock, err := machine.Lock(o.Root, plan.Name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	r := &run{Options: o}
	if err := r.prepare(plan); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	found, err := r.up(ctx)
	if err != nil {
		return nil, r.failed(ctx, err)
	}
	return found, nil
}

// prepare checks everything that can be checked before anything is made.
func (r *run) prepare(plan Plan) error {
	if err := r.readOptions(); err != nil {
		return err
	}
	fleet, err := machine.Open(r.Root, plan.Name)
	if errors.Is(err, machine.ErrNotFound) {
		r.fresh = true
		fleet, err = machine.New(r.Root, machine.State{Name: plan.Name})
	}
	if err != nil {
		return err
	}
	if fleet.State.OwnRoots {
		return fmt.Errorf("the machines of %q were made by `kijabi machine create`: install them by hand, or choose another --name", plan.Name)
	}
	if fleet.State, r.added, err = plan.extend(fleet.State); err != nil {
		return err
	}
	r.fleet = fleet
	if err := r.checkVIP(); err != nil {
		return err
	}
	if !r.Bare {
		if err := install.CheckPrograms(fleet.State.BinDir); err != nil {
			return err
		}
	}
	return fleet.CheckSubnet()
}

func (r *run) up(ctx context.Context) (*access.Access, error) {
	if err := r.fleet.Save(); err != nil {
		return nil, err
	}
	if err := r.fleet.EnsureNetwork(); err != nil {
		return nil, err
	}
	if err := r.startMachines(ctx); err != nil {
		return nil, err
	}
	if r.Bare {
		return nil, nil
	}
	founder, err := r.found(ctx)
	if err != nil {
		return nil, err
	}
	user, err := r.giveAccess(founder)
	if err != nil {
		return nil, err
	}
	if err := r.joinAll(ctx, user, founder); err != nil {
		return nil, err
	}
	if err := r.refreshAccess(user); err != nil {
		return nil, err
	}
	return user, r.awaitReady(ctx, user)
}

// startMachines starts machines that are down and units that are stopped.
func (r *run) startMachines(ctx context.Context) error {
	if err := r.fleet.RefreshHosts(); err != nil {
		return err
	}
	var group errgroup.Group
	for _, name := range r.fleet.Names() {
		group.Go(func() error {
			if r.fleet.PID(name) != 0 {
				return r.startUnits(ctx, name)
			}
			if err := r.fleet.Start(ctx, name); err != nil {
				return err
			}
			r.Progress.Say("machine %s started", name)
			return nil
		})
	}
	return group.Wait()
}

func (r *run) startUnits(ctx context.Context, name string) error {
	units, err := r.fleet.Units(ctx, name)
	if err != nil {
		return fmt.Errorf("machine %s: %w", name, err)
	}
	for _, unit := range units {
		if unit.State != supervisor.Stopped {
			continue
		}
		request := supervisor.Request{Command: supervisor.Start, Unit: unit.Name}
		if _, err := supervisor.Call(ctx, r.fleet.Socket(name), request); err != nil {
			return fmt.Errorf("machine %s: start unit %s: %w", name, unit.Name, err)
		}
		r.Progress.Say("%s: unit %s started again", name, unit.Name)
	}
	return nil
}

// layout is a machine's layout as the host sees it.
func (r *run) layout(name string) install.Layout {
	return install.Layout{ConfigDir: r.fleet.ConfigDir(name), StateDir: r.fleet.StateDir(name)}
}

func (r *run) isMember(name string) (bool, error) {
	_, ok, err := install.ReadMember(r.layout(name))
	return ok, err
}

// found returns a master that is a member. There is none in a new cluster: the first
// one founds it.
func (r *run) found(ctx context.Context) (machine.Machine, error) {
	var first *machine.Machine
	for i, m := range r.fleet.State.Machines {
		if m.Role != machine.Master {
			continue
		}
		ok, err := r.isMember(m.Name)
		if err != nil || ok {
			return m, err
		}
		if first == nil {
			first = &r.fleet.State.Machines[i]
		}
	}
	return *first, r.install(ctx, *first, append([]string{"master", "init"}, r.vipFlags()...)...)
}

// install runs an installing command in a machine, as a person would on a VM.
func (r *run) install(ctx context.Context, m machine.Machine, command ...string) error {
	if err := r.clean(ctx, m); err != nil {
		return err
	}
	if err := r.giveOptions(m); err != nil {
		return err
	}
	argv := append([]string{r.fleet.Program}, command...)
	argv = append(argv, "--name", m.Name, "--advertise-address", m.Address.String(), "--bin", r.fleet.State.BinDir)
	return r.exec(ctx, m.Name, argv...)
}

// clean resets a machine on which an earlier installation was cut off.
func (r *run) clean(ctx context.Context, m machine.Machine) error {
	if _, err := os.Stat(filepath.Join(r.fleet.StateDir(m.Name), "pki")); err != nil {
		return nil //nolint:nilerr // nothing is there
	}
	r.Progress.Say("%s: removing an installation that did not finish", m.Name)
	return r.exec(ctx, m.Name, r.fleet.Program, "reset", "--local")
}

// exec runs a command of ours in a machine and passes its progress on.
func (r *run) exec(ctx context.Context, name string, argv ...string) error {
	command, err := r.fleet.Command(ctx, name, argv...)
	if err != nil {
		return err
	}
	command.Env = append(os.Environ(), "KIJABI_PROGRESS=lines")
	command.WaitDelay = time.Minute // it undoes its work when interrupted
	reader, writer := io.Pipe()
	command.Stdout, command.Stderr = io.Discard, writer
	var rest bytes.Buffer
	var group errgroup.Group
	group.Go(func() error {
		scanner := bufio.NewScanner(reader)
		for scanner.Scan() {
			if text, ok := strings.CutPrefix(scanner.Text(), output.LineMark); ok {
				r.Progress.Say("%s", text)
				continue
			}
			rest.WriteString(scanner.Text() + "\n")
		}
		return scanner.Err()
	})
	err = command.Run()
	_ = writer.Close()
	_ = group.Wait()
	if err != nil {
		text := strings.TrimPrefix(strings.TrimSpace(rest.String()), "Error: ")
		if text == "" {
			text = err.Error()
		}
		return fmt.Errorf("%s: %s", name, text)
	}
	return nil
}

// joinAll makes members of the machines that are not: masters one after the other, nodes
// meanwhile.
func (r *run) joinAll(ctx context.Context, user *access.Access, founder machine.Machine) error {
	var masters, nodes []machine.Machine
	for _, m := range r.fleet.State.Machines {
		ok, err := r.isMember(m.Name)
		if err != nil {
			return err
		}
		if ok {
			continue
		}
		if m.Role == machine.Master {
			masters = append(masters, m)
		} else {
			nodes = append(nodes, m)
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		for _, m := range masters {
			if err := r.join(ctx, user, founder, m, certificatev1pb.TokenRole_TOKEN_ROLE_MASTER); err != nil {
				return err
			}
		}
		return nil
	})
	group.Go(func() error {
		inner, ctx := errgroup.WithContext(ctx)
		inner.SetLimit(2)
		for _, m := range nodes {
			inner.Go(func() error { return r.join(ctx, user, founder, m, certificatev1pb.TokenRole_TOKEN_ROLE_NODE) })
		}
		return inner.Wait()
	})
	return group.Wait()
}

func (r *run) join(ctx context.Context, user *access.Access, founder, m machine.Machine, role certificatev1pb.TokenRole) error {
	token, err := createToken(ctx, user, role)
	if err != nil {
		return err
	}
	return r.install(ctx, m, string(m.Role), "join", founder.Address.String(), "--token", token)
}

func createToken(ctx context.Context, user *access.Access, role certificatev1pb.TokenRole) (string, error) {
	conn, _, err := user.Connect(ctx)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	answer, err := certificatev1pb.NewCertificateServiceClient(conn).CreateToken(ctx,
		&certificatev1pb.CreateTokenRequest{Role: role, Uses: 1})
	if err != nil {
		return "", fmt.Errorf("make a join token: %w", err)
	}
	return answer.GetToken(), nil
}

// failed undoes what this run made. Members that joined a cluster that existed before
// stay: they work.
func (r *run) failed(ctx context.Context, cause error) error {
	if r.KeepOnFailure {
		return fmt.Errorf("%w (kept for a look at it; remove it with `kijabi down --name %s`)", cause, r.fleet.State.Name)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	logs := r.saveLogs()
	var err error
	if r.fresh {
		r.Progress.Say("removing the cluster that did not come up")
		err = down(ctx, r.fleet, r.Options, false)
	} else {
		err = r.removeAdded(ctx)
	}
	if logs != "" {
		cause = fmt.Errorf("%w; the machines' logs are in %s", cause, logs)
	}
	return errors.Join(cause, err)
}

func (r *run) removeAdded(ctx context.Context) error {
	var remove []string
	for _, name := range r.added {
		if ok, err := r.isMember(name); err != nil || !ok {
			remove = append(remove, name)
		}
	}
	if len(remove) == 0 {
		return nil
	}
	r.Progress.Say("removing %s", strings.Join(remove, ", "))
	if err := r.fleet.Remove(ctx, remove...); err != nil {
		return err
	}
	kept := r.fleet.State.Machines[:0:0]
	for _, m := range r.fleet.State.Machines {
		if !contains(remove, m.Name) {
			kept = append(kept, m)
		}
	}
	r.fleet.State.Machines = kept
	return r.fleet.Save()
}

func contains(names []string, name string) bool {
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return false
}

// saveLogs copies the logs of machines made by this run to a place that outlives them.
func (r *run) saveLogs() string {
	target := filepath.Join(os.TempDir(), "kijabi-up-failed-"+r.fleet.State.Name)
	if err := os.RemoveAll(target); err != nil {
		return ""
	}
	saved := false
	for _, name := range r.added {
		entries, err := os.ReadDir(r.fleet.LogDir(name))
		if err != nil || len(entries) == 0 {
			continue
		}
		if os.CopyFS(filepath.Join(target, name), os.DirFS(r.fleet.LogDir(name))) == nil {
			saved = true
		}
	}
	if !saved {
		return ""
	}
	return target
}
