package admission

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/component-helpers/resource"

	"kijabi.dev/apiserver/internal/registry/kinds"
	"kijabi.dev/platform/kube/object"
)

// Resources that quotas name; documented under "Resource Quotas".
const (
	countPrefix         = "count/"
	storageClassSuffix  = ".storageclass.storage.k8s.io/"
	requestsPrefix      = "requests."
	limitsPrefix        = "limits."
	servicesLoadBalance = corev1.ResourceServicesLoadBalancers
	servicesNodePorts   = corev1.ResourceServicesNodePorts
)

// legacyCounts are the kinds that a quota may count by their plain names. Pods are counted
// so while they are not terminal.
var legacyCounts = []string{"configmaps", "persistentvolumeclaims", "replicationcontrollers", "resourcequotas", "secrets", "services"}

// countName is how a quota names the number of objects of a kind.
func countName(gr schema.GroupResource) corev1.ResourceName {
	return corev1.ResourceName(countPrefix + gr.String())
}

// countedResource is the kind whose objects must be looked at for a resource of a quota.
func countedResource(name corev1.ResourceName) string {
	text := string(name)
	if counted, ok := strings.CutPrefix(text, countPrefix); ok {
		return counted
	}
	switch {
	case slices.Contains(legacyCounts, text):
		return text
	case strings.HasPrefix(text, "services."):
		return "services"
	case name == corev1.ResourceRequestsStorage, strings.Contains(text, storageClassSuffix):
		return "persistentvolumeclaims"
	}
	return "pods"
}

// usage is what one object takes of what quotas bound. decode gives the object in its Go
// type, and is only called for kinds that are more than counted.
func usage(gr schema.GroupResource, decode func() (object.Object, bool)) (corev1.ResourceList, object.Object) {
	used := corev1.ResourceList{countName(gr): one()}
	if gr.Group != "" {
		return used, nil
	}
	if slices.Contains(legacyCounts, gr.Resource) {
		used[corev1.ResourceName(gr.Resource)] = one()
	}
	switch gr.Resource {
	case "pods", "services", "persistentvolumeclaims":
	default:
		return used, nil
	}
	obj, ok := decode()
	if !ok {
		return used, nil
	}
	switch o := obj.(type) {
	case *corev1.Pod:
		podUsage(o, used)
	case *corev1.Service:
		serviceUsage(o, used)
	case *corev1.PersistentVolumeClaim:
		claimUsage(o, used)
	}
	return used, obj
}

func one() apiresource.Quantity { return *apiresource.NewQuantity(1, apiresource.DecimalSI) }

// podUsage adds what a pod takes until it has ended.
func podUsage(pod *corev1.Pod, used corev1.ResourceList) {
	if pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return
	}
	used[corev1.ResourcePods] = one()
	for name, quantity := range resource.PodRequests(pod, resource.PodResourcesOptions{}) {
		used[requestsPrefix+name] = quantity
		if plain(name) {
			used[name] = quantity
		}
	}
	for name, quantity := range resource.PodLimits(pod, resource.PodResourcesOptions{}) {
		if plain(name) || strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) {
			used[limitsPrefix+name] = quantity
		}
	}
}

