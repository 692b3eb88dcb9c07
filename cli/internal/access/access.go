// Package access is how a person reaches a cluster: the addresses of its masters, the
// person's certificate, and the kubeconfig made of both.
//
// An access is a directory: $HOME/.kijabi/<cluster> of a user, /etc/kijabi/admin of
// root on a master.
package access

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health/grpc_health_v1"

	"kijabi.dev/platform/atomicfile"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
	certificatev1pb "kijabi.dev/proto/gen/kijabi/certificate/v1"
)

// Master is a master's doors.
type Master struct {
	// Name of the machine.
	Name string `json:"name"`
	// GRPC is host:port of its gRPC door.
	GRPC string `json:"grpc"`
	// REST is host:port of its REST door.
	REST string `json:"rest"`
}

// Node is a machine that is no master.
type Node struct {
	// Name of the machine.
	Name string `json:"name"`
	// Address is its IP.
	Address string `json:"address"`
}

// Cluster is the content of cluster.json.
type Cluster struct {
	// Name the user knows the cluster by.
	Name string `json:"name"`
	// Masters that were known last; the first is the kubeconfig's default unless there is a VIP.
	Masters []Master `json:"masters"`
	// VIP are host:port of the REST door at the virtual addresses, which whichever master leads
	// answers; the first is the kubeconfig's default then.
	VIP []string `json:"vip,omitempty"`
	// Nodes that were known last, to say which are unreachable when no master answers.
	Nodes []Node `json:"nodes,omitempty"`
}

// Doors are the REST doors at virtual addresses.
func Doors(addresses []string) []string {
	var all []string
	for _, address := range addresses {
		all = append(all, net.JoinHostPort(address, strconv.Itoa(configv1.PortREST)))
	}
	return all
}

// Addresses are the virtual ones.
func (a *Access) Addresses() []string {
	var all []string
	for _, door := range a.Cluster.VIP {
		if host, _, err := net.SplitHostPort(door); err == nil {
			all = append(all, host)
		}
	}
	return all
}

// Access is an access directory that was read.
type Access struct {
	// Dir is the directory.
	Dir string
	// Cluster is its cluster.json.
	Cluster Cluster
}

func (a *Access) clusterFile() string { return filepath.Join(a.Dir, "cluster.json") }

// Files are the user's certificate, key and CA bundle.
func (a *Access) Files() configv1.Identity {
	return configv1.Identity{
		CertFile: filepath.Join(a.Dir, "user.crt"), KeyFile: filepath.Join(a.Dir, "user.key"),
		CAFile: filepath.Join(a.Dir, "ca.crt"),
	}
}

// Load reads an access directory.
func Load(dir string) (*Access, error) {
	a := &Access{Dir: dir}
	content, err := os.ReadFile(a.clusterFile())
	if err != nil {
		return nil, fmt.Errorf("access to the cluster: %w", err)
	}
	if err := json.Unmarshal(content, &a.Cluster); err != nil {
		return nil, fmt.Errorf("access to the cluster: %s: %w", a.clusterFile(), err)
	}
	if len(a.Cluster.Masters) == 0 {
		return nil, fmt.Errorf("access to the cluster: %s names no master", a.clusterFile())
	}
	return a, nil
}

// Find returns the access to use: $KIJABI_ACCESS, else the named cluster of the user,
// else, without a name, the user's only one or the one called kijabi, else root's on a
// master.
func Find(name string) (*Access, error) {
	if dir := os.Getenv("KIJABI_ACCESS"); dir != "" {
		return Load(dir)
	}
	home, err := Home()
	if err != nil {
		return nil, err
	}
	if name != "" {
		return explain(Load(filepath.Join(home.Dir, name)))
	}
	if dir := filepath.Join(home.Dir, "kijabi"); exists(dir) {
		return Load(dir)
	}
	found, _ := filepath.Glob(filepath.Join(home.Dir, "*", "cluster.json"))
	switch len(found) {
	case 1:
		return Load(filepath.Dir(found[0]))
	case 0:
		return explain(Load(filepath.Join(configv1.ConfigDir, "admin")))
	default:
		return nil, fmt.Errorf("several clusters are known in %s: choose one with --cluster NAME", home.Dir)
	}
}

