package kinds

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/platform/kube/object"
)

const (
	// minCertificateLife is in seconds.
	minCertificateLife = 600
	// maxSignerName holds a domain (253), a slash, and a namespace (63) and a service account
	// (253) with a dot between them.
	maxSignerName = 571
	legacySigner  = "kubernetes.io/legacy-unknown"
)

// Requests for certificates do not change once they are made. What becomes of one is written
// in two places: who may approve writes Approved and Denied through approval, the signer
// writes Failed and the certificate through status. None of it is ever taken back.
func certificateSigningRequest() *Kind {
	kind := object.KindOf[*certificatesv1.CertificateSigningRequest]()
	return &Kind{
		Kind: kind, Singular: "certificatesigningrequest", ShortNames: []string{"csr"}, Verbs: standardVerbs(),
		Subresources: []Subresource{{Name: "approval", GVK: kind.GVK, Verbs: []string{"get", "patch", "update"}}, statusSubresource(kind)},
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), ageColumn(), column("SignerName", "string", "Who is asked to sign"), column("Requestor", "string", "Who asked"),
			column("RequestedDuration", "string", "How long the certificate should be good for"), column("Condition", "string", "What became of it"),
		},
		Row:              rowOf(certificateSigningRequestRow),
		SelectableFields: []string{"spec.signerName"},
		Fields: fieldsOf(func(r *certificatesv1.CertificateSigningRequest) map[string]string {
			return map[string]string{"spec.signerName": r.Spec.SignerName}
		}),
		ValidateName: validatePathSegmentName,
		PrepareForCreate: on(func(r *certificatesv1.CertificateSigningRequest) {
			r.Spec.Username, r.Spec.UID, r.Spec.Groups, r.Spec.Extra = "", "", nil, nil
			r.Status = certificatesv1.CertificateSigningRequestStatus{}
		}),
		SetRequester: func(obj object.Object, by Requester) {
			spec := &obj.(*certificatesv1.CertificateSigningRequest).Spec
			spec.Username, spec.UID, spec.Groups = by.User, by.UID, slices.Clone(by.Groups)
			for key, values := range by.Extra {
				if spec.Extra == nil {
					spec.Extra = make(map[string]certificatesv1.ExtraValue, len(by.Extra))
				}
				spec.Extra[key] = slices.Clone(values)
			}
		},
		PrepareForUpdate: onBoth(func(r, old *certificatesv1.CertificateSigningRequest) { r.Spec, r.Status = old.Spec, old.Status }),
		PrepareForStatusUpdate: onBoth(func(r, old *certificatesv1.CertificateSigningRequest) {
			r.Spec = old.Spec
			keepStatusMetadata(&r.ObjectMeta, &old.ObjectMeta, false)
			keepConditions(r, old, certificatesv1.CertificateApproved, certificatesv1.CertificateDenied)
		}),
		PrepareForApproval: onBoth(func(r, old *certificatesv1.CertificateSigningRequest) {
			r.Spec, r.Status.Certificate = old.Spec, old.Status.Certificate
			keepStatusMetadata(&r.ObjectMeta, &old.ObjectMeta, false)
		}),
		SetTimes: func(obj, old object.Object, now metav1.Time) {
			if old != nil {
				setConditionTimes(obj.(*certificatesv1.CertificateSigningRequest), old.(*certificatesv1.CertificateSigningRequest), now)
			}
		},
		Validate: check(func(r *certificatesv1.CertificateSigningRequest) field.ErrorList {
			return append(validateRequestSpec(&r.Spec, field.NewPath("spec")), validateRequestStatus(&r.Status, field.NewPath("status"))...)
		}),
		ValidateStatusUpdate: checkBoth(func(r, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
			errs := validateRequestStatus(&r.Status, field.NewPath("status"))
			return append(errs, validateRequestProgress(r, old, certificatesv1.CertificateFailed)...)
		}),
		ValidateApproval: checkBoth(func(r, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
			errs := validateRequestStatus(&r.Status, field.NewPath("status"))
			return append(errs, validateRequestProgress(r, old, certificatesv1.CertificateApproved, certificatesv1.CertificateDenied)...)
		}),
	}
}

// keepConditions carries over conditions of the given types as they were, unless one was added
// or taken away: that validation refuses.
func keepConditions(r, old *certificatesv1.CertificateSigningRequest, types ...certificatesv1.RequestConditionType) {
	for i := range r.Status.Conditions {
		condition := &r.Status.Conditions[i]
		if was := conditionOf(old, condition.Type); was != nil && slices.Contains(types, condition.Type) {
			*condition = *was
		}
	}
}

