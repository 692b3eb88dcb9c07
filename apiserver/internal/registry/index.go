package registry

import (
	"fmt"

	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/apiserver/internal/registry/kinds"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
)

// NewIndexer returns the store's indexer for a table of kinds (nil: the default one). It
// reads an object's metadata from its encoding and decodes it in full only when the kind
// has selectable fields and no quicker way to them.
func NewIndexer(table []*Kind) store.Indexer {
	if table == nil {
		table = kinds.Default()
	}
	byResource := make(map[string]*Kind, len(table))
	for _, kind := range table {
		if kind.StoredAs == nil {
			byResource[kind.GVR.GroupResource().String()] = kind
		}
	}
	return func(key store.Key, value []byte) (store.Index, error) {
		meta, err := kinds.ReadWireMeta(value)
		if err != nil {
			return store.Index{}, fmt.Errorf("index %s: %w", key, err)
		}
		index := store.Index{UID: types.UID(meta.UID), Labels: store.AttributesOf(meta.Labels), Deleting: meta.Deleting}
		kind := byResource[key.Resource]
		switch {
		case kind == nil: // a kind that users have defined: its fields are not indexed
		case kind.WireFields != nil:
			var fields map[string]string
			fields, err = kind.WireFields(value)
			index.Fields = store.AttributesOf(fields)
		case kind.Fields != nil:
			obj := kind.New()
			if err = obj.Unmarshal(value); err == nil {
				index.Fields = store.AttributesOf(kind.Fields(obj))
			}
		}
		if err != nil {
			return store.Index{}, fmt.Errorf("index %s: %w", key, err)
		}
		return index, nil
	}
}

// indexOf does the same for an object in hand. The labels are copied, because the
// object goes back to the caller.
func indexOf(kind *Kind, obj object.Object) store.Index {
	index := store.Index{UID: obj.GetUID(), Labels: store.AttributesOf(obj.GetLabels()), Deleting: obj.GetDeletionTimestamp() != nil}
	if kind.Fields != nil {
		index.Fields = store.AttributesOf(kind.Fields(obj))
	}
	return index
}
