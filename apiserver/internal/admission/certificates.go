package admission

import (
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"

	"kijabi.dev/platform/pki"
)

// ownGroups begin the groups of the cluster's own programs.
const ownGroups = "kijabi:"

// certificateSubject refuses requests for certificates that would make a user an
// administrator or one of the cluster's programs; those get theirs otherwise. The signer
// refuses them again.
func certificateSubject(_ *Chain, r *Request) error {
	request, ok := created[*certificatesv1.CertificateSigningRequest](r)
	if !ok || request.Spec.SignerName != certificatesv1.KubeAPIServerClientSignerName {
		return nil
	}
	parsed, err := pki.ParseCSR(request.Spec.Request)
	if err != nil {
		return r.forbidden("cannot parse the request: %w", err) // validation has said so already
	}
	for _, group := range parsed.Subject.Organization {
		if group == pki.GroupMasters || strings.HasPrefix(group, ownGroups) {
			return r.forbidden("use of %s signer with %s group is not allowed", request.Spec.SignerName, group)
		}
	}
	return nil
}
