package certificatesigningrequest

import (
	"crypto/x509"
	"encoding/pem"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// How long requests stay, as in Kubernetes: what was decided can be looked at for an hour,
// what nobody decides for a day.
const (
	keepAnswered = time.Hour
	keepPending  = 24 * time.Hour
)

// decide tells whether a request has served its purpose, or in how long it may have. It is pure.
func decide(request *certificatesv1.CertificateSigningRequest, now time.Time) (remove bool, in time.Duration) {
	end := request.CreationTimestamp.Add(keepPending) // nobody has answered
	answered := func(at metav1.Time) {
		if until := at.Add(keepAnswered); until.Before(end) {
			end = until
		}
	}
	issued := len(request.Status.Certificate) > 0
	for _, condition := range request.Status.Conditions {
		switch condition.Type {
		case certificatesv1.CertificateDenied, certificatesv1.CertificateFailed:
			answered(condition.LastUpdateTime)
		case certificatesv1.CertificateApproved:
			if issued {
				answered(condition.LastUpdateTime)
			}
		}
	}
	if over, ok := notAfter(request.Status.Certificate); ok && over.Before(end) {
		end = over
	}
	if left := end.Sub(now); left > 0 {
		return false, left
	}
	return true, 0
}

// notAfter is when a certificate ends; false if there is none that can be read.
func notAfter(chain []byte) (time.Time, bool) {
	block, _ := pem.Decode(chain)
	if block == nil {
		return time.Time{}, false
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return time.Time{}, false
	}
	return certificate.NotAfter, true
}
