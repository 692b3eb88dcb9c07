package kinds_test

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"kijabi.dev/apiserver/internal/registry/kinds"
)

func TestDefaultTolerationSecondsAreAnOption(t *testing.T) {
	for given, want := range map[int64]int64{0: 30, 5: 5} {
		table := kinds.All(kinds.Options{TolerationSeconds: given})
		row := table[slices.IndexFunc(table, func(k *kinds.Kind) bool { return k.GVK.Kind == "Pod" })]
		pod := &corev1.Pod{Spec: corev1.PodSpec{Tolerations: []corev1.Toleration{{Key: "node.kubernetes.io/unreachable", Operator: corev1.TolerationOpExists}}}}
		row.Default(pod)
		if n := len(pod.Spec.Tolerations); n != 2 {
			t.Fatalf("%d tolerations, want its own and one for nodes that are not ready", n)
		}
		added := pod.Spec.Tolerations[1]
		if added.Key != "node.kubernetes.io/not-ready" || *added.TolerationSeconds != want {
			t.Errorf("option %d: %s tolerated for %d s, want %d", given, added.Key, *added.TolerationSeconds, want)
		}
	}
}
