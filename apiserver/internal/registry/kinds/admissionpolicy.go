package kinds

import (
	"slices"
	"strings"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/platform/kube/object"
)

const (
	maxAuditAnnotations = 20
	// maxAuditExpression is in bytes.
	maxAuditExpression = 5 << 10
)

func validatingAdmissionPolicy() *Kind {
	type policy = admissionregistrationv1.ValidatingAdmissionPolicy
	kind := object.KindOf[*policy]()
	return &Kind{
		Kind: kind, Singular: "validatingadmissionpolicy", Categories: []string{"api-extensions"}, Verbs: standardVerbs(),
		Subresources: []Subresource{statusSubresource(kind)},
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Validations", "integer", "Number of validations"), column("ParamKind", "string", "Kind of the parameters"), ageColumn(),
		},
		Row: rowOf(func(p *policy, now time.Time) []any {
			return []any{p.Name, int64(len(p.Spec.Validations)), paramKindText(p.Spec.ParamKind), age(p.CreationTimestamp, now)}
		}),
		ValidateName: validation.NameIsDNSSubdomain,
		Default: on(func(p *policy) {
			setDefaultPtr(&p.Spec.FailurePolicy, admissionregistrationv1.Fail)
			defaultMatchResources(p.Spec.MatchConstraints)
		}),
		PrepareForCreate: on(func(p *policy) { p.Status = admissionregistrationv1.ValidatingAdmissionPolicyStatus{} }),
		PrepareForUpdate: onBoth(func(p, old *policy) { p.Status = old.Status }),
		PrepareForStatusUpdate: onBoth(func(p, old *policy) {
			p.Spec = old.Spec
			keepStatusMetadata(&p.ObjectMeta, &old.ObjectMeta, false)
		}),
		SpecEqual: specEqual(func(p *policy) *admissionregistrationv1.ValidatingAdmissionPolicySpec { return &p.Spec }),
		Validate:  check(validateValidatingPolicy),
		ValidateStatusUpdate: checkBoth(func(p, _ *policy) field.ErrorList {
			status := field.NewPath("status")
			errs := nonNegative(p.Status.ObservedGeneration, status.Child("observedGeneration"))
			if checking := p.Status.TypeChecking; checking != nil {
				for i, warning := range checking.ExpressionWarnings {
					at := status.Child("typeChecking", "expressionWarnings").Index(i)
					if warning.FieldRef == "" {
						errs = append(errs, field.Required(at.Child("fieldRef"), ""))
					}
					if warning.Warning == "" {
						errs = append(errs, field.Required(at.Child("warning"), ""))
					}
				}
			}
			return append(errs, metavalidation.ValidateConditions(p.Status.Conditions, status.Child("conditions"))...)
		}),
	}
}

func paramKindText(kind *admissionregistrationv1.ParamKind) string {
	if kind == nil {
		return "<unset>"
	}
	return kind.APIVersion + "/" + kind.Kind
}

