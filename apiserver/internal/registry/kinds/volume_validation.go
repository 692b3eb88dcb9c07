package kinds

import (
	"reflect"
	"strings"

	corev1 "k8s.io/api/core/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	maxFileMode  = 0o777
	minTokenLife = 10 * 60
	maxTokenLife = 1 << 32
)

// validateVolumes also returns the names that mounts may use.
func validateVolumes(volumes []corev1.Volume, at *field.Path) (volumeSet, field.ErrorList) {
	if len(volumes) == 0 {
		return nil, nil
	}
	var errs field.ErrorList
	names := make(volumeSet, len(volumes))
	for i := range volumes {
		volume, where := &volumes[i], at.Index(i)
		_, twice := names[volume.Name]
		switch {
		case volume.Name == "":
			errs = append(errs, field.Required(where.Child("name"), ""))
		case twice:
			errs = append(errs, field.Duplicate(where.Child("name"), volume.Name))
		default:
			for _, msg := range utilvalidation.IsDNS1123Label(volume.Name) {
				errs = append(errs, field.Invalid(where.Child("name"), volume.Name, msg))
			}
		}
		names[volume.Name] = volume.PersistentVolumeClaim != nil || volume.Ephemeral != nil
		errs = append(errs, validateVolumeSource(volume, where)...)
	}
	return names, errs
}

// volumeType returns the name of the only source that is set, and how many are.
func volumeType[S corev1.VolumeSource | corev1.PersistentVolumeSource](source *S) (first string, names []string) {
	value := reflect.ValueOf(source).Elem()
	for i := range value.NumField() {
		if value.Field(i).IsNil() {
			continue
		}
		tag, _, _ := strings.Cut(value.Type().Field(i).Tag.Get("json"), ",")
		names = append(names, tag)
	}
	if len(names) == 0 {
		return "", nil
	}
	return names[0], names
}

