package registry_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/apiserver/internal/registry"
)

func storageRequest(size string) corev1.VolumeResourceRequirements {
	return corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}}
}

// Only claims of a class that allows it grow.
func TestClaimExpansion(t *testing.T) {
	m := leader(t)
	yes := true
	for name, expand := range map[string]*bool{"elastic": &yes, "rigid": nil} {
		class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: "example.com/disk", AllowVolumeExpansion: expand}
		must[*storagev1.StorageClass](t)(m.Create(t.Context(), admin, at("storageclasses", "", ""), class, registry.WriteOptions{}))
	}
	elastic, rigid, missing, none := "elastic", "rigid", "missing", ""
	for _, c := range []struct {
		name  string
		class *string
		grows bool
	}{{"a", &elastic, true}, {"b", &rigid, false}, {"c", &missing, false}, {"d", &none, false}} {
		ref := at("persistentvolumeclaims", "default", c.name)
		claim := must[*corev1.PersistentVolumeClaim](t)(m.Create(t.Context(), admin, at("persistentvolumeclaims", "default", ""), &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Name: c.name},
			Spec: corev1.PersistentVolumeClaimSpec{
				AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: c.class, Resources: storageRequest("1Gi"),
			},
		}, registry.WriteOptions{}))
		claim.Status = corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound, Capacity: storageRequest("1Gi").Requests}
		claim = must[*corev1.PersistentVolumeClaim](t)(m.Update(t.Context(), admin, at("persistentvolumeclaims", "default", c.name, "status"), claim, registry.WriteOptions{}))
		claim.Spec.Resources = storageRequest("2Gi")
		_, err := m.Update(t.Context(), admin, ref, claim, registry.WriteOptions{})
		if (err == nil) != c.grows || err != nil && !apierrors.IsForbidden(err) {
			t.Errorf("claim of class %q: %v", *c.class, err)
		}
	}
}

// signingRequest asks for a certificate in somebody else's name.
func signingRequest(t *testing.T, name string) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
			SignerName: certificatesv1.KubeAPIServerClientSignerName, Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth},
			Username: "root", Groups: []string{"system:masters"},
		},
	}
}

// The server says who asked for a certificate, whatever the request claims, and an approval
// reaches nothing but conditions, with the time of the decision.
func TestCertificateRequest(t *testing.T) {
	m := leader(t)
	jane := registry.Caller{User: "jane", Groups: []string{"developers", "system:authenticated"}, UserAgent: "test/1"}
	request := must[*certificatesv1.CertificateSigningRequest](t)(m.Create(t.Context(), jane, at("certificatesigningrequests", "", ""), signingRequest(t, "jane"), registry.WriteOptions{}))
	if request.Spec.Username != "jane" || !slices.Equal(request.Spec.Groups, jane.Groups) {
		t.Errorf("asked for by %s of %v", request.Spec.Username, request.Spec.Groups)
	}
	list, err := m.List(t.Context(), at("certificatesigningrequests", "", ""), registry.ListOptions{Fields: "spec.signerName=example.com/other"})
	if err != nil || len(list.Records) != 0 {
		t.Errorf("%d requests for another signer, %v", len(list.Records), err)
	}
	list, err = m.List(t.Context(), at("certificatesigningrequests", "", ""), registry.ListOptions{Fields: "spec.signerName=" + request.Spec.SignerName})
	if err != nil || len(list.Records) != 1 {
		t.Errorf("%d requests for the signer, %v", len(list.Records), err)
	}
	request.Spec.SignerName = "example.com/other"
	request.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Known"}}
	approved := must[*certificatesv1.CertificateSigningRequest](t)(m.Update(t.Context(), admin, at("certificatesigningrequests", "", "jane", "approval"), request, registry.WriteOptions{}))
	if approved.Spec.SignerName != certificatesv1.KubeAPIServerClientSignerName {
		t.Error("approval changed the request")
	}
	if c := approved.Status.Conditions; len(c) != 1 || c[0].LastUpdateTime.IsZero() || c[0].LastTransitionTime.IsZero() {
		t.Errorf("conditions %+v", c)
	}
	withdrawn := []byte(`{"status":{"conditions":[]}}`)
	if _, err := m.Patch(t.Context(), admin, at("certificatesigningrequests", "", "jane", "approval"), types.MergePatchType, withdrawn, registry.WriteOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("an approval was withdrawn: %v", err)
	}
	if _, err := m.Update(t.Context(), admin, at("configmaps", "default", "a", "approval"), configMap("a"), registry.WriteOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("approval of a kind that has none: %v", err)
	}
}

