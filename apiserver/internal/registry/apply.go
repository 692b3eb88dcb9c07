package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"
	strictjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
)

// applier merges server-side applies and keeps the record of who owns which field. Its
// tables are large, so they are built when first needed.
type applier struct {
	scheme    func() *runtime.Scheme
	converter func() managedfields.TypeConverter

	mu       sync.Mutex
	managers map[managerKey]*managedfields.FieldManager
}

type managerKey struct {
	kind        *Kind
	subresource string
}

func newApplier(table []*Kind) *applier {
	a := &applier{managers: map[managerKey]*managedfields.FieldManager{}}
	a.scheme = sync.OnceValue(func() *runtime.Scheme {
		scheme := runtime.NewScheme()
		for _, kind := range table {
			scheme.AddKnownTypeWithName(kind.GVK, kind.New())
		}
		for _, kind := range table {
			if kind.StoredAs != nil {
				addConversion(scheme, kind.Kind, kind.StoredAs.Kind, kind.ToStored)
				addConversion(scheme, kind.StoredAs.Kind, kind.Kind, kind.FromStored)
			}
		}
		return scheme
	})
	a.converter = sync.OnceValue(func() managedfields.TypeConverter { return applyconfigurations.NewTypeConverter(a.scheme()) })
	return a
}

// addConversion lets what was applied in one version of a kind be merged in another.
func addConversion(scheme *runtime.Scheme, from, to object.Kind, convert func(object.Object) object.Object) {
	err := scheme.AddConversionFunc(from.New(), to.New(), func(in, out any, _ conversion.Scope) error {
		reflect.ValueOf(out).Elem().Set(reflect.ValueOf(convert(in.(object.Object))).Elem())
		return nil
	})
	if err != nil {
		panic(err) // not two pointers: a programming error
	}
}

// defaulter applies a kind's defaulting to merged objects.
type defaulter struct{ kind *Kind }

// Default fills in what the merged object lacks.
func (d defaulter) Default(in runtime.Object) {
	if obj, ok := in.(object.Object); ok && d.kind.Default != nil {
		d.kind.Default(obj)
	}
}

func (a *applier) manager(kind *Kind, subresource string) (*managedfields.FieldManager, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	key := managerKey{kind, subresource}
	if m, ok := a.managers[key]; ok {
		return m, nil
	}
	scheme := a.scheme()
	m, err := managedfields.NewDefaultFieldManager(a.converter(), scheme, defaulter{kind}, scheme, kind.GVK, kind.GVK.GroupVersion(), subresource, nil)
	if err != nil {
		return nil, fmt.Errorf("field manager of %s: %w", kind.GVK.Kind, err)
	}
	a.managers[key] = m
	return m, nil
}

// updated notes in obj's managedFields what a plain write changed. Where it cannot, the record
// of the last apply stands.
func (a *applier) updated(kind *Kind, subresource, manager string, old, obj object.Object) {
	if mergeable(old) != nil || mergeable(obj) != nil {
		return
	}
	m, err := a.manager(kind, subresource)
	if err != nil {
		return
	}
	out := m.UpdateNoErrors(old, obj, manager)
	if updated, ok := out.(object.Object); ok {
		obj.SetManagedFields(updated.GetManagedFields())
	}
}

// planApply merges a partial object into the one that is there, or creates it.
func (e *Engine) planApply(caller Caller, kind *Kind, op Operation) (*plan, error) {
	ref := op.Ref
	if op.Options.FieldManager == "" {
		return nil, apierrors.NewBadRequest("fieldManager is required for apply patch")
	}
	if ref.Subresource != "" && ref.Subresource != "status" {
		return nil, notAllowed(kind, "apply")
	}
	intent, err := parseApply(kind, op)
	if err != nil {
		return nil, err
	}
	manager, err := e.applier.manager(kind, ref.Subresource)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	p := &plan{kind: kind, key: keyOf(kind, ref.Namespace, ref.Name)}
	if kind.GVK == corev1.SchemeGroupVersion.WithKind("Namespace") && ref.Subresource == "" {
		if p.with, err = e.furnish(ref.Name); err != nil {
			return nil, err
		}
	}
	p.compute = func(current *store.Record) (outcome, error) {
		if current == nil {
			if e.cfg.Access != nil {
				if err := e.cfg.Access.Create(caller.User, caller.Groups, kind.GroupResource(), ref.Namespace, ref.Name); err != nil {
					return outcome{}, err
				}
			}
			return e.applyNew(caller, kind, op, manager, intent)
		}
		old, err := decode(kind, current)
		if err != nil {
			return outcome{}, err
		}
		if version := intent.GetResourceVersion(); version != "" && version != object.FormatVersion(current.Version) {
			return outcome{}, conflict(kind, ref.Name, "%s", optimisticLock)
		}
		if err := mergeable(old); err != nil {
			return outcome{}, err
		}
		merged, err := manager.Apply(old, intent.DeepCopy(), op.Options.FieldManager, op.Options.Force)
		if err != nil {
			return outcome{}, applyError(err)
		}
		obj := old
		if merged != nil { // nil means nothing changes
			obj = merged.(object.Object)
		}
		obj = obj.DeepCopyObject().(object.Object)
		obj.GetObjectKind().SetGroupVersionKind(kind.GVK)
		return e.change(edit{kind: kind, caller: caller, subresource: ref.Subresource, manager: op.Options.FieldManager, applied: true, dry: dryRun(op)}, current, old, obj)
	}
	return p, nil
}

