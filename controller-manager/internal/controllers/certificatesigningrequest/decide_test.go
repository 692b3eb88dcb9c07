package certificatesigningrequest

import (
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/platform/pki"
)

func TestRequestsGoInTime(t *testing.T) {
	ca, err := pki.NewCA("test", 0)
	if err != nil {
		t.Fatal(err)
	}
	brief, _, err := ca.Issue(pki.LeafRequest{CommonName: "x", Life: 10 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	long, _, err := ca.Issue(pki.LeafRequest{CommonName: "x", Life: 1000 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	created := time.Now()
	condition := func(kind certificatesv1.RequestConditionType, after time.Duration) certificatesv1.CertificateSigningRequestCondition {
		return certificatesv1.CertificateSigningRequestCondition{Type: kind, LastUpdateTime: metav1.NewTime(created.Add(after))}
	}
	for name, test := range map[string]struct {
		certificate []byte
		conditions  []certificatesv1.CertificateSigningRequestCondition
		stays       time.Duration // since its creation
	}{
		"pending":              {nil, nil, 24 * time.Hour},
		"denied":               {nil, []certificatesv1.CertificateSigningRequestCondition{condition("Denied", 2*time.Hour)}, 3 * time.Hour},
		"failed":               {nil, []certificatesv1.CertificateSigningRequestCondition{condition("Approved", 0), condition("Failed", 2*time.Hour)}, 3 * time.Hour},
		"approved, not signed": {nil, []certificatesv1.CertificateSigningRequestCondition{condition("Approved", time.Hour)}, 24 * time.Hour},
		"signed":               {long, []certificatesv1.CertificateSigningRequestCondition{condition("Approved", time.Hour)}, 2 * time.Hour},
		"signed and over":      {brief, []certificatesv1.CertificateSigningRequestCondition{condition("Approved", time.Hour)}, 10 * time.Minute},
		"another condition":    {nil, []certificatesv1.CertificateSigningRequestCondition{condition("Other", 0)}, 24 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			request := &certificatesv1.CertificateSigningRequest{
				ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(created)},
				Status:     certificatesv1.CertificateSigningRequestStatus{Certificate: test.certificate, Conditions: test.conditions},
			}
			const about = time.Minute // certificates end at whole seconds
			if remove, in := decide(request, created.Add(test.stays-about)); remove || in <= 0 || in > 2*about {
				t.Errorf("a minute before: remove %v, in %s", remove, in)
			}
			if remove, _ := decide(request, created.Add(test.stays+about)); !remove {
				t.Error("a minute after it is still there")
			}
		})
	}
}
