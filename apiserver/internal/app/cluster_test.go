package app

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/pki"
)

// cluster holds the keys of a cluster whose masters run on this host.
type cluster struct {
	t   *testing.T
	dir string
	cas map[string]*pki.CA
}

// newCluster writes the keys that all masters share.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{t: t, dir: t.TempDir(), cas: map[string]*pki.CA{}}
	for _, base := range []string{"ca", "peer-ca", "front-proxy-ca"} {
		ca, err := pki.NewCA(base, time.Hour)
		c.must(err)
		c.must(ca.Save(c.dir, base))
		c.cas[base] = ca
	}
	key, err := pki.NewKey()
	c.must(err)
	keyPEM, err := pki.EncodeKey(key)
	c.must(err)
	c.must(os.WriteFile(filepath.Join(c.dir, "service-account.key"), keyPEM, 0o600))
	return c
}

func (c *cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// identity writes what a component of a machine proves itself with.
func (c *cluster) identity(ca, component, machine, ip string) configv1.Identity {
	c.t.Helper()
	request := pki.Subject(component, machine)
	request.IPs = append(request.IPs, net.ParseIP(ip))
	request.Life = time.Hour
	cert, key, err := c.cas[ca].Issue(request)
	c.must(err)
	base := filepath.Join(c.dir, ca+"-"+component+"-"+machine)
	files := configv1.Identity{CertFile: base + ".crt", KeyFile: base + ".key", CAFile: filepath.Join(c.dir, ca+".crt")}
	c.must(os.WriteFile(files.CertFile, cert, 0o600))
	c.must(os.WriteFile(files.KeyFile, key, 0o600))
	return files
}

// master returns the configuration of a master; the first one founds the cluster.
func (c *cluster) master(name, ip string) *configv1.APIServerConfiguration {
	c.t.Helper()
	at := func(port int) string { return net.JoinHostPort(ip, strconv.Itoa(port)) }
	cfg := DefaultConfig()
	cfg.APIVersion, cfg.Kind = configv1.APIVersion, "APIServerConfiguration"
	cfg.NodeName, cfg.ListenAddress, cfg.RESTAddress, cfg.PeerAddress = name, at(configv1.PortGRPC), at(configv1.PortREST), at(configv1.PortPeer)
	cfg.Identity = c.identity("ca", pki.ComponentAPIServer, name, ip)
	cfg.Peer = c.identity("peer-ca", pki.ComponentAPIServer, name, ip)
	cfg.AdvertiseAddress, cfg.DataDir, cfg.PKIDir, cfg.ClusterID = ip, filepath.Join(c.dir, name), c.dir, "test"
	cfg.Etcd.PeerURL = "https://" + at(configv1.PortEtcdPeer)
	cfg.Bootstrap = name == "m1"
	c.must(os.MkdirAll(cfg.DataDir, 0o700))
	return cfg
}

// admin is the identity of an administrator.
func (c *cluster) admin() *pki.Identity {
	c.t.Helper()
	id, err := pki.OpenIdentity(c.identity("ca", pki.ComponentAdmin, "", "127.0.0.1"))
	c.must(err)
	return id
}

// client speaks REST as an administrator.
func (c *cluster) client() *http.Client {
	c.t.Helper()
	files := c.identity("ca", pki.ComponentAdmin, "", "127.0.0.1")
	cert, err := tls.LoadX509KeyPair(files.CertFile, files.KeyFile)
	c.must(err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(c.cas["ca"].CertificatePEM())
	client := &http.Client{Transport: &http.Transport{
		ForceAttemptHTTP2: true,
		TLSClientConfig:   &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13},
	}}
	c.t.Cleanup(client.CloseIdleConnections)
	return client
}
