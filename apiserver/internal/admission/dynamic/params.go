package dynamic

import (
	"encoding/json"
	"errors"
	"fmt"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/apiserver/internal/registry/kinds"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
)

// maxParams bounds with how many parameters a policy is evaluated for one request.
const maxParams = 1000

// paramsOf returns the objects that a binding gives its policy; one nil when the policy is
// evaluated without.
func (s *Session) paramsOf(of *admissionregistrationv1.ParamKind, ref *admissionregistrationv1.ParamRef, r *Request) ([]map[string]any, error) {
	if of == nil || ref == nil {
		return []map[string]any{nil}, nil
	}
	gv, err := schema.ParseGroupVersion(of.APIVersion)
	if err != nil {
		return nil, fmt.Errorf("paramKind: %w", err)
	}
	kind := s.kindOf(gv.WithKind(of.Kind))
	if kind == nil {
		return nil, fmt.Errorf("paramKind %s %s is not served", of.APIVersion, of.Kind)
	}
	namespace := ""
	switch {
	case kind.Namespaced && ref.Namespace != "":
		namespace = ref.Namespace
	case kind.Namespaced:
		if namespace = r.where(); namespace == "" {
			return nil, fmt.Errorf("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources: %s is in no namespace", r.Kind.GVR.Resource)
		}
	case ref.Namespace != "":
		return nil, errors.New("paramRef.namespace must not be provided for a cluster-scoped paramKind")
	}
	records, err := s.paramRecords(kind, namespace, ref)
	if err != nil {
		return nil, err
	}
	if len(records) == 0 {
		if ref.ParameterNotFoundAction != nil && *ref.ParameterNotFoundAction == admissionregistrationv1.DenyAction {
			return nil, errors.New("no params found for policy binding with `Deny` parameterNotFoundAction")
		}
		return nil, nil
	}
	out := make([]map[string]any, 0, len(records))
	for _, record := range records {
		param, err := contentOf(kind, record)
		if err != nil {
			return nil, err
		}
		out = append(out, param)
	}
	return out, nil
}

func (s *Session) kindOf(gvk schema.GroupVersionKind) *kinds.Kind {
	for _, kind := range s.admission.cfg.Kinds() {
		if kind.GVK == gvk {
			return kind
		}
	}
	return nil
}

func (s *Session) paramRecords(kind *kinds.Kind, namespace string, ref *admissionregistrationv1.ParamRef) ([]*store.Record, error) {
	resource := kind.Stored().GVR.GroupResource().String()
	if ref.Name != "" {
		record, ok := s.admission.cfg.Store.Get(store.Key{Resource: resource, Namespace: namespace, Name: ref.Name})
		if !ok {
			return nil, nil
		}
		return []*store.Record{record}, nil
	}
	selector, err := selectorOf(ref.Selector)
	if err != nil {
		return nil, fmt.Errorf("paramRef.selector: %w", err)
	}
	var out []*store.Record
	for _, record := range s.admission.cfg.Store.Snapshot(resource, namespace).Records {
		if selector.Matches(record.Index.Labels) {
			out = append(out, record)
		}
	}
	if len(out) > maxParams {
		return nil, fmt.Errorf("paramRef.selector matches %d objects, the limit is %d", len(out), maxParams)
	}
	return out, nil
}

// contentOf decodes a stored object of a kind for expressions.
func contentOf(kind *kinds.Kind, record *store.Record) (map[string]any, error) {
	obj, err := object.Decode(kind.Stored().Kind, record.Value)
	if err != nil {
		return nil, fmt.Errorf("parameter %s: %w", record.Key, err)
	}
	switch custom, ok := obj.(*object.Custom); {
	case kind.StoredAs != nil:
		obj = kind.FromStored(obj)
	case ok && kind.Custom != nil:
		kind.Custom.Revise(custom)
	}
	obj.GetObjectKind().SetGroupVersionKind(kind.GVK)
	text, err := json.Marshal(obj)
	if err != nil {
		return nil, fmt.Errorf("parameter %s: %w", record.Key, err)
	}
	return content(text)
}
