package expression_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/cel-go/cel"

	"kijabi.dev/apiserver/internal/admission/expression"
)

func input() *expression.Input {
	in := &expression.Input{
		Object:    map[string]any{"metadata": map[string]any{"name": "a"}, "spec": map[string]any{"replicas": int64(3), "list": []any{"x", "y"}}},
		Params:    map[string]any{"data": map[string]any{"most": "5"}},
		Namespace: map[string]any{"metadata": map[string]any{"labels": map[string]any{"team": "red"}}},
		Request:   map[string]any{"operation": "CREATE", "userInfo": map[string]any{"username": "jane"}},
	}
	rights := expression.Rights(func(_ context.Context, r expression.Right) error {
		if r.User == "jane" && r.Verb == "get" && r.Resource == "pods" {
			return nil
		}
		return errors.New("no")
	})
	in.Authorizer, in.RequestResource = rights.Of(expression.Who{User: "jane"}, expression.Target{})
	in.Begin(expression.PolicyBudget)
	return in
}

func TestExpressions(t *testing.T) {
	variables := map[string]string{"n": "object.spec.replicas", "twice": "variables.n * 2", "loop": "variables.loop", "bad": "object.nothing"}
	for text, want := range map[string]string{
		`object.spec.replicas <= 3`:                                       "true",
		`object.spec.replicas > int(params.data.most)`:                    "false",
		`oldObject == null`:                                               "true",
		`has(object.spec.paused) && object.spec.paused`:                   "false",
		`object.spec.paused`:                                              "error: no such key: paused",
		`object.spec.replicas`:                                            "error: no boolean",
		`variables.twice == 6 && has(variables.n)`:                        "true",
		`variables.loop == 1`:                                             "error: made of itself",
		`variables.bad == 1`:                                              "error: variable bad",
		`namespaceObject.metadata.labels.team == "red"`:                   "true",
		`request.userInfo.username == "jane"`:                             "true",
		`authorizer.group("").resource("pods").check("get").allowed()`:    "true",
		`authorizer.group("").resource("pods").check("delete").allowed()`: "false",
		`authorizer.requestResource.check("update").allowed()`:            "false",
		`quantity("1Gi").isGreaterThan(quantity("1Mi"))`:                  "true",
		`object.spec.list.all(x, x.matches("^[a-z]$"))`:                   "true",
		`[1,2,3,4,5,6,7,8,9,10].all(a, [1,2,3,4,5,6,7,8,9,10].all(b, [1,2,3,4,5,6,7,8,9,10].all(c, [1,2,3,4,5,6,7,8,9,10].all(d, [1,2,3,4,5,6,7,8,9,10].all(e, [1,2,3,4,5,6,7,8,9,10].all(f, a+b+c+d+e+f > 0))))))`: "error: cost",
	} {
		in := input()
		in.Variables = map[string]*expression.Program{}
		vars := expression.Vars{Params: true, Variables: true}
		for name, source := range variables {
			var err error
			if in.Variables[name], err = expression.Compile(source, vars); err != nil {
				t.Fatal(err)
			}
		}
		program, err := expression.Compile(text, vars, cel.BoolType)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		got, err := program.True(t.Context(), in)
		if cause, fails := strings.CutPrefix(want, "error: "); fails {
			if err == nil || !strings.Contains(err.Error(), cause) {
				t.Errorf("%s: %v %v, want an error that says %q", text, got, err, cause)
			}
		} else if err != nil || got != (want == "true") {
			t.Errorf("%s: %v %v, want %s", text, got, err, want)
		}
	}
}

func TestExpressionsThatAreRefused(t *testing.T) {
	for text, want := range map[string]string{
		`object.`:                   "compilation failed",
		`nothing == 1`:              "undeclared reference",
		`params.x == 1`:             "undeclared reference",
		`1 + 1`:                     "must evaluate",
		strings.Repeat("(", 70_000): "longer",
	} {
		_, err := expression.Compile(text, expression.Vars{}, cel.BoolType)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v, want an error that says %q", text, err, want)
		}
	}
}

func TestBudgetIsForAllExpressions(t *testing.T) {
	program, err := expression.Compile(`[1,2,3].all(x, x > 0)`, expression.Vars{}, cel.BoolType)
	if err != nil {
		t.Fatal(err)
	}
	in := input()
	in.Begin(40)
	var last error
	for range 10 {
		if _, last = program.True(t.Context(), in); last != nil {
			break
		}
	}
	if !errors.Is(last, expression.ErrBudget) {
		t.Errorf("%v, want %v", last, expression.ErrBudget)
	}
}

func TestMutations(t *testing.T) {
	for text, want := range map[string]string{
		`Object{spec: Object.spec{replicas: object.spec.replicas + 1, list: ["a"], nested: Object.spec.nested{m: {"k": 1.5}, none: null}}}`: `{"spec":{"list":["a"],"nested":{"m":{"k":1.5},"none":null},"replicas":4}}`,
		`has(object.spec.list) ? Object{metadata: Object.metadata{labels: Object.metadata.labels{a: "b"}}} : Object{}`:                      `{"metadata":{"labels":{"a":"b"}}}`,
		`Object{spec: Object.metadata{}}`: "error: must be a Object.spec",
		`[JSONPatch{op: "add", path: "/metadata/labels/" + jsonpatch.escapeKey("a/b"), value: Object.spec{x: 1}}]`: `[{"op":"add","path":"/metadata/labels/a~1b","value":{"x":1}}]`,
		`object.spec.replicas > 5 ? [JSONPatch{op: "remove", path: "/spec"}] : []`:                                 `null`,
		`[1]`: "error: something else",
		`1`:   "error: no list",
	} {
		program, err := expression.Compile(text, expression.Vars{Mutation: true})
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		var got any
		if strings.HasPrefix(text, "Object") || strings.HasPrefix(text, "has") {
			got, err = program.Configuration(t.Context(), input())
		} else {
			got, err = program.Patch(t.Context(), input())
		}
		if cause, fails := strings.CutPrefix(want, "error: "); fails {
			if err == nil || !strings.Contains(err.Error(), cause) {
				t.Errorf("%s: %v %v, want an error that says %q", text, got, err, cause)
			}
			continue
		}
		written, _ := json.Marshal(got)
		if err != nil || string(written) != want {
			t.Errorf("%s: %s %v, want %s", text, written, err, want)
		}
	}
	for _, text := range []string{`JSONPatch{op: 1}`, `JSONPatch{other: "x"}`, `Other{}`} {
		if _, err := expression.Compile(text, expression.Vars{Mutation: true}); err == nil {
			t.Errorf("%s is compiled", text)
		}
	}
}
