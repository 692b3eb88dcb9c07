// Package controller runs control loops: one work queue a controller, level
// triggered, by key. A controller declares what it reads and what it writes; two
// controllers that declare the same output are refused at start, and a write
// outside a controller's outputs is refused when it is made.
package controller

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
)

// Controller moves one kind of object toward what its spec asks for.
type Controller interface {
	// Name is constant, lower-case and unique, such as "replicaset".
	Name() string
	// Inputs say which changes make which keys due. Called once.
	Inputs() []Input
	// Outputs say what the controller writes. Called once.
	Outputs() []Output
	// Reconcile reads the world, not an event, so it may run any number of times.
	// It never runs twice at once for one key, and not before the inputs have seen
	// the controller's own last write for that key, one whose outcome it was not told included. A positive duration
	// makes the key due again then, unless it became due before; an error, as which a
	// panic counts, makes it due again after a growing pause.
	Reconcile(ctx context.Context, key object.Key, w client.Writer, log *zap.Logger) (requeueAfter time.Duration, err error)
}

// source is what an input needs of an informer.
type source interface {
	// WaitVersion returns once Version is at least that.
	WaitVersion(ctx context.Context, resourceVersion string) error
	// Version is that up to which every change is in the collection.
	Version() uint64
	Kind() object.Kind
}

// Input makes keys due when objects change.
type Input struct {
	source source // nil if it reads no objects
	// subscribe calls enqueue for every change, existing objects included.
	subscribe func(enqueue func(object.Key))
	// keys lists every key that is due when the controller starts; nil if none.
	keys func() []object.Key
}

// Self makes an object's own key due when it changes. Every existing object is due at start.
func Self[T object.Object](inf *informer.Informer[T]) Input {
	return Mapped(inf, func(obj T) []object.Key { return []object.Key{object.KeyOf(obj)} })
}

// OwnedBy makes the controlling owner of ownerKind due when an object changes.
func OwnedBy[T object.Object](inf *informer.Informer[T], ownerKind string) Input {
	return Mapped(inf, func(obj T) []object.Key {
		owner := metav1.GetControllerOfNoCopy(obj)
		if owner == nil || owner.Kind != ownerKind {
			return nil
		}
		return []object.Key{{Namespace: obj.GetNamespace(), Name: owner.Name}}
	})
}

// Mapped makes the keys due that the function yields for an object, before and after its change.
func Mapped[T object.Object](inf *informer.Informer[T], keysOf func(T) []object.Key) Input {
	return Input{
		source: inf,
		subscribe: func(enqueue func(object.Key)) {
			inf.OnChange(func(before, after T) {
				var zero T
				var old []object.Key
				if any(before) != any(zero) {
					old = keysOf(before)
					for _, key := range old {
						enqueue(key)
					}
				}
				if any(after) == any(zero) {
					return
				}
				for _, key := range keysOf(after) {
					enqueue(key) // the queue drops what is in it already
				}
			})
		},
		keys: func() []object.Key {
			var keys []object.Key
			for _, obj := range inf.List() {
				keys = append(keys, keysOf(obj)...)
			}
			return keys
		},
	}
}

// Changed makes the keys due that the function yields for a change. before is the zero value
// (nil) for a new object, as every existing one is at the start; after for one that is gone.
func Changed[T object.Object](inf *informer.Informer[T], keysOf func(before, after T) []object.Key) Input {
	return Input{
		source: inf,
		subscribe: func(enqueue func(object.Key)) {
			inf.OnChange(func(before, after T) {
				for _, key := range keysOf(before, after) {
					enqueue(key)
				}
			})
		},
		keys: func() []object.Key {
			var zero T
			var keys []object.Key
			for _, obj := range inf.List() {
				keys = append(keys, keysOf(zero, obj)...)
			}
			return keys
		},
	}
}

// Reads declares an input that makes nothing due but must be current before Reconcile runs.
func Reads[T object.Object](inf *informer.Informer[T]) Input {
	return Input{source: inf, subscribe: func(func(object.Key)) {}}
}

// Triggered makes keys due when something other than an object says so. subscribe is
// called once, with a function that may be called at any time.
func Triggered(subscribe func(enqueue func(object.Key))) Input {
	return Input{subscribe: subscribe}
}

// TriggeredBy is Triggered with the keys that are due when the controller starts.
func TriggeredBy(subscribe func(enqueue func(object.Key)), keys func() []object.Key) Input {
	return Input{subscribe: subscribe, keys: keys}
}

// Output is a part of a kind that one controller alone writes.
type Output struct {
	kind object.Kind
	part string
	// verbs allowed by it
	write, status, remove, scale bool
}

// String names the output, such as "Pod owned by ReplicaSet".
func (o Output) String() string { return o.kind.GVK.Kind + " " + o.part }

// Owns declares objects of T that the controller creates, changes and deletes
// for owners of ownerKind.
func Owns[T object.Object](ownerKind string) Output {
	return Output{kind: object.KindOf[T](), part: "owned by " + ownerKind, write: true, remove: true}
}

// StatusOf declares T's status.
func StatusOf[T object.Object]() Output {
	return Output{kind: object.KindOf[T](), part: "status", status: true}
}

// StatusPart declares named conditions or fields of T's status, where several
// controllers share a status.
func StatusPart[T object.Object](part string) Output {
	return Output{kind: object.KindOf[T](), part: "status " + part, status: true}
}

// Fields declares named fields of T, such as "spec.podCIDR".
func Fields[T object.Object](fields string) Output {
	return Output{kind: object.KindOf[T](), part: fields, write: true}
}

// Deletes declares that the controller deletes objects of T, for a reason.
func Deletes[T object.Object](reason string) Output {
	return Output{kind: object.KindOf[T](), part: "deleted because " + reason, remove: true}
}

// ScalesAny declares that the controller sets the size of objects of any kind that has one,
// for a reason.
func ScalesAny(reason string) Output {
	return Output{part: "any, scaled because " + reason, scale: true}
}

// DeletesAny declares that the controller deletes objects of any kind and edits
// their metadata, for a reason. Only garbage collection and namespaces may.
func DeletesAny(reason string) Output {
	return Output{part: "any, deleted because " + reason, write: true, remove: true}
}

// outputs checks writes against declarations.
type outputs []Output

func (o outputs) allow(kind object.Kind, need func(Output) bool, verb string) error {
	for _, out := range o {
		if (out.kind.GVK == kind.GVK || out.kind.GVK.Empty()) && need(out) {
			return nil
		}
	}
	return fmt.Errorf("%s of %s is outside the controller's declared outputs", verb, kind.GVK.Kind)
}
