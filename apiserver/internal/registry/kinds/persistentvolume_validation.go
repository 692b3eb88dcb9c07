package kinds

import (
	"fmt"
	"path"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	// maxCSIName is what the CSI specification allows the name of a driver.
	maxCSIName = 63
	notZero    = "must be greater than zero"
)

func validatePersistentVolume(v *corev1.PersistentVolume) field.ErrorList {
	spec := field.NewPath("spec")
	errs := validatePersistentVolumeSpec(&v.Spec, spec)
	errs = append(errs, validateAccessModes(v.Spec.AccessModes, "", spec.Child("accessModes"))...)
	capacity := spec.Child("capacity")
	if len(v.Spec.Capacity) == 0 {
		errs = append(errs, field.Required(capacity, ""))
	} else if _, ok := v.Spec.Capacity[corev1.ResourceStorage]; !ok || len(v.Spec.Capacity) > 1 {
		errs = append(errs, field.NotSupported(capacity, sortedKeys(v.Spec.Capacity), []corev1.ResourceName{corev1.ResourceStorage}))
	}
	for _, name := range sortedKeys(v.Spec.Capacity) {
		errs = append(errs, validatePositive(v.Spec.Capacity[name], capacity.Key(string(name)))...)
	}
	switch policy, at := v.Spec.PersistentVolumeReclaimPolicy, spec.Child("persistentVolumeReclaimPolicy"); policy {
	case corev1.PersistentVolumeReclaimRetain, corev1.PersistentVolumeReclaimDelete:
	case corev1.PersistentVolumeReclaimRecycle:
		if v.Spec.HostPath != nil && path.Clean(v.Spec.HostPath.Path) == "/" {
			errs = append(errs, field.Forbidden(at, "may not be 'recycle' for a hostPath mount of '/'"))
		}
	default:
		errs = append(errs, field.NotSupported(at, policy, []corev1.PersistentVolumeReclaimPolicy{
			corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRecycle, corev1.PersistentVolumeReclaimRetain,
		}))
	}
	errs = append(errs, validateSubdomain(v.Spec.StorageClassName, spec.Child("storageClassName"))...)
	errs = append(errs, validateVolumeMode(v.Spec.VolumeMode, spec.Child("volumeMode"))...)
	if class, at := v.Spec.VolumeAttributesClassName, spec.Child("volumeAttributesClassName"); class != nil {
		if *class == "" {
			errs = append(errs, field.Required(at, "an empty string is disallowed"))
		}
		errs = append(errs, validateSubdomain(*class, at)...)
		if v.Spec.CSI == nil {
			errs = append(errs, field.Required(spec.Child("csi"), "has to be specified when using volumeAttributesClassName"))
		}
	}
	return errs
}

// validatePersistentVolumeSpec checks what a volume is and where it can be reached from: all
// there is in one that a VolumeAttachment describes.
func validatePersistentVolumeSpec(v *corev1.PersistentVolumeSpec, spec *field.Path) field.ErrorList {
	var errs field.ErrorList
	_, names := volumeType(&v.PersistentVolumeSource)
	if len(names) == 0 {
		errs = append(errs, field.Required(spec, "must specify a volume type"))
	} else {
		for _, name := range names[1:] {
			errs = append(errs, field.Forbidden(spec.Child(name), "may not specify more than 1 volume type"))
		}
		errs = append(errs, validatePersistentVolumeSource(&v.PersistentVolumeSource, names[0], spec.Child(names[0]))...)
	}
	at := spec.Child("nodeAffinity")
	switch affinity := v.NodeAffinity; {
	case affinity == nil:
		if v.Local != nil {
			errs = append(errs, field.Required(at, "Local volume requires node affinity"))
		}
	case affinity.Required == nil:
		errs = append(errs, field.Required(at.Child("required"), "must specify required node constraints"))
	default:
		errs = append(errs, validateNodeSelector(affinity.Required, at.Child("required"))...)
	}
	return errs
}

