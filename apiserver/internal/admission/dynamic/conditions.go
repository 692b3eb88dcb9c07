package dynamic

import (
	"encoding/json"
	"fmt"

	"github.com/google/cel-go/cel"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"

	"kijabi.dev/apiserver/internal/admission/expression"
	"kijabi.dev/apiserver/internal/registry/kinds"
)

// conditions are the match conditions of a webhook or policy.
type conditions struct {
	of       []admissionregistrationv1.MatchCondition
	compiled once[[]*expression.Program]
}

func (c *conditions) any() bool { return len(c.of) > 0 }

func compileConditions(of []admissionregistrationv1.MatchCondition, vars expression.Vars) ([]*expression.Program, error) {
	programs := make([]*expression.Program, len(of))
	for i := range of {
		var err error
		if programs[i], err = expression.Compile(of[i].Expression, vars, cel.BoolType); err != nil {
			return nil, fmt.Errorf("match condition %q %w", of[i].Name, err)
		}
	}
	return programs, nil
}

// met tells whether a webhook's conditions are met.
func (c *conditions) met(s *Session, r *Request, kind *kinds.Kind) (bool, error) {
	if !c.any() {
		return true, nil
	}
	programs, err := c.compiled.get(func() ([]*expression.Program, error) { return compileConditions(c.of, expression.Vars{}) })
	if err != nil {
		return false, err
	}
	in, err := s.input(r, kind)
	if err != nil {
		return false, err
	}
	return s.conditionsMet(c.of, programs, in)
}

// conditionsMet is false as soon as one condition is not met, whatever the others make of the
// request; what fails counts only if all others are met.
func (s *Session) conditionsMet(of []admissionregistrationv1.MatchCondition, programs []*expression.Program, in *expression.Input) (bool, error) {
	in.Begin(expression.ConditionsBudget)
	var failed error
	for i, program := range programs {
		met, err := program.True(s.ctx, in)
		switch {
		case err != nil && failed == nil:
			failed = fmt.Errorf("match condition %q: %w", of[i].Name, err)
		case err == nil && !met:
			return false, nil
		}
	}
	return failed == nil, failed
}

// input is what expressions see of a request, in one version of its kind.
func (s *Session) input(r *Request, kind *kinds.Kind) (*expression.Input, error) {
	v, err := r.in(kind)
	if err != nil {
		return nil, err
	}
	in := &expression.Input{}
	if in.Object, in.Old, err = v.maps(); err != nil {
		return nil, err
	}
	if in.Request, err = v.facts.get(func() (map[string]any, error) { return r.facts(kind) }); err != nil {
		return nil, err
	}
	if namespace := s.namespaceOf(r); namespace != nil && r.Kind.Namespaced {
		if in.Namespace, err = r.around.get(func() (map[string]any, error) { return contentOfAny(namespace) }); err != nil {
			return nil, err
		}
	}
	in.Authorizer, in.RequestResource = s.admission.cfg.Rights.Of(
		expression.Who{User: r.User, UID: r.UID, Groups: r.Groups, Extra: r.Extra},
		expression.Target{Resource: r.Kind.GVR, Subresource: r.Subresource, Namespace: r.Namespace, Name: r.Name})
	return in, nil
}

// facts are what expressions see of the request beside its objects.
func (r *Request) facts(kind *kinds.Kind) (map[string]any, error) {
	question, err := r.question(kind)
	if err != nil {
		return nil, err
	}
	out, err := contentOfAny(question)
	for _, name := range [...]string{"uid", "object", "oldObject"} {
		delete(out, name)
	}
	return out, err
}

// contentOfAny is something of the server's as expressions see it.
func contentOfAny(of any) (map[string]any, error) {
	text, err := json.Marshal(of)
	if err != nil {
		return nil, internalError("encode for expressions: %w", err)
	}
	return content(text)
}
