package registry_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/platform/kube/object"
)

// benchPod is a plain pod as a replica set would create it.
func benchPod() *corev1.Pod {
	p := pod("web-abcde")
	p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web", UID: "0d5a7a1c-7f7e-4a51-9d1a-2f7d1c5b1a11", Controller: new(true)}}
	p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80}}
	p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "A", Value: "b"}}
	p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("64Mi")}
	p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/"}}}
	p.Spec.Containers[0].ReadinessProbe.HTTPGet.Port.IntVal = 80
	return p
}

func benchmarkPlan(b *testing.B, resource string, sample object.Object) {
	m := leader(b)
	kind, err := m.Kind(gvr(resource))
	if err != nil {
		b.Fatal(err)
	}
	wire, err := sample.Marshal()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		obj, err := object.Decode(kind.Kind, wire)
		if err != nil {
			b.Fatal(err)
		}
		if err := m.PlanCreateForTest(kind, registry.Operation{Verb: registry.VerbCreate, Ref: at(resource, "default", ""), Object: obj}); err != nil {
			b.Fatal(err)
		}
	}
}

// Decode, default, validate and encode: what a create costs beside the store.
func BenchmarkPlanCreateConfigMap(b *testing.B) { benchmarkPlan(b, "configmaps", configMap("a")) }
func BenchmarkPlanCreatePod(b *testing.B)       { benchmarkPlan(b, "pods", benchPod()) }

// The whole create over the store on a backend in memory, from 64 workers.
func benchmarkCreate(b *testing.B, resource string, sample object.Object) {
	m := leader(b)
	kind, err := m.Kind(gvr(resource))
	if err != nil {
		b.Fatal(err)
	}
	wire, err := sample.Marshal()
	if err != nil {
		b.Fatal(err)
	}
	var n atomic.Int64
	b.SetParallelism(32)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			obj, err := object.Decode(kind.Kind, wire)
			if err != nil {
				b.Error(err)
				return
			}
			obj.SetName(fmt.Sprintf("n%d", n.Add(1)))
			if _, err := m.Do(b.Context(), admin, registry.Operation{Verb: registry.VerbCreate, Ref: at(resource, "default", ""), Object: obj}); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func BenchmarkCreateConfigMap(b *testing.B) { benchmarkCreate(b, "configmaps", configMap("a")) }
func BenchmarkCreatePod(b *testing.B)       { benchmarkCreate(b, "pods", benchPod()) }
