package registry

import (
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/apiserver/internal/admission"
	"kijabi.dev/apiserver/internal/admission/dynamic"
	"kijabi.dev/apiserver/internal/registry/kinds"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
)

const (
	maxNameAttempts = 8
	// maxGeneratedBase leaves room for the suffix in the 63 characters of a label.
	maxGeneratedBase   = 58
	suffixLength       = 5
	suffixAlphabet     = "bcdfghjklmnpqrstvwxz2456789" // no vowels: no words
	nodeLeaseNamespace = corev1.NamespaceNodeLease
)

func generated(op Operation) bool {
	return op.Object != nil && op.Object.GetGenerateName() != ""
}

func generateName(base string) string {
	if len(base) > maxGeneratedBase {
		base = base[:maxGeneratedBase]
	}
	name := make([]byte, 0, len(base)+suffixLength)
	name = append(name, base...)
	for range suffixLength {
		name = append(name, suffixAlphabet[mathrand.IntN(len(suffixAlphabet))])
	}
	return string(name)
}

// newUID returns a random (version 4) UUID.
func newUID() types.UID {
	const digits = "0123456789abcdef"
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	var text [36]byte
	at := 0
	for i, octet := range b {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			text[at] = '-'
			at++
		}
		text[at], text[at+1] = digits[octet>>4], digits[octet&0x0f]
		at += 2
	}
	return types.UID(text[:])
}

// checkType refuses a body of another kind.
func checkType(kind *Kind, gvk schema.GroupVersionKind, obj object.Object) error {
	if obj == nil {
		return apierrors.NewBadRequest("an object is required")
	}
	got, err := object.KindOfObject(obj)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	if got.GVK != gvk || got.IsCustom() && (kind.Custom == nil || gvk != kind.GVK) {
		return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: expected %s %s", got.GVK.Kind, got.GVK.GroupVersion(), kind.GVK.Kind, gvk.GroupVersion(), gvk.Kind))
	}
	return nil
}

// place makes the object's name and namespace agree with the request's.
func place(kind *Kind, ref Ref, obj object.Object) error {
	switch {
	case !kind.Namespaced:
		if obj.GetNamespace() != "" {
			return invalid(kind, obj.GetName(), field.ErrorList{field.Forbidden(field.NewPath("metadata", "namespace"), "not allowed on this type")})
		}
	case obj.GetNamespace() == "":
		obj.SetNamespace(ref.Namespace)
	case ref.Namespace != "" && obj.GetNamespace() != ref.Namespace:
		return apierrors.NewBadRequest(fmt.Sprintf("the namespace of the provided object does not match the namespace sent on the request (%s, %s)", obj.GetNamespace(), ref.Namespace))
	}
	switch {
	case obj.GetName() == "":
		obj.SetName(ref.Name)
	case ref.Name != "" && obj.GetName() != ref.Name:
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", obj.GetName(), ref.Name))
	}
	return nil
}

// planCreate completes and checks the object. All but the name's being free, the
// namespace's being open, quotas and a service's addresses is settled here.
func (e *Engine) planCreate(caller Caller, kind *Kind, op Operation, d *decisions) (*plan, error) {
	return e.planNew(caller, kind, op, writerOf(caller, op.Options), d)
}

