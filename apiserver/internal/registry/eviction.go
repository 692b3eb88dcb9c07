package registry

import (
	"fmt"
	"net/http"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
)

const (
	// maxDisruptedPods is how many evictions may wait for the disruption controller to notice them.
	maxDisruptedPods = 2000
	// budgetDelay is when to ask again, in seconds, while a budget's controller has yet to see its spec.
	budgetDelay = 10
)

// planEviction deletes a pod on behalf of a drain, if the disruption budget that covers it
// allows that. Pod and budget are written in one group, so of evictions that compete for
// the last allowed disruption one wins.
func (e *Engine) planEviction(kind *Kind, op Operation, d *decisions) (*plan, error) {
	eviction, ok := op.Object.(*policyv1.Eviction)
	if !ok {
		return nil, checkType(kind, policyv1.SchemeGroupVersion.WithKind("Eviction"), op.Object)
	}
	if err := place(kind, op.Ref, eviction); err != nil {
		return nil, err
	}
	eviction = eviction.DeepCopy()
	if err := d.decide(body(d.request(admissionv1.Create, kind, "eviction", eviction, nil), policyv1.SchemeGroupVersion.WithKind("Eviction"))); err != nil {
		return nil, err
	}
	var opts metav1.DeleteOptions
	if eviction.DeleteOptions != nil {
		opts = *eviction.DeleteOptions
	}
	if errs := metavalidation.ValidateDeleteOptions(&opts); len(errs) > 0 {
		return nil, apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "DeleteOptions"}, "", errs)
	}
	p := &plan{kind: kind, key: keyOf(kind, op.Ref.Namespace, op.Ref.Name), removal: true}
	// Which budget is written as well must be known before the batch is formed.
	var planned store.Key
	if current, ok := e.store.Get(p.key); ok {
		pod, err := decode(kind, current)
		if err != nil {
			return nil, err
		}
		if planned, err = e.budgetOf(pod.(*corev1.Pod)); err == nil && planned != (store.Key{}) {
			p.with = []*plan{e.planDisruption(planned, op)}
		}
	}
	p.compute = func(current *store.Record) (outcome, error) {
		if current == nil {
			return outcome{}, notFound(kind, op.Ref.Name)
		}
		if err := deletePrecondition(kind, current, opts.Preconditions); err != nil {
			return outcome{}, err
		}
		obj, err := decode(kind, current)
		if err != nil {
			return outcome{}, err
		}
		pod := obj.(*corev1.Pod)
		budget, err := e.budgetOf(pod)
		if err != nil {
			return outcome{}, err
		}
		if budget != planned {
			return outcome{}, errReplan
		}
		e.markEvicted(pod)
		out, err := e.remove(kind, current, pod, opts)
		out.body = eviction
		return out, err
	}
	return p, nil
}

// markEvicted notes why a pod ends, for the controllers that count its failures.
func (e *Engine) markEvicted(pod *corev1.Pod) {
	if pod.DeletionTimestamp != nil || ended(pod) {
		return
	}
	evicted := corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: e.now(),
		Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting",
	}
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == evicted.Type {
			pod.Status.Conditions[i] = evicted
			return
		}
	}
	pod.Status.Conditions = append(pod.Status.Conditions, evicted)
}

func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

func (e *Engine) budgets() (*Kind, bool) {
	kind, ok := e.defined.table.Load().preferred[schema.GroupResource{Group: policyv1.GroupName, Resource: "poddisruptionbudgets"}]
	return kind, ok
}

