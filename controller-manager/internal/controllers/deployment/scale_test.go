package deployment

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func sizesOf(w *world) string {
	out := []string{}
	for _, set := range w.sets {
		out = append(out, fmt.Sprintf("%s:%d", set.Spec.Template.Spec.Containers[0].Image, replicas(set)))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// A change of size in the middle of a rollout goes to all sets in proportion.
func TestScalingDuringARollout(t *testing.T) {
	for name, test := range map[string]struct {
		paused, scale int32
		want          string
	}{
		"up":         {scale: 15, want: "one:11 two:7"},
		"down":       {scale: 5, want: "one:5 two:3"},
		"to nothing": {scale: 0, want: "one:0 two:0"},
		"paused":     {paused: 1, scale: 20, want: "one:14 two:9"},
	} {
		t.Run(name, func(t *testing.T) {
			// The example of Kubernetes' documentation: 10 pods, 3 more, 2 fewer.
			w := newWorld(deployment(10, "one", intstr.FromInt32(3), intstr.FromInt32(2)))
			w.settle(t)
			w.d.Spec.Template.Spec.Containers[0].Image = "two"
			for range 6 { // the new pods never become available
				w.step()
				for _, set := range w.sets {
					n := replicas(set)
					set.Status = appsv1.ReplicaSetStatus{Replicas: n, ObservedGeneration: set.Generation}
					if set.Spec.Template.Spec.Containers[0].Image == "one" {
						set.Status.AvailableReplicas = n
					}
				}
			}
			if have := sizesOf(w); have != "one:8 two:5" {
				t.Fatalf("stuck at %s", have)
			}
			w.d.Spec.Paused = test.paused != 0
			w.d.Spec.Replicas = &test.scale
			w.step()
			if have := sizesOf(w); have != test.want {
				t.Errorf("scaled to %s, want %s", have, test.want)
			}
		})
	}
}

func TestLeftoversGoToTheLargest(t *testing.T) {
	set := func(name string, size int32, age time.Duration) *appsv1.ReplicaSet {
		return &appsv1.ReplicaSet{
			ObjectMeta: metav1.ObjectMeta{
				Name: name, Annotations: map[string]string{annotationMax: "12", annotationDesired: "12"},
				CreationTimestamp: metav1.NewTime(now.Add(-age)), Labels: map[string]string{"app": "web"},
			},
			Spec:   appsv1.ReplicaSetSpec{Replicas: &size, Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Image: name}}}}},
			Status: appsv1.ReplicaSetStatus{Replicas: size},
		}
	}
	for name, test := range map[string]struct {
		sizes [3]int32 // oldest first
		to    int32
		want  [3]int32
	}{
		"the largest":               {[3]int32{5, 4, 3}, 13, [3]int32{6, 4, 3}},
		"the newest of equal ones":  {[3]int32{4, 4, 4}, 13, [3]int32{4, 4, 5}},
		"from the oldest of those":  {[3]int32{4, 4, 4}, 11, [3]int32{3, 4, 4}},
		"nothing for those without": {[3]int32{6, 0, 6}, 24, [3]int32{12, 0, 12}},
	} {
		t.Run(name, func(t *testing.T) {
			d := deployment(test.to, "new", intstr.FromInt32(0), intstr.FromInt32(1))
			sets := []*appsv1.ReplicaSet{set("a", test.sizes[0], 3*time.Hour), set("b", test.sizes[1], 2*time.Hour), set("c", test.sizes[2], time.Hour)}
			p, err := decide(d, sets, nil, now)
			if err != nil {
				t.Fatal(err)
			}
			have := test.sizes
			for _, updated := range p.update {
				have[updated.Name[0]-'a'] = replicas(updated)
			}
			if have != test.want {
				t.Errorf("%v became %v, want %v", test.sizes, have, test.want)
			}
			if p.create != nil {
				t.Error("a set was made while the size changed")
			}
		})
	}
}
