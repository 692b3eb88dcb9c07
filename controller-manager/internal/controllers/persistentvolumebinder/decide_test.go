package persistentvolumebinder

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/platform/kube/volume"
)

func testClaim(change ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "data", UID: "c1"},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: new("fast"),
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("5Gi")}},
		},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending},
	}
	for _, f := range change {
		f(c)
	}
	return c
}

func testVolume(name, size string, change ...func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:    corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)},
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: "fast",
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable},
	}
	for _, f := range change {
		f(v)
	}
	return v
}

func refersTo(name, uid string) func(*corev1.PersistentVolume) {
	return func(v *corev1.PersistentVolume) {
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "ns", Name: name, UID: types.UID(uid)}
	}
}

func annotatedClaim(pairs ...string) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) {
		for i := 0; i < len(pairs); i += 2 {
			metav1.SetMetaDataAnnotation(&c.ObjectMeta, pairs[i], pairs[i+1])
		}
	}
}

func annotatedVolume(pairs ...string) func(*corev1.PersistentVolume) {
	return func(v *corev1.PersistentVolume) {
		for i := 0; i < len(pairs); i += 2 {
			metav1.SetMetaDataAnnotation(&v.ObjectMeta, pairs[i], pairs[i+1])
		}
	}
}

func named(v string) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = v }
}

func class(name, provisioner string, mode storagev1.VolumeBindingMode) *storagev1.StorageClass {
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, VolumeBindingMode: &mode}
}

// said joins a step's events.
func said(s step) string {
	var out []string
	for _, e := range s.events {
		out = append(out, e.reason+": "+e.message)
	}
	return strings.Join(out, "\n")
}

