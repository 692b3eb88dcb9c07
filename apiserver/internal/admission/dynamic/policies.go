package dynamic

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/cel-go/cel"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/apiserver/internal/admission/expression"
	"kijabi.dev/apiserver/internal/registry/kinds"
)

// policy is a ValidatingAdmissionPolicy with its bindings. It is immutable but for what it
// compiles on demand.
type policy struct {
	name     string
	scope    scope
	scopeErr error
	spec     *admissionregistrationv1.ValidatingAdmissionPolicySpec
	compiled *once[*compiledPolicy]
	bindings []*binding
}

// binding is where, and with which parameters, a policy of either kind is in force.
type binding struct {
	name     string
	scope    scope
	scopeErr error
	match    *admissionregistrationv1.MatchResources
	param    *admissionregistrationv1.ParamRef
	// actions of a validating policy.
	actions []admissionregistrationv1.ValidationAction
}

// bindings lists the bindings of one kind by the names of their policies, each by its own name.
// The caller holds mu.
func (a *Admission) bindings(resource string) map[string][]*binding {
	bound := map[string][]*binding{}
	for _, key := range a.keys(resource) {
		b, policy := &binding{name: key.Name}, ""
		switch obj := a.stored[key].obj.(type) {
		case *admissionregistrationv1.ValidatingAdmissionPolicyBinding:
			policy, b.match, b.param, b.actions = obj.Spec.PolicyName, obj.Spec.MatchResources, obj.Spec.ParamRef, obj.Spec.ValidationActions
		case *admissionregistrationv1.MutatingAdmissionPolicyBinding:
			policy, b.match, b.param = obj.Spec.PolicyName, obj.Spec.MatchResources, obj.Spec.ParamRef
		}
		b.scope, b.scopeErr = scopeOfMatch(b.match)
		bound[policy] = append(bound[policy], b)
	}
	return bound
}

// compiledPolicy is a policy's expressions.
type compiledPolicy struct {
	conditions  []*expression.Program
	variables   map[string]*expression.Program
	validations []compiledValidation
	annotations []*expression.Program
}

type compiledValidation struct {
	holds   *expression.Program
	message *expression.Program // nil: none
}

// policies lists the bound policies by name, each with its bindings by name. The caller holds mu.
func (a *Admission) policies() []*policy {
	bound := a.bindings("validatingadmissionpolicybindings." + admissionregistrationv1.GroupName)
	var out []*policy
	for _, key := range a.keys("validatingadmissionpolicies." + admissionregistrationv1.GroupName) {
		obj, ok := a.stored[key].obj.(*admissionregistrationv1.ValidatingAdmissionPolicy)
		if !ok || len(bound[obj.Name]) == 0 {
			continue
		}
		p := &policy{name: obj.Name, spec: &obj.Spec, compiled: &a.stored[key].policy, bindings: bound[obj.Name]}
		p.scope, p.scopeErr = scopeOfMatch(obj.Spec.MatchConstraints)
		out = append(out, p)
	}
	return out
}

func (p *policy) compile() (*compiledPolicy, error) { return compilePolicy(p.spec) }

func compilePolicy(spec *admissionregistrationv1.ValidatingAdmissionPolicySpec) (*compiledPolicy, error) {
	vars := expression.Vars{Params: spec.ParamKind != nil}
	out := &compiledPolicy{}
	var err error
	if out.conditions, err = compileConditions(spec.MatchConditions, vars); err != nil {
		return nil, err
	}
	vars.Variables = true
	if out.variables, err = compileVariables(spec.Variables, vars); err != nil {
		return nil, err
	}
	for i := range spec.Validations {
		v := &spec.Validations[i]
		var c compiledValidation
		if c.holds, err = expression.Compile(v.Expression, vars, cel.BoolType); err != nil {
			return nil, fmt.Errorf("validation %d %w", i, err)
		}
		if v.MessageExpression != "" {
			if c.message, err = expression.Compile(v.MessageExpression, vars, cel.StringType); err != nil {
				return nil, fmt.Errorf("messageExpression of validation %d %w", i, err)
			}
		}
		out.validations = append(out.validations, c)
	}
	for i := range spec.AuditAnnotations {
		program, err := expression.Compile(spec.AuditAnnotations[i].ValueExpression, vars, cel.StringType, cel.NullType)
		if err != nil {
			return nil, fmt.Errorf("audit annotation %q %w", spec.AuditAnnotations[i].Key, err)
		}
		out.annotations = append(out.annotations, program)
	}
	return out, nil
}

