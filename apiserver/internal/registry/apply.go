package registry

import (
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
	smd "k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"
	strictjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"kijabi.dev/apiserver/internal/managedfields"
	"kijabi.dev/apiserver/internal/registry/customkinds"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
)

// owners keeps the record of who owns which field, and merges server-side applies. Its
// tables are large, so they are built when first needed.
type owners struct {
	scheme func() *runtime.Scheme
	types  func() smd.TypeConverter

	trackers sync.Map // trackerKey to *managedfields.Tracker
}

type trackerKey struct {
	kind        *Kind
	subresource string
}

func newOwners(table []*Kind) *owners {
	o := &owners{}
	o.scheme = sync.OnceValue(func() *runtime.Scheme {
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
	o.types = sync.OnceValue(func() smd.TypeConverter { return applyconfigurations.NewTypeConverter(o.scheme()) })
	return o
}

// typesOf returns what merges objects of a kind.
func (o *owners) typesOf(kind *Kind) (smd.TypeConverter, error) {
	switch {
	case kind.Custom != nil:
		return kind.Custom.Converter()
	case kind.GroupResource().String() == definitionsResource:
		return customkinds.DefinitionConverter()
	}
	return o.types(), nil
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

// tracker returns what keeps the record of writes of a kind or of a subresource of it.
func (o *owners) tracker(kind *Kind, subresource string) (*managedfields.Tracker, error) {
	if kind.Custom != nil {
		return customTracker(kind, subresource)
	}
	key := trackerKey{kind, subresource}
	if known, ok := o.trackers.Load(key); ok {
		return known.(*managedfields.Tracker), nil
	}
	t, err := o.newTracker(kind, subresource)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	known, _ := o.trackers.LoadOrStore(key, t)
	return known.(*managedfields.Tracker), nil
}

func (o *owners) newTracker(kind *Kind, subresource string) (*managedfields.Tracker, error) {
	cfg := managedfields.Config{
		Types: o.types(), Scheme: o.scheme(), Defaulter: defaulter{kind}, Kind: kind.GVK, Subresource: subresource, Reset: resetBy(kind, subresource),
	}
	if kind.GroupResource().String() != definitionsResource {
		return managedfields.New(cfg)
	}
	types, err := customkinds.DefinitionConverter()
	if err != nil {
		return nil, fmt.Errorf("types of %s: %w", kind.GVK.Kind, err)
	}
	cfg.Types, cfg.Unplanned = types, true
	return managedfields.New(cfg)
}

// resetBy names the fields that nobody owns by writing a subresource, since that leaves them alone.
func resetBy(kind *Kind, subresource string) []string {
	switch {
	case subresource == "status" || subresource == "approval":
		return []string{"spec"}
	case kind.HasSubresource("status"):
		return []string{"status"}
	}
	return nil
}

// planApply merges a partial object into the one that is there, or creates it.
func (e *Engine) planApply(caller Caller, kind *Kind, op Operation, d *decisions) (*plan, error) {
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
	tracker, err := e.owners.tracker(kind, ref.Subresource)
	if err != nil {
		return nil, err
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
			return e.applyNew(caller, kind, op, tracker, intent, d)
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
		merged, err := tracker.Apply(old, intent.DeepCopy(), op.Options.FieldManager, op.Options.Force, e.now())
		if err != nil {
			return outcome{}, applyError(err)
		}
		obj := merged.(object.Object)
		obj.GetObjectKind().SetGroupVersionKind(kind.GVK)
		return e.change(edit{kind: kind, caller: caller, subresource: ref.Subresource, by: writer{settled: true}, dry: dryRun(op), decisions: d}, current, old, obj)
	}
	return p, nil
}

func (e *Engine) applyNew(caller Caller, kind *Kind, op Operation, tracker *managedfields.Tracker, intent *unstructured.Unstructured, d *decisions) (outcome, error) {
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
	merged, err := tracker.Apply(empty, intent.DeepCopy(), op.Options.FieldManager, op.Options.Force, e.now())
	if err != nil {
		return outcome{}, applyError(err)
	}
	create, err := e.planNew(caller, kind, Operation{
		Verb: VerbCreate, Object: merged.(object.Object), Options: op.Options,
		Ref: Ref{Resource: op.Ref.Resource, Namespace: op.Ref.Namespace, Name: op.Ref.Name},
	}, writer{settled: true}, d)
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
	if err := strictjson.UnmarshalCaseSensitivePreserveInts(text, &intent.Object); err != nil || intent.Object == nil {
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
	// Of what kinds that users have defined do not know, merging tells.
	if kind.Custom == nil && op.Options.FieldValidation == metav1.FieldValidationStrict {
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
