package admission

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"

	"kijabi.dev/platform/kube/volume"
)

// defaultStorageClass gives a claim the default class. A claim that names the empty class
// wants none.
func defaultStorageClass(c *Chain, r *Request) error {
	claim, ok := created[*corev1.PersistentVolumeClaim](r)
	if !ok || claim.Spec.StorageClassName != nil || claim.Annotations[corev1.BetaStorageClassAnnotation] != "" {
		return nil
	}
	if class, ok := theDefault[*storagev1.StorageClass](c, volume.AnnDefaultClass); ok {
		claim.Spec.StorageClassName = &class.Name
	}
	return nil
}

// defaultIngressClass gives an ingress the default class.
func defaultIngressClass(c *Chain, r *Request) error {
	ingress, ok := created[*networkingv1.Ingress](r)
	if !ok || ingress.Spec.IngressClassName != nil || ingress.Annotations["kubernetes.io/ingress.class"] != "" {
		return nil
	}
	marked := 0
	for _, class := range all[*networkingv1.IngressClass](c, "") {
		if class.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true" {
			marked++
		}
	}
	if marked > 1 { // the documentation of IngressClass: none is chosen then
		return r.forbidden("%d default IngressClasses were found, only 1 allowed", marked)
	}
	if class, ok := theDefault[*networkingv1.IngressClass](c, networkingv1.AnnotationIsDefaultIngressClass); ok {
		ingress.Spec.IngressClassName = &class.Name
	}
	return nil
}

// priority resolves a pod's priority class. Clients name the class, never the number.
func priority(c *Chain, r *Request) error {
	pod, ok := created[*corev1.Pod](r)
	if !ok {
		return nil
	}
	value, policy := int32(0), corev1.PreemptLowerPriority
	if name := pod.Spec.PriorityClassName; name != "" {
		class, ok := find[*schedulingv1.PriorityClass](c, "", name)
		if !ok {
			return r.forbidden("no PriorityClass with name %v was found", name)
		}
		value, policy = class.Value, policyOf(class)
	} else if class := globalDefault(c); class != nil {
		pod.Spec.PriorityClassName = class.Name
		value, policy = class.Value, policyOf(class)
	}
	if given := pod.Spec.Priority; given != nil && *given != value {
		return r.forbidden("the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name", *given, value)
	}
	if given := pod.Spec.PreemptionPolicy; given != nil && *given != policy {
		return r.forbidden("the string value of PreemptionPolicy (%s) must not be provided in pod spec; priority admission controller computed %s from the given PriorityClass name", *given, policy)
	}
	pod.Spec.Priority, pod.Spec.PreemptionPolicy = &value, &policy
	return nil
}

func policyOf(class *schedulingv1.PriorityClass) corev1.PreemptionPolicy {
	if class.PreemptionPolicy == nil {
		return corev1.PreemptLowerPriority
	}
	return *class.PreemptionPolicy
}

// globalDefault is the class of pods that name none: of several the lowest, as the
// documentation of PriorityClass says.
func globalDefault(c *Chain) *schedulingv1.PriorityClass {
	var lowest *schedulingv1.PriorityClass
	for _, class := range all[*schedulingv1.PriorityClass](c, "") {
		if class.GlobalDefault && (lowest == nil || class.Value < lowest.Value) {
			lowest = class
		}
	}
	return lowest
}

// singleDefaultPriority refuses a second default class.
func singleDefaultPriority(c *Chain, r *Request) error {
	class, ok := r.Object.(*schedulingv1.PriorityClass)
	if !ok || !class.GlobalDefault || r.Subresource != "" {
		return nil
	}
	for _, other := range all[*schedulingv1.PriorityClass](c, "") {
		if other.GlobalDefault && other.Name != class.Name {
			return r.forbidden("PriorityClass %v is already marked as default. Only one default can exist", other.Name)
		}
	}
	return nil
}

// runtimeClass gives a pod what its runtime class says of overhead and scheduling.
func runtimeClass(c *Chain, r *Request) error {
	pod, ok := created[*corev1.Pod](r)
	if !ok {
		return nil
	}
	name := pod.Spec.RuntimeClassName
	if name == nil || *name == "" {
		if len(pod.Spec.Overhead) > 0 {
			return r.forbidden("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")
		}
		return nil
	}
	class, ok := find[*nodev1.RuntimeClass](c, "", *name)
	if !ok {
		return r.forbidden("pod rejected: RuntimeClass %q not found", *name)
	}
	switch overhead := class.Overhead; {
	case overhead == nil && len(pod.Spec.Overhead) > 0:
		return r.forbidden("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")
	case overhead == nil:
	case len(pod.Spec.Overhead) > 0 && !apiequality.Semantic.DeepEqual(pod.Spec.Overhead, overhead.PodFixed):
		return r.forbidden("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
	default:
		pod.Spec.Overhead = overhead.PodFixed.DeepCopy()
	}
	if class.Scheduling == nil {
		return nil
	}
	for key, want := range class.Scheduling.NodeSelector {
		if has, ok := pod.Spec.NodeSelector[key]; ok && has != want {
			return r.forbidden("conflict: node selector %s is %q in the pod and %q in RuntimeClass %s", key, has, want, class.Name)
		}
	}
	if len(class.Scheduling.NodeSelector) > 0 {
		selector := maps.Clone(pod.Spec.NodeSelector)
		if selector == nil {
			selector = map[string]string{}
		}
		maps.Copy(selector, class.Scheduling.NodeSelector)
		pod.Spec.NodeSelector = selector
	}
	for _, toleration := range class.Scheduling.Tolerations {
		if !tolerated(pod.Spec.Tolerations, toleration) {
			pod.Spec.Tolerations = append(pod.Spec.Tolerations, toleration)
		}
	}
	return nil
}

func tolerated(all []corev1.Toleration, one corev1.Toleration) bool {
	for i := range all {
		if apiequality.Semantic.DeepEqual(all[i], one) {
			return true
		}
	}
	return false
}
