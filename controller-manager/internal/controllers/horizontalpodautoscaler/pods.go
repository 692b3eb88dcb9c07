package horizontalpodautoscaler

import (
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kijabi.dev/controller-manager/internal/podstate"
)

// groups are pods by what their measured use is worth.
type groups struct {
	use map[string]int64 // of pods that count
	// unready have just started, or are not ready: their use is not what it will be.
	// missing have none.
	unready, missing []string
}

func ready(pod *corev1.Pod) bool { return podstate.Ready(pod) }

// group sorts the pods. Those that are ending count for nothing.
func (in input) group(name corev1.ResourceName, samples map[string]Sample) (groups, error) {
	g := groups{use: map[string]int64{}}
	if len(in.pods) == 0 {
		return g, errors.New("no pods returned by selector while calculating replica count")
	}
	for _, pod := range in.pods {
		sample, measured := samples[pod.Name]
		switch {
		case pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodFailed:
		case pod.Status.Phase == corev1.PodPending:
			g.unready = append(g.unready, pod.Name)
		case !measured:
			g.missing = append(g.missing, pod.Name)
		case name == corev1.ResourceCPU && starting(pod, sample, in.now):
			g.unready = append(g.unready, pod.Name)
		default:
			g.use[pod.Name] = sample.Value
		}
	}
	if len(g.use) == 0 {
		return g, errors.New("did not receive metrics for targeted pods (pods might be unready)")
	}
	return g, nil
}

// starting says whether a pod's CPU use is that of its start: it is not ready within
// cpuInitialization, or was measured before it had been ready for a whole window; later,
// if it has not been ready since readinessDelay after its start.
func starting(pod *corev1.Pod, sample Sample, now time.Time) bool {
	c := podstate.Condition(pod, corev1.PodReady)
	if c == nil || pod.Status.StartTime == nil {
		return true
	}
	if pod.Status.StartTime.Add(cpuInitialization).After(now) {
		return c.Status == corev1.ConditionFalse || sample.Time.Before(c.LastTransitionTime.Add(sample.Window))
	}
	return c.Status == corev1.ConditionFalse && pod.Status.StartTime.Add(readinessDelay).After(c.LastTransitionTime.Time)
}

// requests are what pods request of a resource, in thousandths; a pod of which a container
// requests nothing has no utilization.
func (in input) requests(name corev1.ResourceName, container string) (map[string]int64, error) {
	out := make(map[string]int64, len(in.pods))
	for _, pod := range in.pods {
		if pod.Spec.Resources != nil && container == "" {
			if request, ok := pod.Spec.Resources.Requests[name]; ok {
				out[pod.Name] = request.MilliValue()
				continue
			}
		}
		for _, c := range measuredContainers(pod) {
			if container != "" && container != c.Name {
				continue
			}
			request, ok := c.Resources.Requests[name]
			if !ok {
				return nil, fmt.Errorf("missing request for %s in container %s of Pod %s", name, c.Name, pod.Name)
			}
			out[pod.Name] += request.MilliValue()
		}
	}
	return out, nil
}

// measuredContainers are those that run for as long as their pod.
func measuredContainers(pod *corev1.Pod) []corev1.Container {
	out := append([]corev1.Container(nil), pod.Spec.Containers...)
	for _, c := range pod.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			out = append(out, c)
		}
	}
	return out
}
