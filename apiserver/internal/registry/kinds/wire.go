package kinds

import (
	"strconv"

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
	err := object.EachField(value, func(number protowire.Number, content []byte, _ uint64) error {
		if number != 1 {
			return nil
		}
		return object.EachField(content, func(number protowire.Number, content []byte, _ uint64) error {
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
				if key, val, ok := mapEntry(content); ok {
					if meta.Labels == nil {
						meta.Labels = make(map[string]string, 4)
					}
					meta.Labels[key] = val
				}
			}
			return nil
		})
	})
	return meta, err
}

func mapEntry(entry []byte) (key, value string, ok bool) {
	err := object.EachField(entry, func(number protowire.Number, content []byte, _ uint64) error {
		switch number {
		case 1:
			key = string(content)
		case 2:
			value = string(content)
		}
		return nil
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
	spec := func(number protowire.Number, content []byte, varint uint64) error {
		switch number {
		case 3:
			put("spec.restartPolicy", content)
		case 8:
			put("spec.serviceAccountName", content)
		case 10:
			put("spec.nodeName", content)
		case 11:
			set["spec.hostNetwork"] = strconv.FormatBool(varint != 0)
		case 19:
			put("spec.schedulerName", content)
		}
		return nil
	}
	status := func(number protowire.Number, content []byte, _ uint64) error {
		switch number {
		case 1:
			put("status.phase", content)
		case 6:
			put("status.podIP", content)
		case 11:
			put("status.nominatedNodeName", content)
		}
		return nil
	}
	err := object.EachField(value, func(number protowire.Number, part []byte, _ uint64) error {
		switch number {
		case 2:
			return object.EachField(part, spec)
		case 3:
			return object.EachField(part, status)
		}
		return nil
	})
	return set, err
}
