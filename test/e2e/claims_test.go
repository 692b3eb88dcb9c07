package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/test/harness"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
)

// testNodeVolumes: what the kubelet of a node makes of a claim that is bound to one of its
// own directories. Binding is done by hand here.
func testNodeVolumes(t *harness.T, c *cluster) {
	const node = "node-1"
	namespace := c.namespace(t, "claims")
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Mi")}
	modes := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	none := ""
	create := func(obj object.Object) object.Object {
		t.Helper()
		stored, err := c.api.Create(t.Context(), obj)
		if err != nil {
			t.Fatal(err)
		}
		return stored
	}
	claim := create(&corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "data", Namespace: namespace},
		Spec:       corev1.PersistentVolumeClaimSpec{AccessModes: modes, StorageClassName: &none, Resources: corev1.VolumeResourceRequirements{Requests: size}},
	}).(*corev1.PersistentVolumeClaim)
	name := "pvc-" + string(claim.UID)
	pod := func(name string) {
		create(&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace},
			Spec: corev1.PodSpec{
				NodeName: node, TerminationGracePeriodSeconds: new(int64(1)),
				Containers: []corev1.Container{{
					Name: "main", Image: "registry.kijabi.dev/toolbox:1", VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: "/data"}},
					SecurityContext: &corev1.SecurityContext{RunAsUser: new(int64(4711))},
				}},
				Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{
					PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"},
				}}},
			},
		})
	}
	pod("writer")
	c.awaitEvent(t, namespace, "writer", "FailedMount", `MountVolume.SetUp failed for volume "v" : error processing PVC claims/data: PVC is not bound`)
	create(&corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": "kijabi.dev/local-path"}},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: size, AccessModes: modes, PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/var/lib/kijabi/volumes/" + name}},
			ClaimRef:               &corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: namespace, Name: "data", UID: claim.UID},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
			}}}},
		},
	})
	harness.Eventually(t, 20*time.Second, "the claim is bound", func() error {
		now, err := get[*corev1.PersistentVolumeClaim](c, namespace, "data")
		if err != nil {
			return err
		}
		if now.Spec.VolumeName == "" {
			now.Spec.VolumeName = name
			stored, err := c.api.Update(t.Context(), now)
			if err != nil {
				return err
			}
			now = stored.(*corev1.PersistentVolumeClaim)
		}
		now.Status.Phase = corev1.ClaimBound
		_, err = c.api.UpdateStatus(t.Context(), now)
		return err
	})
	c.awaitPod(t, 60*time.Second, namespace, "writer", "Ready", isReady)
	exec := func(pod string, command ...string) string {
		t.Helper()
		return c.Kubectl(t, append([]string{"exec", "-n", namespace, pod, "--", "/toolbox"}, command...)...)
	}
	exec("writer", "write", "/data/file", "kept")
	place := filepath.Join(c.MachineDir(node), "lib", "volumes", name)
	if _, err := os.Stat(filepath.Join(place, "file")); err != nil {
		found, _ := filepath.Glob(filepath.Join(c.MachineDir(node), "*", "volumes", "*"))
		t.Errorf("%v; there are %v", err, found)
	}
	c.Kubectl(t, "delete", "pod", "-n", namespace, "writer")
	pod("reader")
	c.awaitPod(t, 60*time.Second, namespace, "reader", "Ready", isReady)
	if got := exec("reader", "cat", "/data/file"); strings.TrimSpace(got) != "kept" {
		t.Errorf("read %q", got)
	}
	c.Kubectl(t, "delete", "pod", "-n", namespace, "reader")
	for _, obj := range []object.Object{claim, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}}} {
		if err := c.api.Delete(t.Context(), obj, client.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	harness.Eventually(t, 2*time.Minute, "the directory of the volume is removed", func() error {
		switch _, err := os.Stat(place); {
		case err == nil:
			return errors.New("it is there")
		case !errors.Is(err, os.ErrNotExist):
			return fmt.Errorf("look at it: %w", err)
		}
		return nil
	})
}