func compileVariables(of []admissionregistrationv1.Variable, vars expression.Vars) (map[string]*expression.Program, error) {
	out := make(map[string]*expression.Program, len(of))
	for i := range of {
		program, err := expression.Compile(of[i].Expression, vars)
		if err != nil {
			return nil, fmt.Errorf("variable %q %w", of[i].Name, err)
		}
		out[of[i].Name] = program
	}
	return out, nil
}

// finding is what a policy says against a request.
type finding struct {
	policy     *policy
	binding    *binding
	expression int
	message    string
	reason     metav1.StatusReason
}

func (f *finding) text() string {
	return fmt.Sprintf("ValidatingAdmissionPolicy '%s' with binding '%s' denied request: %s", f.policy.name, f.binding.name, f.message)
}

// checkPolicies evaluates all policies that a request matches.
func (s *Session) checkPolicies(r *Request) error {
	c := &policyCheck{session: s, request: r, values: map[string][]string{}}
	for _, p := range s.state.policies {
		if p.scopeErr != nil {
			continue // validated when it was stored
		}
		kind := s.match(&p.scope, r)
		if kind == nil {
			continue
		}
		for _, b := range p.bindings {
			if !s.bound(b, r) {
				continue
			}
			began := s.admission.cfg.Clock.Now()
			c.check(p, b, kind)
			c.count(p, b, s.admission.cfg.Clock.Since(began))
		}
	}
	return c.conclude()
}

// bound tells whether a binding puts its policy in force for a request that the policy matches.
func (s *Session) bound(b *binding, r *Request) bool {
	switch {
	case b.scopeErr != nil: // validated when it was stored
		return false
	case b.match == nil:
		return true
	case len(b.match.ResourceRules) == 0: // all that the policy is about
		return s.anyRule(b.scope.except, b.scope.equivalent, r) == nil && s.selects(&b.scope, r)
	}
	return s.match(&b.scope, r) != nil
}

// policyCheck gathers what policies say about one request.
type policyCheck struct {
	session *Session
	request *Request
	found   []*finding
	values  map[string][]string // of audit annotations
	before  int                 // findings there were before the check that is counted
}

func (c *policyCheck) count(p *policy, b *binding, took time.Duration) {
	action := "allow"
	if len(c.found) > c.before {
		action = strings.ToLower(string(b.actions[0]))
	}
	c.before = len(c.found)
	c.session.admission.cfg.Meter.Policy(p.name, b.name, action, took)
}

// failed notes that a policy could not be evaluated.
func (c *policyCheck) failed(p *policy, b *binding, index int, err error) {
	if p.spec.FailurePolicy != nil && *p.spec.FailurePolicy == admissionregistrationv1.Ignore {
		return
	}
	c.found = append(c.found, &finding{policy: p, binding: b, expression: index, message: err.Error(), reason: metav1.StatusReasonInvalid})
}

// check evaluates a policy with a binding, once for each of its parameters.
func (c *policyCheck) check(p *policy, b *binding, kind *kinds.Kind) {
	compiled, err := p.compiled.get(p.compile)
	if err != nil {
		c.failed(p, b, 0, fmt.Errorf("failed to configure policy: %w", err))
		return
	}
	params, err := c.session.paramsOf(p.spec.ParamKind, b.param, c.request)
	if err != nil {
		c.failed(p, b, 0, fmt.Errorf("failed to configure binding: %w", err))
		return
	}
	in, err := c.session.input(c.request, kind)
	if err != nil {
		c.failed(p, b, 0, err)
		return
	}
	in.Variables = compiled.variables
	for _, param := range params {
		in.Params = param
		met, err := c.session.conditionsMet(p.spec.MatchConditions, compiled.conditions, in)
		if err != nil {
			c.failed(p, b, 0, err)
		}
		if err != nil || !met {
			continue
		}
		in.Begin(expression.PolicyBudget)
		for i := range compiled.validations {
			c.validate(p, b, i, compiled, in)
		}
		for i, program := range compiled.annotations {
			c.annotate(p, b, i, program, in)
		}
	}
}

