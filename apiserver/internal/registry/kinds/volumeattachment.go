package kinds

import (
	"time"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/platform/kube/object"
)

const (
	// maxAttachedMetadata and maxVolumeError are in bytes.
	maxAttachedMetadata = 256 << 10
	maxVolumeError      = 1 << 10
)

func volumeAttachment() *Kind {
	kind := object.KindOf[*storagev1.VolumeAttachment]()
	return &Kind{
		Kind: kind, Singular: "volumeattachment", Verbs: standardVerbs(),
		Subresources: []Subresource{statusSubresource(kind)},
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Attacher", "string", "Driver that attaches"), column("PV", "string", "Volume to attach"),
			column("Node", "string", "Node to attach it to"), column("Attached", "boolean", "Whether it is attached"), ageColumn(),
		},
		Row: rowOf(func(a *storagev1.VolumeAttachment, now time.Time) []any {
			return []any{a.Name, a.Spec.Attacher, valueOf(a.Spec.Source.PersistentVolumeName), a.Spec.NodeName, a.Status.Attached, age(a.CreationTimestamp, now)}
		}),
		ValidateName: validation.NameIsDNSSubdomain,
		Default: on(func(a *storagev1.VolumeAttachment) {
			if inline := a.Spec.Source.InlineVolumeSpec; inline != nil {
				defaultPersistentVolumeSpec(inline)
			}
		}),
		PrepareForCreate: on(func(a *storagev1.VolumeAttachment) { a.Status = storagev1.VolumeAttachmentStatus{} }),
		PrepareForUpdate: onBoth(func(a, old *storagev1.VolumeAttachment) { a.Status = old.Status }),
		PrepareForStatusUpdate: onBoth(func(a, old *storagev1.VolumeAttachment) {
			a.Spec = old.Spec
			keepStatusMetadata(&a.ObjectMeta, &old.ObjectMeta, false)
		}),
		Validate: check(validateVolumeAttachment),
		ValidateUpdate: checkBoth(func(a, old *storagev1.VolumeAttachment) field.ErrorList {
			return validation.ValidateImmutableField(a.Spec, old.Spec, field.NewPath("spec"))
		}),
		ValidateStatusUpdate: checkBoth(func(a, _ *storagev1.VolumeAttachment) field.ErrorList {
			return validateAttachmentStatus(&a.Status, field.NewPath("status"))
		}),
	}
}

func validateVolumeAttachment(a *storagev1.VolumeAttachment) field.ErrorList {
	spec := field.NewPath("spec")
	errs := validateCSIName(a.Spec.Attacher, spec.Child("attacher"))
	at := spec.Child("source")
	switch source := &a.Spec.Source; {
	case source.PersistentVolumeName == nil && source.InlineVolumeSpec == nil:
		errs = append(errs, field.Required(at, "must specify exactly one of inlineVolumeSpec and persistentVolumeName"))
	case source.PersistentVolumeName != nil && source.InlineVolumeSpec != nil:
		errs = append(errs, field.Forbidden(at, "must specify exactly one of inlineVolumeSpec and persistentVolumeName"))
	case source.InlineVolumeSpec != nil:
		errs = append(errs, validatePersistentVolumeSpec(source.InlineVolumeSpec, at.Child("inlineVolumeSpec"))...)
	case *source.PersistentVolumeName == "":
		errs = append(errs, field.Required(at.Child("persistentVolumeName"), "must specify non empty persistentVolumeName"))
	}
	return append(errs, messages(validation.NameIsDNSSubdomain(a.Spec.NodeName, false), a.Spec.NodeName, spec.Child("nodeName"))...)
}

func validateAttachmentStatus(status *storagev1.VolumeAttachmentStatus, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	size := 0
	for key, value := range status.AttachmentMetadata {
		size += len(key) + len(value)
	}
	if size > maxAttachedMetadata {
		errs = append(errs, field.TooLong(path.Child("attachmentMetadata"), "", maxAttachedMetadata))
	}
	errs = append(errs, validateVolumeError(status.AttachError, path.Child("attachError"))...)
	return append(errs, validateVolumeError(status.DetachError, path.Child("detachError"))...)
}

func validateVolumeError(failure *storagev1.VolumeError, path *field.Path) field.ErrorList {
	if failure == nil {
		return nil
	}
	var errs field.ErrorList
	if len(failure.Message) > maxVolumeError {
		errs = append(errs, field.TooLong(path.Child("message"), "", maxVolumeError))
	}
	if failure.ErrorCode != nil {
		errs = append(errs, nonNegative(int64(*failure.ErrorCode), path.Child("errorCode"))...)
	}
	return errs
}
