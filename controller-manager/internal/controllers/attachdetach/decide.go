package attachdetach

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/controller-manager/internal/podstate"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/kube/volume"
)

// keepTerminated on a node says that volumes of finished pods stay attached there.
const keepTerminated = "volumes.kubernetes.io/keep-terminated-pod-volumes"

// event tells users something about a pod.
type event struct {
	about                     *corev1.Pod
	severity, reason, message string
}

// plan is what a volume needs: first its nodes say the truth about it, since a kubelet that
// believes that a volume is attached may mount it; then it is detached, then attached.
type plan struct {
	// nodes with changed status.volumesAttached.
	nodes  []*corev1.Node
	detach []*storagev1.VolumeAttachment
	attach []*storagev1.VolumeAttachment
	events []event
}

// state is what a volume's plan depends on.
type state struct {
	volume *corev1.PersistentVolume // of a CSI driver that attaches
	// pods that use its claim and have a node.
	pods []*corev1.Pod
	// attachments of it, to whichever nodes.
	attachments []*storagev1.VolumeAttachment
	// node returns nil for one that is gone.
	node func(name string) *corev1.Node
}

// decide returns a volume's plan. It is pure.
func decide(s *state) plan {
	var p plan
	name := volume.AttachName(s.volume.Spec.CSI)
	wanted := s.wanted()
	elsewhere := func(node string) bool {
		return slices.ContainsFunc(s.attachments, func(a *storagev1.VolumeAttachment) bool { return a.Spec.NodeName != node })
	}
	attachedTo := map[string]bool{}
	for _, a := range s.attachments {
		node := s.node(a.Spec.NodeName)
		attachedTo[a.Spec.NodeName] = true
		pods, wants := wanted[a.Spec.NodeName]
		ours := a.Name == attachmentName(s.volume, a.Spec.NodeName)
		switch {
		case a.DeletionTimestamp != nil:
			p.report(node, name, false, nil, s.volume)
		case wants && a.Status.Attached:
			p.report(node, name, true, pods, s.volume)
		case wants:
			p.report(node, name, false, nil, s.volume)
			if failure := a.Status.AttachError; failure != nil && failure.Message != "" {
				p.tell(pods, corev1.EventTypeWarning, "FailedAttachVolume", fmt.Sprintf("AttachVolume.Attach failed for volume %q : %s", s.volume.Name, failure.Message))
			}
		case !ours || inUse(node, name) && !outOfService(node):
			// Somebody else's to end, or still mounted.
		default:
			p.report(node, name, false, nil, s.volume)
			p.detach = append(p.detach, a)
		}
	}
	exclusive := exclusive(s.volume)
	for _, node := range s.order(wanted) {
		if attachedTo[node] {
			continue
		}
		p.report(s.node(node), name, false, nil, s.volume)
		if exclusive && (elsewhere(node) || len(p.attach) > 0) {
			p.tell(wanted[node], corev1.EventTypeWarning, "FailedAttachVolume", s.multiAttach(wanted, wanted[node][0], node))
			continue
		}
		p.attach = append(p.attach, attachment(s.volume, node))
	}
	return p
}

// wanted are the pods that need the volume, by node. Of a node that is gone nothing is needed.
func (s *state) wanted() map[string][]*corev1.Pod {
	out := map[string][]*corev1.Pod{}
	for _, pod := range s.pods {
		node := s.node(pod.Spec.NodeName)
		if node == nil || terminated(pod) && node.Annotations[keepTerminated] != "true" {
			continue
		}
		out[node.Name] = append(out[node.Name], pod)
	}
	for _, pods := range out {
		slices.SortFunc(pods, older)
	}
	return out
}

// order lists the nodes by the age of their oldest pod: who came first gets an exclusive volume.
func (s *state) order(wanted map[string][]*corev1.Pod) []string {
	out := make([]string, 0, len(wanted))
	for node := range wanted {
		out = append(out, node)
	}
	slices.SortFunc(out, func(a, b string) int { return older(wanted[a][0], wanted[b][0]) })
	return out
}