// A volume's change of phase is timed by the server.
func TestVolumePhaseTime(t *testing.T) {
	m := leader(t)
	volume := must[*corev1.PersistentVolume](t)(m.Create(t.Context(), admin, at("persistentvolumes", "", ""), &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "pv1"},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: storageRequest("1Gi").Requests, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/data"}},
		},
	}, registry.WriteOptions{}))
	if volume.Status.Phase != corev1.VolumePending || volume.Status.LastPhaseTransitionTime.IsZero() {
		t.Fatalf("new volume: %+v", volume.Status)
	}
	past := metav1.Unix(1e9, 0)
	volume.Status.LastPhaseTransitionTime = &past // no phase has changed: believed
	status := at("persistentvolumes", "", "pv1", "status")
	volume = must[*corev1.PersistentVolume](t)(m.Update(t.Context(), admin, status, volume, registry.WriteOptions{}))
	volume.Status.Phase = corev1.VolumeAvailable
	volume = must[*corev1.PersistentVolume](t)(m.Update(t.Context(), admin, status, volume, registry.WriteOptions{}))
	if !past.Before(volume.Status.LastPhaseTransitionTime) {
		t.Errorf("phase changed at %v", volume.Status.LastPhaseTransitionTime)
	}
	changed := volume.Status.LastPhaseTransitionTime
	volume.Status.LastPhaseTransitionTime, volume.Status.Message = nil, "fine"
	volume = must[*corev1.PersistentVolume](t)(m.Update(t.Context(), admin, status, volume, registry.WriteOptions{}))
	if !volume.Status.LastPhaseTransitionTime.Equal(changed) {
		t.Errorf("phase did not change, its time did: %v", volume.Status.LastPhaseTransitionTime)
	}
}

// Whatever is in the table can be applied: an object without a spec may be refused, but as
// invalid, not because its fields are unknown.
func TestApplyEveryKind(t *testing.T) {
	m := leader(t)
	for _, kind := range m.Kinds() {
		namespace := ""
		if kind.Namespaced {
			namespace = "default"
		}
		ref := registry.Ref{Resource: kind.GVR, Namespace: namespace, Name: "a"}
		text := fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata: {name: a, labels: {a: b}}", kind.GVK.GroupVersion(), kind.GVK.Kind)
		_, err := m.Patch(t.Context(), admin, ref, types.ApplyPatchType, []byte(text), registry.WriteOptions{FieldManager: "test"})
		if err != nil && !apierrors.IsInvalid(err) {
			t.Errorf("%s: %v", kind.GVR, err)
		}
	}
	text := "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web}\nspec: {podSelector: {}, ingress: [{ports: [{port: %d}]}]}"
	for _, port := range []int{80, 81} {
		policy := must[*networkingv1.NetworkPolicy](t)(m.Patch(t.Context(), admin, at("networkpolicies", "default", "web"), types.ApplyPatchType, fmt.Appendf(nil, text, port), registry.WriteOptions{FieldManager: "test"}))
		if len(policy.ManagedFields) != 1 || policy.Spec.Ingress[0].Ports[0].Port.IntValue() != port || policy.Generation != int64(port-79) {
			t.Errorf("applied: %+v", policy)
		}
	}
}
