package loops

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/pki"
	"kijabi.dev/test/harness"
)

// scenario is what users do to one loop, or a few that work together, and what must come of it
// whatever happens between the controller-manager and the apiserver.
type scenario struct {
	name string
	// run does it all in a namespace of its own and waits for what has to come before it goes on.
	// A cluster-scoped object of it has the namespace's name, by which its writes are counted.
	run func(t *harness.T, c *scene)
	// end is the state at the end, without what differs from run to run: names that are made up,
	// uids, versions, times, addresses. It is asked until it is as it was without a disturbance.
	end func(t *harness.T, c *scene) []string
	// most is how many pods may be there at once, besides those that are being deleted; total is
	// how many may ever be created.
	most, total int
}

// scene is where a scenario is played.
type scene struct {
	*stack

	k  *kubelets
	ns string
}

// scenarios are all. A loop that comes is added here.
func scenarios() []scenario {
	return []scenario{
		{name: "replicaset", run: playReplicaSet, end: endOfReplicaSet, most: 6, total: 7},
		{name: "deployment", run: playDeployment, end: endOfDeployment, most: 5, total: 8},
		{name: "endpointslice", run: playEndpoints, end: endOfEndpoints, most: 3, total: 3},
		{name: "namespace", run: playNamespace, end: endOfNamespace, most: 2, total: 2},
		{name: "garbage", run: playGarbage, end: endOfGarbage},
		{name: "eviction", run: playEviction, end: endOfEviction, most: 2, total: 4},
		{name: "serviceaccount", run: playAccounts, end: endOfAccounts},
		{name: "statefulset", run: playStatefulSet, end: endOfStatefulSet, most: 3, total: 7},
		{name: "daemonset", run: playDaemonSet, end: endOfDaemonSet, most: perturbNodes, total: 2 * perturbNodes},
		{name: "job", run: playJob, end: endOfJob, most: 6, total: 6},
		{name: "volume", run: playVolume, end: endOfVolume, most: 1, total: 1},
		{name: "budget", run: playBudget, end: endOfBudget, most: 4, total: 4},
	}
}

// perturbNodes is how many nodes scenarios share.
const perturbNodes = 6

// crashes is at how many of a scenario's writes, from the first to the last, the program is
// killed. With $KIJABI_PERTURB_ALL it is at each, which takes some ten minutes; with
// $KIJABI_PERTURB_SEEDS=200 there are as many random disturbances instead.
const crashes = 8

// disturbances are what has to make no difference. writes is how many each scenario takes without.
func disturbances(writes map[string]int) []disturbance {
	const late = 600 * time.Millisecond
	steps := crashes
	if os.Getenv("KIJABI_PERTURB_ALL") != "" {
		steps = slices.Max(slices.Collect(maps.Values(writes)))
	}
	at := func(step int, what fate) func(string, int) fate {
		return func(scope string, n int) fate {
			name, _, _ := strings.Cut(scope, "-")
			target, all := step, writes[name]
			if all > steps {
				target = 1 + (step-1)*(all-1)/(steps-1)
			}
			if n == target {
				return what
			}
			return passed
		}
	}
	if seeds, err := strconv.Atoi(os.Getenv("KIJABI_PERTURB_SEEDS")); err == nil {
		var all []disturbance
		for seed := range seeds {
			all = append(all, randomly(uint64(seed), writes))
		}
		return all
	}
	all := []disturbance{
		{name: "PodsAndSecretsLate", lag: map[string]time.Duration{"pods": late, "secrets": late}},
		{name: "AllOthersLate", lag: map[string]time.Duration{"*": late, "pods": 0, "secrets": 0}},
		{name: "StatesUnseen", window: 400 * time.Millisecond},
		{name: "AnswersLost", fate: func(_ string, n int) fate {
			if n%2 == 1 {
				return answerLost
			}
			return passed
		}},
		{name: "LateAndKilled", lag: map[string]time.Duration{"*": late}, fate: func(_ string, n int) fate {
			if n == 2 || n == 4 {
				return killAfter
			}
			return passed
		}},
	}
	for step := 1; step <= steps; step++ {
		all = append(all,
			disturbance{name: fmt.Sprintf("KilledAfterWrite%d", step), fate: at(step, killAfter)},
			disturbance{name: fmt.Sprintf("KilledBeforeWrite%d", step), fate: at(step, killBefore)})
	}
	return all
}