func conditionOf(r *certificatesv1.CertificateSigningRequest, kind certificatesv1.RequestConditionType) *certificatesv1.CertificateSigningRequestCondition {
	for i := range r.Status.Conditions {
		if r.Status.Conditions[i].Type == kind {
			return &r.Status.Conditions[i]
		}
	}
	return nil
}

// setConditionTimes fills in the times that a client left out.
func setConditionTimes(r, old *certificatesv1.CertificateSigningRequest, now metav1.Time) {
	for i := range r.Status.Conditions {
		condition := &r.Status.Conditions[i]
		if condition.LastUpdateTime.IsZero() {
			condition.LastUpdateTime = now
		}
		if !condition.LastTransitionTime.IsZero() {
			continue
		}
		condition.LastTransitionTime = now
		if was := conditionOf(old, condition.Type); was != nil && was.Status == condition.Status && !was.LastTransitionTime.IsZero() {
			condition.LastTransitionTime = was.LastTransitionTime
		}
	}
}

func validateRequestSpec(spec *certificatesv1.CertificateSigningRequestSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if err := checkRequest(spec.Request); err != nil {
		errs = append(errs, field.Invalid(path.Child("request"), spec.Request, err.Error()))
	}
	if len(spec.Usages) == 0 {
		errs = append(errs, field.Required(path.Child("usages"), ""))
	}
	for i, usage := range spec.Usages {
		at := path.Child("usages").Index(i)
		switch {
		case !slices.Contains(keyUsages(), usage):
			errs = append(errs, field.NotSupported(at, usage, keyUsages()))
		case slices.Contains(spec.Usages[:i], usage):
			errs = append(errs, field.Duplicate(at, usage))
		}
	}
	if spec.SignerName == legacySigner {
		errs = append(errs, field.Invalid(path.Child("signerName"), spec.SignerName, "the legacy signerName is not allowed via this API version"))
	} else {
		errs = append(errs, validateSignerName(spec.SignerName, path.Child("signerName"))...)
	}
	if seconds := spec.ExpirationSeconds; seconds != nil && *seconds < minCertificateLife {
		errs = append(errs, field.Invalid(path.Child("expirationSeconds"), *seconds, fmt.Sprintf("may not specify a duration less than %d seconds (10 minutes)", minCertificateLife)))
	}
	return errs
}

func checkRequest(request []byte) error {
	block, _ := pem.Decode(request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	parsed, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return err
	}
	return parsed.CheckSignature()
}

func keyUsages() []certificatesv1.KeyUsage {
	return []certificatesv1.KeyUsage{
		certificatesv1.UsageSigning, certificatesv1.UsageDigitalSignature, certificatesv1.UsageContentCommitment, certificatesv1.UsageKeyEncipherment,
		certificatesv1.UsageKeyAgreement, certificatesv1.UsageDataEncipherment, certificatesv1.UsageCertSign, certificatesv1.UsageCRLSign,
		certificatesv1.UsageEncipherOnly, certificatesv1.UsageDecipherOnly, certificatesv1.UsageAny, certificatesv1.UsageServerAuth,
		certificatesv1.UsageClientAuth, certificatesv1.UsageCodeSigning, certificatesv1.UsageEmailProtection, certificatesv1.UsageSMIME,
		certificatesv1.UsageIPsecEndSystem, certificatesv1.UsageIPsecTunnel, certificatesv1.UsageIPsecUser, certificatesv1.UsageTimestamping,
		certificatesv1.UsageOCSPSigning, certificatesv1.UsageMicrosoftSGC, certificatesv1.UsageNetscapeSGC,
	}
}

