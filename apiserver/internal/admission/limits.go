package admission

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/component-helpers/resource"
)

// limitDefaults gives containers the requests and limits that the namespace's limit ranges
// name. Of several ranges the first by name wins.
func limitDefaults(c *Chain, r *Request) error {
	pod, ok := created[*corev1.Pod](r)
	if !ok {
		return nil
	}
	for _, limits := range all[*corev1.LimitRange](c, r.Namespace) {
		var requests, most corev1.ResourceList
		for i := range limits.Spec.Limits {
			if item := &limits.Spec.Limits[i]; item.Type == corev1.LimitTypeContainer {
				requests, most = withMissing(requests, item.DefaultRequest), withMissing(most, item.Default)
			}
		}
		if len(requests) == 0 && len(most) == 0 {
			continue
		}
		var filled []string
		for i := range pod.Spec.InitContainers {
			filled = append(filled, limitContainer(&pod.Spec.InitContainers[i], "init container", requests, most)...)
		}
		for i := range pod.Spec.Containers {
			filled = append(filled, limitContainer(&pod.Spec.Containers[i], "container", requests, most)...)
		}
		if len(filled) > 0 { // documented: tells where values came from that nobody wrote
			if pod.Annotations == nil {
				pod.Annotations = map[string]string{}
			}
			pod.Annotations["kubernetes.io/limit-ranger"] = "LimitRanger plugin set: " + strings.Join(filled, "; ")
		}
	}
	return nil
}

// limitContainer fills in what a container does not ask for and tells what that was.
func limitContainer(container *corev1.Container, what string, requests, most corev1.ResourceList) []string {
	var told []string
	for _, part := range []struct {
		name string
		into *corev1.ResourceList
		from corev1.ResourceList
	}{{"request", &container.Resources.Requests, requests}, {"limit", &container.Resources.Limits, most}} {
		var names []string
		for name := range part.from {
			if _, set := (*part.into)[name]; !set {
				names = append(names, string(name))
			}
		}
		*part.into = withMissing(*part.into, part.from)
		if len(names) > 0 {
			slices.Sort(names)
			told = append(told, fmt.Sprintf("%s %s for %s %s", strings.Join(names, ", "), part.name, what, container.Name))
		}
	}
	return told
}

// withMissing adds what a list lacks; it returns a list of its own when it adds anything.
func withMissing(list, more corev1.ResourceList) corev1.ResourceList {
	copied := false
	for name, quantity := range more {
		if _, ok := list[name]; ok {
			continue
		}
		if !copied {
			list, copied = maps.Clone(list), true
			if list == nil {
				list = corev1.ResourceList{}
			}
		}
		list[name] = quantity.DeepCopy()
	}
	return list
}

