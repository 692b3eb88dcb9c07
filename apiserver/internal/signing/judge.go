package signing

import (
	"crypto/x509"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"kijabi.dev/platform/pki"
)

const (
	// longest is how long a certificate lives whose requester does not say.
	longest = 365 * 24 * time.Hour
	// shortest is the least that may be asked for.
	shortest = 10 * time.Minute

	groupNodes      = "system:nodes"
	nodeUserPrefix  = "system:node:"
	ownPrefix       = "kijabi:"
	ownUser         = "system:apiserver"
	clusterDomains  = ".kijabi .svc .cluster.local"
	selfNodeClient  = "selfnodeclient"
	otherNodeClient = "nodeclient"
)

// judgement is what a signer thinks of a request.
type judgement struct {
	// refusal says why the request is not signed; empty if it may be.
	refusal string
	// leaf is what is signed then.
	leaf pki.LeafRequest
	// review is the subresource of certificatesigningrequests that a requester must be
	// allowed to create for the request to be approved without a person; empty if a person must.
	review string
}

// settled tells whether nothing is left to do about a request, whatever it asks for.
func settled(r *certificatesv1.CertificateSigningRequest) bool {
	return len(r.Status.Certificate) > 0 || has(r, certificatesv1.CertificateDenied) || has(r, certificatesv1.CertificateFailed) ||
		!slices.Contains(signers(), r.Spec.SignerName)
}

// signers are those that the cluster's CA signs for.
func signers() []string {
	return []string{
		certificatesv1.KubeAPIServerClientSignerName, certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.KubeletServingSignerName,
	}
}

func has(r *certificatesv1.CertificateSigningRequest, kind certificatesv1.RequestConditionType) bool {
	return slices.ContainsFunc(r.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool { return c.Type == kind })
}

// judge applies the rules of a request's signer; services are addresses that are no machine's.
// It is pure.
func judge(r *certificatesv1.CertificateSigningRequest, services netip.Prefix) judgement {
	request, err := pki.ParseCSR(r.Spec.Request)
	if err != nil {
		return judgement{refusal: err.Error()}
	}
	j := judgement{leaf: pki.LeafRequest{
		CommonName: request.Subject.CommonName, Organizations: request.Subject.Organization, Life: life(r.Spec.ExpirationSeconds),
		KeyEncipherment: slices.Contains(r.Spec.Usages, certificatesv1.UsageKeyEncipherment),
	}}
	switch r.Spec.SignerName {
	case certificatesv1.KubeAPIServerClientSignerName:
		j.leaf.Client = true
		j.refusal = refuseUser(r, request)
	case certificatesv1.KubeAPIServerClientKubeletSignerName:
		j.leaf.Client = true
		if j.refusal = refuseKubelet(r, request, certificatesv1.UsageClientAuth); j.refusal == "" && named(request) {
			j.refusal = "subjectAltNames are not allowed"
		}
		j.review = otherNodeClient
		if r.Spec.Username == request.Subject.CommonName {
			j.review = selfNodeClient
		}
	case certificatesv1.KubeletServingSignerName:
		j.leaf.Server, j.leaf.DNSNames, j.leaf.IPs = true, request.DNSNames, request.IPAddresses
		if j.refusal = refuseKubelet(r, request, certificatesv1.UsageServerAuth); j.refusal == "" {
			j.refusal = refuseNames(request, services)
		}
	default:
		j.refusal = "unknown signer"
	}
	return j
}

// life is how long a certificate is to live.
func life(seconds *int32) time.Duration {
	if seconds == nil {
		return longest
	}
	return min(max(time.Duration(*seconds)*time.Second, shortest), longest)
}

func named(request *x509.CertificateRequest) bool {
	return len(request.DNSNames)+len(request.IPAddresses)+len(request.EmailAddresses)+len(request.URIs) > 0
}

