package rest

import (
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"kijabi.dev/apiserver/internal/audit"
	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/platform/kube/object"
)

// writeOptions reads the query of a create, update or patch.
func writeOptions(r *http.Request, kind string) (registry.WriteOptions, error) {
	query := r.URL.Query()
	path := field.NewPath
	invalid := func(err *field.Error) error {
		return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: kind}, "", field.ErrorList{err})
	}
	opts := registry.WriteOptions{FieldManager: query.Get("fieldManager"), FieldValidation: query.Get("fieldValidation"), Force: isTrue(query.Get("force"))}
	for _, dryRun := range query["dryRun"] {
		if dryRun != metav1.DryRunAll {
			return opts, invalid(field.NotSupported(path("dryRun"), dryRun, []string{metav1.DryRunAll}))
		}
		opts.DryRun = true
	}
	switch opts.FieldValidation {
	case "":
		opts.FieldValidation = metav1.FieldValidationWarn
	case metav1.FieldValidationIgnore, metav1.FieldValidationWarn, metav1.FieldValidationStrict:
	default:
		return opts, invalid(field.NotSupported(path("fieldValidation"), opts.FieldValidation, []string{metav1.FieldValidationIgnore, metav1.FieldValidationWarn, metav1.FieldValidationStrict}))
	}
	if len(opts.FieldManager) > 128 {
		return opts, invalid(field.TooLong(path("fieldManager"), "", 128))
	}
	if !utf8.ValidString(opts.FieldManager) || strings.ContainsFunc(opts.FieldManager, func(c rune) bool { return !unicode.IsPrint(c) }) {
		return opts, invalid(field.Invalid(path("fieldManager"), strings.ToValidUTF8(opts.FieldManager, "?"), "should only contain printable characters"))
	}
	return opts, nil
}

// body reads and decodes the object of a create or update and checks it against the path.
func (s *Server) body(w http.ResponseWriter, r *http.Request, t target, validation string) (object.Object, error) {
	enc, err := contentEncoding(r)
	if err != nil {
		return nil, err
	}
	data, err := readBody(w, r)
	if err != nil {
		return nil, err
	}
	var decoded runtime.Object
	var warnings []string
	if t.isCustom() {
		decoded, warnings, err = decodeCustom(data, enc, t.kind, validation)
	} else {
		decoded, warnings, err = s.codec.decode(data, enc, t.gvk(), validation)
	}
	if err != nil {
		return nil, err
	}
	warn(w, warnings)
	obj, ok := decoded.(object.Object)
	if !ok {
		return nil, fmt.Errorf("%T is no object", decoded)
	}
	if t.kind.Namespaced {
		switch obj.GetNamespace() {
		case t.ref.Namespace:
		case "":
			obj.SetNamespace(t.ref.Namespace)
		default:
			return nil, apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
		}
	} else if obj.GetNamespace() != "" {
		return nil, apierrors.NewBadRequest("namespace field is not allowed for cluster-scoped object")
	}
	if t.ref.Name != "" {
		switch obj.GetName() {
		case t.ref.Name:
		case "":
			obj.SetName(t.ref.Name)
		default:
			return nil, apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", obj.GetName(), t.ref.Name))
		}
	}
	return obj, nil
}

// do performs one write.
func (s *Server) do(w http.ResponseWriter, r *http.Request, caller registry.Caller, op registry.Operation) (registry.OperationResult, error) {
	result, err := s.cfg.Registry.Do(r.Context(), caller, op)
	if err == nil {
		err = result.Err
	}
	tell(w, r, result)
	return result, err
}

// tell passes on what is to be said about a write, whatever became of it.
func tell(w http.ResponseWriter, r *http.Request, result registry.OperationResult) {
	warn(w, result.Warnings)
	for _, a := range result.Annotations {
		seen := observation(r)
		seen.Annotations = append(seen.Annotations, audit.Annotation{Key: a.Key, Value: a.Value})
	}
}

// writeResult answers with what a write left; as protobuf without encoding it again.
func (s *Server) writeResult(w http.ResponseWriter, r *http.Request, f format, code int, t target, result registry.OperationResult) error {
	if f.shape == shapeObject && f.encoding == encodeProtobuf && result.Record != nil && result.Kind.GVK == t.gvk() {
		writeBody(w, mediaProtobuf, code, protobufBody(t.gvk(), result.Record.Value))
		return nil
	}
	if f.transcodes() && result.Record != nil && result.Kind.GVK == t.gvk() {
		return s.writeTranscoded(w, f, code, t, result.Record)
	}
	obj := result.Object
	if obj == nil {
		if result.Record == nil {
			return fmt.Errorf("the write of %s %s left nothing to show", t.ref.Resource.Resource, t.ref.Name)
		}
		var err error
		if obj, err = object.Decode(result.Kind, result.Record.Value); err != nil {
			return err
		}
	}
	return s.writeShaped(w, r, f, code, t, obj)
}

