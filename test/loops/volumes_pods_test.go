package loops

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/test/harness"
)

func testRefused(t *harness.T, s *stack) {
	ns := namespace(t, s, "refused")
	block := claimOf(ns, "block", "1Gi")
	block.Spec.VolumeMode = new(corev1.PersistentVolumeBlock)
	block = create(t, s, block)
	create(t, s, podWith(ns, "block", "block"))
	eventsTold(t, s, block, "ProvisioningFailed", "volumeMode Block is not supported")
	// A node that is gone is selected no longer, whoever selected it.
	lost := claimOf(ns, "lost", "1Gi")
	lost.Annotations = map[string]string{"volume.kubernetes.io/selected-node": "gone"}
	lost = create(t, s, lost)
	create(t, s, podWith(ns, "lost", "lost"))
	eventsTold(t, s, lost, "ProvisioningFailed", `node "gone" not found`)
	harness.Eventually(t, patience, "another node is selected", bound(s, ns, "lost", ""))

	missing := create(t, s, podWith(ns, "missing", "nothing"))
	harness.Eventually(t, patience, "a pod of a claim that is not there waits", unschedulable(t, s, missing, `0/2 nodes are available: persistentvolumeclaim "nothing" not found.`))
	create(t, s, claimOf(ns, "nothing", "1Gi"))
	harness.Eventually(t, patience, "until it is there", bound(s, ns, "missing", ""))

	create(t, s, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "outside"}, Provisioner: "outside.example.com"})
	outside := claimOf(ns, "outside", "1Gi")
	outside.Spec.StorageClassName = new("outside")
	outside = create(t, s, outside)
	eventsTold(t, s, outside, "ExternalProvisioning", "Waiting for a volume to be created either by the external provisioner 'outside.example.com'")
	waits := create(t, s, podWith(ns, "waits", "outside"))
	harness.Eventually(t, patience, "a pod waits for the provisioner", unschedulable(t, s, waits, "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims."))
	if claim, err := get[*corev1.PersistentVolumeClaim](s, ns, "outside"); err != nil || claim.Annotations["volume.kubernetes.io/storage-provisioner"] != "outside.example.com" {
		t.Errorf("claim %v, %v", claim, err)
	}
	// What a provisioner outside does.
	v := volumeOf("outside-1", "1Gi", "outside")
	v.Annotations = map[string]string{"pv.kubernetes.io/provisioned-by": "outside.example.com"}
	v.Spec.ClaimRef = &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: ns, Name: "outside", UID: outside.UID}
	create(t, s, v)
	claimPhase(t, s, ns, "outside", corev1.ClaimBound)
	harness.Eventually(t, patience, "the pod is bound", bound(s, ns, "waits", ""))

	once := claimOf(ns, "once", "1Gi")
	once.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
	create(t, s, once)
	create(t, s, podWith(ns, "only", "once"))
	harness.Eventually(t, patience, "one pod has it", bound(s, ns, "only", ""))
	other := create(t, s, podWith(ns, "other", "once"))
	harness.Eventually(t, patience, "no other gets it", unschedulable(t, s, other,
		"0/2 nodes are available: 2 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode."))
	endPods(t, s, ns, "only")
	harness.Eventually(t, patience, "until the first is gone", bound(s, ns, "other", ""))
}

func testEphemeral(t *harness.T, s *stack) {
	ns := namespace(t, s, "ephemeral")
	with := func(name string) *corev1.Pod {
		p := pod(ns, name, "10m")
		p.Spec.Volumes = []corev1.Volume{{Name: "scratch", VolumeSource: corev1.VolumeSource{
			Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{Spec: claimOf(ns, "", "1Gi").Spec}},
		}}}
		return p
	}
	worker := create(t, s, with("worker"))
	harness.Eventually(t, patience, "the pod is bound", bound(s, ns, "worker", ""))
	claim := claimPhase(t, s, ns, "worker-scratch", corev1.ClaimBound)
	if owner := metav1.GetControllerOf(claim); owner == nil || owner.UID != worker.UID {
		t.Errorf("owner %v", owner)
	}
	endPods(t, s, ns, "worker")
	harness.Eventually(t, patience, "the claim goes with the pod", gone[*corev1.PersistentVolumeClaim](s, ns, "worker-scratch"))
	harness.Eventually(t, patience, "and the volume", gone[*corev1.PersistentVolume](s, "", claim.Spec.VolumeName))

	foreign := create(t, s, claimOf(ns, "blocked-scratch", "1Gi"))
	blocked := create(t, s, with("blocked"))
	eventsTold(t, s, blocked, "FailedBinding", "ephemeral volume scratch: PVC ephemeral/blocked-scratch was not created for pod ephemeral/blocked (pod is not owner)")
	s.remove(t, foreign, client.DeleteOptions{})
	harness.Eventually(t, 2*patience, "the pod is bound once the name is free", bound(s, ns, "blocked", ""))
}

