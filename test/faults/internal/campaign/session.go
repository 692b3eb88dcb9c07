package campaign

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"

	"kijabi.dev/test/faults/internal/cluster"
	"kijabi.dev/test/faults/internal/faults"
	"kijabi.dev/test/faults/internal/history"
	"kijabi.dev/test/faults/internal/watchcheck"
	"kijabi.dev/test/faults/internal/workload"
)

const (
	// namespace of the objects that the workload writes.
	namespace = "faults"
	prefix    = "/o/configmaps/" + namespace + "/"

	// wholeWithin is how long a healed cluster may take, unless the fault says otherwise.
	wholeWithin = time.Minute
	// stallOfHost is half of raft's leader lease: a host that did not run an apiserver for that
	// long may have caused the election itself.
	stallOfHost = 100 * time.Millisecond
	// warmUp is how many writes of each prober are acknowledged before something is broken.
	warmUp = 20
)

// Config of a Session.
type Config struct {
	// Cluster to start. Required.
	Cluster cluster.Config
	// Seed of all choices: the same seed breaks the same things in the same order.
	Seed uint64
	// Faults to choose from. Required.
	Faults []faults.Fault
	// Duration after which no further fault is injected. Each fault is injected once at least
	// before any is again.
	Duration time.Duration
	// Rounds bounds the number of faults; 0 means no bound.
	Rounds int
	// Artifacts is the directory for what is needed to understand a violation. Required.
	Artifacts string
	// Log is told what happens. Required.
	Log io.Writer
}

// session is a running one.
type session struct {
	cfg      Config
	cluster  *cluster.Cluster
	pick     *rand.Rand
	record   *Record
	masters  []workload.Master
	recorder *history.Recorder
	clients  *workload.Clients
	watchers []*watchcheck.Watcher
	host     hostWatch
	pace     workload.Pace
	canary   string
	pods     []string // uids

	killed  []killing // masters that were killed, and when
	changes []change  // leader changes that no fault explains, as far as known
}

// killing is that a master's programs may have lost what they had not written yet, at some time
// in a span.
type killing struct {
	master   string
	from, to time.Duration
}

// change is a span of epochs in which no fault allowed a leader change.
type change struct {
	after, to uint64
	host      float64
	during    string
}

// Run runs one session and returns what it found. An error is that the session could not even
// begin, or that ctx ended before it did; all that goes wrong later is a violation of the record.
func Run(ctx context.Context, cfg Config) (*Record, error) {
	s := &session{
		cfg: cfg, recorder: history.NewRecorder(), canary: fmt.Sprintf("canary-%x-secret", cfg.Seed),
		pick:   rand.New(rand.NewPCG(cfg.Seed, 1)), //nolint:gosec // a seed must give the same again
		record: &Record{Time: time.Now().UTC(), Seed: cfg.Seed, Masters: cfg.Cluster.Masters},
	}
	began := time.Now()
	c, err := cluster.Up(ctx, cfg.Cluster)
	if err != nil {
		return nil, err
	}
	s.cluster = c
	s.logf("seed %d: %d masters are up after %s", cfg.Seed, cfg.Cluster.Masters, time.Since(began).Round(100*time.Millisecond))
	err = s.work(ctx)
	if ctx.Err() != nil {
		// What clients and checks saw of being stopped says nothing of the cluster.
		return nil, errors.Join(fmt.Errorf("stopped: the session of seed %d does not count", cfg.Seed), c.Down(context.WithoutCancel(ctx)))
	}
	if err != nil {
		s.violate("the session ended early: %v", err)
	}
	if len(s.record.Violations) > 0 || s.record.Unexplained > 0 {
		s.keep()
	}
	return s.record, c.Down(context.WithoutCancel(ctx))
}

func (s *session) logf(format string, args ...any) {
	_, _ = fmt.Fprintf(s.cfg.Log, "%s "+format+"\n", append([]any{time.Now().UTC().Format("15:04:05.000")}, args...)...)
}