func older(a, b *corev1.Pod) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}

// terminated says whether a pod needs its volumes no more: it is finished, or it is on its way
// out and none of its containers runs.
func terminated(pod *corev1.Pod) bool {
	if podstate.Finished(pod) {
		return true
	}
	running := slices.ContainsFunc(pod.Status.ContainerStatuses, func(c corev1.ContainerStatus) bool {
		return c.State.Terminated == nil && c.State.Waiting == nil
	})
	return pod.DeletionTimestamp != nil && !running
}

// exclusive says whether a volume may be attached to one node only.
func exclusive(v *corev1.PersistentVolume) bool {
	return len(v.Spec.AccessModes) > 0 && !slices.Contains(v.Spec.AccessModes, corev1.ReadWriteMany) && !slices.Contains(v.Spec.AccessModes, corev1.ReadOnlyMany)
}

// multiAttach words why a pod has to wait for a volume that is attached elsewhere.
func (s *state) multiAttach(wanted map[string][]*corev1.Pod, waits *corev1.Pod, node string) string {
	begin := fmt.Sprintf("Multi-Attach error for volume %q ", s.volume.Name)
	var users []string
	for _, other := range s.order(wanted) {
		for _, pod := range wanted[other] {
			if other != node && pod.Namespace == waits.Namespace {
				users = append(users, pod.Name)
			}
		}
	}
	if len(users) == 0 {
		return begin + "Volume is already exclusively attached to one node and can't be attached to another"
	}
	return begin + "Volume is already used by pod(s) " + strings.Join(users, ", ")
}

func inUse(node *corev1.Node, name corev1.UniqueVolumeName) bool {
	return node != nil && slices.Contains(node.Status.VolumesInUse, name)
}

// outOfService says whether an administrator vouches that a node is down and mounts nothing.
func outOfService(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

func (p *plan) tell(pods []*corev1.Pod, severity, reason, message string) {
	for _, pod := range pods {
		p.events = append(p.events, event{pod, severity, reason, message})
	}
}

// report makes a node's status say whether a volume is attached there; pods are told when it
// newly is.
func (p *plan) report(node *corev1.Node, name corev1.UniqueVolumeName, attached bool, pods []*corev1.Pod, v *corev1.PersistentVolume) {
	if node == nil {
		return
	}
	is := func(a corev1.AttachedVolume) bool { return a.Name == name }
	if slices.ContainsFunc(node.Status.VolumesAttached, is) == attached {
		return
	}
	updated := node.DeepCopy()
	if attached {
		updated.Status.VolumesAttached = append(updated.Status.VolumesAttached, corev1.AttachedVolume{Name: name})
		p.tell(pods, corev1.EventTypeNormal, "SuccessfulAttachVolume", fmt.Sprintf("AttachVolume.Attach succeeded for volume %q ", v.Name))
	} else {
		updated.Status.VolumesAttached = slices.DeleteFunc(updated.Status.VolumesAttached, is)
	}
	p.nodes = append(p.nodes, updated)
}

// attachmentName is what drivers' attachers expect, and the same for everybody who asks: a
// repeated attempt meets its own attachment.
func attachmentName(v *corev1.PersistentVolume, node string) string {
	csi := v.Spec.CSI
	return fmt.Sprintf("csi-%x", sha256.Sum256([]byte(csi.VolumeHandle+csi.Driver+node)))
}

func attachment(v *corev1.PersistentVolume, node string) *storagev1.VolumeAttachment {
	return &storagev1.VolumeAttachment{
		ObjectMeta: metav1.ObjectMeta{Name: attachmentName(v, node)},
		Spec: storagev1.VolumeAttachmentSpec{
			Attacher: v.Spec.CSI.Driver, NodeName: node, Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &v.Name},
		},
	}
}

// ofVolume is the key of the volume that is attached, false for a volume that is none.
func ofVolume(a *storagev1.VolumeAttachment) (object.Key, bool) {
	name := a.Spec.Source.PersistentVolumeName
	if name == nil {
		return object.Key{}, false
	}
	return object.Key{Name: *name}, true
}