func explain(a *Access, err error) (*Access, error) {
	if errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("%w: run this as root", err)
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("no cluster found: start one with `kijabi up`, or run this as root on a master (%w)", err)
	}
	return a, err
}

func exists(path string) bool {
	_, err := os.Stat(filepath.Join(path, "cluster.json"))
	return err == nil
}

// Save writes cluster.json and leaves it to owner. Its directory must exist.
func (a *Access) Save(owner Owner) error {
	content, err := json.MarshalIndent(a.Cluster, "", "  ")
	if err != nil {
		return err
	}
	if err := atomicfile.Write(a.clusterFile(), append(content, '\n'), 0o644); err != nil {
		return fmt.Errorf("access to the cluster: %w", err)
	}
	return owner.Own(a.clusterFile())
}

// Identity reads the user's certificate. It is renewed first when it is due and a
// master answers.
func (a *Access) Identity(ctx context.Context) (*pki.Identity, error) {
	if err := a.Renew(ctx); err != nil {
		return nil, err
	}
	return pki.OpenIdentity(a.Files())
}

// Connect returns a connection to a living master and that master.
func (a *Access) Connect(ctx context.Context) (*grpc.ClientConn, Master, error) {
	id, err := a.Identity(ctx)
	if err != nil {
		return nil, Master{}, err
	}
	conn, master, err := a.any(ctx, func(m Master) (*grpc.ClientConn, error) { return rpc.Dial(m.GRPC, id) })
	return conn, master, err
}

// probeTimeout bounds how long one master may take to answer. A machine that is off
// answers nothing at all.
const probeTimeout = 1500 * time.Millisecond

type probed struct {
	master Master
	conn   *grpc.ClientConn
	err    error
}

// any dials all masters at once and keeps the first that answers.
func (a *Access) any(ctx context.Context, dial func(Master) (*grpc.ClientConn, error)) (*grpc.ClientConn, Master, error) {
	results := make(chan probed, len(a.Cluster.Masters)) // those that come too late must not block
	probe, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	for _, master := range a.Cluster.Masters {
		//nolint:forbidigo // bounded by the probe's deadline
		go func() {
			conn, err := dial(master)
			if err == nil {
				_, err = grpc_health_v1.NewHealthClient(conn).Check(probe, &grpc_health_v1.HealthCheckRequest{})
			}
			if err == nil && probe.Err() != nil {
				err = probe.Err()
			}
			if err != nil {
				closeConn(conn)
			}
			results <- probed{master, conn, err}
		}()
	}
	reasons := map[string]string{}
	for range a.Cluster.Masters {
		got := <-results
		if got.err == nil {
			cancel()
			go a.closeRest(results, len(a.Cluster.Masters)-len(reasons)-1) //nolint:forbidigo // ends with the probes
			return got.conn, got.master, nil
		}
		reasons[got.master.Name] = fmt.Sprintf("%s (%s): %s", got.master.Name, got.master.GRPC, Brief(got.err))
	}
	var texts []string
	for _, master := range a.Cluster.Masters {
		texts = append(texts, reasons[master.Name])
	}
	return nil, Master{}, fmt.Errorf("no master of cluster %q answers: %s", a.Cluster.Name, strings.Join(texts, "; "))
}

// closeRest closes the connections of masters that answered as well.
func (a *Access) closeRest(results <-chan probed, n int) {
	for range n {
		if late := <-results; late.err == nil {
			closeConn(late.conn)
		}
	}
}

func closeConn(conn *grpc.ClientConn) {
	if conn != nil {
		_ = conn.Close()
	}
}