// plain resources may be named without the prefix of requests.
func plain(name corev1.ResourceName) bool {
	return name == corev1.ResourceCPU || name == corev1.ResourceMemory || name == corev1.ResourceEphemeralStorage ||
		strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

func serviceUsage(service *corev1.Service, used corev1.ResourceList) {
	ports := int64(len(service.Spec.Ports))
	switch service.Spec.Type {
	case corev1.ServiceTypeNodePort:
		used[servicesNodePorts] = *apiresource.NewQuantity(ports, apiresource.DecimalSI)
	case corev1.ServiceTypeLoadBalancer:
		used[servicesLoadBalance] = one()
		if allocate := service.Spec.AllocateLoadBalancerNodePorts; allocate == nil || *allocate {
			used[servicesNodePorts] = *apiresource.NewQuantity(ports, apiresource.DecimalSI)
		}
	}
}

func claimUsage(claim *corev1.PersistentVolumeClaim, used corev1.ResourceList) {
	class := claim.Annotations[corev1.BetaStorageClassAnnotation]
	if claim.Spec.StorageClassName != nil {
		class = *claim.Spec.StorageClassName
	}
	size := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	if granted, ok := claim.Status.AllocatedResources[corev1.ResourceStorage]; ok && granted.Cmp(size) > 0 {
		size = granted
	}
	used[corev1.ResourceRequestsStorage] = size
	if class != "" {
		prefix := corev1.ResourceName(class + storageClassSuffix)
		used[prefix+"persistentvolumeclaims"] = one()
		used[prefix+"requests.storage"] = size
	}
}

// matches tells whether a quota's scopes select an object. Scopes select pods only (and
// claims, by their attributes class); without scopes a quota is about everything.
func matches(quota *corev1.ResourceQuota, obj object.Object) bool {
	for _, scope := range quota.Spec.Scopes {
		if !inScope(corev1.ScopedResourceSelectorRequirement{ScopeName: scope, Operator: corev1.ScopeSelectorOpExists}, obj) {
			return false
		}
	}
	if selector := quota.Spec.ScopeSelector; selector != nil {
		for _, requirement := range selector.MatchExpressions {
			if !inScope(requirement, obj) {
				return false
			}
		}
	}
	return true
}

func inScope(want corev1.ScopedResourceSelectorRequirement, obj object.Object) bool {
	if claim, ok := obj.(*corev1.PersistentVolumeClaim); ok && want.ScopeName == corev1.ResourceQuotaScopeVolumeAttributesClass {
		name := claim.Spec.VolumeAttributesClassName
		return selects(want, name != nil && *name != "", name)
	}
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return false
	}
	has := false
	switch want.ScopeName {
	case corev1.ResourceQuotaScopeTerminating:
		has = pod.Spec.ActiveDeadlineSeconds != nil
	case corev1.ResourceQuotaScopeNotTerminating:
		has = pod.Spec.ActiveDeadlineSeconds == nil
	case corev1.ResourceQuotaScopeBestEffort:
		has = kinds.QOSClass(pod) == corev1.PodQOSBestEffort
	case corev1.ResourceQuotaScopeNotBestEffort:
		has = kinds.QOSClass(pod) != corev1.PodQOSBestEffort
	case corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		has = crossesNamespaces(pod)
	case corev1.ResourceQuotaScopePriorityClass:
		return selects(want, pod.Spec.PriorityClassName != "", &pod.Spec.PriorityClassName)
	}
	return selects(want, has, nil)
}

// selects evaluates a requirement on a value that may be there.
func selects(want corev1.ScopedResourceSelectorRequirement, has bool, value *string) bool {
	operators := map[corev1.ScopeSelectorOperator]selection.Operator{
		corev1.ScopeSelectorOpIn: selection.In, corev1.ScopeSelectorOpNotIn: selection.NotIn,
	}
	switch want.Operator {
	case corev1.ScopeSelectorOpExists, "":
		return has
	case corev1.ScopeSelectorOpDoesNotExist:
		return !has
	}
	requirement, err := labels.NewRequirement(string(want.ScopeName), operators[want.Operator], want.Values)
	if err != nil || value == nil {
		return false
	}
	set := labels.Set{}
	if has {
		set[string(want.ScopeName)] = *value
	}
	return requirement.Matches(set)
}

// crossesNamespaces tells whether a pod's affinity names namespaces.
func crossesNamespaces(pod *corev1.Pod) bool {
	affinity := pod.Spec.Affinity
	if affinity == nil {
		return false
	}
	var terms []corev1.PodAffinityTerm
	var weighted []corev1.WeightedPodAffinityTerm
	if a := affinity.PodAffinity; a != nil {
		terms = append(terms, a.RequiredDuringSchedulingIgnoredDuringExecution...)
		weighted = append(weighted, a.PreferredDuringSchedulingIgnoredDuringExecution...)
	}
	if a := affinity.PodAntiAffinity; a != nil {
		terms = append(terms, a.RequiredDuringSchedulingIgnoredDuringExecution...)
		weighted = append(weighted, a.PreferredDuringSchedulingIgnoredDuringExecution...)
	}
	for i := range weighted {
		terms = append(terms, weighted[i].PodAffinityTerm)
	}
	return slices.ContainsFunc(terms, func(t corev1.PodAffinityTerm) bool {
		return len(t.Namespaces) > 0 || t.NamespaceSelector != nil
	})
}
