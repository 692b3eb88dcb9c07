package attachdetach

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"kijabi.dev/platform/kube/volume"
)

// TestOneNodeAtATime plays users, kubelets and an attacher against the loop, which may end
// after any of its writes: an exclusive volume is never to be attached to two nodes, and
// never taken from a node that has it mounted and is not vouched to be off.
func TestOneNodeAtATime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := testVolume(corev1.ReadWriteOnce)
		unique := volume.AttachName(v.Spec.CSI)
		nodes := map[string]*corev1.Node{"n1": testNode("n1", ""), "n2": testNode("n2", ""), "n3": testNode("n3", "")}
		pods, attachments := map[string]*corev1.Pod{}, map[string]*storagev1.VolumeAttachment{}
		nodeName, made := rapid.SampledFrom([]string{"n1", "n2", "n3"}), 0
		// detach begins an attachment's end; its attacher finishes it.
		detach := func(t *rapid.T, a *storagev1.VolumeAttachment) {
			if n := nodes[a.Spec.NodeName]; n != nil && inUse(n, unique) && !outOfService(n) {
				t.Fatalf("taken from %s, which has it mounted", n.Name)
			}
			a = a.DeepCopy()
			a.DeletionTimestamp = &metav1.Time{}
			attachments[a.Name] = a
		}
		loop := func(t *rapid.T, writes int) (done bool) {
			s := &state{volume: v, node: func(name string) *corev1.Node { return nodes[name] }}
			for _, p := range pods {
				s.pods = append(s.pods, p)
			}
			for _, a := range attachments {
				s.attachments = append(s.attachments, a)
			}
			p := decide(s)
			for _, n := range p.nodes {
				if writes--; writes < 0 {
					return false
				}
				nodes[n.Name] = n
			}
			for _, a := range p.detach {
				if writes--; writes < 0 {
					return false
				}
				detach(t, a)
			}
			for _, a := range p.attach {
				if writes--; writes < 0 {
					return false
				}
				attachments[a.Name] = a
			}
			return len(p.nodes)+len(p.detach)+len(p.attach) == 0
		}
		attacher := func() {
			for name, a := range attachments {
				a = a.DeepCopy()
				if a.Status.Attached = true; a.DeletionTimestamp != nil {
					delete(attachments, name)
				} else {
					attachments[name] = a
				}
			}
		}
		// kubelet mounts what its node says is attached and a pod of it needs, and unmounts the rest.
		kubelet := func(name string) {
			n := nodes[name]
			if n == nil {
				return
			}
			n = n.DeepCopy()
			attached := slices.ContainsFunc(n.Status.VolumesAttached, func(a corev1.AttachedVolume) bool { return a.Name == unique })
			needed := false
			for _, p := range pods {
				needed = needed || p.Spec.NodeName == name && !terminated(p)
			}
			switch {
			case needed && attached:
				n.Status.VolumesInUse = []corev1.UniqueVolumeName{unique}
			case !needed:
				n.Status.VolumesInUse = nil
			}
			nodes[name] = n
		}
		settle := func(t *rapid.T, rounds int) {
			for range rounds {
				loop(t, 10)
				attacher()
				for name := range nodes {
					kubelet(name)
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"pod": func(t *rapid.T) {
				made++
				name := fmt.Sprint("p", made)
				pods[name] = testPod(name, nodeName.Draw(t, "node"), -made)
			},
			"pod goes": func(t *rapid.T) {
				for name := range pods {
					delete(pods, name)
					return
				}
				t.Skip()
			},
			"loop":     func(t *rapid.T) { loop(t, rapid.IntRange(0, 4).Draw(t, "writes")) },
			"attacher": func(*rapid.T) { attacher() },
			"settle":   func(t *rapid.T) { settle(t, 3) },
			"kubelet":  func(t *rapid.T) { kubelet(nodeName.Draw(t, "node")) },
			"node goes off": func(t *rapid.T) {
				name := nodeName.Draw(t, "node")
				n := nodes[name].DeepCopy()
				n.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeOutOfService}}
				n.Status.VolumesInUse = nil // it is off: nothing is mounted, whatever its status said
				nodes[name] = n
			},
			"": func(t *rapid.T) {
				if len(attachments) > 1 {
					t.Fatalf("%d attachments", len(attachments))
				}
			},
		})
		settle(t, 20)
		if !loop(t, 10) {
			t.Fatal("it never settles")
		}
		if len(pods) > 0 && len(attachments) != 1 || len(pods) == 0 && len(attachments) != 0 {
			t.Fatalf("%d pods, %d attachments", len(pods), len(attachments))
		}
	})
}
