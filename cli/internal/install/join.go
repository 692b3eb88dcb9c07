package install

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
	certificatev1pb "kijabi.dev/proto/gen/kijabi/certificate/v1"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"

	"kijabi.dev/cli/internal/access"
)

const callTimeout = 20 * time.Second

// Invitation is where and with what a machine joins.
type Invitation struct {
	// Master is HOST or HOST:PORT of a master's gRPC door. Required.
	Master string
	// Token is a join token of the right role. Required.
	Token string
}

// errPin is returned by the handshake when the master belongs to another cluster.
var errPin = errors.New("the master there does not belong to the cluster of this token (its CA has another pin): check address and token")

// pinned returns a TLS configuration that accepts an apiserver below the CA that the
// token names, and nothing else. No byte of the token is sent before that check.
func pinned(token Token) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: pki.APIServerName, NextProtos: []string{"h2"},
		InsecureSkipVerify: true, // replaced by the check below
		VerifyConnection: func(state tls.ConnectionState) error {
			roots := x509.NewCertPool()
			known := false
			for _, cert := range state.PeerCertificates {
				if cert.IsCA && pki.Pin(pki.EncodeCertificate(cert.Raw)) == token.Pin {
					roots.AddCert(cert)
					known = true
				}
			}
			if !known {
				return errPin
			}
			_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{
				DNSName: pki.APIServerName, Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			})
			return err
		},
	}
}

// issuer obtains certificates for a token.
type issuer struct {
	client certificatev1pb.CertificateServiceClient
	token  Token
	name   string
	ip     net.IP
	at     string
}

// issued is a certificate with its key, all PEM.
type issued struct{ cert, key, ca []byte }

func (i *issuer) issue(ctx context.Context, component string) (*issued, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	key, err := pki.NewKey()
	if err != nil {
		return nil, err
	}
	request, err := pki.NewCSR(key, pki.Subject(component, i.name).CommonName, i.ip)
	if err != nil {
		return nil, err
	}
	answer, err := i.client.Issue(ctx, &certificatev1pb.IssueRequest{
		Token: i.token.Text, CertificateRequest: request, Name: i.name, Component: component,
	})
	if err != nil {
		return nil, i.explain(err)
	}
	if pki.Pin(answer.GetCaBundle()) != i.token.Pin {
		return nil, errPin
	}
	keyPEM, err := pki.EncodeKey(key)
	if err != nil {
		return nil, err
	}
	return &issued{answer.GetCertificate(), keyPEM, answer.GetCaBundle()}, nil
}

// explain makes one clear line of a failed call.
func (i *issuer) explain(err error) error {
	text := status.Convert(err).Message()
	switch {
	case strings.Contains(text, errPin.Error()):
		return fmt.Errorf("join through %s: %w", i.at, errPin)
	case access.Brief(err) != err.Error():
		return fmt.Errorf("join through %s: %s: is it a master's address, and does it run?", i.at, access.Brief(err))
	}
	if strings.Contains(text, "kijabi token create") {
		return fmt.Errorf("join through %s: %s", i.at, text)
	}
	role := "node"
	if i.token.Master {
		role = "master"
	}
	return fmt.Errorf("join through %s: %s: make a new token on a master with `kijabi token create --role %s`", i.at, text, role)
}

// dialPinned connects to a master, given as host:port, by token.
func dialPinned(invitation Invitation, token Token, o *Options) (*issuer, *grpc.ClientConn, error) {
	address := invitation.Master
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(credentials.NewTLS(pinned(token))), grpc.WithNoProxy())
	if err != nil {
		return nil, nil, fmt.Errorf("join through %s: %w", address, err)
	}
	return &issuer{
		client: certificatev1pb.NewCertificateServiceClient(conn), token: token,
		name: o.Name, ip: net.ParseIP(o.Address), at: address,
	}, conn, nil
}

// begin checks token and machine, and connects.
func begin(ctx context.Context, invitation Invitation, o *Options, master bool) (*issuer, *grpc.ClientConn, error) {
	token, err := ParseToken(invitation.Token)
	if err != nil {
		return nil, nil, err
	}
	if err := token.check(master); err != nil {
		return nil, nil, err
	}
	if invitation.Master, err = withPort(invitation.Master, configv1.PortGRPC); err != nil {
		return nil, nil, err
	}
	if err := o.complete(ctx, master, invitation.Master); err != nil {
		return nil, nil, err
	}
	return dialPinned(invitation, token, o)
}

