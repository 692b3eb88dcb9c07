package registry

import (
	"maps"

	admissionv1 "k8s.io/api/admission/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
)

// scaleOf shows an object as its Scale.
func scaleOf(kind *Kind, obj object.Object) *autoscalingv1.Scale {
	want, have, selector := kind.Scale.Get(obj)
	scale := &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{
			Name: obj.GetName(), Namespace: obj.GetNamespace(), UID: obj.GetUID(),
			ResourceVersion: obj.GetResourceVersion(), CreationTimestamp: obj.GetCreationTimestamp(),
		},
		Spec:   autoscalingv1.ScaleSpec{Replicas: want},
		Status: autoscalingv1.ScaleStatus{Replicas: have, Selector: selector},
	}
	scale.SetGroupVersionKind(autoscalingv1.SchemeGroupVersion.WithKind("Scale"))
	return scale
}

// scaleRecord is the record of an object's Scale.
func scaleRecord(kind *Kind, record *store.Record) (*store.Record, error) {
	if kind.Scale == nil {
		return nil, notFound(kind, record.Key.Name+"/scale")
	}
	obj, err := decode(kind, record)
	if err != nil {
		return nil, err
	}
	value, err := scaleOf(kind, obj).Marshal()
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return &store.Record{Key: record.Key, Version: record.Version, Value: value, Index: record.Index}, nil
}

// planScale sets the wanted replicas.
func (e *Engine) planScale(caller Caller, kind *Kind, op Operation, d *decisions) (*plan, error) {
	given, ok := op.Object.(*autoscalingv1.Scale)
	if !ok || kind.Scale == nil {
		return nil, checkType(kind, autoscalingv1.SchemeGroupVersion.WithKind("Scale"), op.Object)
	}
	if err := place(kind, op.Ref, given); err != nil {
		return nil, err
	}
	p := &plan{kind: kind, key: keyOf(kind, op.Ref.Namespace, op.Ref.Name)}
	how := edit{kind: kind, caller: caller, subresource: "scale", by: writerOf(caller, op.Options), dry: dryRun(op), decisions: d}
	p.compute = func(current *store.Record) (outcome, error) {
		if current == nil {
			return outcome{}, notFound(kind, op.Ref.Name)
		}
		old, err := decode(kind, current)
		if err != nil {
			return outcome{}, err
		}
		return e.scale(how, current, old, given.DeepCopy())
	}
	return p, nil
}

func (e *Engine) patchScale(how edit, current *store.Record, old object.Object, patch *patch, opts WriteOptions) (outcome, error) {
	if how.kind.Scale == nil {
		return outcome{}, notAllowed(how.kind, "patch")
	}
	before, after := scaleOf(how.kind, old), &autoscalingv1.Scale{}
	if err := patch.apply(before, after, opts); err != nil {
		return outcome{}, err
	}
	if err := samePlace(before, after); err != nil {
		return outcome{}, err
	}
	return e.scale(how, current, old, after)
}

func (e *Engine) scale(how edit, current *store.Record, old object.Object, given *autoscalingv1.Scale) (outcome, error) {
	if err := precondition(how.kind, current, given); err != nil {
		return outcome{}, err
	}
	if err := how.decisions.rescaling(how.kind, given, scaleOf(how.kind, old)); err != nil {
		return outcome{}, err
	}
	how.decisions = nil
	if given.Spec.Replicas < 0 {
		return outcome{}, apierrors.NewInvalid(autoscalingv1.SchemeGroupVersion.WithKind("Scale").GroupKind(), given.Name, field.ErrorList{
			field.Invalid(field.NewPath("spec", "replicas"), given.Spec.Replicas, "must be greater than or equal to 0"),
		})
	}
	obj := old.DeepCopyObject().(object.Object)
	how.kind.Scale.Set(obj, given.Spec.Replicas)
	how.subresource, how.through = "", "scale"
	out, err := e.change(how, current, old, obj)
	if err != nil {
		return outcome{}, err
	}
	out.body = scaleOf(how.kind, out.obj)
	return out, nil
}

// planBinding puts a pod on a node, once.
func (e *Engine) planBinding(kind *Kind, op Operation, d *decisions) (*plan, error) {
	binding, ok := op.Object.(*corev1.Binding)
	if !ok {
		return nil, checkType(kind, corev1.SchemeGroupVersion.WithKind("Binding"), op.Object)
	}
	if err := place(kind, op.Ref, binding); err != nil {
		return nil, err
	}
	binding = binding.DeepCopy()
	if err := d.decide(body(d.request(admissionv1.Create, kind, "binding", binding, nil), corev1.SchemeGroupVersion.WithKind("Binding"))); err != nil {
		return nil, err
	}
	var errs field.ErrorList
	if target := binding.Target.Kind; target != "" && target != "Node" {
		errs = append(errs, field.NotSupported(field.NewPath("target", "kind"), target, []string{"Node", "<empty>"}))
	}
	if binding.Target.Name == "" {
		errs = append(errs, field.Required(field.NewPath("target", "name"), ""))
	}
	if len(errs) > 0 {
		return nil, apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Binding").GroupKind(), binding.Name, errs)
	}
	p := &plan{kind: kind, key: keyOf(kind, op.Ref.Namespace, op.Ref.Name)}
	p.compute = func(current *store.Record) (outcome, error) {
		if current == nil {
			return outcome{}, notFound(kind, op.Ref.Name)
		}
		if err := precondition(kind, current, binding); err != nil {
			return outcome{}, err
		}
		obj, err := decode(kind, current)
		if err != nil {
			return outcome{}, err
		}
		pod := obj.(*corev1.Pod)
		if err := e.bind(kind, pod, binding); err != nil {
			return outcome{}, err
		}
		change, err := encode(kind, pod)
		return outcome{change: change, obj: pod, body: binding}, err
	}
	return p, nil
}

func (e *Engine) bind(kind *Kind, pod *corev1.Pod, binding *corev1.Binding) error {
	switch {
	case pod.DeletionTimestamp != nil:
		return conflict(kind, pod.Name, "pod %s is being deleted, cannot be assigned to a host", pod.Name)
	case pod.Spec.NodeName != "":
		return conflict(kind, pod.Name, "pod %v is already assigned to node %q", pod.Name, pod.Spec.NodeName)
	case len(pod.Spec.SchedulingGates) > 0:
		return conflict(kind, pod.Name, "pod %v has non-empty .spec.schedulingGates", pod.Name)
	}
	pod.Spec.NodeName = binding.Target.Name
	pod.Generation++
	pod.Labels = merged(pod.Labels, binding.Labels)
	pod.Annotations = merged(pod.Annotations, binding.Annotations)
	scheduled := corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: e.now()}
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == corev1.PodScheduled {
			pod.Status.Conditions[i] = scheduled
			return nil
		}
	}
	pod.Status.Conditions = append(pod.Status.Conditions, scheduled)
	return nil
}

func merged(base, more map[string]string) map[string]string {
	if len(more) == 0 {
		return base
	}
	out := maps.Clone(base)
	if out == nil {
		out = make(map[string]string, len(more))
	}
	maps.Copy(out, more)
	return out
}
