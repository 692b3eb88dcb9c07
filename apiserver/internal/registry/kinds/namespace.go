package kinds

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/platform/kube/object"
)

// Namespaces go away in two steps: deletion sets the phase Terminating, and once the
// namespace controller has emptied them it takes the entries of spec.finalizers away
// through the finalize subresource.
func namespace() *Kind {
	kind := object.KindOf[*corev1.Namespace]()
	return &Kind{
		Kind: kind, Singular: "namespace", ShortNames: []string{"ns"},
		Verbs: []string{"create", "delete", "get", "list", "patch", "update", "watch"},
		Subresources: []Subresource{
			{Name: "finalize", GVK: kind.GVK, Verbs: []string{"update"}},
			statusSubresource(kind),
		},
		Columns: []metav1.TableColumnDefinition{nameColumn(), column("Status", "string", "The status of the namespace"), ageColumn()},
		Row: rowOf(func(n *corev1.Namespace, now time.Time) []any {
			return []any{n.Name, string(n.Status.Phase), age(n.CreationTimestamp, now)}
		}),
		SelectableFields: []string{"status.phase", "name"},
		Fields: fieldsOf(func(n *corev1.Namespace) map[string]string {
			return map[string]string{"status.phase": string(n.Status.Phase), "name": n.Name}
		}),
		ValidateName: validation.ValidateNamespaceName,
		Default: on(func(n *corev1.Namespace) {
			if n.Name == "" || n.Labels[corev1.LabelMetadataName] == n.Name {
				return
			}
			if n.Labels == nil {
				n.Labels = map[string]string{}
			}
			n.Labels[corev1.LabelMetadataName] = n.Name
		}),
		PrepareForCreate: on(func(n *corev1.Namespace) {
			n.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
			if !slices.Contains(n.Spec.Finalizers, corev1.FinalizerKubernetes) {
				n.Spec.Finalizers = append(n.Spec.Finalizers, corev1.FinalizerKubernetes)
			}
		}),
		PrepareForUpdate: onBoth(func(n, old *corev1.Namespace) {
			n.Spec.Finalizers, n.Status = old.Spec.Finalizers, old.Status
		}),
		PrepareForStatusUpdate: onBoth(func(n, old *corev1.Namespace) {
			n.Spec = old.Spec
			keepStatusMetadata(&n.ObjectMeta, &old.ObjectMeta, false)
		}),
		Validate: check(func(n *corev1.Namespace) field.ErrorList {
			return validateNamespaceFinalizers(n.Spec.Finalizers, field.NewPath("spec", "finalizers"))
		}),
		ValidateUpdate: checkBoth(func(n, _ *corev1.Namespace) field.ErrorList {
			// The label is what selectors rely on; it cannot be taken off.
			if got := n.Labels[corev1.LabelMetadataName]; got != n.Name {
				return field.ErrorList{field.Invalid(field.NewPath("metadata", "labels").Key(corev1.LabelMetadataName), got, "must match the namespace's name")}
			}
			return nil
		}),
		ValidateStatusUpdate: checkBoth(func(n, _ *corev1.Namespace) field.ErrorList {
			path := field.NewPath("status", "phase")
			switch {
			case n.DeletionTimestamp == nil && n.Status.Phase != corev1.NamespaceActive:
				return field.ErrorList{field.Invalid(path, n.Status.Phase, "may only be 'Active' if `deletionTimestamp` is empty")}
			case n.DeletionTimestamp != nil && n.Status.Phase != corev1.NamespaceTerminating:
				return field.ErrorList{field.Invalid(path, n.Status.Phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")}
			}
			return nil
		}),
	}
}

func validateNamespaceFinalizers(finalizers []corev1.FinalizerName, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, name := range finalizers {
		if name == corev1.FinalizerKubernetes {
			continue
		}
		for _, msg := range utilvalidation.IsQualifiedName(string(name)) {
			errs = append(errs, field.Invalid(path.Index(i), name, msg))
		}
	}
	return errs
}
