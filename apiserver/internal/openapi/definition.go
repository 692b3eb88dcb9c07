package openapi

import (
	"encoding/json"
	"reflect"
	"sort"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// hint is what the comment of a type or field says.
type hint struct {
	listType, mapType, structType string
	// def is the default as JSON.
	def  string
	keys []string
	// optional: not required though never omitted; required: the reverse.
	optional, required bool
}

// definition is a schema object, in the subset that both OpenAPI versions share.
type definition struct {
	Ref                  string                 `json:"$ref,omitempty"`
	Description          string                 `json:"description,omitempty"`
	Type                 string                 `json:"type,omitempty"`
	Format               string                 `json:"format,omitempty"`
	Default              json.RawMessage        `json:"default,omitempty"`
	Enum                 []string               `json:"enum,omitempty"`
	Properties           map[string]*definition `json:"properties,omitempty"`
	Required             []string               `json:"required,omitempty"`
	Items                *definition            `json:"items,omitempty"`
	AdditionalProperties *definition            `json:"additionalProperties,omitempty"`
	AllOf                []*definition          `json:"allOf,omitempty"`
	OneOf                []*definition          `json:"oneOf,omitempty"`

	GVKs          []gvk    `json:"x-kubernetes-group-version-kind,omitempty"`
	ListType      string   `json:"x-kubernetes-list-type,omitempty"`
	ListMapKeys   []string `json:"x-kubernetes-list-map-keys,omitempty"`
	MapType       string   `json:"x-kubernetes-map-type,omitempty"`
	PatchStrategy string   `json:"x-kubernetes-patch-strategy,omitempty"`
	PatchMergeKey string   `json:"x-kubernetes-patch-merge-key,omitempty"`
}

type gvk struct {
	Group   string `json:"group"`
	Kind    string `json:"kind"`
	Version string `json:"version"`
}

func gvkOf(k schema.GroupVersionKind) gvk {
	return gvk{Group: k.Group, Kind: k.Kind, Version: k.Version}
}

// reflector collects the definitions of types and of all they contain.
type reflector struct {
	v3          bool
	definitions map[string]*definition
	// raw replaces definitions that are not made here.
	raw   map[string]json.RawMessage
	kinds map[reflect.Type][]gvk
	hints map[string]hint
	enums map[string][]string
	// failed is what kept a schema out.
	failed error
}

func newReflector(v3 bool, kinds map[reflect.Type][]gvk) *reflector {
	return &reflector{v3: v3, definitions: map[string]*definition{}, raw: map[string]json.RawMessage{}, kinds: kinds, hints: hints(), enums: enums()}
}

// modelName is the name upstream gives a type: io.k8s.api.core.v1.Pod.
func modelName(t reflect.Type) string {
	if named, ok := reflect.Zero(t).Interface().(interface{ OpenAPIModelName() string }); ok {
		return named.OpenAPIModelName()
	}
	host, rest, _ := strings.Cut(t.PkgPath(), "/")
	labels := strings.Split(host, ".")
	for i, j := 0, len(labels)-1; i < j; i, j = i+1, j-1 {
		labels[i], labels[j] = labels[j], labels[i]
	}
	return strings.Join(labels, ".") + "." + strings.ReplaceAll(rest, "/", ".") + "." + t.Name()
}

// ref returns a reference to a named type and makes sure that it is defined.
func (r *reflector) ref(t reflect.Type) *definition {
	name := modelName(t)
	if _, ok := r.definitions[name]; !ok {
		r.definitions[name] = &definition{} // a type may contain itself
		*r.definitions[name] = *r.named(t, name)
	}
	if r.v3 {
		return &definition{Ref: "#/components/schemas/" + name}
	}
	return &definition{Ref: "#/definitions/" + name}
}

func swaggerDoc(t reflect.Type) map[string]string {
	if documented, ok := reflect.Zero(t).Interface().(interface{ SwaggerDoc() map[string]string }); ok {
		return documented.SwaggerDoc()
	}
	return nil
}

func (r *reflector) named(t reflect.Type, name string) *definition {
	docs := swaggerDoc(t)
	out := &definition{Description: docs[""], GVKs: r.kinds[t]}
	if custom, ok := r.custom(t); ok {
		custom.Description = out.Description
		if custom.Description == "" {
			custom.Description = builtinDescriptions(name)
		}
		return custom
	}
	out.Type = "object"
	if h := r.hints[name]; h.structType == "atomic" || h.mapType == "atomic" {
		out.MapType = "atomic"
	}
	out.Properties = map[string]*definition{}
	r.fields(t, out)
	if len(out.Properties) == 0 {
		out.Properties = nil
	}
	sort.Strings(out.Required)
	return out
}

// custom handles the types that marshal themselves.
func (r *reflector) custom(t reflect.Type) (*definition, bool) {
	zero := reflect.Zero(t).Interface()
	described, ok := zero.(interface {
		OpenAPISchemaType() []string
		OpenAPISchemaFormat() string
	})
	if !ok {
		return nil, false
	}
	out := &definition{Format: described.OpenAPISchemaFormat()}
	if several, ok := zero.(interface{ OpenAPIV3OneOfTypes() []string }); ok && r.v3 {
		for _, one := range several.OpenAPIV3OneOfTypes() {
			out.OneOf = append(out.OneOf, &definition{Type: one})
		}
		return out, true
	}
	if types := described.OpenAPISchemaType(); len(types) > 0 {
		out.Type = types[0]
	}
	return out, true
}

// builtinDescriptions describes the few types without a SwaggerDoc.
func builtinDescriptions(name string) string {
	switch name {
	case "io.k8s.apimachinery.pkg.api.resource.Quantity":
		return "A fixed-point number with an optional suffix: binary (Ki, Mi, Gi, Ti, Pi, Ei), decimal (n, u, m, k, M, G, T, P, E) or a decimal exponent. Examples: 500m, 128Mi, 2, 1.5Gi, 1e3."
	case "io.k8s.apimachinery.pkg.util.intstr.IntOrString":
		return "Either a number or a string, such as a port number or its name, or an amount or its percentage."
	case "io.k8s.apimachinery.pkg.apis.meta.v1.Time":
		return "A time in RFC 3339 with whole seconds."
	case "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime":
		return "A time in RFC 3339 with microseconds."
	default:
		return ""
	}
}

func (r *reflector) fields(t reflect.Type, out *definition) {
	docs, owner := swaggerDoc(t), modelName(t)
	for i := range t.NumField() {
		field := t.Field(i)
		if !field.IsExported() {
			continue
		}
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == "-" {
			continue
		}
		if name == "" && (field.Anonymous || strings.Contains(options, "inline")) {
			embedded := field.Type
			if embedded.Kind() == reflect.Pointer {
				embedded = embedded.Elem()
			}
			r.fields(embedded, out)
			continue
		}
		if name == "" {
			continue
		}
		h := r.hints[owner+"#"+name]
		out.Properties[name] = r.property(field, h, docs[name])
		omitted := strings.Contains(options, "omitempty") || strings.Contains(options, "omitzero")
		if h.required || !omitted && !h.optional {
			out.Required = append(out.Required, name)
		}
	}
}

func (r *reflector) property(field reflect.StructField, h hint, description string) *definition {
	d := r.typed(field.Type)
	if d.Ref != "" && r.v3 {
		// A reference may have no siblings in v3.
		d = &definition{AllOf: []*definition{d}}
	}
	d.Description = description
	d.PatchStrategy = field.Tag.Get("patchStrategy")
	d.PatchMergeKey = field.Tag.Get("patchMergeKey")
	if h.listType != "" {
		d.ListType, d.ListMapKeys = h.listType, h.keys
	}
	if h.mapType != "" {
		d.MapType = h.mapType
	}
	if h.structType != "" {
		d.MapType = h.structType
	}
	switch {
	case h.def != "" && json.Valid([]byte(h.def)):
		d.Default = json.RawMessage(h.def)
	case field.Type.Kind() == reflect.Struct && (len(d.AllOf) > 0) && !customType(field.Type):
		d.Default = json.RawMessage("{}")
	}
	return d
}

func customType(t reflect.Type) bool {
	_, ok := reflect.Zero(t).Interface().(interface{ OpenAPISchemaType() []string })
	return ok
}

// typed is the schema of a field's or element's type.
func (r *reflector) typed(t reflect.Type) *definition {
	if t.Kind() == reflect.Pointer {
		return r.typed(t.Elem())
	}
	if t.Kind() == reflect.Struct {
		return r.ref(t)
	}
	out := &definition{}
	switch t.Kind() {
	case reflect.String:
		out.Type = "string"
		if t.PkgPath() != "" {
			out.Enum = r.enums[modelName(t)]
		}
	case reflect.Bool:
		out.Type = "boolean"
	case reflect.Int32, reflect.Uint32, reflect.Int, reflect.Int16, reflect.Uint16, reflect.Int8, reflect.Uint8:
		out.Type, out.Format = "integer", "int32"
	case reflect.Int64, reflect.Uint64, reflect.Uint:
		out.Type, out.Format = "integer", "int64"
	case reflect.Float32:
		out.Type, out.Format = "number", "float"
	case reflect.Float64:
		out.Type, out.Format = "number", "double"
	case reflect.Slice, reflect.Array:
		if t.Elem().Kind() == reflect.Uint8 {
			out.Type, out.Format = "string", "byte"
			return out
		}
		out.Type, out.Items = "array", r.element(t.Elem())
	case reflect.Map:
		out.Type, out.AdditionalProperties = "object", r.element(t.Elem())
	default: // interfaces: anything
		out.Type = "object"
	}
	if t.PkgPath() != "" {
		if h := r.hints[modelName(t)]; h.listType != "" || h.mapType != "" {
			out.ListType, out.ListMapKeys, out.MapType = h.listType, h.keys, h.mapType
		}
	}
	return out
}

func (r *reflector) element(t reflect.Type) *definition {
	d := r.typed(t)
	if d.Ref != "" && r.v3 {
		d = &definition{AllOf: []*definition{d}}
		if t.Kind() == reflect.Struct && !customType(t) {
			d.Default = json.RawMessage("{}")
		}
	}
	return d
}
