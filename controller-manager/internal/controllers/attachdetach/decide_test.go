package attachdetach

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/platform/kube/volume"
)

func testVolume(modes ...corev1.PersistentVolumeAccessMode) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "pv"},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes:            modes,
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "d.example.com", VolumeHandle: "h-1"}},
		},
	}
}

func testPod(name, node string, age int) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, CreationTimestamp: metav1.NewTime(time.Unix(1000-int64(age), 0))},
		Spec:       corev1.PodSpec{NodeName: node},
		Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
		}}},
	}
}

// testNode's marks: a is attached as the node says, u in use, o out of service, k keeps volumes of finished pods.
func testNode(name, marks string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	unique := volume.AttachName(testVolume().Spec.CSI)
	for _, mark := range marks {
		switch mark {
		case 'a':
			n.Status.VolumesAttached = []corev1.AttachedVolume{{Name: "other"}, {Name: unique}}
		case 'u':
			n.Status.VolumesInUse = []corev1.UniqueVolumeName{unique}
		case 'o':
			n.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute}}
		case 'k':
			n.Annotations = map[string]string{keepTerminated: "true"}
		}
	}
	return n
}

// testAttachment's marks: a is attached, d being deleted, e failed, f made by somebody else.
func testAttachment(node, marks string) *storagev1.VolumeAttachment {
	a := attachment(testVolume(), node)
	for _, mark := range marks {
		switch mark {
		case 'a':
			a.Status.Attached = true
		case 'd':
			a.DeletionTimestamp = &metav1.Time{}
		case 'e':
			a.Status.AttachError = &storagev1.VolumeError{Message: "no room"}
		case 'f':
			a.Name = "foreign"
		}
	}
	return a
}

func TestNames(t *testing.T) {
	// What an attacher computes of h-1, d.example.com and n1 in this order.
	if got := attachment(testVolume(), "n1").Name; got != "csi-7c8d189865c3517c921b4b66347593c22b43c659cec455f31b678e455a01e6aa" {
		t.Errorf("attachment %s", got)
	}
	if got := volume.AttachName(testVolume().Spec.CSI); got != "kubernetes.io/csi/d.example.com^h-1" {
		t.Errorf("volume %s", got)
	}
}

