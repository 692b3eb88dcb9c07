// Package customkinds makes rows of the table of kinds at run time: one for each served
// version of a CustomResourceDefinition. It alone uses the libraries of
// k8s.io/apiextensions-apiserver that know schemas.
//
// A row is cheap. What a schema needs (its structural form, validators, compiled rules,
// types for server-side apply) is made of the definition's stored bytes when an object of
// that kind is first written, so that many definitions that nobody uses cost little.
package customkinds

import (
	"cmp"
	"fmt"
	"slices"
	"sync"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/version"

	"kijabi.dev/apiserver/internal/registry/kinds"
	"kijabi.dev/platform/kube/object"
)

// Definition is what a stored CustomResourceDefinition means to the apiserver. It is
// immutable.
type Definition struct {
	Name       string
	UID        types.UID
	Generation int64
	Group      string
	// Accepted are the names that the definition has been given.
	Accepted apiextensionsv1.CustomResourceDefinitionNames
	// Established is true once the kind is served.
	Established bool
	// Kinds are the rows, one for each served version, the preferred one first. Empty
	// unless the definition is established.
	Kinds []*kinds.Kind
}

// New reads an encoded definition, which it keeps. before is what was made of the same
// definition's former state, or nil; rows are taken over as long as they are right.
func New(encoded []byte, before *Definition) (*Definition, error) {
	crd, err := decode(encoded)
	if err != nil {
		return nil, err
	}
	d := &Definition{
		Name: crd.Name, UID: crd.UID, Generation: crd.Generation, Group: crd.Spec.Group,
		Accepted: crd.Status.AcceptedNames, Established: isTrue(crd, apiextensionsv1.Established),
	}
	switch {
	case !d.Established:
	case before != nil && before.Established && before.UID == d.UID && before.Generation == d.Generation && equalNames(before.Accepted, d.Accepted):
		d.Kinds = before.Kinds
	default:
		d.Kinds = rows(crd, encoded)
	}
	return d, nil
}

func decode(encoded []byte) (*apiextensionsv1.CustomResourceDefinition, error) {
	crd := &apiextensionsv1.CustomResourceDefinition{}
	if err := crd.Unmarshal(encoded); err != nil {
		return nil, fmt.Errorf("decode CustomResourceDefinition: %w", err)
	}
	return crd, nil
}

func isTrue(crd *apiextensionsv1.CustomResourceDefinition, condition apiextensionsv1.CustomResourceDefinitionConditionType) bool {
	return slices.ContainsFunc(crd.Status.Conditions, func(c apiextensionsv1.CustomResourceDefinitionCondition) bool {
		return c.Type == condition && c.Status == apiextensionsv1.ConditionTrue
	})
}

func equalNames(a, b apiextensionsv1.CustomResourceDefinitionNames) bool {
	return a.Plural == b.Plural && a.Singular == b.Singular && a.Kind == b.Kind && a.ListKind == b.ListKind &&
		slices.Equal(a.ShortNames, b.ShortNames) && slices.Equal(a.Categories, b.Categories)
}

// row is one version of a definition.
type row struct {
	kind   *kinds.Kind
	shared *sharedSchemas
	schema func() *compiled
	// status and scale are the version's subresources.
	status bool
	scale  *apiextensionsv1.CustomResourceSubresourceScale
}

// rows makes the rows of an established definition.
func rows(crd *apiextensionsv1.CustomResourceDefinition, encoded []byte) []*kinds.Kind {
	shared := &sharedSchemas{encoded: encoded}
	shared.converter = sync.OnceValues(shared.newConverter)
	versions := slices.Clone(crd.Spec.Versions)
	slices.SortStableFunc(versions, func(a, b apiextensionsv1.CustomResourceDefinitionVersion) int {
		return cmp.Compare(0, version.CompareKubeAwareVersionStrings(a.Name, b.Name))
	})
	var out []*kinds.Kind
	var storage *kinds.Kind
	for i := range versions {
		v := &versions[i]
		if !v.Served && !v.Storage {
			continue
		}
		kind := newRow(crd, v, shared)
		if v.Storage {
			storage = kind
		}
		if v.Served {
			out = append(out, kind)
		}
	}
	for _, kind := range out {
		kind.Custom.Storage = storage
	}
	if storage != nil {
		storage.Custom.Storage = storage
	}
	return out
}

