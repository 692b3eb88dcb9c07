package openapi

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"unicode"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

type object = map[string]any

// dialect hides how the two OpenAPI versions write the same operation.
type dialect struct {
	*reflector
}

// parameter describes a query, path or header parameter.
func (d dialect) parameter(name, in, kind, description string) object {
	p := object{"name": name, "in": in, "description": description}
	if in == "path" {
		p["required"] = true
	}
	if d.v3 {
		p["schema"] = object{"type": kind, "uniqueItems": true}
	} else {
		p["type"], p["uniqueItems"] = kind, true
	}
	return p
}

func mediaTypes() []string {
	return []string{"application/json", "application/yaml", "application/vnd.kubernetes.protobuf"}
}

func patchTypes() []string {
	return []string{
		"application/json-patch+json", "application/merge-patch+json",
		"application/strategic-merge-patch+json", "application/apply-patch+yaml",
	}
}

func (d dialect) content(types []string, body *definition) object {
	content := object{}
	for _, t := range types {
		content[t] = object{"schema": body}
	}
	return content
}

// operation builds one operation; body is nil without a request body.
func (d dialect) operation(id, action, description string, r Resource, params []object, body, result *definition, codes ...string) object {
	group := idGroup(r.GVR.Group)
	tag := strings.ToLower(group[:1]) + group[1:]
	op := object{
		"description": description, "operationId": id, "tags": []string{tag + "_" + r.GVR.Version},
		"x-kubernetes-group-version-kind": gvkOf(r.GVK),
	}
	if action != "" {
		op["x-kubernetes-action"] = action
	}
	media, consumes := mediaTypes(), mediaTypes()
	if action == "patch" {
		consumes = patchTypes()
	}
	if r.Custom != nil { // no protobuf, no strategic merge
		media = slices.Delete(media, 2, 3)
		consumes = slices.Delete(consumes, 2, 3)
	}
	responses := object{"401": object{"description": "Unauthorized"}}
	for _, code := range codes {
		answer := object{"description": map[string]string{"200": "OK", "201": "Created", "202": "Accepted"}[code]}
		if d.v3 {
			answer["content"] = d.content(media, result)
		} else {
			answer["schema"] = result
		}
		responses[code] = answer
	}
	op["responses"] = responses
	if d.v3 {
		if body != nil {
			op["requestBody"] = object{"content": d.content(consumes, body), "required": action != "delete" && action != "deletecollection"}
		}
	} else {
		op["produces"], op["schemes"] = media, []string{"https"}
		op["consumes"] = []string{"*/*"}
		if action == "patch" {
			op["consumes"] = consumes
		}
		if body != nil {
			params = append(slices.Clone(params), object{"name": "body", "in": "body", "required": action != "delete" && action != "deletecollection", "schema": body})
		}
	}
	if len(params) > 0 {
		op["parameters"] = params
	}
	return op
}

func (d dialect) query(name, kind, description string) object {
	return d.parameter(name, "query", kind, description)
}

func (d dialect) writeParameters() []object {
	return []object{
		d.query("dryRun", "string", "All: go through every stage but persist nothing."),
		d.query("fieldManager", "string", "The name under which the changed fields are owned."),
		d.query("fieldValidation", "string", "What to do with unknown or duplicate fields: Ignore, Warn or Strict."),
	}
}

func (d dialect) listParameters() []object {
	return []object{
		d.query("allowWatchBookmarks", "boolean", "Ask for bookmark events in a watch."),
		d.query("continue", "string", "The token of the previous page."),
		d.query("fieldSelector", "string", "Select by fields."),
		d.query("labelSelector", "string", "Select by labels."),
		d.query("limit", "integer", "How many objects a page holds at most."),
		d.query("resourceVersion", "string", "The version the answer must not be older than, or start from."),
		d.query("resourceVersionMatch", "string", "How resourceVersion is meant: Exact or NotOlderThan."),
		d.query("sendInitialEvents", "boolean", "Begin a watch with the present objects."),
		d.query("timeoutSeconds", "integer", "End the call after this time."),
		d.query("watch", "boolean", "Stream changes instead of listing."),
	}
}

