package kinds

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/platform/kube/object"
)

func persistentVolume() *Kind {
	kind := object.KindOf[*corev1.PersistentVolume]()
	return &Kind{
		Kind: kind, Singular: "persistentvolume", ShortNames: []string{"pv"}, Verbs: standardVerbs(),
		Subresources: []Subresource{statusSubresource(kind)},
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Capacity", "string", "Size of the volume"), column("Access Modes", "string", "Ways the volume can be mounted"),
			column("Reclaim Policy", "string", "What becomes of the volume when its claim is gone"), column("Status", "string", "Phase of the volume"),
			column("Claim", "string", "Claim the volume is bound to"), column("StorageClass", "string", "Class of the volume"),
			column("VolumeAttributesClass", "string", "Class of the volume's mutable attributes"),
			column("Reason", "string", "Why the volume is in this phase"), ageColumn(),
			wide("VolumeMode", "string", "Whether the volume is a filesystem or a raw device"),
		},
		Row:          rowOf(persistentVolumeRow),
		ValidateName: validation.NameIsDNSSubdomain,
		Default:      on(defaultPersistentVolume),
		PrepareForCreate: on(func(v *corev1.PersistentVolume) {
			v.Status = corev1.PersistentVolumeStatus{Phase: corev1.VolumePending}
		}),
		PrepareForUpdate: onBoth(func(v, old *corev1.PersistentVolume) { v.Status = old.Status }),
		PrepareForStatusUpdate: onBoth(func(v, old *corev1.PersistentVolume) {
			v.Spec = old.Spec
			keepStatusMetadata(&v.ObjectMeta, &old.ObjectMeta, true)
		}),
		SetTimes: func(obj, old object.Object, now metav1.Time) {
			before, _ := old.(*corev1.PersistentVolume)
			setPhaseTime(obj.(*corev1.PersistentVolume), before, now)
		},
		Validate:             check(validatePersistentVolume),
		ValidateUpdate:       checkBoth(validatePersistentVolumeUpdate),
		ValidateStatusUpdate: checkBoth(func(*corev1.PersistentVolume, *corev1.PersistentVolume) field.ErrorList { return nil }),
	}
}

// setPhaseTime notes when the phase changed, unless the client says so itself. old is nil for
// a new volume.
func setPhaseTime(v, old *corev1.PersistentVolume, now metav1.Time) {
	at := &v.Status.LastPhaseTransitionTime
	switch {
	case old == nil:
		*at = &now
	case v.Status.Phase != old.Status.Phase:
		if *at == nil || (*at).Equal(old.Status.LastPhaseTransitionTime) {
			*at = &now
		}
	case *at == nil:
		*at = old.Status.LastPhaseTransitionTime
	}
}

func defaultPersistentVolume(v *corev1.PersistentVolume) {
	setDefault(&v.Status.Phase, corev1.VolumePending)
	defaultPersistentVolumeSpec(&v.Spec)
}

func defaultPersistentVolumeSpec(spec *corev1.PersistentVolumeSpec) {
	setDefault(&spec.PersistentVolumeReclaimPolicy, corev1.PersistentVolumeReclaimRetain)
	setDefaultPtr(&spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	switch source := &spec.PersistentVolumeSource; {
	case source.HostPath != nil:
		setDefaultPtr(&source.HostPath.Type, corev1.HostPathUnset)
	case source.ISCSI != nil:
		setDefault(&source.ISCSI.ISCSIInterface, "default")
	case source.RBD != nil:
		setDefault(&source.RBD.RBDPool, "rbd")
		setDefault(&source.RBD.RadosUser, "admin")
		setDefault(&source.RBD.Keyring, "/etc/ceph/keyring")
	case source.AzureDisk != nil:
		setDefaultPtr(&source.AzureDisk.CachingMode, corev1.AzureDataDiskCachingReadWrite)
		setDefaultPtr(&source.AzureDisk.Kind, corev1.AzureSharedBlobDisk)
		setDefaultPtr(&source.AzureDisk.FSType, "ext4")
		setDefaultPtr(&source.AzureDisk.ReadOnly, false)
	case source.ScaleIO != nil:
		setDefault(&source.ScaleIO.StorageMode, "ThinProvisioned")
		setDefault(&source.ScaleIO.FSType, "xfs")
	}
}

// validatePersistentVolumeUpdate keeps what the volume is; how it may be used can change.
func validatePersistentVolumeUpdate(v, old *corev1.PersistentVolume) field.ErrorList {
	spec := field.NewPath("spec")
	var errs field.ErrorList
	source := v.Spec.PersistentVolumeSource.DeepCopy()
	if now, before := source.CSI, old.Spec.CSI; now != nil && before != nil {
		// Secrets for expanding may be added later, once.
		if before.ControllerExpandSecretRef == nil {
			now.ControllerExpandSecretRef = nil
		}
		if before.NodeExpandSecretRef == nil {
			now.NodeExpandSecretRef = nil
		}
	}
	if !apiequality.Semantic.DeepEqual(*source, old.Spec.PersistentVolumeSource) {
		errs = append(errs, field.Forbidden(spec.Child("persistentvolumesource"), "spec.persistentvolumesource is immutable after creation"))
	}
	errs = append(errs, validation.ValidateImmutableField(v.Spec.VolumeMode, old.Spec.VolumeMode, spec.Child("volumeMode"))...)
	if old.Spec.NodeAffinity != nil {
		errs = append(errs, validation.ValidateImmutableField(v.Spec.NodeAffinity, old.Spec.NodeAffinity, spec.Child("nodeAffinity"))...)
	}
	return errs
}

func persistentVolumeRow(v *corev1.PersistentVolume, now time.Time) []any {
	size := v.Spec.Capacity[corev1.ResourceStorage]
	phase := string(v.Status.Phase)
	if v.DeletionTimestamp != nil {
		phase = "Terminating"
	}
	claim := ""
	if ref := v.Spec.ClaimRef; ref != nil {
		claim = ref.Namespace + "/" + ref.Name
	}
	class := v.Spec.StorageClassName
	if annotated, ok := v.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		class = annotated
	}
	return []any{
		v.Name, size.String(), accessModes(v.Spec.AccessModes), string(v.Spec.PersistentVolumeReclaimPolicy), phase, claim, class,
		orUnset(v.Spec.VolumeAttributesClassName), v.Status.Reason, age(v.CreationTimestamp, now), orUnset(v.Spec.VolumeMode),
	}
}

// accessModes prints modes by their initials, each once, in a fixed order.
func accessModes(modes []corev1.PersistentVolumeAccessMode) string {
	var out []string
	for _, known := range []struct {
		mode  corev1.PersistentVolumeAccessMode
		short string
	}{
		{corev1.ReadWriteOnce, "RWO"}, {corev1.ReadOnlyMany, "ROX"}, {corev1.ReadWriteMany, "RWX"}, {corev1.ReadWriteOncePod, "RWOP"},
	} {
		if slices.Contains(modes, known.mode) {
			out = append(out, known.short)
		}
	}
	return strings.Join(out, ",")
}

func orUnset[T ~string](s *T) string {
	if s == nil {
		return "<unset>"
	}
	return string(*s)
}
