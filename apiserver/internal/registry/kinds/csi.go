package kinds

import (
	"fmt"
	"slices"
	"strings"
	"time"

	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/platform/kube/object"
)

const (
	// maxNodeID bounds a driver's own name for a node, in bytes.
	maxNodeID = 192
	// minAllocatablePeriod is in seconds.
	minAllocatablePeriod = 10
	maxHealthConditions  = 16
	maxHealthReason      = 256
	maxHealthMessage     = 1024
)

func csiDriver() *Kind {
	return &Kind{
		Kind: object.KindOf[*storagev1.CSIDriver](), Singular: "csidriver", Verbs: standardVerbs(),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("AttachRequired", "boolean", "Whether volumes must be attached before they are mounted"),
			column("PodInfoOnMount", "boolean", "Whether the driver is told about the pod"),
			column("StorageCapacity", "boolean", "Whether the scheduler minds the capacity"),
			column("TokenRequests", "string", "Audiences of the service account tokens the driver gets"),
			column("RequiresRepublish", "boolean", "Whether volumes are published again from time to time"),
			column("Modes", "string", "Kinds of volumes the driver serves"), ageColumn(),
		},
		Row:          rowOf(csiDriverRow),
		ValidateName: validateCSIDriverName,
		Default: on(func(d *storagev1.CSIDriver) {
			setDefaultPtr(&d.Spec.AttachRequired, true)
			setDefaultPtr(&d.Spec.PodInfoOnMount, false)
			setDefaultPtr(&d.Spec.StorageCapacity, false)
			setDefaultPtr(&d.Spec.FSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
			setDefaultPtr(&d.Spec.RequiresRepublish, false)
			setDefaultPtr(&d.Spec.SELinuxMount, false)
			setDefaultPtr(&d.Spec.PreventPodSchedulingIfMissing, false)
			if len(d.Spec.VolumeLifecycleModes) == 0 {
				d.Spec.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}
			}
		}),
		SpecEqual: specEqual(func(d *storagev1.CSIDriver) *storagev1.CSIDriverSpec { return &d.Spec }),
		Validate:  check(validateCSIDriver),
		ValidateUpdate: checkBoth(func(d, old *storagev1.CSIDriver) field.ErrorList {
			spec := field.NewPath("spec")
			errs := validation.ValidateImmutableField(d.Spec.AttachRequired, old.Spec.AttachRequired, spec.Child("attachRequired"))
			return append(errs, validation.ValidateImmutableField(d.Spec.VolumeLifecycleModes, old.Spec.VolumeLifecycleModes, spec.Child("volumeLifecycleModes"))...)
		}),
	}
}

func validateCSIDriverName(name string, prefix bool) []string {
	errs := validation.NameIsDNSSubdomain(strings.ToLower(name), prefix)
	if len(name) > maxCSIName {
		errs = append(errs, utilvalidation.MaxLenError(maxCSIName))
	}
	return errs
}

func validateCSIDriver(d *storagev1.CSIDriver) field.ErrorList {
	spec := field.NewPath("spec")
	var errs field.ErrorList
	switch policy, at := valueOf(d.Spec.FSGroupPolicy), spec.Child("fsGroupPolicy"); policy {
	case storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy, storagev1.FileFSGroupPolicy, storagev1.NoneFSGroupPolicy:
	default:
		errs = append(errs, field.NotSupported(at, policy, []storagev1.FSGroupPolicy{
			storagev1.FileFSGroupPolicy, storagev1.NoneFSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy,
		}))
	}
	audiences := map[string]bool{}
	for i, request := range d.Spec.TokenRequests {
		at := spec.Child("tokenRequests").Index(i)
		if audiences[request.Audience] {
			errs = append(errs, field.Duplicate(at.Child("audience"), request.Audience))
		}
		audiences[request.Audience] = true
		if seconds := request.ExpirationSeconds; seconds != nil {
			errs = append(errs, validateTokenLife(*seconds, at.Child("expirationSeconds"))...)
		}
	}
	for i, mode := range d.Spec.VolumeLifecycleModes {
		at := spec.Child("volumeLifecycleModes").Index(i)
		switch {
		case mode != storagev1.VolumeLifecyclePersistent && mode != storagev1.VolumeLifecycleEphemeral:
			errs = append(errs, field.NotSupported(at, mode, []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecycleEphemeral, storagev1.VolumeLifecyclePersistent}))
		case slices.Contains(d.Spec.VolumeLifecycleModes[:i], mode):
			errs = append(errs, field.Duplicate(at, mode))
		}
	}
	if period := d.Spec.NodeAllocatableUpdatePeriodSeconds; period != nil && *period < minAllocatablePeriod {
		errs = append(errs, field.Invalid(spec.Child("nodeAllocatableUpdatePeriodSeconds"), *period, "must be greater than or equal to 10 seconds"))
	}
	if d.Spec.ServiceAccountTokenInSecrets != nil && len(d.Spec.TokenRequests) == 0 {
		errs = append(errs, field.Invalid(spec.Child("serviceAccountTokenInSecrets"), *d.Spec.ServiceAccountTokenInSecrets, "must not be set when spec.tokenRequests is empty"))
	}
	return errs
}

