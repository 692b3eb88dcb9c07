// Package expression compiles and evaluates the CEL expressions by which users admit writes:
// those of match conditions, variables, validations and mutations. What an evaluation may
// cost is bounded, and a panic of what evaluates is an error.
package expression

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"k8s.io/apimachinery/pkg/util/version"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/apiserver/pkg/cel/library"
)

// Names of what an expression sees.
const (
	object          = "object"
	oldObject       = "oldObject"
	request         = "request"
	params          = "params"
	namespace       = "namespaceObject"
	variables       = "variables"
	authorizerName  = "authorizer"
	requestResource = "authorizer.requestResource"
)

// Costs, in CEL's units.
const (
	// ConditionsBudget is for all match conditions of a webhook or policy.
	ConditionsBudget = celconfig.RuntimeCELCostBudgetMatchConditions
	// PolicyBudget is for all expressions of a policy with one binding.
	PolicyBudget = celconfig.RuntimeCELCostBudget
	// MaxMessage is the longest message in bytes that an expression makes.
	MaxMessage = celconfig.MaxEvaluatedMessageExpressionSizeBytes
)

// maxText bounds an expression's source, in bytes: compiling costs more than its size.
const maxText = 64 << 10

// Vars says what an expression sees beside the request and its objects.
type Vars struct {
	// Params of a policy that has some.
	Params bool
	// Variables of a policy.
	Variables bool
	// Mutation is true for what makes apply configurations and patches.
	Mutation bool
}

// environments are made when first needed: they are large.
//
//nolint:gochecknoglobals // constants, made once for the process
var environments = struct {
	mu   sync.Mutex
	made map[Vars]*cel.Env
}{made: map[Vars]*cel.Env{}}

func environmentFor(vars Vars) (*cel.Env, error) {
	environments.mu.Lock()
	defer environments.mu.Unlock()
	if env := environments.made[vars]; env != nil {
		return env, nil
	}
	declared := []cel.EnvOption{
		cel.Variable(object, cel.DynType), cel.Variable(oldObject, cel.DynType), cel.Variable(request, cel.DynType),
		cel.Variable(namespace, cel.DynType),
		cel.Variable(authorizerName, library.AuthorizerType), cel.Variable(requestResource, library.ResourceCheckType),
	}
	if vars.Params {
		declared = append(declared, cel.Variable(params, cel.DynType))
	}
	if vars.Variables {
		declared = append(declared, cel.Variable(variables, cel.DynType))
	}
	if vars.Mutation {
		declared = append(declared, withStructs)
	}
	base, err := environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()).Extend(environment.VersionedOptions{
		IntroducedVersion: version.MajorMinor(1, 0), EnvOptions: declared,
	})
	if err != nil {
		return nil, fmt.Errorf("environment of expressions: %w", err)
	}
	env, err := base.Env(environment.StoredExpressions)
	if err != nil {
		return nil, fmt.Errorf("environment of expressions: %w", err)
	}
	environments.made[vars] = env
	return env, nil
}

// Program is a compiled expression. It is immutable and safe for concurrent use.
type Program struct {
	text    string
	program cel.Program
}

// Compile compiles an expression that yields one of some types; none given: any.
func Compile(text string, vars Vars, yields ...*cel.Type) (out *Program, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			out, err = nil, fmt.Errorf("cannot be compiled: %v", cause)
		}
	}()
	if len(text) > maxText {
		return nil, fmt.Errorf("is longer than %d bytes", maxText)
	}
	env, err := environmentFor(vars)
	if err != nil {
		return nil, err
	}
	ast, issues := env.Compile(text)
	if issues != nil && issues.Err() != nil {
		return nil, fmt.Errorf("compilation failed: %s", issues.String())
	}
	if !fits(ast.OutputType(), yields) {
		return nil, fmt.Errorf("must evaluate to one of %v, but is %s", yields, ast.OutputType())
	}
	program, err := env.Program(ast,
		cel.EvalOptions(cel.OptOptimize, cel.OptTrackCost), cel.CostLimit(celconfig.PerCallLimit),
		cel.CostTracking(&library.CostEstimator{}), cel.InterruptCheckFrequency(celconfig.CheckFrequency))
	if err != nil {
		return nil, fmt.Errorf("cannot be prepared: %w", err)
	}
	return &Program{text: text, program: program}, nil
}

// fits tells whether a type may turn out to be a wanted one: what is in objects is only known
// when they are.
func fits(got *cel.Type, wanted []*cel.Type) bool {
	if len(wanted) == 0 || got.IsExactType(cel.DynType) {
		return true
	}
	for _, want := range wanted {
		if got.IsExactType(want) {
			return true
		}
	}
	return false
}

// Text of the expression.
func (p *Program) Text() string { return p.text }

// Input is what expressions about one request see. It is for one goroutine.
type Input struct {
	// Object, Old, Params and Namespace as unstructured content; nil: there is none.
	Object, Old, Params, Namespace map[string]any
	// Request as the JSON of an AdmissionRequest without its objects.
	Request map[string]any
	// Authorizer and RequestResource answer questions about the user's rights.
	Authorizer, RequestResource ref.Val
	// Variables by name, evaluated when first used.
	Variables map[string]*Program

	budget int64
	values *lazy
	ctx    context.Context //nolint:containedctx // of the evaluation under way, for variables
}