func validateValidatingPolicy(p *admissionregistrationv1.ValidatingAdmissionPolicy) field.ErrorList {
	spec, path := &p.Spec, field.NewPath("spec")
	errs := validatePolicyFrame(policyFrame{
		paramKind: spec.ParamKind, constraints: spec.MatchConstraints, operations: allOperations(), failurePolicy: valueOf(spec.FailurePolicy),
		conditions: spec.MatchConditions, variables: spec.Variables,
	}, path)
	if len(spec.Validations) == 0 && len(spec.AuditAnnotations) == 0 {
		errs = append(errs, field.Required(path.Child("validations"), "validations or auditAnnotations must be non-empty"))
		errs = append(errs, field.Required(path.Child("auditAnnotations"), "validations or auditAnnotations must be non-empty"))
	}
	for i := range spec.Validations {
		errs = append(errs, validatePolicyValidation(&spec.Validations[i], path.Child("validations").Index(i))...)
	}
	annotations := path.Child("auditAnnotations")
	if n := len(spec.AuditAnnotations); n > maxAuditAnnotations {
		errs = append(errs, field.TooMany(annotations, n, maxAuditAnnotations))
	}
	keys := map[string]bool{}
	for i, annotation := range spec.AuditAnnotations {
		at := annotations.Index(i)
		if annotation.Key == "" {
			errs = append(errs, field.Required(at.Child("key"), ""))
		} else {
			// The key that the audit event carries has the policy's name before it.
			errs = append(errs, messages(utilvalidation.IsQualifiedName(p.Name+"/"+annotation.Key), annotation.Key, at.Child("key"))...)
		}
		if keys[annotation.Key] {
			errs = append(errs, field.Duplicate(at.Child("key"), annotation.Key))
		}
		keys[annotation.Key] = true
		errs = append(errs, validateExpression(annotation.ValueExpression, "", at.Child("valueExpression"))...)
		if len(annotation.ValueExpression) > maxAuditExpression {
			errs = append(errs, field.TooLong(at.Child("valueExpression"), "", maxAuditExpression))
		}
	}
	return errs
}

func validatePolicyValidation(v *admissionregistrationv1.Validation, at *field.Path) field.ErrorList {
	errs := validateExpression(v.Expression, "expression is not specified", at.Child("expression"))
	message := strings.TrimSpace(v.Message)
	switch {
	case v.Message != "" && message == "":
		errs = append(errs, field.Invalid(at.Child("message"), v.Message, "message must be non-empty if specified"))
	case strings.ContainsAny(message, "\r\n"):
		errs = append(errs, field.Invalid(at.Child("message"), v.Message, "message must not contain line breaks"))
	case message == "" && strings.ContainsAny(strings.TrimSpace(v.Expression), "\r\n"):
		errs = append(errs, field.Required(at.Child("message"), "message must be specified if expression contains line breaks"))
	}
	if v.MessageExpression != "" && strings.TrimSpace(v.MessageExpression) == "" {
		errs = append(errs, field.Invalid(at.Child("messageExpression"), v.MessageExpression, "must be non-empty if specified"))
	}
	known := []metav1.StatusReason{
		metav1.StatusReasonForbidden, metav1.StatusReasonInvalid, metav1.StatusReasonRequestEntityTooLarge, metav1.StatusReasonUnauthorized,
	}
	if v.Reason != nil && !slices.Contains(known, *v.Reason) {
		errs = append(errs, field.NotSupported(at.Child("reason"), *v.Reason, known))
	}
	return errs
}

// policyFrame is what both kinds of policies have in common.
type policyFrame struct {
	paramKind     *admissionregistrationv1.ParamKind
	constraints   *admissionregistrationv1.MatchResources
	operations    []admissionregistrationv1.OperationType
	failurePolicy admissionregistrationv1.FailurePolicyType
	conditions    []admissionregistrationv1.MatchCondition
	variables     []admissionregistrationv1.Variable
}

func validatePolicyFrame(f policyFrame, path *field.Path) field.ErrorList {
	errs := validateFailurePolicy(f.failurePolicy, path.Child("failurePolicy"))
	if f.paramKind != nil {
		errs = append(errs, validateParamKind(f.paramKind, path.Child("paramKind"))...)
	}
	at := path.Child("matchConstraints")
	if f.constraints == nil {
		errs = append(errs, field.Required(at, ""))
	} else {
		errs = append(errs, validateMatchResources(f.constraints, f.operations, at)...)
		if len(f.constraints.ResourceRules) == 0 {
			errs = append(errs, field.Required(at.Child("resourceRules"), ""))
		}
	}
	errs = append(errs, validateMatchConditions(f.conditions, path.Child("matchConditions"))...)
	return append(errs, validateVariables(f.variables, path.Child("variables"))...)
}