func (s *session) violate(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.record.Violations = append(s.record.Violations, text)
	first, _, _ := strings.Cut(text, "\n")
	s.logf("VIOLATION %s", first)
}

// work runs the workload and the faults, and checks at the end.
func (s *session) work(ctx context.Context) error {
	for _, name := range s.cluster.Masters() {
		conn, err := s.cluster.Dial(name)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		s.masters = append(s.masters, workload.Master{Name: name, API: client.New(conn)})
	}
	if err := s.prepare(ctx); err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	working, stop := context.WithCancel(ctx)
	defer stop()
	var background sync.WaitGroup
	for i, master := range s.masters {
		w := &watchcheck.Watcher{Master: master.Name, API: master.API, Namespace: namespace, Seed: s.cfg.Seed + uint64(i)}
		s.watchers = append(s.watchers, w)
		background.Go(func() { w.Run(working) })
	}
	background.Go(func() { s.watchHost(working) })
	s.clients = &workload.Clients{Namespace: namespace, Masters: s.masters, Recorder: s.recorder, Seed: s.cfg.Seed, Pace: &s.pace}
	competing, calm := context.WithCancel(working)
	defer calm()
	competed := make(chan struct{})
	background.Go(func() { s.clients.Run(competing); close(competed) })

	background.Go(func() { workload.Churn(competing, object.Key{Namespace: namespace, Name: "churn"}, s.masters, &s.pace) })

	err := s.rounds(ctx)
	calm()
	<-competed
	if err == nil {
		err = s.settle(ctx)
	}
	stop()
	background.Wait()
	// What can be checked is, whatever has happened.
	return errors.Join(err, s.check(ctx))
}

// prepare makes the namespace, the secret whose value must be in no log, and pods that nobody
// may delete.
func (s *session) prepare(ctx context.Context) error {
	leader, _, err := s.cluster.AwaitWhole(ctx, wholeWithin)
	if err != nil {
		return err
	}
	api := s.api(leader)
	if _, err := api.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}); err != nil {
		return err
	}
	if _, err := api.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "canary"}, Data: map[string][]byte{"value": []byte(s.canary)},
	}); err != nil {
		return err
	}
	if _, err := s.cluster.Kubectl(ctx, pods, "apply", "-f", "-"); err != nil {
		return err
	}
	if _, err := s.cluster.Kubectl(ctx, churn, "apply", "-f", "-"); err != nil {
		return err
	}
	return cluster.Await(ctx, time.Minute, "the pods run", func() error {
		list, err := client.List[*corev1.Pod](ctx, api, client.ListOptions{Namespace: "default"})
		if err != nil {
			return err
		}
		s.pods = s.pods[:0]
		for _, pod := range list.Items {
			if pod.Status.Phase == corev1.PodRunning {
				s.pods = append(s.pods, string(pod.UID))
			}
		}
		if slices.Sort(s.pods); len(s.pods) != 3 {
			return fmt.Errorf("%d run", len(s.pods))
		}
		return nil
	})
}

func (s *session) api(master string) *client.Client {
	for _, m := range s.masters {
		if m.Name == master {
			return m.API
		}
	}
	return s.masters[0].API
}

// pods that do nothing, one per machine.
const pods = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: idle}
spec:
  replicas: 3
  selector: {matchLabels: {app: idle}}
  template:
    metadata: {labels: {app: idle}}
    spec:
      terminationGracePeriodSeconds: 0
      tolerations: [{key: node-role.kubernetes.io/control-plane, operator: Exists}]
      containers:
      - {name: pause, image: "registry.kijabi.dev/pause:1"}
`

// churn are pods that fit nowhere: changing their number keeps the leader's components writing
// and no node busy.
const churn = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: churn, namespace: ` + namespace + `}
spec:
  replicas: 1
  selector: {matchLabels: {app: churn}}
  template:
    metadata: {labels: {app: churn}}
    spec:
      nodeSelector: {nowhere: "true"}
      containers:
      - {name: pause, image: "registry.kijabi.dev/pause:1"}
`

