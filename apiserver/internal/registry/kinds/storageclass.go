package kinds

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/platform/kube/object"
)

const (
	// maxParameters and maxParametersSize (bytes, keys and values) bound what a class hands
	// to its driver.
	maxParameters     = 512
	maxParametersSize = 256 << 10

	defaultClassAnnotation     = "storageclass.kubernetes.io/is-default-class"
	betaDefaultClassAnnotation = "storageclass.beta.kubernetes.io/is-default-class"
)

func storageClass() *Kind {
	return &Kind{
		Kind: object.KindOf[*storagev1.StorageClass](), Singular: "storageclass", ShortNames: []string{"sc"}, Verbs: standardVerbs(),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Provisioner", "string", "Who makes the volumes"),
			column("ReclaimPolicy", "string", "What becomes of a volume when its claim is gone"),
			column("VolumeBindingMode", "string", "When volumes are made and bound"),
			column("AllowVolumeExpansion", "string", "Whether volumes can grow"), ageColumn(),
		},
		Row: rowOf(func(c *storagev1.StorageClass, now time.Time) []any {
			name := c.Name
			if c.Annotations[defaultClassAnnotation] == "true" || c.Annotations[betaDefaultClassAnnotation] == "true" {
				name += " (default)"
			}
			policy := corev1.PersistentVolumeReclaimDelete
			if c.ReclaimPolicy != nil {
				policy = *c.ReclaimPolicy
			}
			return []any{name, c.Provisioner, string(policy), orUnset(c.VolumeBindingMode), valueOf(c.AllowVolumeExpansion), age(c.CreationTimestamp, now)}
		}),
		ValidateName: validation.NameIsDNSSubdomain,
		Default: on(func(c *storagev1.StorageClass) {
			setDefaultPtr(&c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)
			setDefaultPtr(&c.VolumeBindingMode, storagev1.VolumeBindingImmediate)
		}),
		Validate:       check(validateStorageClass),
		ValidateUpdate: checkBoth(validateStorageClassUpdate),
	}
}

func validateStorageClass(c *storagev1.StorageClass) field.ErrorList {
	var errs field.ErrorList
	at := field.NewPath("provisioner")
	if c.Provisioner == "" {
		errs = append(errs, field.Required(at, ""))
	} else {
		errs = append(errs, messages(utilvalidation.IsQualifiedName(strings.ToLower(c.Provisioner)), c.Provisioner, at)...)
	}
	errs = append(errs, validateClassParameters(c.Parameters, field.NewPath("parameters"))...)
	if policy := valueOf(c.ReclaimPolicy); policy != "" && policy != corev1.PersistentVolumeReclaimDelete && policy != corev1.PersistentVolumeReclaimRetain {
		errs = append(errs, field.NotSupported(field.NewPath("reclaimPolicy"), policy, []corev1.PersistentVolumeReclaimPolicy{
			corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain,
		}))
	}
	switch at := field.NewPath("volumeBindingMode"); valueOf(c.VolumeBindingMode) {
	case storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer:
	case "":
		errs = append(errs, field.Required(at, ""))
	default:
		errs = append(errs, field.NotSupported(at, *c.VolumeBindingMode, []storagev1.VolumeBindingMode{
			storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer,
		}))
	}
	return append(errs, validateTopologyTerms(c.AllowedTopologies, field.NewPath("allowedTopologies"))...)
}

func validateClassParameters(parameters map[string]string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(parameters) > maxParameters {
		errs = append(errs, field.TooMany(at, len(parameters), maxParameters))
	}
	size := 0
	for key, value := range parameters {
		if key == "" {
			errs = append(errs, field.Invalid(at, key, "field can not be empty."))
		}
		size += len(key) + len(value)
	}
	if size > maxParametersSize {
		errs = append(errs, field.TooLong(at, "", maxParametersSize))
	}
	return errs
}