// validateTokenLife checks how long a service account token is to be good for, in seconds.
func validateTokenLife(seconds int64, at *field.Path) field.ErrorList {
	switch {
	case seconds < minTokenLife:
		return field.ErrorList{field.Invalid(at, seconds, "may not specify a duration less than 10 minutes")}
	case seconds > maxTokenLife:
		return field.ErrorList{field.Invalid(at, seconds, "may not specify a duration larger than 2^32 seconds")}
	}
	return nil
}

func csiDriverRow(d *storagev1.CSIDriver, now time.Time) []any {
	audiences, modes := "<unset>", "<none>"
	if len(d.Spec.TokenRequests) > 0 {
		var list []string
		for _, request := range d.Spec.TokenRequests {
			list = append(list, request.Audience)
		}
		audiences = strings.Join(list, ",")
	}
	if len(d.Spec.VolumeLifecycleModes) > 0 {
		var list []string
		for _, mode := range d.Spec.VolumeLifecycleModes {
			list = append(list, string(mode))
		}
		modes = strings.Join(list, ",")
	}
	attach := d.Spec.AttachRequired == nil || *d.Spec.AttachRequired
	return []any{
		d.Name, attach, valueOf(d.Spec.PodInfoOnMount), valueOf(d.Spec.StorageCapacity), audiences, valueOf(d.Spec.RequiresRepublish),
		modes, age(d.CreationTimestamp, now),
	}
}

func csiNode() *Kind {
	kind := object.KindOf[*storagev1.CSINode]()
	return &Kind{
		Kind: kind, Singular: "csinode", Verbs: standardVerbs(),
		Subresources: []Subresource{statusSubresource(kind)},
		Columns:      []metav1.TableColumnDefinition{nameColumn(), column("Drivers", "integer", "Number of drivers on the node"), ageColumn()},
		Row: rowOf(func(n *storagev1.CSINode, now time.Time) []any {
			return []any{n.Name, int64(len(n.Spec.Drivers)), age(n.CreationTimestamp, now)}
		}),
		ValidateName:     validation.NameIsDNSSubdomain,
		PrepareForCreate: on(func(n *storagev1.CSINode) { n.Status = storagev1.CSINodeStatus{} }),
		PrepareForUpdate: onBoth(func(n, old *storagev1.CSINode) { n.Status = old.Status }),
		PrepareForStatusUpdate: onBoth(func(n, old *storagev1.CSINode) {
			n.Spec = old.Spec
			keepStatusMetadata(&n.ObjectMeta, &old.ObjectMeta, false)
		}),
		Validate:             check(validateCSINode),
		ValidateUpdate:       checkBoth(validateCSINodeUpdate),
		ValidateStatusUpdate: checkBoth(validateCSINodeStatus),
	}
}

func validateCSINode(n *storagev1.CSINode) field.ErrorList {
	var errs field.ErrorList
	names := map[string]bool{}
	for i := range n.Spec.Drivers {
		driver, at := &n.Spec.Drivers[i], field.NewPath("spec", "drivers").Index(i)
		errs = append(errs, validateCSIName(driver.Name, at.Child("name"))...)
		if names[driver.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), driver.Name))
		}
		names[driver.Name] = true
		switch {
		case driver.NodeID == "":
			errs = append(errs, field.Required(at.Child("nodeID"), ""))
		case len(driver.NodeID) > maxNodeID:
			errs = append(errs, field.Invalid(at.Child("nodeID"), driver.NodeID, fmt.Sprintf("must be %d characters or less", maxNodeID)))
		}
		if driver.Allocatable != nil && driver.Allocatable.Count != nil {
			errs = append(errs, nonNegative(int64(*driver.Allocatable.Count), at.Child("allocatable", "count"))...)
		}
		for j, key := range driver.TopologyKeys {
			where := at.Child("topologyKeys").Index(j)
			switch {
			case key == "":
				errs = append(errs, field.Required(where, ""))
			case slices.Contains(driver.TopologyKeys[:j], key):
				errs = append(errs, field.Duplicate(where, key))
			default:
				errs = append(errs, messages(utilvalidation.IsQualifiedName(key), key, where)...)
			}
		}
	}
	return errs
}