func TestClaims(t *testing.T) {
	waits := class("fast", "kijabi.dev/local-path", storagev1.VolumeBindingWaitForFirstConsumer)
	outside := class("fast", "ebs.example.com", storagev1.VolumeBindingImmediate)
	classless := func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = nil }
	completed := annotatedClaim(volume.AnnBindCompleted, "yes")
	bound := func(c *corev1.PersistentVolumeClaim) {
		named("v")(c)
		completed(c)
		c.Status.Phase = corev1.ClaimBound
	}
	for name, test := range map[string]struct {
		claim *corev1.PersistentVolumeClaim
		with  surroundings
		// volume is the one that is written first, phase the claim's next if that is.
		volume, phase string
		says          string
		check         func(step) bool
	}{
		"takes the smallest that is large enough": {
			claim: testClaim(), volume: "b",
			with: surroundings{volumes: []*corev1.PersistentVolume{testVolume("a", "50Gi"), testVolume("b", "6Gi"), testVolume("c", "4Gi")}},
		},
		"one of another class is none": {
			claim: testClaim(), says: `ProvisioningFailed: storageclass.storage.k8s.io "fast" not found`,
			with: surroundings{volumes: []*corev1.PersistentVolume{testVolume("a", "5Gi", func(v *corev1.PersistentVolume) { v.Spec.StorageClassName = "slow" })}},
		},
		"nor one that is not available": {
			claim: testClaim(), says: `ProvisioningFailed: storageclass.storage.k8s.io "fast" not found`,
			with: surroundings{volumes: []*corev1.PersistentVolume{testVolume("a", "5Gi", func(v *corev1.PersistentVolume) { v.Status.Phase = corev1.VolumePending })}},
		},
		"a reserved one goes before a better one": {
			claim: testClaim(), volume: "mine",
			with: surroundings{volumes: []*corev1.PersistentVolume{testVolume("b", "5Gi"), testVolume("mine", "90Gi", refersTo("data", ""))}},
		},
		"one of another claim is none": {
			claim: testClaim(), says: `ProvisioningFailed: storageclass.storage.k8s.io "fast" not found`,
			with: surroundings{volumes: []*corev1.PersistentVolume{testVolume("b", "5Gi", refersTo("data", "c0")), testVolume("c", "5Gi", refersTo("other", ""))}},
		},
		"a claim that waits takes none by itself": {
			claim: testClaim(), says: "WaitForFirstConsumer: waiting for first consumer to be created before binding",
			with: surroundings{class: waits, volumes: []*corev1.PersistentVolume{testVolume("b", "5Gi")}},
		},
		"but what the scheduler reserved": {
			claim: testClaim(), volume: "b",
			with: surroundings{class: waits, volumes: []*corev1.PersistentVolume{testVolume("b", "5Gi", refersTo("data", "c1"))}},
		},
		"it names the pods that wait": {
			claim: testClaim(), says: "WaitForPodScheduled: waiting for pods a,b to be scheduled",
			with: surroundings{class: waits, waiting: []string{"b", "a"}},
		},
		"and one pod": {
			claim: testClaim(), says: "WaitForPodScheduled: waiting for pod a to be scheduled",
			with: surroundings{class: waits, waiting: []string{"a"}},
		},
		"once a node is selected its provisioner is asked": {
			claim: testClaim(annotatedClaim(volume.AnnSelectedNode, "n1")), with: surroundings{class: waits},
			check: func(s step) bool {
				return s.write.GetAnnotations()[volume.AnnStorageProvisioner] == "kijabi.dev/local-path" && s.write.GetAnnotations()[volume.AnnBetaStorageProvisioner] == "kijabi.dev/local-path"
			},
		},
		"a provisioner outside is waited for": {
			claim: testClaim(annotatedClaim(volume.AnnStorageProvisioner, "ebs.example.com", volume.AnnBetaStorageProvisioner, "ebs.example.com")), with: surroundings{class: outside},
			says: "ExternalProvisioning: Waiting for a volume to be created either by the external provisioner 'ebs.example.com' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered.",
		},
		"nobody provisions": {
			claim: testClaim(), with: surroundings{class: class("fast", "kubernetes.io/no-provisioner", storagev1.VolumeBindingImmediate)},
			says: "ProvisioningFailed: no volume plugin matched name: kubernetes.io/no-provisioner",
		},
		"without a class": {
			claim: testClaim(classless), says: "FailedBinding: no persistent volumes available for this claim and no storage class is set",
		},
		"the default class comes later": {
			claim: testClaim(classless), with: surroundings{fallback: outside},
			check: func(s step) bool { return *s.write.(*corev1.PersistentVolumeClaim).Spec.StorageClassName == "fast" },
		},
		"which the empty class refuses": {
			claim: testClaim(func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = new("") }), with: surroundings{fallback: outside},
			says: "FailedBinding: no persistent volumes available for this claim and no storage class is set",
		},
		"the volume it names": {
			claim: testClaim(named("v")), with: surroundings{volumes: []*corev1.PersistentVolume{testVolume("v", "5Gi")}}, volume: "v",
		},
		"is too small": {
			claim: testClaim(named("v")), with: surroundings{volumes: []*corev1.PersistentVolume{testVolume("v", "1Gi")}},
			says: `VolumeMismatch: Cannot bind to requested volume "v": requested PV is too small`,
		},
		"belongs to another": {
			claim: testClaim(named("v")), with: surroundings{volumes: []*corev1.PersistentVolume{testVolume("v", "5Gi", refersTo("other", "c2"))}},
			says: `FailedBinding: volume "v" already bound to a different claim.`,
		},
		"is not there yet":                {claim: testClaim(named("v"))},
		"nothing for one that is leaving": {claim: testClaim(func(c *corev1.PersistentVolumeClaim) { c.DeletionTimestamp = &metav1.Time{} }), with: surroundings{volumes: []*corev1.PersistentVolume{testVolume("a", "5Gi")}}},
		"a bound claim's volume is gone": {
			claim: testClaim(bound), with: surroundings{gone: true}, phase: "Lost", says: "ClaimLost: Bound claim has lost its PersistentVolume. Data on the volume is lost!",
		},
		"or only not known yet": {claim: testClaim(bound)},
		"a bound claim's name of its volume is gone": {
			claim: testClaim(completed), phase: "Lost", says: "ClaimLost: Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
		},
		"a bound claim's volume is another's": {
			claim: testClaim(bound), with: surroundings{volumes: []*corev1.PersistentVolume{testVolume("v", "5Gi", refersTo("other", "c2"))}},
			phase: "Lost", says: "ClaimMisbound: Two claims are bound to the same volume, this one is bound incorrectly",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := decideClaim(test.claim, &test.with)
			if got := said(s); got != test.says {
				t.Errorf("says %q\n  not %q", got, test.says)
			}
			v, _ := s.write.(*corev1.PersistentVolume)
			if (v != nil) != (test.volume != "") || v != nil && (v.Name != test.volume || v.Spec.ClaimRef.UID != "c1" && !s.status) {
				t.Errorf("writes volume %v, not %q", v, test.volume)
			}
			c, _ := s.write.(*corev1.PersistentVolumeClaim)
			if test.phase != "" && (c == nil || !s.status || string(c.Status.Phase) != test.phase) {
				t.Errorf("writes claim %v, not phase %q", c, test.phase)
			}
			if test.check != nil && (s.write == nil || !test.check(s)) {
				t.Errorf("writes %v", s.write)
			}
			if test.check == nil && test.phase == "" && c != nil {
				t.Errorf("writes claim %v", c)
			}
		})
	}
}

