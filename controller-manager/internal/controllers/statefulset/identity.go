package statefulset

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"

	"kijabi.dev/controller-manager/internal/history"
	"kijabi.dev/controller-manager/internal/podset"
	"kijabi.dev/controller-manager/internal/podstate"
)

func podName(set string, ordinal int) string { return set + "-" + strconv.Itoa(ordinal) }

// split takes a name apart into that of a set and an ordinal; false if it is not made so.
func split(name string) (set string, ordinal int, ok bool) {
	i := strings.LastIndexByte(name, '-')
	if i <= 0 {
		return "", 0, false
	}
	n, err := strconv.ParseUint(name[i+1:], 10, 31)
	if err != nil || strconv.FormatUint(n, 10) != name[i+1:] {
		return "", 0, false // such as web-007: nobody's
	}
	return name[:i], int(n), true
}

// ordinalOf is the place of a pod in a set; false if its name gives it none.
func ordinalOf(set *appsv1.StatefulSet, pod *corev1.Pod) (int, bool) {
	name, ordinal, ok := split(pod.Name)
	return ordinal, ok && name == set.Name
}

func start(set *appsv1.StatefulSet) int {
	if set.Spec.Ordinals == nil {
		return 0
	}
	return int(set.Spec.Ordinals.Start)
}

func replicas(set *appsv1.StatefulSet) int { return int(ptr.Deref(set.Spec.Replicas, 1)) }

func inRange(set *appsv1.StatefulSet, ordinal int) bool {
	return ordinal >= start(set) && ordinal < start(set)+replicas(set)
}

// revisionOf is the name of the revision that a pod was made of.
func revisionOf(pod *corev1.Pod) string { return pod.Labels[appsv1.ControllerRevisionHashLabelKey] }

// newPod makes the pod of an ordinal as a revision has it.
func newPod(set *appsv1.StatefulSet, revision *appsv1.ControllerRevision, ordinal int) (*corev1.Pod, error) {
	template, err := history.Template(revision)
	if err != nil {
		return nil, err
	}
	pod, err := podset.New(set, template, podName(set.Name, ordinal))
	if err != nil {
		return nil, err
	}
	pod.Labels = maps.Clone(pod.Labels)
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	maps.Copy(pod.Labels, identity(pod.Name, ordinal))
	pod.Labels[appsv1.ControllerRevisionHashLabelKey] = revision.Name
	pod.Spec.Hostname, pod.Spec.Subdomain = pod.Name, set.Spec.ServiceName
	pod.Spec.Volumes = volumes(set, pod.Spec.Volumes, ordinal)
	return pod, nil
}

// identity are the labels that tell a pod's place.
func identity(name string, ordinal int) map[string]string {
	return map[string]string{appsv1.StatefulSetPodNameLabel: name, appsv1.PodIndexLabel: strconv.Itoa(ordinal)}
}

// volumes are a template's with the claims of an ordinal, which take the place of volumes
// of the same name.
func volumes(set *appsv1.StatefulSet, given []corev1.Volume, ordinal int) []corev1.Volume {
	var out []corev1.Volume
	claimed := map[string]bool{}
	for i := range set.Spec.VolumeClaimTemplates {
		template := &set.Spec.VolumeClaimTemplates[i]
		claimed[template.Name] = true
		out = append(out, corev1.Volume{Name: template.Name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claimName(template.Name, set.Name, ordinal)},
		}})
	}
	for i := range given {
		if !claimed[given[i].Name] {
			out = append(out, given[i])
		}
	}
	return out
}

func claimName(template, set string, ordinal int) string {
	return fmt.Sprintf("%s-%s-%d", template, set, ordinal)
}

// members sorts out the set's pods. Only pods of its naming can be. Unlike other owners it
// takes orphans that have finished: they keep the name that their successor needs.
func members(set *appsv1.StatefulSet, selector labels.Selector, owned, orphans []*corev1.Pod) podset.Claim {
	mine := func(pod *corev1.Pod) bool { _, ok := ordinalOf(set, pod); return ok }
	orphans = slices.DeleteFunc(slices.Clone(orphans), func(pod *corev1.Pod) bool { return !mine(pod) })
	c := podset.Claimed(set, selector, owned, orphans)
	own := c.Own[:0:0]
	for _, pod := range c.Own {
		if mine(pod) {
			own = append(own, pod)
		} else if set.DeletionTimestamp == nil && pod.DeletionTimestamp == nil {
			c.Release = append(c.Release, pod)
		}
	}
	c.Own = own
	for _, pod := range orphans {
		if set.DeletionTimestamp == nil && pod.DeletionTimestamp == nil && podstate.Finished(pod) && selector.Matches(labels.Set(pod.Labels)) {
			c.Adopt, c.Own = append(c.Adopt, pod), append(c.Own, pod)
		}
	}
	return c
}