var _ cel.Activation = (*Input)(nil)

// Begin gives the input a budget and forgets the values of variables.
func (in *Input) Begin(budget int64) {
	in.budget = budget
	in.values = &lazy{in: in, known: map[string]ref.Val{}}
}

// ResolveName implements cel.Activation.
func (in *Input) ResolveName(name string) (any, bool) {
	content := func(m map[string]any) (any, bool) {
		if m == nil {
			return types.NullValue, true
		}
		return m, true
	}
	switch name {
	case object:
		return content(in.Object)
	case oldObject:
		return content(in.Old)
	case params:
		return content(in.Params)
	case namespace:
		return content(in.Namespace)
	case request:
		return content(in.Request)
	case variables:
		return in.values, true
	case authorizerName:
		return in.Authorizer, in.Authorizer != nil
	case requestResource:
		return in.RequestResource, in.RequestResource != nil
	}
	return nil, false
}

// Parent implements cel.Activation.
func (in *Input) Parent() cel.Activation { return nil }

// ErrBudget is returned when an evaluation would cost more than is left.
var ErrBudget = errors.New("the expressions cost more than their budget")

// Eval evaluates the expression and takes its cost from the input's budget.
func (p *Program) Eval(ctx context.Context, in *Input) (out ref.Val, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			out, err = nil, fmt.Errorf("cannot be evaluated: %v", cause)
		}
	}()
	if in.budget <= 0 {
		return nil, ErrBudget
	}
	in.ctx = ctx
	out, details, err := p.program.ContextEval(ctx, in)
	if details != nil {
		if cost := details.ActualCost(); cost != nil {
			in.budget -= int64(min(*cost, celconfig.RuntimeCELCostBudget)) //nolint:gosec // bounded
		}
	}
	if err == nil && in.budget < 0 {
		err = ErrBudget
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// True evaluates an expression that must yield a boolean.
func (p *Program) True(ctx context.Context, in *Input) (bool, error) {
	value, err := p.Eval(ctx, in)
	if err != nil {
		return false, err
	}
	b, ok := value.(types.Bool)
	if !ok {
		return false, fmt.Errorf("is %s, no boolean", value.Type().TypeName())
	}
	return bool(b), nil
}

// String evaluates an expression that must yield a string; absent is true for null.
func (p *Program) String(ctx context.Context, in *Input) (text string, absent bool, err error) {
	value, err := p.Eval(ctx, in)
	if err != nil {
		return "", false, err
	}
	switch value := value.(type) {
	case types.String:
		return string(value), false, nil
	case types.Null:
		return "", true, nil
	}
	return "", false, fmt.Errorf("is %s, no string", value.Type().TypeName())
}

// lazy is the value of "variables".
type lazy struct {
	in    *Input
	known map[string]ref.Val
}

var (
	_ traits.Indexer     = (*lazy)(nil)
	_ traits.FieldTester = (*lazy)(nil)
	_ ref.Val            = (*lazy)(nil)
)

// Get evaluates a variable, once.
func (l *lazy) Get(index ref.Val) ref.Val {
	name, ok := index.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(index)
	}
	if value, ok := l.known[string(name)]; ok {
		return value
	}
	program, ok := l.in.Variables[string(name)]
	if !ok {
		return types.NewErr("no such variable: %s", name)
	}
	l.known[string(name)] = types.NewErr("variable %s is made of itself", name)
	value, err := program.Eval(l.in.ctx, l.in)
	if err != nil {
		value = types.NewErr("variable %s: %v", name, err)
	}
	l.known[string(name)] = value
	return value
}

// IsSet implements traits.FieldTester.
func (l *lazy) IsSet(field ref.Val) ref.Val {
	name, ok := field.(types.String)
	_, known := l.in.Variables[string(name)]
	return types.Bool(ok && known)
}

var lazyType = types.NewObjectType("kijabi.dev/variables", traits.IndexerType|traits.FieldTesterType) //nolint:gochecknoglobals // a constant

// ConvertToNative implements ref.Val.
func (*lazy) ConvertToNative(as reflect.Type) (any, error) {
	return nil, fmt.Errorf("variables cannot become a %s", as)
}

// ConvertToType implements ref.Val.
func (l *lazy) ConvertToType(as ref.Type) ref.Val {
	if as == types.TypeType {
		return lazyType
	}
	return types.NewErr("variables cannot become a %s", as.TypeName())
}

// Equal implements ref.Val.
func (l *lazy) Equal(other ref.Val) ref.Val { return types.Bool(other == ref.Val(l)) }

// Type implements ref.Val.
func (*lazy) Type() ref.Type { return lazyType }

// Value implements ref.Val.
func (l *lazy) Value() any { return l }

// See makes the input show another object; variables are evaluated again.
func (in *Input) See(object map[string]any) {
	in.Object = object
	in.values = &lazy{in: in, known: map[string]ref.Val{}}
}
