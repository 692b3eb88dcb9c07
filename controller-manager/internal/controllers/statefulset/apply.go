package statefulset

import (
	"context"
	"encoding/json"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/controller-manager/internal/history"
	"kijabi.dev/controller-manager/internal/podset"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
)

// apply writes a plan. Failures of single pods do not keep the status from being written.
func (c *Controller) apply(ctx context.Context, w client.Writer, set *appsv1.StatefulSet, past *history.History, p plan) error {
	if err := past.Save(ctx, w, set); err != nil {
		return err
	}
	failure := c.writePods(ctx, w, set, p)
	if failure == nil && set.DeletionTimestamp == nil {
		used := map[string]bool{p.status.CurrentRevision: true}
		for _, pod := range p.claim.Own {
			used[revisionOf(pod)] = true
		}
		failure = history.Remove(ctx, w, past.Expired(set.Spec.RevisionHistoryLimit, func(r *appsv1.ControllerRevision) bool { return used[r.Name] }))
	}
	if !equality.Semantic.DeepEqual(p.status, set.Status) {
		updated := set.DeepCopy()
		updated.Status = p.status
		if _, err := w.UpdateStatus(ctx, updated); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("status of statefulset %s: %w", object.KeyOf(set), err)
		}
	}
	return failure
}

func (c *Controller) writePods(ctx context.Context, w client.Writer, set *appsv1.StatefulSet, p plan) error {
	// Until a claim belongs to its pod, the pod must not go.
	changes := make([]client.Op, 0, len(p.owners))
	for _, change := range p.owners {
		op, err := change.op()
		if err != nil {
			return err
		}
		changes = append(changes, op)
	}
	results, err := w.Transact(ctx, changes, true)
	if err != nil {
		return fmt.Errorf("owners of claims: %w", err)
	}
	for i, result := range results {
		if result.Err != nil && !apierrors.IsNotFound(result.Err) {
			return fmt.Errorf("owners of claim %s: %w", object.KeyOf(p.owners[i].claim), result.Err)
		}
	}

	writes, err := p.claim.Writes(set)
	if err != nil {
		return err
	}
	for _, pod := range p.label {
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID, "labels": pod.Labels}})
		if err != nil {
			return err
		}
		writes = append(writes, podset.Patch(pod, types.MergePatchType, patch))
	}
	for pod, why := range p.blocked {
		c.cfg.Event(set, corev1.EventTypeWarning, "FailedCreate", fmt.Sprintf("create Pod %s in StatefulSet %s failed error: %s", pod, set.Name, why))
	}
	failed, failure := c.createClaims(ctx, w, set, append(p.lack, p.create...))
	if failed == nil {
		return failure
	}
	for _, made := range p.create {
		if err := failed[made.pod.Name]; err != nil { // without its claims it would never start
			c.cfg.Event(set, corev1.EventTypeWarning, "FailedCreate", fmt.Sprintf("create Pod %s in StatefulSet %s failed error: %v", made.pod.Name, set.Name, err))
			continue
		}
		writes = append(writes, said(podset.Create(made.pod), "Create", "create", made.pod.Name, set.Name))
	}
	for _, pod := range p.remove {
		writes = append(writes, said(podset.Delete(pod), "Delete", "delete", pod.Name, set.Name))
	}
	if err := c.writes.Do(ctx, w, set, writes); err != nil {
		return err
	}
	return failure
}

// said tells of a write as users of StatefulSets know it.
func said(write podset.Write, reason, verb, pod, set string) podset.Write {
	message := fmt.Sprintf("%s Pod %s in StatefulSet %s", verb, pod, set)
	return write.Telling("Successful"+reason, message+" successful", "Failed"+reason, message+" failed error: ")
}

// claimsAtOnce bounds a transaction.
const claimsAtOnce = 200

// createClaims creates the claims that pods lack and returns the names of pods that still lack
// one. A claim that exists is no failure: it is an earlier attempt's, or was made by hand.
func (c *Controller) createClaims(ctx context.Context, w client.Writer, set *appsv1.StatefulSet, pods []creation) (map[string]error, error) {
	var ops []client.Op
	var claims, owners []string
	for _, lacking := range pods {
		for _, claim := range lacking.claims {
			ops = append(ops, client.CreateOp(claim))
			claims, owners = append(claims, claim.Name), append(owners, lacking.pod.Name)
		}
	}
	failed := map[string]error{}
	var failure error
	for from := 0; from < len(ops); from += claimsAtOnce {
		results, err := w.Transact(ctx, ops[from:min(from+claimsAtOnce, len(ops))], true)
		if err != nil {
			return nil, fmt.Errorf("claims: %w", err)
		}
		for i, result := range results {
			claim, pod := claims[from+i], owners[from+i]
			switch {
			case result.Err == nil:
				c.cfg.Event(set, corev1.EventTypeNormal, "SuccessfulCreate", fmt.Sprintf("create Claim %s Pod %s in StatefulSet %s success", claim, pod, set.Name))
			case !apierrors.IsAlreadyExists(result.Err):
				c.cfg.Event(set, corev1.EventTypeWarning, "FailedCreate", fmt.Sprintf("create Claim %s for Pod %s in StatefulSet %s failed error: %v", claim, pod, set.Name, result.Err))
				failure = fmt.Errorf("create claim %s: %w", claim, result.Err)
				failed[pod] = failure
			}
		}
	}
	return failed, failure
}
