package kinds

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/platform/kube/object"
)

// Kinds of data that a claim may be filled from by dataSource.
const (
	claimKind     = "PersistentVolumeClaim"
	snapshotKind  = "VolumeSnapshot"
	snapshotGroup = "snapshot.storage.k8s.io"
)

func persistentVolumeClaim() *Kind {
	kind := object.KindOf[*corev1.PersistentVolumeClaim]()
	return &Kind{
		Kind: kind, Singular: "persistentvolumeclaim", ShortNames: []string{"pvc"}, Verbs: standardVerbs(),
		Subresources: []Subresource{statusSubresource(kind)},
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Status", "string", "Phase of the claim"), column("Volume", "string", "Volume the claim is bound to"),
			column("Capacity", "string", "Size of the volume"), column("Access Modes", "string", "Ways the volume can be mounted"),
			column("StorageClass", "string", "Class the claim asks for"),
			column("VolumeAttributesClass", "string", "Class of the volume's mutable attributes"), ageColumn(),
			wide("VolumeMode", "string", "Whether the volume is a filesystem or a raw device"),
		},
		Row:          rowOf(persistentVolumeClaimRow),
		ValidateName: validation.NameIsDNSSubdomain,
		Default: on(func(c *corev1.PersistentVolumeClaim) {
			setDefault(&c.Status.Phase, corev1.ClaimPending)
			setDefaultPtr(&c.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
			defaultDataSources(&c.Spec)
		}),
		PrepareForCreate: on(func(c *corev1.PersistentVolumeClaim) {
			c.Status = corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending}
		}),
		PrepareForUpdate: onBoth(func(c, old *corev1.PersistentVolumeClaim) { c.Status = old.Status }),
		PrepareForStatusUpdate: onBoth(func(c, old *corev1.PersistentVolumeClaim) {
			c.Spec = old.Spec
			keepStatusMetadata(&c.ObjectMeta, &old.ObjectMeta, true)
		}),
		Validate: check(func(c *corev1.PersistentVolumeClaim) field.ErrorList {
			return validateClaimSpec(&c.Spec, field.NewPath("spec"))
		}),
		ValidateUpdate:       checkBoth(validateClaimUpdate),
		ValidateStatusUpdate: checkBoth(validateClaimStatus),
	}
}

// ClassOfClaim is the storage class that a claim asks for, or "".
func ClassOfClaim(c *corev1.PersistentVolumeClaim) string {
	if class, ok := c.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return class
	}
	return valueOf(c.Spec.StorageClassName)
}

// defaultDataSources makes the two ways to name a source of data agree. dataSource drops what
// it cannot name, as it always did; dataSourceRef keeps everything, and validation judges it.
func defaultDataSources(spec *corev1.PersistentVolumeClaimSpec) {
	if source := spec.DataSource; source != nil {
		group := valueOf(source.APIGroup)
		if !(source.Kind == claimKind && group == "") && !(source.Kind == snapshotKind && group == snapshotGroup) && spec.DataSourceRef == nil {
			spec.DataSource = nil
			return
		}
	}
	switch source, ref := spec.DataSource, spec.DataSourceRef; {
	case source != nil && ref == nil:
		spec.DataSourceRef = &corev1.TypedObjectReference{APIGroup: source.APIGroup, Kind: source.Kind, Name: source.Name}
	case source == nil && ref != nil && valueOf(ref.Namespace) == "":
		spec.DataSource = &corev1.TypedLocalObjectReference{APIGroup: ref.APIGroup, Kind: ref.Kind, Name: ref.Name}
	}
}

// validateClaimSpec checks a claim or the template of one.
func validateClaimSpec(spec *corev1.PersistentVolumeClaimSpec, at *field.Path) field.ErrorList {
	errs := validateAccessModes(spec.AccessModes, "at least 1 access mode is required", at.Child("accessModes"))
	if spec.Selector != nil {
		errs = append(errs, validateSelector(spec.Selector, at.Child("selector"))...)
	}
	key := at.Child("resources").Key(string(corev1.ResourceStorage))
	if size, ok := spec.Resources.Requests[corev1.ResourceStorage]; !ok {
		errs = append(errs, field.Required(key, ""))
	} else {
		errs = append(errs, validatePositive(size, key)...)
	}
	errs = append(errs, validateSubdomain(valueOf(spec.StorageClassName), at.Child("storageClassName"))...)
	errs = append(errs, validateVolumeMode(spec.VolumeMode, at.Child("volumeMode"))...)
	errs = append(errs, validateSubdomain(valueOf(spec.VolumeAttributesClassName), at.Child("volumeAttributesClassName"))...)
	if source := spec.DataSource; source != nil {
		errs = append(errs, validateDataSource(source.APIGroup, source.Kind, source.Name, at.Child("dataSource"))...)
	}
	ref := spec.DataSourceRef
	if ref == nil {
		return errs
	}
	where := at.Child("dataSourceRef")
	errs = append(errs, validateDataSource(ref.APIGroup, ref.Kind, ref.Name, where)...)
	switch {
	case valueOf(ref.Namespace) != "":
		errs = append(errs, field.Forbidden(where.Child("namespace"), "data of other namespaces may not be used"))
	case spec.DataSource == nil || valueOf(spec.DataSource.APIGroup) != valueOf(ref.APIGroup) || spec.DataSource.Kind != ref.Kind || spec.DataSource.Name != ref.Name:
		errs = append(errs, field.Invalid(at, where.String(), "must match dataSource"))
	}
	return errs
}

