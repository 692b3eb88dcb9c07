package toleration_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"kijabi.dev/platform/kube/toleration"
)

func TestSeconds(t *testing.T) {
	taint := &corev1.Taint{Key: "disk", Value: "slow", Effect: corev1.TaintEffectNoExecute}
	for name, c := range map[string]struct {
		tolerations []corev1.Toleration
		tolerated   bool
		seconds     *int64
	}{
		"none":                     {},
		"equal":                    {tolerations: []corev1.Toleration{{Key: "disk", Value: "slow"}}, tolerated: true},
		"equal by name":            {tolerations: []corev1.Toleration{{Key: "disk", Operator: corev1.TolerationOpEqual, Value: "slow"}}, tolerated: true},
		"other value":              {tolerations: []corev1.Toleration{{Key: "disk", Value: "full"}}},
		"other key":                {tolerations: []corev1.Toleration{{Key: "cpu", Operator: corev1.TolerationOpExists}}},
		"exists":                   {tolerations: []corev1.Toleration{{Key: "disk", Operator: corev1.TolerationOpExists}}, tolerated: true},
		"exists, same effect":      {tolerations: []corev1.Toleration{{Key: "disk", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}}, tolerated: true},
		"exists, other effect":     {tolerations: []corev1.Toleration{{Key: "disk", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}}},
		"everything":               {tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}}, tolerated: true},
		"no key without Exists":    {tolerations: []corev1.Toleration{{Value: "slow"}}},
		"unknown operator":         {tolerations: []corev1.Toleration{{Key: "disk", Operator: "Like", Value: "slow"}}},
		"the shortest counts":      {tolerations: []corev1.Toleration{{Key: "disk", Value: "slow"}, {Operator: corev1.TolerationOpExists, TolerationSeconds: ptr.To[int64](9)}, {Key: "disk", Value: "slow", TolerationSeconds: ptr.To[int64](5)}}, tolerated: true, seconds: ptr.To[int64](5)},
		"another's time is no aid": {tolerations: []corev1.Toleration{{Key: "disk", Value: "slow"}, {Key: "cpu", Operator: corev1.TolerationOpExists, TolerationSeconds: ptr.To[int64](5)}}, tolerated: true},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{Tolerations: c.tolerations}}
			seconds, tolerated := toleration.Seconds(pod, taint)
			if tolerated != c.tolerated || !ptr.Equal(seconds, c.seconds) {
				t.Errorf("tolerated %v for %v, want %v for %v", tolerated, ptr.Deref(seconds, -1), c.tolerated, ptr.Deref(c.seconds, -1))
			}
			if got := toleration.Tolerates(pod, taint); got != c.tolerated {
				t.Errorf("Tolerates says %v", got)
			}
		})
	}
}
