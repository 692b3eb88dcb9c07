package customkinds

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdvalidation "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/util/jsonpath"

	"kijabi.dev/apiserver/internal/registry/kinds"
	"kijabi.dev/platform/kube/object"
)

// CleanupFinalizer keeps a definition until its objects are gone.
const CleanupFinalizer = apiextensionsv1.CustomResourceCleanupFinalizer

type definition = *apiextensionsv1.CustomResourceDefinition

// Row is the row of CustomResourceDefinition itself.
func Row() *kinds.Kind {
	kind := object.KindOf[definition]()
	names, row := definitionColumns()
	return &kinds.Kind{
		Kind: kind, Singular: "customresourcedefinition", ShortNames: []string{"crd", "crds"}, Categories: []string{"api-extensions"},
		Verbs:        []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"},
		Subresources: []kinds.Subresource{{Name: "status", GVK: kind.GVK, Verbs: []string{"get", "patch", "update"}}},
		Columns:      names, Row: row,
		Default: func(obj object.Object) { setDefaults(obj.(definition)) },
		PrepareForCreate: func(obj object.Object) {
			crd := obj.(definition)
			crd.Status = apiextensionsv1.CustomResourceDefinitionStatus{}
			noteStored(crd)
		},
		PrepareForUpdate: func(obj, old object.Object) {
			crd := obj.(definition)
			crd.Status = *old.(definition).Status.DeepCopy()
			noteStored(crd)
		},
		PrepareForStatusUpdate: func(obj, old object.Object) {
			crd, before := obj.(definition), old.(definition)
			crd.Spec = *before.Spec.DeepCopy()
			meta := *before.ObjectMeta.DeepCopy()
			meta.ResourceVersion, meta.ManagedFields = crd.ResourceVersion, crd.ManagedFields
			crd.ObjectMeta = meta
		},
		PrepareForDelete: func(obj object.Object) { markDeleted(obj.(definition)) },
		SpecEqual: func(obj, old object.Object) bool {
			return apiequality.Semantic.DeepEqual(obj.(definition).Spec, old.(definition).Spec)
		},
		ValidateCreate: func(obj object.Object) field.ErrorList {
			return checked(obj.(definition), nil, func(in, _ *apiextensions.CustomResourceDefinition) field.ErrorList {
				return crdvalidation.ValidateCustomResourceDefinition(context.Background(), in)
			})
		},
		ValidateUpdate: func(obj, old object.Object) field.ErrorList {
			return checked(obj.(definition), old.(definition), func(in, before *apiextensions.CustomResourceDefinition) field.ErrorList {
				return crdvalidation.ValidateCustomResourceDefinitionUpdate(context.Background(), in, before)
			})
		},
		ValidateStatusUpdate: func(obj, old object.Object) field.ErrorList {
			in, before, errs := internal(obj.(definition), old.(definition))
			if len(errs) > 0 {
				return errs
			}
			return crdvalidation.ValidateUpdateCustomResourceDefinitionStatus(context.Background(), in, before)
		},
	}
}

func setDefaults(crd definition) {
	apiextensionsv1.SetDefaults_CustomResourceDefinition(crd)
	apiextensionsv1.SetDefaults_CustomResourceDefinitionSpec(&crd.Spec)
}

// noteStored notes that objects may be stored in the version that they are now stored in.
func noteStored(crd definition) {
	for _, v := range crd.Spec.Versions {
		if v.Storage && !slices.Contains(crd.Status.StoredVersions, v.Name) {
			crd.Status.StoredVersions = append(crd.Status.StoredVersions, v.Name)
		}
	}
}

// markDeleted holds a definition until a loop has deleted its objects.
func markDeleted(crd definition) {
	if apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.Terminating) {
		return
	}
	if !slices.Contains(crd.Finalizers, CleanupFinalizer) {
		crd.Finalizers = append(crd.Finalizers, CleanupFinalizer)
	}
	apihelpers.SetCRDCondition(crd, apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.Terminating, Status: apiextensionsv1.ConditionTrue, Reason: "InstanceDeletionPending",
		Message: "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
	})
}