// validateSignerName wants a domain of at least two labels, a slash and a path of dotted names.
func validateSignerName(name string, at *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	domain, rest, ok := strings.Cut(name, "/")
	if !ok || rest == "" || strings.Contains(rest, "/") {
		return field.ErrorList{field.Invalid(at, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")}
	}
	var errs field.ErrorList
	if len(name) > maxSignerName {
		errs = append(errs, field.TooLong(at, name, maxSignerName))
	}
	errs = append(errs, messages(utilvalidation.IsDNS1123Subdomain(domain), domain, at)...)
	if !strings.Contains(domain, ".") {
		errs = append(errs, field.Invalid(at, domain, "should be a domain with at least two segments separated by dots"))
	}
	return append(errs, messages(utilvalidation.IsDNS1123Subdomain(rest), rest, at)...)
}

func validateRequestStatus(status *certificatesv1.CertificateSigningRequestStatus, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := map[certificatesv1.RequestConditionType]bool{}
	for i, condition := range status.Conditions {
		at := path.Child("conditions").Index(i)
		if condition.Type == "" {
			errs = append(errs, field.Required(at.Child("type"), ""))
		}
		if seen[condition.Type] {
			errs = append(errs, field.Duplicate(at.Child("type"), condition.Type))
		}
		seen[condition.Type] = true
		allowed := []corev1.ConditionStatus{corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown}
		switch condition.Type {
		case certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed:
			allowed = []corev1.ConditionStatus{corev1.ConditionTrue}
		}
		switch {
		case condition.Status == "":
			errs = append(errs, field.Required(at.Child("status"), ""))
		case !slices.Contains(allowed, condition.Status):
			errs = append(errs, field.NotSupported(at.Child("status"), condition.Status, allowed))
		}
		approvedAndDenied := seen[certificatesv1.CertificateApproved] && seen[certificatesv1.CertificateDenied]
		if approvedAndDenied && (condition.Type == certificatesv1.CertificateApproved || condition.Type == certificatesv1.CertificateDenied) {
			errs = append(errs, field.Invalid(at.Child("type"), condition.Type, "Approved and Denied conditions are mutually exclusive"))
		}
	}
	if len(status.Certificate) > 0 {
		if err := checkCertificates(status.Certificate); err != nil {
			errs = append(errs, field.Invalid(path.Child("certificate"), "<certificate data>", err.Error()))
		}
	}
	return errs
}

// checkCertificates wants nothing but certificates in PEM; text between them is allowed.
func checkCertificates(data []byte) error {
	found := false
	for {
		block, rest := pem.Decode(data)
		switch {
		case block == nil && !found:
			return errors.New("must contain at least one CERTIFICATE PEM block")
		case block == nil:
			return nil
		case block.Type != "CERTIFICATE":
			return errors.New("only CERTIFICATE PEM blocks are allowed, found " + fmt.Sprintf("%q", block.Type))
		case len(block.Headers) > 0:
			return errors.New("no PEM block headers are permitted")
		}
		parsed, err := x509.ParseCertificates(block.Bytes)
		if err != nil {
			return err
		}
		if len(parsed) == 0 {
			return errors.New("found CERTIFICATE PEM block containing 0 certificates")
		}
		found, data = true, rest
	}
}

// validateRequestProgress refuses to take back conditions or a certificate, and to add
// conditions other than those that may be added here.
func validateRequestProgress(r, old *certificatesv1.CertificateSigningRequest, addable ...certificatesv1.RequestConditionType) field.ErrorList {
	path := field.NewPath("status")
	var errs field.ErrorList
	for _, kind := range []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed} {
		had, has := conditionOf(old, kind) != nil, conditionOf(r, kind) != nil
		switch {
		case had && !has:
			errs = append(errs, field.Forbidden(path.Child("conditions"), fmt.Sprintf("updates may not remove a condition of type %q", kind)))
		case has && !had && !slices.Contains(addable, kind):
			errs = append(errs, field.Forbidden(path.Child("conditions"), fmt.Sprintf("updates may not add a condition of type %q", kind)))
		}
	}
	if len(old.Status.Certificate) > 0 && !slices.Equal(r.Status.Certificate, old.Status.Certificate) {
		errs = append(errs, field.Forbidden(path.Child("certificate"), "updates may not set or modify existing certificate content"))
	}
	return errs
}

func certificateSigningRequestRow(r *certificatesv1.CertificateSigningRequest, now time.Time) []any {
	life := "<none>"
	if seconds := r.Spec.ExpirationSeconds; seconds != nil {
		life = duration.HumanDuration(time.Duration(*seconds) * time.Second)
	}
	state := "Pending"
	switch {
	case conditionOf(r, certificatesv1.CertificateDenied) != nil:
		state = "Denied"
	case conditionOf(r, certificatesv1.CertificateApproved) != nil:
		state = "Approved"
	}
	if conditionOf(r, certificatesv1.CertificateFailed) != nil {
		state += ",Failed"
	}
	if len(r.Status.Certificate) > 0 {
		state += ",Issued"
	}
	return []any{r.Name, age(r.CreationTimestamp, now), orNone(r.Spec.SignerName), r.Spec.Username, life, state}
}
