package expression

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"k8s.io/apiserver/pkg/cel/library"
)

// Types that expressions of mutations make values of.
const (
	// objectType is the root of what an apply configuration is written as: its fields are of the
	// types Object.spec, Object.spec.template and so on.
	objectType = "Object"
	patchType  = "JSONPatch"
)

// ObjectType is what an expression of an apply configuration yields.
var ObjectType = types.NewObjectType(objectType) //nolint:gochecknoglobals // a constant

// structs knows the types of mutations beside those of the environment. Any field may be set:
// whether it exists, the schema of the object knows.
type structs struct{ types.Provider }

func withStructs(env *cel.Env) (*cel.Env, error) {
	env, err := cel.CustomTypeProvider(&structs{env.CELTypeProvider()})(env)
	if err != nil {
		return nil, err
	}
	return library.JSONPatch()(env)
}

func isStruct(name string) bool {
	return name == patchType || name == objectType || strings.HasPrefix(name, objectType+".")
}

// FindStructType implements types.Provider.
func (s *structs) FindStructType(name string) (*types.Type, bool) {
	if isStruct(name) {
		return types.NewTypeTypeWithParam(types.NewObjectType(name)), true
	}
	return s.Provider.FindStructType(name)
}

// FindStructFieldType implements types.Provider.
func (s *structs) FindStructFieldType(name, field string) (*types.FieldType, bool) {
	if !isStruct(name) {
		return s.Provider.FindStructFieldType(name, field)
	}
	of := &types.FieldType{
		Type:  types.DynType,
		IsSet: func(target any) bool { made, ok := target.(*made); return ok && made.fields[field] != nil },
		GetFrom: func(target any) (any, error) {
			if made, ok := target.(*made); ok && made.fields[field] != nil {
				return made.fields[field], nil
			}
			return nil, fmt.Errorf("no such key: %s", field)
		},
	}
	if name == patchType {
		switch field {
		case "op", "path", "from":
			of.Type = types.StringType
		case "value":
		default:
			return nil, false
		}
	}
	return of, true
}

// NewValue implements types.Provider.
func (s *structs) NewValue(name string, fields map[string]ref.Val) ref.Val {
	if !isStruct(name) {
		return s.Provider.NewValue(name, fields)
	}
	for field, value := range fields {
		if inner, ok := value.(*made); ok && name != patchType && inner.name != name+"."+field {
			return types.NewErr("field %s of %s must be a %s.%s, but is a %s", field, name, name, field, inner.name)
		}
	}
	return &made{name: name, fields: fields}
}

// made is a value of one of the types above.
type made struct {
	name   string
	fields map[string]ref.Val
}

var _ ref.Val = (*made)(nil)

// ConvertToNative implements ref.Val.
func (m *made) ConvertToNative(as reflect.Type) (any, error) {
	if reflect.TypeOf(m).AssignableTo(as) {
		return m, nil
	}
	return nil, fmt.Errorf("a %s cannot become a %s", m.name, as)
}

// ConvertToType implements ref.Val.
func (m *made) ConvertToType(as ref.Type) ref.Val {
	if as == types.TypeType {
		return cel.ObjectType(m.name)
	}
	return types.NewErr("a %s cannot become a %s", m.name, as.TypeName())
}

// Equal implements ref.Val.
func (m *made) Equal(other ref.Val) ref.Val {
	that, ok := other.(*made)
	if !ok || that.name != m.name || len(that.fields) != len(m.fields) {
		return types.False
	}
	for field, value := range m.fields {
		if that.fields[field] == nil || types.Equal(value, that.fields[field]) != types.True {
			return types.False
		}
	}
	return types.True
}

// Type implements ref.Val.
func (m *made) Type() ref.Type {
	return types.NewObjectType(m.name, traits.FieldTesterType|traits.IndexerType)
}

// Value implements ref.Val.
func (m *made) Value() any { return m }

// Get implements traits.Indexer.
func (m *made) Get(index ref.Val) ref.Val {
	if name, ok := index.(types.String); ok && m.fields[string(name)] != nil {
		return m.fields[string(name)]
	}
	return types.NewErr("no such key: %v", index)
}

// IsSet implements traits.FieldTester.
func (m *made) IsSet(field ref.Val) ref.Val {
	name, ok := field.(types.String)
	return types.Bool(ok && m.fields[string(name)] != nil)
}

// Configuration evaluates an expression that yields an apply configuration.
func (p *Program) Configuration(ctx context.Context, in *Input) (map[string]any, error) {
	value, err := p.Eval(ctx, in)
	if err != nil {
		return nil, err
	}
	root, ok := value.(*made)
	if !ok || root.name != objectType {
		return nil, fmt.Errorf("is %s, no %s", value.Type().TypeName(), objectType)
	}
	plain, err := native(root)
	if err != nil {
		return nil, err
	}
	return plain.(map[string]any), nil
}

// Patch evaluates an expression that yields a list of operations of a JSON patch.
func (p *Program) Patch(ctx context.Context, in *Input) ([]any, error) {
	value, err := p.Eval(ctx, in)
	if err != nil {
		return nil, err
	}
	list, ok := value.(traits.Lister)
	if !ok {
		return nil, fmt.Errorf("is %s, no list of %s", value.Type().TypeName(), patchType)
	}
	var out []any
	for each := list.Iterator(); each.HasNext() == types.True; {
		step, ok := each.Next().(*made)
		if !ok || step.name != patchType {
			return nil, errors.New("is a list with something else than " + patchType)
		}
		plain, err := native(step)
		if err != nil {
			return nil, err
		}
		out = append(out, plain)
	}
	return out, nil
}

// native is a value as encoding/json would decode it, with whole numbers as int64.
func native(value ref.Val) (any, error) {
	switch v := value.(type) {
	case types.Null:
		return nil, nil
	case types.Bool:
		return bool(v), nil
	case types.Int:
		return int64(v), nil
	case types.Uint:
		if uint64(v) > 1<<63-1 {
			return nil, fmt.Errorf("%d is too large a number", uint64(v))
		}
		return int64(v), nil //nolint:gosec // bounded above
	case types.Double:
		return float64(v), nil
	case types.String:
		return string(v), nil
	case *made:
		out := make(map[string]any, len(v.fields))
		for field, inner := range v.fields {
			plain, err := native(inner)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", field, err)
			}
			out[field] = plain
		}
		return out, nil
	case traits.Mapper:
		return nativeMap(v)
	case traits.Lister:
		out := []any{}
		for each := v.Iterator(); each.HasNext() == types.True; {
			plain, err := native(each.Next())
			if err != nil {
				return nil, err
			}
			out = append(out, plain)
		}
		return out, nil
	}
	return nil, fmt.Errorf("%s is nothing that an object can hold", value.Type().TypeName())
}

func nativeMap(v traits.Mapper) (any, error) {
	out := map[string]any{}
	for each := v.Iterator(); each.HasNext() == types.True; {
		key := each.Next()
		name, ok := key.(types.String)
		if !ok {
			return nil, fmt.Errorf("a key is %s, no string", key.Type().TypeName())
		}
		plain, err := native(v.Get(key))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out[string(name)] = plain
	}
	return out, nil
}
