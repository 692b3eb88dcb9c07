package dynamic

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"kijabi.dev/apiserver/internal/admission/expression"
	"kijabi.dev/apiserver/internal/registry/kinds"
)

// boundMutation is a MutatingAdmissionPolicy with one of its bindings. It is immutable but for
// what it compiles on demand.
type boundMutation struct {
	name     string
	binding  *binding
	scope    scope
	spec     *admissionregistrationv1.MutatingAdmissionPolicySpec
	compiled *once[*compiledMutations]
	reinvoke bool
}

// compiledMutations are a policy's expressions.
type compiledMutations struct {
	conditions []*expression.Program
	variables  map[string]*expression.Program
	mutations  []*expression.Program
}

// mutations lists the bound mutating policies by name, then by that of the binding. The caller holds mu.
func (a *Admission) mutations() []*boundMutation {
	bound := a.bindings("mutatingadmissionpolicybindings." + admissionregistrationv1.GroupName)
	var out []*boundMutation
	for _, key := range a.keys("mutatingadmissionpolicies." + admissionregistrationv1.GroupName) {
		obj, ok := a.stored[key].obj.(*admissionregistrationv1.MutatingAdmissionPolicy)
		if !ok {
			continue
		}
		scope, err := scopeOfMatch(obj.Spec.MatchConstraints)
		if err != nil {
			continue // validated when it was stored
		}
		for _, b := range bound[obj.Name] {
			out = append(out, &boundMutation{
				name: obj.Name, binding: b, scope: scope, spec: &obj.Spec, compiled: &a.stored[key].mutations,
				reinvoke: obj.Spec.ReinvocationPolicy == admissionregistrationv1.IfNeededReinvocationPolicy,
			})
		}
	}
	return out
}

func compileMutations(spec *admissionregistrationv1.MutatingAdmissionPolicySpec) (*compiledMutations, error) {
	vars := expression.Vars{Params: spec.ParamKind != nil}
	out := &compiledMutations{}
	var err error
	if out.conditions, err = compileConditions(spec.MatchConditions, vars); err != nil {
		return nil, err
	}
	vars.Variables, vars.Mutation = true, true
	if out.variables, err = compileVariables(spec.Variables, vars); err != nil {
		return nil, err
	}
	for i := range spec.Mutations {
		m := &spec.Mutations[i]
		var program *expression.Program
		switch {
		case m.ApplyConfiguration != nil:
			program, err = expression.Compile(m.ApplyConfiguration.Expression, vars, expression.ObjectType)
		case m.JSONPatch != nil:
			program, err = expression.Compile(m.JSONPatch.Expression, vars)
		default:
			err = errors.New("has no expression")
		}
		if err != nil {
			return nil, fmt.Errorf("mutation %d %w", i, err)
		}
		out.mutations = append(out.mutations, program)
	}
	return out, nil
}

// mutate gives the policy its turn.
func (b *boundMutation) mutate(m *mutation) (asked, changed bool, err error) {
	s, r := m.session, m.request
	kind := s.match(&b.scope, r)
	if kind == nil || absent(r.Object) || !s.bound(b.binding, r) {
		return false, false, nil
	}
	fail := func(err error) (bool, bool, error) {
		switch {
		case isStatus(err):
			return true, changed, err
		case b.spec.FailurePolicy != nil && *b.spec.FailurePolicy == admissionregistrationv1.Ignore:
			return true, changed, nil
		}
		return true, changed, b.refusal(r, err)
	}
	compiled, err := b.compiled.get(func() (*compiledMutations, error) { return compileMutations(b.spec) })
	if err != nil {
		return fail(fmt.Errorf("failed to configure policy: %w", err))
	}
	params, err := s.paramsOf(b.spec.ParamKind, b.binding.param, r)
	if err != nil {
		return fail(fmt.Errorf("failed to configure binding: %w", err))
	}
	for _, param := range params {
		once, err := b.mutateWith(m, kind, compiled, param)
		changed = changed || once
		if err != nil {
			return fail(err)
		}
	}
	return true, changed, nil
}

