package admission

import (
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
)

const (
	nodeUserPrefix = "system:node:"
	// restrictedPrefix marks labels by which an administrator keeps nodes apart: no node
	// gives itself one. Documented with NodeRestriction.
	restrictedPrefix = "node-restriction.kubernetes.io"
	// controlPlaneLabel is what masters' kubelets call themselves, and nobody else.
	controlPlaneLabel = "node-role.kubernetes.io/control-plane"
)

// selfLabels are the labels below kubernetes.io and k8s.io that a node may give itself; the
// list is that of the documentation of NodeRestriction.
var selfLabels = []string{
	corev1.LabelHostname, corev1.LabelInstanceTypeStable, corev1.LabelOSStable, corev1.LabelArchStable,
	corev1.LabelTopologyZone, corev1.LabelTopologyRegion, corev1.LabelFailureDomainBetaZone, corev1.LabelFailureDomainBetaRegion,
	corev1.LabelInstanceType, "beta.kubernetes.io/os", "beta.kubernetes.io/arch",
}

// nodeRestriction keeps a kubelet to its own node and what runs there, in what the
// authorizer, which sees no bodies, cannot tell.
func nodeRestriction(c *Chain, r *Request) error {
	self, ok := strings.CutPrefix(r.User, nodeUserPrefix)
	if !ok {
		return nil
	}
	switch obj := r.Object.(type) {
	case *corev1.Node:
		old, _ := r.Old.(*corev1.Node)
		return c.restrictNode(r, self, obj, old)
	case *corev1.Pod:
		if r.Verb == Create && r.Subresource == "" {
			return restrictMirror(r, self, obj)
		}
	case *authenticationv1.TokenRequest:
		return c.restrictToken(r, self, obj)
	case *coordinationv1.Lease:
		if r.Namespace == corev1.NamespaceNodeLease && r.Name != self {
			return r.forbidden("can only access node lease with the same name as the requesting node")
		}
	}
	return nil
}

// restrictToken gives a node tokens of its own pods' accounts, bound to those pods, and no others.
func (c *Chain) restrictToken(r *Request, self string, request *authenticationv1.TokenRequest) error {
	ref := request.Spec.BoundObjectRef
	if ref == nil || ref.Kind != "Pod" || ref.APIVersion != "v1" || ref.Name == "" {
		return r.forbidden("node requested token not bound to a pod")
	}
	if ref.UID == "" {
		return r.forbidden("node requested token with a pod binding without a uid")
	}
	pod, ok := find[*corev1.Pod](c, r.Namespace, ref.Name)
	switch {
	case !ok:
		return r.forbidden("pod %q was not found", ref.Name)
	case pod.UID != ref.UID:
		return r.forbidden("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID)
	case pod.Spec.NodeName != self:
		return r.forbidden("node requested token bound to a pod scheduled on a different node")
	case pod.Spec.ServiceAccountName != r.Name:
		return r.forbidden("node requested a token of service account %q for a pod of %q", r.Name, pod.Spec.ServiceAccountName)
	}
	return nil
}

func (c *Chain) restrictNode(r *Request, self string, node, old *corev1.Node) error {
	if node.Name != self {
		return r.forbidden("node %q is not allowed to modify node %q", self, node.Name)
	}
	var before map[string]string
	if old != nil {
		before = old.Labels
		if !apiequality.Semantic.DeepEqual(node.Spec.Taints, old.Spec.Taints) {
			return r.forbidden("node %q is not allowed to modify taints", self)
		}
		if !apiequality.Semantic.DeepEqual(node.OwnerReferences, old.OwnerReferences) {
			return r.forbidden("node %q is not allowed to modify ownerReferences", self)
		}
	} else if len(node.OwnerReferences) > 0 {
		return r.forbidden("node %q is not allowed to set ownerReferences", self)
	}
	restrictedLabel := func(key string) bool {
		return restrictedLabel(key) && (key != controlPlaneLabel || !c.isMaster(self))
	}
	var changed []string
	for key, value := range node.Labels {
		if was, ok := before[key]; (!ok || was != value) && restrictedLabel(key) {
			changed = append(changed, key)
		}
	}
	for key := range before {
		if _, ok := node.Labels[key]; !ok && restrictedLabel(key) {
			changed = append(changed, key)
		}
	}
	if len(changed) > 0 {
		slices.Sort(changed)
		return r.forbidden("is not allowed to modify labels: %s", strings.Join(changed, ", "))
	}
	return nil
}

// restrictedLabel tells labels that a node may not give itself, or take away.
func restrictedLabel(key string) bool {
	domain, _, ok := strings.Cut(key, "/")
	if !ok {
		return false
	}
	if domain == restrictedPrefix || strings.HasSuffix(domain, "."+restrictedPrefix) {
		return true
	}
	below := func(parent string) bool { return domain == parent || strings.HasSuffix(domain, "."+parent) }
	if !below("kubernetes.io") && !below("k8s.io") {
		return false
	}
	if below("kubelet.kubernetes.io") || below("node.kubernetes.io") {
		return false
	}
	return !slices.Contains(selfLabels, key)
}

// restrictMirror lets a node make mirror pods of its own and no others, and such that give
// it no rights.
func restrictMirror(r *Request, self string, pod *corev1.Pod) error {
	if !isMirror(pod) {
		return r.forbidden("pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, self)
	}
	if pod.Spec.NodeName != self {
		return r.forbidden("node %q can only create pods with spec.nodeName set to itself", self)
	}
	if pod.Spec.ServiceAccountName != "" {
		return r.forbidden("node %q can not create pods that reference a service account", self)
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		for what, used := range map[string]bool{
			"secret": v.Secret != nil, "configmap": v.ConfigMap != nil, "persistentvolumeclaim": v.PersistentVolumeClaim != nil,
			"projected volumes": v.Projected != nil, "ephemeral volumes": v.Ephemeral != nil,
		} {
			if used {
				return r.forbidden("node %q can not create pods that reference %s", self, what)
			}
		}
	}
	return nil
}