// JoinNode makes this machine a node of an existing cluster.
func JoinNode(ctx context.Context, invitation Invitation, o Options) (err error) {
	certificates, conn, err := begin(ctx, invitation, &o, false)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	s := o.settings(false)
	var f files
	if err := f.addDirectories(&o); err != nil {
		return err
	}
	var kubelet *issued
	for _, c := range components(false) {
		if c.identity == "" {
			continue
		}
		got, err := certificates.issue(ctx, c.identity)
		if err != nil {
			return err
		}
		if c.identity == pki.ComponentKubelet {
			kubelet = got
		}
		into := s.layout.leaf(c.identity)
		f.add(into.KeyFile, got.key, 0o600)
		f.add(into.CertFile, got.cert, 0o644)
	}
	f.add(s.layout.pki("ca.crt"), kubelet.ca, 0o644)
	o.Progress.Say("%s: certificates obtained from %s", s.name, certificates.at)
	id, err := pki.NewIdentity(kubelet.cert, kubelet.key, kubelet.ca)
	if err != nil {
		return err
	}
	if err := s.learn(ctx, certificates.at, id); err != nil {
		return err
	}
	if err := f.addConfigurations(s); err != nil {
		return err
	}
	return o.startNode(ctx, s, &f, id)
}

// startNode writes the files, starts the programs and waits until the node is Ready.
func (o *Options) startNode(ctx context.Context, s settings, f *files, id *pki.Identity) (err error) {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	defer func() {
		if err != nil {
			err = o.Layout.explainFull(err)
			o.rollback(ctx, s)
			f.undo()
		}
	}()
	if err := f.write(); err != nil {
		return err
	}
	if err := o.startPrograms(ctx, s); err != nil {
		return err
	}
	if err := o.loadImages(ctx, s); err != nil {
		return err
	}
	if err := o.awaitHealthy(ctx, s, id); err != nil {
		return err
	}
	if err := o.awaitNode(ctx, s, id); err != nil {
		return err
	}
	return o.writeMember(s)
}

// learn asks a master for the cluster's id, ranges and masters.
func (s *settings) learn(ctx context.Context, at string, id *pki.Identity) error {
	conn, err := rpc.Dial(at, id)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := mastersv1pb.NewMastersServiceClient(conn).Status(ctx, &mastersv1pb.StatusRequest{})
	if err != nil {
		return fmt.Errorf("ask %s for the masters: %w", at, err)
	}
	if err := s.adopt(answer.GetNetwork()); err != nil {
		return err
	}
	s.clusterID = answer.GetClusterId()
	s.masters = hostsOf(answer.GetMembers(), s.name)
	if len(s.masters) == 0 {
		host, _, err := net.SplitHostPort(at)
		if err != nil {
			return err
		}
		s.masters = []string{host}
	}
	return nil
}

// hostsOf returns the addresses of masters, except the one called except.
func hostsOf(members []*mastersv1pb.Member, except string) []string {
	var hosts []string
	for _, member := range members {
		host, _, err := net.SplitHostPort(member.GetGrpcAddress())
		if err != nil || member.GetName() == except || slices.Contains(hosts, host) {
			continue
		}
		hosts = append(hosts, host)
	}
	return hosts
}