func validateParamKind(kind *admissionregistrationv1.ParamKind, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if kind.APIVersion == "" {
		errs = append(errs, field.Required(at.Child("apiVersion"), ""))
	} else if gv, err := schema.ParseGroupVersion(kind.APIVersion); err != nil {
		errs = append(errs, field.Invalid(at.Child("apiVersion"), kind.APIVersion, err.Error()))
	} else {
		if gv.Group != "" {
			errs = append(errs, messages(utilvalidation.IsDNS1123Subdomain(gv.Group), gv.Group, at.Child("apiVersion"))...)
		}
		errs = append(errs, messages(utilvalidation.IsDNS1035Label(gv.Version), gv.Version, at.Child("apiVersion"))...)
	}
	if kind.Kind == "" {
		return append(errs, field.Required(at.Child("kind"), ""))
	}
	return append(errs, messages(utilvalidation.IsDNS1035Label(strings.ToLower(kind.Kind)), kind.Kind, at.Child("kind"))...)
}

// isCELIdentifier tells whether CEL takes a name for an identifier.
func isCELIdentifier(name string) bool {
	for i, r := range name {
		letter := r == '_' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		if !letter && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	switch name {
	case "", "as", "break", "const", "continue", "else", "false", "for", "function", "if", "import", "in", "let", "loop",
		"namespace", "null", "package", "return", "true", "var", "void", "while":
		return false
	}
	return true
}

func validateVariables(variables []admissionregistrationv1.Variable, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := map[string]bool{}
	for i, variable := range variables {
		at := path.Index(i)
		switch {
		case variable.Name == "":
			errs = append(errs, field.Required(at.Child("name"), "name is not specified"))
		case !isCELIdentifier(variable.Name):
			errs = append(errs, field.Invalid(at.Child("name"), variable.Name, "name is not a valid CEL identifier"))
		}
		if names[variable.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), variable.Name))
		}
		names[variable.Name] = true
		errs = append(errs, validateExpression(variable.Expression, "expression is not specified", at.Child("expression"))...)
	}
	return errs
}

func mutatingAdmissionPolicy() *Kind {
	type policy = admissionregistrationv1.MutatingAdmissionPolicy
	return &Kind{
		Kind: object.KindOf[*policy](), Singular: "mutatingadmissionpolicy", Categories: []string{"api-extensions"}, Verbs: standardVerbs(),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Mutations", "integer", "Number of mutations"), column("ParamKind", "string", "Kind of the parameters"), ageColumn(),
		},
		Row: rowOf(func(p *policy, now time.Time) []any {
			return []any{p.Name, int64(len(p.Spec.Mutations)), paramKindText(p.Spec.ParamKind), age(p.CreationTimestamp, now)}
		}),
		ValidateName: validation.NameIsDNSSubdomain,
		Default: on(func(p *policy) {
			setDefaultPtr(&p.Spec.FailurePolicy, admissionregistrationv1.Fail)
			defaultMatchResources(p.Spec.MatchConstraints)
		}),
		SpecEqual: specEqual(func(p *policy) *admissionregistrationv1.MutatingAdmissionPolicySpec { return &p.Spec }),
		Validate: check(func(p *policy) field.ErrorList {
			spec, path := &p.Spec, field.NewPath("spec")
			errs := validatePolicyFrame(policyFrame{
				paramKind: spec.ParamKind, constraints: spec.MatchConstraints, operations: mutableOperations(), failurePolicy: valueOf(spec.FailurePolicy),
				conditions: spec.MatchConditions, variables: spec.Variables,
			}, path)
			errs = append(errs, validateReinvocation(spec.ReinvocationPolicy, path.Child("reinvocationPolicy"))...)
			if len(spec.Mutations) == 0 {
				errs = append(errs, field.Required(path.Child("mutations"), "mutations must contain at least one item"))
			}
			for i := range spec.Mutations {
				errs = append(errs, validateMutation(&spec.Mutations[i], path.Child("mutations").Index(i))...)
			}
			return errs
		}),
	}
}

