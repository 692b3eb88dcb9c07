package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/validation/field"
	strictjson "sigs.k8s.io/json"

	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
)

// planPatch changes part of an object. It is computed against whatever the object is when
// the batch is formed, so it conflicts only if it names a version.
func (e *Engine) planPatch(caller Caller, kind *Kind, op Operation, d *decisions) (*plan, error) {
	ref := op.Ref
	if len(op.Patch) > maxPatchBytes {
		return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", maxPatchBytes))
	}
	if op.PatchType == types.ApplyPatchType {
		return e.planApply(caller, kind, op, d)
	}
	if op.PatchType == types.StrategicMergePatchType && kind.Custom != nil && ref.Subresource != "scale" {
		return nil, unsupportedPatch(types.JSONPatchType, types.MergePatchType, types.ApplyYAMLPatchType)
	}
	patch, err := parsePatch(op.PatchType, op.Patch)
	if err != nil {
		return nil, err
	}
	p := &plan{kind: kind, key: keyOf(kind, ref.Namespace, ref.Name)}
	how := edit{kind: kind, caller: caller, subresource: ref.Subresource, by: writerOf(caller, op.Options), dry: dryRun(op), decisions: d}
	p.compute = func(current *store.Record) (outcome, error) {
		if current == nil {
			return outcome{}, notFound(kind, ref.Name)
		}
		old, err := decode(kind, current)
		if err != nil {
			return outcome{}, err
		}
		if ref.Subresource == "scale" {
			return e.patchScale(how, current, old, patch, op.Options)
		}
		obj := kind.New()
		if err := patch.apply(old, obj, op.Options); err != nil {
			return outcome{}, err
		}
		if err := samePlace(old, obj); err != nil {
			return outcome{}, err
		}
		obj.GetObjectKind().SetGroupVersionKind(kind.GVK)
		warnings, err := unknownFields(kind, obj, nil, op.Options)
		if err != nil {
			return outcome{}, err
		}
		out, err := e.change(how, current, old, obj)
		out.warnings = append(warnings, out.warnings...)
		return out, err
	}
	return p, nil
}

// samePlace refuses patches that move an object.
func samePlace(old, obj object.Object) error {
	if obj.GetName() != old.GetName() {
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", obj.GetName(), old.GetName()))
	}
	if obj.GetNamespace() != old.GetNamespace() {
		return apierrors.NewBadRequest(fmt.Sprintf("the namespace of the object (%s) does not match the namespace on the request (%s)", obj.GetNamespace(), old.GetNamespace()))
	}
	return nil
}

// patch is a parsed patch.
type patch struct {
	kind types.PatchType
	text []byte
	json jsonpatch.Patch
}

func parsePatch(kind types.PatchType, text []byte) (*patch, error) {
	p := &patch{kind: kind, text: text}
	if err := object.CheckDepth(text, maxDepth); err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
	}
	switch kind {
	case types.JSONPatchType:
		parsed, err := jsonpatch.DecodePatch(text)
		if err != nil {
			return nil, apierrors.NewBadRequest("error decoding patch: " + err.Error())
		}
		if len(parsed) > maxPatchOperations {
			return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("The allowed maximum operations in a JSON patch is %d, got %d", maxPatchOperations, len(parsed)))
		}
		p.json = parsed
	case types.MergePatchType, types.StrategicMergePatchType:
		var members map[string]json.RawMessage
		if err := json.Unmarshal(text, &members); err != nil || members == nil {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %q is no JSON object: %v", truncate(string(text), 128), err))
		}
	default:
		return nil, unsupportedPatch(types.JSONPatchType, types.MergePatchType, types.StrategicMergePatchType, types.ApplyYAMLPatchType)
	}
	return p, nil
}

// unsupportedPatch refuses a patch of a type that the kind does not have.
func unsupportedPatch(supported ...types.PatchType) error {
	names := make([]string, len(supported))
	for i, one := range supported {
		names[i] = string(one)
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: 415, Reason: metav1.StatusReasonUnsupportedMediaType,
		Message: "the body of the request was in an unknown format - accepted media types include: " + strings.Join(names, ", "),
	}}
}

// apply decodes old with the patch applied into the empty object obj.
func (p *patch) apply(old, obj object.Object, opts WriteOptions) error {
	original, err := json.Marshal(old)
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("encode as JSON: %w", err))
	}
	patched, err := p.patched(original, obj)
	if err != nil {
		return err
	}
	return decodeJSON(patched, obj, opts, p.text)
}

func (p *patch) patched(original []byte, obj object.Object) ([]byte, error) {
	switch p.kind {
	case types.JSONPatchType:
		if err := boundArrayMoves(p.json, original); err != nil {
			return nil, err
		}
		out, err := p.json.Apply(original)
		if tooMuch := (*jsonpatch.AccumulatedCopySizeError)(nil); errors.As(err, &tooMuch) {
			return nil, tooCostly("%v", err)
		}
		if err != nil {
			return nil, unprocessable(err)
		}
		return out, nil
	case types.MergePatchType:
		out, err := jsonpatch.MergePatch(original, p.text)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		return out, nil
	}
	if err := boundListPairs(p.text, original); err != nil {
		return nil, err
	}
	out, err := strategicpatch.StrategicMergePatch(original, p.text, obj)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return out, nil
}

// unprocessable is a patch that is well-formed but does not fit the object.
func unprocessable(err error) error {
	out := apierrors.NewGenericServerResponse(422, "", schema.GroupResource{}, "", err.Error(), 0, false)
	out.ErrStatus.Reason = metav1.StatusReasonInvalid
	out.ErrStatus.Message = "the server rejected our request due to an error in our request: " + err.Error()
	return out
}

// decodeJSON decodes a patched object. Unknown and repeated fields are errors under Strict validation.
func decodeJSON(text []byte, into any, opts WriteOptions, patch []byte) error {
	if err := CheckJSON(text, into); err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("cannot decode the patched object: %v", err))
	}
	strict, err := strictjson.UnmarshalStrict(text, into)
	if err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("cannot decode the patched object: %v", err))
	}
	if len(strict) == 0 || opts.FieldValidation != metav1.FieldValidationStrict {
		return nil
	}
	return apierrors.NewInvalid(schema.GroupKind{}, "", field.ErrorList{
		field.Invalid(field.NewPath("patch"), truncate(string(patch), 1024), strictText(strict)),
	})
}

func strictText(errs []error) string {
	return "strict decoding error: " + joined(errs)
}

func joined(errs []error) string {
	text := ""
	for i, err := range errs {
		if i > 0 {
			text += ", "
		}
		text += err.Error()
	}
	return text
}