// rounds injects faults until the time is up.
func (s *session) rounds(ctx context.Context) error {
	until := time.Now().Add(s.cfg.Duration)
	var bag []faults.Fault
	var last uint64
	for number := 1; number <= len(s.cfg.Faults) || time.Now().Before(until); number++ {
		if s.cfg.Rounds > 0 && number > s.cfg.Rounds || ctx.Err() != nil {
			break
		}
		if len(bag) == 0 {
			bag = slices.Clone(s.cfg.Faults)
			s.pick.Shuffle(len(bag), func(i, j int) { bag[i], bag[j] = bag[j], bag[i] })
		}
		s.clients.NextRound(number)
		r, err := s.round(ctx, number, bag[0], last)
		if r != nil {
			s.record.Rounds = append(s.record.Rounds, *r)
			last = r.After
		}
		if err != nil {
			return fmt.Errorf("round %d, %s: %w", number, bag[0].ID, err)
		}
		bag = bag[1:]
	}
	return ctx.Err()
}

// round injects one fault. last is the epoch after the round before.
func (s *session) round(ctx context.Context, number int, fault faults.Fault, last uint64) (*Round, error) {
	leader, epoch, err := s.cluster.AwaitWhole(ctx, wholeWithin)
	if err != nil {
		return nil, err
	}
	if last != 0 && epoch != last {
		s.changes = append(s.changes, change{last, epoch, s.host.longest(), "no fault"})
	}
	r := &Round{Fault: fault.ID, Leader: leader, Before: epoch}
	probing, stop := context.WithCancel(ctx)
	var probes sync.WaitGroup
	defer probes.Wait()
	defer stop()
	probers := s.probe(probing, &probes, number)
	if err := awaitAcks(ctx, probers, 20*time.Second, warmUp, 0); err != nil {
		return r, fmt.Errorf("before the fault: %w", err)
	}

	if fault.Gentle {
		s.pace.Gentle(true)
		defer s.pace.Gentle(false)
	}
	s.host.reset()
	from := s.recorder.Now()
	scene := faults.Scene{Cluster: s.cluster, Leader: leader, Epoch: epoch, Pick: s.pick}
	in, err := fault.Inject(ctx, scene)
	if err != nil {
		if in != nil {
			err = errors.Join(err, in.Heal(context.WithoutCancel(ctx)))
		}
		return r, fmt.Errorf("inject: %w", err)
	}
	err = s.endure(ctx, fault, in, probers, from, r)
	verify := in.Verify(ctx)
	for _, master := range in.Killed {
		s.killed = append(s.killed, killing{master, from, s.recorder.Now()})
	}
	healed := time.Now()
	if err := errors.Join(err, verify, in.Heal(context.WithoutCancel(ctx))); err != nil {
		return r, err
	}
	if err := pause(ctx, 500*time.Millisecond); err != nil { // writes go on while it heals
		return r, err
	}
	stop()
	_, r.After, err = s.cluster.AwaitWhole(ctx, max(fault.Rest, wholeWithin))
	r.Whole, r.Machine = milliseconds(time.Since(healed)), s.host.longest()
	if err != nil {
		return r, fmt.Errorf("after healing: %w", err)
	}
	if fault.KeepsLeader && r.After != r.Before {
		s.changes = append(s.changes, change{r.Before, r.After, r.Machine, fault.ID})
	}
	if r.After != r.Before {
		refused, violations := workload.Leftover(ctx, s.masters, namespace, r.Before)
		s.record.Leftovers += refused
		s.violateAll(violations)
	}
	s.logf("round %d: %s at %s: next write after %.0f to %.0f ms, whole %.0f ms after healing, epoch %d → %d, host stalled %.0f ms",
		number, fault.ID, leader, r.best(), r.worst(), r.Whole, r.Before, r.After, r.Machine)
	return r, nil
}

