package podset

import (
	"encoding/json"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/controller-manager/internal/ownership"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
)

// RemoveFinalizer takes a finalizer from a pod, if it is still the same pod. With unchanged it
// does so only if nobody has written the pod since it was read, and is a conflict otherwise.
func RemoveFinalizer(pod *corev1.Pod, finalizer string, unchanged bool) Write {
	metadata := map[string]any{"uid": pod.UID, "$deleteFromPrimitiveList/finalizers": []string{finalizer}}
	if unchanged {
		metadata["resourceVersion"] = pod.ResourceVersion
	}
	patch, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		panic(err) // strings always encode
	}
	return Write{op: client.PatchOp(pod, types.StrategicMergePatchType, patch, "")}
}

// WritesWithFinalizer are what make a claim true for an owner whose pods have a finalizer:
// those that are adopted get it, those that are released lose it.
func (c Claim) WritesWithFinalizer(owner object.Object, finalizer string) ([]Write, error) {
	writes := make([]Write, 0, len(c.Adopt)+len(c.Release))
	for _, pod := range c.Adopt {
		finalizers := slices.Clone(pod.Finalizers)
		if !slices.Contains(finalizers, finalizer) {
			finalizers = append(finalizers, finalizer)
		}
		op, err := ownership.AdoptWith(owner, pod, finalizers)
		if err != nil {
			return nil, err
		}
		writes = append(writes, Write{op: op})
	}
	for _, pod := range c.Release {
		finalizers := slices.DeleteFunc(slices.Clone(pod.Finalizers), func(f string) bool { return f == finalizer })
		writes = append(writes, Write{op: ownership.ReleaseWith(pod, finalizers)})
	}
	return writes, nil
}
