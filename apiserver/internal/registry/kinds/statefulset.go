package kinds

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/platform/kube/object"
)

func statefulSet() *Kind {
	kind := object.KindOf[*appsv1.StatefulSet]()
	return &Kind{
		Kind: kind, Singular: "statefulset", ShortNames: []string{"sts"}, Categories: []string{"all"}, Verbs: standardVerbs(),
		Subresources: []Subresource{scaleSubresource(), statusSubresource(kind)},
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Ready", "string", "Number of ready pods of the wanted ones"), ageColumn(),
			wide("Containers", "string", "Names of the containers"), wide("Images", "string", "Images of the containers"),
		},
		Row: rowOf(func(s *appsv1.StatefulSet, now time.Time) []any {
			names, images := containersAndImages(&s.Spec.Template.Spec)
			return []any{s.Name, fmt.Sprintf("%d/%d", s.Status.ReadyReplicas, valueOf(s.Spec.Replicas)), age(s.CreationTimestamp, now), names, images}
		}),
		// Pods are named after the set and become host names.
		ValidateName:     validation.NameIsDNSLabel,
		Default:          on(defaultStatefulSet),
		PrepareForCreate: on(func(s *appsv1.StatefulSet) { s.Status = appsv1.StatefulSetStatus{} }),
		PrepareForUpdate: onBoth(func(s, old *appsv1.StatefulSet) { s.Status = old.Status }),
		PrepareForStatusUpdate: onBoth(func(s, old *appsv1.StatefulSet) {
			s.Spec = old.Spec
			keepStatusMetadata(&s.ObjectMeta, &old.ObjectMeta, false)
		}),
		SpecEqual:            specEqual(func(s *appsv1.StatefulSet) *appsv1.StatefulSetSpec { return &s.Spec }),
		Validate:             check(validateStatefulSet),
		ValidateUpdate:       checkBoth(validateStatefulSetUpdate),
		ValidateStatusUpdate: checkBoth(validateStatefulSetStatus),
		Scale: &ScaleAccess{
			Get: func(obj object.Object) (int32, int32, string) {
				s := obj.(*appsv1.StatefulSet)
				return valueOf(s.Spec.Replicas), s.Status.Replicas, scaleSelector(s.Spec.Selector)
			},
			Set: func(obj object.Object, replicas int32) { obj.(*appsv1.StatefulSet).Spec.Replicas = &replicas },
		},
	}
}

func defaultStatefulSet(s *appsv1.StatefulSet) {
	spec := &s.Spec
	setDefaultPtr(&spec.Replicas, 1)
	setDefaultPtr(&spec.RevisionHistoryLimit, 10)
	setDefault(&spec.PodManagementPolicy, appsv1.OrderedReadyPodManagement)
	if spec.UpdateStrategy.Type == "" {
		spec.UpdateStrategy.Type = appsv1.RollingUpdateStatefulSetStrategyType
		setDefaultPtr(&spec.UpdateStrategy.RollingUpdate, appsv1.RollingUpdateStatefulSetStrategy{})
	}
	if rolling := spec.UpdateStrategy.RollingUpdate; rolling != nil && spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType {
		setDefaultPtr(&rolling.Partition, 0)
		setDefaultPtr(&rolling.MaxUnavailable, intstr.FromInt32(1))
	}
	setDefaultPtr(&spec.PersistentVolumeClaimRetentionPolicy, appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{})
	setDefault(&spec.PersistentVolumeClaimRetentionPolicy.WhenDeleted, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	setDefault(&spec.PersistentVolumeClaimRetentionPolicy.WhenScaled, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	for i := range spec.VolumeClaimTemplates {
		claim := &spec.VolumeClaimTemplates[i]
		claim.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("PersistentVolumeClaim"))
		setDefaultPtr(&claim.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
		setDefault(&claim.Status.Phase, corev1.ClaimPending)
	}
	defaultPodSpec(&spec.Template.Spec)
}

func validateStatefulSet(s *appsv1.StatefulSet) field.ErrorList {
	path, spec := field.NewPath("spec"), &s.Spec
	errs := nonNegative(int64(valueOf(spec.Replicas)), path.Child("replicas"))
	errs = append(errs, nonNegative(int64(spec.MinReadySeconds), path.Child("minReadySeconds"))...)
	errs = append(errs, nonNegative(int64(valueOf(spec.RevisionHistoryLimit)), path.Child("revisionHistoryLimit"))...)
	if spec.Ordinals != nil {
		errs = append(errs, nonNegative(int64(spec.Ordinals.Start), path.Child("ordinals", "start"))...)
	}
	if spec.ServiceName != "" {
		for _, msg := range utilvalidation.IsDNS1123Label(spec.ServiceName) {
			errs = append(errs, field.Invalid(path.Child("serviceName"), spec.ServiceName, msg))
		}
	}
	if policy := spec.PodManagementPolicy; policy != appsv1.OrderedReadyPodManagement && policy != appsv1.ParallelPodManagement {
		errs = append(errs, field.Invalid(path.Child("podManagementPolicy"), policy, "must be 'OrderedReady' or 'Parallel'"))
	}
	errs = append(errs, validateSetStrategy(&spec.UpdateStrategy, path.Child("updateStrategy"))...)
	if policy := spec.PersistentVolumeClaimRetentionPolicy; policy != nil {
		at := path.Child("persistentVolumeClaimRetentionPolicy")
		errs = append(errs, validateClaimRetention(policy.WhenDeleted, at.Child("whenDeleted"))...)
		errs = append(errs, validateClaimRetention(policy.WhenScaled, at.Child("whenScaled"))...)
	}
	errs = append(errs, validateWorkloadSelector(spec.Selector, "statefulset", path.Child("selector"))...)
	errs = append(errs, validateClaimTemplates(spec.VolumeClaimTemplates, path.Child("volumeClaimTemplates"))...)
	return append(errs, validateWorkloadTemplate(withClaims(spec), spec.Selector, "StatefulSet", path.Child("template"))...)
}

// withClaims is the template of the set's pods: they mount the claims, too.
func withClaims(spec *appsv1.StatefulSetSpec) *corev1.PodTemplateSpec {
	if len(spec.VolumeClaimTemplates) == 0 {
		return &spec.Template
	}
	template := spec.Template.DeepCopy()
	declared := make(map[string]bool, len(template.Spec.Volumes))
	for i := range template.Spec.Volumes {
		declared[template.Spec.Volumes[i].Name] = true
	}
	for i := range spec.VolumeClaimTemplates {
		name := spec.VolumeClaimTemplates[i].Name
		if name == "" || declared[name] || len(utilvalidation.IsDNS1123Label(name)) > 0 {
			continue // reported at the claim; or the claim takes the volume's place
		}
		declared[name] = true
		template.Spec.Volumes = append(template.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name},
		}})
	}
	return template
}