func validatePersistentVolumeSource(source *corev1.PersistentVolumeSource, name string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	required := func(value, name string) {
		if value == "" {
			errs = append(errs, field.Required(at.Child(name), ""))
		}
	}
	requiredList := func(list []string, name string) {
		if len(list) == 0 {
			errs = append(errs, field.Required(at.Child(name), ""))
		}
	}
	secret := func(ref *corev1.SecretReference, name string) {
		if ref != nil {
			errs = append(errs, validateSecretReference(ref, at.Child(name))...)
		}
	}
	switch name {
	case "hostPath":
		errs = append(errs, validateHostPath(source.HostPath, at)...)
	case "local":
		required(source.Local.Path, "path")
		errs = append(errs, validateNoBacksteps(source.Local.Path, at.Child("path"))...)
	case "nfs":
		required(source.NFS.Server, "server")
		required(source.NFS.Path, "path")
		if source.NFS.Path != "" && !path.IsAbs(source.NFS.Path) {
			errs = append(errs, field.Invalid(at.Child("path"), source.NFS.Path, "must be an absolute path"))
		}
	case "csi":
		errs = append(errs, validateCSIName(source.CSI.Driver, at.Child("driver"))...)
		required(source.CSI.VolumeHandle, "volumeHandle")
		secret(source.CSI.ControllerPublishSecretRef, "controllerPublishSecretRef")
		secret(source.CSI.ControllerExpandSecretRef, "controllerExpandSecretRef")
		secret(source.CSI.NodePublishSecretRef, "nodePublishSecretRef")
		secret(source.CSI.NodeStageSecretRef, "nodeStageSecretRef")
		secret(source.CSI.NodeExpandSecretRef, "nodeExpandSecretRef")
	case "iscsi":
		required(source.ISCSI.TargetPortal, "targetPortal")
		required(source.ISCSI.IQN, "iqn")
		errs = append(errs, validateLun(source.ISCSI.Lun, at.Child("lun"))...)
		secret(source.ISCSI.SecretRef, "secretRef")
		if (source.ISCSI.DiscoveryCHAPAuth || source.ISCSI.SessionCHAPAuth) && source.ISCSI.SecretRef == nil {
			errs = append(errs, field.Required(at.Child("secretRef"), ""))
		}
	case "fc":
		errs = append(errs, validateFibreChannel(source.FC, at)...)
	case "gcePersistentDisk":
		required(source.GCEPersistentDisk.PDName, "pdName")
		if p := source.GCEPersistentDisk.Partition; p < 0 || p > 255 {
			errs = append(errs, field.Invalid(at.Child("partition"), p, utilvalidation.InclusiveRangeError(0, 255)))
		}
	case "awsElasticBlockStore":
		required(source.AWSElasticBlockStore.VolumeID, "volumeID")
		if p := source.AWSElasticBlockStore.Partition; p < 0 || p > 255 {
			errs = append(errs, field.Invalid(at.Child("partition"), p, utilvalidation.InclusiveRangeError(0, 255)))
		}
	case "glusterfs":
		required(source.Glusterfs.EndpointsName, "endpoints")
		required(source.Glusterfs.Path, "path")
	case "rbd":
		requiredList(source.RBD.CephMonitors, "monitors")
		required(source.RBD.RBDImage, "image")
	case "cephfs":
		requiredList(source.CephFS.Monitors, "monitors")
	case "flexVolume":
		required(source.FlexVolume.Driver, "driver")
	case "cinder":
		required(source.Cinder.VolumeID, "volumeID")
		secret(source.Cinder.SecretRef, "secretRef")
	case "azureFile":
		required(source.AzureFile.SecretName, "secretName")
		required(source.AzureFile.ShareName, "shareName")
		if namespace := source.AzureFile.SecretNamespace; namespace != nil && *namespace == "" {
			errs = append(errs, field.Required(at.Child("secretNamespace"), ""))
		}
	case "azureDisk":
		required(source.AzureDisk.DiskName, "diskName")
		required(source.AzureDisk.DataDiskURI, "diskURI")
	case "vsphereVolume":
		required(source.VsphereVolume.VolumePath, "volumePath")
	case "photonPersistentDisk":
		required(source.PhotonPersistentDisk.PdID, "pdID")
	case "portworxVolume":
		required(source.PortworxVolume.VolumeID, "volumeID")
	case "quobyte":
		required(source.Quobyte.Registry, "registry")
		required(source.Quobyte.Volume, "volume")
	case "scaleIO":
		required(source.ScaleIO.Gateway, "gateway")
		required(source.ScaleIO.System, "system")
		required(source.ScaleIO.VolumeName, "volumeName")
	case "flocker":
		if source.Flocker.DatasetName == "" && source.Flocker.DatasetUUID == "" {
			errs = append(errs, field.Required(at, "one of datasetName and datasetUUID is required"))
		}
	}
	return errs
}

