package registry

import (
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/apiserver/internal/managedfields"
	"kijabi.dev/apiserver/internal/registry/kinds"
	"kijabi.dev/platform/kube/object"
)

// customTracker keeps the record of who owns which field of the objects of a kind that
// users have defined. It is made for each use: what costs, the types, is kept by the kind.
func customTracker(kind *Kind, subresource string) (*managedfields.Tracker, error) {
	types, err := kind.Custom.Converter()
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("types of %s: %w", kind.GVK.Kind, err))
	}
	empty := kind.New()
	empty.GetObjectKind().SetGroupVersionKind(kind.GVK)
	return managedfields.NewCustom(managedfields.CustomConfig{
		Types: types, Versions: customVersions{kind.Custom}, Kind: kind.GVK, Subresource: subresource, Reset: resetBy(kind, subresource),
		Empty: empty, Form: unstructuredOf,
		Parse: func(merged runtime.Object) (managedfields.Object, error) { return customOf(kind, merged) },
	})
}

// customVersions makes, defaults and converts objects for a field manager, which wants
// them unstructured.
type customVersions struct{ of *kinds.Custom }

// New returns an empty object.
func (customVersions) New(gvk schema.GroupVersionKind) (runtime.Object, error) {
	out := &unstructured.Unstructured{}
	out.SetGroupVersionKind(gvk)
	return out, nil
}

// Default fills in what the merged object lacks.
func (v customVersions) Default(in runtime.Object) {
	u, ok := in.(*unstructured.Unstructured)
	if !ok {
		return
	}
	custom := &object.Custom{}
	if err := custom.FromUnstructured(u.Object); err != nil {
		return // validation says so
	}
	v.of.Revise(custom)
	u.Object = custom.ToUnstructured()
}

// Convert copies an object.
func (customVersions) Convert(in, out, _ any) error {
	from, ok := in.(*unstructured.Unstructured)
	to, fits := out.(*unstructured.Unstructured)
	if !ok || !fits {
		return fmt.Errorf("convert %T to %T", in, out)
	}
	to.Object = from.DeepCopy().Object
	return nil
}

// ConvertToVersion returns a copy in another version.
func (customVersions) ConvertToVersion(in runtime.Object, target runtime.GroupVersioner) (runtime.Object, error) {
	from, ok := in.(*unstructured.Unstructured)
	if !ok {
		return nil, fmt.Errorf("convert %T", in)
	}
	out := from.DeepCopy()
	gvk, ok := target.KindForGroupVersionKinds([]schema.GroupVersionKind{from.GroupVersionKind()})
	if !ok {
		return nil, fmt.Errorf("%s has no version %s", from.GetKind(), target)
	}
	out.SetGroupVersionKind(gvk)
	return out, nil
}

// ConvertFieldLabel is for selectors, which no field manager has.
func (customVersions) ConvertFieldLabel(_ schema.GroupVersionKind, label, value string) (string, string, error) {
	return label, value, nil
}

// unstructuredOf is the form in which a field manager wants an object, as a copy.
func unstructuredOf(obj managedfields.Object) runtime.Object {
	custom, ok := obj.(*object.Custom)
	if !ok {
		return obj
	}
	return &unstructured.Unstructured{Object: custom.DeepCopyObject().(*object.Custom).ToUnstructured()}
}

// customOf reverses unstructuredOf; what a field manager returned is the result's.
func customOf(kind *Kind, from runtime.Object) (managedfields.Object, error) {
	u, ok := from.(*unstructured.Unstructured)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("%T is no custom object", from))
	}
	custom := &object.Custom{Resource: kind.GVR.Resource}
	if err := custom.FromUnstructured(u.Object); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return custom, nil
}

// unknownFields says what a kind that users have defined does not know of an object, and
// drops it: as an error, as warnings or not at all, as the request wants it.
func unknownFields(kind *Kind, obj object.Object, strict []error, opts WriteOptions) ([]string, error) {
	custom, ok := obj.(*object.Custom)
	if !ok || kind.Custom == nil {
		return nil, nil
	}
	var texts []string
	for _, err := range strict {
		texts = append(texts, err.Error())
	}
	for _, path := range kind.Custom.Prune(custom) {
		texts = append(texts, fmt.Sprintf("unknown field %q", path))
	}
	switch {
	case len(texts) == 0 || opts.FieldValidation == metav1.FieldValidationIgnore:
		return nil, nil
	case opts.FieldValidation == metav1.FieldValidationStrict:
		errs := make([]error, len(texts))
		for i, text := range texts {
			errs[i] = errorText(text)
		}
		return nil, apierrors.NewBadRequest(strictText(errs))
	}
	return texts, nil
}