func validateDataSource(group *string, kind, name string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if name == "" {
		errs = append(errs, field.Required(at.Child("name"), ""))
	}
	if kind == "" {
		errs = append(errs, field.Required(at.Child("kind"), ""))
	}
	if valueOf(group) == "" {
		if kind != claimKind {
			errs = append(errs, field.Invalid(at, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup"))
		}
		return errs
	}
	return append(errs, messages(utilvalidation.IsDNS1123Subdomain(*group), *group, at.Child("apiGroup"))...)
}

// validateClaimUpdate lets a claim be bound once, and a bound one ask for another size or
// other attributes. Whether its class allows a new size, the registry decides.
func validateClaimUpdate(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	spec := field.NewPath("spec")
	var errs field.ErrorList
	// What is left once the allowed changes are undone must be the old spec.
	rest, before := c.Spec.DeepCopy(), old.Spec.DeepCopy()
	defaultDataSources(before)
	if old.Spec.VolumeName == "" {
		rest.VolumeName = ""
		if old.Spec.StorageClassName == nil {
			rest.StorageClassName = nil // a default class that came later
		}
	}
	if old.Status.Phase == corev1.ClaimBound {
		rest.VolumeAttributesClassName = before.VolumeAttributesClassName
		rest.Resources.Requests = before.Resources.Requests
		errs = append(errs, validateClaimSize(c, old, spec.Child("resources", "requests", "storage"))...)
		if old.Spec.VolumeAttributesClassName != nil && c.Spec.VolumeAttributesClassName == nil && old.Status.CurrentVolumeAttributesClassName != nil {
			errs = append(errs, field.Forbidden(spec.Child("volumeAttributesClassName"), "update from non-nil value to nil is forbidden"))
		}
	}
	if !apiequality.Semantic.DeepEqual(rest, before) {
		errs = append(errs, field.Forbidden(spec, "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"))
	}
	return errs
}

// validateClaimSize lets a request that could not be met be taken back, but not below what the
// volume has by now.
func validateClaimSize(c, old *corev1.PersistentVolumeClaim, at *field.Path) field.ErrorList {
	now, before := c.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage]
	if now.Cmp(before) >= 0 {
		return nil
	}
	has, ok := old.Status.Capacity[corev1.ResourceStorage]
	if !ok || now.Cmp(has) <= 0 {
		return field.ErrorList{field.Forbidden(at, "field can not be less than status.capacity")}
	}
	return nil
}

func validateClaimStatus(c, _ *corev1.PersistentVolumeClaim) field.ErrorList {
	status := field.NewPath("status")
	errs := validateResourceList(c.Status.Capacity, status.Child("capacity"))
	for _, name := range sortedKeys(c.Status.AllocatedResources) {
		at := status.Child("allocatedResources").Key(string(name))
		errs = append(errs, validateAllocatedName(name, at)...)
		errs = append(errs, validateQuantity(name, c.Status.AllocatedResources[name], at)...)
	}
	for _, name := range sortedKeys(c.Status.AllocatedResourceStatuses) {
		at := status.Child("allocatedResourceStatuses").Key(string(name))
		errs = append(errs, validateAllocatedName(name, at)...)
		switch state := c.Status.AllocatedResourceStatuses[name]; state {
		case corev1.PersistentVolumeClaimControllerResizeInProgress, corev1.PersistentVolumeClaimControllerResizeInfeasible,
			corev1.PersistentVolumeClaimNodeResizePending, corev1.PersistentVolumeClaimNodeResizeInProgress, corev1.PersistentVolumeClaimNodeResizeInfeasible:
		default:
			errs = append(errs, field.NotSupported(at, state, []corev1.ClaimResourceStatus{
				corev1.PersistentVolumeClaimControllerResizeInProgress, corev1.PersistentVolumeClaimControllerResizeInfeasible,
				corev1.PersistentVolumeClaimNodeResizePending, corev1.PersistentVolumeClaimNodeResizeInProgress, corev1.PersistentVolumeClaimNodeResizeInfeasible,
			}))
		}
	}
	seen := map[corev1.PersistentVolumeClaimConditionType]bool{}
	for i, condition := range c.Status.Conditions {
		if seen[condition.Type] {
			errs = append(errs, field.Duplicate(status.Child("conditions").Index(i).Child("type"), condition.Type))
		}
		seen[condition.Type] = true
	}
	return errs
}

// validateAllocatedName allows storage, and names under a prefix of somebody's own.
func validateAllocatedName(name corev1.ResourceName, at *field.Path) field.ErrorList {
	errs := validateResourceName(name, at)
	if len(errs) > 0 || name == corev1.ResourceStorage {
		return errs
	}
	if prefix, _, ok := strings.Cut(string(name), "/"); !ok || prefix == "kubernetes.io" || strings.HasSuffix(prefix, ".kubernetes.io") {
		return field.ErrorList{field.NotSupported(at, name, []corev1.ResourceName{corev1.ResourceStorage})}
	}
	return nil
}

func persistentVolumeClaimRow(c *corev1.PersistentVolumeClaim, now time.Time) []any {
	phase := string(c.Status.Phase)
	if c.DeletionTimestamp != nil {
		phase = "Terminating"
	}
	size, modes := "", ""
	if c.Spec.VolumeName != "" {
		has := c.Status.Capacity[corev1.ResourceStorage]
		size, modes = has.String(), accessModes(c.Status.AccessModes)
	}
	return []any{
		c.Name, phase, c.Spec.VolumeName, size, modes, ClassOfClaim(c), orUnset(c.Spec.VolumeAttributesClassName),
		age(c.CreationTimestamp, now), orUnset(c.Spec.VolumeMode),
	}
}
