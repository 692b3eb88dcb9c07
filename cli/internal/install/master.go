package install

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"kijabi.dev/platform/atomicfile"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
	certificatev1pb "kijabi.dev/proto/gen/kijabi/certificate/v1"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"

	"kijabi.dev/cli/internal/access"
)

// authorities are the keys that all masters share.
type authorities struct {
	cluster    *pki.CA
	peer       *pki.CA
	frontProxy *pki.CA
	serviceKey []byte // PEM, private
	servicePub []byte // PEM, public
	storageKey []byte // PEM, seals Secrets in etcd
}

func newAuthorities() (*authorities, error) {
	a := authorities{storageKey: pki.NewStorageKey()}
	for _, made := range []struct {
		into *(*pki.CA)
		name string
	}{{&a.cluster, "kijabi-ca"}, {&a.peer, "kijabi-peer-ca"}, {&a.frontProxy, "kijabi-front-proxy-ca"}} {
		ca, err := pki.NewCA(made.name, 0)
		if err != nil {
			return nil, err
		}
		*made.into = ca
	}
	key, err := pki.NewKey()
	if err != nil {
		return nil, err
	}
	if a.serviceKey, err = pki.EncodeKey(key); err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("service account key: %w", err)
	}
	a.servicePub = pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	return &a, nil
}

// add adds the files of the pki directory.
func (a *authorities) add(f *files, layout Layout) error {
	for name, ca := range map[string]*pki.CA{"ca": a.cluster, "peer-ca": a.peer, "front-proxy-ca": a.frontProxy} {
		key, err := ca.KeyPEM()
		if err != nil {
			return err
		}
		f.add(layout.pki(name+".key"), key, 0o600)
		f.add(layout.pki(name+".crt"), ca.CertificatePEM(), 0o644)
	}
	f.add(layout.pki("service-account.key"), a.serviceKey, 0o600)
	f.add(layout.pki("service-account.pub"), a.servicePub, 0o644)
	f.add(layout.pki(pki.StorageKeyFile), a.storageKey, 0o600)
	return nil
}

// issue adds a certificate of a component on this machine.
func issue(f *files, ca *pki.CA, s settings, component string, into configv1.Identity) error {
	request := pki.Subject(component, s.name)
	request.Life = s.said.Masters.LeafLife()
	if request.Server {
		request.IPs = append(request.IPs, net.ParseIP(s.address))
	}
	if component == pki.ComponentAPIServer { // pods reach it as a service
		request.IPs = append(request.IPs, s.network.APIAddress().AsSlice())
		request.DNSNames = append(request.DNSNames, "kubernetes.default.svc."+s.network.ClusterDomain)
		for _, address := range s.said.VIP.Parsed() {
			request.IPs = append(request.IPs, address.AsSlice())
		}
	}
	certPEM, keyPEM, err := ca.Issue(request)
	if err != nil {
		return err
	}
	f.add(into.KeyFile, keyPEM, 0o600)
	f.add(into.CertFile, certPEM, 0o644)
	return nil
}

// issueAll adds the certificates of all of a master's programs.
func issueAll(f *files, s settings, cluster, peer *pki.CA) error {
	for _, c := range components(true) {
		if c.identity == "" {
			continue
		}
		if err := issue(f, cluster, s, c.identity, s.layout.leaf(c.identity)); err != nil {
			return err
		}
	}
	return issue(f, peer, s, pki.ComponentAPIServer, s.peer())
}

// addAdmin adds root's access on a master.
func addAdmin(f *files, s settings, cluster *pki.CA, masters []access.Master) error {
	admin := &access.Access{Dir: s.layout.AdminDir(), Cluster: access.Cluster{Name: "local", Masters: masters, VIP: access.Doors(s.said.VIP.Addresses)}}
	into := admin.Files()
	if err := issue(f, cluster, s, pki.ComponentAdmin, into); err != nil {
		return err
	}
	f.add(into.CAFile, cluster.CertificatePEM(), 0o644)
	content, err := json.MarshalIndent(admin.Cluster, "", "  ")
	if err != nil {
		return err
	}
	f.add(filepath.Join(admin.Dir, "cluster.json"), append(content, '\n'), 0o600)
	return nil
}

func doors(name, address string) access.Master {
	return access.Master{Name: name, GRPC: hostPort(address, configv1.PortGRPC), REST: hostPort(address, configv1.PortREST)}
}

// Founded is what a new cluster's first master prints.
type Founded struct {
	// Address other machines join at.
	Address string
	// MasterToken and NodeToken are join tokens.
	MasterToken, NodeToken string
}

