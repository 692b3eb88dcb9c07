package registry

import (
	"fmt"
	"strings"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/apiserver/internal/admission"
	"kijabi.dev/apiserver/internal/admission/dynamic"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
)

// planUpdate replaces an object, or what a subresource shows of it.
func (e *Engine) planUpdate(caller Caller, kind *Kind, op Operation, d *decisions) (*plan, error) {
	given, ref := op.Object, op.Ref
	if err := checkType(kind, kind.GVK, given); err != nil {
		return nil, err
	}
	if err := place(kind, ref, given); err != nil {
		return nil, err
	}
	given.GetObjectKind().SetGroupVersionKind(kind.GVK)
	p := &plan{kind: kind, key: keyOf(kind, ref.Namespace, ref.Name)}
	edit := edit{kind: kind, caller: caller, subresource: ref.Subresource, by: writerOf(caller, op.Options), dry: dryRun(op), decisions: d}
	p.compute = func(current *store.Record) (outcome, error) {
		if current == nil {
			return outcome{}, notFound(kind, ref.Name)
		}
		old, err := decode(kind, current)
		if err != nil {
			return outcome{}, err
		}
		// Computing changes the object, and may be repeated against another record.
		return e.change(edit, current, old, given.DeepCopyObject().(object.Object))
	}
	return p, nil
}

const (
	// serverManager owns what the apiserver writes of its own accord.
	serverManager = "kijabi-apiserver"
	// maxManager is the length of a manager's name.
	maxManager = 128
)

// writerOf finds out whose fields a write sets: whose the client says, or its program's.
func writerOf(caller Caller, opts WriteOptions) writer {
	if opts.FieldManager != "" {
		return writer{manager: opts.FieldManager}
	}
	program, _, _ := strings.Cut(caller.UserAgent, "/")
	program = strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return -1
		}
		return c
	}, program)
	return writer{manager: program[:min(len(program), maxManager)]}
}

// writer is whose fields a write sets.
type writer struct {
	manager string
	// settled is true when the object's managedFields say so already: an apply has made them.
	settled bool
}

// own notes in obj's managedFields what by owns by making obj of old; nil: of nothing.
func (e *Engine) own(kind *Kind, subresource string, by writer, old, obj object.Object) error {
	if by.settled {
		return nil
	}
	tracker, err := e.owners.tracker(kind, subresource)
	if err != nil {
		return err
	}
	switch {
	case old == nil && mergeable(obj) != nil:
		obj.SetManagedFields(nil)
	case old == nil:
		tracker.Create(obj, by.manager, e.now())
	case mergeable(obj) != nil || mergeable(old) != nil: // the record of the last write stands
		obj.SetManagedFields(old.GetManagedFields())
	default:
		tracker.Update(old, obj, by.manager, e.now())
	}
	return nil
}

// edit is how an object is being changed.
type edit struct {
	kind        *Kind
	caller      Caller
	subresource string
	by          writer
	// through is the subresource that managedFields name where it is another one.
	through string
	dry     bool
	// decisions of webhooks and policies about it; nil: none.
	decisions *decisions
}