func (d dialect) deleteParameters() []object {
	return []object{
		d.query("dryRun", "string", "All: go through every stage but persist nothing."),
		d.query("gracePeriodSeconds", "integer", "Time the object is given to end; 0 means at once."),
		d.query("orphanDependents", "boolean", "Deprecated: use propagationPolicy."),
		d.query("propagationPolicy", "string", "What becomes of dependents: Orphan, Background or Foreground."),
	}
}

// connect builds an operation that passes everything on: no body and no answer is known.
func (d dialect) connect(id, method string, r Resource) object {
	group := idGroup(r.GVR.Group)
	op := object{
		"description": "connect " + strings.ToUpper(method) + " requests to " + r.Subresource + " of " + r.Parent, "operationId": id,
		"tags": []string{strings.ToLower(group[:1]) + group[1:] + "_" + r.GVR.Version}, "x-kubernetes-action": "connect",
		"x-kubernetes-group-version-kind": gvkOf(r.GVK),
	}
	ok := object{"description": "OK"}
	if text := (&definition{Type: "string"}); d.v3 {
		ok["content"] = d.content([]string{"*/*"}, text)
	} else {
		ok["schema"] = text
		op["consumes"], op["produces"], op["schemes"] = []string{"*/*"}, []string{"*/*"}, []string{"https"}
	}
	op["responses"] = object{"200": ok, "401": object{"description": "Unauthorized"}}
	return op
}

// addProxy puts the operations of a proxy into paths: at its root, and below it.
func (d dialect) addProxy(paths object, r Resource) {
	base, scope := "/"+path(r.GVR.GroupVersion()), ""
	params := []object{
		d.parameter("name", "path", "string", "Name of the "+r.Parent+", as [http:|https:]NAME[:PORT]."),
		d.query("path", "string", "Not used; the path is what follows the name."),
	}
	if r.Namespaced {
		base, scope = base+"/namespaces/{namespace}", "Namespaced"
		params = append(params, d.parameter("namespace", "path", "string", "The object's namespace."))
	}
	base += "/" + r.GVR.Resource + "/{name}/" + r.Subresource
	below := append(slices.Clone(params), d.parameter("path", "path", "string", "Path that is asked for."))
	root, rest := object{"parameters": params}, object{"parameters": below}
	for _, method := range []string{"get", "head", "post", "put", "patch", "delete", "options"} {
		id := "connect" + idGroup(r.GVR.Group) + capital(r.GVR.Version) + capital(method) + scope + r.Parent + capital(r.Subresource)
		root[method], rest[method] = d.connect(id, method, r), d.connect(id+"WithPath", method, r)
	}
	paths[base], paths[base+"/{path}"] = root, rest
}

