package certificates

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"kijabi.dev/platform/logging"
	"kijabi.dev/platform/pki"
	certificatev1pb "kijabi.dev/proto/gen/kijabi/certificate/v1"
)

// swapAttempts bounds how often a use is counted anew after somebody else's.
const swapAttempts = 8

// components lists what a token's holder may have certificates for.
func components(master bool) []string {
	list := []string{pki.ComponentKubelet, pki.ComponentKubeProxy, pki.ComponentNetworkAgent, pki.ComponentDNS}
	if master {
		list = append(list, pki.ComponentAPIServer, pki.ComponentScheduler, pki.ComponentControllerManager,
			pki.ComponentCloudControllerManager, pki.ComponentCloudProvider)
	}
	return list
}

func roleName(master bool) string {
	if master {
		return pki.RoleMaster
	}
	return pki.RoleNode
}

// Issue signs a certificate for the holder of a join token.
func (s *Service) Issue(ctx context.Context, req *certificatev1pb.IssueRequest) (*certificatev1pb.IssueResponse, error) {
	csr, err := pki.ParseCSR(req.GetCertificateRequest())
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if _, ok := csr.PublicKey.(*ecdsa.PublicKey); !ok {
		return nil, apierrors.NewBadRequest("the certificate request's key is not ECDSA; make it with P-256")
	}
	if err := checkName(req.GetName()); err != nil {
		return nil, err
	}
	token, record, err := s.redeem(ctx, req.GetToken())
	if err != nil {
		return nil, err
	}
	if err := s.checkRole(ctx, token, req); err != nil {
		return nil, err
	}
	leaf := pki.Subject(req.GetComponent(), req.GetName())
	leaf.Life = s.cfg.LeafLife
	if token.Master && req.GetComponent() == pki.ComponentAPIServer {
		if leaf.IPs, err = mergeIPs(leaf.IPs, csr.IPAddresses); err != nil {
			return nil, err
		}
	}
	if err := s.countUse(ctx, record, req.GetName(), req.GetComponent(), csr); err != nil {
		return nil, err
	}
	certPEM, err := s.cfg.Authority.CA().SignCSR(req.GetCertificateRequest(), leaf)
	if err != nil {
		return nil, fmt.Errorf("issue certificate of %s on %s: %w", req.GetComponent(), req.GetName(), err)
	}
	s.cfg.Log.Info("certificate issued", logging.User(leaf.CommonName), logging.Node(req.GetName()),
		zap.Stringer("token", token), logging.Address(peerHost(ctx)))
	return &certificatev1pb.IssueResponse{Certificate: certPEM, CaBundle: s.cfg.Authority.Bundle()}, nil
}

// checkName refuses names that are no host names, and those that would give their
// machine's certificate a name somebody else is known by.
func checkName(name string) error {
	if problems := validation.IsDNS1123Subdomain(name); len(problems) > 0 {
		return apierrors.NewBadRequest(fmt.Sprintf("machine name %q is not usable: %s", name, strings.Join(problems, "; ")))
	}
	last := name[strings.LastIndexByte(name, '.')+1:]
	if name == "localhost" || name == "kubernetes" || strings.HasPrefix(name, "kubernetes.") ||
		slices.Contains([]string{"kijabi", "svc"}, last) || strings.HasSuffix(name, ".cluster.local") {
		return apierrors.NewBadRequest(fmt.Sprintf("machine name %q is reserved for the cluster itself; give the machine another", name))
	}
	if net.ParseIP(name) != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("machine name %q is an address; give the machine a name", name))
	}
	return nil
}

// redeem finds the record of a token that is genuine and in time. Failures count
// against the caller's address. Only who knows the secret learns more than "no".
func (s *Service) redeem(ctx context.Context, text string) (pki.JoinToken, Record, error) {
	host := peerHost(ctx)
	if wait := s.failures.blocked(host); wait > 0 {
		return pki.JoinToken{}, Record{}, apierrors.NewTooManyRequests(
			fmt.Sprintf("too many wrong join tokens from %s; try again in %s", host, wait.Round(time.Second)), int(wait.Seconds())+1)
	}
	token, err := pki.ParseJoinToken(text)
	if err != nil {
		s.failures.failed(host)
		return token, Record{}, apierrors.NewBadRequest(err.Error())
	}
	record, err := s.cfg.Tokens.Get(ctx, token.ID)
	if err != nil && !apierrors.IsNotFound(err) {
		return token, Record{}, fmt.Errorf("look up join token %s: %w", token.ID, err)
	}
	// The comparison runs for unknown tokens, too, so that time tells nothing.
	genuine := subtle.ConstantTimeCompare(token.SecretHash(), record.SecretHash) == 1
	if err != nil || !genuine || record.Master != token.Master {
		s.failures.failed(host)
		s.cfg.Log.Warn("wrong join token", zap.Stringer("token", token), logging.Address(host))
		return token, Record{}, refuse("the join token is unknown or was revoked; make a new one with 'kijabi token create --role %s'",
			roleName(token.Master))
	}
	if ago := s.cfg.Clock.Since(record.Expires); ago >= 0 {
		return token, Record{}, refuse("the join token expired %s ago; make a new one with 'kijabi token create --role %s'",
			humanize(ago), roleName(token.Master))
	}
	if pin := pki.Pin(s.cfg.Authority.Bundle()); token.CAPin != pin {
		return token, Record{}, refuse("the join token was made before the cluster's CA changed; make a new one with 'kijabi token create --role %s'",
			roleName(token.Master))
	}
	return token, record, nil
}

