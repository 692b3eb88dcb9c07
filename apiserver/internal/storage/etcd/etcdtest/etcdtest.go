// Package etcdtest runs etcd as a separate etcd does: in processes of its own, which a test can
// kill and start again.
package etcdtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/version"
	"go.uber.org/zap"

	"kijabi.dev/apiserver/internal/storage/etcd"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/pki"
)

// Options of a cluster; the zero value is one member, without TLS, with the limits that the
// store needs.
type Options struct {
	// Members is their number, 0 for one.
	Members int
	// TLS lets clients in by a certificate only.
	TLS bool
	// Args are the flags instead of those that docs/operate.md gives.
	Args []string
}

// Cluster is an etcd in processes. Its methods are for one goroutine.
type Cluster struct {
	t       testing.TB
	options Options
	members []*member
	// Endpoints are the client URLs, by member.
	Endpoints []string
	// Files are a client's identity; zero without TLS.
	Files configv1.Identity

	ca *pki.CA
}

type member struct {
	name, dir, client, peer string
	process                 *os.Process // nil while it does not run
	ended                   chan struct{}
}

// Start starts an etcd that ends with the test.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	c := &Cluster{t: t, options: o}
	scheme := "http"
	if o.TLS {
		scheme = "https"
		c.makeCA()
	}
	for i := range max(1, o.Members) {
		ip := address(t)
		m := &member{name: fmt.Sprintf("e%d", i+1), dir: t.TempDir(), client: scheme + "://" + ip + ":2379", peer: "http://" + ip + ":2380"}
		if o.TLS {
			c.issue(m.dir, "server", ip)
		}
		c.members, c.Endpoints = append(c.members, m), append(c.Endpoints, m.client)
	}
	t.Cleanup(func() {
		for i := range c.members {
			c.Kill(i)
		}
	})
	for i := range c.members {
		c.Restart(i)
	}
	return c
}

// Connect returns a connection that ends with the test.
func (c *Cluster) Connect() *etcd.Separate {
	c.t.Helper()
	cfg := etcd.SeparateConfig{Endpoints: c.Endpoints, Log: zap.NewNop()}
	if c.options.TLS {
		var err error
		cfg.Identity, err = pki.OpenIdentity(c.Files)
		c.must(err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.t.Context()), time.Minute)
	defer cancel()
	s, err := etcd.Connect(ctx, cfg)
	c.must(err)
	c.t.Cleanup(s.Close)
	return s
}

// Kill ends a member as a crash does. It may be called twice.
func (c *Cluster) Kill(i int) {
	m := c.members[i]
	if m.process == nil {
		return
	}
	_ = m.process.Kill()
	<-m.ended
	m.process = nil
}

// Restart starts a member that does not run, from its disk.
func (c *Cluster) Restart(i int) {
	c.t.Helper()
	m := c.members[i]
	var initial []string
	for _, other := range c.members {
		initial = append(initial, other.name+"="+other.peer)
	}
	args := []string{
		"--name", m.name, "--data-dir", filepath.Join(m.dir, "data"), "--initial-cluster", strings.Join(initial, ","),
		"--listen-peer-urls", m.peer, "--initial-advertise-peer-urls", m.peer,
		"--listen-client-urls", m.client, "--advertise-client-urls", m.client,
		"--heartbeat-interval", "30", "--election-timeout", "300", "--log-level", "warn", "--enable-grpc-gateway=false",
	}
	if c.options.TLS {
		args = append(args, "--client-cert-auth", "--trusted-ca-file", c.Files.CAFile,
			"--cert-file", filepath.Join(m.dir, "server.crt"), "--key-file", filepath.Join(m.dir, "server.key"))
	}
	if c.options.Args == nil {
		args = append(args, fmt.Sprintf("--max-txn-ops=%d", etcd.MaxTxnOps), fmt.Sprintf("--max-request-bytes=%d", etcd.MaxRequestBytes))
	}
	// It must outlive the test's context, under which others still use it.
	cmd := exec.CommandContext(context.WithoutCancel(c.t.Context()), program(c.t), append(args, c.options.Args...)...)
	log, err := os.OpenFile(filepath.Join(m.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	c.must(err)
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	m.ended = make(chan struct{})
	go func(ended chan struct{}) {
		// The process ends with the thread that started it: that must live as long.
		runtime.LockOSThread()
		defer close(ended)
		started <- cmd.Start()
		_ = cmd.Wait() // a killed one fails
		_ = log.Close()
	}(m.ended)
	c.must(<-started)
	m.process = cmd.Process
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		conn, err := new(net.Dialer).DialContext(context.WithoutCancel(c.t.Context()), "tcp", m.client[strings.LastIndex(m.client, "/")+1:])
		if err == nil {
			_ = conn.Close()
			return
		}
		select {
		case <-m.ended:
			deadline = time.Time{}
		default:
		}
		// Of several, none listens before a majority is there.
		if len(c.members) > 1 && slices.ContainsFunc(c.members, func(other *member) bool { return other.process == nil }) {
			return
		}
		if time.Now().After(deadline) {
			said, _ := os.ReadFile(filepath.Join(m.dir, "log"))
			c.t.Fatalf("etcd %s does not listen: %v\n%s", m.name, err, said)
		}
	}
}

func (c *Cluster) makeCA() {
	c.t.Helper()
	var err error
	c.ca, err = pki.NewCA("etcd", time.Hour)
	c.must(err)
	dir := c.t.TempDir()
	c.must(c.ca.Save(dir, "ca"))
	c.Files = configv1.Identity{CAFile: filepath.Join(dir, "ca.crt"), CertFile: filepath.Join(dir, "client.crt"), KeyFile: filepath.Join(dir, "client.key")}
	c.Renew()
}

// Renew gives the client another certificate.
func (c *Cluster) Renew() {
	c.t.Helper()
	c.issue(filepath.Dir(c.Files.CertFile), "client", "127.0.0.1")
}

func (c *Cluster) issue(dir, name, ip string) {
	c.t.Helper()
	cert, key, err := c.ca.Issue(pki.LeafRequest{CommonName: name, IPs: []net.IP{net.ParseIP(ip)}, Life: time.Hour, Server: true, Client: true})
	c.must(err)
	c.must(os.WriteFile(filepath.Join(dir, name+".crt"), cert, 0o600))
	c.must(os.WriteFile(filepath.Join(dir, name+".key"), key, 0o600))
}

func (c *Cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// program is etcd's own main package, built once for each version.
func program(t testing.TB) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	dir := filepath.Join(cache, "kijabi-test")
	file := filepath.Join(dir, "etcd-"+version.Version+"-"+runtime.Version())
	if _, err := os.Stat(file); err == nil {
		return file
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	made := filepath.Join(dir, fmt.Sprintf("making-%d-%d", os.Getpid(), rand.Int64()))
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", made, "go.etcd.io/etcd/server/v3").CombinedOutput(); err != nil {
		t.Fatalf("build etcd: %v\n%s", err, out)
	}
	if err := os.Rename(made, file); err != nil {
		t.Fatal(err)
	}
	return file
}

// address is a loopback address of its own: a port of the common one could be taken before a
// member listens again.
func address(t testing.TB) string {
	t.Helper()
	for {
		ip := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(250), rand.IntN(250), 1+rand.IntN(250))
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", ip+":2379")
		if err == nil {
			_ = l.Close()
			return ip
		}
	}
}

// CA that etcd's certificates are of; nil without TLS.
func (c *Cluster) CA() *pki.CA { return c.ca }