// testMany makes many claims and pods at once while both programs are killed.
func testMany(t *harness.T, s *stack) {
	ns := namespace(t, s, "many")
	const n = 30
	for i := range n {
		create(t, s, claimOf(ns, fmt.Sprint("data-", i), "1Gi"))
		create(t, s, podWith(ns, fmt.Sprint("db-", i), fmt.Sprint("data-", i)))
		if i%10 == 5 {
			s.restart(t, "controller-manager")
			s.restart(t, "scheduler")
		}
	}
	for i := range n {
		harness.Eventually(t, 2*patience, "every pod is bound", bound(s, ns, fmt.Sprint("db-", i), ""))
	}
	users := map[string]string{}
	for _, claim := range list[*corev1.PersistentVolumeClaim](t, s, ns) {
		v, err := get[*corev1.PersistentVolume](s, "", claim.Spec.VolumeName)
		if err != nil {
			t.Fatal(err)
		}
		if other, taken := users[v.Name]; taken || v.Spec.ClaimRef.UID != claim.UID {
			t.Errorf("claims %s and %s, volume %s refers to %s", claim.Name, other, v.Name, v.Spec.ClaimRef.Name)
		}
		users[v.Name] = claim.Name
		p, err := get[*corev1.Pod](s, ns, strings.Replace(claim.Name, "data-", "db-", 1))
		if err != nil {
			t.Fatal(err)
		}
		if where := v.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0].Values[0]; where != p.Spec.NodeName {
			t.Errorf("pod %s is on %s, its volume on %s", p.Name, p.Spec.NodeName, where)
		}
	}
	for _, v := range list[*corev1.PersistentVolume](t, s, "") {
		if v.Spec.ClaimRef != nil && v.Spec.ClaimRef.Namespace == ns && users[v.Name] == "" {
			t.Errorf("volume %s is nobody's", v.Name)
		}
	}
	// A namespace takes all of it along.
	s.remove(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, client.DeleteOptions{})
	harness.Eventually(t, 2*patience, "the namespace goes", gone[*corev1.Namespace](s, "", ns))
	harness.Eventually(t, patience, "and its volumes", func() error {
		for _, v := range list[*corev1.PersistentVolume](t, s, "") {
			if users[v.Name] != "" {
				return fmt.Errorf("volume %s is %s", v.Name, v.Status.Phase)
			}
		}
		return nil
	})
}

// testAttached plays a driver's attacher.
func testAttached(t *harness.T, s *stack) {
	ns := namespace(t, s, "attached")
	v := volumeOf("csi-1", "1Gi", "by-driver")
	v.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "disk.example.com", VolumeHandle: "handle-1"}}
	create(t, s, v)
	claim := claimOf(ns, "data", "1Gi")
	claim.Spec.StorageClassName, claim.Spec.VolumeName = new("by-driver"), "csi-1"
	create(t, s, claim)
	claimPhase(t, s, ns, "data", corev1.ClaimBound)
	on := func(name, node string) *corev1.Pod {
		p := podWith(ns, name, "data")
		p.Spec.NodeSelector = map[string]string{"kubernetes.io/hostname": node}
		return create(t, s, p)
	}
	attachments := func(node string) []*storagev1.VolumeAttachment {
		return slices.DeleteFunc(list[*storagev1.VolumeAttachment](t, s, ""), func(a *storagev1.VolumeAttachment) bool {
			return *a.Spec.Source.PersistentVolumeName != "csi-1" || node != "" && a.Spec.NodeName != node
		})
	}
	on("first", "va")
	harness.Eventually(t, patience, "the volume is to be attached", func() error {
		if len(attachments("va")) != 1 {
			return errors.New("it is not")
		}
		return nil
	})
	change(t, s, "", attachments("va")[0].Name, "status", func(a *storagev1.VolumeAttachment) { a.Status.Attached = true })
	harness.Eventually(t, patience, "the node says so", func() error {
		node, err := get[*corev1.Node](s, "", "va")
		if err == nil && (len(node.Status.VolumesAttached) != 1 || node.Status.VolumesAttached[0].Name != "kubernetes.io/csi/disk.example.com^handle-1") {
			err = fmt.Errorf("%v", node.Status.VolumesAttached)
		}
		return err
	})
	second := on("second", "vb")
	harness.Eventually(t, patience, "the second pod is bound", bound(s, ns, "second", "vb"))
	eventsTold(t, s, second, "FailedAttachVolume", `Multi-Attach error for volume "csi-1" Volume is already used by pod(s) first`)
	change(t, s, "", "va", "status", func(n *corev1.Node) {
		n.Status.VolumesInUse = []corev1.UniqueVolumeName{"kubernetes.io/csi/disk.example.com^handle-1"}
	})
	endPods(t, s, ns, "first")
	eventsTold(t, s, second, "FailedAttachVolume", `Multi-Attach error for volume "csi-1" Volume is already exclusively attached to one node and can't be attached to another`)
	if len(attachments("va")) != 1 || len(attachments("")) != 1 {
		t.Errorf("attachments while it is mounted: %v", attachments(""))
	}
	change(t, s, "", "va", "status", func(n *corev1.Node) { n.Status.VolumesInUse = nil })
	harness.Eventually(t, patience, "it moves once it is unmounted", func() error {
		if len(attachments("va")) != 0 || len(attachments("vb")) != 1 {
			return fmt.Errorf("attachments %v", attachments(""))
		}
		return nil
	})
}
