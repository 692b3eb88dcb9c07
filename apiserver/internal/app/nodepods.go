package app

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"kijabi.dev/apiserver/internal/authz"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
)

// nodePods tells the authorizer what pods of a node use, from the store's memory.
type nodePods struct{ store *store.Store }

var _ authz.Pods = nodePods{}

const (
	podsResource    = "pods"
	claimsResource  = "persistentvolumeclaims"
	volumesResource = "persistentvolumes"
)

func (p nodePods) NodeOf(namespace, name string) string {
	record, ok := p.store.Get(store.Key{Resource: podsResource, Namespace: namespace, Name: name})
	if !ok {
		return ""
	}
	return record.Index.Fields.Get("spec.nodeName")
}

func (p nodePods) UsedOn(node, resource, namespace, name string) bool {
	if resource == volumesResource {
		return p.volumeUsedOn(node, name)
	}
	kind := object.KindOf[*corev1.Pod]()
	for _, record := range p.store.Snapshot(podsResource, namespace).Records {
		if record.Index.Fields.Get("spec.nodeName") != node {
			continue
		}
		obj, err := object.Decode(kind, record.Value)
		if err != nil {
			continue // unreadable: it grants nothing
		}
		if uses(obj.(*corev1.Pod), resource, name) {
			return true
		}
	}
	return false
}

// volumeUsedOn says whether a pod bound to the node has the volume by a claim: volume and
// claim must name each other.
func (p nodePods) volumeUsedOn(node, name string) bool {
	volume, ok := decoded[*corev1.PersistentVolume](p.store, store.Key{Resource: volumesResource, Name: name})
	if !ok || volume.Spec.ClaimRef == nil {
		return false
	}
	ref := volume.Spec.ClaimRef
	claim, ok := decoded[*corev1.PersistentVolumeClaim](p.store, store.Key{Resource: claimsResource, Namespace: ref.Namespace, Name: ref.Name})
	return ok && claim.UID == ref.UID && claim.Spec.VolumeName == name && p.UsedOn(node, claimsResource, ref.Namespace, ref.Name)
}

// KeptOn implements authz.Pods.
func (p nodePods) KeptOn(node, name string) bool {
	key := store.Key{Resource: volumesResource, Name: name}
	if _, exists := p.store.Get(key); !exists {
		return true
	}
	volume, ok := decoded[*corev1.PersistentVolume](p.store, key)
	if !ok || volume.Annotations["pv.kubernetes.io/provisioned-by"] != "kijabi.dev/local-path" ||
		volume.Spec.NodeAffinity == nil || volume.Spec.NodeAffinity.Required == nil {
		return false
	}
	terms := volume.Spec.NodeAffinity.Required.NodeSelectorTerms
	// As our provisioner writes it: one term, which names one node.
	return len(terms) == 1 && len(terms[0].MatchExpressions) == 1 && terms[0].MatchExpressions[0].Key == corev1.LabelHostname &&
		terms[0].MatchExpressions[0].Operator == corev1.NodeSelectorOpIn && slices.Equal(terms[0].MatchExpressions[0].Values, []string{node})
}

// decoded returns an object from memory. What is unreadable grants nothing.
func decoded[T object.Object](objects *store.Store, key store.Key) (T, bool) {
	var none T
	record, ok := objects.Get(key)
	if !ok {
		return none, false
	}
	obj, err := object.Decode(object.KindOf[T](), record.Value)
	if err != nil {
		return none, false
	}
	return obj.(T), true
}

// uses says whether a pod names a ConfigMap, Secret, ServiceAccount or claim.
func uses(pod *corev1.Pod, resource, name string) bool {
	spec := &pod.Spec
	switch resource {
	case "serviceaccounts":
		return spec.ServiceAccountName == name
	case claimsResource:
		return slices.ContainsFunc(spec.Volumes, func(v corev1.Volume) bool {
			return v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == name || v.Ephemeral != nil && pod.Name+"-"+v.Name == name
		})
	}
	secrets := resource == "secrets"
	if secrets && slices.ContainsFunc(spec.ImagePullSecrets, func(r corev1.LocalObjectReference) bool { return r.Name == name }) {
		return true
	}
	for i := range spec.Volumes {
		v := &spec.Volumes[i]
		switch {
		case secrets && v.Secret != nil && v.Secret.SecretName == name,
			!secrets && v.ConfigMap != nil && v.ConfigMap.Name == name:
			return true
		case v.Projected != nil:
			for _, source := range v.Projected.Sources {
				if secrets && source.Secret != nil && source.Secret.Name == name || !secrets && source.ConfigMap != nil && source.ConfigMap.Name == name {
					return true
				}
			}
		}
	}
	return slices.ContainsFunc(spec.InitContainers, func(c corev1.Container) bool { return usedInEnv(&c, secrets, name) }) ||
		slices.ContainsFunc(spec.Containers, func(c corev1.Container) bool { return usedInEnv(&c, secrets, name) })
}

func usedInEnv(c *corev1.Container, secrets bool, name string) bool {
	for _, from := range c.EnvFrom {
		if secrets && from.SecretRef != nil && from.SecretRef.Name == name || !secrets && from.ConfigMapRef != nil && from.ConfigMapRef.Name == name {
			return true
		}
	}
	for _, env := range c.Env {
		if env.ValueFrom == nil {
			continue
		}
		if secrets && env.ValueFrom.SecretKeyRef != nil && env.ValueFrom.SecretKeyRef.Name == name ||
			!secrets && env.ValueFrom.ConfigMapKeyRef != nil && env.ValueFrom.ConfigMapKeyRef.Name == name {
			return true
		}
	}
	return false
}
