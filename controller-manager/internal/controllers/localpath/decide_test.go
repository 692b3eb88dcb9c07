package localpath

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/platform/kube/volume"
)

func testClaim() *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "data", UID: "u1", Annotations: map[string]string{
			volume.AnnSelectedNode: "node-1", volume.AnnStorageProvisioner: volume.LocalPath,
		}},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: new("local-path"),
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("5Gi")}},
		},
	}
}

func testClass() *storagev1.StorageClass {
	return &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: "local-path"}, Provisioner: volume.LocalPath,
		VolumeBindingMode: new(storagev1.VolumeBindingWaitForFirstConsumer), ReclaimPolicy: new(corev1.PersistentVolumeReclaimRetain),
	}
}

func TestDecide(t *testing.T) {
	type input struct {
		claim *corev1.PersistentVolumeClaim
		class *storagev1.StorageClass
		node  *corev1.Node
		made  bool
	}
	for name, test := range map[string]struct {
		change  func(*input)
		creates bool
		lets    bool // another node be selected
		says    string
	}{
		"made":                     {creates: true},
		"made already":             {change: func(in *input) { in.made = true }},
		"no node is selected":      {change: func(in *input) { delete(in.claim.Annotations, volume.AnnSelectedNode) }},
		"the binder has not asked": {change: func(in *input) { delete(in.claim.Annotations, volume.AnnStorageProvisioner) }},
		"bound":                    {change: func(in *input) { in.claim.Spec.VolumeName = "v" }},
		"leaving":                  {change: func(in *input) { in.claim.DeletionTimestamp = &metav1.Time{} }},
		"class of another":         {change: func(in *input) { in.class.Provisioner = "x" }},
		"no class":                 {change: func(in *input) { in.class = nil }},
		"the node is gone":         {change: func(in *input) { in.node = nil }, lets: true, says: `node "node-1" not found`},
		"block": {
			change: func(in *input) { in.claim.Spec.VolumeMode = new(corev1.PersistentVolumeBlock) }, says: "volumeMode Block is not supported",
		},
		"of several nodes": {
			change: func(in *input) { in.claim.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany} }, says: "only access modes",
		},
		"copied":    {change: func(in *input) { in.claim.Spec.DataSource = &corev1.TypedLocalObjectReference{} }, says: "data sources"},
		"immediate": {change: func(in *input) { in.class.VolumeBindingMode = new(storagev1.VolumeBindingImmediate) }, says: "WaitForFirstConsumer"},
	} {
		t.Run(name, func(t *testing.T) {
			in := &input{
				claim: testClaim(), class: testClass(),
				node: &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1", Labels: map[string]string{corev1.LabelHostname: "host-1"}}},
			}
			if test.change != nil {
				test.change(in)
			}
			p := decide(in.claim, in.class, in.node, in.made)
			if (p.create != nil) != test.creates || (p.update != nil) != test.lets {
				t.Errorf("creates %v, lets %v", p.create, p.update)
			}
			if (p.failure == "") != (test.says == "") || !strings.Contains(p.failure, test.says) {
				t.Errorf("says %q, not %q", p.failure, test.says)
			}
			if p.update != nil && p.update.Annotations[volume.AnnSelectedNode] != "" {
				t.Error("the node stays selected")
			}
		})
	}
}

func TestVolume(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1", Labels: map[string]string{corev1.LabelHostname: "host-1"}}}
	v := decide(testClaim(), testClass(), node, false).create
	term := v.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0]
	size := v.Spec.Capacity[corev1.ResourceStorage]
	if v.Name != "pvc-u1" || v.Spec.Local.Path != "/var/lib/kijabi/volumes/pvc-u1" || v.Spec.ClaimRef.UID != "u1" ||
		term.Key != "kubernetes.io/hostname" || term.Values[0] != "host-1" || size.String() != "5Gi" || v.Spec.StorageClassName != "local-path" ||
		v.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimRetain || v.Annotations["pv.kubernetes.io/provisioned-by"] != "kijabi.dev/local-path" {
		t.Errorf("volume %+v", v)
	}
}

func TestObsolete(t *testing.T) {
	v := func(phase corev1.PersistentVolumePhase, policy corev1.PersistentVolumeReclaimPolicy) *corev1.PersistentVolume {
		class := testClass()
		class.ReclaimPolicy = &policy
		out := volume.NewLocalPath(testClaim(), class, "host-1")
		out.Status.Phase = phase
		return out
	}
	foreign := v(corev1.VolumeReleased, corev1.PersistentVolumeReclaimDelete)
	foreign.Annotations[volume.AnnProvisionedBy] = "x"
	for name, test := range map[string]struct {
		volume *corev1.PersistentVolume
		want   bool
	}{
		"released":  {v(corev1.VolumeReleased, corev1.PersistentVolumeReclaimDelete), true},
		"kept":      {v(corev1.VolumeReleased, corev1.PersistentVolumeReclaimRetain), false},
		"bound":     {v(corev1.VolumeBound, corev1.PersistentVolumeReclaimDelete), false},
		"another's": {foreign, false},
	} {
		if got := obsolete(test.volume); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