// Brief is the last and most telling part of a connection error.
func Brief(err error) string {
	text := err.Error()
	for _, known := range []string{"connection refused", "no route to host", "i/o timeout", "connection reset", "certificate has expired"} {
		if strings.Contains(text, known) {
			return known
		}
	}
	if errors.Is(err, context.DeadlineExceeded) || strings.Contains(text, "DeadlineExceeded") || strings.Contains(text, "deadline exceeded") {
		return "no answer"
	}
	return text
}

// due is the moment the certificate should be renewed: two thirds into its life.
func due(certPEM []byte) (time.Time, error) {
	cert, err := pki.ParseCertificate(certPEM)
	if err != nil {
		return time.Time{}, err
	}
	return cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore) * 2 / 3), nil
}

// Renew renews the user's certificate when two thirds of its life have passed. While it
// is still valid a failure is not reported.
func (a *Access) Renew(ctx context.Context) error {
	files := a.Files()
	content, err := os.ReadFile(files.CertFile)
	if err != nil {
		return fmt.Errorf("your certificate: %w", err)
	}
	when, err := due(content)
	if err != nil {
		return fmt.Errorf("your certificate %s: %w", files.CertFile, err)
	}
	if time.Now().Before(when) {
		return nil
	}
	owner, err := OwnerOf(files.KeyFile)
	if err != nil {
		return err
	}
	err = pki.RenewNow(ctx, files, a.sign)
	if err == nil {
		return errors.Join(owner.Own(files.CertFile), owner.Own(files.CAFile))
	}
	if cert, parseErr := pki.ParseCertificate(content); parseErr == nil && time.Now().Before(cert.NotAfter) {
		return nil // it serves a while yet
	}
	return fmt.Errorf("your certificate for cluster %q has expired and cannot be renewed: %w", a.Cluster.Name, err)
}

// sign asks a master for a successor. The old certificate may have expired, so it is
// not shown in the handshake.
func (a *Access) sign(ctx context.Context, certPEM, csrPEM []byte) ([]byte, []byte, error) {
	id, err := pki.OpenIdentity(a.Files())
	if err != nil {
		return nil, nil, err
	}
	anonymous := id.ClientTLS(pki.APIServerName)
	anonymous.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return &tls.Certificate{}, nil
	}
	conn, _, err := a.any(ctx, func(m Master) (*grpc.ClientConn, error) {
		return grpc.NewClient("passthrough:///"+m.GRPC, grpc.WithTransportCredentials(credentials.NewTLS(anonymous)))
	})
	if err != nil {
		return nil, nil, err
	}
	defer closeConn(conn)
	response, err := certificatev1pb.NewCertificateServiceClient(conn).Renew(ctx,
		&certificatev1pb.RenewRequest{Certificate: certPEM, CertificateRequest: csrPEM})
	if err != nil {
		return nil, nil, rpc.FromStatus(err)
	}
	return response.GetCertificate(), response.GetCaBundle(), nil
}

// Learn replaces the known masters, and nodes when there are any, and reports whether
// that changed anything. The order of known masters is kept.
func (a *Access) Learn(masters []Master, nodes []Node) bool {
	if len(masters) == 0 {
		return false
	}
	position := func(m Master) int {
		return slices.IndexFunc(a.Cluster.Masters, func(known Master) bool { return known.Name == m.Name })
	}
	masters = slices.Clone(masters)
	slices.SortStableFunc(masters, func(x, y Master) int {
		px, py := position(x), position(y)
		if px < 0 || py < 0 {
			return py - px // known ones first
		}
		return px - py
	})
	changed := !slices.Equal(masters, a.Cluster.Masters)
	a.Cluster.Masters = masters
	if len(nodes) > 0 && !slices.Equal(nodes, a.Cluster.Nodes) {
		a.Cluster.Nodes, changed = nodes, true
	}
	return changed
}