// checkRole applies the matrix of token roles and components.
func (s *Service) checkRole(ctx context.Context, token pki.JoinToken, req *certificatev1pb.IssueRequest) error {
	role := roleName(token.Master)
	if !slices.Contains(components(true), req.GetComponent()) {
		return apierrors.NewBadRequest(fmt.Sprintf("component %q is unknown; it is one of %s",
			req.GetComponent(), strings.Join(components(true), ", ")))
	}
	if !slices.Contains(components(token.Master), req.GetComponent()) {
		return refuse("a %s's join token gives no certificate for the %s; make one with 'kijabi token create --role master'",
			role, req.GetComponent())
	}
	if token.Master {
		return nil
	}
	isMaster, err := s.cfg.Machines.IsMaster(ctx, req.GetName())
	if err != nil {
		return fmt.Errorf("look up master %s: %w", req.GetName(), err)
	}
	if isMaster {
		return refuse("%s is the name of a master; a node needs a name of its own, or join with a token from 'kijabi token create --role master'",
			req.GetName())
	}
	return nil
}

// countUse takes one use per machine off a bounded token. The same key may ask
// again, since an answer can get lost; another key may not, or a token that was
// used and then stolen would give the thief the machine's identity.
func (s *Service) countUse(ctx context.Context, record Record, machine, component string, csr *x509.CertificateRequest) error {
	if record.UsesLeft == Unlimited {
		return nil
	}
	key := sha256.Sum256(csr.RawSubjectPublicKeyInfo)
	entry, fingerprint := machine+"/"+component, hex.EncodeToString(key[:])
	for range swapAttempts {
		switch known, used := record.Issued[entry]; {
		case used && known == fingerprint:
			return nil
		case used:
			return refuse("the join token has already given %s on %s a certificate for another key; make a new one with 'kijabi token create --role %s'",
				component, machine, roleName(record.Master))
		}
		if !knowsMachine(record, machine) {
			if record.UsesLeft <= 0 {
				return refuse("the join token is used up; make a new one with 'kijabi token create --role %s'", roleName(record.Master))
			}
			record.UsesLeft--
		}
		if record.Issued == nil {
			record.Issued = map[string]string{}
		}
		record.Issued[entry] = fingerprint
		err := s.cfg.Tokens.Update(ctx, record)
		if err == nil {
			return nil
		}
		if !apierrors.IsConflict(err) {
			return fmt.Errorf("count use of join token %s: %w", record.ID, err)
		}
		if record, err = s.cfg.Tokens.Get(ctx, record.ID); err != nil {
			return fmt.Errorf("count use of join token %s: %w", record.ID, err)
		}
	}
	return apierrors.NewServiceUnavailable("many machines are joining with this token right now; try again")
}

func knowsMachine(record Record, machine string) bool {
	for entry := range record.Issued {
		if name, _, _ := strings.Cut(entry, "/"); name == machine {
			return true
		}
	}
	return false
}

// mergeIPs adds the addresses a master asks for.
func mergeIPs(own, asked []net.IP) ([]net.IP, error) {
	for _, ip := range asked {
		if ip.IsUnspecified() || ip.IsMulticast() {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("the certificate request names %s, which is no machine's address", ip))
		}
		if !slices.ContainsFunc(own, ip.Equal) {
			own = append(own, ip)
		}
	}
	return own, nil
}

// refuse is PERMISSION_DENIED with a message for whoever runs the join.
func refuse(format string, args ...any) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden,
		Message: fmt.Sprintf(format, args...),
	}}
}

// humanize prints a duration in its largest unit.
func humanize(d time.Duration) string {
	for _, unit := range []struct {
		name string
		size time.Duration
	}{{"day", 24 * time.Hour}, {"hour", time.Hour}, {"minute", time.Minute}, {"second", time.Second}} {
		if n := int(d / unit.size); n == 1 {
			return "1 " + unit.name
		} else if n > 1 {
			return fmt.Sprintf("%d %ss", n, unit.name)
		}
	}
	return "less than a second"
}
