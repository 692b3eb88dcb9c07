package statefulset

import (
	"encoding/json"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
)

// claimChange is another set of owners for a claim.
type claimChange struct {
	claim  *corev1.PersistentVolumeClaim
	owners []metav1.OwnerReference
}

// op writes the change, if nobody changed the claim meanwhile: others have owners there, too.
func (c claimChange) op() (client.Op, error) {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": c.claim.UID, "resourceVersion": c.claim.ResourceVersion, "ownerReferences": c.owners,
	}})
	if err != nil {
		return client.Op{}, err
	}
	return client.PatchOp(c.claim, types.MergePatchType, patch, ""), nil
}

// deletes says at which ends of a pod's place its claims end, too.
func deletes(set *appsv1.StatefulSet) (withSet, withScale bool) {
	policy := set.Spec.PersistentVolumeClaimRetentionPolicy
	if policy == nil {
		return false, false
	}
	const remove = appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	return policy.WhenDeleted == remove, policy.WhenScaled == remove
}

// newClaim makes the claim of a template for an ordinal in the set's range.
func newClaim(set *appsv1.StatefulSet, template *corev1.PersistentVolumeClaim, ordinal int) *corev1.PersistentVolumeClaim {
	claim := template.DeepCopy()
	claim.Name, claim.Namespace = claimName(template.Name, set.Name, ordinal), set.Namespace
	claim.Labels = maps.Clone(claim.Labels)
	if claim.Labels == nil {
		claim.Labels = map[string]string{}
	}
	if set.Spec.Selector != nil {
		maps.Copy(claim.Labels, set.Spec.Selector.MatchLabels)
	}
	claim.ResourceVersion, claim.UID = "", ""
	claim.Status = corev1.PersistentVolumeClaimStatus{}
	if withSet, _ := deletes(set); withSet {
		claim.OwnerReferences = []metav1.OwnerReference{setReference(set)}
	}
	return claim
}

func setReference(set *appsv1.StatefulSet) metav1.OwnerReference {
	return *metav1.NewControllerRef(set, object.KindOf[*appsv1.StatefulSet]().GVK)
}

// owned corrects the owners of a pod's claim. What the garbage collector shall remove
// together with the set belongs to the set, what goes with a pod that is scaled away belongs
// to that pod, and the rest to nobody. A claim with another controller is left to it.
func owned(set *appsv1.StatefulSet, pod *corev1.Pod, claim *corev1.PersistentVolumeClaim, scaledAway bool) (claimChange, bool) {
	kept := []metav1.OwnerReference{} // not nil: an empty list is written as such
	for _, ref := range claim.OwnerReferences {
		switch {
		case ref.UID == set.UID, ref.UID == pod.UID:
		case ptr.Deref(ref.Controller, false):
			return claimChange{}, false
		default:
			kept = append(kept, ref)
		}
	}
	withSet, withScale := deletes(set)
	switch {
	case scaledAway && withScale:
		kept = append(kept, *metav1.NewControllerRef(pod, object.KindOf[*corev1.Pod]().GVK))
	case withSet:
		kept = append(kept, setReference(set))
	}
	if equality.Semantic.DeepEqual(sameOwners(kept), sameOwners(claim.OwnerReferences)) {
		return claimChange{}, false
	}
	return claimChange{claim: claim, owners: kept}, true
}

// sameOwners are references in an order that does not matter.
func sameOwners(refs []metav1.OwnerReference) []types.UID {
	out := make([]types.UID, 0, len(refs))
	for _, ref := range refs {
		out = append(out, ref.UID)
	}
	slices.Sort(out)
	return out
}

// doomed says whether a claim goes away with an earlier pod of its place, or is on its way out
// for another reason. A pod that is made before it has gone would lose it.
func doomed(claim *corev1.PersistentVolumeClaim, pod string) bool {
	if claim.DeletionTimestamp != nil {
		return true
	}
	return slices.ContainsFunc(claim.OwnerReferences, func(ref metav1.OwnerReference) bool {
		return ref.Kind == "Pod" && ref.Name == pod
	})
}
