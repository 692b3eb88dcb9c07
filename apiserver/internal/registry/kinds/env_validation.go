package kinds

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateEnv(env []corev1.EnvVar, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range env {
		variable, where := &env[i], at.Index(i)
		if variable.Name == "" {
			errs = append(errs, field.Required(where.Child("name"), ""))
		} else {
			for _, msg := range utilvalidation.IsRelaxedEnvVarName(variable.Name) {
				errs = append(errs, field.Invalid(where.Child("name"), variable.Name, msg))
			}
		}
		if variable.ValueFrom != nil {
			errs = append(errs, validateEnvSource(variable, where.Child("valueFrom"))...)
		}
	}
	return errs
}

func validateEnvSource(variable *corev1.EnvVar, at *field.Path) field.ErrorList {
	source := variable.ValueFrom
	var errs field.ErrorList
	sources := 0
	if ref := source.FieldRef; ref != nil {
		sources++
		errs = append(errs, validateFieldRef(ref, envFields, at.Child("fieldRef"))...)
	}
	if ref := source.ResourceFieldRef; ref != nil {
		sources++
		errs = append(errs, validateResourceFieldRef(ref, false, at.Child("resourceFieldRef"))...)
	}
	if ref := source.ConfigMapKeyRef; ref != nil {
		sources++
		errs = append(errs, validateKeyRef(ref.Name, ref.Key, at.Child("configMapKeyRef"))...)
	}
	if ref := source.SecretKeyRef; ref != nil {
		sources++
		errs = append(errs, validateKeyRef(ref.Name, ref.Key, at.Child("secretKeyRef"))...)
	}
	if ref := source.FileKeyRef; ref != nil {
		sources++
		where := at.Child("fileKeyRef")
		if ref.VolumeName == "" {
			errs = append(errs, field.Required(where.Child("volumeName"), ""))
		}
		if ref.Path == "" {
			errs = append(errs, field.Required(where.Child("path"), ""))
		} else {
			errs = append(errs, validateInsidePath(ref.Path, where.Child("path"))...)
		}
		if ref.Key == "" {
			errs = append(errs, field.Required(where.Child("key"), ""))
		}
	}
	switch {
	case sources == 0:
		errs = append(errs, field.Invalid(at, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"))
	case variable.Value != "":
		errs = append(errs, field.Invalid(at, "", "may not be specified when `value` is not empty"))
	case sources > 1:
		errs = append(errs, field.Invalid(at, "", "may not have more than one field specified at a time"))
	}
	return errs
}

func validateKeyRef(name, key string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if name == "" {
		errs = append(errs, field.Required(at.Child("name"), ""))
	}
	if key == "" {
		return append(errs, field.Required(at.Child("key"), ""))
	}
	for _, msg := range utilvalidation.IsConfigMapKey(key) {
		errs = append(errs, field.Invalid(at.Child("key"), key, msg))
	}
	return errs
}

const (
	envFields    = "metadata.name metadata.namespace metadata.uid spec.nodeName spec.serviceAccountName status.hostIP status.hostIPs status.podIP status.podIPs"
	volumeFields = "metadata.name metadata.namespace metadata.uid metadata.labels metadata.annotations"
)

// validateFieldRef checks a field of the pod that env variables or files show.
func validateFieldRef(ref *corev1.ObjectFieldSelector, allowed string, at *field.Path) field.ErrorList {
	if ref.APIVersion == "" {
		return field.ErrorList{field.Required(at.Child("apiVersion"), "")}
	}
	if ref.FieldPath == "" {
		return field.ErrorList{field.Required(at.Child("fieldPath"), "")}
	}
	if base, key, ok := subscript(ref.FieldPath); ok {
		var messages []string
		switch base {
		case "metadata.annotations":
			messages = utilvalidation.IsQualifiedName(strings.ToLower(key))
		case "metadata.labels":
			messages = utilvalidation.IsQualifiedName(key)
		default:
			messages = []string{"does not support subscript"}
		}
		var errs field.ErrorList
		for _, msg := range messages {
			errs = append(errs, field.Invalid(at, key, msg))
		}
		return errs
	}
	list := strings.Fields(allowed)
	if !slices.Contains(list, ref.FieldPath) {
		return field.ErrorList{field.NotSupported(at.Child("fieldPath"), ref.FieldPath, list)}
	}
	return nil
}

// subscript splits "metadata.labels['key']".
func subscript(fieldPath string) (base, key string, ok bool) {
	rest, ok := strings.CutSuffix(fieldPath, "']")
	if !ok {
		return fieldPath, "", false
	}
	base, key, ok = strings.Cut(rest, "['")
	return base, key, ok
}

func validateResourceFieldRef(ref *corev1.ResourceFieldSelector, volume bool, at *field.Path) field.ErrorList {
	if volume && ref.ContainerName == "" {
		return field.ErrorList{field.Required(at.Child("containerName"), "")}
	}
	if ref.Resource == "" {
		return field.ErrorList{field.Required(at.Child("resource"), "")}
	}
	known := []string{"limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"}
	if !slices.Contains(known, ref.Resource) && !strings.HasPrefix(ref.Resource, "limits.hugepages-") && !strings.HasPrefix(ref.Resource, "requests.hugepages-") {
		return field.ErrorList{field.NotSupported(at.Child("resource"), ref.Resource, known)}
	}
	if ref.Divisor.IsZero() {
		return nil
	}
	divisors := []string{"1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"}
	if strings.HasSuffix(ref.Resource, ".cpu") {
		divisors = []string{"1m", "1"}
	}
	if !slices.Contains(divisors, ref.Divisor.String()) {
		return field.ErrorList{field.Invalid(at.Child("divisor"), ref.Resource, "only divisor's values "+strings.Join(divisors, ", ")+" are supported with this resource")}
	}
	return nil
}

func validateEnvFrom(sources []corev1.EnvFromSource, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range sources {
		source, where := &sources[i], at.Index(i)
		if source.Prefix != "" {
			for _, msg := range utilvalidation.IsRelaxedEnvVarName(source.Prefix) {
				errs = append(errs, field.Invalid(where.Child("prefix"), source.Prefix, msg))
			}
		}
		switch {
		case source.ConfigMapRef != nil && source.SecretRef != nil:
			errs = append(errs, field.Invalid(where, "", "may not have more than one field specified at a time"))
		case source.ConfigMapRef != nil:
			errs = append(errs, validateSourceName(source.ConfigMapRef.Name, where.Child("configMapRef", "name"))...)
		case source.SecretRef != nil:
			errs = append(errs, validateSourceName(source.SecretRef.Name, where.Child("secretRef", "name"))...)
		default:
			errs = append(errs, field.Invalid(where, "", "must specify one of: `configMapRef` or `secretRef`"))
		}
	}
	return errs
}

func validateSourceName(name string, at *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	var errs field.ErrorList
	for _, msg := range validation.NameIsDNSSubdomain(name, false) {
		errs = append(errs, field.Invalid(at, name, msg))
	}
	return errs
}
