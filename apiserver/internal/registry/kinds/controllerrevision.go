package kinds

import (
	"encoding/json"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/platform/kube/object"
)

func controllerRevision() *Kind {
	return &Kind{
		Kind: object.KindOf[*appsv1.ControllerRevision](), Singular: "controllerrevision", Verbs: standardVerbs(),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Controller", "string", "What the revision belongs to"),
			column("Revision", "integer", "Number of the revision"), ageColumn(),
		},
		Row: rowOf(func(r *appsv1.ControllerRevision, now time.Time) []any {
			owner := "<none>"
			if ref := metav1.GetControllerOf(r); ref != nil {
				kind := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind).GroupKind()
				owner = strings.ToLower(kind.String()) + "/" + ref.Name
			}
			return []any{r.Name, owner, r.Revision, age(r.CreationTimestamp, now)}
		}),
		ValidateName: validation.NameIsDNSSubdomain,
		Validate:     check(validateControllerRevision),
		ValidateUpdate: checkBoth(func(r, old *appsv1.ControllerRevision) field.ErrorList {
			return validation.ValidateImmutableField(r.Data, old.Data, field.NewPath("data"))
		}),
	}
}

func validateControllerRevision(r *appsv1.ControllerRevision) field.ErrorList {
	errs := nonNegative(r.Revision, field.NewPath("revision"))
	if len(r.Data.Raw) == 0 && r.Data.Object == nil {
		return append(errs, field.Required(field.NewPath("data"), "data is mandatory"))
	}
	var members map[string]json.RawMessage
	if r.Data.Object == nil && (json.Unmarshal(r.Data.Raw, &members) != nil || members == nil) {
		errs = append(errs, field.Invalid(field.NewPath("data"), "<value omitted>", "must be a JSON object"))
	}
	return errs
}