// limits refuses pods and claims outside the bounds of the namespace's limit ranges; all
// that is wrong is told at once.
func limits(c *Chain, r *Request) error {
	var check func(item *corev1.LimitRangeItem) []string
	switch obj := r.Object.(type) {
	case *corev1.Pod:
		if r.Verb != Create || r.Subresource != "" {
			return nil
		}
		check = func(item *corev1.LimitRangeItem) []string { return limitPod(item, obj) }
	case *corev1.PersistentVolumeClaim:
		if r.Verb == Delete || r.Subresource != "" {
			return nil
		}
		check = func(item *corev1.LimitRangeItem) []string {
			if item.Type != corev1.LimitTypePersistentVolumeClaim {
				return nil
			}
			return outside(item, obj.Spec.Resources.Requests, nil)
		}
	default:
		return nil
	}
	var wrong []string
	for _, limits := range all[*corev1.LimitRange](c, r.Namespace) {
		for i := range limits.Spec.Limits {
			wrong = append(wrong, check(&limits.Spec.Limits[i])...)
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	if len(wrong) == 1 {
		return apierrors.NewForbidden(r.Kind.GVR.GroupResource(), r.Name, fmt.Errorf("%s", wrong[0]))
	}
	return r.forbidden("[%s]", strings.Join(wrong, ", "))
}

func limitPod(item *corev1.LimitRangeItem, pod *corev1.Pod) []string {
	var wrong []string
	switch item.Type {
	case corev1.LimitTypeContainer:
		for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range containers {
				wrong = append(wrong, outside(item, containers[i].Resources.Requests, containers[i].Resources.Limits)...)
			}
		}
	case corev1.LimitTypePod:
		wrong = outside(item, resource.PodRequests(pod, resource.PodResourcesOptions{}), resource.PodLimits(pod, resource.PodResourcesOptions{}))
	}
	return wrong
}

// outside compares with the bounds of an item. Where there is a minimum something must be
// asked for, and where there is a maximum or a ratio there must be a limit, but claims
// (limits nil) only ask.
func outside(item *corev1.LimitRangeItem, requests, most corev1.ResourceList) []string {
	var wrong []string
	claim := item.Type == corev1.LimitTypePersistentVolumeClaim
	for _, name := range sorted(item.Min) {
		least := item.Min[name]
		asked, isAsked := requests[name]
		limit, isLimited := most[name]
		switch {
		case !isAsked:
			wrong = append(wrong, fmt.Sprintf("minimum %s usage per %s is %s.  No request is specified", name, item.Type, least.String()))
		case asked.Cmp(least) < 0:
			wrong = append(wrong, fmt.Sprintf("minimum %s usage per %s is %s, but request is %s", name, item.Type, least.String(), asked.String()))
		case isLimited && limit.Cmp(least) < 0:
			wrong = append(wrong, fmt.Sprintf("minimum %s usage per %s is %s, but limit is %s", name, item.Type, least.String(), limit.String()))
		}
	}
	for _, name := range sorted(item.Max) {
		greatest := item.Max[name]
		asked, isAsked := requests[name]
		limit, isLimited := most[name]
		switch {
		case claim && isAsked && asked.Cmp(greatest) > 0:
			wrong = append(wrong, fmt.Sprintf("maximum %s usage per %s is %s, but request is %s", name, item.Type, greatest.String(), asked.String()))
		case claim:
		case !isLimited:
			wrong = append(wrong, fmt.Sprintf("maximum %s usage per %s is %s.  No limit is specified", name, item.Type, greatest.String()))
		case limit.Cmp(greatest) > 0:
			wrong = append(wrong, fmt.Sprintf("maximum %s usage per %s is %s, but limit is %s", name, item.Type, greatest.String(), limit.String()))
		case isAsked && asked.Cmp(greatest) > 0:
			wrong = append(wrong, fmt.Sprintf("maximum %s usage per %s is %s, but request is %s", name, item.Type, greatest.String(), asked.String()))
		}
	}
	for _, name := range sorted(item.MaxLimitRequestRatio) {
		ratio := item.MaxLimitRequestRatio[name]
		asked, isAsked := requests[name]
		limit, isLimited := most[name]
		if !isAsked || asked.IsZero() {
			wrong = append(wrong, fmt.Sprintf("%s max limit to request ratio per %s is %s, but no request is specified or request is 0", name, item.Type, ratio.String()))
			continue
		}
		if !isLimited {
			wrong = append(wrong, fmt.Sprintf("%s max limit to request ratio per %s is %s, but no limit is specified", name, item.Type, ratio.String()))
			continue
		}
		if found := limit.AsApproximateFloat64() / asked.AsApproximateFloat64(); found > ratio.AsApproximateFloat64() {
			wrong = append(wrong, fmt.Sprintf("%s max limit to request ratio per %s is %s, but provided ratio is %f", name, item.Type, ratio.String(), found))
		}
	}
	return wrong
}

func sorted(list corev1.ResourceList) []corev1.ResourceName { return slices.Sorted(maps.Keys(list)) }
