package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"

	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"
)

const (
	clusterName = "bench"
	subnet      = "10.95.0.0/24"
	virtual     = "10.95.0.100"
)

func masterAddress(n int) string { return fmt.Sprintf("10.95.0.%d:%d", 10+n, configv1.PortGRPC) }

// kijabi runs the command and returns what it printed.
func (b *bench) kijabi(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(b.bin, "kijabi"), args...)
	cmd.Env = append(os.Environ(), "HOME="+b.home, "KUBECONFIG=")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("kijabi %s: %w\n%s%s", strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}

// withCluster starts a cluster, runs task and removes it. Options are of `kijabi up`.
func (b *bench) withCluster(ctx context.Context, masters, nodes int, task func(*cluster) error, options ...string) (err error) {
	if _, err := b.kijabi(ctx, append([]string{
		"up", "--name", clusterName, "--subnet", subnet,
		"--masters", strconv.Itoa(masters), "--nodes", strconv.Itoa(nodes),
	}, options...)...); err != nil {
		return err
	}
	defer func() {
		_, downErr := b.kijabi(context.WithoutCancel(ctx), "down", "--name", clusterName)
		err = errors.Join(err, downErr)
	}()
	identity, err := b.identity()
	if err != nil {
		return err
	}
	return task(&cluster{bench: b, masters: masters, identity: identity})
}

func (b *bench) identity() (*pki.Identity, error) {
	dir := filepath.Join(b.home, ".kijabi", clusterName)
	return pki.OpenIdentity(configv1.Identity{
		CertFile: filepath.Join(dir, "user.crt"), KeyFile: filepath.Join(dir, "user.key"), CAFile: filepath.Join(dir, "ca.crt"),
	})
}

// cluster is a running one.
type cluster struct {
	*bench

	masters  int
	identity *pki.Identity
}

func (c *cluster) dial(master int, opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	return c.dialAddress(masterAddress(master), opts...)
}

func (c *cluster) dialAddress(address string, opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	return rpc.Dial(address, c.identity, opts...)
}

// failover connects to any master.
func (c *cluster) failover() (*rpc.Failover, error) {
	var addresses []string
	for i := range c.masters {
		addresses = append(addresses, masterAddress(i+1))
	}
	return rpc.DialAny(rpc.FailoverConfig{Addresses: addresses, Identity: c.identity, Log: zap.NewNop()})
}

// leaderChanges sums the leader changes that the living masters have seen.
func (c *cluster) leaderChanges(ctx context.Context, master int) (int64, error) {
	conn, err := c.dial(master)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	res, err := mastersv1pb.NewMastersServiceClient(conn).Status(ctx, &mastersv1pb.StatusRequest{})
	return res.GetLeaderChanges(), err
}

// leader returns the leading machine's name.
func (c *cluster) leader(ctx context.Context) (string, error) {
	out, err := c.kijabi(ctx, "status", "-o", "json")
	if err != nil {
		return "", err
	}
	var status struct{ Leader string }
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		return "", err
	}
	if status.Leader == "" {
		return "", errors.New("no master leads")
	}
	return status.Leader, nil
}

// process is a program of ours in one of the cluster's machines.
type process struct {
	pid     int
	machine string
	name    string
}

// processes finds the programs of the cluster's machines by their pid namespaces.
func (c *cluster) processes() ([]process, error) {
	machines := map[string]string{} // pid namespace to machine
	dirs, err := filepath.Glob(filepath.Join("/var/lib/kijabi-up", clusterName, "machines", "*", "pid"))
	if err != nil {
		return nil, err
	}
	for _, file := range dirs {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		pid := strings.Fields(string(content))[0]
		ns, err := os.Readlink("/proc/" + pid + "/ns/pid")
		if err != nil {
			return nil, err
		}
		machines[ns] = filepath.Base(filepath.Dir(file))
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var out []process
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
		if err != nil {
			continue // it has ended
		}
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		if err != nil || machines[ns] == "" {
			continue
		}
		out = append(out, process{pid: pid, machine: machines[ns], name: strings.TrimSuffix(filepath.Base(exe), " (deleted)")})
	}
	return out, nil
}

// cpu returns the CPU time a process has used.
func cpu(pid int) (time.Duration, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(content[bytes.LastIndexByte(content, ')')+2:]))
	user, err := strconv.ParseInt(fields[11], 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(fields[12], 10, 64)
	const tick = 10 * time.Millisecond // USER_HZ is 100 on Linux
	return time.Duration(user+system) * tick, err
}

// pages is a process's share of memory in bytes.
type pages struct {
	all int64
	// anonymous leaves out what is mapped from files: programs, and the database of etcd as far
	// as it was looked at lately, which the kernel takes back when it wants.
	anonymous int64
}

// pss returns a process's proportional set size.
func pss(pid int) (pages, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return pages{}, err
	}
	var p pages
	for line := range strings.Lines(string(content)) {
		name, rest, _ := strings.Cut(line, ":")
		into := map[string]*int64{"Pss": &p.all, "Pss_Anon": &p.anonymous}[name]
		if into == nil {
			continue
		}
		kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
		if err != nil {
			return pages{}, fmt.Errorf("smaps_rollup: %q: %w", line, err)
		}
		*into = kib << 10
	}
	if p.all == 0 || p.anonymous == 0 {
		return pages{}, errors.New("no Pss or Pss_Anon in smaps_rollup")
	}
	return p, nil
}

// apiserver returns the pid of a machine's apiserver.
func (c *cluster) apiserver(machine string) (int, error) { return c.program(machine, "apiserver") }

// program returns the pid of a program of a machine.
func (c *cluster) program(machine, name string) (int, error) {
	all, err := c.processes()
	if err != nil {
		return 0, err
	}
	for _, p := range all {
		if p.machine == machine && p.name == name {
			return p.pid, nil
		}
	}
	return 0, fmt.Errorf("no %s runs in %s", name, machine)
}
