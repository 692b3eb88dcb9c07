package rest

import (
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/platform/kube/object"
)

// includeObject reads what a table's rows carry of their objects.
func includeObject(r *http.Request) (metav1.IncludeObjectPolicy, error) {
	switch policy := metav1.IncludeObjectPolicy(r.URL.Query().Get("includeObject")); policy {
	case "":
		return metav1.IncludeMetadata, nil
	case metav1.IncludeNone, metav1.IncludeMetadata, metav1.IncludeObject:
		return policy, nil
	default:
		return "", apierrors.NewBadRequest(fmt.Sprintf("includeObject %q is none of None, Metadata and Object", policy))
	}
}

func invalidListOptions(name, message string) error {
	return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "ListOptions"}, "", field.ErrorList{
		field.Forbidden(field.NewPath(name), message),
	})
}

func metaKind(version, kind string) schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: metav1.GroupName, Version: version, Kind: kind}
}

func partialKind(f format, suffix string) schema.GroupVersionKind {
	return metaKind(f.version, "PartialObjectMetadata"+suffix)
}

func (s *Server) newTable(f format, t target, meta metav1.ListMeta) *metav1.Table {
	table := &metav1.Table{ListMeta: meta, ColumnDefinitions: t.kind.Columns, Rows: []metav1.TableRow{}}
	table.SetGroupVersionKind(metaKind(f.version, "Table"))
	return table
}

// row shows one object.
func (s *Server) row(f format, t target, obj object.Object, include metav1.IncludeObjectPolicy) (metav1.TableRow, error) {
	if t.sub != nil && t.sub.GVK != t.kind.GVK {
		return metav1.TableRow{}, notAcceptable() // a scale has no columns
	}
	row := metav1.TableRow{Cells: t.kind.Row(obj, s.cfg.Clock.Now())}
	switch include {
	case metav1.IncludeNone:
	case metav1.IncludeObject:
		row.Object = runtime.RawExtension{Object: obj}
	default:
		row.Object = runtime.RawExtension{Object: partial(f, obj)}
	}
	return row, nil
}

// partial keeps only the metadata of an object.
func partial(f format, obj object.Object) *metav1.PartialObjectMetadata {
	out := &metav1.PartialObjectMetadata{}
	if accessor, ok := obj.(metav1.ObjectMetaAccessor); ok {
		if m, ok := accessor.GetObjectMeta().(*metav1.ObjectMeta); ok {
			out.ObjectMeta = *m
		}
	}
	out.SetGroupVersionKind(partialKind(f, ""))
	return out
}