func (s *Server) create(w http.ResponseWriter, r *http.Request, caller registry.Caller, t target) error {
	f, err := t.negotiate(r)
	if err != nil {
		return err
	}
	opts, err := writeOptions(r, "CreateOptions")
	if err != nil {
		return err
	}
	obj, err := s.body(w, r, t, opts.FieldValidation)
	if err != nil {
		return err
	}
	result, err := s.do(w, r, caller, registry.Operation{Verb: registry.VerbCreate, Ref: t.ref, Object: obj, Options: opts})
	if err != nil {
		return err
	}
	if t.sub != nil && (t.sub.Name == "binding" || t.sub.Name == "eviction") {
		s.writeObject(w, plainFormat(r), http.StatusCreated, success(http.StatusCreated, nil))
		return nil
	}
	return s.writeResult(w, r, f, http.StatusCreated, t, result)
}

func (s *Server) update(w http.ResponseWriter, r *http.Request, caller registry.Caller, t target) error {
	f, err := t.negotiate(r)
	if err != nil {
		return err
	}
	opts, err := writeOptions(r, "UpdateOptions")
	if err != nil {
		return err
	}
	obj, err := s.body(w, r, t, opts.FieldValidation)
	if err != nil {
		return err
	}
	result, err := s.do(w, r, caller, registry.Operation{Verb: registry.VerbUpdate, Ref: t.ref, Object: obj, Options: opts})
	if err != nil {
		return err
	}
	return s.writeResult(w, r, f, http.StatusOK, t, result)
}

func (s *Server) patch(w http.ResponseWriter, r *http.Request, caller registry.Caller, t target) error {
	f, err := t.negotiate(r)
	if err != nil {
		return err
	}
	opts, err := writeOptions(r, "PatchOptions")
	if err != nil {
		return err
	}
	patchType, err := patchTypeOf(r, t)
	if err != nil {
		return err
	}
	data, err := readBody(w, r)
	if err != nil {
		return err
	}
	code := http.StatusOK
	switch patchType {
	case types.ApplyPatchType:
		if opts.FieldManager == "" {
			return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "PatchOptions"}, "", field.ErrorList{
				field.Required(field.NewPath("fieldManager"), "is required for apply patch"),
			})
		}
		if code, err = s.applyCode(w, r, t, data, opts.FieldValidation); err != nil {
			return err
		}
	default:
		if opts.Force {
			return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "PatchOptions"}, "", field.ErrorList{
				field.Forbidden(field.NewPath("force"), "may not be specified for non-apply patch"),
			})
		}
		if patchType != types.JSONPatchType && !t.isCustom() && opts.FieldValidation == metav1.FieldValidationWarn {
			warn(w, s.patchWarnings(data, t))
		}
	}
	result, err := s.do(w, r, caller, registry.Operation{Verb: registry.VerbPatch, Ref: t.ref, PatchType: patchType, Patch: data, Options: opts})
	if err != nil {
		return err
	}
	return s.writeResult(w, r, f, code, t, result)
}

// patchWarnings names the fields of a merge patch that the kind does not know. The
// registry refuses them in strict patches; it cannot warn.
func (s *Server) patchWarnings(data []byte, t target) []string {
	_, warnings, err := s.codec.decode(data, encodeJSON, t.gvk(), metav1.FieldValidationWarn)
	if err != nil {
		return nil // the registry says what is wrong with the patch
	}
	// Directives such as $setElementOrder are no fields.
	return slices.DeleteFunc(warnings, func(text string) bool { return strings.Contains(text, "$") })
}

// applyCode checks an apply configuration's fields and tells whether the apply is
// going to create the object, which is answered with 201.
func (s *Server) applyCode(w http.ResponseWriter, r *http.Request, t target, data []byte, validation string) (int, error) {
	if validation != metav1.FieldValidationIgnore && !t.isCustom() {
		_, warnings, err := s.codec.decode(data, encodeYAML, t.gvk(), validation)
		if err != nil {
			return 0, err
		}
		warn(w, warnings)
	} else if err := yaml.Unmarshal(data, &map[string]any{}); err != nil {
		return 0, apierrors.NewBadRequest("decode apply configuration: " + err.Error())
	}
	if t.sub == nil {
		if _, err := s.cfg.Registry.Get(r.Context(), t.ref); apierrors.IsNotFound(err) {
			return http.StatusCreated, nil
		}
	}
	return http.StatusOK, nil
}

func patchTypeOf(r *http.Request, t target) (types.PatchType, error) {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		media = r.Header.Get("Content-Type")
	}
	known := []types.PatchType{types.JSONPatchType, types.MergePatchType, types.StrategicMergePatchType, types.ApplyYAMLPatchType}
	if t.isCustom() { // nothing says how such objects are merged strategically
		known = slices.Delete(known, 2, 3)
	}
	if !slices.Contains(known, types.PatchType(media)) {
		names := make([]string, len(known))
		for i, one := range known {
			names[i] = string(one)
		}
		return "", unsupportedMediaType(media, names...)
	}
	return types.PatchType(media), nil
}

