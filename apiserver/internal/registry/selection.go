package registry

import (
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"

	"kijabi.dev/apiserver/internal/registry/kinds"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
)

// selectors decide which records of a collection a request sees.
type selectors struct {
	labels labels.Selector     // nil selects all
	fields fields.Requirements // of the stored kind's fields
	// custom computes the fields of objects whose index holds none; nil otherwise.
	custom func(r *store.Record) store.Attributes
	// name is set when the selection can match only that object.
	name string
}

// parseSelectors checks a request's selectors against the kind.
func parseSelectors(kind *Kind, ref Ref, labelSelector labels.Selector, fieldSelector string) (selectors, error) {
	var s selectors
	if labelSelector != nil && !labelSelector.Empty() {
		s.labels = labelSelector
		requirements, _ := labelSelector.Requirements()
		if err := boundSelector(len(requirements)); err != nil {
			return s, err
		}
	}
	s.name = ref.Name
	if fieldSelector == "" {
		return s, nil
	}
	if len(fieldSelector) > maxSelectorBytes {
		return s, apierrors.NewBadRequest(fmt.Sprintf("the field selector is longer than %d bytes", maxSelectorBytes))
	}
	parsed, err := fields.ParseSelector(fieldSelector)
	if err == nil {
		err = boundSelector(len(parsed.Requirements()))
	}
	if err != nil {
		return s, apierrors.NewBadRequest(fmt.Sprintf("unable to parse field selector %q: %v", truncate(fieldSelector, 64), err))
	}
	for _, r := range parsed.Requirements() {
		known := r.Field == metav1.ObjectNameField || r.Field == "metadata.namespace" && kind.Namespaced || slices.Contains(kind.SelectableFields, r.Field)
		if !known {
			// kubectl puts what it was looking for before this.
			return s, apierrors.NewBadRequest("field label not supported: " + r.Field)
		}
		if kind.StoredAs != nil {
			r.Field = kinds.EventField(r.Field)
		}
		if r.Field == metav1.ObjectNameField && r.Operator != selection.NotEquals && s.name == "" {
			s.name = r.Value
			continue
		}
		s.fields = append(s.fields, r)
	}
	if kind.Custom != nil && kind.Custom.Fields != nil && len(s.fields) > 0 {
		s.custom = customFields(kind)
	}
	return s, nil
}

// customFields computes the selectable fields of a kind that users have defined.
func customFields(kind *Kind) func(*store.Record) store.Attributes {
	return func(r *store.Record) store.Attributes {
		obj, err := decode(kind, r)
		if err != nil {
			return nil
		}
		return store.AttributesOf(kind.Custom.Fields(obj.(*object.Custom)))
	}
}

// all tells whether nothing is filtered.
func (s *selectors) all() bool { return s.labels == nil && len(s.fields) == 0 && s.name == "" }

func (s *selectors) matches(r *store.Record) bool {
	if s.name != "" && r.Key.Name != s.name {
		return false
	}
	known := r.Index.Fields
	if s.custom != nil {
		known = s.custom(r)
	}
	for i := range s.fields {
		want := &s.fields[i]
		var value string
		switch want.Field {
		case metav1.ObjectNameField:
			value = r.Key.Name
		case "metadata.namespace":
			value = r.Key.Namespace
		default:
			value = known.Get(want.Field)
		}
		if (value == want.Value) == (want.Operator == selection.NotEquals) {
			return false
		}
	}
	return s.labels == nil || s.labels.Matches(r.Index.Labels)
}

// watchOptions makes the store do the filtering; a selection of pods by node is indexed there.
func (s *selectors) watchOptions(kind *Kind, namespace string) store.WatchOptions {
	opts := store.WatchOptions{Resource: kind.Stored().GVR.GroupResource().String(), Namespace: namespace}
	rest := *s
	for i, want := range s.fields {
		if want.Field == "spec.nodeName" && want.Operator != selection.NotEquals && want.Value != "" {
			opts.Field, opts.Value = want.Field, want.Value
			rest.fields = slices.Delete(slices.Clone(s.fields), i, i+1)
			break
		}
	}
	if !rest.all() {
		opts.Filter = rest.matches
	}
	return opts
}
