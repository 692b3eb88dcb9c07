// Package kinds is the table of everything the apiserver serves: for each kind its
// names, scope, verbs, subresources and printer columns, what defaulting adds, what
// validation refuses and what an update may change. Doors, discovery and storage
// are derived from it; nothing in it reads or writes other objects.
package kinds

import (
	"encoding/json"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/platform/kube/object"
)

// Kind is one row of the table. Rows are immutable and shared.
//
// The functions are called with objects of the kind's Go type that the caller owns;
// nil functions do nothing. They are pure: whatever depends on other objects
// (namespaces, service addresses) is decided by the registry.
type Kind struct {
	// Kind holds group, version, kind, resource, scope and constructors.
	object.Kind
	// Singular name, such as "pod".
	Singular string
	// ShortNames, such as "po".
	ShortNames []string
	// Categories, such as "all".
	Categories []string
	// Verbs of the main resource, sorted.
	Verbs []string
	// Subresources of the kind, sorted by name.
	Subresources []Subresource
	// StoredAs is the resource whose stored objects this kind shows in another version;
	// nil for kinds that are stored as they are. See ToStored and FromStored.
	StoredAs *Kind
	// ToStored and FromStored convert between this kind and StoredAs.
	ToStored   func(obj object.Object) object.Object
	FromStored func(obj object.Object) object.Object
	// Ephemeral objects (Events, Leases of nodes) stay out of the history.
	Ephemeral bool

	// Columns are what a Table shows; columns of priority above 0 are the wide ones.
	Columns []metav1.TableColumnDefinition
	// Row computes the cells of Columns, one for each; times are shown relative to now.
	Row func(obj object.Object, now time.Time) []any

	// SelectableFields may be used in field selectors beside metadata.name and metadata.namespace.
	SelectableFields []string
	// Fields returns the values of SelectableFields; empty values may be left out.
	Fields func(obj object.Object) map[string]string
	// WireFields does the same on an encoded object without decoding all of it; nil means decode.
	WireFields func(value []byte) (map[string]string, error)

	// Default fills in what the client left out.
	Default func(obj object.Object)
	// PrepareForCreate clears what clients may not set, such as status, and adds what
	// depends on the object's name and uid, which are settled before.
	PrepareForCreate func(obj object.Object)
	// PrepareForUpdate carries over from old what an update of the main resource may not
	// change, such as status. Generation is the registry's business, see Spec.
	PrepareForUpdate func(obj, old object.Object)
	// PrepareForStatusUpdate carries over from old everything but what an update of the
	// status subresource may change. Nil for kinds without one.
	PrepareForStatusUpdate func(obj, old object.Object)
	// PrepareForApproval carries over from old everything but what an update of the approval
	// subresource may change. Nil for kinds without one.
	PrepareForApproval func(obj, old object.Object)
	// SetRequester notes on a new object who asked for it; nil where nobody wants to know.
	SetRequester func(obj object.Object, by Requester)
	// SetTimes sets the times that the server keeps, such as that of a change of phase. It is
	// called after an object has been prepared; old is nil on creation.
	SetTimes func(obj, old object.Object, now metav1.Time)
	// SpecEqual tells whether an update left alone what generation counts (the spec). Nil
	// for kinds without a generation.
	SpecEqual func(obj, old object.Object) bool

	// Validate lists what is wrong with a complete, defaulted object.
	Validate func(obj object.Object) field.ErrorList
	// ValidateCreate lists what a new object may not have though a stored one may keep it;
	// Validate has been called before.
	ValidateCreate func(obj object.Object) field.ErrorList
	// ValidateUpdate lists what an update may not do; Validate has been called before.
	ValidateUpdate func(obj, old object.Object) field.ErrorList
	// ValidateStatusUpdate does so for the status subresource; Validate is not called then.
	ValidateStatusUpdate func(obj, old object.Object) field.ErrorList
	// ValidateApproval does so for the approval subresource.
	ValidateApproval func(obj, old object.Object) field.ErrorList
	// ValidateName checks metadata.name; prefix is true for generateName.
	ValidateName func(name string, prefix bool) []string

	// GracePeriod returns the seconds an object gets to shut down when its deletion is
	// asked for with the given wish (nil: its own); 0 removes it at once. Nil means always 0.
	GracePeriod func(obj object.Object, wish *int64) int64
	// DefaultPropagation is used when a deletion names none; empty means background.
	DefaultPropagation metav1.DeletionPropagation
	// PrepareForDelete is called when an object is marked for deletion, after its
	// deletionTimestamp is set; nil does nothing.
	PrepareForDelete func(obj object.Object)
	// Scale serves the scale subresource; nil for kinds without one.
	Scale *ScaleAccess
	// Custom is set for kinds that users have defined, whose objects are *object.Custom.
	Custom *Custom
}

// Custom is what kinds that users have defined have beside what every kind has. Its
// functions are safe for concurrent use and change nothing but the object they are given.
type Custom struct {
	// Definition names the kind's CustomResourceDefinition, and UID is its identity.
	Definition string
	UID        types.UID
	// Revision is the definition's generation. Stored objects carry the one they were
	// written under; those of others are revised when they are read.
	Revision int64
	// Storage is the kind in the version that objects are stored in; the kind itself, maybe.
	Storage *Kind
	// Revise makes an object what the schema says: unknown fields go, defaults come.
	Revise func(obj *object.Custom)
	// Prune drops the fields that the schema does not know and returns their paths.
	Prune func(obj *object.Custom) []string
	// Fields returns the values of SelectableFields. Unlike those of other kinds they are not
	// in the index: which there are may change.
	Fields func(obj *object.Custom) map[string]string
	// Warning for whoever uses this version; empty if there is none.
	Warning string
	// Schema returns the OpenAPI schema of an object, in version 3 or 2.
	Schema func(v3 bool) (json.RawMessage, error)
	// Converter knows the types of all versions of the kind, for server-side apply.
	Converter func() (managedfields.TypeConverter, error)
}

// Requester is who makes a request, as far as that is known.
type Requester struct {
	User, UID string
	Groups    []string
	Extra     map[string][]string
}

// Subresource is something below one object, such as its status.
type Subresource struct {
	// Name, such as "status".
	Name string
	// GVK of the body; for streams (log, exec) the parent's.
	GVK schema.GroupVersionKind
	// Verbs, sorted.
	Verbs []string
	// Stream is true for what the doors relay to a node (log, exec, attach, portforward,
	// proxy, restart); the registry does not serve those.
	Stream bool
}

// HasSubresource tells whether the kind has a subresource of that name.
func (k *Kind) HasSubresource(name string) bool {
	return slices.ContainsFunc(k.Subresources, func(s Subresource) bool { return s.Name == name })
}

// HasVerb tells whether the main resource serves a verb.
func (k *Kind) HasVerb(verb string) bool { return slices.Contains(k.Verbs, verb) }

// Stored is the kind under which objects are stored: StoredAs, or the kind itself.
func (k *Kind) Stored() *Kind {
	if k.StoredAs != nil {
		return k.StoredAs
	}
	return k
}

// ScaleAccess reads and writes the scale of an object.
type ScaleAccess struct {
	// Get returns wanted replicas, observed replicas and the pod selector in string form.
	Get func(obj object.Object) (spec, status int32, selector string)
	// Set changes the wanted replicas.
	Set func(obj object.Object, replicas int32)
}
