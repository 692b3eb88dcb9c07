package volumeexpansion

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/platform/kube/volume"
)

func sizes(s string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(s)}
}

func testClaim(wanted, has string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "data", UID: "u1"},
		Spec:       corev1.PersistentVolumeClaimSpec{VolumeName: "v", Resources: corev1.VolumeResourceRequirements{Requests: sizes(wanted)}},
		Status: corev1.PersistentVolumeClaimStatus{
			Phase: corev1.ClaimBound, Capacity: sizes(has),
			Conditions: []corev1.PersistentVolumeClaimCondition{{Type: corev1.PersistentVolumeClaimResizing, Status: corev1.ConditionTrue}},
		},
	}
}

func testVolume(size string, source corev1.PersistentVolumeSource) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "v", Annotations: map[string]string{volume.AnnProvisionedBy: volume.LocalPath}},
		Spec:       corev1.PersistentVolumeSpec{Capacity: sizes(size), PersistentVolumeSource: source, ClaimRef: &corev1.ObjectReference{Namespace: "ns", Name: "data", UID: "u1"}},
	}
}

func TestDecide(t *testing.T) {
	local := corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{}}
	driver := corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "ebs.example.com"}}
	stranger := testVolume("1Gi", local)
	stranger.Spec.ClaimRef.UID = "u2"
	told := testClaim("2Gi", "1Gi")
	told.Annotations = map[string]string{volume.AnnStorageResizer: "ebs.example.com"}
	pending := testClaim("2Gi", "1Gi")
	pending.Status.Phase = corev1.ClaimPending
	for name, test := range map[string]struct {
		claim                *corev1.PersistentVolumeClaim
		volume               *corev1.PersistentVolume
		grows, reports, asks bool
		says                 string
	}{
		"nothing asked for":        {claim: testClaim("1Gi", "1Gi"), volume: testVolume("1Gi", local)},
		"fewer than it has":        {claim: testClaim("1Gi", "2Gi"), volume: testVolume("2Gi", local)},
		"the volume first":         {claim: testClaim("2Gi", "1Gi"), volume: testVolume("1Gi", local), grows: true},
		"then the claim":           {claim: testClaim("2Gi", "1Gi"), volume: testVolume("2Gi", local), reports: true, says: "VolumeResizeSuccessful"},
		"not another's volume":     {claim: testClaim("2Gi", "1Gi"), volume: stranger},
		"not before it is bound":   {claim: pending, volume: testVolume("1Gi", local)},
		"a driver's resizer":       {claim: testClaim("2Gi", "1Gi"), volume: testVolume("1Gi", driver), asks: true, says: "ExternalExpanding"},
		"which was told":           {claim: told, volume: testVolume("1Gi", driver), says: "ExternalExpanding"},
		"somebody makes it larger": {claim: testClaim("2Gi", "1Gi"), volume: testVolume("1Gi", corev1.PersistentVolumeSource{NFS: &corev1.NFSVolumeSource{}}), says: "ExternalExpanding"},
	} {
		t.Run(name, func(t *testing.T) {
			p := decide(test.claim, test.volume)
			if (p.volume != nil) != test.grows || (p.status != nil) != test.reports || (p.claim != nil) != test.asks || p.reason != test.says {
				t.Fatalf("plan %+v", p)
			}
			if p.volume != nil {
				if size := p.volume.Spec.Capacity[corev1.ResourceStorage]; size.String() != "2Gi" {
					t.Errorf("volume of %s", size.String())
				}
			}
			if p.status != nil {
				if size := p.status.Status.Capacity[corev1.ResourceStorage]; size.String() != "2Gi" || len(p.status.Status.Conditions) > 0 {
					t.Errorf("status %+v", p.status.Status)
				}
			}
			if p.claim != nil && p.claim.Annotations[volume.AnnStorageResizer] != "ebs.example.com" {
				t.Errorf("annotations %v", p.claim.Annotations)
			}
		})
	}
}
