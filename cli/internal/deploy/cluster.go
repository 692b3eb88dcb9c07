package deploy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"kijabi.dev/cli/internal/remote"
)

// masterTaint is the key of a master's taint.
const masterTaint = "node-role.kubernetes.io/control-plane"

// asAdmin runs kijabi with root's access to the cluster, whoever root is otherwise, and
// leaves no cache of kubectl behind. $1 is the program.
const asAdmin = `unset SUDO_UID SUDO_GID KUBECONFIG
export HOME=/nonexistent KIJABI_ACCESS=/etc/kijabi/admin
KUBECACHEDIR=$(mktemp -d) || exit 1
export KUBECACHEDIR
trap 'rm -rf "$KUBECACHEDIR"' EXIT
"$@"`

// ask runs a kijabi command on the anchor and returns what it prints.
func (d *Deployment) ask(ctx context.Context, anchor string, args ...string) ([]byte, error) {
	m, err := d.anchorShell(anchor)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	argv := append([]string{d.program(anchor)}, args...)
	if err := m.Run(ctx, remote.Script{Text: asAdmin, Args: argv, Output: &out}); err != nil {
		return out.Bytes(), err
	}
	return out.Bytes(), nil
}

// program is the path of kijabi on a machine.
func (d *Deployment) program(host string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if member := d.facts[host].Member; member != nil && member.BinDir != "" {
		return member.BinDir + "/kijabi"
	}
	return "/opt/kijabi-" + d.version + "/bin/kijabi"
}

// leading is the part of `kijabi status -o json` that is looked at.
type leading struct {
	Leader  string `json:"leader"`
	Masters []struct {
		Name    string `json:"name"`
		Address string `json:"address"`
		Alive   bool   `json:"alive"`
		Role    string `json:"role"`
		Reason  string `json:"reason"`
	} `json:"masters"`
	VirtualAddresses []struct {
		Address string `json:"address"`
	} `json:"virtualAddresses"`
}

func (d *Deployment) status(ctx context.Context, anchor string) (leading, error) {
	var status leading
	out, err := d.ask(ctx, anchor, "status", "-o", "json")
	if jsonErr := json.Unmarshal(out, &status); jsonErr != nil {
		if err == nil {
			err = jsonErr
		}
		return leading{}, fmt.Errorf("status of the cluster, asked on %s: %w", anchor, err)
	}
	if status.Leader == "" {
		var silent []string
		for _, master := range status.Masters {
			if !master.Alive {
				silent = append(silent, strings.TrimSpace(master.Name+" "+master.Reason))
			}
		}
		return leading{}, fmt.Errorf("no master leads the cluster (%s): most masters must run before machines are added or removed; see `kijabi status` on %s",
			strings.Join(silent, ", "), anchor)
	}
	return status, nil
}

// readCluster asks the anchor for masters and nodes.
func (d *Deployment) readCluster(ctx context.Context, anchor string) (*Cluster, error) {
	var list corev1.NodeList
	var group errgroup.Group
	group.Go(func() error {
		out, err := d.ask(ctx, anchor, "kubectl", "get", "nodes", "-o", "json")
		if err == nil {
			err = json.Unmarshal(out, &list)
		}
		if err != nil {
			return fmt.Errorf("nodes of the cluster, asked on %s: %w", anchor, err)
		}
		return nil
	})
	status, err := d.status(ctx, anchor)
	listErr := group.Wait()
	if err == nil { // without a leader the status says more
		err = listErr
	}
	if err != nil {
		return nil, err
	}
	cluster := &Cluster{}
	for _, master := range status.Masters {
		cluster.Masters = append(cluster.Masters, ClusterMaster{Name: master.Name, Address: master.Address, Alive: master.Alive, Spare: master.Role == "spare" || master.Role == "learner"})
	}
	for _, virtual := range status.VirtualAddresses {
		cluster.VirtualAddresses = append(cluster.VirtualAddresses, virtual.Address)
	}
	for _, node := range list.Items {
		one := ClusterNode{Name: node.Name, Labels: node.Labels}
		for _, address := range node.Status.Addresses {
			if address.Type == corev1.NodeInternalIP {
				one.Address = address.Address
			}
		}
		for _, condition := range node.Status.Conditions {
			if condition.Type == corev1.NodeReady {
				one.Ready = condition.Status == corev1.ConditionTrue
			}
		}
		for _, taint := range node.Spec.Taints {
			if taint.Key == masterTaint {
				one.Tainted = true
			}
		}
		cluster.Nodes = append(cluster.Nodes, one)
	}
	return cluster, nil
}

// token makes a join token for one machine.
func (d *Deployment) token(ctx context.Context, anchor string, role Role) (string, error) {
	out, err := d.ask(ctx, anchor, "token", "create", "--role", string(role), "--uses", "1", "--ttl", "15m")
	if err != nil {
		return "", fmt.Errorf("make a join token on %s: %w", anchor, err)
	}
	token := strings.TrimSpace(string(out))
	if token == "" {
		return "", errors.New("make a join token on " + anchor + ": it printed none")
	}
	return token, nil
}
