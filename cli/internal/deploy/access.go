package deploy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"kijabi.dev/platform/atomicfile"
	configv1 "kijabi.dev/platform/config/v1"

	"kijabi.dev/cli/internal/access"
	"kijabi.dev/cli/internal/remote"
)

// checkAccess refuses to mix two clusters under one name on this computer.
func (d *Deployment) checkAccess(ctx context.Context, anchor string) error {
	dir := filepath.Join(d.Home.Dir, d.Hosts.Cluster)
	d.user = &access.Access{Dir: dir, Cluster: access.Cluster{Name: d.Hosts.Cluster}}
	known, err := os.ReadFile(d.user.Files().CAFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("access to cluster %q: %w", d.Hosts.Cluster, err)
	}
	fix := fmt.Sprintf("choose another name in cluster:, or remove %s if that one is gone", dir)
	if anchor == "" {
		return fmt.Errorf("another cluster is known as %q here, and this one is yet to be founded: %s", d.Hosts.Cluster, fix)
	}
	m, err := d.anchorShell(anchor)
	if err != nil {
		return err
	}
	ca, err := readAdmin(ctx, m, "ca.crt")
	if err != nil {
		return err
	}
	if !bytes.Equal(ca, known) {
		return fmt.Errorf("the cluster of %s is not the one that is known as %q here: %s", anchor, d.Hosts.Cluster, fix)
	}
	if old, err := access.Load(dir); err == nil {
		d.user = old
	}
	return nil
}

// readAdmin reads a file of root's access on a master.
func readAdmin(ctx context.Context, m Shell, name string) ([]byte, error) {
	var out bytes.Buffer
	if err := m.Run(ctx, remote.Script{Text: `cat "/etc/kijabi/admin/$1"`, Args: []string{name}, Output: &out}); err != nil {
		return nil, fmt.Errorf("read the administrator's %s: %w", name, err)
	}
	return out.Bytes(), nil
}

// giveAccess writes the user's certificate, the masters and nodes, and the kubeconfig.
func (r *run) giveAccess(ctx context.Context) error {
	if r.anchor == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), accessTimeout)
	defer cancel()
	cluster := r.cluster
	if cluster == nil || r.Plan.Changes() {
		var err error
		if cluster, err = r.readCluster(ctx, r.anchor); err != nil {
			return err
		}
	}
	if _, err := r.Home.MakeDir(r.Hosts.Cluster); err != nil {
		return err
	}
	if err := r.copyIdentity(ctx); err != nil {
		return err
	}
	var masters []access.Master
	var nodes []access.Node
	for _, master := range cluster.Masters {
		masters = append(masters, access.Master{Name: master.Name, GRPC: door(master.Address, configv1.PortGRPC), REST: door(master.Address, configv1.PortREST)})
	}
	for _, node := range cluster.Nodes {
		if !cluster.onRoster(node.Name) {
			nodes = append(nodes, access.Node{Name: node.Name, Address: node.Address})
		}
	}
	r.user.Learn(masters, nil)
	r.user.Cluster.Nodes, r.user.Cluster.VIP = nodes, access.Doors(cluster.VirtualAddresses)
	if err := r.user.Save(r.Home.Owner); err != nil {
		return err
	}
	if err := r.user.WriteKubeconfig(r.Home.Kubeconfig(), r.Program, r.Home.Owner); err != nil {
		return err
	}
	return errors.Join(r.user.RepairKubeconfig(r.Home.Kubeconfig(), r.Home.Owner), r.remember(cluster))
}

// copyIdentity takes the administrator's certificate of the anchor over. It is valid,
// while one that the user has may have ended long ago.
func (r *run) copyIdentity(ctx context.Context) error {
	files := r.user.Files()
	m, err := r.anchorShell(r.anchor)
	if err != nil {
		return err
	}
	for _, file := range []struct {
		name, path string
		mode       os.FileMode
	}{{"user.key", files.KeyFile, 0o600}, {"user.crt", files.CertFile, 0o600}, {"ca.crt", files.CAFile, 0o644}} {
		content, err := readAdmin(ctx, m, file.name)
		if err != nil {
			return err
		}
		if err := atomicfile.Write(file.path, content, file.mode); err != nil {
			return err
		}
		if err := r.Home.Owner.Own(file.path); err != nil {
			return err
		}
	}
	return nil
}

func door(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// Access is the user's, as it was written.
func (d *Deployment) Access() *access.Access { return d.user }

func knownPath(home access.UserHome, cluster string) string {
	return filepath.Join(home.Dir, cluster, "hosts.json")
}

// recall returns how the machines of a cluster were reached. Whoever is not in there is
// reached by the defaults.
func recall(home access.UserHome, cluster string) map[string]Host {
	var known map[string]Host
	content, err := os.ReadFile(knownPath(home, cluster))
	if err != nil || json.Unmarshal(content, &known) != nil {
		return nil
	}
	return known
}

// remember keeps how the machines of the cluster are reached, for the day when they are
// taken out of the file.
func (r *run) remember(cluster *Cluster) error {
	known := recall(r.Home, r.Hosts.Cluster)
	if known == nil {
		known = map[string]Host{}
	}
	for _, host := range r.Hosts.Hosts {
		known[host.Name] = host
	}
	maps.DeleteFunc(known, func(name string, _ Host) bool {
		_, node := cluster.node(name)
		return !node && !cluster.onRoster(name)
	})
	content, err := json.MarshalIndent(known, "", "  ")
	if err != nil {
		return err
	}
	path := knownPath(r.Home, r.Hosts.Cluster)
	if err := atomicfile.Write(path, append(content, '\n'), 0o600); err != nil {
		return err
	}
	return r.Home.Owner.Own(path)
}