// change computes the write that makes obj of old. Both may be changed.
func (e *Engine) change(how edit, current *store.Record, old, obj object.Object) (outcome, error) {
	kind := how.kind
	if err := precondition(kind, current, obj); err != nil {
		return outcome{}, err
	}
	keepMeta(old, obj)
	if how.subresource != "" && !how.by.settled {
		obj.SetManagedFields(old.GetManagedFields())
	}
	owned := obj.GetManagedFields()
	if how.subresource == "" {
		if kind.Default != nil {
			kind.Default(obj)
		}
		if err := e.own(kind, how.through, how.by, old, obj); err != nil {
			return outcome{}, err
		}
	}
	// What webhooks change belongs to nobody.
	question := how.decisions.request(admissionv1.Update, kind, how.subresource, obj, old)
	if how.decisions != nil {
		if err := mutateChanged(how, question, current, obj); err != nil {
			return outcome{}, err
		}
	}
	var errs field.ErrorList
	switch how.subresource {
	case "":
		errs = prepareUpdate(kind, old, obj)
		errs = append(errs, dynamic.Check(obj, old)...)
		e.defined.settle(obj)
		if len(errs) == 0 {
			if err := e.resizable(kind, old, obj); err != nil {
				return outcome{}, err
			}
		}
		e.fill(obj)
	case "status":
		if kind.PrepareForStatusUpdate == nil {
			return outcome{}, notAllowed(kind, "update")
		}
		kind.PrepareForStatusUpdate(obj, old)
		e.defined.settle(obj)
		e.setTimes(kind, obj, old)
		errs = validation.ValidateObjectMetaAccessorUpdate(obj, old, field.NewPath("metadata"))
		if kind.ValidateStatusUpdate != nil {
			errs = append(errs, kind.ValidateStatusUpdate(obj, old)...)
		}
	case "approval":
		if kind.PrepareForApproval == nil {
			return outcome{}, notAllowed(kind, "update")
		}
		kind.PrepareForApproval(obj, old)
		e.setTimes(kind, obj, old)
		errs = validation.ValidateObjectMetaAccessorUpdate(obj, old, field.NewPath("metadata"))
		errs = append(errs, kind.ValidateApproval(obj, old)...)
	case "finalize":
		obj = finalized(old, obj)
	case "ephemeralcontainers":
		obj, errs = withEphemeralContainers(kind, old, obj)
	default:
		return outcome{}, notAllowed(kind, "update")
	}
	if len(errs) > 0 {
		return outcome{}, invalid(kind, obj.GetName(), errs)
	}
	request := admission.Request{
		User: how.caller.User, Groups: how.caller.Groups, Verb: admission.Update, Kind: kind, Subresource: how.subresource,
		Namespace: obj.GetNamespace(), Name: obj.GetName(), Object: obj, Old: old,
	}
	if e.rules != nil {
		if err := e.rules.Check(&request); err != nil {
			return outcome{}, err
		}
	}
	if err := how.decisions.validate(question, obj); err != nil {
		return outcome{}, err
	}
	if how.subresource != "" {
		obj.SetManagedFields(owned) // whatever became of the metadata
		if err := e.own(kind, how.subresource, how.by, old, obj); err != nil {
			return outcome{}, err
		}
	}
	if how.subresource == "" || how.by.settled {
		// Such a write may have turned out to change nothing.
		tracker, err := e.owners.tracker(kind, how.subresource)
		if err != nil {
			return outcome{}, err
		}
		tracker.KeepTimes(old, obj)
	}
	out, err := e.replace(kind, current, obj, how)
	out.warnings = request.Warnings
	if err == nil && !out.change.Delete && !out.change.Keep {
		out.charge = e.defined.claim(obj)
	}
	if err == nil && kind.Namespaced && !out.change.Delete && !out.change.Keep {
		out.charge = func(dry bool) error { return e.quotas.Charge(kind, current.Key.Namespace, old, obj, dry) }
	}
	return out, err
}

// mutateChanged lets webhooks and policies change what an object is about to become.
func mutateChanged(how edit, question *dynamic.Request, current *store.Record, obj object.Object) error {
	return how.decisions.mutate(question, current, func(bool) error {
		if how.kind.Default != nil {
			how.kind.Default(obj)
		}
		return nil
	})
}

// setTimes lets the kind set the times that the server keeps; old is nil on creation.
func (e *Engine) setTimes(kind *Kind, obj, old object.Object) {
	if kind.SetTimes != nil {
		kind.SetTimes(obj, old, e.now())
	}
}

// replace computes the write that stores obj, which removes it when nothing holds it any longer.
func (e *Engine) replace(kind *Kind, current *store.Record, obj object.Object, how edit) (outcome, error) {
	if gone(obj) {
		obj.SetResourceVersion("")
		return outcome{change: store.Change{Delete: true}, obj: obj}, nil
	}
	if service, ok := obj.(*corev1.Service); ok && how.subresource == "" && !how.dry && !how.decisions.isScouting() {
		if err := e.addresses.allocate(kind, current.Key, service); err != nil {
			return outcome{}, err
		}
	}
	change, err := encode(kind, obj)
	if err != nil {
		return outcome{}, err
	}
	if sameEncoding(current, change.Value) {
		change = store.Change{Keep: true}
	}
	return outcome{change: change, obj: obj}, nil
}

// precondition compares the object that the client has seen with the current one.
func precondition(kind *Kind, current *store.Record, obj object.Object) error {
	if uid := obj.GetUID(); uid != "" && uid != current.Index.UID {
		return conflict(kind, obj.GetName(), "Precondition failed: UID in precondition: %v, UID in object meta: %v", uid, current.Index.UID)
	}
	if version := obj.GetResourceVersion(); version != "" && version != object.FormatVersion(current.Version) {
		return conflict(kind, obj.GetName(), "%s", optimisticLock)
	}
	return nil
}