// validateTopologyTerms checks terms of which one must match. A term, a key in a term and a
// value of a key each stand there once.
func validateTopologyTerms(terms []corev1.TopologySelectorTerm, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range terms {
		at := path.Index(i).Child("matchLabelExpressions")
		keys := map[string]bool{}
		for j, expression := range terms[i].MatchLabelExpressions {
			where := at.Index(j)
			errs = append(errs, metavalidation.ValidateLabelName(expression.Key, where.Child("key"))...)
			if keys[expression.Key] {
				errs = append(errs, field.Duplicate(where.Child("key"), expression.Key))
			}
			keys[expression.Key] = true
			if len(expression.Values) == 0 {
				errs = append(errs, field.Required(where.Child("values"), ""))
			}
			for k, value := range expression.Values {
				if slices.Contains(expression.Values[:k], value) {
					errs = append(errs, field.Duplicate(where.Child("values").Index(k), value))
				}
			}
		}
		if slices.ContainsFunc(terms[:i], func(t corev1.TopologySelectorTerm) bool { return sameTopology(&t, &terms[i]) }) {
			errs = append(errs, field.Duplicate(at, ""))
		}
	}
	return errs
}

// sameTopology compares terms without regard to order.
func sameTopology(a, b *corev1.TopologySelectorTerm) bool {
	set := func(t *corev1.TopologySelectorTerm) map[string][]string {
		out := map[string][]string{}
		for _, expression := range t.MatchLabelExpressions {
			values := slices.Clone(expression.Values)
			slices.Sort(values)
			out[expression.Key] = values
		}
		return out
	}
	return apiequality.Semantic.DeepEqual(set(a), set(b))
}

func validateStorageClassUpdate(c, old *storagev1.StorageClass) field.ErrorList {
	var errs field.ErrorList
	if !apiequality.Semantic.DeepEqual(c.Parameters, old.Parameters) {
		errs = append(errs, field.Forbidden(field.NewPath("parameters"), "updates to parameters are forbidden."))
	}
	if c.Provisioner != old.Provisioner {
		errs = append(errs, field.Forbidden(field.NewPath("provisioner"), "updates to provisioner are forbidden."))
	}
	if !equalPtr(c.ReclaimPolicy, old.ReclaimPolicy) {
		errs = append(errs, field.Forbidden(field.NewPath("reclaimPolicy"), "updates to reclaimPolicy are forbidden."))
	}
	return append(errs, validation.ValidateImmutableField(c.VolumeBindingMode, old.VolumeBindingMode, field.NewPath("volumeBindingMode"))...)
}

func volumeAttributesClass() *Kind {
	return &Kind{
		Kind: object.KindOf[*storagev1.VolumeAttributesClass](), Singular: "volumeattributesclass", ShortNames: []string{"vac"}, Verbs: standardVerbs(),
		Columns: []metav1.TableColumnDefinition{nameColumn(), column("DriverName", "string", "CSI driver that understands the parameters"), ageColumn()},
		Row: rowOf(func(c *storagev1.VolumeAttributesClass, now time.Time) []any {
			return []any{c.Name, c.DriverName, age(c.CreationTimestamp, now)}
		}),
		ValidateName: validation.NameIsDNSSubdomain,
		Validate: check(func(c *storagev1.VolumeAttributesClass) field.ErrorList {
			errs := validateCSIName(c.DriverName, field.NewPath("driverName"))
			if len(c.Parameters) == 0 {
				errs = append(errs, field.Required(field.NewPath("parameters"), "must contain at least one key/value pair"))
			}
			return append(errs, validateClassParameters(c.Parameters, field.NewPath("parameters"))...)
		}),
		ValidateUpdate: checkBoth(func(c, old *storagev1.VolumeAttributesClass) field.ErrorList {
			var errs field.ErrorList
			if c.DriverName != old.DriverName {
				errs = append(errs, field.Forbidden(field.NewPath("driverName"), "updates to driverName are forbidden."))
			}
			if !apiequality.Semantic.DeepEqual(c.Parameters, old.Parameters) {
				errs = append(errs, field.Forbidden(field.NewPath("parameters"), "updates to parameters are forbidden."))
			}
			return errs
		}),
	}
}
