package job

import (
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// interval is a run of completion indexes, both ends included.
type interval struct{ first, last int }

// indexes is a set of completion indexes: intervals in order, which neither touch nor overlap.
// It is immutable.
type indexes []interval

// parseIndexes reads what String writes, as far as the indexes are below limit. What cannot be
// read is left out: the status is written by this loop alone.
func parseIndexes(text string, limit int) indexes {
	var out indexes
	for part := range strings.SplitSeq(text, ",") {
		from, to, isRange := strings.Cut(part, "-")
		first, err := strconv.Atoi(from)
		if err != nil || first < 0 || first >= limit {
			continue
		}
		last := first
		if isRange {
			if last, err = strconv.Atoi(to); err != nil || last < first {
				continue
			}
		}
		out = out.union(indexes{{first, min(last, limit-1)}})
	}
	return out
}

// String is the notation of a job's status: 1,3-5,7. Two neighbours are not written as a range.
func (x indexes) String() string {
	var b strings.Builder
	for _, i := range x {
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Itoa(i.first))
		switch {
		case i.last == i.first+1:
			b.WriteByte(',')
		case i.last > i.first:
			b.WriteByte('-')
		default:
			continue
		}
		b.WriteString(strconv.Itoa(i.last))
	}
	return b.String()
}

// total is how many indexes there are.
func (x indexes) total() int {
	n := 0
	for _, i := range x {
		n += i.last - i.first + 1
	}
	return n
}

func (x indexes) has(index int) bool {
	at, _ := slices.BinarySearchFunc(x, index, func(i interval, index int) int { return i.last - index })
	return at < len(x) && x[at].first <= index
}

// with adds indexes, in any order.
func (x indexes) with(more []int) indexes {
	if len(more) == 0 {
		return x
	}
	more = slices.Sorted(slices.Values(more))
	added := make(indexes, 0, len(more))
	for _, index := range more {
		added = append(added, interval{index, index})
	}
	return x.union(added)
}

func (x indexes) union(y indexes) indexes {
	all := slices.Concat(x, y)
	slices.SortFunc(all, func(a, b interval) int { return a.first - b.first })
	var out indexes
	for _, i := range all {
		if n := len(out); n > 0 && i.first <= out[n-1].last+1 {
			out[n-1].last = max(out[n-1].last, i.last)
			continue
		}
		out = append(out, i)
	}
	return out
}

// shared is how many indexes are in both sets.
func (x indexes) shared(y indexes) int {
	n := 0
	for len(x) > 0 && len(y) > 0 {
		n += max(0, min(x[0].last, y[0].last)-max(x[0].first, y[0].first)+1)
		if x[0].last < y[0].last {
			x = x[1:]
		} else {
			y = y[1:]
		}
	}
	return n
}

// missing yields the indexes below limit that are not in the set, in order.
func (x indexes) missing(limit int) func(yield func(int) bool) {
	return func(yield func(int) bool) {
		next := 0
		for _, i := range x {
			for ; next < min(i.first, limit); next++ {
				if !yield(next) {
					return
				}
			}
			next = max(next, i.last+1)
		}
		for ; next < limit; next++ {
			if !yield(next) {
				return
			}
		}
	}
}

// noIndex is the index of a pod that has none.
const noIndex = -1

// indexOf is the completion index of a pod.
func indexOf(pod *corev1.Pod) int {
	index, err := strconv.Atoi(pod.Annotations[batchv1.JobCompletionIndexAnnotation])
	if err != nil || index < 0 {
		return noIndex
	}
	return index
}

// indexesOf are the completion indexes of pods.
func indexesOf(pods []*corev1.Pod) indexes {
	var out []int
	for _, pod := range pods {
		if index := indexOf(pod); index != noIndex {
			out = append(out, index)
		}
	}
	return indexes(nil).with(out)
}

// failuresOf is how often the index of a pod had failed before the pod was made: counted
// failures, and those that the pod failure policy ignores.
func failuresOf(pod *corev1.Pod) (counted, ignored int32) {
	number := func(annotation string) int32 {
		n, err := strconv.ParseInt(pod.Annotations[annotation], 10, 32)
		if err != nil || n < 0 {
			return 0
		}
		return int32(n)
	}
	return number(batchv1.JobIndexFailureCountAnnotation), number(batchv1.JobIndexIgnoredFailureCountAnnotation)
}
