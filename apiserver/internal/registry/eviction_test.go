package registry_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/store"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/object"
)

// runningPod makes a pod on a node that runs and is ready or not.
func runningPod(t *testing.T, m *master, name string, ready bool) {
	t.Helper()
	must[*corev1.Pod](t)(m.Create(t.Context(), admin, at("pods", "default", ""), pod(name), none))
	bind(t, m, name, "n1")
	running := get[*corev1.Pod](t, m, at("pods", "default", name))
	running.Status.Phase = corev1.PodRunning
	condition := corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionFalse}
	if ready {
		condition.Status = corev1.ConditionTrue
	}
	running.Status.Conditions = append(running.Status.Conditions, condition)
	must[*corev1.Pod](t)(m.Update(t.Context(), admin, at("pods", "default", name, "status"), running, none))
}

// budget makes a disruption budget for the pods of pod(), with a status.
func budget(t *testing.T, m *master, name string, status policyv1.PodDisruptionBudgetStatus, change ...func(*policyv1.PodDisruptionBudget)) {
	t.Helper()
	b := &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: policyv1.PodDisruptionBudgetSpec{
			MinAvailable: new(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
		},
	}
	for _, c := range change {
		c(b)
	}
	created := must[*policyv1.PodDisruptionBudget](t)(m.Create(t.Context(), admin, at("poddisruptionbudgets", "default", ""), b, none))
	status.ObservedGeneration += created.Generation
	created.Status = status
	must[*policyv1.PodDisruptionBudget](t)(m.Update(t.Context(), admin, at("poddisruptionbudgets", "default", name, "status"), created, none))
}

func evict(t *testing.T, m *master, name string, opts ...metav1.DeleteOptions) error {
	t.Helper()
	eviction := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if len(opts) > 0 {
		eviction.DeleteOptions = &opts[0]
	}
	_, err := m.Create(t.Context(), admin, at("pods", "default", name, "eviction"), eviction, none)
	return err
}

func isEvicted(t *testing.T, m *master, name string) bool {
	t.Helper()
	record, err := m.Get(t.Context(), at("pods", "default", name))
	if apierrors.IsNotFound(err) {
		return true
	}
	if err != nil {
		t.Fatal(err)
	}
	return record.Index.Deleting
}

func TestEvictionTakesFromTheBudget(t *testing.T) {
	m := leader(t)
	runningPod(t, m, "a", true)
	runningPod(t, m, "b", true)
	budget(t, m, "web", policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: 1, CurrentHealthy: 2, DesiredHealthy: 1, ExpectedPods: 2})
	if err := evict(t, m, "a"); err != nil {
		t.Fatal(err)
	}
	evicted := get[*corev1.Pod](t, m, at("pods", "default", "a"))
	condition := corev1.PodCondition{}
	for _, c := range evicted.Status.Conditions {
		if c.Type == corev1.DisruptionTarget {
			condition = c
		}
	}
	if evicted.DeletionTimestamp == nil || condition.Status != corev1.ConditionTrue || condition.Reason != "EvictionByEvictionAPI" {
		t.Errorf("evicted pod: %+v", evicted)
	}
	got := get[*policyv1.PodDisruptionBudget](t, m, at("poddisruptionbudgets", "default", "web"))
	if got.Status.DisruptionsAllowed != 0 || len(got.Status.DisruptedPods) != 1 || got.Status.DisruptedPods["a"].Time.IsZero() {
		t.Errorf("budget: %+v", got.Status)
	}
	if c := meta.FindStatusCondition(got.Status.Conditions, policyv1.DisruptionAllowedCondition); c == nil || c.Status != metav1.ConditionFalse || c.Reason != policyv1.InsufficientPodsReason {
		t.Errorf("conditions: %+v", got.Status.Conditions)
	}
	err := evict(t, m, "b")
	if !apierrors.IsTooManyRequests(err) || !apierrors.HasStatusCause(err, policyv1.DisruptionBudgetCause) || err.Error() != "Cannot evict pod as it would violate the pod's disruption budget." {
		t.Errorf("over budget: %v", err)
	}
	cause, _ := apierrors.StatusCause(err, policyv1.DisruptionBudgetCause)
	if _, wait := apierrors.SuggestsClientDelay(err); wait || cause.Message != "The disruption budget web needs 1 healthy pods and has 2 currently" {
		t.Errorf("over budget: %+v", err)
	}
	if isEvicted(t, m, "b") {
		t.Error("evicted all the same")
	}
	// A second eviction of a pod on its way takes nothing.
	if err := evict(t, m, "a"); err != nil {
		t.Errorf("evicting again: %v", err)
	}
	if err := evict(t, m, "absent"); !apierrors.IsNotFound(err) {
		t.Errorf("absent: %v", err)
	}
}