// deleteOptions reads the body of a deletion and, for what it leaves open, the query.
func deleteOptions(w http.ResponseWriter, r *http.Request) (metav1.DeleteOptions, error) {
	enc, err := contentEncoding(r)
	if err != nil {
		return metav1.DeleteOptions{}, err
	}
	data, err := readBody(w, r)
	if err != nil {
		return metav1.DeleteOptions{}, err
	}
	options, err := decodeDeleteOptions(data, enc)
	if err != nil {
		return options, err
	}
	query := r.URL.Query()
	if grace := query.Get("gracePeriodSeconds"); grace != "" && options.GracePeriodSeconds == nil {
		seconds, err := strconv.ParseInt(grace, 10, 64)
		if err != nil {
			return options, apierrors.NewBadRequest(fmt.Sprintf("gracePeriodSeconds %q is not a number", grace))
		}
		options.GracePeriodSeconds = &seconds
	}
	if policy := query.Get("propagationPolicy"); policy != "" && options.PropagationPolicy == nil {
		options.PropagationPolicy = new(metav1.DeletionPropagation(policy))
	}
	if orphan := query.Get("orphanDependents"); orphan != "" && options.OrphanDependents == nil { //nolint:staticcheck // old clients send it
		options.OrphanDependents = new(isTrue(orphan)) //nolint:staticcheck // old clients send it
	}
	if len(options.DryRun) == 0 {
		options.DryRun = query["dryRun"]
	}
	return options, validateDeleteOptions(&options)
}

func validateDeleteOptions(options *metav1.DeleteOptions) error {
	var errs field.ErrorList
	for _, dryRun := range options.DryRun {
		if dryRun != metav1.DryRunAll {
			errs = append(errs, field.NotSupported(field.NewPath("dryRun"), dryRun, []string{metav1.DryRunAll}))
		}
	}
	orphan := &options.OrphanDependents //nolint:staticcheck // old clients send it
	switch {
	case *orphan != nil && options.PropagationPolicy != nil:
		errs = append(errs, field.Invalid(field.NewPath("propagationPolicy"), *options.PropagationPolicy, "orphanDependents and deletionPropagation cannot be both set"))
	case *orphan != nil && **orphan:
		options.PropagationPolicy, *orphan = new(metav1.DeletePropagationOrphan), nil
	case *orphan != nil:
		options.PropagationPolicy, *orphan = new(metav1.DeletePropagationBackground), nil
	}
	if policy := options.PropagationPolicy; policy != nil {
		supported := []metav1.DeletionPropagation{metav1.DeletePropagationForeground, metav1.DeletePropagationBackground, metav1.DeletePropagationOrphan}
		if !slices.Contains(supported, *policy) {
			errs = append(errs, field.NotSupported(field.NewPath("propagationPolicy"), *policy, supported))
		}
	}
	if len(errs) > 0 {
		return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "DeleteOptions"}, "", errs)
	}
	return nil
}

func success(code int32, details *metav1.StatusDetails) *metav1.Status {
	status := &metav1.Status{Status: metav1.StatusSuccess, Details: details}
	if code != http.StatusOK {
		status.Code = code
	}
	status.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "Status"})
	return status
}

// remove deletes one object: the answer is the object while it is still terminating, a
// Status once it is gone.
func (s *Server) remove(w http.ResponseWriter, r *http.Request, caller registry.Caller, t target) error {
	f, err := t.negotiate(r)
	if err != nil {
		return err
	}
	options, err := deleteOptions(w, r)
	if err != nil {
		return err
	}
	result, err := s.do(w, r, caller, registry.Operation{Verb: registry.VerbDelete, Ref: t.ref, Delete: options})
	if err != nil {
		return err
	}
	if !result.Deleted {
		return s.writeResult(w, r, f, http.StatusOK, t, result)
	}
	details := &metav1.StatusDetails{Name: t.ref.Name, Group: t.ref.Resource.Group, Kind: t.ref.Resource.Resource}
	switch {
	case result.Object != nil:
		details.UID = result.Object.GetUID()
	case result.Record != nil:
		details.UID = result.Record.Index.UID
	}
	s.writeObject(w, plainFormat(r), http.StatusOK, success(http.StatusOK, details))
	return nil
}

func (s *Server) removeCollection(w http.ResponseWriter, r *http.Request, caller registry.Caller, t target) error {
	options, err := deleteOptions(w, r)
	if err != nil {
		return err
	}
	list, err := listOptions(r, t)
	if err != nil {
		return err
	}
	if _, err := s.cfg.Registry.DeleteCollection(r.Context(), caller, t.ref, options, list); err != nil {
		return err
	}
	s.writeObject(w, plainFormat(r), http.StatusOK, success(http.StatusOK, &metav1.StatusDetails{Group: t.ref.Resource.Group, Kind: t.ref.Resource.Resource}))
	return nil
}