func newRow(crd *apiextensionsv1.CustomResourceDefinition, v *apiextensionsv1.CustomResourceDefinitionVersion, shared *sharedSchemas) *kinds.Kind {
	names := crd.Status.AcceptedNames
	gvk := schema.GroupVersionKind{Group: crd.Spec.Group, Version: v.Name, Kind: names.Kind}
	kind := &kinds.Kind{
		Kind:     object.CustomKind(gvk, names.Plural, crd.Spec.Scope == apiextensionsv1.NamespaceScoped),
		Singular: names.Singular, ShortNames: names.ShortNames, Categories: names.Categories,
		Verbs: []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"},
	}
	r := &row{kind: kind, shared: shared, schema: sync.OnceValue(func() *compiled { return shared.compile(v.Name) })}
	kind.Custom = &kinds.Custom{
		Definition: crd.Name, UID: crd.UID, Revision: crd.Generation,
		Revise: r.revise, Prune: r.prune, Warning: warning(gvk, v),
		Schema: r.openAPI, Converter: shared.converter,
	}
	kind.Columns, kind.Row = columns(v.AdditionalPrinterColumns)
	for _, f := range v.SelectableFields {
		kind.SelectableFields = append(kind.SelectableFields, fieldName(f.JSONPath))
	}
	kind.Custom.Fields = selectable(v.SelectableFields)
	kind.Default = on(r.revise)
	kind.SpecEqual = func(obj, old object.Object) bool { return sameContent(obj.(*object.Custom), old.(*object.Custom)) }
	kind.ValidateCreate = func(obj object.Object) field.ErrorList { return r.validate(obj.(*object.Custom)) }
	kind.ValidateUpdate = func(obj, old object.Object) field.ErrorList {
		return r.validateUpdate(obj.(*object.Custom), old.(*object.Custom))
	}
	if v.Subresources != nil {
		r.addSubresources(v.Subresources)
	}
	return kind
}

func on(f func(*object.Custom)) func(object.Object) {
	return func(obj object.Object) { f(obj.(*object.Custom)) }
}

// warning is what users of a deprecated version are told.
func warning(gvk schema.GroupVersionKind, v *apiextensionsv1.CustomResourceDefinitionVersion) string {
	switch {
	case !v.Deprecated:
		return ""
	case v.DeprecationWarning != nil:
		return *v.DeprecationWarning
	}
	return gvk.GroupVersion().String() + " " + gvk.Kind + " is deprecated"
}

func (r *row) addSubresources(sub *apiextensionsv1.CustomResourceSubresources) {
	kind := r.kind
	if scale := sub.Scale; scale != nil {
		r.scale = scale
		kind.Subresources = append(kind.Subresources, kinds.Subresource{
			Name: "scale", GVK: schema.GroupVersionKind{Group: "autoscaling", Version: "v1", Kind: "Scale"}, Verbs: []string{"get", "patch", "update"},
		})
		kind.Scale = scaleAccess(scale)
	}
	if sub.Status == nil {
		return
	}
	r.status = true
	kind.Subresources = append(kind.Subresources, kinds.Subresource{Name: "status", GVK: kind.GVK, Verbs: []string{"get", "patch", "update"}})
	kind.PrepareForCreate = on(func(c *object.Custom) { delete(c.Content(), "status") })
	kind.PrepareForUpdate = func(obj, old object.Object) {
		takeStatus(obj.(*object.Custom), old.(*object.Custom))
	}
	kind.PrepareForStatusUpdate = func(obj, old object.Object) {
		given, before := obj.(*object.Custom), old.DeepCopyObject().(*object.Custom)
		r.revise(given)
		managed, version := given.ManagedFields, given.ResourceVersion
		takeStatus(before, given)
		given.SetContent(before.Content())
		given.ObjectMeta = before.ObjectMeta
		given.ManagedFields, given.ResourceVersion = managed, version
	}
	kind.ValidateStatusUpdate = func(obj, old object.Object) field.ErrorList {
		return r.validateStatus(obj.(*object.Custom), old.(*object.Custom))
	}
}

// takeStatus gives one object the status of another.
func takeStatus(to, from *object.Custom) {
	if status, ok := from.Content()["status"]; ok {
		to.Content()["status"] = status
		return
	}
	delete(to.Content(), "status")
}