// add puts a resource's operations into paths.
func (d dialect) add(paths object, r Resource) {
	if r.Subresource == "proxy" {
		d.addProxy(paths, r)
		return
	}
	has := func(verb string) bool { return slices.Contains(r.Verbs, verb) }
	base, scope := "/"+path(r.GVR.GroupVersion()), ""
	var pathParams []object
	if r.Namespaced {
		base += "/namespaces/{namespace}"
		scope = "Namespaced"
		pathParams = append(pathParams, d.parameter("namespace", "path", "string", "The object's namespace."))
	}
	base += "/" + r.GVR.Resource
	pretty := d.query("pretty", "string", "true: indent the JSON.")
	named := append(slices.Clone(pathParams), d.parameter("name", "path", "string", "Name of the "+r.GVK.Kind+"."), pretty)
	body := d.body(r)
	status := d.typed(reflect.TypeFor[metav1.Status]())
	options := d.typed(reflect.TypeFor[metav1.DeleteOptions]())
	patch := d.typed(reflect.TypeFor[metav1.Patch]())
	id := func(verb string) string {
		return verb + idGroup(r.GVR.Group) + capital(r.GVR.Version) + scope + capital(kindOf(r)) + capital(r.Subresource)
	}
	what := r.GVK.Kind
	if r.Subresource != "" {
		what = r.Subresource + " of " + r.GVR.Resource
	}

	item := object{"parameters": named}
	itemPath := base + "/{name}"
	if r.Subresource != "" {
		itemPath += "/" + r.Subresource
	}
	if has("get") {
		item["get"] = d.operation(id("read"), "get", "read "+what, r, nil, nil, body, "200")
	}
	if has("update") {
		item["put"] = d.operation(id("replace"), "put", "replace "+what, r, d.writeParameters(), body, body, "200", "201")
	}
	if has("patch") {
		params := append(d.writeParameters(), d.query("force", "boolean", "Take fields from other managers; apply only."))
		item["patch"] = d.operation(id("patch"), "patch", "patch "+what, r, params, patch, body, "200", "201")
	}
	if has("delete") {
		item["delete"] = d.operation(id("delete"), "delete", "delete "+what, r, d.deleteParameters(), options, status, "200", "202")
	}
	if r.Subresource != "" && has("create") {
		item["post"] = d.operation(id("create"), "post", "create "+what, r, d.writeParameters(), body, body, "200", "201", "202")
	}
	if len(item) > 1 {
		paths[itemPath] = item
	}
	if r.Subresource != "" {
		return
	}
	collection := object{"parameters": append(slices.Clone(pathParams), pretty)}
	if has("list") && (r.ListType != nil || r.Custom != nil) {
		list := d.list(r)
		collection["get"] = d.operation(id("list"), "list", "list or watch "+what, r, d.listParameters(), nil, list, "200")
		if r.Namespaced {
			all := "/" + path(r.GVR.GroupVersion()) + "/" + r.GVR.Resource
			op := d.operation("list"+idGroup(r.GVR.Group)+capital(r.GVR.Version)+capital(r.GVK.Kind)+"ForAllNamespaces", "list", "list or watch "+what+" of all namespaces", r, d.listParameters(), nil, list, "200")
			paths[all] = object{"parameters": []object{pretty}, "get": op}
		}
	}
	if has("create") {
		collection["post"] = d.operation(id("create"), "post", "create "+what, r, d.writeParameters(), body, body, "200", "201", "202")
	}
	if has("deletecollection") {
		collection["delete"] = d.operation(id("deleteCollection"), "deletecollection", "delete a collection of "+what, r, append(d.deleteParameters(), d.listParameters()...), options, status, "200")
	}
	if len(collection) > 1 {
		paths[base] = collection
	}
}

// kindOf names the resource's own kind in operation ids.
func kindOf(r Resource) string {
	if r.Subresource == "" {
		return r.GVK.Kind
	}
	return r.Parent
}

// idGroup is a group's name in operation ids: "flowcontrol.apiserver.k8s.io" is "FlowcontrolApiserver".
func idGroup(group string) string {
	if group == "" {
		return "Core"
	}
	var out strings.Builder
	for label := range strings.SplitSeq(strings.TrimSuffix(group, ".k8s.io"), ".") {
		out.WriteString(capital(label))
	}
	return out.String()
}

func capital(s string) string {
	if s == "" {
		return ""
	}
	r := []rune(s)
	r[0] = unicode.ToUpper(r[0])
	return string(r)
}