// validateCSINodeUpdate lets drivers come and go; one that stays changes at most how many
// volumes the node can have of it.
func validateCSINodeUpdate(n, old *storagev1.CSINode) field.ErrorList {
	var errs field.ErrorList
	for i := range n.Spec.Drivers {
		driver := n.Spec.Drivers[i].DeepCopy()
		was := slices.IndexFunc(old.Spec.Drivers, func(d storagev1.CSINodeDriver) bool { return d.Name == driver.Name })
		if was < 0 {
			continue
		}
		driver.Allocatable = old.Spec.Drivers[was].Allocatable
		if !apiequality.Semantic.DeepEqual(*driver, old.Spec.Drivers[was]) {
			errs = append(errs, field.Invalid(field.NewPath("spec", "drivers").Index(i), n.Spec.Drivers[i], validation.FieldImmutableErrorMsg))
		}
	}
	return errs
}

func validateCSINodeStatus(n, _ *storagev1.CSINode) field.ErrorList {
	var errs field.ErrorList
	names := map[string]bool{}
	for i := range n.Status.StorageHealth {
		health, at := &n.Status.StorageHealth[i], field.NewPath("status", "storageHealth").Index(i)
		errs = append(errs, validateCSIName(health.Name, at.Child("name"))...)
		if names[health.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), health.Name))
		}
		names[health.Name] = true
		conditions := at.Child("healthConditions")
		if n := len(health.HealthConditions); n > maxHealthConditions {
			errs = append(errs, field.TooMany(conditions, n, maxHealthConditions))
		}
		for j := range health.HealthConditions {
			errs = append(errs, validateStorageHealth(&health.HealthConditions[j], conditions.Index(j))...)
		}
	}
	return errs
}

func validateStorageHealth(condition *storagev1.StorageHealthCondition, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch condition.Status {
	case storagev1.StorageUnreachable, storagev1.StorageDegraded:
	case "":
		errs = append(errs, field.Required(at.Child("status"), ""))
	default:
		errs = append(errs, field.NotSupported(at.Child("status"), condition.Status, []storagev1.StorageHealthStatusType{
			storagev1.StorageDegraded, storagev1.StorageUnreachable,
		}))
	}
	switch {
	case condition.Reason == "":
		errs = append(errs, field.Required(at.Child("reason"), ""))
	case len(condition.Reason) > maxHealthReason:
		errs = append(errs, field.TooLong(at.Child("reason"), "", maxHealthReason))
	}
	if len(condition.Message) > maxHealthMessage {
		errs = append(errs, field.TooLong(at.Child("message"), "", maxHealthMessage))
	}
	return append(errs, validateVolumeMode(condition.VolumeMode, at.Child("volumeMode"))...)
}

func csiStorageCapacity() *Kind {
	return &Kind{
		Kind: object.KindOf[*storagev1.CSIStorageCapacity](), Singular: "csistoragecapacity", Verbs: standardVerbs(),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("StorageClass", "string", "Class the capacity is for"), column("Capacity", "string", "What is left"), ageColumn(),
		},
		Row: rowOf(func(c *storagev1.CSIStorageCapacity, now time.Time) []any {
			left := "<unset>"
			if c.Capacity != nil {
				left = c.Capacity.String()
			}
			return []any{c.Name, c.StorageClassName, left, age(c.CreationTimestamp, now)}
		}),
		ValidateName: validation.NameIsDNSSubdomain,
		Validate: check(func(c *storagev1.CSIStorageCapacity) field.ErrorList {
			at := field.NewPath("storageClassName")
			errs := messages(validation.NameIsDNSSubdomain(c.StorageClassName, false), c.StorageClassName, at)
			if c.NodeTopology != nil {
				errs = append(errs, validateSelector(c.NodeTopology, field.NewPath("nodeTopology"))...)
			}
			if c.Capacity != nil && c.Capacity.Sign() < 0 {
				errs = append(errs, field.Invalid(field.NewPath("capacity"), c.Capacity.String(), validation.IsNegativeErrorMsg))
			}
			if c.MaximumVolumeSize != nil && c.MaximumVolumeSize.Sign() < 0 {
				errs = append(errs, field.Invalid(field.NewPath("maximumVolumeSize"), c.MaximumVolumeSize.String(), validation.IsNegativeErrorMsg))
			}
			return errs
		}),
		ValidateUpdate: checkBoth(func(c, old *storagev1.CSIStorageCapacity) field.ErrorList {
			errs := validation.ValidateImmutableField(c.NodeTopology, old.NodeTopology, field.NewPath("nodeTopology"))
			return append(errs, validation.ValidateImmutableField(c.StorageClassName, old.StorageClassName, field.NewPath("storageClassName"))...)
		}),
	}
}
