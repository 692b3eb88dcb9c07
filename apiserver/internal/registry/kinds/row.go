package kinds

import (
	"cmp"
	"maps"
	"slices"
	"time"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/platform/kube/object"
)

// The functions of a row take object.Object; these adapters let each kind write its own type.

func on[T object.Object](f func(T)) func(object.Object) {
	return func(obj object.Object) { f(obj.(T)) }
}

func onBoth[T object.Object](f func(obj, old T)) func(object.Object, object.Object) {
	return func(obj, old object.Object) { f(obj.(T), old.(T)) }
}

func check[T object.Object](f func(T) field.ErrorList) func(object.Object) field.ErrorList {
	return func(obj object.Object) field.ErrorList { return f(obj.(T)) }
}

func checkBoth[T object.Object](f func(obj, old T) field.ErrorList) func(object.Object, object.Object) field.ErrorList {
	return func(obj, old object.Object) field.ErrorList { return f(obj.(T), old.(T)) }
}

func fieldsOf[T object.Object](f func(T) map[string]string) func(object.Object) map[string]string {
	return func(obj object.Object) map[string]string { return f(obj.(T)) }
}

func rowOf[T object.Object](f func(obj T, now time.Time) []any) func(object.Object, time.Time) []any {
	return func(obj object.Object, now time.Time) []any { return f(obj.(T), now) }
}

// marshaler is a part of an object, such as its spec.
type marshaler interface{ Marshal() ([]byte, error) }

// specEqual compares a part of two objects: first by encoding, which is quick, and
// only when that differs by meaning ("1000m" is "1").
func specEqual[T object.Object, S marshaler](spec func(T) S) func(object.Object, object.Object) bool {
	return func(obj, old object.Object) bool {
		a, b := spec(obj.(T)), spec(old.(T))
		left, errLeft := a.Marshal()
		right, errRight := b.Marshal()
		if errLeft == nil && errRight == nil && string(left) == string(right) {
			return true
		}
		return apiequality.Semantic.DeepEqual(a, b)
	}
}

// verbs every stored kind has.
func standardVerbs() []string {
	return []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
}

func statusSubresource(kind object.Kind) Subresource {
	return Subresource{Name: "status", GVK: kind.GVK, Verbs: []string{"get", "patch", "update"}}
}

func column(name, kind, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: kind, Description: description}
}

func wide(name, kind, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: kind, Description: description, Priority: 1}
}

func nameColumn() metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: "Name", Type: "string", Format: "name", Description: "Unique name of the object within its scope."}
}

func ageColumn() metav1.TableColumnDefinition {
	return column("Age", "string", "Time since the object was created.")
}

// age prints the time since a moment as kubectl shows it.
func age(then metav1.Time, now time.Time) string {
	if then.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(now.Sub(then.Time))
}

// formatSelector prints a selector for a column.
func formatSelector(selector *metav1.LabelSelector) string {
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return "<error>"
	}
	return orNone(s.String())
}

// formatLabels prints a set of labels in a stable order.
func formatLabels(set map[string]string) string {
	if len(set) == 0 {
		return "<none>"
	}
	return labels.Set(set).String()
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

func ptr[T any](v T) *T { return &v }

// setDefault sets a field that is zero.
func setDefault[T comparable](at *T, value T) {
	var zero T
	if *at == zero {
		*at = value
	}
}

// setDefaultPtr sets a pointer that is nil.
func setDefaultPtr[T any](at **T, value T) {
	if *at == nil {
		*at = &value
	}
}

// keepStatusMetadata makes a status update leave the metadata alone, labels and
// annotations excepted where the kind's agents write those along with the status.
func keepStatusMetadata(meta, old *metav1.ObjectMeta, labelsToo bool) {
	kept := *old
	kept.ResourceVersion, kept.ManagedFields = meta.ResourceVersion, meta.ManagedFields
	if labelsToo {
		kept.Labels, kept.Annotations = meta.Labels, meta.Annotations
	}
	*meta = kept
}
