package volume_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/platform/kube/volume"
)

type modes = []corev1.PersistentVolumeAccessMode

func claim(change func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c", UID: "u"},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: modes{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")}},
		},
	}
	if change != nil {
		change(c)
	}
	return c
}

func disk(name, size string, change func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes: modes{corev1.ReadWriteOnce}, Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)},
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable},
	}
	if change != nil {
		change(v)
	}
	return v
}

func TestBest(t *testing.T) {
	block := corev1.PersistentVolumeBlock
	reserved := func(v *corev1.PersistentVolume) {
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "ns", Name: "c"}
	}
	type disks = []*corev1.PersistentVolume
	for name, test := range map[string]struct {
		claim        *corev1.PersistentVolumeClaim
		volumes      disks
		reservedOnly bool
		fits         func(*corev1.PersistentVolume) bool
		want         string
	}{
		"the smallest":      {volumes: disks{disk("a", "9Gi", nil), disk("b", "2Gi", nil), disk("c", "1Gi", nil)}, want: "b"},
		"the first by name": {volumes: disks{disk("b", "2Gi", nil), disk("a", "2Gi", nil)}, want: "a"},
		"no more ways to use it than needed": {
			volumes: disks{disk("a", "2Gi", func(v *corev1.PersistentVolume) {
				v.Spec.AccessModes = modes{corev1.ReadWriteMany, corev1.ReadWriteOnce}
			}), disk("b", "9Gi", nil)}, want: "b",
		},
		"but all that are needed": {
			claim:   claim(func(c *corev1.PersistentVolumeClaim) { c.Spec.AccessModes = modes{corev1.ReadWriteMany} }),
			volumes: disks{disk("a", "2Gi", nil)},
		},
		"selected by its labels": {
			claim: claim(func(c *corev1.PersistentVolumeClaim) {
				c.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"tier": "x"}}
			}),
			volumes: disks{disk("a", "2Gi", nil), disk("b", "2Gi", func(v *corev1.PersistentVolume) { v.Labels = map[string]string{"tier": "x"} })}, want: "b",
		},
		"of the same mode": {volumes: disks{disk("a", "2Gi", func(v *corev1.PersistentVolume) { v.Spec.VolumeMode = &block })}},
		"with the same attributes": {
			volumes: disks{disk("a", "2Gi", func(v *corev1.PersistentVolume) { v.Spec.VolumeAttributesClassName = new("gold") })},
		},
		"of the class in the old annotation": {
			claim: claim(func(c *corev1.PersistentVolumeClaim) {
				c.Annotations = map[string]string{corev1.BetaStorageClassAnnotation: "old"}
			}),
			volumes: disks{disk("a", "2Gi", nil), disk("b", "2Gi", func(v *corev1.PersistentVolume) { v.Spec.StorageClassName = "old" })}, want: "b",
		},
		"none that is leaving": {volumes: disks{disk("a", "2Gi", func(v *corev1.PersistentVolume) { v.DeletionTimestamp = &metav1.Time{} })}},
		"only a reserved one":  {volumes: disks{disk("a", "2Gi", nil), disk("b", "9Gi", reserved)}, reservedOnly: true, want: "b"},
		"where it can be reached": {
			volumes: disks{disk("a", "2Gi", nil), disk("b", "9Gi", nil)}, fits: func(v *corev1.PersistentVolume) bool { return v.Name == "b" }, want: "b",
		},
		"the reserved one or none": {
			volumes: disks{disk("a", "2Gi", nil), disk("b", "9Gi", reserved)}, fits: func(v *corev1.PersistentVolume) bool { return v.Name == "a" },
		},
	} {
		if test.claim == nil {
			test.claim = claim(nil)
		}
		got := ""
		if v := volume.Best(test.claim, test.volumes, test.reservedOnly, test.fits); v != nil {
			got = v.Name
		}
		if got != test.want {
			t.Errorf("%s: %q, not %q", name, got, test.want)
		}
	}
}

func TestDefaultClass(t *testing.T) {
	class := func(name string, age int, marked bool) *storagev1.StorageClass {
		c := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(time.Unix(1000-int64(age), 0))}}
		if marked {
			c.Annotations = map[string]string{volume.AnnDefaultClass: "true"}
		}
		return c
	}
	classes := []*storagev1.StorageClass{class("newest", 0, false), class("b", 1, true), class("a", 1, true), class("old", 9, true)}
	if got := volume.DefaultClass(classes); got == nil || got.Name != "a" {
		t.Errorf("default %v", got)
	}
	if got := volume.DefaultClass(classes[:1]); got != nil {
		t.Errorf("default %s", got.Name)
	}
}

func TestReserve(t *testing.T) {
	c := claim(nil)
	free := disk("v", "2Gi", nil)
	got, changed := volume.Reserve(free, c)
	if !changed || got.Spec.ClaimRef.UID != "u" || got.Annotations[volume.AnnBoundByController] != "yes" || free.Spec.ClaimRef != nil || len(free.Annotations) > 0 {
		t.Errorf("reserved %v, and what was given is %v", got, free)
	}
	if _, again := volume.Reserve(got, c); again {
		t.Error("reserved twice")
	}
	// A reservation that a person made stays when the claim is gone: nothing says that a loop made it.
	byHand, _ := volume.Reserve(disk("v", "2Gi", func(v *corev1.PersistentVolume) {
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "ns", Name: "c"}
	}), c)
	if byHand.Spec.ClaimRef.UID != "u" || byHand.Annotations[volume.AnnBoundByController] != "" {
		t.Errorf("reserved %v", byHand)
	}
}
