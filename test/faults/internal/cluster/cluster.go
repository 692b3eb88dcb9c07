// Package cluster is a cluster of `kijabi up` as a program sees it that breaks it: its
// machines, their processes, networks and files, and a connection to each master's gRPC door.
package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"

	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"
)

// stateRoot is where `kijabi up` keeps what belongs to clusters.
const stateRoot = "/var/lib/kijabi-up"

// CertificateLife is how long the certificates of a cluster's programs live: sessions see some
// renewals.
const CertificateLife = 2 * time.Minute

// options of all machines.
const options = `apiVersion: kijabi.dev/v1
kind: MemberOptions
masters: {certificateLife: %s}
`

// Config of a Cluster. All fields are required.
type Config struct {
	// Name of the cluster and Prefix of its machines' addresses, such as "10.92.0".
	Name, Prefix string
	// Bin is the directory of the programs, Home the user's, which Up fills.
	Bin, Home string
	// Masters is how many there are.
	Masters int
}

// Cluster is one that is up, or was. Its methods are safe for concurrent use, except Up and Down.
type Cluster struct {
	cfg      Config
	identity *pki.Identity
}

// Up starts a cluster of masters only, each of which is a node, too. What an earlier run left
// under the name is removed first.
func Up(ctx context.Context, cfg Config) (*Cluster, error) {
	c := &Cluster{cfg: cfg}
	if _, err := os.Stat(filepath.Join(stateRoot, cfg.Name)); err == nil {
		if err := c.Down(ctx); err != nil {
			return nil, err
		}
	}
	file := filepath.Join(cfg.Home, "options.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, options, CertificateLife), 0o600); err != nil {
		return nil, err
	}
	if _, err := c.kijabi(ctx, "up", "--name", cfg.Name, "--subnet", cfg.Prefix+".0/24", "--options", file,
		"--masters", strconv.Itoa(cfg.Masters), "--nodes", "0"); err != nil {
		return nil, errors.Join(err, c.Down(context.WithoutCancel(ctx)))
	}
	dir := filepath.Join(cfg.Home, ".kijabi", cfg.Name)
	var err error
	c.identity, err = pki.OpenIdentity(configv1.Identity{
		CertFile: filepath.Join(dir, "user.crt"), KeyFile: filepath.Join(dir, "user.key"), CAFile: filepath.Join(dir, "ca.crt"),
	})
	if err != nil {
		return nil, errors.Join(err, c.Down(context.WithoutCancel(ctx)))
	}
	return c, nil
}

// Down removes the cluster.
func (c *Cluster) Down(ctx context.Context) error {
	_, err := c.kijabi(ctx, "down", "--name", c.cfg.Name)
	return err
}

// Power kills, stops or starts machines.
func (c *Cluster) Power(ctx context.Context, verb string, names ...string) error {
	_, err := c.kijabi(ctx, append([]string{"machine", verb, "--name", c.cfg.Name}, names...)...)
	return err
}

// Kubectl runs kubectl as the cluster's administrator and returns what it prints.
func (c *Cluster) Kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	return c.run(ctx, stdin, filepath.Join(c.cfg.Bin, "kijabi"), append([]string{"kubectl"}, args...)...)
}

func (c *Cluster) kijabi(ctx context.Context, args ...string) (string, error) {
	return c.run(ctx, "", filepath.Join(c.cfg.Bin, "kijabi"), args...)
}

func (c *Cluster) run(ctx context.Context, stdin, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return slices.Contains([]string{"HOME", "KUBECONFIG", "SUDO_UID", "SUDO_GID"}, name)
	}), "HOME="+c.cfg.Home)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w: %s", filepath.Base(program), strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

// Masters are the names of the masters' machines.
func (c *Cluster) Masters() []string {
	names := make([]string, c.cfg.Masters)
	for i := range names {
		names[i] = fmt.Sprintf("master-%d", i+1)
	}
	return names
}

// Others are all masters but the given ones.
func (c *Cluster) Others(but ...string) []string {
	return slices.DeleteFunc(c.Masters(), func(name string) bool { return slices.Contains(but, name) })
}

