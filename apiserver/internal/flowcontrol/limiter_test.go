package flowcontrol

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"
)

// one is a configuration whose level "l" has so many shares of its own and queues; all users
// belong to it.
func one(l *Limiter, level *flowcontrolv1.PriorityLevelConfiguration) {
	all := []string{"*"}
	l.Configure([]*flowcontrolv1.FlowSchema{
		flowSchema("s", level.Name, 3, flowcontrolv1.FlowDistinguisherMethodByUserType,
			rules{resources: []flowcontrolv1.ResourcePolicyRule{resourceRule(all, all, all, true, all)}}, group("*")),
	}, []*flowcontrolv1.PriorityLevelConfiguration{level})
}

func (l *Limiter) load(level string) Load {
	for _, load := range l.Loads() {
		if load.Level == level {
			return load
		}
	}
	return Load{}
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func pods(user string) Request {
	return Request{User: user, Verb: "list", Resource: "pods", Namespace: "default"}
}

// noBorrowing is a level of exactly its own seats.
func noBorrowing(shares, queues, hand int32) *flowcontrolv1.PriorityLevelConfiguration {
	level := queued("l", shares, 0, queues, hand)
	level.Spec.Limited.BorrowingLimitPercent = new(int32(0))
	level.Spec.Limited.LimitResponse.Queuing.QueueLengthLimit = 4
	return level
}

// Many requests of many users: never more at once than there are seats, and all are served.
func TestConcurrencyIsBounded(t *testing.T) {
	l := New(Config{Concurrency: 490, Wait: time.Minute})
	one(l, noBorrowing(245, 1000, 1000)) // half of all shares
	seats := l.load("l").Seats
	if seats != 245 {
		t.Fatalf("%d seats", seats)
	}
	var now, most atomic.Int64
	var group sync.WaitGroup
	for i := range 2000 {
		group.Go(func() {
			seat, err := l.Acquire(t.Context(), pods(fmt.Sprint(i%7)))
			if err != nil {
				t.Error(err)
				return
			}
			n := now.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			time.Sleep(time.Millisecond) // being served
			now.Add(-1)
			seat.Release()
			seat.Release() // does nothing
		})
	}
	group.Wait()
	if most.Load() > int64(seats) || most.Load() < 2 {
		t.Errorf("%d at once with %d seats", most.Load(), seats)
	}
	if load := l.load("l"); load.Used != 0 || load.Waiting != 0 || load.Dispatched["s"] != 2000 {
		t.Errorf("left: %+v", load)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.levels["l"].flows); n != 0 {
		t.Errorf("%d flows are remembered", n)
	}
}

// acquire asks in the background; the returned function waits for the answer.
func acquire(ctx context.Context, l *Limiter, r Request) func() (Seat, error) {
	type answer struct {
		seat Seat
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		seat, err := l.Acquire(ctx, r)
		answers <- answer{seat, err}
	}()
	return func() (Seat, error) { a := <-answers; return a.seat, a.err }
}

func must(t *testing.T, l *Limiter, r Request) Seat {
	t.Helper()
	seat, err := l.Acquire(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return seat
}

// One user floods a level of two seats; another's only request is next all the same.
func TestQueuesAreFair(t *testing.T) {
	l := New(Config{Concurrency: 2, Wait: time.Minute})
	one(l, noBorrowing(100_000, 100, 100)) // nearly all shares: 2 seats
	if seats := l.load("l").Seats; seats != 2 {
		t.Fatalf("%d seats", seats)
	}
	first, second := must(t, l, pods("flood")), must(t, l, pods("flood"))
	var flood []func() (Seat, error)
	for range 50 {
		flood = append(flood, acquire(t.Context(), l, pods("flood")))
	}
	eventually(t, "the flood waits", func() bool { return l.load("l").Waiting == 50 })
	quiet := acquire(t.Context(), l, pods("quiet"))
	eventually(t, "the quiet one waits", func() bool { return l.load("l").Waiting == 51 })
	first.Release()
	seat, err := quiet() // hangs if the flood comes first
	if err != nil {
		t.Fatal(err)
	}
	if load := l.load("l"); load.Waiting != 50 || load.Used != 2 {
		t.Errorf("%+v", load)
	}
	seat.Release()
	second.Release()
	var group sync.WaitGroup
	for _, wait := range flood { // in the order they came, which is not this one
		group.Go(func() {
			seat, err := wait()
			if err != nil {
				t.Error(err)
			}
			seat.Release()
		})
	}
	group.Wait()
}

func refusal(t *testing.T, err error) {
	t.Helper()
	status := apierrors.APIStatus(nil)
	if !apierrors.IsTooManyRequests(err) || !errors.As(err, &status) || status.Status().Code != 429 || status.Status().Details.RetryAfterSeconds < 1 {
		t.Errorf("refused with %v", err)
	}
}

func TestQueuesAreBounded(t *testing.T) {
	l := New(Config{Concurrency: 1, Wait: time.Minute})
	one(l, noBorrowing(100_000, 3, 2)) // a flow may have 8 waiting, all together 12
	seat := must(t, l, pods("a"))
	ctx, cancel := context.WithCancel(t.Context())
	var waiting []func() (Seat, error)
	for range 8 {
		waiting = append(waiting, acquire(ctx, l, pods("a")))
	}
	eventually(t, "a waits", func() bool { return l.load("l").Waiting == 8 })
	_, err := l.Acquire(t.Context(), pods("a"))
	refusal(t, err)
	for range 4 {
		waiting = append(waiting, acquire(ctx, l, pods("b")))
	}
	eventually(t, "b waits, too", func() bool { return l.load("l").Waiting == 12 })
	_, err = l.Acquire(t.Context(), pods("c"))
	refusal(t, err)
	if load := l.load("l"); load.Rejected[ReasonQueueFull] != 2 {
		t.Errorf("%+v", load)
	}
	cancel() // who gives up leaves the queue
	for _, wait := range waiting {
		if _, err := wait(); !errors.Is(err, context.Canceled) {
			t.Errorf("gave up with %v", err)
		}
	}
	if load := l.load("l"); load.Waiting != 0 || load.Used != 1 || load.Rejected[ReasonCancelled] != 12 {
		t.Errorf("%+v", load)
	}
	seat.Release()
	must(t, l, pods("c")).Release()
}

func TestWaitIsBounded(t *testing.T) {
	clk := clocktesting.NewFakeClock(time.Now())
	l := New(Config{Concurrency: 1, Wait: 5 * time.Second, Clock: clk})
	one(l, noBorrowing(100_000, 3, 2))
	seat := must(t, l, pods("a"))
	wait := acquire(t.Context(), l, pods("b"))
	eventually(t, "b waits", func() bool { return l.load("l").Waiting == 1 && clk.HasWaiters() })
	clk.Step(5 * time.Second)
	_, err := wait()
	refusal(t, err)
	if load := l.load("l"); load.Waiting != 0 || load.Rejected[ReasonTimeout] != 1 {
		t.Errorf("%+v", load)
	}
	seat.Release()
}

// A level that does not queue refuses at once.
func TestRejectingLevel(t *testing.T) {
	l := New(Config{Concurrency: 1, Wait: time.Minute})
	level := noBorrowing(100_000, 3, 2)
	level.Spec.Limited.LimitResponse = flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject}
	one(l, level)
	seat := must(t, l, pods("a"))
	_, err := l.Acquire(t.Context(), pods("b"))
	refusal(t, err)
	seat.Release()
	must(t, l, pods("b")).Release()
}

// Idle seats are lent, but never so many that their owner waits for more than it lent.
func TestBorrowing(t *testing.T) {
	l := New(Config{Concurrency: 100, Wait: time.Minute})
	all := []string{"*"}
	anything := rules{resources: []flowcontrolv1.ResourcePolicyRule{resourceRule(all, all, all, true, all)}}
	lender, borrower := queued("lender", 1_000_000, 50, 64, 6), queued("borrower", 1_000_000, 0, 64, 6)
	l.Configure([]*flowcontrolv1.FlowSchema{
		flowSchema("lender", "lender", 3, "", anything, user("lender")),
		flowSchema("borrower", "borrower", 3, "", anything, user("borrower")),
	}, []*flowcontrolv1.PriorityLevelConfiguration{lender, borrower})
	if a, b := l.load("lender").Seats, l.load("borrower").Seats; a != 50 || b != 50 {
		t.Fatalf("%d and %d seats", a, b)
	}
	lent := 25
	for _, load := range l.Loads() { // what the built-in levels have to lend: nearly nothing
		if load.Level != "lender" && load.Level != "borrower" {
			l.mu.Lock()
			lent += l.levels[load.Level].lendable
			l.mu.Unlock()
		}
	}
	var borrowed []Seat
	for range 50 + lent {
		borrowed = append(borrowed, must(t, l, pods("borrower")))
	}
	next := acquire(t.Context(), l, pods("borrower"))
	eventually(t, "no more is lent", func() bool { return l.load("borrower").Waiting == 1 })
	var own []Seat
	for range 50 { // the lender waits for none of its own
		own = append(own, must(t, l, pods("lender")))
	}
	// While its owner uses them, nothing is lent any more.
	borrowed[0].Release()
	if load := l.load("borrower"); load.Waiting != 1 {
		t.Errorf("%+v with nothing to lend", load)
	}
	for _, seat := range own {
		seat.Release()
	}
	seat, err := next()
	if err != nil {
		t.Fatal(err)
	}
	for _, seat := range append(borrowed, seat) {
		seat.Release()
	}
	if load := l.load("borrower"); load.Used != 0 {
		t.Errorf("left: %+v", load)
	}
}

// Configurations come and go while requests are served and wait.
func TestReconfiguring(t *testing.T) {
	l := New(Config{Concurrency: 1, Wait: time.Minute})
	one(l, noBorrowing(100_000, 30, 20))
	seat := must(t, l, pods("a"))
	waiting := acquire(t.Context(), l, pods("b"))
	eventually(t, "b waits", func() bool { return l.load("l").Waiting == 1 })
	one(l, noBorrowing(200_000, 30, 20)) // as before, in effect
	if load := l.load("l"); load.Waiting != 1 || load.Used != 1 {
		t.Errorf("after a change: %+v", load)
	}
	l.Configure(nil, nil) // the level is gone
	if _, err := waiting(); !apierrors.IsTooManyRequests(err) {
		t.Errorf("waiting in a level that is gone: %v", err)
	}
	seat.Release()
	if load := l.load("l"); load.Level != "" {
		t.Errorf("still there: %+v", load)
	}
	must(t, l, pods("a")).Release()
}

func TestDefaults(t *testing.T) {
	l := New(Config{})
	get := func(user, resource, group, namespace string, groups ...string) Request {
		return Request{User: user, Groups: groups, Verb: "update", Resource: resource, Group: group, Namespace: namespace}
	}
	for _, c := range []struct {
		schema, level string
		request       Request
	}{
		{"exempt", "exempt", get("admin", "pods", "", "a", "system:masters", "system:authenticated")},
		{"kijabi-components", "exempt", get("system:kube-scheduler", "pods", "", "a", "kijabi:role:scheduler", "system:authenticated")},
		{"probes", "exempt", Request{User: "system:anonymous", Groups: []string{"system:unauthenticated"}, Verb: "get", Path: "/readyz"}},
		{"system-leader-election", "leader-election", get("system:kube-scheduler", "leases", "coordination.k8s.io", "kube-system", "system:authenticated")},
		{"workload-leader-election", "leader-election", get("system:serviceaccount:kube-system:x", "leases", "coordination.k8s.io", "kube-system", "system:serviceaccounts:kube-system", "system:serviceaccounts")},
		{"system-node-high", "node-high", get("system:node:n1", "nodes/status", "", "", "system:nodes")},
		{"system-node-high", "node-high", get("system:node:n1", "leases", "coordination.k8s.io", "kube-node-lease", "system:nodes")},
		{"system-nodes", "system", get("system:node:n1", "pods/status", "", "a", "system:nodes")},
		{"kijabi-node-components", "system", get("system:kube-proxy", "services", "", "", "kijabi:role:kube-proxy")},
		{"kube-system-service-accounts", "workload-high", get("system:serviceaccount:kube-system:x", "pods", "", "a", "system:serviceaccounts:kube-system", "system:serviceaccounts")},
		{"service-accounts", "workload-low", get("system:serviceaccount:a:x", "pods", "", "a", "system:serviceaccounts:a", "system:serviceaccounts")},
		{"global-default", "global-default", get("jane", "pods", "", "a", "system:authenticated")},
		{"global-default", "global-default", Request{User: "jane", Groups: []string{"system:authenticated"}, Verb: "get", Path: "/apis"}},
		{"catch-all", "catch-all", get("stranger", "pods", "", "a")},
	} {
		l.mu.Lock()
		s := l.classify(c.request)
		l.mu.Unlock()
		if s.name != c.schema || s.level.name != c.level {
			t.Errorf("%+v: schema %s, level %s; want %s, %s", c.request, s.name, s.level.name, c.schema, c.level)
		}
	}
	sum := 0
	for _, load := range l.Loads() {
		sum += load.Seats
	}
	if sum < defaultConcurrency || sum > defaultConcurrency+len(l.Loads()) {
		t.Errorf("%d seats in all", sum)
	}
	// Whatever others do, administrators and the masters' programs are served.
	for range 10_000 {
		must(t, l, Request{User: "admin", Groups: []string{"system:masters"}, Verb: "get", Path: "/"})
	}
}

func TestMatching(t *testing.T) {
	all := []string{"*"}
	l := New(Config{})
	account := flowcontrolv1.Subject{Kind: flowcontrolv1.SubjectKindServiceAccount, ServiceAccount: &flowcontrolv1.ServiceAccountSubject{Namespace: "a", Name: "robot"}}
	accounts := flowcontrolv1.Subject{Kind: flowcontrolv1.SubjectKindServiceAccount, ServiceAccount: &flowcontrolv1.ServiceAccountSubject{Namespace: "b", Name: "*"}}
	l.Configure([]*flowcontrolv1.FlowSchema{
		flowSchema("later", "system", 60, "", rules{resources: []flowcontrolv1.ResourcePolicyRule{resourceRule(all, all, all, true, all)}}, group("*")),
		flowSchema("accounts", "system", 50, "", rules{resources: []flowcontrolv1.ResourcePolicyRule{
			resourceRule([]string{"list"}, []string{"apps"}, []string{"deployments"}, false, []string{"x"}),
		}}, account, accounts),
		flowSchema("lost", "no-such-level", 40, "", rules{paths: []flowcontrolv1.NonResourcePolicyRule{{Verbs: []string{"get"}, NonResourceURLs: []string{"/logs/*"}}}}, group("*")),
		{ObjectMeta: metav1.ObjectMeta{Name: "empty"}, Spec: flowcontrolv1.FlowSchemaSpec{MatchingPrecedence: 10}},
	}, nil)
	good := Request{User: "system:serviceaccount:a:robot", Verb: "list", Group: "apps", Resource: "deployments", Namespace: "x"}
	of := func(change func(*Request)) string {
		r := good
		change(&r)
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.classify(r).name
	}
	for want, change := range map[string][]func(*Request){
		"accounts": {
			func(*Request) {},
			func(r *Request) {
				r.User, r.Groups = "system:serviceaccount:b:any", []string{"system:serviceaccounts:b"}
			},
		},
		"later": {
			func(r *Request) { r.User = "system:serviceaccount:a:other" },
			func(r *Request) { r.Verb = "get" }, func(r *Request) { r.Group = "" }, func(r *Request) { r.Resource = "deployments/scale" },
			func(r *Request) { r.Namespace = "y" }, func(r *Request) { r.Namespace = "" },
		},
		"lost":      {func(r *Request) { *r = Request{User: "x", Verb: "get", Path: "/logs/a"} }},
		"catch-all": {func(r *Request) { *r = Request{User: "x", Verb: "get", Path: "/log"} }, func(r *Request) { *r = Request{User: "x", Verb: "put", Path: "/logs/a"} }},
	} {
		for i, c := range change {
			if got := of(c); got != want {
				t.Errorf("%s %d is matched by %s", want, i, got)
			}
		}
	}
}

func BenchmarkAcquire(b *testing.B) {
	l := New(Config{})
	r := Request{User: "system:node:n1", Groups: []string{"system:nodes", "system:authenticated"}, Verb: "update", Resource: "pods/status", Namespace: "default"}
	b.ReportAllocs()
	for b.Loop() {
		seat, err := l.Acquire(b.Context(), r)
		if err != nil {
			b.Fatal(err)
		}
		seat.Release()
	}
}

// A free seat goes to the flow that holds the fewest, however recently it was served.
func TestSeatsAreShared(t *testing.T) {
	l := New(Config{Concurrency: 3, Wait: time.Minute})
	one(l, noBorrowing(100_000, 100, 100))
	held := []Seat{must(t, l, pods("a")), must(t, l, pods("a"))}
	of := must(t, l, pods("b"))
	a := acquire(t.Context(), l, pods("a"))
	eventually(t, "a waits", func() bool { return l.load("l").Waiting == 1 })
	b := acquire(t.Context(), l, pods("b"))
	eventually(t, "b waits", func() bool { return l.load("l").Waiting == 2 })
	of.Release()
	seat, err := b() // hangs if it is given to a
	if err != nil {
		t.Fatal(err)
	}
	for _, seat := range append(held, seat) {
		seat.Release()
	}
	if seat, err = a(); err != nil {
		t.Fatal(err)
	}
	seat.Release()
}