func (c *policyCheck) validate(p *policy, b *binding, index int, compiled *compiledPolicy, in *expression.Input) {
	v, program := &p.spec.Validations[index], compiled.validations[index]
	holds, err := program.holds.True(c.session.ctx, in)
	if err != nil {
		c.failed(p, b, index, fmt.Errorf("expression '%s' resulted in error: %w", strings.TrimSpace(v.Expression), err))
		return
	}
	if holds {
		return
	}
	f := &finding{policy: p, binding: b, expression: index, message: strings.TrimSpace(v.Message), reason: metav1.StatusReasonInvalid}
	if v.Reason != nil {
		f.reason = *v.Reason
	}
	if program.message != nil {
		text, absent, err := program.message.String(c.session.ctx, in)
		text = strings.TrimSpace(text)
		if err == nil && !absent && text != "" && len(text) <= expression.MaxMessage && !strings.ContainsAny(text, "\r\n") {
			f.message = text
		}
	}
	if f.message == "" {
		f.message = "failed expression: " + strings.TrimSpace(v.Expression)
	}
	c.found = append(c.found, f)
}

func (c *policyCheck) annotate(p *policy, b *binding, index int, program *expression.Program, in *expression.Input) {
	annotation := &p.spec.AuditAnnotations[index]
	value, absent, err := program.String(c.session.ctx, in)
	switch {
	case err != nil:
		c.failed(p, b, index, fmt.Errorf("audit annotation '%s' resulted in error: %w", annotation.Key, err))
	case !absent:
		key := p.name + "/" + annotation.Key
		if value = strings.TrimSpace(value); !slices.Contains(c.values[key], value) {
			c.values[key] = append(c.values[key], value)
		}
	}
}

// failure is a finding in the audit log.
type failure struct {
	Message    string                                     `json:"message"`
	Policy     string                                     `json:"policy"`
	Binding    string                                     `json:"binding"`
	Expression int                                        `json:"expressionIndex"`
	Actions    []admissionregistrationv1.ValidationAction `json:"validationActions"`
}

// conclude does what the bindings want done about what was found.
func (c *policyCheck) conclude() error {
	for _, p := range c.session.state.policies {
		for i := range p.spec.AuditAnnotations {
			key := p.name + "/" + p.spec.AuditAnnotations[i].Key
			if values := c.values[key]; len(values) > 0 {
				c.session.annotate(key, strings.Join(values, ", "))
				delete(c.values, key)
			}
		}
	}
	var refused *apierrors.StatusError
	var noted []failure
	for _, f := range c.found {
		for _, action := range f.binding.actions {
			switch action {
			case admissionregistrationv1.Deny:
				refused = deny(refused, c.request, f)
			case admissionregistrationv1.Warn:
				c.session.warn("Validation failed for ValidatingAdmissionPolicy '%s' with binding '%s': %s", f.policy.name, f.binding.name, f.message)
			case admissionregistrationv1.Audit:
				noted = append(noted, failure{f.message, f.policy.name, f.binding.name, f.expression, f.binding.actions})
			}
		}
	}
	if len(noted) > 0 {
		if text, err := json.Marshal(noted); err == nil {
			c.session.annotate("validation.policy.admission.k8s.io/validation_failure", string(text))
		}
	}
	if refused != nil {
		return refused
	}
	return nil
}

// deny makes the error of a refused request; the first finding is what it says, all are its causes.
func deny(so *apierrors.StatusError, r *Request, f *finding) *apierrors.StatusError {
	if so == nil {
		so = apierrors.NewForbidden(r.Kind.GVR.GroupResource(), r.Name, errors.New(f.text()))
		so.ErrStatus.Reason = f.reason
		switch f.reason {
		case metav1.StatusReasonForbidden:
			so.ErrStatus.Code = http.StatusForbidden
		case metav1.StatusReasonUnauthorized:
			so.ErrStatus.Code = http.StatusUnauthorized
		case metav1.StatusReasonRequestEntityTooLarge:
			so.ErrStatus.Code = http.StatusRequestEntityTooLarge
		default:
			so.ErrStatus.Code = http.StatusUnprocessableEntity
		}
	}
	so.ErrStatus.Details.Causes = append(so.ErrStatus.Details.Causes, metav1.StatusCause{Message: f.text()})
	return so
}