// JoinMaster makes this machine a further master of an existing cluster.
func JoinMaster(ctx context.Context, invitation Invitation, o Options) (err error) {
	certificates, conn, err := begin(ctx, invitation, &o, true)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	own, err := certificates.issue(ctx, pki.ComponentAPIServer)
	if err != nil {
		return err
	}
	o.Progress.Say("%s: certificate obtained from %s", o.Name, certificates.at)
	id, err := pki.NewIdentity(own.cert, own.key, own.ca)
	if err != nil {
		return err
	}
	existing, err := rpc.Dial(certificates.at, id)
	if err != nil {
		return err
	}
	defer func() { _ = existing.Close() }()
	masters := mastersv1pb.NewMastersServiceClient(existing)
	answer, err := join(ctx, masters, &o)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			leave(ctx, masters, o.Name)
		}
	}()
	o.Progress.Say("%s: on the roster as learner", o.Name)
	s := o.settings(true)
	s.clusterID, s.masters = answer.GetClusterId(), hostsOf(answer.GetMembers(), o.Name)
	if !s.said.Etcd.Separate() {
		s.said.Etcd.QuotaBytes = cmp.Or(s.said.Etcd.QuotaBytes, answer.GetEtcdQuotaBytes())
	}
	if life := answer.GetCertificateLife(); s.said.Masters.CertificateLife == nil && life != nil {
		s.said.Masters.CertificateLife = &metav1.Duration{Duration: life.AsDuration()}
	}
	if after := answer.GetReplaceDeadAfter(); s.said.Masters.ReplaceDeadAfter == nil && after != nil {
		s.said.Masters.ReplaceDeadAfter = &metav1.Duration{Duration: after.AsDuration()}
	}
	if err := errors.Join(s.adopt(answer.GetNetwork()), s.adoptVIP(answer.GetVirtualAddresses())); err != nil {
		return err
	}
	f, err := masterFiles(s, answer, &o)
	if err != nil {
		return err
	}
	return o.startMaster(ctx, s, f)
}

// leaderWait is how long a join waits for the masters to have a leader, between attempts of leaderPause.
const (
	leaderWait  = 30 * time.Second
	leaderPause = 200 * time.Millisecond
)

// join asks to be put on the roster. While leadership moves, as it does when another
// master joins at the same time, it asks again.
func join(ctx context.Context, masters mastersv1pb.MastersServiceClient, o *Options) (*mastersv1pb.JoinResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, leaderWait)
	defer cancel()
	for {
		answer, err := joinOnce(ctx, masters, o)
		if err == nil {
			return answer, nil
		}
		if !apierrors.IsServiceUnavailable(err) && !apierrors.IsServerTimeout(err) {
			return nil, fmt.Errorf("join the masters as %s: %w", o.Name, err)
		}
		select {
		case <-time.After(leaderPause):
		case <-ctx.Done():
			return nil, fmt.Errorf("join the masters as %s: %w", o.Name, err)
		}
	}
}

func joinOnce(ctx context.Context, masters mastersv1pb.MastersServiceClient, o *Options) (*mastersv1pb.JoinResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return masters.Join(ctx, &mastersv1pb.JoinRequest{
		Name: o.Name, PeerAddress: hostPort(o.Address, configv1.PortPeer),
		EtcdPeerUrl: etcdPeerURL(o.Said.Etcd, o.Address),
		GrpcAddress: hostPort(o.Address, configv1.PortGRPC), RestAddress: hostPort(o.Address, configv1.PortREST),
	})
}

// leave takes a master that could not start off the roster again.
func leave(ctx context.Context, masters mastersv1pb.MastersServiceClient, name string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	_, _ = masters.Remove(ctx, &mastersv1pb.RemoveRequest{Name: name})
}

// masterFiles are the files of a joining master: the shared keys, certificates signed
// with them, and configurations.
func masterFiles(s settings, answer *mastersv1pb.JoinResponse, o *Options) (*files, error) {
	shared := answer.GetPki()
	parse := func(name string) (*pki.CA, error) {
		ca, err := pki.ParseCA(shared[name+".crt"], shared[name+".key"])
		if err != nil {
			return nil, fmt.Errorf("key %s handed over by the masters: %w", name, err)
		}
		return ca, nil
	}
	cluster, err := parse("ca")
	if err != nil {
		return nil, err
	}
	peer, err := parse("peer-ca")
	if err != nil {
		return nil, err
	}
	f := &files{}
	if err := f.addDirectories(o); err != nil {
		return nil, err
	}
	for name, content := range shared {
		if filepath.Base(name) != name {
			return nil, fmt.Errorf("key %q handed over by the masters is no plain file name", name)
		}
		mode := os.FileMode(0o600)
		if !strings.HasSuffix(name, ".key") {
			mode = 0o644
		}
		f.add(s.layout.pki(name), content, mode)
	}
	masters := []access.Master{doors(s.name, s.address)}
	for _, member := range answer.GetMembers() {
		if member.GetName() != s.name {
			masters = append(masters, access.Master{Name: member.GetName(), GRPC: member.GetGrpcAddress(), REST: member.GetRestAddress()})
		}
	}
	return f, errors.Join(issueAll(f, s, cluster, peer), addAdmin(f, s, cluster, masters), f.addConfigurations(s))
}
