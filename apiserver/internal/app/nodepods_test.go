package app

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/platform/kube/object"
)

// TestVolumesOfNodes is what a node that is not to be trusted learns of claims and volumes.
func TestVolumesOfNodes(t *testing.T) {
	objects, engine := leadingStore(t)
	createNamespace(t, engine)
	create := func(obj object.Object, kind object.Kind) object.Object {
		t.Helper()
		stored, err := engine.Create(t.Context(), registry.Caller{User: "test"},
			registry.Ref{Resource: kind.GVR, Namespace: obj.GetNamespace()}, obj, registry.WriteOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return stored
	}
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Name: name, Namespace: tokenNamespace}
	}
	one := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	modes := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	uids := map[string]types.UID{}
	for claim, volume := range map[string]string{"data": "data-volume", "scratch-cache": "scratch-volume", "others": "others-volume", "loose": "others-volume", "again": "again-volume"} {
		stored := create(&corev1.PersistentVolumeClaim{ObjectMeta: meta(claim), Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: modes, VolumeName: volume, Resources: corev1.VolumeResourceRequirements{Requests: one},
		}}, object.KindOf[*corev1.PersistentVolumeClaim]())
		uids[claim] = stored.GetUID()
	}
	uids["former"] = "of-a-claim-that-is-gone"
	for name, of := range map[string]struct{ claim, node, provisioner string }{
		"again-volume":   {"former", "node-2", ""}, // of a former claim of the name
		"data-volume":    {"data", "node-2", ""},
		"scratch-volume": {"scratch-cache", "node-1", "kijabi.dev/local-path"},
		"others-volume":  {"others", "node-2", "kijabi.dev/local-path"},
		"left":           {"gone", "node-1", "kijabi.dev/local-path"},
		"static":         {"gone", "node-1", ""},
		"stolen":         {"data", "node-2", ""}, // it names a claim that does not name it
	} {
		create(&corev1.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": of.provisioner}},
			Spec: corev1.PersistentVolumeSpec{
				Capacity: one, AccessModes: modes, PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/data"}},
				ClaimRef: &corev1.ObjectReference{
					Kind: "PersistentVolumeClaim", Namespace: tokenNamespace, Name: strings.Replace(of.claim, "former", "again", 1), UID: uids[of.claim],
				},
				NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
					MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{of.node}}},
				}}}},
			},
		}, object.KindOf[*corev1.PersistentVolume]())
	}
	pod := func(name, node string, volumes ...corev1.Volume) {
		create(&corev1.Pod{ObjectMeta: meta(name), Spec: corev1.PodSpec{
			NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i"}}, Volumes: volumes,
		}}, object.KindOf[*corev1.Pod]())
	}
	claimed := func(name string) corev1.Volume {
		return corev1.Volume{Name: "v-" + name, VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}}
	}
	pod("scratch", "node-1", claimed("data"), claimed("loose"), claimed("again"), corev1.Volume{Name: "cache", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{
		VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: modes, Resources: corev1.VolumeResourceRequirements{Requests: one},
		}},
	}}})
	pod("elsewhere", "node-2", claimed("others"))

	nodes := nodePods{objects}
	for claim, want := range map[string]bool{"data": true, "scratch-cache": true, "loose": true, "others": false, "none": false} {
		if got := nodes.UsedOn("node-1", "persistentvolumeclaims", tokenNamespace, claim); got != want {
			t.Errorf("node-1 uses claim %s: %v", claim, got)
		}
	}
	for volume, want := range map[string]struct{ used, kept bool }{
		"data-volume": {true, false}, "scratch-volume": {true, true}, "others-volume": {false, false},
		"left": {false, true}, "static": {false, false}, "stolen": {false, false}, "again-volume": {false, false}, "none": {false, true},
	} {
		if got := nodes.UsedOn("node-1", "persistentvolumes", "", volume); got != want.used {
			t.Errorf("node-1 uses volume %s: %v", volume, got)
		}
		if got := nodes.KeptOn("node-1", volume); got != want.kept {
			t.Errorf("node-1 keeps volume %s: %v", volume, got)
		}
	}
}
