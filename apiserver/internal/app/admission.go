package app

import (
	"context"
	"crypto/tls"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/apiserver/internal/admission/expression"
	"kijabi.dev/apiserver/internal/authz"
	"kijabi.dev/platform/pki"
)

// rights answers what expressions of policies ask about users' rights.
func rights(authorizer *authz.Authorizer) expression.Rights {
	return func(ctx context.Context, r expression.Right) error {
		attr := authz.Attributes{User: r.User, Groups: r.Groups, Verb: r.Verb, Path: r.Path}
		if r.Path == "" {
			attr.Resource = schema.GroupResource{Group: r.Group, Resource: r.Resource}
			attr.Subresource, attr.Namespace, attr.Name = r.Subresource, r.Namespace, r.Name
		}
		return authorizer.Authorize(ctx, attr)
	}
}

// presented is the apiserver's certificate for webhooks that ask for one of the cluster's CA,
// so that they can refuse everybody else.
func presented(identity *pki.Identity) func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	own := identity.ClientTLS("").GetClientCertificate
	return func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		cert, err := own(info)
		if err != nil || len(cert.Certificate) == 0 || info.SupportsCertificate(cert) != nil {
			return &tls.Certificate{}, err
		}
		return cert, nil
	}
}
