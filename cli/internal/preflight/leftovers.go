package preflight

import (
	"context"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// leftovers looks for other clusters' parts that would fight with ours.
func leftovers(_ context.Context, m *Machine, t Target) Finding {
	if t.Member != "" {
		return okay("not looked for: this machine is a member")
	}
	if names := m.running("kubelet", "kube-proxy", "k3s", "k3s-server", "k3s-agent", "rke2", "k0s", "kube-apiserver"); len(names) > 0 {
		return fail("take the machine out of that cluster and stop it for good (for instance `kubeadm reset`)",
			"%s of another Kubernetes runs here: both would manage containers, services and ports", strings.Join(names, ", "))
	}
	if chains, err := m.Network.Chains(); err == nil {
		for _, chain := range chains {
			if strings.HasPrefix(chain.Name, "KUBE-") || strings.HasPrefix(chain.Name, "CILIUM_") || strings.HasPrefix(chain.Name, "cali-") {
				return fail("restart the machine, or remove them with `kubeadm reset` and the network add-on's own clean-up",
					"packet filter rules of another cluster are left (chain %s of table %s): they catch connections to services", chain.Name, chain.Table)
			}
		}
	}
	for _, device := range []string{"cni0", "flannel.1", "cilium_host", "vxlan.calico", "kube-ipvs0", "kube-bridge", "weave"} {
		if _, err := fs.Stat(m.Files, "sys/class/net/"+device); err == nil {
			return warn("ip link delete "+device, "network interface %s of another cluster is left: it may hold addresses of pods", device)
		}
	}
	for _, file := range []string{"etc/kubernetes/kubelet.conf", "etc/rancher/k3s", "etc/rancher/rke2", "var/lib/k0s"} {
		if _, err := fs.Stat(m.Files, file); err == nil {
			return warn("remove that installation", "/%s of another Kubernetes is left: it may start again with the machine", file)
		}
	}
	return okay("nothing of another cluster")
}

// running returns which of the programs run in this machine. Processes with a network of
// their own, such as containers, are machines of their own here.
func (m *Machine) running(programs ...string) []string {
	own, _ := fs.ReadLink(m.Files, "proc/self/ns/net")
	paths, _ := fs.Glob(m.Files, "proc/[0-9]*/comm")
	var found []string
	for _, file := range paths {
		lines, err := m.lines(file)
		if err != nil || !slices.Contains(programs, lines[0]) || slices.Contains(found, lines[0]) {
			continue
		}
		space, err := fs.ReadLink(m.Files, path.Join(path.Dir(file), "ns/net"))
		if err == nil && space == own {
			found = append(found, lines[0])
		}
	}
	slices.Sort(found)
	return found
}