func validateVolumeSource(volume *corev1.Volume, at *field.Path) field.ErrorList {
	source := &volume.VolumeSource
	_, names := volumeType(source)
	if len(names) == 0 {
		return field.ErrorList{field.Required(at, "must specify a volume type")}
	}
	var errs field.ErrorList
	for _, name := range names[1:] {
		errs = append(errs, field.Forbidden(at.Child(name), "may not specify more than 1 volume type"))
	}
	where := at.Child(names[0])
	required := func(value, name string) {
		if value == "" {
			errs = append(errs, field.Required(where.Child(name), ""))
		}
	}
	switch names[0] {
	case "emptyDir":
		if limit := source.EmptyDir.SizeLimit; limit != nil && limit.Sign() < 0 {
			errs = append(errs, field.Forbidden(where.Child("sizeLimit"), "SizeLimit field must be a valid resource quantity"))
		}
		if medium := source.EmptyDir.Medium; medium != corev1.StorageMediumDefault && medium != corev1.StorageMediumMemory && !strings.HasPrefix(string(medium), string(corev1.StorageMediumHugePages)) {
			errs = append(errs, field.NotSupported(where.Child("medium"), medium, []corev1.StorageMedium{corev1.StorageMediumDefault, corev1.StorageMediumMemory, corev1.StorageMediumHugePages}))
		}
	case "hostPath":
		errs = append(errs, validateHostPath(source.HostPath, where)...)
	case "secret":
		required(source.Secret.SecretName, "secretName")
		errs = append(errs, validateMode(source.Secret.DefaultMode, where.Child("defaultMode"))...)
		errs = append(errs, validateKeyItems(source.Secret.Items, where.Child("items"))...)
	case "configMap":
		required(source.ConfigMap.Name, "name")
		errs = append(errs, validateMode(source.ConfigMap.DefaultMode, where.Child("defaultMode"))...)
		errs = append(errs, validateKeyItems(source.ConfigMap.Items, where.Child("items"))...)
	case "downwardAPI":
		errs = append(errs, validateMode(source.DownwardAPI.DefaultMode, where.Child("defaultMode"))...)
		for i := range source.DownwardAPI.Items {
			errs = append(errs, validateDownwardItem(&source.DownwardAPI.Items[i], where.Child("items").Index(i))...)
		}
	case "projected":
		errs = append(errs, validateProjected(source.Projected, where)...)
	case "persistentVolumeClaim":
		required(source.PersistentVolumeClaim.ClaimName, "claimName")
	case "nfs":
		required(source.NFS.Server, "server")
		required(source.NFS.Path, "path")
		if source.NFS.Path != "" && !strings.HasPrefix(source.NFS.Path, "/") {
			errs = append(errs, field.Invalid(where.Child("path"), source.NFS.Path, "must be an absolute path"))
		}
	case "csi":
		required(source.CSI.Driver, "driver")
	case "iscsi":
		required(source.ISCSI.TargetPortal, "targetPortal")
		required(source.ISCSI.IQN, "iqn")
		if source.ISCSI.Lun < 0 || source.ISCSI.Lun > 255 {
			errs = append(errs, field.Invalid(where.Child("lun"), source.ISCSI.Lun, utilvalidation.InclusiveRangeError(0, 255)))
		}
	case "ephemeral":
		errs = append(errs, validateEphemeralVolume(source.Ephemeral, where)...)
	case "image":
		required(source.Image.Reference, "reference")
		switch source.Image.PullPolicy {
		case corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever, "":
		default:
			errs = append(errs, field.NotSupported(where.Child("pullPolicy"), source.Image.PullPolicy, []corev1.PullPolicy{corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever}))
		}
	case "gitRepo":
		required(source.GitRepo.Repository, "repository")
	case "gcePersistentDisk":
		required(source.GCEPersistentDisk.PDName, "pdName")
	case "awsElasticBlockStore":
		required(source.AWSElasticBlockStore.VolumeID, "volumeID")
	case "glusterfs":
		required(source.Glusterfs.EndpointsName, "endpoints")
		required(source.Glusterfs.Path, "path")
	case "rbd":
		if len(source.RBD.CephMonitors) == 0 {
			errs = append(errs, field.Required(where.Child("monitors"), ""))
		}
		required(source.RBD.RBDImage, "image")
	case "cephfs":
		if len(source.CephFS.Monitors) == 0 {
			errs = append(errs, field.Required(where.Child("monitors"), ""))
		}
	case "flexVolume":
		required(source.FlexVolume.Driver, "driver")
	case "cinder":
		required(source.Cinder.VolumeID, "volumeID")
	case "azureFile":
		required(source.AzureFile.SecretName, "secretName")
		required(source.AzureFile.ShareName, "shareName")
	case "vsphereVolume":
		required(source.VsphereVolume.VolumePath, "volumePath")
	case "azureDisk":
		required(source.AzureDisk.DiskName, "diskName")
		required(source.AzureDisk.DataDiskURI, "diskURI")
	case "portworxVolume":
		required(source.PortworxVolume.VolumeID, "volumeID")
	}
	return errs
}

func validateHostPath(source *corev1.HostPathVolumeSource, at *field.Path) field.ErrorList {
	if source.Path == "" {
		return field.ErrorList{field.Required(at.Child("path"), "")}
	}
	errs := validateNoBacksteps(source.Path, at.Child("path"))
	switch kind := valueOf(source.Type); kind {
	case corev1.HostPathUnset, corev1.HostPathDirectoryOrCreate, corev1.HostPathDirectory, corev1.HostPathFileOrCreate,
		corev1.HostPathFile, corev1.HostPathSocket, corev1.HostPathCharDev, corev1.HostPathBlockDev:
	default:
		errs = append(errs, field.NotSupported(at.Child("type"), kind, []corev1.HostPathType{
			corev1.HostPathBlockDev, corev1.HostPathCharDev, corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate,
			corev1.HostPathFile, corev1.HostPathFileOrCreate, corev1.HostPathSocket, corev1.HostPathUnset,
		}))
	}
	return errs
}

func validateMode(mode *int32, at *field.Path) field.ErrorList {
	if mode != nil && (*mode < 0 || *mode > maxFileMode) {
		return field.ErrorList{field.Invalid(at, *mode, "must be a number between 0 and 0777 (octal), both inclusive")}
	}
	return nil
}

func validateKeyItems(items []corev1.KeyToPath, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range items {
		item, where := &items[i], at.Index(i)
		if item.Key == "" {
			errs = append(errs, field.Required(where.Child("key"), ""))
		}
		errs = append(errs, validateFilePath(item.Path, where.Child("path"))...)
		errs = append(errs, validateMode(item.Mode, where.Child("mode"))...)
	}
	return errs
}