// planNew plans the creation of an object whose fields become by's.
func (e *Engine) planNew(caller Caller, kind *Kind, op Operation, by writer, d *decisions) (*plan, error) {
	if err := checkType(kind, kind.GVK, op.Object); err != nil {
		return nil, err
	}
	// The request may be planned again, here under another name or by another master, and
	// must not carry what this plan fills in.
	obj := op.Object.DeepCopyObject().(object.Object)
	if err := place(kind, op.Ref, obj); err != nil {
		return nil, err
	}
	if kind.Namespaced && obj.GetNamespace() == "" {
		return nil, apierrors.NewBadRequest("an empty namespace may not be set during creation")
	}
	if d != nil && kind.Namespaced {
		// Nobody is asked about what cannot be; when it is decided, this is asked again.
		if err := e.namespaceOpen(kind, keyOf(kind, obj.GetNamespace(), obj.GetName())); err != nil {
			return nil, err
		}
	}
	warnings, err := e.complete(caller, kind, obj, by, d)
	if err != nil {
		return nil, err
	}
	p := &plan{kind: kind, key: keyOf(kind, obj.GetNamespace(), obj.GetName()), warnings: warnings}
	if namespace, ok := obj.(*corev1.Namespace); ok {
		if p.with, err = e.furnish(namespace.Name); err != nil {
			return nil, err
		}
	}
	service, isService := obj.(*corev1.Service)
	var ready store.Change
	if !isService {
		if ready, err = encode(kind, obj); err != nil {
			return nil, err
		}
	}
	dry := dryRun(op)
	p.compute = func(current *store.Record) (outcome, error) {
		if current != nil {
			if current.Index.Deleting {
				err := alreadyExists(kind, p.key.Name)
				err.ErrStatus.Message = "object is being deleted: " + err.ErrStatus.Message
				return outcome{}, err
			}
			return outcome{}, alreadyExists(kind, p.key.Name)
		}
		if kind.Namespaced {
			if err := e.namespaceOpen(kind, p.key); err != nil {
				return outcome{}, err
			}
		}
		if err := e.definitionOpen(kind, p.key.Name); err != nil {
			return outcome{}, err
		}
		charge := e.defined.claim(obj)
		if kind.Namespaced {
			charge = func(dry bool) error { return e.quotas.Charge(kind, p.key.Namespace, nil, obj, dry) }
		}
		if !isService {
			return outcome{change: ready, obj: obj, charge: charge}, nil
		}
		complete := service.DeepCopy()
		if !dry && !d.isScouting() {
			if err := e.addresses.allocate(kind, p.key, complete); err != nil {
				return outcome{}, err
			}
		}
		change, err := encode(kind, complete)
		return outcome{change: change, obj: complete, charge: charge}, err
	}
	return p, nil
}

// furnish plans what every namespace has from its first moment on, and what no pod can be
// made without: its default service account, and the CA by which pods know the API. A loop
// of the controller-manager keeps both.
func (e *Engine) furnish(namespace string) ([]*plan, error) {
	var all []*plan
	objects := []object.Object{&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "default"}}}
	if len(e.cfg.RootCA) > 0 {
		objects = append(objects, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "kube-root-ca.crt"}, Data: map[string]string{"ca.crt": string(e.cfg.RootCA)},
		})
	}
	for _, obj := range objects {
		of, err := object.KindOfObject(obj)
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		kind, known := e.defined.table.Load().byResource[of.GVR]
		if !known {
			continue
		}
		if _, err := e.complete(clusterCaller(), kind, obj, writer{manager: serverManager}, nil); err != nil {
			return nil, err
		}
		change, err := encode(kind, obj)
		if err != nil {
			return nil, err
		}
		p := &plan{kind: kind, key: keyOf(kind, namespace, obj.GetName())}
		p.compute = func(current *store.Record) (outcome, error) {
			if current != nil {
				return outcome{change: store.Change{Keep: true}, obj: obj}, nil
			}
			return outcome{change: change, obj: obj}, nil
		}
		all = append(all, p)
	}
	return all, nil
}

func alreadyExists(kind *Kind, name string) *apierrors.StatusError {
	return apierrors.NewAlreadyExists(kind.GVR.GroupResource(), name)
}

