// Package resources translates requests, limits and security settings of a pod
// into what the runtime takes, and owns the pod's cgroup.
package resources

import (
	corev1 "k8s.io/api/core/v1"

	"kijabi.dev/kubelet/internal/runtime"
)

// Scheduling quantities of Linux' completely fair scheduler.
const (
	minShares    = 2
	maxShares    = 262144
	sharesPerCPU = 1024
	quotaPeriod  = 100_000 // microseconds
	minQuota     = 1_000   // microseconds; the kernel refuses less
)

// OOM scores: who is killed first when the machine runs out of memory.
const (
	oomBestEffort = 1000
	oomGuaranteed = 2 // -997 would need CAP_SYS_RESOURCE; the least that never does
	oomCritical   = 1
)

// ContainerLimits returns what a container may use. nodeMemory is the machine's
// memory in bytes, against which the OOM score is weighed.
func ContainerLimits(pod *corev1.Pod, container *corev1.Container, nodeMemory int64) runtime.Resources {
	request := container.Resources.Requests.Cpu().MilliValue()
	if _, set := container.Resources.Requests[corev1.ResourceCPU]; !set {
		request = container.Resources.Limits.Cpu().MilliValue()
	}
	result := runtime.Resources{
		CPUShares:   shares(request),
		MemoryLimit: container.Resources.Limits.Memory().Value(),
		OOMScoreAdj: oomScore(pod, container, nodeMemory),
	}
	if limit := container.Resources.Limits.Cpu().MilliValue(); limit > 0 {
		result.CPUPeriod, result.CPUQuota = quotaPeriod, quota(limit)
	}
	return result
}

func shares(milliCPU int64) int64 {
	return min(max(milliCPU*sharesPerCPU/1000, minShares), maxShares)
}

func quota(milliCPU int64) int64 { return max(milliCPU*quotaPeriod/1000, minQuota) }

func oomScore(pod *corev1.Pod, container *corev1.Container, nodeMemory int64) int64 {
	if pod.Spec.Priority != nil && *pod.Spec.Priority >= 2_000_000_000 {
		return oomCritical
	}
	switch QOSClass(pod) {
	case corev1.PodQOSGuaranteed:
		return oomGuaranteed
	case corev1.PodQOSBestEffort:
		return oomBestEffort
	case corev1.PodQOSBurstable:
	}
	// The smaller the share that was asked for, the sooner it goes.
	request := container.Resources.Requests.Memory().Value()
	if nodeMemory <= 0 {
		return oomBestEffort - 1
	}
	return min(max(1000-1000*request/nodeMemory, oomGuaranteed+1), oomBestEffort-1)
}

// QOSClass says how firmly a pod's resources are promised.
func QOSClass(pod *corev1.Pod) corev1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	some, guaranteed := false, true
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
				limit, hasLimit := list[i].Resources.Limits[name]
				request, hasRequest := list[i].Resources.Requests[name]
				if (hasLimit && !limit.IsZero()) || (hasRequest && !request.IsZero()) {
					some = true
				}
				if !hasLimit || limit.IsZero() || (hasRequest && request.Cmp(limit) != 0) {
					guaranteed = false
				}
			}
		}
	}
	switch {
	case !some:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

// podLimits sums up the containers: what the pod's own cgroup is given. A limit
// is zero, meaning none, as soon as one container has none.
func podLimits(pod *corev1.Pod) runtime.Resources {
	var request, cpu, memory int64
	cpuBound, memoryBound := true, true
	add := func(c *corev1.Container) (req, lim, mem int64) {
		req = c.Resources.Requests.Cpu().MilliValue()
		lim, mem = c.Resources.Limits.Cpu().MilliValue(), c.Resources.Limits.Memory().Value()
		if req == 0 {
			req = lim
		}
		cpuBound = cpuBound && lim > 0
		memoryBound = memoryBound && mem > 0
		return req, lim, mem
	}
	for i := range pod.Spec.Containers {
		req, lim, mem := add(&pod.Spec.Containers[i])
		request, cpu, memory = request+req, cpu+lim, memory+mem
	}
	var maxRequest, maxCPU, maxMemory int64
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		req, lim, mem := add(c)
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			request, cpu, memory = request+req, cpu+lim, memory+mem
			continue
		}
		maxRequest, maxCPU, maxMemory = max(maxRequest, req), max(maxCPU, lim), max(maxMemory, mem)
	}
	result := runtime.Resources{CPUShares: shares(max(request, maxRequest))}
	if cpuBound {
		result.CPUPeriod, result.CPUQuota = quotaPeriod, quota(max(cpu, maxCPU))
	}
	if memoryBound {
		result.MemoryLimit = max(memory, maxMemory)
	}
	return result
}