// validateClaimTemplates checks the names under which pods mount the claims.
func validateClaimTemplates(claims []corev1.PersistentVolumeClaim, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := map[string]bool{}
	for i := range claims {
		name, at := claims[i].Name, path.Index(i).Child("metadata", "name")
		switch {
		case name == "":
			errs = append(errs, field.Required(at, ""))
		case seen[name]:
			errs = append(errs, field.Duplicate(at, name))
		default:
			for _, msg := range utilvalidation.IsDNS1123Label(name) {
				errs = append(errs, field.Invalid(at, name, msg))
			}
		}
		seen[name] = true
	}
	return errs
}

func validateSetStrategy(strategy *appsv1.StatefulSetUpdateStrategy, path *field.Path) field.ErrorList {
	rolling, at := strategy.RollingUpdate, path.Child("rollingUpdate")
	switch strategy.Type {
	case appsv1.OnDeleteStatefulSetStrategyType:
		if rolling != nil {
			return field.ErrorList{field.Invalid(at, rolling, "only allowed for updateStrategy 'RollingUpdate'")}
		}
		return nil
	case appsv1.RollingUpdateStatefulSetStrategyType:
	default:
		return field.ErrorList{field.Invalid(path, strategy, "must be 'RollingUpdate' or 'OnDelete'")}
	}
	if rolling == nil {
		return nil
	}
	errs := nonNegative(int64(valueOf(rolling.Partition)), at.Child("partition"))
	if most := rolling.MaxUnavailable; most != nil {
		errs = append(errs, validateIntOrPercent(*most, at.Child("maxUnavailable"))...)
		if isZero(*most) {
			errs = append(errs, field.Invalid(at.Child("maxUnavailable"), *most, "cannot be 0"))
		}
		errs = append(errs, validateAtMostAll(*most, at.Child("maxUnavailable"))...)
	}
	return errs
}

func validateClaimRetention(policy appsv1.PersistentVolumeClaimRetentionPolicyType, path *field.Path) field.ErrorList {
	switch policy {
	case appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType:
		return nil
	}
	return field.ErrorList{field.NotSupported(path, policy, []appsv1.PersistentVolumeClaimRetentionPolicyType{
		appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType,
	})}
}

// validateStatefulSetUpdate refuses changes that the pods and claims which are there could not follow.
func validateStatefulSetUpdate(s, old *appsv1.StatefulSet) field.ErrorList {
	rest := s.DeepCopy()
	rest.Spec.Replicas, rest.Spec.Ordinals, rest.Spec.Template = old.Spec.Replicas, old.Spec.Ordinals, old.Spec.Template
	rest.Spec.UpdateStrategy, rest.Spec.MinReadySeconds = old.Spec.UpdateStrategy, old.Spec.MinReadySeconds
	rest.Spec.RevisionHistoryLimit = old.Spec.RevisionHistoryLimit
	rest.Spec.PersistentVolumeClaimRetentionPolicy = old.Spec.PersistentVolumeClaimRetentionPolicy
	if specEqual(func(s *appsv1.StatefulSet) *appsv1.StatefulSetSpec { return &s.Spec })(rest, old) {
		return nil
	}
	return field.ErrorList{field.Forbidden(field.NewPath("spec"), "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden")}
}

func validateStatefulSetStatus(s, old *appsv1.StatefulSet) field.ErrorList {
	path, status := field.NewPath("status"), &s.Status
	errs := nonNegative(status.ObservedGeneration, path.Child("observedGeneration"))
	errs = append(errs, validateReplicaCounts(path, status.Replicas, []replicaCount{
		{"readyReplicas", status.ReadyReplicas}, {"currentReplicas", status.CurrentReplicas},
		{"updatedReplicas", status.UpdatedReplicas}, {"availableReplicas", status.AvailableReplicas},
	})...)
	if status.AvailableReplicas > status.ReadyReplicas {
		errs = append(errs, field.Invalid(path.Child("availableReplicas"), status.AvailableReplicas, "cannot be greater than status.readyReplicas"))
	}
	return append(errs, validateCollisions(status.CollisionCount, old.Status.CollisionCount, path)...)
}