func TestEvictionRules(t *testing.T) {
	full := policyv1.PodDisruptionBudgetStatus{CurrentHealthy: 1, DesiredHealthy: 1, ExpectedPods: 2}
	short := policyv1.PodDisruptionBudgetStatus{CurrentHealthy: 0, DesiredHealthy: 1, ExpectedPods: 2}
	wrong := types.UID("x")
	for _, c := range []struct {
		name   string
		ready  bool
		phase  corev1.PodPhase
		status policyv1.PodDisruptionBudgetStatus
		change func(*policyv1.PodDisruptionBudget)
		opts   metav1.DeleteOptions
		// text is what the error says; empty for none.
		text  string
		check func(error) bool
		gone  bool
		taken bool
	}{
		{name: "allowed", ready: true, status: policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: 2}, gone: true, taken: true},
		{name: "not allowed", ready: true, status: full, check: apierrors.IsTooManyRequests},
		{name: "unhealthy beside enough healthy ones", status: full, gone: true},
		{name: "unhealthy while too few are healthy", status: short, check: apierrors.IsTooManyRequests},
		{
			name: "unhealthy, always allowed", status: short, gone: true,
			change: func(b *policyv1.PodDisruptionBudget) { b.Spec.UnhealthyPodEvictionPolicy = new(policyv1.AlwaysAllow) },
		},
		{
			name: "unhealthy, if the budget is healthy", status: short, check: apierrors.IsTooManyRequests,
			change: func(b *policyv1.PodDisruptionBudget) {
				b.Spec.UnhealthyPodEvictionPolicy = new(policyv1.IfHealthyBudget)
			},
		},
		{
			name: "healthy, always allowed for others", ready: true, status: full, check: apierrors.IsTooManyRequests,
			change: func(b *policyv1.PodDisruptionBudget) { b.Spec.UnhealthyPodEvictionPolicy = new(policyv1.AlwaysAllow) },
		},
		{name: "pending", phase: corev1.PodPending, status: short, gone: true},
		{name: "failed", phase: corev1.PodFailed, status: short, gone: true},
		{name: "succeeded", phase: corev1.PodSucceeded, status: short, gone: true},
		{
			name: "budget for other pods", ready: true, status: full, gone: true,
			change: func(b *policyv1.PodDisruptionBudget) { b.Spec.Selector.MatchLabels = map[string]string{"app": "other"} },
		},
		{
			name: "budget for no pods", ready: true, status: full, gone: true,
			change: func(b *policyv1.PodDisruptionBudget) { b.Spec.Selector = nil },
		},
		{
			name: "budget for all pods", ready: true, status: full, check: apierrors.IsTooManyRequests,
			change: func(b *policyv1.PodDisruptionBudget) { b.Spec.Selector = &metav1.LabelSelector{} },
		},
		{
			name: "budget the controller has not seen", ready: true, check: apierrors.IsTooManyRequests, text: "Cannot evict pod",
			status: policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: 2, ObservedGeneration: -1},
		},
		{name: "dry run", ready: true, status: policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: 1}, opts: metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}},
		{name: "dry run over budget", ready: true, status: full, opts: metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}, check: apierrors.IsTooManyRequests},
		{name: "another pod of that name", ready: true, status: policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: 1}, opts: metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &wrong}}, check: apierrors.IsConflict},
		{name: "odd options", ready: true, status: full, opts: metav1.DeleteOptions{DryRun: []string{"Some"}}, check: apierrors.IsInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := leader(t)
			runningPod(t, m, "a", c.ready)
			if c.phase != "" {
				p := get[*corev1.Pod](t, m, at("pods", "default", "a"))
				p.Status.Phase = c.phase
				must[*corev1.Pod](t)(m.Update(t.Context(), admin, at("pods", "default", "a", "status"), p, none))
			}
			if c.change == nil {
				c.change = func(*policyv1.PodDisruptionBudget) {}
			}
			budget(t, m, "web", c.status, c.change)
			err := evict(t, m, "a", c.opts)
			if c.check == nil && err != nil || c.check != nil && !c.check(err) || err != nil && !strings.Contains(err.Error(), c.text) {
				t.Errorf("answer: %v", err)
			}
			if got := isEvicted(t, m, "a"); got != c.gone {
				t.Errorf("evicted %v, want %v", got, c.gone)
			}
			got := get[*policyv1.PodDisruptionBudget](t, m, at("poddisruptionbudgets", "default", "web"))
			if taken := got.Status.DisruptionsAllowed != c.status.DisruptionsAllowed || len(got.Status.DisruptedPods) > 0; taken != c.taken {
				t.Errorf("taken %v, want %v: %+v", taken, c.taken, got.Status)
			}
		})
	}
}

func TestEvictionUnderSeveralBudgets(t *testing.T) {
	m := leader(t)
	runningPod(t, m, "a", true)
	allowed := policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: 1}
	budget(t, m, "one", allowed)
	budget(t, m, "two", allowed)
	err := evict(t, m, "a")
	if !apierrors.IsInternalError(err) || err.Error() != "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support." {
		t.Errorf("two budgets: %v", err)
	}
	if isEvicted(t, m, "a") {
		t.Error("evicted all the same")
	}
}

// The controller of a budget with an unseen spec will answer soon; the client is told to wait.
func TestEvictionSuggestsDelay(t *testing.T) {
	m := leader(t)
	runningPod(t, m, "a", true)
	budget(t, m, "web", policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: 1, ObservedGeneration: -1})
	err := evict(t, m, "a")
	if seconds, ok := apierrors.SuggestsClientDelay(err); !ok || seconds != 10 {
		t.Errorf("%v: wait %d s", err, seconds)
	}
}