// mutateWith applies the policy's mutations with one parameter; each sees what the one before has left.
func (b *boundMutation) mutateWith(m *mutation, kind *kinds.Kind, compiled *compiledMutations, param map[string]any) (changed bool, err error) {
	s := m.session
	in, err := s.input(m.request, kind)
	if err != nil {
		return false, err
	}
	in.Params = param
	if met, err := s.conditionsMet(b.spec.MatchConditions, compiled.conditions, in); err != nil || !met {
		return false, err
	}
	in.Begin(expression.PolicyBudget)
	for i, program := range compiled.mutations {
		in.Variables = compiled.variables
		text, err := b.patched(m, kind, i, program, in)
		if err != nil {
			return changed, fmt.Errorf("mutation %d: %w", i, err)
		}
		if text == nil {
			continue
		}
		once, err := m.become(kind, text, func(err error) error { return fmt.Errorf("mutation %d: %w", i, err) })
		if err != nil {
			return changed, err
		}
		if !once {
			continue
		}
		changed = true
		next, err := s.input(m.request, kind)
		if err != nil {
			return changed, err
		}
		in.See(next.Object)
	}
	return changed, nil
}

// patched is the object as a mutation wants it; nil: as it is.
func (b *boundMutation) patched(m *mutation, kind *kinds.Kind, index int, program *expression.Program, in *expression.Input) ([]byte, error) {
	v, err := m.request.in(kind)
	if err != nil {
		return nil, err
	}
	if b.spec.Mutations[index].ApplyConfiguration != nil {
		configuration, err := program.Configuration(m.session.ctx, in)
		if err != nil {
			return nil, err
		}
		return m.session.merge(m.request, kind, v, configuration)
	}
	steps, err := program.Patch(m.session.ctx, in)
	if err != nil || len(steps) == 0 {
		return nil, err
	}
	if len(steps) > maxPatchSteps {
		return nil, fmt.Errorf("the patch has %d operations, the limit is %d", len(steps), maxPatchSteps)
	}
	text, err := json.Marshal(steps)
	if err != nil {
		return nil, err
	}
	patch, err := jsonpatch.DecodePatch(text)
	if err != nil {
		return nil, err
	}
	return patch.Apply(v.object)
}

// merge applies a configuration as server-side apply would, without a record of who owns what.
func (s *Session) merge(r *Request, kind *kinds.Kind, v *view, configuration map[string]any) ([]byte, error) {
	if s.admission.cfg.Types == nil || !r.Body.Empty() {
		return nil, fmt.Errorf("apply configurations cannot be merged into a %s", r.gvkIn(kind).Kind)
	}
	types, err := s.admission.cfg.Types(kind)
	if err != nil {
		return nil, err
	}
	current, err := content(v.object)
	if err != nil {
		return nil, err
	}
	before, err := types.ObjectToTyped(&unstructured.Unstructured{Object: current}, typed.AllowDuplicates)
	if err != nil {
		return nil, fmt.Errorf("read the object: %w", err)
	}
	wanted := &unstructured.Unstructured{Object: configuration}
	wanted.SetGroupVersionKind(kind.GVK)
	change, err := types.ObjectToTyped(wanted)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	after, err := before.Merge(change)
	if err != nil {
		return nil, fmt.Errorf("merge the configuration: %w", err)
	}
	obj, err := types.TypedToObject(after)
	if err != nil {
		return nil, err
	}
	return json.Marshal(obj)
}

// refusal is the error of a write that the policy cannot be applied to.
func (b *boundMutation) refusal(r *Request, err error) error {
	out := apierrors.NewForbidden(r.Kind.GVR.GroupResource(), r.Name, fmt.Errorf("MutatingAdmissionPolicy '%s' with binding '%s' denied request: %s", b.name, b.binding.name, strings.TrimSpace(err.Error())))
	out.ErrStatus.Reason, out.ErrStatus.Code = metav1.StatusReasonInvalid, http.StatusUnprocessableEntity
	return out
}
