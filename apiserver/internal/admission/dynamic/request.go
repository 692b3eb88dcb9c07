package dynamic

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	strictjson "sigs.k8s.io/json"

	"kijabi.dev/apiserver/internal/registry/kinds"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/pki"
)

// Request is one write, or one connection to a pod, service or node. It belongs to the
// caller, who does not use it concurrently.
type Request struct {
	// Who asks.
	User, UID string
	Groups    []string
	Extra     map[string][]string

	Operation admissionv1.Operation
	// Kind of the resource that is written.
	Kind *kinds.Kind
	// Body is the kind of Object where that is another one, as for most subresources.
	Body        schema.GroupVersionKind
	Subresource string
	// Namespace and Name of the object as the request has them; the name may yet have to be generated.
	Namespace, Name string
	// Object is what is asked for; nil for deletions. Mutate changes it in place.
	Object runtime.Object
	// Old is what is stored; nil for creations and connections. It is not changed.
	Old runtime.Object
	// Options of the request, such as *metav1.CreateOptions.
	Options runtime.Object
	DryRun  bool

	namespace *corev1.Namespace    // see Session.namespaceOf
	looked    bool                 // for the namespace
	around    once[map[string]any] // the namespace's content
	others    []*kinds.Kind        // see Session.versions
	views     map[*kinds.Kind]*view
}

// Annotation is a fact for the audit log.
type Annotation struct{ Key, Value string }

// view is a request's objects as JSON, in one version of their kind.
type view struct {
	object, old []byte
	// The same, decoded, once somebody has asked for it.
	objectMap, oldMap map[string]any
	// facts are the question without its objects.
	facts once[map[string]any]
}

const (
	// upkeep is the apiserver itself, whose writes keep the cluster going.
	upkeep = "system:apiserver"
	// nodeUserPrefix and programGroup are nodes, and the programs of the cluster: who reports
	// nodes, and marks those that have gone so that what ran there is made elsewhere.
	nodeUserPrefix = "system:node:"
	programGroup   = pki.RolePrefix
)

// byCluster tells whether a program of the cluster asks.
func (r *Request) byCluster() bool {
	return strings.HasPrefix(r.User, nodeUserPrefix) ||
		slices.ContainsFunc(r.Groups, func(group string) bool { return strings.HasPrefix(group, programGroup) })
}

// Show makes the request be about what has become of its object.
func (r *Request) Show(obj runtime.Object) { r.Object, r.views = obj, nil }

// exempt requests are shown to nobody. Without them nodes are lost, leaders are deposed and
// who has configured the wrong thing cannot take it back.
func (r *Request) exempt() bool {
	switch gr := r.Kind.GroupResource(); gr.Group {
	case admissionregistrationv1.GroupName:
		return true
	case coordinationv1.GroupName:
		return gr.Resource == "leases"
	case eventsv1.GroupName:
		return gr.Resource == "events"
	case "":
		if gr.Resource == "events" || gr.Resource == "nodes" && r.byCluster() {
			return true
		}
	}
	return r.User == upkeep
}

// isNamespace tells whether the request is about a Namespace itself.
func (r *Request) isNamespace() bool {
	return r.Kind.GroupResource() == schema.GroupResource{Resource: "namespaces"}
}

// where is the namespace that the request is about: a Namespace is in itself.
func (r *Request) where() string {
	if r.isNamespace() {
		return r.Name
	}
	return r.Namespace
}

// gvkIn is the kind of Object as shown in a version of the resource's kind.
func (r *Request) gvkIn(kind *kinds.Kind) schema.GroupVersionKind {
	if !r.Body.Empty() {
		return r.Body
	}
	return kind.GVK
}

// in returns the request's objects in one version of their kind.
func (r *Request) in(kind *kinds.Kind) (*view, error) {
	if known := r.views[kind]; known != nil {
		return known, nil
	}
	v := &view{}
	var err error
	if v.object, err = r.encode(kind, r.Object); err != nil {
		return nil, err
	}
	if v.old, err = r.encode(kind, r.Old); err != nil {
		return nil, err
	}
	if r.views == nil {
		r.views = map[*kinds.Kind]*view{}
	}
	r.views[kind] = v
	return v, nil
}

func (r *Request) encode(kind *kinds.Kind, obj runtime.Object) ([]byte, error) {
	if absent(obj) {
		return nil, nil
	}
	if own, ok := obj.(object.Object); ok && kind != r.Kind && r.Body.Empty() {
		obj = convert(r.Kind, kind, own)
	}
	if gvk := r.gvkIn(kind); obj.GetObjectKind().GroupVersionKind() != gvk {
		obj = obj.DeepCopyObject()
		obj.GetObjectKind().SetGroupVersionKind(gvk)
	}
	text, err := json.Marshal(obj)
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("encode %s %s for admission: %w", r.Kind.GVK.Kind, r.Name, err))
	}
	return text, nil
}

func absent(obj runtime.Object) bool {
	return obj == nil || reflect.ValueOf(obj).IsNil()
}

// maps returns the objects as CEL wants them; nil where there is none.
func (v *view) maps() (obj, old map[string]any, err error) {
	for _, side := range []struct {
		text []byte
		into *map[string]any
	}{{v.object, &v.objectMap}, {v.old, &v.oldMap}} {
		if side.text == nil || *side.into != nil {
			continue
		}
		if *side.into, err = content(side.text); err != nil {
			return nil, nil, err
		}
	}
	return v.objectMap, v.oldMap, nil
}