func validateFilePath(p string, at *field.Path) field.ErrorList {
	if p == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	errs := validateInsidePath(p, at)
	// The kubelet keeps its own links in the volume under names that begin so.
	if strings.HasPrefix(p, "..") && !strings.HasPrefix(p, "../") && p != ".." {
		errs = append(errs, field.Invalid(at, p, "must not start with '..'"))
	}
	return errs
}

func validateDownwardItem(item *corev1.DownwardAPIVolumeFile, at *field.Path) field.ErrorList {
	errs := validateFilePath(item.Path, at.Child("path"))
	switch {
	case item.FieldRef != nil:
		errs = append(errs, validateFieldRef(item.FieldRef, volumeFields, at.Child("fieldRef"))...)
		if item.ResourceFieldRef != nil {
			errs = append(errs, field.Invalid(at, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"))
		}
	case item.ResourceFieldRef != nil:
		errs = append(errs, validateResourceFieldRef(item.ResourceFieldRef, true, at.Child("resourceFieldRef"))...)
	default:
		errs = append(errs, field.Required(at, "one of fieldRef and resourceFieldRef is required"))
	}
	return append(errs, validateMode(item.Mode, at.Child("mode"))...)
}

func validateProjected(source *corev1.ProjectedVolumeSource, at *field.Path) field.ErrorList {
	errs := validateMode(source.DefaultMode, at.Child("defaultMode"))
	paths := map[string]bool{}
	unique := func(p string, where *field.Path) {
		if p != "" && paths[p] {
			errs = append(errs, field.Invalid(where, p, "conflicting duplicate paths"))
		}
		paths[p] = true
	}
	for i := range source.Sources {
		projection, where := &source.Sources[i], at.Child("sources").Index(i)
		given := 0
		if s := projection.Secret; s != nil {
			given++
			if s.Name == "" {
				errs = append(errs, field.Required(where.Child("secret", "name"), ""))
			}
			errs = append(errs, validateKeyItems(s.Items, where.Child("secret", "items"))...)
			for j, item := range s.Items {
				unique(item.Path, where.Child("secret", "items").Index(j).Child("path"))
			}
		}
		if c := projection.ConfigMap; c != nil {
			given++
			if c.Name == "" {
				errs = append(errs, field.Required(where.Child("configMap", "name"), ""))
			}
			errs = append(errs, validateKeyItems(c.Items, where.Child("configMap", "items"))...)
			for j, item := range c.Items {
				unique(item.Path, where.Child("configMap", "items").Index(j).Child("path"))
			}
		}
		if d := projection.DownwardAPI; d != nil {
			given++
			for j := range d.Items {
				errs = append(errs, validateDownwardItem(&d.Items[j], where.Child("downwardAPI", "items").Index(j))...)
				unique(d.Items[j].Path, where.Child("downwardAPI", "items").Index(j).Child("path"))
			}
		}
		if t := projection.ServiceAccountToken; t != nil {
			given++
			token := where.Child("serviceAccountToken")
			errs = append(errs, validateTokenLife(valueOf(t.ExpirationSeconds), token.Child("expirationSeconds"))...)
			errs = append(errs, validateFilePath(t.Path, token.Child("path"))...)
			unique(t.Path, token.Child("path"))
		}
		if projection.ClusterTrustBundle != nil {
			given++
			errs = append(errs, validateFilePath(projection.ClusterTrustBundle.Path, where.Child("clusterTrustBundle", "path"))...)
			unique(projection.ClusterTrustBundle.Path, where.Child("clusterTrustBundle", "path"))
		}
		if projection.PodCertificate != nil {
			given++
		}
		switch {
		case given == 0:
			errs = append(errs, field.Required(where, "must specify a projected volume source"))
		case given > 1:
			errs = append(errs, field.Forbidden(where, "may not specify more than 1 volume type per source"))
		}
	}
	return errs
}

func validateEphemeralVolume(source *corev1.EphemeralVolumeSource, at *field.Path) field.ErrorList {
	where := at.Child("volumeClaimTemplate")
	if source.VolumeClaimTemplate == nil {
		return field.ErrorList{field.Required(where, "")}
	}
	return validateClaimSpec(&source.VolumeClaimTemplate.Spec, where.Child("spec"))
}