// mutableOperations are those that leave an object to be changed.
func mutableOperations() []admissionregistrationv1.OperationType {
	return slices.DeleteFunc(allOperations(), func(o admissionregistrationv1.OperationType) bool { return o == admissionregistrationv1.Delete })
}

func validateMutation(m *admissionregistrationv1.Mutation, at *field.Path) field.ErrorList {
	apply, patch := at.Child("applyConfiguration"), at.Child("jsonPatch")
	var errs field.ErrorList
	switch m.PatchType {
	case admissionregistrationv1.PatchTypeApplyConfiguration:
		if m.ApplyConfiguration == nil {
			errs = append(errs, field.Required(apply, "must be specified when patchType is ApplyConfiguration"))
		} else {
			errs = append(errs, validateExpression(m.ApplyConfiguration.Expression, "expression is not specified", apply.Child("expression"))...)
		}
		if m.JSONPatch != nil {
			errs = append(errs, field.Invalid(patch, "{jsonPatch}", "must not be specified when patchType is ApplyConfiguration"))
		}
	case admissionregistrationv1.PatchTypeJSONPatch:
		if m.JSONPatch == nil {
			errs = append(errs, field.Required(patch, "must be specified when patchType is JSONPatch"))
		} else {
			errs = append(errs, validateExpression(m.JSONPatch.Expression, "expression is not specified", patch.Child("expression"))...)
		}
		if m.ApplyConfiguration != nil {
			errs = append(errs, field.Invalid(apply, "{applyConfiguration}", "must not be specified when patchType is JSONPatch"))
		}
	case "":
		errs = append(errs, field.Required(at.Child("patchType"), ""))
	default:
		errs = append(errs, field.NotSupported(at.Child("patchType"), m.PatchType, []admissionregistrationv1.PatchType{
			admissionregistrationv1.PatchTypeApplyConfiguration, admissionregistrationv1.PatchTypeJSONPatch,
		}))
	}
	return errs
}

func policyBindingColumns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		nameColumn(), column("PolicyName", "string", "Policy that is bound"), column("ParamRef", "string", "Parameters it is bound with"), ageColumn(),
	}
}

func paramRefText(ref *admissionregistrationv1.ParamRef) string {
	switch {
	case ref == nil:
		return "<unset>"
	case ref.Name == "":
		return ref.Namespace + "/*"
	case ref.Namespace == "":
		return "*/" + ref.Name
	}
	return ref.Namespace + "/" + ref.Name
}

func validatingAdmissionPolicyBinding() *Kind {
	type binding = admissionregistrationv1.ValidatingAdmissionPolicyBinding
	return &Kind{
		Kind: object.KindOf[*binding](), Singular: "validatingadmissionpolicybinding", Categories: []string{"api-extensions"}, Verbs: standardVerbs(),
		Columns: policyBindingColumns(),
		Row: rowOf(func(b *binding, now time.Time) []any {
			return []any{b.Name, b.Spec.PolicyName, paramRefText(b.Spec.ParamRef), age(b.CreationTimestamp, now)}
		}),
		ValidateName: validation.NameIsDNSSubdomain,
		Default:      on(func(b *binding) { defaultMatchResources(b.Spec.MatchResources) }),
		SpecEqual:    specEqual(func(b *binding) *admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec { return &b.Spec }),
		Validate: check(func(b *binding) field.ErrorList {
			path := field.NewPath("spec")
			errs := validatePolicyBinding(b.Spec.PolicyName, b.Spec.ParamRef, b.Spec.MatchResources, allOperations(), path)
			return append(errs, validateValidationActions(b.Spec.ValidationActions, path.Child("validationActions"))...)
		}),
	}
}

