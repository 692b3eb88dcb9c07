package kinds

import (
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/platform/kube/object"
)

func replicationController() *Kind {
	kind := object.KindOf[*corev1.ReplicationController]()
	return &Kind{
		Kind: kind, Singular: "replicationcontroller", ShortNames: []string{"rc"}, Categories: []string{"all"}, Verbs: standardVerbs(),
		Subresources: []Subresource{scaleSubresource(), statusSubresource(kind)},
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Desired", "integer", "Number of wanted pods"), column("Current", "integer", "Number of pods"),
			column("Ready", "integer", "Number of ready pods"), ageColumn(),
			wide("Containers", "string", "Names of the containers"), wide("Images", "string", "Images of the containers"),
			wide("Selector", "string", "Label selector of the pods"),
		},
		Row: rowOf(func(r *corev1.ReplicationController, now time.Time) []any {
			var names, images string
			if r.Spec.Template != nil {
				names, images = containersAndImages(&r.Spec.Template.Spec)
			}
			return []any{
				r.Name, int64(valueOf(r.Spec.Replicas)), int64(r.Status.Replicas), int64(r.Status.ReadyReplicas),
				age(r.CreationTimestamp, now), names, images, formatLabels(r.Spec.Selector),
			}
		}),
		SelectableFields: []string{"status.replicas"},
		Fields: fieldsOf(func(r *corev1.ReplicationController) map[string]string {
			return map[string]string{"status.replicas": fmt.Sprint(r.Status.Replicas)}
		}),
		ValidateName:     validation.NameIsDNSSubdomain,
		Default:          on(defaultReplicationController),
		PrepareForCreate: on(func(r *corev1.ReplicationController) { r.Status = corev1.ReplicationControllerStatus{} }),
		PrepareForUpdate: onBoth(func(r, old *corev1.ReplicationController) { r.Status = old.Status }),
		PrepareForStatusUpdate: onBoth(func(r, old *corev1.ReplicationController) {
			r.Spec = old.Spec
			keepStatusMetadata(&r.ObjectMeta, &old.ObjectMeta, false)
		}),
		SpecEqual:            specEqual(func(r *corev1.ReplicationController) *corev1.ReplicationControllerSpec { return &r.Spec }),
		Validate:             check(validateReplicationController),
		ValidateStatusUpdate: checkBoth(validateReplicationControllerStatus),
		// Clients of its time deleted the pods themselves.
		DefaultPropagation: metav1.DeletePropagationOrphan,
		Scale: &ScaleAccess{
			Get: func(obj object.Object) (int32, int32, string) {
				r := obj.(*corev1.ReplicationController)
				return valueOf(r.Spec.Replicas), r.Status.Replicas, labels.SelectorFromSet(r.Spec.Selector).String()
			},
			Set: func(obj object.Object, replicas int32) {
				obj.(*corev1.ReplicationController).Spec.Replicas = &replicas
			},
		},
	}
}

func defaultReplicationController(r *corev1.ReplicationController) {
	setDefaultPtr(&r.Spec.Replicas, 1)
	if r.Spec.Template == nil {
		return
	}
	if len(r.Spec.Selector) == 0 {
		r.Spec.Selector = maps.Clone(r.Spec.Template.Labels)
	}
	if len(r.Labels) == 0 {
		r.Labels = maps.Clone(r.Spec.Template.Labels)
	}
	defaultPodSpec(&r.Spec.Template.Spec)
}

func validateReplicationController(r *corev1.ReplicationController) field.ErrorList {
	path, spec := field.NewPath("spec"), &r.Spec
	errs := nonNegative(int64(valueOf(spec.Replicas)), path.Child("replicas"))
	errs = append(errs, nonNegative(int64(spec.MinReadySeconds), path.Child("minReadySeconds"))...)
	if len(spec.Selector) == 0 {
		errs = append(errs, field.Required(path.Child("selector"), ""))
	}
	if spec.Template == nil {
		return append(errs, field.Required(path.Child("template"), ""))
	}
	selector := &metav1.LabelSelector{MatchLabels: spec.Selector}
	return append(errs, validateWorkloadTemplate(spec.Template, selector, "ReplicationController", path.Child("template"))...)
}

func validateReplicationControllerStatus(r, _ *corev1.ReplicationController) field.ErrorList {
	path, s := field.NewPath("status"), &r.Status
	errs := nonNegative(s.ObservedGeneration, path.Child("observedGeneration"))
	errs = append(errs, validateReplicaCounts(path, s.Replicas, []replicaCount{
		{"fullyLabeledReplicas", s.FullyLabeledReplicas}, {"readyReplicas", s.ReadyReplicas}, {"availableReplicas", s.AvailableReplicas},
	})...)
	if s.AvailableReplicas > s.ReadyReplicas {
		errs = append(errs, field.Invalid(path.Child("availableReplicas"), s.AvailableReplicas, "cannot be greater than readyReplicas"))
	}
	return errs
}