// budgetOf returns the key of the budget from which an eviction of the pod takes; the zero
// key when it takes from none. Pods that do not run, or do not count as healthy while
// enough others do, are free.
func (e *Engine) budgetOf(pod *corev1.Pod) (store.Key, error) {
	kind, ok := e.budgets()
	if !ok || ended(pod) || pod.Status.Phase == corev1.PodPending || pod.DeletionTimestamp != nil {
		return store.Key{}, nil
	}
	var found *policyv1.PodDisruptionBudget
	for _, record := range e.store.Snapshot(keyOf(kind, "", "").Resource, pod.Namespace).Records {
		obj, err := decode(kind, record)
		if err != nil {
			return store.Key{}, err
		}
		budget := obj.(*policyv1.PodDisruptionBudget)
		selector, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector)
		if err != nil || !selector.Matches(labels.Set(pod.Labels)) {
			continue
		}
		if found != nil {
			return store.Key{}, &apierrors.StatusError{ErrStatus: metav1.Status{
				Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Reason: metav1.StatusReasonInternalError,
				Message: "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
			}}
		}
		found = budget
	}
	if found == nil || !podReady(pod) && spares(found) {
		return store.Key{}, nil
	}
	return keyOf(kind, found.Namespace, found.Name), nil
}

func podReady(pod *corev1.Pod) bool {
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// spares tells whether a budget lets pods go that are not healthy.
func spares(budget *policyv1.PodDisruptionBudget) bool {
	if policy := budget.Spec.UnhealthyPodEvictionPolicy; policy != nil && *policy == policyv1.AlwaysAllow {
		return true
	}
	return budget.Status.DesiredHealthy > 0 && budget.Status.CurrentHealthy >= budget.Status.DesiredHealthy
}

// planDisruption takes one allowed disruption from a budget.
func (e *Engine) planDisruption(key store.Key, op Operation) *plan {
	kind, _ := e.budgets()
	how := edit{kind: kind, subresource: "status", by: writer{manager: serverManager}, dry: dryRun(op)}
	return &plan{kind: kind, key: key, compute: func(current *store.Record) (outcome, error) {
		if current == nil {
			return outcome{}, errReplan // the pod may be free now
		}
		old, err := decode(kind, current)
		if err != nil {
			return outcome{}, err
		}
		budget := old.DeepCopyObject().(*policyv1.PodDisruptionBudget)
		if err := e.disrupt(kind, budget, op.Ref.Name); err != nil {
			return outcome{}, err
		}
		return e.change(how, current, old, object.Object(budget))
	}}
}

// disrupt notes in a budget's status that a pod is about to go, or says why it may not.
func (e *Engine) disrupt(kind *Kind, budget *policyv1.PodDisruptionBudget, pod string) error {
	status := &budget.Status
	switch {
	case status.ObservedGeneration < budget.Generation:
		return overBudget(budgetDelay, fmt.Sprintf("The disruption budget %s is still being processed by the server.", budget.Name))
	case status.DisruptionsAllowed < 0:
		return forbidden(kind, budget.Name, "pdb disruptions allowed is negative")
	case len(status.DisruptedPods) > maxDisruptedPods:
		return forbidden(kind, budget.Name, "DisruptedPods map too big - too many evictions not confirmed by PDB controller")
	case status.DisruptionsAllowed == 0:
		return overBudget(0, fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", budget.Name, status.DesiredHealthy, status.CurrentHealthy))
	}
	status.DisruptionsAllowed--
	if status.DisruptionsAllowed == 0 {
		meta.SetStatusCondition(&status.Conditions, metav1.Condition{
			Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.InsufficientPodsReason,
			ObservedGeneration: status.ObservedGeneration, LastTransitionTime: e.now(),
		})
	}
	if status.DisruptedPods == nil {
		status.DisruptedPods = map[string]metav1.Time{}
	}
	// The disruption controller does not count the pod from now on, and forgets the entry
	// when it has seen the pod go or has waited in vain.
	status.DisruptedPods[pod] = e.now()
	return nil
}

// overBudget refuses an eviction; seconds is when to ask again, 0 when nobody knows.
func overBudget(seconds int, why string) error {
	err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", seconds)
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: policyv1.DisruptionBudgetCause, Message: why}}
	return err
}