func (e *Engine) applyNew(caller Caller, kind *Kind, op Operation, manager *managedfields.FieldManager, intent *unstructured.Unstructured) (outcome, error) {
	if op.Ref.Subresource != "" {
		return outcome{}, notFound(kind, op.Ref.Name)
	}
	if uid := intent.GetUID(); uid != "" {
		return outcome{}, conflict(kind, op.Ref.Name, "uid mismatch: the provided object specified uid %s, and no existing object was found", uid)
	}
	empty := kind.New()
	empty.GetObjectKind().SetGroupVersionKind(kind.GVK)
	empty.SetName(op.Ref.Name)
	empty.SetNamespace(op.Ref.Namespace)
	merged, err := manager.Apply(empty, intent.DeepCopy(), op.Options.FieldManager, op.Options.Force)
	if err != nil {
		return outcome{}, applyError(err)
	}
	obj, ok := merged.(object.Object)
	if !ok {
		obj = empty
	}
	create, err := e.planCreate(caller, kind, Operation{
		Verb: VerbCreate, Object: obj, Options: op.Options,
		Ref: Ref{Resource: op.Ref.Resource, Namespace: op.Ref.Namespace, Name: op.Ref.Name},
	})
	if err != nil {
		return outcome{}, err
	}
	out, err := create.compute(nil)
	out.warnings = create.warnings
	return out, err
}

func applyError(err error) error {
	if apierrors.ReasonForError(err) != metav1.StatusReasonUnknown {
		return err
	}
	return apierrors.NewBadRequest(err.Error())
}

// applyText returns an apply configuration as JSON without repeated members.
func applyText(text []byte) ([]byte, error) {
	if !IsJSON(text) {
		return yaml.YAMLToJSONStrict(text)
	}
	var members map[string]any
	repeated, err := strictjson.UnmarshalStrict(text, &members)
	return text, errors.Join(err, errors.Join(repeated...))
}

// parseApply reads the partial object and checks that it is for this request.
func parseApply(kind *Kind, op Operation) (*unstructured.Unstructured, error) {
	text, err := applyText(op.Patch)
	if err == nil {
		err = CheckJSON(text, kind.New())
	}
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding YAML: %.4096v", err))
	}
	intent := &unstructured.Unstructured{}
	if err := json.Unmarshal(text, &intent.Object); err != nil || intent.Object == nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: no object: %v", err))
	}
	if intent.GroupVersionKind() != kind.GVK {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the object provided is %s, expected %s", intent.GroupVersionKind(), kind.GVK))
	}
	if err := boundFields(intent.Object); err != nil {
		return nil, err
	}
	if len(intent.GetManagedFields()) > 0 {
		return nil, apierrors.NewBadRequest("metadata.managedFields must be nil")
	}
	if op.Options.FieldValidation == metav1.FieldValidationStrict {
		strict, err := strictjson.UnmarshalStrict(text, kind.New())
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		if len(strict) > 0 {
			return nil, apierrors.NewBadRequest(strictText(strict))
		}
	}
	if intent.GetName() == "" {
		intent.SetName(op.Ref.Name)
	}
	if intent.GetNamespace() == "" && kind.Namespaced {
		intent.SetNamespace(op.Ref.Namespace)
	}
	if intent.GetName() != op.Ref.Name || intent.GetNamespace() != op.Ref.Namespace {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the object provided is %s/%s, the request is for %s/%s", intent.GetNamespace(), intent.GetName(), op.Ref.Namespace, op.Ref.Name))
	}
	return intent, nil
}
