package podset

import (
	"context"
	"encoding/json"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/controller-manager/internal/ownership"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
)

// Bounds of one transaction: a request may have 3 MiB, and other writers have their turn.
const (
	mostWrites = 250
	mostBytes  = 1 << 20
)

// Writes performs what loops decided on pods. The zero value but for Event is ready to use.
// It is safe for concurrent use.
type Writes struct {
	// Event tells users what happened; it must not block. Required.
	Event func(about object.Object, severity, reason, message string)

	mu sync.Mutex
	// refused are the owners whose last write was refused: their next one is tried alone,
	// and only then two, four and so on, so that a quota or a webhook that refuses
	// everything is asked once and not once a pod.
	refused map[types.UID]bool
}

// Write is an operation on a pod. Make it with Create, Delete, Patch, Adopt or Release.
type Write struct {
	op   client.Op
	size int
	// good and bad are the events that tell of its end, if any do; a bad one's message is
	// followed by the error.
	good, bad told
}

type told struct{ reason, message string }

// Create makes a pod, which is not changed or kept after Do.
func Create(pod *corev1.Pod) Write {
	return Write{
		op: client.CreateOp(pod), size: pod.Size(),
		good: told{"SuccessfulCreate", "Created pod: " + pod.Name}, bad: told{"FailedCreate", "Error creating: "},
	}
}

// Delete deletes a pod, if it is still the same.
func Delete(pod *corev1.Pod) Write {
	return Write{
		op:   client.DeleteOp(pod, client.DeleteOptions{UID: pod.UID}),
		good: told{"SuccessfulDelete", "Deleted pod: " + pod.Name}, bad: told{"FailedDelete", "Error deleting: "},
	}
}

// Patch changes a pod that exists.
func Patch(pod *corev1.Pod, patchType types.PatchType, patch []byte) Write {
	return Write{op: client.PatchOp(pod, patchType, patch, "")}
}

// Telling is the write with other events to tell of its end: a reason and a message if it
// succeeds, and a reason and what stands before the error if it fails.
func (w Write) Telling(goodReason, good, badReason, bad string) Write {
	w.good, w.bad = told{goodReason, good}, told{badReason, bad}
	return w
}

// Adopt makes the owner the controller of a pod, if nobody changed that meanwhile.
func Adopt(owner object.Object, pod *corev1.Pod) (Write, error) {
	op, err := ownership.Adopt(owner, pod)
	return Write{op: op}, err
}

// Release takes the controller from a pod, if nobody changed it meanwhile.
func Release(pod *corev1.Pod) Write { return Write{op: ownership.Release(pod)} }

// Writes are what make a claim true.
func (c Claim) Writes(owner object.Object) ([]Write, error) {
	writes := make([]Write, 0, len(c.Adopt)+len(c.Release))
	for _, pod := range c.Adopt {
		write, err := Adopt(owner, pod)
		if err != nil {
			return nil, err
		}
		writes = append(writes, write)
	}
	for _, pod := range c.Release {
		writes = append(writes, Release(pod))
	}
	return writes, nil
}

// Do performs writes for an owner, as many at once as the bounds allow, and returns the
// first failure that matters, after which it writes nothing more. A pod that exists
// already and is gone already are none.
func (w *Writes) Do(ctx context.Context, out client.Writer, owner object.Object, writes []Write) error {
	most := mostWrites
	if w.wasRefused(owner.GetUID()) {
		most = 1
	}
	for len(writes) > 0 {
		n := fitting(writes, most)
		failure, err := w.batch(ctx, out, owner, writes[:n])
		if err != nil {
			return err
		}
		w.setRefused(owner.GetUID(), failure != nil)
		if failure != nil {
			return failure // a quota or admission refusal would only be repeated
		}
		writes = writes[n:]
		most = min(2*most, mostWrites)
	}
	return nil
}

// fitting is how many of the writes fit into one transaction; at least one.
func fitting(writes []Write, most int) int {
	bytes := 0
	for i, write := range writes {
		bytes += write.size
		if i == most || i > 0 && bytes > mostBytes {
			return i
		}
	}
	return len(writes)
}

func (w *Writes) batch(ctx context.Context, out client.Writer, owner object.Object, writes []Write) (failure, err error) {
	ops := make([]client.Op, len(writes))
	for i := range ops {
		ops[i] = writes[i].op
	}
	results, err := out.Transact(ctx, ops, true)
	if err != nil {
		return nil, err
	}
	for i, result := range results {
		good, bad := writes[i].good, writes[i].bad
		switch {
		case result.Err == nil && good.reason != "":
			w.Event(owner, corev1.EventTypeNormal, good.reason, good.message)
		// A pod that exists already is this owner's own, from an attempt whose answer was
		// lost; one that is gone needs no deleting.
		case result.Err == nil || apierrors.IsAlreadyExists(result.Err) || apierrors.IsNotFound(result.Err):
		case failure == nil:
			failure = result.Err
			if bad.reason != "" {
				w.Event(owner, corev1.EventTypeWarning, bad.reason, bad.message+failure.Error())
			}
		}
	}
	return failure, nil
}

func (w *Writes) wasRefused(owner types.UID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.refused[owner]
}

func (w *Writes) setRefused(owner types.UID, refused bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case !refused:
		delete(w.refused, owner)
	case w.refused == nil:
		w.refused = map[types.UID]bool{owner: true}
	default:
		w.refused[owner] = true
	}
}

// ConditionOp sets a condition of a pod, if it is still the same pod at the version seen. Caches
// hold pods in part, so that their status cannot be replaced.
func ConditionOp(pod *corev1.Pod, condition corev1.PodCondition) client.Op {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID, "resourceVersion": pod.ResourceVersion},
		"status":   map[string]any{"conditions": []corev1.PodCondition{condition}},
	})
	if err != nil {
		panic(err) // conditions always encode
	}
	return client.PatchOp(pod, types.StrategicMergePatchType, patch, "status")
}