// body is the schema of what a resource holds.
func (d dialect) body(r Resource) *definition {
	if r.Custom == nil {
		return d.typed(r.Type)
	}
	name := r.Custom.Name
	if _, ok := d.definitions[name]; !ok {
		d.typed(reflect.TypeFor[metav1.ObjectMeta]()) // which the schema refers to
		raw, err := r.Custom.Schema(d.v3)
		if err != nil {
			d.failed = fmt.Errorf("schema of %s: %w", name, err)
			raw = json.RawMessage(`{"type":"object"}`)
		}
		d.definitions[name], d.raw[name] = &definition{}, withKind(raw, r.GVK)
	}
	return d.refTo(name)
}

// list is the schema of a list of what a resource holds.
func (d dialect) list(r Resource) *definition {
	if r.Custom == nil {
		return d.typed(r.ListType)
	}
	name := r.Custom.Name + "List"
	if _, ok := d.definitions[name]; !ok {
		kind := gvkOf(r.GVK)
		kind.Kind += "List"
		d.definitions[name] = &definition{
			Type: "object", Description: kind.Kind + " is a list of " + r.GVK.Kind, Required: []string{"items"}, GVKs: []gvk{kind},
			Properties: map[string]*definition{
				"apiVersion": {Type: "string"}, "kind": {Type: "string"}, "metadata": d.typed(reflect.TypeFor[metav1.ListMeta]()),
				"items": {Type: "array", Items: d.body(r)},
			},
		}
	}
	return d.refTo(name)
}

func (d dialect) refTo(name string) *definition {
	if d.v3 {
		return &definition{Ref: "#/components/schemas/" + name}
	}
	return &definition{Ref: "#/definitions/" + name}
}

// withKind adds its kind to a schema, which is a JSON object that is not empty.
func withKind(model json.RawMessage, kind schema.GroupVersionKind) json.RawMessage {
	text, err := json.Marshal([]gvk{gvkOf(kind)})
	if err != nil { // three strings
		return model
	}
	out := append(slices.Clone(model[:len(model)-1]), `,"x-kubernetes-group-version-kind":`...)
	return append(append(out, text...), '}')
}

func (d *Documents) build(v3 bool, resources []Resource) (paths, schemas object, err error) {
	kinds := map[reflect.Type][]gvk{}
	note := func(t reflect.Type, k gvk) {
		if t != nil && !slices.Contains(kinds[t], k) {
			kinds[t] = append(kinds[t], k)
		}
	}
	for _, r := range d.cfg.Resources {
		note(r.Type, gvkOf(r.GVK))
		if r.ListType != nil {
			k := gvkOf(r.GVK)
			k.Kind += "List"
			note(r.ListType, k)
		}
		// DeleteOptions may be sent in the group version of what is deleted.
		// Kinds that users define must not change the documents of others.
		if r.Custom == nil {
			note(reflect.TypeFor[metav1.DeleteOptions](), gvk{Group: r.GVR.Group, Version: r.GVR.Version, Kind: "DeleteOptions"})
		}
	}
	note(reflect.TypeFor[metav1.Status](), gvk{Version: "v1", Kind: "Status"})
	language := dialect{newReflector(v3, kinds)}
	paths = object{}
	for _, r := range resources {
		language.add(paths, r)
	}
	for _, t := range d.cfg.Extra {
		language.ref(t)
	}
	schemas = make(object, len(language.definitions))
	for name, made := range language.definitions {
		schemas[name] = made
	}
	for name, given := range language.raw {
		schemas[name] = given
	}
	return paths, schemas, language.failed
}

func (d *Documents) openapi(resources []Resource) (object, error) {
	paths, schemas, err := d.build(true, resources)
	return object{
		"openapi": "3.0.0",
		"info":    object{"title": "Kubernetes", "version": d.cfg.Version},
		"paths":   paths,
		"components": object{
			"schemas": schemas,
		},
	}, err
}

func (d *Documents) swagger(resources []Resource) (object, error) {
	paths, definitions, err := d.build(false, resources)
	return object{
		"swagger":     "2.0",
		"info":        object{"title": "Kubernetes", "version": d.cfg.Version},
		"paths":       paths,
		"definitions": definitions,
	}, err
}