// refuseUser is for whoever talks to the apiserver. Nobody becomes an administrator or a
// part of the cluster that way: those have certificates of their own.
func refuseUser(r *certificatesv1.CertificateSigningRequest, request *x509.CertificateRequest) string {
	name := request.Subject.CommonName
	switch {
	case name == "":
		return "subject common name is required"
	case name == ownUser || strings.HasPrefix(name, ownPrefix):
		return "subject common name " + name + " is the cluster's own"
	}
	for _, group := range request.Subject.Organization {
		if group == pki.GroupMasters || strings.HasPrefix(group, ownPrefix) {
			return "subject organization " + group + " is not allowed"
		}
	}
	return refuseUsages(r, certificatesv1.UsageClientAuth, false)
}

// refuseKubelet is for certificates that name a node.
func refuseKubelet(r *certificatesv1.CertificateSigningRequest, request *x509.CertificateRequest, usage certificatesv1.KeyUsage) string {
	if !slices.Equal(request.Subject.Organization, []string{groupNodes}) {
		return "subject organization is not system:nodes"
	}
	if node, ok := strings.CutPrefix(request.Subject.CommonName, nodeUserPrefix); !ok || node == "" {
		return "subject common name does not begin with system:node:"
	}
	return refuseUsages(r, usage, true)
}

// refuseUsages wants the usage itself, and besides it at most what TLS needs; a kubelet's
// certificate must be able to sign.
func refuseUsages(r *certificatesv1.CertificateSigningRequest, usage certificatesv1.KeyUsage, signs bool) string {
	for _, one := range r.Spec.Usages {
		switch one {
		case usage, certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment:
		default:
			return "usage " + string(one) + " is not allowed"
		}
	}
	switch {
	case !slices.Contains(r.Spec.Usages, usage):
		return "usage " + string(usage) + " is required"
	case signs && !slices.Contains(r.Spec.Usages, certificatesv1.UsageDigitalSignature):
		return "usage " + string(certificatesv1.UsageDigitalSignature) + " is required"
	}
	return ""
}

// refuseNames keeps a kubelet from serving under names and addresses by which others know
// the masters, or each other.
func refuseNames(request *x509.CertificateRequest, services netip.Prefix) string {
	switch {
	case len(request.EmailAddresses) > 0:
		return "email subjectAltNames are not allowed"
	case len(request.URIs) > 0:
		return "URI subjectAltNames are not allowed"
	case len(request.DNSNames)+len(request.IPAddresses) == 0:
		return "DNS or IP subjectAltName is required"
	}
	for _, name := range request.DNSNames {
		if reserved(strings.ToLower(strings.TrimSuffix(name, "."))) {
			return "subjectAltName " + name + " is the cluster's own"
		}
	}
	for _, ip := range request.IPAddresses {
		if notAMachine(ip, services) {
			return "subjectAltName " + ip.String() + " is no machine's address"
		}
	}
	return ""
}

func reserved(name string) bool {
	if name == "localhost" || name == "kubernetes" || strings.HasPrefix(name, "kubernetes.") || strings.HasPrefix(name, "*") {
		return true
	}
	return slices.ContainsFunc(strings.Fields(clusterDomains), func(domain string) bool {
		return strings.HasSuffix(name, domain) || name == domain[1:]
	})
}

func notAMachine(ip net.IP, services netip.Prefix) bool {
	addr, ok := netip.AddrFromSlice(ip)
	return !ok || ip.IsUnspecified() || ip.IsMulticast() || ip.IsLoopback() || services.Contains(addr.Unmap())
}

// withCondition adds a condition, which nobody has added yet, to a copy of a request.
func withCondition(r *certificatesv1.CertificateSigningRequest, kind certificatesv1.RequestConditionType, reason, message string) *certificatesv1.CertificateSigningRequest {
	out := r.DeepCopy()
	out.Status.Conditions = append(out.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: kind, Status: corev1.ConditionTrue, Reason: reason, Message: message,
	})
	return out
}
