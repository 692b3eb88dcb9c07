package customkinds

import (
	"bytes"
	"fmt"
	"math"
	"reflect"
	"strings"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/client-go/util/jsonpath"

	"kijabi.dev/apiserver/internal/registry/kinds"
	"kijabi.dev/platform/kube/object"
)

// columns makes the columns of a table, and what fills them. Expressions are parsed for
// each use: parsed ones must not be used twice at once. One that is no expression, which
// validation lets nobody store, shows nothing.
func columns(custom []apiextensionsv1.CustomResourceColumnDefinition) ([]metav1.TableColumnDefinition, func(object.Object, time.Time) []any) {
	heads := []metav1.TableColumnDefinition{{
		Name: "Name", Type: "string", Format: "name", Description: "Unique name of the object within its scope.",
	}}
	if len(custom) == 0 {
		custom = []apiextensionsv1.CustomResourceColumnDefinition{{Name: "Age", Type: "date", JSONPath: ".metadata.creationTimestamp", Description: "Time since the object was created."}}
	}
	for _, c := range custom {
		description := c.Description
		if description == "" {
			description = "Custom resource definition column (in JSONPath format): " + c.JSONPath
		}
		heads = append(heads, metav1.TableColumnDefinition{Name: c.Name, Type: c.Type, Format: c.Format, Description: description, Priority: c.Priority})
	}
	return heads, func(obj object.Object, now time.Time) []any {
		c := obj.DeepCopyObject().(*object.Custom)
		whole := c.ToUnstructured()
		cells := make([]any, 0, len(heads))
		cells = append(cells, c.Name)
		for _, column := range custom {
			cells = append(cells, cell(whole, column, now))
		}
		return cells
	}
}

// find evaluates an expression; ok is false if it yields nothing.
func find(whole map[string]any, path string) (printer *jsonpath.JSONPath, results []reflect.Value, ok bool) {
	expression := jsonpath.New("path").AllowMissingKeys(true)
	if err := expression.Parse("{" + path + "}"); err != nil {
		return nil, nil, false
	}
	found, err := expression.FindResults(whole)
	if err != nil || len(found) == 0 || len(found[0]) == 0 {
		return nil, nil, false
	}
	return expression, found[0], true
}

func cell(whole map[string]any, column apiextensionsv1.CustomResourceColumnDefinition, now time.Time) any {
	printer, results, ok := find(whole, column.JSONPath)
	if !ok {
		return nil
	}
	value := results[0].Interface()
	if value == nil {
		return nil
	}
	switch column.Type {
	case "string":
		var text bytes.Buffer
		if err := printer.PrintResults(&text, results[:1]); err != nil {
			return nil
		}
		return text.String()
	case "integer":
		switch number := value.(type) {
		case int64:
			return number
		case float64:
			return int64(number)
		}
	case "number":
		switch number := value.(type) {
		case int64:
			return float64(number)
		case float64:
			return number
		}
	case "boolean":
		if truth, ok := value.(bool); ok {
			return truth
		}
	case "date":
		if text, ok := value.(string); ok {
			moment, err := time.Parse(time.RFC3339, text)
			if err != nil {
				return "<invalid>"
			}
			return duration.HumanDuration(now.Sub(moment))
		}
	}
	return nil
}

// fieldName is how a field selector names a path.
func fieldName(path string) string { return strings.TrimPrefix(path, ".") }

func selectable(fields []apiextensionsv1.SelectableField) func(*object.Custom) map[string]string {
	if len(fields) == 0 {
		return nil
	}
	return func(c *object.Custom) map[string]string {
		whole := c.ToUnstructured()
		out := make(map[string]string, len(fields))
		for _, f := range fields {
			if _, results, ok := find(whole, f.JSONPath); ok && results[0].Interface() != nil {
				out[fieldName(f.JSONPath)] = fmt.Sprint(results[0].Interface())
			}
		}
		return out
	}
}

// steps of a simple path such as ".spec.replicas".
func steps(path string) []string { return strings.Split(strings.TrimPrefix(path, "."), ".") }

func scaleAccess(scale *apiextensionsv1.CustomResourceSubresourceScale) *kinds.ScaleAccess {
	number := func(c map[string]any, path string) int32 {
		n, _, err := unstructured.NestedInt64(c, steps(path)...)
		if err != nil || n < 0 || n > math.MaxInt32 {
			return 0
		}
		return int32(n)
	}
	return &kinds.ScaleAccess{
		Get: func(obj object.Object) (wanted, have int32, selector string) {
			content := obj.(*object.Custom).Content()
			if scale.LabelSelectorPath != nil {
				selector, _, _ = unstructured.NestedString(content, steps(*scale.LabelSelectorPath)...) // a string, as validation saw to
			}
			return number(content, scale.SpecReplicasPath), number(content, scale.StatusReplicasPath), selector
		},
		Set: func(obj object.Object, replicas int32) {
			// Validation sees to it that nothing but objects is on the way.
			_ = unstructured.SetNestedField(obj.(*object.Custom).Content(), int64(replicas), steps(scale.SpecReplicasPath)...)
		},
	}
}