func mutatingAdmissionPolicyBinding() *Kind {
	type binding = admissionregistrationv1.MutatingAdmissionPolicyBinding
	return &Kind{
		Kind: object.KindOf[*binding](), Singular: "mutatingadmissionpolicybinding", Categories: []string{"api-extensions"}, Verbs: standardVerbs(),
		Columns: policyBindingColumns(),
		Row: rowOf(func(b *binding, now time.Time) []any {
			return []any{b.Name, b.Spec.PolicyName, paramRefText(b.Spec.ParamRef), age(b.CreationTimestamp, now)}
		}),
		ValidateName: validation.NameIsDNSSubdomain,
		Default:      on(func(b *binding) { defaultMatchResources(b.Spec.MatchResources) }),
		SpecEqual:    specEqual(func(b *binding) *admissionregistrationv1.MutatingAdmissionPolicyBindingSpec { return &b.Spec }),
		Validate: check(func(b *binding) field.ErrorList {
			return validatePolicyBinding(b.Spec.PolicyName, b.Spec.ParamRef, b.Spec.MatchResources, mutableOperations(), field.NewPath("spec"))
		}),
	}
}

func validatePolicyBinding(policy string, ref *admissionregistrationv1.ParamRef, match *admissionregistrationv1.MatchResources, operations []admissionregistrationv1.OperationType, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if policy == "" {
		errs = append(errs, field.Required(path.Child("policyName"), ""))
	}
	errs = append(errs, validateSubdomain(policy, path.Child("policyName"))...)
	if ref != nil {
		errs = append(errs, validateParamRef(ref, path.Child("paramRef"))...)
	}
	if match != nil {
		errs = append(errs, validateMatchResources(match, operations, path.Child("matchResources"))...)
	}
	return errs
}

func validateParamRef(ref *admissionregistrationv1.ParamRef, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case ref.Name != "" && ref.Selector != nil:
		errs = append(errs, field.Forbidden(at.Child("name"), "name and selector are mutually exclusive"), field.Forbidden(at.Child("selector"), "name and selector are mutually exclusive"))
	case ref.Name == "" && ref.Selector == nil:
		errs = append(errs, field.Required(at, "one of name or selector must be specified"))
	}
	errs = append(errs, validatePathSegments(at, segmentField{"name", ref.Name, false}, segmentField{"namespace", ref.Namespace, false})...)
	if ref.Selector != nil {
		errs = append(errs, validateSelector(ref.Selector, at.Child("selector"))...)
	}
	switch action := ref.ParameterNotFoundAction; {
	case action == nil:
		errs = append(errs, field.Required(at.Child("parameterNotFoundAction"), ""))
	case *action != admissionregistrationv1.AllowAction && *action != admissionregistrationv1.DenyAction:
		errs = append(errs, field.NotSupported(at.Child("parameterNotFoundAction"), *action, []admissionregistrationv1.ParameterNotFoundActionType{
			admissionregistrationv1.AllowAction, admissionregistrationv1.DenyAction,
		}))
	}
	return errs
}

func validateValidationActions(actions []admissionregistrationv1.ValidationAction, at *field.Path) field.ErrorList {
	if len(actions) == 0 {
		return field.ErrorList{field.Required(at, "at least one validation action is required")}
	}
	known := []admissionregistrationv1.ValidationAction{admissionregistrationv1.Audit, admissionregistrationv1.Deny, admissionregistrationv1.Warn}
	var errs field.ErrorList
	for i, action := range actions {
		switch {
		case !slices.Contains(known, action):
			errs = append(errs, field.NotSupported(at.Index(i), action, known))
		case slices.Contains(actions[:i], action):
			errs = append(errs, field.Duplicate(at.Index(i), action))
		}
	}
	if slices.Contains(actions, admissionregistrationv1.Deny) && slices.Contains(actions, admissionregistrationv1.Warn) {
		errs = append(errs, field.Invalid(at, actions, "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)"))
	}
	return errs
}