// InitMaster makes this machine the first master of a new cluster.
func InitMaster(ctx context.Context, o Options) (_ *Founded, err error) {
	if err := o.complete(ctx, true, ""); err != nil {
		return nil, err
	}
	clusterID, err := randomID()
	if err != nil {
		return nil, err
	}
	s := o.settings(true)
	s.clusterID, s.network, s.bootstrap = clusterID, o.Said.Network.WithDefaults(), true
	if err := errors.Join(checkAddress(s.address, s.network), s.checkVIP()); err != nil {
		return nil, err
	}
	made, err := newAuthorities()
	if err != nil {
		return nil, err
	}
	var f files
	err = errors.Join(f.addDirectories(&o), made.add(&f, s.layout), issueAll(&f, s, made.cluster, made.peer),
		addAdmin(&f, s, made.cluster, []access.Master{doors(s.name, s.address)}), f.addConfigurations(s))
	if err != nil {
		return nil, err
	}
	if err := o.startMaster(ctx, s, &f); err != nil {
		return nil, err
	}
	if err := s.founded(); err != nil {
		return nil, err
	}
	return o.invite(ctx, s)
}

// founded takes the order to found a cluster out of the apiserver's configuration, for
// it has been carried out: should this machine lose its data one day, it must not found a second
// cluster beside the one that goes on without it.
func (s settings) founded() error {
	s.bootstrap = false
	for _, c := range components(true) {
		if c.program != apiserver {
			continue
		}
		content, err := s.configuration(c)
		if err != nil {
			return err
		}
		return atomicfile.Write(s.layout.config(c.program), content, 0o644)
	}
	return nil
}

// startMaster writes the files, starts the programs and waits until the master does its
// part. Failure undoes all of it.
func (o *Options) startMaster(ctx context.Context, s settings, f *files) (err error) {
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
	o.Progress.Say("%s: certificates and configuration written", s.name)
	if err := o.startPrograms(ctx, s); err != nil {
		return err
	}
	admin, err := access.Load(s.layout.AdminDir())
	if err != nil {
		return err
	}
	id, err := pki.OpenIdentity(admin.Files())
	if err != nil {
		return err
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return o.loadImages(groupCtx, s) })
	group.Go(func() error {
		if err := o.awaitMaster(groupCtx, s, id); err != nil {
			return err
		}
		return o.awaitHealthy(groupCtx, s, id)
	})
	if err := group.Wait(); err != nil {
		return err
	}
	if err := o.awaitNode(ctx, s, id); err != nil {
		return err
	}
	if err := o.labelMaster(ctx, s, id); err != nil {
		return err
	}
	return o.writeMember(s)
}

// awaitMaster waits until the machine's own apiserver knows a leader and counts itself
// among the masters that have caught up.
func (o *Options) awaitMaster(ctx context.Context, s settings, id *pki.Identity) error {
	conn, err := rpc.Dial(hostPort(s.address, configv1.PortGRPC), id)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	masters := mastersv1pb.NewMastersServiceClient(conn)
	return o.Progress.Wait(ctx, s.name+": apiserver is up and follows a leader", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		status, err := masters.Status(ctx, &mastersv1pb.StatusRequest{})
		if err != nil {
			return fmt.Errorf("apiserver: %s (%s)", access.Brief(err), o.Services.LogHint(apiserver))
		}
		if status.GetLeader() == "" || status.GetEpoch() == 0 {
			return errors.New("apiserver: no master leads yet")
		}
		for _, member := range status.GetMembers() {
			if member.GetName() != s.name {
				continue
			}
			if member.GetRole() == mastersv1pb.MemberRole_MEMBER_ROLE_LEARNER {
				return fmt.Errorf("apiserver: %s is still catching up", s.name)
			}
			return nil
		}
		return fmt.Errorf("apiserver: %s is not on the roster yet", s.name)
	})
}

// invite makes a token of each role.
func (o *Options) invite(ctx context.Context, s settings) (*Founded, error) {
	admin, err := access.Load(s.layout.AdminDir())
	if err != nil {
		return nil, err
	}
	conn, _, err := admin.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	certificates := certificatev1pb.NewCertificateServiceClient(conn)
	found := &Founded{Address: s.address}
	for role, into := range map[certificatev1pb.TokenRole]*string{
		certificatev1pb.TokenRole_TOKEN_ROLE_MASTER: &found.MasterToken,
		certificatev1pb.TokenRole_TOKEN_ROLE_NODE:   &found.NodeToken,
	} {
		answer, err := certificates.CreateToken(ctx, &certificatev1pb.CreateTokenRequest{Role: role})
		if err != nil {
			return nil, fmt.Errorf("make a join token: %w", err)
		}
		*into = answer.GetToken()
	}
	return found, nil
}