// Address is the IP address of a master's machine.
func (c *Cluster) Address(master string) string {
	number, _ := strconv.Atoi(strings.TrimPrefix(master, "master-")) // names are ours
	return fmt.Sprintf("%s.%d", c.cfg.Prefix, 10+number)
}

// Host is the IP address of this host in the machines' network.
func (c *Cluster) Host() string { return c.cfg.Prefix + ".1" }

// Dial connects to one master's gRPC door as the administrator.
func (c *Cluster) Dial(master string, opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	return rpc.Dial(fmt.Sprintf("%s:%d", c.Address(master), configv1.PortGRPC), c.identity, opts...)
}

// Status is the masters' state as one of them sees it.
func (c *Cluster) Status(ctx context.Context, master string) (*mastersv1pb.StatusResponse, error) {
	conn, err := c.Dial(master)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return mastersv1pb.NewMastersServiceClient(conn).Status(ctx, &mastersv1pb.StatusRequest{})
}

// AwaitWhole waits until every master says the same: all are alive and vote, have their
// programs, and one leads. It returns the leader and its epoch.
func (c *Cluster) AwaitWhole(ctx context.Context, limit time.Duration) (leader string, epoch uint64, err error) {
	err = Await(ctx, limit, "all masters are whole", func() error {
		leader, epoch = "", 0
		for _, master := range c.Masters() {
			status, err := c.Status(ctx, master)
			if err != nil {
				return fmt.Errorf("%s: %w", master, err)
			}
			if err := c.whole(status); err != nil {
				return fmt.Errorf("%s says: %w", master, err)
			}
			if leader != "" && (status.GetLeader() != leader || status.GetEpoch() != epoch) {
				return fmt.Errorf("%s says that %s leads in epoch %d, others %s in %d", master, status.GetLeader(), status.GetEpoch(), leader, epoch)
			}
			leader, epoch = status.GetLeader(), status.GetEpoch()
		}
		return nil
	})
	return leader, epoch, err
}

func (c *Cluster) whole(status *mastersv1pb.StatusResponse) error {
	if status.GetLeader() == "" || status.GetEpoch() == 0 {
		return errors.New("nobody leads")
	}
	if n := len(status.GetMembers()); n != c.cfg.Masters {
		return fmt.Errorf("%d members", n)
	}
	for _, member := range status.GetMembers() {
		if !member.GetAlive() || member.GetRole() != mastersv1pb.MemberRole_MEMBER_ROLE_VOTER {
			return fmt.Errorf("%s: alive %t, %s", member.GetName(), member.GetAlive(), member.GetRole())
		}
		if member.GetEtcdLeader() != (member.GetName() == status.GetLeader()) {
			return fmt.Errorf("%s leads etcd: %t", member.GetName(), member.GetEtcdLeader())
		}
		for _, component := range member.GetComponents() {
			if !component.GetHealthy() {
				return fmt.Errorf("%s of %s is not healthy", component.GetName(), member.GetName())
			}
		}
	}
	return nil
}

// Await waits until check returns nil, looking every 20 ms.
func Await(ctx context.Context, limit time.Duration, what string, check func() error) error {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	retry := time.NewTicker(20 * time.Millisecond)
	defer retry.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, ctx.Err())
		case <-deadline.C:
			return fmt.Errorf("%s: not within %s: %w", what, limit, err)
		case <-retry.C:
		}
	}
}

// Lead hands leadership to a master and waits until it leads.
func (c *Cluster) Lead(ctx context.Context, master string) error {
	return Await(ctx, 30*time.Second, master+" leads", func() error {
		leader, _, err := c.AwaitWhole(ctx, 20*time.Second)
		if err != nil || leader == master {
			return err
		}
		conn, err := c.Dial(leader)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		if _, err = mastersv1pb.NewMastersServiceClient(conn).Transfer(ctx, &mastersv1pb.TransferRequest{To: master}); err == nil {
			err = fmt.Errorf("%s was just asked to", master)
		}
		return err
	})
}
