package customkinds

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	openapiv2 "k8s.io/apiextensions-apiserver/pkg/controller/openapi/v2"
	generated "k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

const (
	objectMeta = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
	refsV3     = "#/components/schemas/"
	refsV2     = "#/definitions/"

	preserves = "x-kubernetes-preserve-unknown-fields"
	embeds    = "x-kubernetes-embedded-resource"
)

// openAPI is the schema of an object as clients read it, without its kind. Nothing of it is
// kept: documents list all kinds, whether anybody uses them or not.
func (r *row) openAPI(v3 bool) (out json.RawMessage, err error) {
	defer func() {
		if cause := recover(); cause != nil { // see survive
			out, err = nil, fmt.Errorf("schema cannot be shown: %v", cause)
		}
	}()
	crd, err := decode(r.shared.encoded)
	if err != nil {
		return nil, err
	}
	structural, _, err := structuralOf(crd, r.kind.GVK.Version)
	if err != nil {
		return nil, err
	}
	return json.Marshal(published(structural, v3))
}

func published(structural *structuralschema.Structural, v3 bool) *spec.Schema {
	if structural == nil || !v3 && structural.XPreserveUnknownFields {
		// To kubectl any property would mean that there are no others.
		return &spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}}}
	}
	if !v3 {
		structural = openapiv2.ToStructuralOpenAPIV2(structural)
	}
	out := structural.ToKubeOpenAPI()
	refs := refsV2
	meta := spec.RefSchema(refs + objectMeta)
	if v3 {
		refs = refsV3
		// In this version a reference may not have siblings, such as a description.
		meta = &spec.Schema{SchemaProps: spec.SchemaProps{AllOf: []spec.Schema{*spec.RefSchema(refs + objectMeta)}}}
	}
	addEmbedded(out, *meta, v3)
	addTypeMeta(out, *meta)
	return out
}

// addTypeMeta adds what every object has.
func addTypeMeta(s *spec.Schema, meta spec.Schema) {
	docs := metav1.TypeMeta{}.SwaggerDoc()
	s.SetProperty("apiVersion", *spec.StringProperty().WithDescription(docs["apiVersion"]))
	s.SetProperty("kind", *spec.StringProperty().WithDescription(docs["kind"]))
	meta.Description = "Standard object's metadata."
	s.SetProperty("metadata", meta)
}

// addEmbedded does so for objects inside of the object.
func addEmbedded(s *spec.Schema, meta spec.Schema, v3 bool) {
	if s == nil {
		return
	}
	for name := range s.Properties {
		inner := s.Properties[name]
		addEmbedded(&inner, meta, v3)
		s.Properties[name] = inner
	}
	if s.Items != nil {
		addEmbedded(s.Items.Schema, meta, v3)
	}
	if s.AdditionalProperties != nil {
		addEmbedded(s.AdditionalProperties.Schema, meta, v3)
	}
	if open, ok := s.Extensions.GetBool(preserves); ok && open && !v3 {
		return
	}
	if embedded, ok := s.Extensions.GetBool(embeds); ok && embedded {
		addTypeMeta(s, meta)
		for _, name := range []string{"apiVersion", "kind"} {
			if !slices.Contains(s.Required, name) {
				s.Required = append(s.Required, name)
			}
		}
	}
}

// metaModels are the types of metadata.
var metaModels = sync.OnceValue(func() map[string]*spec.Schema {
	all := generated.GetOpenAPIDefinitions(func(path string) spec.Ref { return spec.MustCreateRef(refsV3 + path) })
	out := make(map[string]*spec.Schema, len(all))
	for name := range all {
		definition := all[name].Schema
		out[name] = &definition
	}
	return out
})

// withKind marks a model as that of a kind.
func withKind(s *spec.Schema, gvk schema.GroupVersionKind) *spec.Schema {
	s.AddExtension("x-kubernetes-group-version-kind", []any{
		map[string]any{"group": gvk.Group, "version": gvk.Version, "kind": gvk.Kind},
	})
	return s
}

// newConverter makes the types of a definition's versions, for server-side apply.
func (s *sharedSchemas) newConverter() (managedfields.TypeConverter, error) {
	crd, err := decode(s.encoded)
	if err != nil {
		return nil, err
	}
	common := metaModels()
	models := make(map[string]*spec.Schema, len(common)+len(crd.Spec.Versions))
	for name, model := range common {
		models[name] = model
	}
	for i := range crd.Spec.Versions {
		version := crd.Spec.Versions[i].Name
		structural, _, err := structuralOf(crd, version)
		if err != nil {
			return nil, err
		}
		model := &spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}}}
		if structural != nil {
			model = structural.ToKubeOpenAPI()
		}
		meta := *spec.RefSchema(refsV3 + objectMeta)
		addEmbedded(model, meta, true)
		addTypeMeta(model, meta)
		gvk := schema.GroupVersionKind{Group: crd.Spec.Group, Version: version, Kind: crd.Status.AcceptedNames.Kind}
		models[fmt.Sprintf("custom.%s.%s", version, gvk.Kind)] = withKind(model, gvk)
	}
	return managedfields.NewTypeConverter(models, crd.Spec.PreserveUnknownFields)
}

// DefinitionConverter knows the type of definitions themselves. It is made once.
var DefinitionConverter = sync.OnceValues(func() (managedfields.TypeConverter, error) {
	models := make(map[string]*spec.Schema, len(metaModels()))
	for name, model := range metaModels() {
		models[name] = model
	}
	name := apiextensionsv1.CustomResourceDefinition{}.OpenAPIModelName()
	own, ok := models[name]
	if !ok {
		return nil, fmt.Errorf("no model %s", name)
	}
	own = &spec.Schema{VendorExtensible: own.VendorExtensible, SchemaProps: own.SchemaProps}
	own.Extensions = spec.Extensions{}
	models[name] = withKind(own, apiextensionsv1.SchemeGroupVersion.WithKind("CustomResourceDefinition"))
	return managedfields.NewTypeConverter(models, false)
})