// randomly kills the program, or loses an answer, at a random write of each of some scenarios,
// while what it sees is late or not. The same seed does the same.
func randomly(seed uint64, writes map[string]int) disturbance {
	pick := rand.New(rand.NewPCG(seed, 2)) //nolint:gosec // a seed must give the same again
	targets, fates := map[string]int{}, map[string]fate{}
	for _, name := range slices.Sorted(maps.Keys(writes)) {
		what := []fate{passed, killBefore, killAfter, answerLost}[pick.IntN(4)]
		targets[name], fates[name] = 1+pick.IntN(writes[name]), what
	}
	d := disturbance{name: fmt.Sprintf("Seed%d", seed), fate: func(scope string, n int) fate {
		name, _, _ := strings.Cut(scope, "-")
		if n == targets[name] {
			return fates[name]
		}
		return passed
	}}
	if pick.IntN(2) == 0 {
		d.lag = map[string]time.Duration{[]string{"pods", "*"}[pick.IntN(2)]: time.Duration(pick.IntN(400)) * time.Millisecond}
	}
	return d
}

// TestPerturb plays every scenario under every disturbance of what the controller-manager sees of
// the cluster, and of its writes: views that are late, states that it never sees, crashes between
// any two writes. In the end everything is as without, and no pod too many ever was. The idea is
// that of the paper "Automatic Reliability Testing for Cluster Management Controllers" (Sieve, OSDI 2022).
func TestPerturb(tt *testing.T) {
	t := harness.Begin(tt)
	s := newStack(t, "scheduler")
	k := newKubelets(t, s)
	for i := range perturbNodes {
		if err := s.register(t.Context(), hollowNode(nodeName(i), "64")); err != nil {
			t.Fatal(err)
		}
		k.beat(t, nodeName(i))
	}
	p := newProxy(t, s, pki.ComponentControllerManager, configv1.PortGRPC+1)
	s.reconfigure(t, "controller-manager", map[string]any{"apiServer": p.address, "nodeUnreachableAfter": "3s"})
	s.start(t, "controller-manager")
	s.killOnDemand(t, "controller-manager", p.kill)

	reference := map[string][]string{}
	var mu sync.Mutex
	writes := map[string]int{}
	play := func(t *harness.T, number int, d disturbance) {
		began := time.Now()
		p.disturb(d)
		var all sync.WaitGroup
		for _, sc := range scenarios() {
			all.Go(func() {
				t.Run(sc.name, func(t *harness.T) {
					c := &scene{stack: s, k: k, ns: fmt.Sprintf("%s-%02d", sc.name, number)}
					pods := sc.watchPods(t, c)
					sc.run(t, c)
					mu.Lock()
					want, known := reference[sc.name]
					mu.Unlock()
					if !known {
						want = settled(t, sc, c)
						t.Logf("end state:\n%s", strings.Join(want, "\n"))
					}
					harness.Eventually(t, 2*patience, "the end is as without a disturbance", func() error {
						if have := sc.end(t, c); !slices.Equal(have, want) {
							return fmt.Errorf("it is\n%s\nand has to be\n%s", strings.Join(have, "\n"), strings.Join(want, "\n"))
						}
						return nil
					})
					if n := pods.total(); n > sc.total {
						t.Errorf("%d pods were created, at most %d are called for", n, sc.total)
					}
					mu.Lock()
					defer mu.Unlock()
					reference[sc.name] = want
				})
			})
		}
		all.Wait()
		seen := map[string]int{}
		for _, sc := range scenarios() {
			seen[sc.name] = p.written(fmt.Sprintf("%s-%02d", sc.name, number))
			if number == 0 {
				writes[sc.name] = seen[sc.name]
			}
		}
		t.Logf("took %s, writes %v", time.Since(began).Round(time.Millisecond), seen)
		if t.Failed() {
			return // it is looked at
		}
		for _, sc := range scenarios() { // nodes have room for so many pods only
			name := fmt.Sprintf("%s-%02d", sc.name, number)
			if _, err := get[*corev1.Namespace](s, "", name); err == nil {
				s.remove(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, client.DeleteOptions{})
			}
		}
	}
	t.Run("Undisturbed", func(t *harness.T) { play(t, 0, disturbance{}) })
	if t.Failed() {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(writes)) {
		if writes[name] == 0 {
			t.Fatalf("scenario %s: the proxy sees no write of it, so nothing is tested", name)
		}
	}
	for i, d := range disturbances(writes) {
		if !t.Run(d.name, func(t *harness.T) { play(t, i+1, d) }) {
			return // the others would take as long to fail
		}
	}
}