// internal converts definitions to the form that validation is written for; old may be nil.
func internal(crd, old definition) (in, before *apiextensions.CustomResourceDefinition, errs field.ErrorList) {
	convert := func(from definition) *apiextensions.CustomResourceDefinition {
		out := &apiextensions.CustomResourceDefinition{}
		if err := apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(from.DeepCopy(), out, nil); err != nil {
			errs = append(errs, field.Invalid(field.NewPath("spec"), "", err.Error()))
		}
		return out
	}
	in = convert(crd)
	if old != nil {
		before = convert(old)
	}
	return in, before, errs
}

// checked validates a definition by the library's rules and those of this server.
func checked(crd, old definition, rules func(in, before *apiextensions.CustomResourceDefinition) field.ErrorList) (errs field.ErrorList) {
	defer survive(&errs)
	if errs := bounded(crd); len(errs) > 0 {
		return errs
	}
	in, before, errs := internal(crd, old)
	if len(errs) > 0 {
		return errs
	}
	errs = rules(in, before)
	spec := field.NewPath("spec")
	if c := crd.Spec.Conversion; c != nil && c.Strategy == apiextensionsv1.WebhookConverter {
		errs = append(errs, field.NotSupported(spec.Child("conversion", "strategy"), c.Strategy, []apiextensionsv1.ConversionStrategyType{apiextensionsv1.NoneConverter}))
	}
	for i := range crd.Spec.Versions {
		path := spec.Child("versions").Index(i)
		for j, column := range crd.Spec.Versions[i].AdditionalPrinterColumns {
			if err := jsonpath.New(column.Name).Parse("{" + column.JSONPath + "}"); err != nil {
				errs = append(errs, field.Invalid(path.Child("additionalPrinterColumns").Index(j).Child("jsonPath"), column.JSONPath, err.Error()))
			}
		}
	}
	return errs
}

// survive makes an error of a panic. Schemas and objects are whatever users write, and not
// everything in the libraries that look at them is prepared for that; what panics in the
// single writer would end the apiserver.
func survive(errs *field.ErrorList) {
	if cause := recover(); cause != nil {
		*errs = append(*errs, field.InternalError(nil, fmt.Errorf("it cannot be checked: %v", cause)))
	}
}

// Bounds of a schema, so that nobody makes the server work for minutes. Those of known
// definitions have below 20,000 nodes and are below 30 deep.
const (
	maxNodes = 100_000
	maxDepth = 100
)

// bounded refuses schemas that are too large to look at.
func bounded(crd definition) field.ErrorList {
	nodes := 0
	for i := range crd.Spec.Versions {
		v := &crd.Spec.Versions[i]
		if v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
			continue
		}
		path := field.NewPath("spec", "versions").Index(i).Child("schema", "openAPIV3Schema")
		if !within(v.Schema.OpenAPIV3Schema, 0, &nodes) {
			return field.ErrorList{field.Forbidden(path, fmt.Sprintf("a schema may be %d levels deep, and those of a definition may have %d nodes", maxDepth, maxNodes))}
		}
	}
	return nil
}

func within(s *apiextensionsv1.JSONSchemaProps, depth int, nodes *int) bool {
	if s == nil {
		return true
	}
	if *nodes++; *nodes > maxNodes || depth > maxDepth {
		return false
	}
	for _, group := range []map[string]apiextensionsv1.JSONSchemaProps{s.Properties, s.PatternProperties, s.Definitions} {
		for name := range group {
			inner := group[name]
			if !within(&inner, depth+1, nodes) {
				return false
			}
		}
	}
	for _, list := range [][]apiextensionsv1.JSONSchemaProps{s.AllOf, s.AnyOf, s.OneOf} {
		for i := range list {
			if !within(&list[i], depth+1, nodes) {
				return false
			}
		}
	}
	if items := s.Items; items != nil {
		if !within(items.Schema, depth+1, nodes) {
			return false
		}
		for i := range items.JSONSchemas {
			if !within(&items.JSONSchemas[i], depth+1, nodes) {
				return false
			}
		}
	}
	for _, either := range []*apiextensionsv1.JSONSchemaPropsOrBool{s.AdditionalProperties, s.AdditionalItems} {
		if either != nil && !within(either.Schema, depth+1, nodes) {
			return false
		}
	}
	return within(s.Not, depth+1, nodes)
}

