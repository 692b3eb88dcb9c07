package customkinds

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/common"

	"kijabi.dev/platform/kube/object"
)

// sharedSchemas is what the versions of one definition share: its encoding, which is the
// store's own, and what is made of it on demand.
type sharedSchemas struct {
	encoded   []byte
	converter func() (managedfields.TypeConverter, error)
}

// compiled is a version's schema, ready for use.
type compiled struct {
	// err says why there is no schema; validation then refuses everything.
	err        error
	structural *structuralschema.Structural
	validator  validation.SchemaValidator
	// status validates the status alone; nil if nothing is said about it.
	status validation.SchemaValidator
	rules  *cel.Validator
}

// structuralOf returns the schema of a version; nil if it has none.
func structuralOf(crd *apiextensionsv1.CustomResourceDefinition, version string) (*structuralschema.Structural, *apiextensions.JSONSchemaProps, error) {
	for i := range crd.Spec.Versions {
		v := &crd.Spec.Versions[i]
		if v.Name != version || v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
			continue
		}
		var props apiextensions.JSONSchemaProps
		if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(v.Schema.OpenAPIV3Schema, &props, nil); err != nil {
			return nil, nil, fmt.Errorf("schema of %s %s: %w", crd.Name, version, err)
		}
		structural, err := structuralschema.NewStructural(&props)
		if err != nil {
			return nil, nil, fmt.Errorf("schema of %s %s: %w", crd.Name, version, err)
		}
		return structural, &props, nil
	}
	return nil, nil, nil
}

func (s *sharedSchemas) compile(version string) (out *compiled) {
	defer func() {
		if cause := recover(); cause != nil { // see survive
			out = &compiled{err: fmt.Errorf("schema cannot be used: %v", cause)}
		}
	}()
	crd, err := decode(s.encoded)
	if err != nil {
		return &compiled{err: err}
	}
	structural, props, err := structuralOf(crd, version)
	if err != nil {
		return &compiled{err: err}
	}
	out = &compiled{structural: structural}
	if out.validator, _, err = validation.NewSchemaValidator(props); err != nil {
		return &compiled{err: fmt.Errorf("schema of %s %s: %w", crd.Name, version, err)}
	}
	if props != nil {
		if status, ok := props.Properties["status"]; ok {
			if out.status, _, err = validation.NewSchemaValidator(&status); err != nil {
				return &compiled{err: fmt.Errorf("schema of %s %s: %w", crd.Name, version, err)}
			}
		}
		out.rules = cel.NewValidator(structural, true, celconfig.PerCallLimit)
	}
	return out
}

// keep makes an object of what is left of its unstructured form.
func keep(c *object.Custom, whole map[string]any) {
	delete(whole, "apiVersion")
	delete(whole, "kind")
	delete(whole, "metadata")
	c.SetContent(whole)
}

// revise applies the schema: unknown fields go, nulls that may not be, too, and defaults come.
func (r *row) revise(c *object.Custom) {
	defer unharmed()
	r.prune(c)
	if s := r.schema(); s.err == nil && s.structural != nil {
		whole := c.ToUnstructured()
		defaulting.PruneNonNullableNullsWithoutDefaults(whole, s.structural)
		defaulting.Default(whole, s.structural)
		keep(c, whole)
	}
	c.Revision = r.kind.Custom.Revision
}

// prune drops what the schema does not know, in the metadata of embedded objects as well.
func (r *row) prune(c *object.Custom) []string {
	defer unharmed()
	s := r.schema()
	if s.err != nil || s.structural == nil {
		return nil
	}
	whole := c.ToUnstructured()
	unknown := pruning.PruneWithOptions(whole, s.structural, true, structuralschema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})
	// What is malformed there, validation reports.
	_, inside := objectmeta.CoerceWithOptions(nil, whole, s.structural, false, objectmeta.CoerceOptions{ReturnUnknownFieldPaths: true})
	keep(c, whole)
	return append(unknown, inside...)
}

// unharmed ends a panic of what changes an object, which stays as it is then; validation
// has the last word. See survive.
func unharmed() { _ = recover() }

// sameContent compares all but the metadata.
func sameContent(a, b *object.Custom) bool {
	left, errLeft := json.Marshal(a.Content())
	right, errRight := json.Marshal(b.Content())
	if errLeft == nil && errRight == nil && bytes.Equal(left, right) {
		return true
	}
	return apiequality.Semantic.DeepEqual(a.Content(), b.Content())
}

// refused is what a schema that cannot be used lets nobody write.
func refused(err error) field.ErrorList {
	return field.ErrorList{field.InternalError(nil, err)}
}

