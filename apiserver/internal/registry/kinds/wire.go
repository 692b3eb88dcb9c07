package kinds

import (
	"errors"

	"google.golang.org/protobuf/encoding/protowire"

	"kijabi.dev/platform/kube/object"
)

// WireMeta is what the index needs of an object's metadata.
type WireMeta struct {
	Namespace, Name, UID string
	// ResourceVersion is the last one that occurs: the one the store appended.
	ResourceVersion string
	Labels          map[string]string
	Deleting        bool
}

// ReadWireMeta reads the metadata of an encoded object without decoding the rest.
// Field numbers are those of ObjectMeta in apimachinery's generated.proto.
func ReadWireMeta(value []byte) (WireMeta, error) {
	var meta WireMeta
	var inner error
	err := object.EachField(value, func(number protowire.Number, content []byte, _ uint64) {
		if number != 1 || inner != nil {
			return
		}
		inner = object.EachField(content, func(number protowire.Number, content []byte, _ uint64) {
			switch number {
			case 1:
				meta.Name = string(content)
			case 3:
				meta.Namespace = string(content)
			case 5:
				meta.UID = string(content)
			case 6:
				meta.ResourceVersion = string(content)
			case 9:
				meta.Deleting = true
			case 11:
				key, val, ok := mapEntry(content)
				if !ok {
					return
				}
				if meta.Labels == nil {
					meta.Labels = make(map[string]string, 4)
				}
				meta.Labels[key] = val
			}
		})
	})
	return meta, errors.Join(err, inner)
}

func mapEntry(entry []byte) (key, value string, ok bool) {
	err := object.EachField(entry, func(number protowire.Number, content []byte, _ uint64) {
		switch number {
		case 1:
			key = string(content)
		case 2:
			value = string(content)
		}
	})
	return key, value, err == nil
}

// podWireFields reads a pod's selectable fields; numbers are those of PodSpec and PodStatus.
func podWireFields(value []byte) (map[string]string, error) {
	set := make(map[string]string, 6)
	set["spec.hostNetwork"] = "false"
	put := func(key string, content []byte) {
		if len(content) > 0 {
			set[key] = string(content)
		}
	}
	var inner error
	err := object.EachField(value, func(number protowire.Number, part []byte, _ uint64) {
		switch number {
		case 2:
			inner = errors.Join(inner, object.EachField(part, func(number protowire.Number, content []byte, varint uint64) {
				switch number {
				case 3:
					put("spec.restartPolicy", content)
				case 8:
					put("spec.serviceAccountName", content)
				case 10:
					put("spec.nodeName", content)
				case 11:
					if varint != 0 {
						set["spec.hostNetwork"] = "true"
					}
				case 19:
					put("spec.schedulerName", content)
				}
			}))
		case 3:
			inner = errors.Join(inner, object.EachField(part, func(number protowire.Number, content []byte, _ uint64) {
				switch number {
				case 1:
					put("status.phase", content)
				case 6:
					put("status.podIP", content)
				case 11:
					put("status.nominatedNodeName", content)
				}
			}))
		}
	})
	return set, errors.Join(err, inner)
}