// complete fills in what the server sets, defaults, admits and validates a new object. It
// returns warnings for the client.
func (e *Engine) complete(caller Caller, kind *Kind, obj object.Object, by writer, d *decisions) ([]string, error) {
	if obj.GetResourceVersion() != "" {
		return nil, apierrors.NewBadRequest("resourceVersion should not be set on objects to be created")
	}
	obj.GetObjectKind().SetGroupVersionKind(kind.GVK)
	question := d.creation(kind, obj, obj.GetName())
	if obj.GetName() == "" && obj.GetGenerateName() != "" {
		obj.SetName(generateName(obj.GetGenerateName()))
	}
	obj.SetSelfLink("")
	obj.SetDeletionTimestamp(nil)
	obj.SetDeletionGracePeriodSeconds(nil)
	obj.SetCreationTimestamp(e.now())
	obj.SetUID(newUID())
	obj.SetGeneration(0)
	if kind.SpecEqual != nil {
		obj.SetGeneration(1)
	}
	if kind.Default != nil {
		kind.Default(obj)
	}
	// What the server adds from here on belongs to nobody.
	if err := e.own(kind, "", by, nil, obj); err != nil {
		return nil, err
	}
	request := admission.Request{
		User: caller.User, Groups: caller.Groups, Verb: admission.Create, Kind: kind,
		Namespace: obj.GetNamespace(), Name: nameOf(obj), Object: obj,
	}
	if err := e.completeByRules(&request); err != nil {
		return nil, err
	}
	if d != nil {
		if err := e.mutateNew(d, question, &request); err != nil {
			return nil, err
		}
	}
	if kind.PrepareForCreate != nil {
		kind.PrepareForCreate(obj)
	}
	if kind.SetRequester != nil {
		kind.SetRequester(obj, kinds.Requester{User: caller.User, UID: caller.UID, Groups: caller.Groups, Extra: caller.Extra})
	}
	e.setTimes(kind, obj, nil)
	e.fill(obj)
	e.defined.settle(obj)
	errs := append(validateMeta(kind, obj), e.defined.foreign(obj)...)
	errs = append(errs, dynamic.Check(obj, nil)...)
	if kind.Validate != nil {
		errs = append(errs, kind.Validate(obj)...)
	}
	if kind.ValidateCreate != nil {
		errs = append(errs, kind.ValidateCreate(obj)...)
	}
	errs = unique(errs)
	if len(errs) > 0 {
		return nil, invalid(kind, nameOf(obj), errs)
	}
	if e.rules != nil {
		if err := e.rules.Check(&request); err != nil {
			return nil, err
		}
	}
	return request.Warnings, d.validate(question, obj)
}

// mutateNew lets webhooks and policies change a new object, which is defaulted and completed again.
func (e *Engine) mutateNew(d *decisions, question *dynamic.Request, request *admission.Request) error {
	return d.mutate(question, nil, func(last bool) error {
		if request.Kind.Default != nil {
			request.Kind.Default(request.Object)
		}
		if last {
			return e.completeByRules(request)
		}
		return nil
	})
}

// completeByRules fills in what the cluster's objects say.
func (e *Engine) completeByRules(request *admission.Request) error {
	if e.rules == nil {
		return nil
	}
	return e.rules.Complete(request)
}

// nameOf names an object in errors, even one whose name is yet to be generated.
func nameOf(obj object.Object) string {
	if name := obj.GetName(); name != "" {
		return name
	}
	return obj.GetGenerateName()
}

func validateMeta(kind *Kind, obj object.Object) field.ErrorList {
	validName := kind.ValidateName
	if validName == nil {
		validName = validation.NameIsDNSSubdomain
	}
	return validation.ValidateObjectMetaAccessor(obj, kind.Namespaced, validName, field.NewPath("metadata"))
}

// namespaceOpen refuses new content in namespaces that are absent or going away. It is
// called while a batch is formed, when memory holds every earlier write.
func (e *Engine) namespaceOpen(kind *Kind, key store.Key) error {
	namespace, ok := e.store.Get(store.Key{Resource: "namespaces", Name: key.Namespace})
	if !ok {
		return apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, key.Namespace)
	}
	if !namespace.Index.Deleting {
		return nil
	}
	err := apierrors.NewForbidden(kind.GVR.GroupResource(), key.Name, fmt.Errorf("unable to create new content in namespace %s because it is being terminated", key.Namespace))
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{
		Type: corev1.NamespaceTerminatingCause, Message: fmt.Sprintf("namespace %s is being terminated", key.Namespace), Field: "metadata.namespace",
	})
	return err
}