// endure waits until writes are acknowledged again, holds the fault, and measures.
func (s *session) endure(ctx context.Context, fault faults.Fault, in *faults.Injection, probers map[string]*workload.Prober, from time.Duration, r *Round) error {
	injected := s.recorder.Now()
	if fault.NoQuorum {
		if err := pause(ctx, fault.Hold); err != nil {
			return err
		}
		for name, p := range probers {
			if n := p.AcknowledgedSince(injected); n > 0 {
				s.violate("%s: %d writes through %s were acknowledged without a quorum", fault.ID, n, name)
			}
		}
		return nil
	}
	surviving := map[string]*workload.Prober{}
	for _, name := range s.cluster.Others(in.Victims...) {
		surviving[name] = probers[name]
	}
	err := awaitAcks(ctx, surviving, fault.Limit, 1, injected)
	if err != nil {
		s.violate("%s: no write is acknowledged: %v", fault.ID, err)
	}
	if err := pause(ctx, fault.Hold); err != nil {
		return err
	}
	for name, p := range probers {
		if fastest := p.Fastest(injected); fault.AtLeast > 0 && fastest > 0 && fastest < fault.AtLeast {
			s.violate("%s: a write through %s was acknowledged after %s, before it can have been on the disks of a majority", fault.ID, name, fastest)
		}
	}
	r.Stalls = map[string]float64{}
	now := s.recorder.Now()
	for name, p := range surviving {
		if stall, ok := p.Stall(from, now); ok {
			r.Stalls[name] = milliseconds(stall)
		}
	}
	return nil
}

// probe starts a prober through each master.
func (s *session) probe(ctx context.Context, all *sync.WaitGroup, round int) map[string]*workload.Prober {
	probers := map[string]*workload.Prober{}
	for i, master := range s.masters {
		p := &workload.Prober{
			Namespace: namespace, Prefix: fmt.Sprintf("p%d-%d", round, i), Master: master, Recorder: s.recorder, Pace: &s.pace, Client: 1_000_000 + i*1000,
		}
		probers[master.Name] = p
		all.Go(func() { p.Run(ctx) })
	}
	return probers
}

// awaitAcks waits until each prober has had so many writes acknowledged that began after a time.
func awaitAcks(ctx context.Context, probers map[string]*workload.Prober, limit time.Duration, count int, since time.Duration) error {
	return cluster.Await(ctx, limit, fmt.Sprintf("%d writes through each master", count), func() error {
		var errs []error
		for name, p := range probers {
			if n := p.AcknowledgedSince(since); n < count {
				errs = append(errs, fmt.Errorf("%d through %s", n, name))
			}
		}
		return errors.Join(errs...)
	})
}

// settle waits until all watchers have seen everything, and reads everything once more.
func (s *session) settle(ctx context.Context) error {
	if _, _, err := s.cluster.AwaitWhole(ctx, wholeWithin); err != nil {
		return err
	}
	page, err := list(ctx, s.masters[0].API)
	if err != nil {
		return err
	}
	version := workload.ParseVersion(page.ResourceVersion)
	for _, w := range s.watchers {
		if err := cluster.Await(ctx, 30*time.Second, "the watch through "+w.Master+" shows everything", func() error {
			if reached := w.Reached(); reached < version {
				return fmt.Errorf("it has reached %d of %d", reached, version)
			}
			return nil
		}); err != nil {
			s.record.WatchViolations++
			s.violate("%v", err)
		}
	}
	left, err := client.List[*corev1.Pod](ctx, s.masters[0].API, client.ListOptions{Namespace: "default"})
	if err != nil {
		return err
	}
	var now []string
	for _, pod := range left.Items {
		now = append(now, string(pod.UID))
	}
	if slices.Sort(now); !slices.Equal(now, s.pods) {
		s.violate("the pods were %v and are %v", s.pods, now)
	}
	return nil
}

func list(ctx context.Context, api *client.Client) (client.Page[*corev1.ConfigMap], error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		page, err := client.List[*corev1.ConfigMap](ctx, api, client.ListOptions{Namespace: namespace})
		if err == nil || !apierrors.IsServiceUnavailable(err) && !apierrors.IsTimeout(err) || ctx.Err() != nil {
			return page, err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