// blocked says why rules were not looked at: they may count on what the schema says.
func blocked(errs field.ErrorList) *field.Error {
	for _, err := range errs {
		switch err.Type {
		case field.ErrorTypeNotSupported, field.ErrorTypeRequired, field.ErrorTypeTooLong, field.ErrorTypeTooMany, field.ErrorTypeTypeInvalid:
			return field.Invalid(nil, nil, "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation")
		}
	}
	return nil
}

// ruleErrors evaluates the rules, within a budget. old is nil on creation.
func (s *compiled) ruleErrors(errs field.ErrorList, whole map[string]any, old any, options ...cel.Option) field.ErrorList {
	if s.rules == nil {
		return errs
	}
	if err := blocked(errs); err != nil {
		return append(errs, err)
	}
	// Rules end by their budget, not by a deadline: what they decide must not depend on load.
	found, _ := s.rules.Validate(context.Background(), nil, s.structural, whole, old, celconfig.RuntimeCELCostBudget, options...)
	return append(errs, found...)
}

func (r *row) validate(c *object.Custom) (errs field.ErrorList) {
	defer survive(&errs)
	s := r.schema()
	if s.err != nil {
		return refused(s.err)
	}
	whole := c.ToUnstructured()
	errs = validation.ValidateCustomResource(nil, whole, s.validator)
	errs = append(errs, r.scaleErrors(whole, true)...)
	errs = append(errs, objectmeta.Validate(context.Background(), nil, whole, s.structural, false)...)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, s.structural, whole)...)
	return s.ruleErrors(errs, whole, nil)
}

// validateUpdate tolerates in what has not been changed whatever is wrong with it.
func (r *row) validateUpdate(c, old *object.Custom) (errs field.ErrorList) {
	defer survive(&errs)
	s := r.schema()
	if s.err != nil {
		return refused(s.err)
	}
	whole, before := c.ToUnstructured(), old.ToUnstructured()
	both := common.NewCorrelatedObject(whole, before, &model.Structural{Structural: s.structural})
	errs = validation.ValidateCustomResourceUpdate(nil, whole, before, s.validator, validation.WithRatcheting(both))
	errs = append(errs, r.scaleErrors(whole, true)...)
	errs = append(errs, objectmeta.Validate(context.Background(), nil, whole, s.structural, false)...)
	errs = append(errs, s.listErrors(whole, before)...)
	return s.ruleErrors(errs, whole, before, cel.WithRatcheting(both))
}

func (s *compiled) listErrors(whole, before map[string]any) field.ErrorList {
	if len(listtype.ValidateListSetsAndMaps(nil, s.structural, before)) > 0 {
		return nil
	}
	return listtype.ValidateListSetsAndMaps(nil, s.structural, whole)
}

func (r *row) validateStatus(c, old *object.Custom) (errs field.ErrorList) {
	defer survive(&errs)
	s := r.schema()
	if s.err != nil {
		return refused(s.err)
	}
	whole, before := c.ToUnstructured(), old.ToUnstructured()
	both := common.NewCorrelatedObject(whole, before, &model.Structural{Structural: s.structural})
	if status, ok := whole["status"]; ok && s.status != nil {
		var options []validation.ValidationOption
		if s.structural != nil {
			options = append(options, validation.WithRatcheting(both.Key("status")))
		}
		errs = validation.ValidateCustomResourceUpdate(field.NewPath("status"), status, before["status"], s.status, options...)
	}
	errs = append(errs, r.scaleErrors(whole, false)...)
	errs = append(errs, s.listErrors(whole, before)...)
	return s.ruleErrors(errs, whole, before, cel.WithRatcheting(both))
}

// scaleErrors checks what the scale subresource shows.
func (r *row) scaleErrors(whole map[string]any, spec bool) field.ErrorList {
	if r.scale == nil {
		return nil
	}
	var errs field.ErrorList
	number := func(path string) {
		n, _, err := unstructured.NestedInt64(whole, steps(path)...)
		switch {
		case err != nil:
			errs = append(errs, field.Invalid(field.NewPath(path), n, err.Error()))
		case n < 0:
			errs = append(errs, field.Invalid(field.NewPath(path), n, "should be a non-negative integer"))
		case n > math.MaxInt32:
			errs = append(errs, field.Invalid(field.NewPath(path), n, fmt.Sprintf("should be less than or equal to %v", math.MaxInt32)))
		}
	}
	if spec {
		number(r.scale.SpecReplicasPath)
	}
	number(r.scale.StatusReplicasPath)
	if path := r.scale.LabelSelectorPath; path != nil {
		if text, _, err := unstructured.NestedString(whole, steps(*path)...); err != nil {
			errs = append(errs, field.Invalid(field.NewPath(*path), text, err.Error()))
		}
	}
	return errs
}