// watchPods counts a scene's pods from now on.
func (sc *scenario) watchPods(t *harness.T, c *scene) *history {
	t.Helper()
	most := sc.most
	return follow(t, c.stack, c.ns, func(_, _ *corev1.Pod, all map[types.UID]*corev1.Pod) string {
		live := 0
		for _, pod := range all {
			if pod.DeletionTimestamp == nil {
				live++
			}
		}
		if live > most {
			most = live // each height is told once
			return fmt.Sprintf("%d pods at once, at most %d are called for", live, sc.most)
		}
		return ""
	})
}

// settled is a scenario's end once it does not change any more.
func settled(t *harness.T, sc scenario, c *scene) []string {
	t.Helper()
	last, since := sc.end(t, c), time.Now()
	harness.Eventually(t, patience, "the end state stays", func() error {
		if have := sc.end(t, c); !slices.Equal(have, last) {
			last, since = have, time.Now()
		}
		if time.Since(since) < time.Second {
			return fmt.Errorf("it changed %s ago", time.Since(since))
		}
		return nil
	})
	return last
}

// reconfigure changes fields of a program's configuration.
func (s *stack) reconfigure(t *harness.T, name string, fields map[string]any) {
	t.Helper()
	content, err := os.ReadFile(s.path(name + ".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	configuration := map[string]any{}
	if err := json.Unmarshal(content, &configuration); err != nil {
		t.Fatal(err)
	}
	maps.Copy(configuration, fields)
	if content, err = json.Marshal(configuration); err == nil {
		err = os.WriteFile(s.path(name+".yaml"), content, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// killOnDemand kills a program and starts it anew whenever there is a token.
func (s *stack) killOnDemand(t *harness.T, name string, demand <-chan struct{}) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var done sync.WaitGroup
	done.Go(func() {
		for {
			select {
			case <-demand:
				s.restart(t, name)
			case <-ctx.Done():
				return
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		done.Wait()
	})
}

// lines describes objects, in an order of their own.
func lines[T any](all []T, describe func(T) string) []string {
	var out []string
	for _, one := range all {
		if text := describe(one); text != "" {
			out = append(out, text)
		}
	}
	slices.Sort(out)
	return out
}

// podLine is a pod without its name.
func podLine(pod *corev1.Pod) string {
	owner := "nobody"
	if ref := metav1.GetControllerOf(pod); ref != nil {
		owner = ref.Kind
	}
	return fmt.Sprintf("pod of %s, image %s, ready %t, bound %t, deleted %t",
		owner, pod.Spec.Containers[0].Image, isReady(pod), pod.Spec.NodeName != "", pod.DeletionTimestamp != nil)
}
