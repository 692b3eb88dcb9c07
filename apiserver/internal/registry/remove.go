package registry

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
)

// protectedNamespaces cannot be deleted: the cluster does not work without them.
func protectedNamespace(name string) bool {
	switch name {
	case corev1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease:
		return true
	}
	return false
}

// planDelete removes an object, or marks it when something must happen first.
func (e *Engine) planDelete(kind *Kind, ref Ref, opts metav1.DeleteOptions, d *decisions) (*plan, error) {
	if errs := metavalidation.ValidateDeleteOptions(&opts); len(errs) > 0 {
		return nil, apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "DeleteOptions"}, "", errs)
	}
	if ref.Resource.Group == "" && kind.GVR.Resource == "namespaces" && protectedNamespace(ref.Name) {
		return nil, forbidden(kind, ref.Name, "this namespace may not be deleted")
	}
	p := &plan{kind: kind, key: keyOf(kind, ref.Namespace, ref.Name), removal: true}
	p.compute = func(current *store.Record) (outcome, error) {
		if current == nil {
			if damage := e.store.SetAside(p.key); damage != nil {
				return p.removeDamaged(opts, damage)
			}
			return outcome{}, notFound(kind, ref.Name)
		}
		if err := deletePrecondition(kind, current, opts.Preconditions); err != nil {
			return outcome{}, err
		}
		obj, err := decode(kind, current)
		if err != nil {
			return p.removeDamaged(opts, err)
		}
		if err := d.removal(kind, current, obj); err != nil {
			return outcome{}, err
		}
		return e.remove(kind, current, obj, opts)
	}
	return p, nil
}

// removeDamaged removes an object that cannot be read. Nobody can wait for its finalizers, or
// compare it with preconditions.
func (p *plan) removeDamaged(opts metav1.DeleteOptions, damage error) (outcome, error) {
	if opts.Preconditions != nil {
		return outcome{}, conflict(p.kind, p.key.Name, "the object cannot be read (%w): delete it without preconditions", damage)
	}
	return outcome{change: store.Change{Delete: true}, obj: p.placeholder()}, nil
}

func forbidden(kind *Kind, name, message string) error {
	return apierrors.NewForbidden(kind.GVR.GroupResource(), name, errorText(message))
}

type errorText string

func (e errorText) Error() string { return string(e) }

func deletePrecondition(kind *Kind, current *store.Record, want *metav1.Preconditions) error {
	if want == nil {
		return nil
	}
	if want.UID != nil && *want.UID != current.Index.UID {
		return conflict(kind, current.Key.Name, "the UID in the precondition (%s) does not match the UID in record (%s). The object might have been deleted and then recreated", *want.UID, current.Index.UID)
	}
	if version := object.FormatVersion(current.Version); want.ResourceVersion != nil && *want.ResourceVersion != version {
		return conflict(kind, current.Key.Name, "the ResourceVersion in the precondition (%s) does not match the ResourceVersion in record (%s). The object might have been modified", *want.ResourceVersion, version)
	}
	return nil
}

// remove decides what a deletion does to obj: nothing yet but a mark, or its removal.
func (e *Engine) remove(kind *Kind, current *store.Record, obj object.Object, opts metav1.DeleteOptions) (outcome, error) {
	propagate(kind, obj, opts)
	grace := int64(0)
	if kind.GracePeriod != nil {
		grace = kind.GracePeriod(obj, opts.GracePeriodSeconds)
	}
	switch already := obj.GetDeletionTimestamp(); {
	case already == nil:
		at := metav1.Time{Time: e.now().Add(time.Duration(grace) * time.Second)}
		obj.SetDeletionTimestamp(&at)
		obj.SetDeletionGracePeriodSeconds(&grace)
		if obj.GetGeneration() > 0 {
			obj.SetGeneration(obj.GetGeneration() + 1)
		}
		if namespace, ok := obj.(*corev1.Namespace); ok {
			namespace.Status.Phase = corev1.NamespaceTerminating
		}
		if kind.PrepareForDelete != nil {
			kind.PrepareForDelete(obj)
		}
	case kind.GracePeriod != nil && obj.GetDeletionGracePeriodSeconds() != nil:
		// A deletion under way can only be made quicker.
		before := *obj.GetDeletionGracePeriodSeconds()
		if opts.GracePeriodSeconds == nil && grace != 0 || grace >= before {
			break
		}
		at := metav1.Time{Time: already.Add(time.Duration(grace-before) * time.Second)}
		obj.SetDeletionTimestamp(&at)
		obj.SetDeletionGracePeriodSeconds(&grace)
	}
	return e.replace(kind, current, obj, edit{kind: kind, subresource: "delete"})
}