func validateLun(lun int32, at *field.Path) field.ErrorList {
	if lun < 0 || lun > 255 {
		return field.ErrorList{field.Invalid(at, lun, utilvalidation.InclusiveRangeError(0, 255))}
	}
	return nil
}

func validateFibreChannel(fc *corev1.FCVolumeSource, at *field.Path) field.ErrorList {
	switch {
	case len(fc.TargetWWNs) == 0 && len(fc.WWIDs) == 0:
		return field.ErrorList{field.Required(at.Child("targetWWNs"), "must specify either targetWWNs or wwids, but not both")}
	case len(fc.TargetWWNs) > 0 && len(fc.WWIDs) > 0:
		return field.ErrorList{field.Invalid(at.Child("targetWWNs"), fc.TargetWWNs, "targetWWNs and wwids can not be specified simultaneously")}
	case len(fc.TargetWWNs) > 0 && fc.Lun == nil:
		return field.ErrorList{field.Required(at.Child("lun"), "lun is required if targetWWNs is specified")}
	case len(fc.TargetWWNs) > 0:
		return validateLun(*fc.Lun, at.Child("lun"))
	}
	return nil
}

func validateSecretReference(ref *corev1.SecretReference, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if ref.Name == "" {
		errs = append(errs, field.Required(at.Child("name"), ""))
	}
	errs = append(errs, validateSubdomain(ref.Name, at.Child("name"))...)
	if ref.Namespace == "" {
		return append(errs, field.Required(at.Child("namespace"), ""))
	}
	return append(errs, validateNamespaceReference(ref.Namespace, at.Child("namespace"))...)
}

// validateCSIName checks the name by which a CSI driver goes, in which case does not matter.
func validateCSIName(driver string, at *field.Path) field.ErrorList {
	if driver == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	var errs field.ErrorList
	if len(driver) > maxCSIName {
		errs = append(errs, field.TooLong(at, driver, maxCSIName))
	}
	return append(errs, messages(utilvalidation.IsDNS1123Subdomain(strings.ToLower(driver)), driver, at)...)
}

// validateAccessModes checks the modes of a volume or claim; detail explains a missing list.
func validateAccessModes(modes []corev1.PersistentVolumeAccessMode, detail string, at *field.Path) field.ErrorList {
	if len(modes) == 0 {
		return field.ErrorList{field.Required(at, detail)}
	}
	var errs field.ErrorList
	alone := false
	for _, mode := range modes {
		switch mode {
		case corev1.ReadWriteOnce, corev1.ReadOnlyMany, corev1.ReadWriteMany:
		case corev1.ReadWriteOncePod:
			alone = true
		default:
			errs = append(errs, field.NotSupported(at, mode, []corev1.PersistentVolumeAccessMode{
				corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod,
			}))
		}
	}
	if alone && len(modes) > 1 {
		errs = append(errs, field.Forbidden(at, fmt.Sprintf("may not use %s with other access modes", corev1.ReadWriteOncePod)))
	}
	return errs
}

func validateVolumeMode(mode *corev1.PersistentVolumeMode, at *field.Path) field.ErrorList {
	if mode == nil || *mode == corev1.PersistentVolumeBlock || *mode == corev1.PersistentVolumeFilesystem {
		return nil
	}
	return field.ErrorList{field.NotSupported(at, *mode, []corev1.PersistentVolumeMode{corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem})}
}

func validatePositive(quantity resource.Quantity, at *field.Path) field.ErrorList {
	if quantity.Sign() <= 0 {
		return field.ErrorList{field.Invalid(at, quantity.String(), notZero)}
	}
	return nil
}
