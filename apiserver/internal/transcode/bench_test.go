package transcode

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
)

// usualPod is a running pod of a deployment with a token volume and probes.
func usualPod(i int) *corev1.Pod {
	at := metav1.NewTime(time.Unix(1790000000+int64(i), 0))
	condition := func(kind corev1.PodConditionType) corev1.PodCondition {
		return corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: at}
	}
	toleration := func(key string) corev1.Toleration {
		return corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: new(int64(300))}
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("web-5d9c7b6f4d-%05d", i), GenerateName: "web-5d9c7b6f4d-", Namespace: "default",
			UID: types.UID(fmt.Sprintf("8a6f6a0e-2f0c-4a44-9b52-%012d", i)), CreationTimestamp: at, Generation: 1,
			Labels:          map[string]string{"app": "web", "pod-template-hash": "5d9c7b6f4d"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web-5d9c7b6f4d", UID: "1a6f6a0e-2f0c-4a44-9b52-0123456789ab", Controller: new(true), BlockOwnerDeletion: new(true)}},
		},
		Spec: corev1.PodSpec{
			Volumes: []corev1.Volume{{Name: "kube-api-access-x7x2k", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
				DefaultMode: new(int32(420)),
				Sources: []corev1.VolumeProjection{
					{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{ExpirationSeconds: new(int64(3607)), Path: "token"}},
					{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}, Items: []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}}}},
					{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"}}}}},
				},
			}}}},
			Containers: []corev1.Container{{
				Name: "web", Image: "registry.example.com/team/web:v1.2.3", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080, Protocol: corev1.ProtocolTCP}},
				Env: []corev1.EnvVar{{Name: "MODE", Value: "production"}, {Name: "NODE", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "spec.nodeName"}}}},
				Resources: corev1.ResourceRequirements{
					Requests: corev1.ResourceList{"cpu": resource.MustParse("100m"), "memory": resource.MustParse("128Mi")},
					Limits:   corev1.ResourceList{"memory": resource.MustParse("256Mi")},
				},
				VolumeMounts:             []corev1.VolumeMount{{Name: "kube-api-access-x7x2k", ReadOnly: true, MountPath: "/var/run/secrets/kubernetes.io/serviceaccount"}},
				TerminationMessagePath:   "/dev/termination-log",
				TerminationMessagePolicy: corev1.TerminationMessageReadFile, ImagePullPolicy: corev1.PullIfNotPresent,
			}},
			RestartPolicy: corev1.RestartPolicyAlways, TerminationGracePeriodSeconds: new(int64(30)), DNSPolicy: corev1.DNSClusterFirst,
			ServiceAccountName: "default", DeprecatedServiceAccount: "default", NodeName: fmt.Sprintf("node-%d", i%100),
			SecurityContext: &corev1.PodSecurityContext{}, SchedulerName: "default-scheduler",
			Tolerations: []corev1.Toleration{toleration("node.kubernetes.io/not-ready"), toleration("node.kubernetes.io/unreachable")},
			Priority:    new(int32(0)), EnableServiceLinks: new(true), PreemptionPolicy: new(corev1.PreemptLowerPriority),
		},
		Status: corev1.PodStatus{
			Phase:      corev1.PodRunning,
			Conditions: []corev1.PodCondition{condition(corev1.PodInitialized), condition(corev1.PodReady), condition(corev1.ContainersReady), condition(corev1.PodScheduled)},
			HostIP:     "192.0.2.7", HostIPs: []corev1.HostIP{{IP: "192.0.2.7"}}, PodIP: "10.244.3.17", PodIPs: []corev1.PodIP{{IP: "10.244.3.17"}}, StartTime: &at,
			ContainerStatuses: []corev1.ContainerStatus{{
				Name: "web", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: at}}, Ready: true, Started: new(true),
				Image: "registry.example.com/team/web:v1.2.3", ImageID: "registry.example.com/team/web@sha256:4bf1e4f0c1d6a1bd1c9f0e4a9d8d4a1fa7ae8a5c0b2c7a1d3e8f0a2b4c6d8e0f",
				ContainerID: "containerd://4bf1e4f0c1d6a1bd1c9f0e4a9d8d4a1fa7ae8a5c0b2c7a1d3e8f0a2b4c6d8e0f",
			}},
			QOSClass: corev1.PodQOSBurstable,
		},
	}
}

func storedPod(b *testing.B) []byte {
	b.Helper()
	value, err := usualPod(1).Marshal()
	if err != nil {
		b.Fatal(err)
	}
	return store.AppendVersion(value, 1<<32)
}

func BenchmarkPod(b *testing.B) {
	value := storedPod(b)
	var all Transcoders
	pods := all.Of(object.KindOf[*corev1.Pod]())
	var out []byte
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if out, err = pods.AppendItem(out[:0], value); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(len(out)))
	b.ReportMetric(float64(len(value)), "stored-bytes")
	b.ReportMetric(float64(len(out)), "json-bytes")
}

func BenchmarkPodByDecoding(b *testing.B) {
	value := storedPod(b)
	kind := object.KindOf[*corev1.Pod]()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := viaDecoding(kind, value, true); err != nil {
			b.Fatal(err)
		}
	}
}
