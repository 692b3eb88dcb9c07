package job

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"kijabi.dev/controller-manager/internal/podset"
)

// completionIndexEnv is the variable that tells a container its index.
const completionIndexEnv = "JOB_COMPLETION_INDEX"

// birth is a pod to be created.
type birth struct {
	name  string
	index int // noIndex if the job is not indexed
	// failures and ignored are how often the index has failed before.
	failures, ignored int32
}

// manage decides which pods are too many or, if none are, which are missing.
func (v *view) manage(p *plan, t *tally, taken func(name string) bool) {
	spec := &v.job.Spec
	parallelism := int(ptr.Deref(spec.Parallelism, 1))
	wanted := parallelism
	switch {
	case v.suspended:
		wanted = 0
	case spec.Completions == nil && t.succeeded > 0:
		wanted = len(v.active) // the job is about to end: what runs may do so
	case spec.Completions != nil:
		wanted = max(0, min(parallelism, v.completions-int(t.succeeded)))
	}
	if p.surplus = v.tooMany(wanted); len(p.surplus) > 0 || v.suspended {
		p.surplus = p.surplus[:min(len(p.surplus), mostPods)]
		return
	}
	missing := wanted - len(v.active)
	if v.patient {
		missing -= len(v.terminating)
	}
	missing = min(missing, mostPods)
	switch {
	case missing <= 0:
	case v.perIndex:
		v.replaceIndexes(p, t, missing, taken)
	default:
		if at := p.past.retryAt(); v.now.Before(at) {
			p.wakeAt(at, v.now)
			return
		}
		if !v.indexed {
			for _, name := range podset.Names(v.job, v.seen(), missing, taken) {
				p.create = append(p.create, birth{name: name, index: noIndex})
			}
			return
		}
		for index := range v.pending(t) {
			if len(p.create) == missing {
				break
			}
			p.create = append(p.create, birth{name: v.nameOf(index, taken), index: index})
		}
	}
}

// replaceIndexes makes pods for indexes, each of which waits by itself after a failure.
func (v *view) replaceIndexes(p *plan, t *tally, missing int, taken func(name string) bool) {
	for index := range v.pending(t) {
		if len(p.create) == missing {
			return
		}
		last := t.replaced[index]
		if at := retryIndexAt(last); v.now.Before(at) {
			p.wakeAt(at, v.now)
			continue
		}
		b := birth{name: v.nameOf(index, taken), index: index}
		if last != nil {
			b.failures, b.ignored = failuresOf(last)
			if judge(v.job.Spec.PodFailurePolicy, last).counts() {
				b.failures++
			} else {
				b.ignored++
			}
		}
		p.create = append(p.create, b)
	}
}

// pending yields the indexes that need a pod.
func (v *view) pending(t *tally) func(yield func(int) bool) {
	served := t.done.union(t.failedIndexes).union(indexesOf(v.active))
	if v.patient {
		served = served.union(indexesOf(v.terminating))
	}
	return served.missing(v.completions)
}

// tooMany returns active pods that must go so that no more than wanted remain, those that cost
// least to lose first. A second pod of an index, one of an index that is no more, and one
// without finalizer, whose removal was begun, go in any case.
func (v *view) tooMany(wanted int) []*corev1.Pod {
	var gone, kept []*corev1.Pod
	byValue := slices.Clone(v.active)
	slices.SortFunc(byValue, func(a, b *corev1.Pod) int { return podset.RemovalOrder(b, a) })
	served := map[int]bool{}
	for _, pod := range byValue { // the dearest first
		index := indexOf(pod)
		if !tracked(pod) && !v.adopted[pod.UID] || !v.counts(pod) || v.indexed && served[index] {
			gone = append(gone, pod)
			continue
		}
		served[index] = true
		kept = append(kept, pod)
	}
	for len(kept) > wanted {
		gone = append(gone, kept[len(kept)-1])
		kept = kept[:len(kept)-1]
	}
	return gone
}

// seen names the pods that are known, so that pods made on the same knowledge have the same
// names. It changes with the set of pods, not with their states: a create whose answer was lost
// meets its own pod although others have moved on meanwhile.
func (v *view) seen() string {
	uids := make([]string, len(v.pods))
	for i, pod := range v.pods {
		uids[i] = string(pod.UID)
	}
	slices.Sort(uids)
	return strings.Join(uids, " ")
}

// nameOf is the name of an index's next pod: a function of the index and of its pods that are
// known, by which an index has no two pods even if the answer to a create is lost.
func (v *view) nameOf(index int, taken func(name string) bool) string {
	var uids []string
	for _, pod := range v.pods {
		if indexOf(pod) == index {
			uids = append(uids, string(pod.UID))
		}
	}
	slices.Sort(uids)
	prefix := indexPrefix(v.job.Name, index)
	for i := 0; ; i++ {
		name := prefix + podset.Suffix(fmt.Sprintf("%s/%d/%s/%d", v.job.UID, index, strings.Join(uids, " "), i))
		if !taken(name) {
			return name
		}
	}
}

// indexPrefix is what the names of an index's pods begin with. The job's name is cut, not the index.
func indexPrefix(job string, index int) string {
	ending := "-" + strconv.Itoa(index) + "-"
	room := len(podset.Prefix(strings.Repeat("x", 64))) - len(ending)
	return job[:min(len(job), room)] + ending
}

// pod makes the pod of a birth.
func (b birth) pod(job *batchv1.Job) (*corev1.Pod, error) {
	pod, err := podset.New(job, &job.Spec.Template, b.name)
	if err != nil {
		return nil, err
	}
	if !tracked(pod) {
		pod.Finalizers = append(pod.Finalizers, batchv1.JobTrackingFinalizer)
	}
	if b.index == noIndex {
		return pod, nil
	}
	index := strconv.Itoa(b.index)
	pod.GenerateName = indexPrefix(job.Name, b.index)
	pod.Annotations, pod.Labels = with(pod.Annotations, batchv1.JobCompletionIndexAnnotation, index), with(pod.Labels, batchv1.JobCompletionIndexAnnotation, index)
	if job.Spec.BackoffLimitPerIndex != nil {
		pod.Annotations[batchv1.JobIndexFailureCountAnnotation] = strconv.Itoa(int(b.failures))
		if b.ignored > 0 {
			pod.Annotations[batchv1.JobIndexIgnoredFailureCountAnnotation] = strconv.Itoa(int(b.ignored))
		}
	}
	pod.Spec.Hostname = job.Name + "-" + index
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			tellIndex(&list[i])
		}
	}
	return pod, nil
}

func with(m map[string]string, key, value string) map[string]string {
	if m == nil {
		m = map[string]string{}
	}
	m[key] = value
	return m
}

// tellIndex gives a container its index, unless its author has set the variable.
func tellIndex(c *corev1.Container) {
	if slices.ContainsFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == completionIndexEnv }) {
		return
	}
	c.Env = append(c.Env, corev1.EnvVar{Name: completionIndexEnv, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{
		FieldPath: "metadata.labels['" + batchv1.JobCompletionIndexAnnotation + "']",
	}}})
}