func TestDecide(t *testing.T) {
	once, many := testVolume(corev1.ReadWriteOnce), testVolume(corev1.ReadWriteMany)
	done := testPod("done", "n1", 1)
	done.Status.Phase = corev1.PodSucceeded
	stopping := testPod("stopping", "n1", 1)
	stopping.DeletionTimestamp = &metav1.Time{}
	stopped := stopping.DeepCopy()
	stopped.Status.ContainerStatuses = nil
	type list = []*storagev1.VolumeAttachment
	for name, test := range map[string]struct {
		volume      *corev1.PersistentVolume
		pods        []*corev1.Pod
		attachments list
		nodes       []*corev1.Node
		// want lists what is done: "+n" attaches, "-n" detaches, "n!" and "n?" let a node say that
		// the volume is, or is not, attached there.
		want string
		says string
	}{
		"a pod needs it":          {volume: once, pods: []*corev1.Pod{testPod("p", "n1", 1)}, nodes: []*corev1.Node{testNode("n1", "")}, want: "+n1"},
		"nobody does":             {volume: once, nodes: []*corev1.Node{testNode("n1", "")}},
		"a pod of a node gone":    {volume: once, pods: []*corev1.Pod{testPod("p", "n1", 1)}},
		"a finished pod does not": {volume: once, pods: []*corev1.Pod{done}, nodes: []*corev1.Node{testNode("n1", "")}},
		"but where they are kept": {volume: once, pods: []*corev1.Pod{done}, nodes: []*corev1.Node{testNode("n1", "k")}, want: "+n1"},
		"it is being attached":    {volume: once, pods: []*corev1.Pod{testPod("p", "n1", 1)}, attachments: list{testAttachment("n1", "")}, nodes: []*corev1.Node{testNode("n1", "")}},
		"it is attached": {
			volume: once, pods: []*corev1.Pod{testPod("p", "n1", 1)}, attachments: list{testAttachment("n1", "a")}, nodes: []*corev1.Node{testNode("n1", "")},
			want: "n1!", says: `p SuccessfulAttachVolume: AttachVolume.Attach succeeded for volume "pv" `,
		},
		"and said so":          {volume: once, pods: []*corev1.Pod{testPod("p", "n1", 1)}, attachments: list{testAttachment("n1", "a")}, nodes: []*corev1.Node{testNode("n1", "a")}},
		"a node says too much": {volume: once, pods: []*corev1.Pod{testPod("p", "n1", 1)}, attachments: list{testAttachment("n1", "")}, nodes: []*corev1.Node{testNode("n1", "a")}, want: "n1?"},
		"attaching fails": {
			volume: once, pods: []*corev1.Pod{testPod("p", "n1", 1)}, attachments: list{testAttachment("n1", "e")}, nodes: []*corev1.Node{testNode("n1", "")},
			says: `p FailedAttachVolume: AttachVolume.Attach failed for volume "pv" : no room`,
		},
		"the pod is gone":             {volume: once, attachments: list{testAttachment("n1", "a")}, nodes: []*corev1.Node{testNode("n1", "a")}, want: "n1? -n1"},
		"but the node has it mounted": {volume: once, attachments: list{testAttachment("n1", "a")}, nodes: []*corev1.Node{testNode("n1", "au")}},
		"but it stops only now":       {volume: once, pods: []*corev1.Pod{stopping}, attachments: list{testAttachment("n1", "a")}, nodes: []*corev1.Node{testNode("n1", "a")}},
		"it has stopped":              {volume: once, pods: []*corev1.Pod{stopped}, attachments: list{testAttachment("n1", "a")}, nodes: []*corev1.Node{testNode("n1", "a")}, want: "n1? -n1"},
		"the node is out of service":  {volume: once, attachments: list{testAttachment("n1", "a")}, nodes: []*corev1.Node{testNode("n1", "auo")}, want: "n1? -n1"},
		"the node is gone":            {volume: once, attachments: list{testAttachment("n1", "a")}, want: "-n1"},
		"it is being detached":        {volume: once, attachments: list{testAttachment("n1", "ad")}, nodes: []*corev1.Node{testNode("n1", "a")}, want: "n1?"},
		"and needed again":            {volume: once, pods: []*corev1.Pod{testPod("p", "n1", 1)}, attachments: list{testAttachment("n1", "ad")}, nodes: []*corev1.Node{testNode("n1", "")}},
		"somebody else's stays":       {volume: once, attachments: list{testAttachment("n1", "af")}, nodes: []*corev1.Node{testNode("n1", "")}},
		"not to a second node": {
			volume: once, pods: []*corev1.Pod{testPod("p", "n1", 2), testPod("q", "n2", 1)}, attachments: list{testAttachment("n1", "a")},
			nodes: []*corev1.Node{testNode("n1", "a"), testNode("n2", "")},
			says:  `q FailedAttachVolume: Multi-Attach error for volume "pv" Volume is already used by pod(s) p`,
		},
		"nor while it is being detached": {
			volume: once, pods: []*corev1.Pod{testPod("q", "n2", 1)}, attachments: list{testAttachment("n1", "ad")}, nodes: []*corev1.Node{testNode("n1", ""), testNode("n2", "")},
			says: `q FailedAttachVolume: Multi-Attach error for volume "pv" Volume is already exclusively attached to one node and can't be attached to another`,
		},
		"nor from a node gone before it is detached": {
			volume: once, pods: []*corev1.Pod{testPod("q", "n2", 1)}, attachments: list{testAttachment("n1", "a")}, nodes: []*corev1.Node{testNode("n2", "")}, want: "-n1",
			says: `q FailedAttachVolume: Multi-Attach error for volume "pv" Volume is already exclusively attached to one node and can't be attached to another`,
		},
		"the older pod gets it": {
			volume: once, pods: []*corev1.Pod{testPod("q", "n2", 1), testPod("p", "n1", 2)}, nodes: []*corev1.Node{testNode("n1", ""), testNode("n2", "")}, want: "+n1",
			says: `q FailedAttachVolume: Multi-Attach error for volume "pv" Volume is already used by pod(s) p`,
		},
		"to all nodes if it may": {volume: many, pods: []*corev1.Pod{testPod("q", "n2", 1), testPod("p", "n1", 2)}, nodes: []*corev1.Node{testNode("n1", ""), testNode("n2", "")}, want: "+n1 +n2"},
	} {
		t.Run(name, func(t *testing.T) {
			p := decide(&state{volume: test.volume, pods: test.pods, attachments: test.attachments, node: func(name string) *corev1.Node {
				for _, n := range test.nodes {
					if n.Name == name {
						return n
					}
				}
				return nil
			}})
			var did, said []string
			for _, n := range p.nodes {
				mark := "?"
				if slices.ContainsFunc(n.Status.VolumesAttached, func(a corev1.AttachedVolume) bool { return a.Name == volume.AttachName(test.volume.Spec.CSI) }) {
					mark = "!"
				}
				did = append(did, n.Name+mark)
			}
			for _, a := range p.detach {
				did = append(did, "-"+a.Spec.NodeName)
			}
			for _, a := range p.attach {
				did = append(did, "+"+a.Spec.NodeName)
			}
			for _, e := range p.events {
				said = append(said, fmt.Sprintf("%s %s: %s", e.about.Name, e.reason, e.message))
			}
			if got := strings.Join(did, " "); got != test.want {
				t.Errorf("does %q, not %q", got, test.want)
			}
			if got := strings.Join(said, "\n"); got != test.says {
				t.Errorf("says %q, not %q", got, test.says)
			}
		})
	}
}