// propagate sets the finalizers that make the garbage collector treat dependents as wished.
func propagate(kind *Kind, obj object.Object, opts metav1.DeleteOptions) {
	orphan, foreground := false, false
	policy := kind.DefaultPropagation
	if opts.PropagationPolicy != nil {
		policy = *opts.PropagationPolicy
	}
	//nolint:staticcheck // old clients still send it
	if opts.OrphanDependents != nil && *opts.OrphanDependents {
		policy = metav1.DeletePropagationOrphan
	}
	switch policy {
	case metav1.DeletePropagationOrphan:
		orphan = true
	case metav1.DeletePropagationForeground:
		foreground = true
	case metav1.DeletePropagationBackground:
	case "":
		return // nothing asked for: finalizers set by hand stand
	}
	finalizers := slices.DeleteFunc(slices.Clone(obj.GetFinalizers()), func(f string) bool {
		return f == metav1.FinalizerOrphanDependents || f == metav1.FinalizerDeleteDependents
	})
	if orphan {
		finalizers = append(finalizers, metav1.FinalizerOrphanDependents)
	}
	if foreground {
		finalizers = append(finalizers, metav1.FinalizerDeleteDependents)
	}
	if len(finalizers) == 0 {
		finalizers = nil
	}
	obj.SetFinalizers(finalizers)
}

// deletePage is how many objects of a collection go in one group.
const deletePage = 500

// DeleteCollection deletes every object the selectors match, each by itself.
func (e *Engine) DeleteCollection(ctx context.Context, caller Caller, ref Ref, opts metav1.DeleteOptions, list ListOptions) (int64, error) {
	kind, err := e.resolve(ref, false)
	if err != nil {
		return 0, err
	}
	if !kind.HasVerb("deletecollection") {
		return 0, notAllowed(kind, "deletecollection")
	}
	var count int64
	local := func(ctx context.Context, caller Caller) error {
		found, err := e.List(ctx, ref, list)
		if err != nil {
			return err
		}
		for page := range slices.Chunk(found.Records, deletePage) {
			plans := make([]*plan, 0, len(page))
			for _, record := range page {
				at := Ref{Resource: kind.GVR, Namespace: record.Key.Namespace, Name: record.Key.Name}
				d := e.decisionsOn(ctx, caller, Operation{Verb: VerbDelete, Ref: at, Delete: opts})
				p, err := e.planDelete(kind, at, opts, d)
				if err != nil {
					return err
				}
				p.decisions = d
				plans = append(plans, p)
			}
			n, err := e.deletePlans(ctx, caller, plans, len(opts.DryRun) > 0)
			count += n
			if err != nil {
				return err
			}
		}
		return nil
	}
	remote := func(ctx context.Context, caller Caller) error {
		var err error
		count, err = e.cfg.Forwarder.DeleteCollection(ctx, caller, ref, opts, list)
		return err
	}
	err = e.write(ctx, caller, local, remote)
	return count, err
}

func (e *Engine) deletePlans(ctx context.Context, caller Caller, plans []*plan, dry bool) (int64, error) {
	if dry {
		for _, p := range plans {
			if _, err := e.rehearse(ctx, p); err != nil && !apierrors.IsNotFound(err) {
				return 0, err
			}
		}
		return int64(len(plans)), nil
	}
	if err := e.prepareAll(ctx, plans, func(int) Verb { return VerbDelete }); err != nil {
		return 0, err
	}
	caller.RequestID = "" // repeating a deletion is harmless, and one id names one group
	results, err := e.commit(ctx, caller, plans, false)
	if apierrors.IsNotFound(err) {
		return 0, nil // a page of one
	}
	if err != nil {
		return 0, err
	}
	var count int64
	for _, r := range results {
		if r.Err != nil && !apierrors.IsNotFound(r.Err) {
			return count, r.Err
		}
		if r.Err == nil {
			count++
		}
	}
	return count, nil
}
