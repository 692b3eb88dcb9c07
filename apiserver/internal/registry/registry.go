// Package registry is the room behind both doors: it defaults, validates, admits,
// stores and reads objects of every kind. The gRPC and REST doors only translate.
package registry

import (
	"context"
	"iter"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/apiserver/internal/admission/dynamic"
	"kijabi.dev/apiserver/internal/registry/kinds"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
)

// Kind is one row of the table of kinds; see package kinds for what a row holds.
type Kind = kinds.Kind

// Ref names an object or a collection (empty Name).
type Ref struct {
	Resource    schema.GroupVersionResource
	Namespace   string
	Name        string
	Subresource string
}

// Caller is on whose behalf a request is made; from the certificate or, on a
// forwarded request, from the forwarding master.
type Caller struct {
	User      string
	UID       string // as far as the one who authenticated the user knows it
	Groups    []string
	Extra     map[string][]string // what else is known of the user; not to be changed
	UserAgent string
	RequestID string
	// Epoch the caller's component was started under; 0 for others.
	Epoch uint64
	// Forwarded is true when another master passed the request on. It is not passed on
	// again: a master that does not lead refuses it.
	Forwarded bool
}

// WriteOptions qualify creates, updates and patches.
type WriteOptions struct {
	DryRun       bool
	FieldManager string
	// FieldValidation is Strict, Warn or Ignore. It concerns JSON bodies and patches
	// only; the door decodes, the registry checks patches.
	FieldValidation string
	// Force takes fields from other managers (apply only).
	Force bool
}

// ListOptions select a collection.
type ListOptions struct {
	Labels               labels.Selector // nil selects all
	Fields               string          // Kubernetes field selector, empty selects all
	Limit                int64
	Continue             string
	ResourceVersion      string
	ResourceVersionMatch metav1.ResourceVersionMatch
}

// List is a page of a collection. Records hold encoded objects; doors that need
// other encodings decode them by object.Decode.
type List struct {
	Records         []*store.Record
	ResourceVersion string
	Continue        string
	Remaining       int64
}

// WatchOptions select changes.
type WatchOptions struct {
	Labels            labels.Selector
	Fields            string
	ResourceVersion   string // empty or "0" starts now with the current objects as ADDED
	SendInitialEvents *bool
	Bookmarks         bool
}

// Registry is the interface of the room. All methods are safe for concurrent use
// and authorize nothing by themselves: doors call the authorizer first.
// Errors are *apierrors.StatusError. Objects passed in are owned by the registry
// afterwards; returned objects are the caller's.
//
// On a master that does not lead, writes are forwarded to the leader once, and
// return when this master's memory holds them.
type Registry interface {
	// Kinds lists every served kind, in discovery order. It changes when users define kinds;
	// the slice itself is never changed, and is another one afterwards.
	Kinds() []*Kind
	// Current returns once Kinds and Kind know every definition acknowledged before the call.
	Current(ctx context.Context) error
	// Kind finds a kind by resource; an empty version means the preferred one.
	Kind(gvr schema.GroupVersionResource) (*Kind, error)

	Get(ctx context.Context, ref Ref) (*store.Record, error)
	List(ctx context.Context, ref Ref, opts ListOptions) (List, error)
	// Watch yields batches in order until ctx ends or an error. The first batch after
	// the initial objects has InitialEnd set.
	Watch(ctx context.Context, ref Ref, opts WatchOptions) (iter.Seq2[WatchBatch, error], error)

	Create(ctx context.Context, caller Caller, ref Ref, obj object.Object, opts WriteOptions) (object.Object, error)
	Update(ctx context.Context, caller Caller, ref Ref, obj object.Object, opts WriteOptions) (object.Object, error)
	Patch(ctx context.Context, caller Caller, ref Ref, patchType types.PatchType, patch []byte, opts WriteOptions) (object.Object, error)
	// Delete returns the object's last or terminating state, and whether it is gone.
	Delete(ctx context.Context, caller Caller, ref Ref, opts metav1.DeleteOptions) (object.Object, bool, error)
	DeleteCollection(ctx context.Context, caller Caller, ref Ref, opts metav1.DeleteOptions, list ListOptions) (int64, error)
	// Transact performs operations in one batch, all or none unless independent.
	Transact(ctx context.Context, caller Caller, ops []Operation, independent bool) ([]OperationResult, error)
	// Connect admits a connection to a pod, service or node by what users have configured.
	// options say what is asked for, such as a *corev1.PodExecOptions. The result holds
	// warnings and annotations only.
	Connect(ctx context.Context, caller Caller, ref Ref, options runtime.Object) (OperationResult, error)
	// Do performs one write and returns the stored record, encoded: what a door that speaks
	// protobuf should use, because nothing is encoded twice. The record of a dry run has
	// version 0. For deletes Deleted tells whether the object is gone. For subresources
	// with a body of their own (scale, binding, eviction) Object is set instead of Record.
	Do(ctx context.Context, caller Caller, op Operation) (OperationResult, error)
}

// WatchBatch is what one commit changed, as the watch's selectors see it.
type WatchBatch struct {
	Events []store.Event
	// Progress is the version up to which everything has been sent.
	Progress uint64
	// InitialEnd marks the end of the initial objects.
	InitialEnd bool
}

// Verb of an Operation.
type Verb string

// Verbs.
const (
	VerbCreate Verb = "create"
	VerbUpdate Verb = "update"
	VerbPatch  Verb = "patch"
	VerbDelete Verb = "delete"
)

// Operation is one write of a Transact.
type Operation struct {
	Verb      Verb
	Ref       Ref
	Object    object.Object // create, update
	PatchType types.PatchType
	Patch     []byte
	Delete    metav1.DeleteOptions
	Options   WriteOptions
}

// OperationResult is the outcome of one Operation.
type OperationResult struct {
	// Object in the kind's Go type; nil when Record holds it already (Do only).
	Object object.Object
	// Record is the stored object; nil when the result is the body of a subresource.
	Record *store.Record
	// Kind of the result.
	Kind object.Kind
	// Deleted is true when a delete removed the object, false while it terminates.
	Deleted bool
	// Warnings for whoever writes, such as of what will be refused later; also beside an error.
	Warnings []string
	// Annotations for the audit log, from webhooks and policies; also beside an error.
	Annotations []dynamic.Annotation
	Err         error
}
