package registry_test

import (
	"net/netip"
	"testing"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/apiserver/internal/admission"
	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/storage/memory"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/lifecycle"
)

// TestStorageClassIsGivenOnce follows a cluster through the terms of several leaders.
func TestStorageClassIsGivenOnce(t *testing.T) {
	const isDefault = "storageclass.kubernetes.io/is-default-class"
	m := start(t, "m1", memory.New(), nil, func(c *registry.Config) { c.Admission = &admission.Config{} })
	m.lead(t)
	// term runs a Bootstrap until it has made everything that it makes.
	term := func() {
		t.Helper()
		b := registry.NewBootstrap(registry.BootstrapConfig{
			Engine: m.Engine, Network: configv1.DefaultNetwork(), Log: zap.NewNop(), Endpoints: func() []netip.AddrPort { return nil },
		})
		group := lifecycle.NewGroup(t.Context())
		group.Go(b.Run)
		dns := at("services", "kube-system", "kube-dns") // the last of all
		eventually(t, "bootstrap", func() bool { _, err := m.Get(t.Context(), dns); return err == nil })
		group.Cancel()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
		if _, _, err := m.Delete(t.Context(), admin, dns, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	ref := at("storageclasses", "", "local-path")
	term()
	class := get[*storagev1.StorageClass](t, m, ref)
	if class.Annotations[isDefault] != "true" || class.Provisioner != "kijabi.dev/local-path" || *class.VolumeBindingMode != storagev1.VolumeBindingWaitForFirstConsumer ||
		*class.ReclaimPolicy != corev1.PersistentVolumeReclaimDelete || !*class.AllowVolumeExpansion {
		t.Errorf("class %+v", class)
	}
	class.Annotations[isDefault] = "false"
	must[*storagev1.StorageClass](t)(m.Update(t.Context(), admin, ref, class, none))
	term()
	if class := get[*storagev1.StorageClass](t, m, ref); class.Annotations[isDefault] != "false" {
		t.Errorf("what a user changed is %v again", class.Annotations)
	}
	if _, _, err := m.Delete(t.Context(), admin, ref, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	term()
	if _, err := m.Get(t.Context(), ref); err == nil {
		t.Error("what a user deleted is there again")
	}
}

// TestStorageClassOfAnOlderCluster leaves the default to a class that was there before.
func TestStorageClassOfAnOlderCluster(t *testing.T) {
	const isDefault = "storageclass.kubernetes.io/is-default-class"
	m := start(t, "m1", memory.New(), nil, func(c *registry.Config) { c.Admission = &admission.Config{} })
	m.lead(t)
	must[*storagev1.StorageClass](t)(m.Create(t.Context(), admin, at("storageclasses", "", ""), &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: "fast", Annotations: map[string]string{isDefault: "true"}}, Provisioner: "fast.example.com",
	}, none))
	m.group.Go(registry.NewBootstrap(registry.BootstrapConfig{
		Engine: m.Engine, Network: configv1.DefaultNetwork(), Log: zap.NewNop(), Endpoints: func() []netip.AddrPort { return nil },
	}).Run)
	ref := at("storageclasses", "", "local-path")
	eventually(t, "the class", func() bool { _, err := m.Get(t.Context(), ref); return err == nil })
	if class := get[*storagev1.StorageClass](t, m, ref); class.Annotations[isDefault] != "" {
		t.Errorf("annotations %v", class.Annotations)
	}
}

func TestStorageIsProtectedFromTheFirst(t *testing.T) {
	m := start(t, "m1", memory.New(), nil, func(c *registry.Config) { c.Admission = &admission.Config{} })
	m.lead(t)
	must[*corev1.Namespace](t)(m.Create(t.Context(), admin, at("namespaces", "", ""), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, none))
	claim := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "data"},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, Resources: storageRequest("1Gi"),
		},
	}
	made := must[*corev1.PersistentVolumeClaim](t)(m.Create(t.Context(), admin, at("persistentvolumeclaims", "default", ""), claim, none))
	v := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "disk", Finalizers: []string{"kubernetes.io/pv-protection"}},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes: claim.Spec.AccessModes, Capacity: claim.Spec.Resources.Requests,
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/data"}},
		},
	}
	disk := must[*corev1.PersistentVolume](t)(m.Create(t.Context(), admin, at("persistentvolumes", "", ""), v, none))
	if len(made.Finalizers) != 1 || made.Finalizers[0] != "kubernetes.io/pvc-protection" || len(disk.Finalizers) != 1 {
		t.Errorf("finalizers %v and %v", made.Finalizers, disk.Finalizers)
	}
}
