// Package projection makes pods small for the caches of the loops: what no loop reads is
// dropped, what pods of one template have in common is kept once, and the rest is kept encoded.
package projection

import (
	"sync"
	"weak"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/lru"
)

// shapes bounds how many different templates and labels are remembered. Beyond it pods are
// still right, only kept apart.
const shapes = 4096

// Pods projects pods; make it with NewPods. It is safe for concurrent use.
type Pods struct {
	specs *lru.Cache // encoded spec to *corev1.PodSpec
	metas *lru.Cache // encoded metadata to *metav1.ObjectMeta
}

// NewPods returns a projection that has seen nothing.
func NewPods() *Pods { return &Pods{specs: lru.New(shapes), metas: lru.New(shapes)} }

// kept is a pod in memory: about 700 bytes, where a decoded one takes several thousand.
type kept struct {
	spec *corev1.PodSpec    // shared
	meta *metav1.ObjectMeta // shared
	rest []byte             // what is the pod's own, encoded

	mu sync.Mutex
	// whole is the decoded pod for as long as somebody uses it, or nobody needs the memory.
	whole weak.Pointer[corev1.Pod]
}

// Keep reduces a pod, in place, to what the loops read, and returns what makes it again later.
// Its maps and slices may be shared with other pods: like all that a cache hands out they must
// not be changed.
//
// Of the spec all is kept that says where the pod may run, what it asks for, and which claims
// it uses; not what only its kubelet needs: environment, commands, mounts, probes, security,
// and volumes of other kinds. Of the status conditions are dropped that tell of the way up.
func (p *Pods) Keep(pod *corev1.Pod) func() *corev1.Pod {
	pod.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
	pod.ManagedFields = nil
	own := corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion, Generation: pod.Generation,
			CreationTimestamp: pod.CreationTimestamp, DeletionTimestamp: pod.DeletionTimestamp, DeletionGracePeriodSeconds: pod.DeletionGracePeriodSeconds,
		},
		Spec:   corev1.PodSpec{NodeName: pod.Spec.NodeName, Hostname: pod.Spec.Hostname, Volumes: claims(pod.Spec.Volumes)},
		Status: pod.Status,
	}
	own.Status.Conditions = conditions(&pod.Status)
	own.Status.ContainerStatuses, own.Status.InitContainerStatuses = statuses(pod.Status.ContainerStatuses), statuses(pod.Status.InitContainerStatuses)
	own.Status.EphemeralContainerStatuses, own.Status.HostIPs = nil, nil

	spec := pod.Spec
	spec.NodeName, spec.Hostname, spec.Volumes = "", "", nil
	spec.Containers, spec.InitContainers, spec.EphemeralContainers = containers(spec.Containers), containers(spec.InitContainers), nil
	spec.ImagePullSecrets, spec.HostAliases, spec.DNSConfig, spec.ReadinessGates, spec.SecurityContext = nil, nil, nil, nil, nil
	k := &kept{
		spec: shared(p.specs, &spec),
		meta: shared(p.metas, &metav1.ObjectMeta{
			Namespace: pod.Namespace, GenerateName: pod.GenerateName,
			Labels: pod.Labels, Annotations: pod.Annotations, OwnerReferences: pod.OwnerReferences, Finalizers: pod.Finalizers,
		}),
	}
	k.fill(pod, &own)
	encoded, err := own.Marshal()
	if err != nil {
		return func() *corev1.Pod { return pod } // it is kept whole
	}
	k.rest, k.whole = encoded, weak.Make(pod)
	return k.pod
}

// pod returns the pod.
func (k *kept) pod() *corev1.Pod {
	k.mu.Lock()
	defer k.mu.Unlock()
	if pod := k.whole.Value(); pod != nil {
		return pod
	}
	pod, own := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}}, corev1.Pod{}
	if err := own.Unmarshal(k.rest); err != nil {
		panic("a pod that was encoded does not decode: " + err.Error())
	}
	k.fill(pod, &own)
	k.whole = weak.Make(pod)
	return pod
}

// fill makes a pod of its own part and the shared ones.
func (k *kept) fill(pod, own *corev1.Pod) {
	pod.ObjectMeta, pod.Spec, pod.Status = own.ObjectMeta, *k.spec, own.Status
	pod.Namespace, pod.GenerateName = k.meta.Namespace, k.meta.GenerateName
	pod.Labels, pod.Annotations, pod.OwnerReferences, pod.Finalizers = k.meta.Labels, k.meta.Annotations, k.meta.OwnerReferences, k.meta.Finalizers
	pod.Spec.NodeName, pod.Spec.Hostname, pod.Spec.Volumes = own.Spec.NodeName, own.Spec.Hostname, own.Spec.Volumes
}

// encoder is a piece of an object in Kubernetes' protobuf encoding, which is the same for equal pieces.
type encoder interface{ Marshal() ([]byte, error) }

// shared returns the first piece seen that is equal to one.
func shared[T encoder](seen *lru.Cache, piece T) T {
	encoded, err := piece.Marshal()
	if err != nil {
		return piece // it is kept apart
	}
	key := string(encoded)
	if known, ok := seen.Get(key); ok {
		return known.(T)
	}
	seen.Add(key, piece)
	return piece
}

// claims leaves the volumes that have to do with claims or drivers.
func claims(volumes []corev1.Volume) []corev1.Volume {
	var out []corev1.Volume
	for _, v := range volumes {
		if v.PersistentVolumeClaim != nil || v.Ephemeral != nil || v.CSI != nil {
			out = append(out, v)
		}
	}
	return out
}

// containers leaves name, image, ports, resources and restart policy.
func containers(in []corev1.Container) []corev1.Container {
	out := make([]corev1.Container, len(in))
	for i, c := range in {
		out[i] = corev1.Container{
			Name: c.Name, Image: c.Image, Ports: c.Ports, Resources: c.Resources, RestartPolicy: c.RestartPolicy, RestartPolicyRules: c.RestartPolicyRules,
		}
	}
	return out
}

// statuses leaves how containers are and were.
func statuses(in []corev1.ContainerStatus) []corev1.ContainerStatus {
	if len(in) == 0 {
		return nil
	}
	out := make([]corev1.ContainerStatus, len(in))
	for i, c := range in {
		out[i] = corev1.ContainerStatus{
			Name: c.Name, State: c.State, LastTerminationState: c.LastTerminationState, Ready: c.Ready, RestartCount: c.RestartCount, Started: c.Started,
		}
	}
	return out
}

// conditions leaves all of a failed pod, of which policies may ask for any, and otherwise those that
// do not merely tell of the way up.
func conditions(status *corev1.PodStatus) []corev1.PodCondition {
	if status.Phase == corev1.PodFailed {
		return status.Conditions
	}
	var out []corev1.PodCondition
	for _, c := range status.Conditions {
		switch c.Type {
		case corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.ContainersReady:
		default:
			out = append(out, c)
		}
	}
	return out
}