// Of many evictions at once as many succeed as the budget allows.
func TestConcurrentEvictions(t *testing.T) {
	m := leader(t)
	const pods, allowed = 24, 7
	for i := range pods {
		runningPod(t, m, fmt.Sprintf("p%d", i), true)
	}
	budget(t, m, "web", policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: allowed, CurrentHealthy: pods, DesiredHealthy: pods - allowed, ExpectedPods: pods})
	var wait sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for i := range pods {
		wait.Go(func() {
			err := evict(t, m, fmt.Sprintf("p%d", i))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				won++
			case !apierrors.IsTooManyRequests(err):
				t.Error(err)
			}
		})
	}
	wait.Wait()
	gone := 0
	for i := range pods {
		if isEvicted(t, m, fmt.Sprintf("p%d", i)) {
			gone++
		}
	}
	got := get[*policyv1.PodDisruptionBudget](t, m, at("poddisruptionbudgets", "default", "web"))
	if won != allowed || gone != allowed || got.Status.DisruptionsAllowed != 0 || len(got.Status.DisruptedPods) != allowed {
		t.Errorf("%d succeeded, %d gone, budget %+v", won, gone, got.Status)
	}
}

func TestEvictionsInTransactions(t *testing.T) {
	m := leader(t)
	runningPod(t, m, "a", true)
	op := func(name string) registry.Operation {
		return registry.Operation{
			Verb: registry.VerbCreate, Ref: at("pods", "default", name, "eviction"),
			Object: object.Object(&policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: name}}),
		}
	}
	budget(t, m, "web", policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: 1})
	if _, err := m.Transact(t.Context(), admin, []registry.Operation{op("a")}, false); !apierrors.IsBadRequest(err) || isEvicted(t, m, "a") {
		t.Errorf("under a budget: %v", err)
	}
	if _, _, err := m.Delete(t.Context(), admin, at("poddisruptionbudgets", "default", "web"), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Transact(t.Context(), admin, []registry.Operation{op("a")}, false); err != nil || !isEvicted(t, m, "a") {
		t.Errorf("without one: %v", err)
	}
}

// interposed is a store before whose next commit something else happens.
type interposed struct {
	*store.Store
	before func()
}

func (s *interposed) Commit(ctx context.Context, group store.Group) ([]store.Result, error) {
	if before := s.before; before != nil {
		s.before = nil
		before()
	}
	return s.Store.Commit(ctx, group)
}

// Observe does nothing: the store runs already, and evictions need no service addresses.
func (*interposed) Observe(store.Observer) {}

// An eviction counts against the budgets that there are when it is performed.
func TestEvictionWhileBudgetsChange(t *testing.T) {
	m := leader(t)
	between := &interposed{Store: m.store}
	engine, err := registry.New(registry.Config{Store: between, Network: configv1.DefaultNetwork(), Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	racing := &master{Engine: engine, store: m.store}
	for _, name := range []string{"a", "b", "c"} {
		runningPod(t, m, name, true)
	}
	between.before = func() { budget(t, m, "web", policyv1.PodDisruptionBudgetStatus{CurrentHealthy: 3, DesiredHealthy: 3}) }
	if err := evict(t, racing, "a"); !apierrors.IsTooManyRequests(err) || isEvicted(t, m, "a") {
		t.Errorf("a new budget: %v", err)
	}
	between.before = func() {
		if _, _, err := m.Delete(t.Context(), admin, at("poddisruptionbudgets", "default", "web"), metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	}
	if err := evict(t, racing, "a"); err != nil || !isEvicted(t, m, "a") {
		t.Errorf("a budget that goes: %v", err)
	}
	budget(t, m, "web", policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: 1, CurrentHealthy: 2, DesiredHealthy: 1})
	between.before = func() {
		p := get[*corev1.Pod](t, m, at("pods", "default", "b"))
		p.Labels = map[string]string{"app": "other"}
		must[*corev1.Pod](t)(m.Update(t.Context(), admin, at("pods", "default", "b"), p, none))
	}
	if err := evict(t, racing, "b"); err != nil || !isEvicted(t, m, "b") {
		t.Errorf("a pod that leaves the budget: %v", err)
	}
	if got := get[*policyv1.PodDisruptionBudget](t, m, at("poddisruptionbudgets", "default", "web")); got.Status.DisruptionsAllowed != 1 {
		t.Errorf("taken for a pod that the budget does not cover: %+v", got.Status)
	}
	between.before = func() {
		if err := evict(t, m, "c"); err != nil {
			t.Error(err)
		}
	}
	if err := evict(t, racing, "c"); err != nil {
		t.Errorf("evicted by somebody else meanwhile: %v", err)
	}
	if got := get[*policyv1.PodDisruptionBudget](t, m, at("poddisruptionbudgets", "default", "web")); got.Status.DisruptionsAllowed != 0 || len(got.Status.DisruptedPods) != 1 {
		t.Errorf("taken twice: %+v", got.Status)
	}
}