// content decodes JSON that the server has made, with whole numbers as int64.
func content(text []byte) (map[string]any, error) {
	var out map[string]any
	if err := strictjson.UnmarshalCaseSensitivePreserveInts(text, &out); err != nil {
		return nil, internalError("read own JSON: %w", err)
	}
	return out, nil
}

// convert returns an object in another version of its kind, as a copy.
func convert(from, to *kinds.Kind, obj object.Object) object.Object {
	out := obj.DeepCopyObject().(object.Object)
	switch {
	case from == to:
		return out
	case to.Custom != nil:
		custom, ok := out.(*object.Custom)
		if !ok {
			return out
		}
		custom.SetGroupVersionKind(to.GVK)
		to.Custom.Revise(custom)
		return custom
	}
	if from.StoredAs != nil {
		out = from.ToStored(out)
	}
	if to.StoredAs != nil {
		out = to.FromStored(out)
	}
	out.GetObjectKind().SetGroupVersionKind(to.GVK)
	return out
}

// replace makes Object what a patched text says, which is in a version of its kind. What the
// server keeps about an object stays as it is.
func (r *Request) replace(kind *kinds.Kind, text []byte) error {
	if err := object.CheckDepth(text, maxDepth); err != nil {
		return err
	}
	own, isOwn := r.Object.(object.Object)
	var fresh runtime.Object
	switch {
	case isOwn && kind.Custom != nil && r.Body.Empty():
		custom, strict, err := object.DecodeCustom(text)
		if err == nil && len(strict) > 0 {
			err = strict[0]
		}
		if err != nil {
			return err
		}
		custom.Resource = kind.GVR.Resource
		fresh = custom
	default:
		fresh = reflect.New(reflect.TypeOf(r.Object).Elem()).Interface().(runtime.Object)
		if isOwn && kind != r.Kind && r.Body.Empty() {
			fresh = kind.New()
		}
		if err := strictjson.UnmarshalCaseSensitivePreserveInts(text, fresh); err != nil {
			return err
		}
	}
	if isOwn {
		typed, ok := fresh.(object.Object)
		if !ok {
			return fmt.Errorf("%T is no object", fresh)
		}
		if typed.GetName() != own.GetName() || typed.GetNamespace() != own.GetNamespace() {
			return fmt.Errorf("it renames or moves the object to %q", object.KeyOf(typed))
		}
		if kind != r.Kind && r.Body.Empty() {
			typed = convert(kind, r.Kind, typed)
		}
		keep(own, typed)
		fresh = typed
	}
	fresh.GetObjectKind().SetGroupVersionKind(r.gvkIn(r.Kind))
	reflect.ValueOf(r.Object).Elem().Set(reflect.ValueOf(fresh).Elem())
	r.views = nil
	return nil
}

// keep carries over what nobody but the server changes.
func keep(from, to metav1.Object) {
	to.SetUID(from.GetUID())
	to.SetResourceVersion(from.GetResourceVersion())
	to.SetGeneration(from.GetGeneration())
	to.SetCreationTimestamp(from.GetCreationTimestamp())
	to.SetDeletionTimestamp(from.GetDeletionTimestamp())
	to.SetDeletionGracePeriodSeconds(from.GetDeletionGracePeriodSeconds())
	to.SetManagedFields(from.GetManagedFields())
	to.SetSelfLink(from.GetSelfLink())
}

// maxDepth bounds the nesting of what webhooks answer.
const maxDepth = 1000

// question is the request as an AdmissionReview asks about it, in one version of its kind;
// without the objects, which views hold.
func (r *Request) question(kind *kinds.Kind) (*admissionv1.AdmissionRequest, error) {
	resource := func(gvr schema.GroupVersionResource) metav1.GroupVersionResource {
		return metav1.GroupVersionResource{Group: gvr.Group, Version: gvr.Version, Resource: gvr.Resource}
	}
	gvk := func(gvk schema.GroupVersionKind) metav1.GroupVersionKind {
		return metav1.GroupVersionKind{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind}
	}
	own, as := gvk(r.gvkIn(r.Kind)), resource(r.Kind.GVR)
	dry := r.DryRun
	q := &admissionv1.AdmissionRequest{
		Kind: gvk(r.gvkIn(kind)), Resource: resource(kind.GVR), SubResource: r.Subresource,
		RequestKind: &own, RequestResource: &as, RequestSubResource: r.Subresource,
		Name: r.Name, Namespace: r.where(), Operation: r.Operation, DryRun: &dry,
		UserInfo: authenticationv1.UserInfo{Username: r.User, UID: r.UID, Groups: r.Groups},
	}
	if len(r.Extra) > 0 {
		q.UserInfo.Extra = make(map[string]authenticationv1.ExtraValue, len(r.Extra))
		for key, values := range r.Extra {
			q.UserInfo.Extra[key] = values
		}
	}
	if r.Options != nil {
		text, err := json.Marshal(r.Options)
		if err != nil {
			return nil, apierrors.NewInternalError(fmt.Errorf("encode options for admission: %w", err))
		}
		q.Options.Raw = text
	}
	return q, nil
}