// keepMeta carries over what no client may change.
func keepMeta(old, obj object.Object) {
	obj.SetUID(old.GetUID())
	obj.SetResourceVersion(old.GetResourceVersion())
	obj.SetCreationTimestamp(old.GetCreationTimestamp())
	obj.SetDeletionTimestamp(old.GetDeletionTimestamp())
	obj.SetDeletionGracePeriodSeconds(old.GetDeletionGracePeriodSeconds())
	obj.SetGeneration(old.GetGeneration())
	obj.SetSelfLink("")
	if obj.GetManagedFields() == nil {
		obj.SetManagedFields(old.GetManagedFields())
	}
}

func prepareUpdate(kind *Kind, old, obj object.Object) field.ErrorList {
	if kind.PrepareForUpdate != nil {
		kind.PrepareForUpdate(obj, old)
	}
	if kind.SpecEqual != nil && !kind.SpecEqual(obj, old) {
		obj.SetGeneration(old.GetGeneration() + 1)
	}
	errs := validateMeta(kind, obj)
	errs = append(errs, validation.ValidateObjectMetaAccessorUpdate(obj, old, field.NewPath("metadata"))...)
	if old.GetDeletionTimestamp() != nil {
		errs = append(errs, validation.ValidateNoNewFinalizers(obj.GetFinalizers(), old.GetFinalizers(), field.NewPath("metadata", "finalizers"))...)
	}
	if kind.Validate != nil {
		errs = append(errs, kind.Validate(obj)...)
	}
	if kind.ValidateUpdate != nil {
		errs = append(errs, kind.ValidateUpdate(obj, old)...)
	}
	return unique(errs)
}

// unique drops errors reported by two checks, such as of metadata on an update.
func unique(errs field.ErrorList) field.ErrorList {
	if len(errs) < 2 {
		return errs
	}
	seen := map[string]bool{}
	kept := errs[:0]
	for _, err := range errs {
		if text := err.Error(); !seen[text] {
			seen[text] = true
			kept = append(kept, err)
		}
	}
	return kept
}

// gone tells whether an object that is being deleted waits for nothing any more.
func gone(obj object.Object) bool {
	if obj.GetDeletionTimestamp() == nil || len(obj.GetFinalizers()) > 0 {
		return false
	}
	if grace := obj.GetDeletionGracePeriodSeconds(); grace != nil && *grace > 0 {
		return false
	}
	if namespace, ok := obj.(*corev1.Namespace); ok && len(namespace.Spec.Finalizers) > 0 {
		return false
	}
	return true
}

// finalized takes over the namespace finalizers that the namespace controller leaves.
func finalized(old, obj object.Object) object.Object {
	namespace, given := old.DeepCopyObject().(*corev1.Namespace), obj.(*corev1.Namespace)
	namespace.Spec.Finalizers = given.Spec.Finalizers
	return namespace
}

// withEphemeralContainers takes over added ephemeral containers; those there stay as they are.
func withEphemeralContainers(kind *Kind, old, obj object.Object) (object.Object, field.ErrorList) {
	pod, given := old.DeepCopyObject().(*corev1.Pod), obj.(*corev1.Pod)
	path := field.NewPath("spec", "ephemeralContainers")
	var errs field.ErrorList
	before := map[string]*corev1.EphemeralContainer{}
	for i := range pod.Spec.EphemeralContainers {
		before[pod.Spec.EphemeralContainers[i].Name] = &pod.Spec.EphemeralContainers[i]
	}
	pod.Spec.EphemeralContainers = given.Spec.EphemeralContainers
	kind.Default(pod)
	for i := range pod.Spec.EphemeralContainers {
		c := &pod.Spec.EphemeralContainers[i]
		if was, ok := before[c.Name]; ok {
			left, _ := was.Marshal()
			right, _ := c.Marshal()
			if string(left) != string(right) {
				errs = append(errs, field.Forbidden(path, fmt.Sprintf("existing ephemeral container %q may not be changed", c.Name)))
			}
			delete(before, c.Name)
		}
	}
	for name := range before {
		errs = append(errs, field.Forbidden(path, fmt.Sprintf("existing ephemeral containers %q may not be removed", name)))
	}
	if len(errs) == 0 {
		errs = kind.Validate(pod)
	}
	if len(errs) == 0 && !kind.SpecEqual(pod, old) {
		pod.Generation++
	}
	return pod, errs
}