func TestVolumes(t *testing.T) {
	owner := testClaim()
	elsewhere := testClaim(named("w"))
	mine := refersTo("data", "c1")
	policy := func(p corev1.PersistentVolumeReclaimPolicy, phase corev1.PersistentVolumePhase) func(*corev1.PersistentVolume) {
		return func(v *corev1.PersistentVolume) {
			v.Spec.PersistentVolumeReclaimPolicy, v.Status.Phase = p, phase
		}
	}
	for name, test := range map[string]struct {
		volume *corev1.PersistentVolume
		claim  *corev1.PersistentVolumeClaim
		phase  corev1.PersistentVolumePhase // that is written, or none
		free   bool                         // the reference is taken off
		says   string
	}{
		"free":                       {volume: testVolume("v", "5Gi", policy("Retain", "Pending")), phase: "Available"},
		"free and said so":           {volume: testVolume("v", "5Gi")},
		"reserved by a person":       {volume: testVolume("v", "5Gi", refersTo("data", ""), policy("Retain", "Pending")), claim: owner, phase: "Available"},
		"bound":                      {volume: testVolume("v", "5Gi", mine), claim: testClaim(named("v")), phase: "Bound"},
		"half bound":                 {volume: testVolume("v", "5Gi", mine), claim: owner},
		"claim is gone":              {volume: testVolume("v", "5Gi", mine, policy("Delete", "Bound")), phase: "Released"},
		"kept":                       {volume: testVolume("v", "5Gi", mine, policy("Retain", "Released"))},
		"its provisioner deletes it": {volume: testVolume("v", "5Gi", mine, policy("Delete", "Released"), annotatedVolume(volume.AnnProvisionedBy, "x"))},
		"nobody can delete it": {
			volume: testVolume("v", "5Gi", mine, policy("Delete", "Released")), phase: "Failed",
			says: `VolumeFailedDelete: error getting deleter volume plugin for volume "v": no deletable volume plugin matched`,
		},
		"nobody recycles":      {volume: testVolume("v", "5Gi", mine, policy("Recycle", "Released")), phase: "Failed", says: "VolumeFailedRecycle: No recycler plugin found for the volume!"},
		"nobody says so twice": {volume: testVolume("v", "5Gi", mine, policy("Recycle", "Failed"))},
		"chosen in vain":       {volume: testVolume("v", "5Gi", mine, annotatedVolume(volume.AnnBoundByController, "yes")), claim: elsewhere, free: true},
		"made in vain":         {volume: testVolume("v", "5Gi", mine, policy("Delete", "Bound"), annotatedVolume(volume.AnnProvisionedBy, "x")), claim: elsewhere, phase: "Released"},
		"of another mode": {
			volume: testVolume("v", "5Gi", mine, func(v *corev1.PersistentVolume) { v.Spec.VolumeMode = new(corev1.PersistentVolumeBlock) }), claim: owner,
			says: `VolumeMismatch: Cannot bind PersistentVolume to requested PersistentVolumeClaim "data" due to incompatible volumeMode.` + "\n" +
				`VolumeMismatch: Cannot bind PersistentVolume "v" to requested PersistentVolumeClaim due to incompatible volumeMode.`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := decideVolume(test.volume, test.claim)
			if got := said(s); got != test.says {
				t.Errorf("says %q, not %q", got, test.says)
			}
			v, _ := s.write.(*corev1.PersistentVolume)
			switch {
			case test.phase == "" && !test.free:
				if v != nil {
					t.Errorf("writes %v", v)
				}
			case v == nil:
				t.Error("writes nothing")
			case test.free && (v.Spec.ClaimRef != nil || len(v.Annotations) > 0 || s.status):
				t.Errorf("writes reference %v and annotations %v", v.Spec.ClaimRef, v.Annotations)
			case test.phase != "" && (v.Status.Phase != test.phase || !s.status):
				t.Errorf("writes phase %s, not %s", v.Status.Phase, test.phase)
			}
		})
	}
	t.Run("a person's reservation outlives the claim's choice", func(t *testing.T) {
		s := decideVolume(testVolume("v", "5Gi", mine), elsewhere)
		if ref := s.write.(*corev1.PersistentVolume).Spec.ClaimRef; ref == nil || ref.Name != "data" || ref.UID != "" {
			t.Errorf("reference %v", ref)
		}
	})
}

func uid(n int) types.UID { return types.UID(fmt.Sprint("uid-", n)) }