func definitionColumns() ([]metav1.TableColumnDefinition, func(object.Object, time.Time) []any) {
	heads := []metav1.TableColumnDefinition{
		{Name: "Name", Type: "string", Format: "name", Description: "Unique name of the object within its scope."},
		{Name: "Created At", Type: "date", Description: "When the object was created."},
	}
	return heads, func(obj object.Object, _ time.Time) []any {
		crd := obj.(definition)
		return []any{crd.Name, crd.CreationTimestamp.UTC().Format(time.RFC3339)}
	}
}

// Taken are the names that others use in a group.
type Taken struct{ Resources, Kinds map[string]bool }

// Settle sets what the server says about a definition: which names it has been given and
// whether it is served. taken are the names of other definitions of its group. A name that
// was given once is kept while the definition wants it.
func Settle(crd *apiextensionsv1.CustomResourceDefinition, taken Taken) {
	wanted, accepted := crd.Spec.Names, crd.Status.AcceptedNames
	var reasons []string
	var reason string
	refuse := func(why, text string) {
		reason = why
		reasons = append(reasons, text)
	}
	give := func(why string, name string, have *string, used map[string]bool) {
		if name != *have && used[name] {
			refuse(why, fmt.Sprintf("%q is already in use", name))
			return
		}
		*have = name
	}
	give("PluralConflict", wanted.Plural, &accepted.Plural, taken.Resources)
	give("SingularConflict", wanted.Singular, &accepted.Singular, taken.Resources)
	short := true
	for _, name := range wanted.ShortNames {
		if taken.Resources[name] && !slices.Contains(accepted.ShortNames, name) {
			short = false
			refuse("ShortNamesConflict", fmt.Sprintf("%q is already in use", name))
		}
	}
	if short {
		accepted.ShortNames = slices.Clone(wanted.ShortNames)
	}
	give("KindConflict", wanted.Kind, &accepted.Kind, taken.Kinds)
	give("ListKindConflict", wanted.ListKind, &accepted.ListKind, taken.Kinds)
	accepted.Categories = slices.Clone(wanted.Categories)
	crd.Status.AcceptedNames = accepted

	condition := apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.NamesAccepted, Status: apiextensionsv1.ConditionTrue, Reason: "NoConflicts", Message: "no conflicts found",
	}
	if len(reasons) > 0 {
		condition.Status, condition.Reason, condition.Message = apiextensionsv1.ConditionFalse, reason, strings.Join(reasons, ", ")
	}
	apihelpers.SetCRDCondition(crd, condition)
	switch {
	case apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.Established): // for good
	case len(reasons) == 0:
		apihelpers.SetCRDCondition(crd, apiextensionsv1.CustomResourceDefinitionCondition{
			Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionTrue, Reason: "InitialNamesAccepted", Message: "the initial names have been accepted",
		})
	default:
		apihelpers.SetCRDCondition(crd, apiextensionsv1.CustomResourceDefinitionCondition{
			Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionFalse, Reason: "NotAccepted", Message: "not all names are accepted",
		})
	}
	approval(crd)
}

// approval tells of groups that belong to the Kubernetes project whether it agreed.
func approval(crd *apiextensionsv1.CustomResourceDefinition) {
	if !apihelpers.IsProtectedCommunityGroup(crd.Spec.Group) {
		apihelpers.RemoveCRDCondition(crd, apiextensionsv1.KubernetesAPIApprovalPolicyConformant)
		return
	}
	condition := apiextensionsv1.CustomResourceDefinitionCondition{Type: apiextensionsv1.KubernetesAPIApprovalPolicyConformant}
	state, reason := apihelpers.GetAPIApprovalState(crd.Annotations)
	condition.Message = reason
	switch state {
	case apihelpers.APIApproved:
		condition.Status, condition.Reason = apiextensionsv1.ConditionTrue, "ApprovedAnnotation"
	case apihelpers.APIApprovalBypassed:
		condition.Status, condition.Reason = apiextensionsv1.ConditionFalse, "UnapprovedAnnotation"
	case apihelpers.APIApprovalMissing:
		condition.Status, condition.Reason = apiextensionsv1.ConditionFalse, "MissingAnnotation"
	default:
		condition.Status, condition.Reason = apiextensionsv1.ConditionUnknown, "InvalidAnnotation"
	}
	apihelpers.SetCRDCondition(crd, condition)
}
