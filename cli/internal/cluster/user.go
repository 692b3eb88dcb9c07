package cluster

import (
	"fmt"
	"os"

	"kijabi.dev/platform/atomicfile"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/pki"

	"kijabi.dev/cli/internal/access"
	"kijabi.dev/cli/internal/machine"
)

// giveAccess gives the user an administrator's certificate and a kubeconfig.
func (r *run) giveAccess(founder machine.Machine) (*access.Access, error) {
	dir, err := r.Home.MakeDir(r.fleet.State.Name)
	if err != nil {
		return nil, err
	}
	user := &access.Access{Dir: dir, Cluster: access.Cluster{Name: r.fleet.State.Name}}
	if known, err := access.Load(dir); err == nil {
		user.Cluster.Masters, user.Cluster.VIP = known.Cluster.Masters, known.Cluster.VIP
	}
	if r.fresh {
		user.Cluster.VIP = access.Doors(r.vip)
	}
	// The founder first: the others may not have joined yet.
	user.Learn([]access.Master{doors(founder)}, nil)
	layout := r.layout(founder.Name)
	ca, err := pki.LoadCA(layout.StateDir+"/pki/ca.crt", layout.StateDir+"/pki/ca.key")
	if err != nil {
		return nil, fmt.Errorf("cluster CA of %s: %w", founder.Name, err)
	}
	certPEM, keyPEM, err := ca.Issue(pki.Subject(pki.ComponentAdmin, ""))
	if err != nil {
		return nil, err
	}
	files := user.Files()
	for _, file := range []struct {
		path    string
		content []byte
		mode    os.FileMode
	}{{files.KeyFile, keyPEM, 0o600}, {files.CertFile, certPEM, 0o600}, {files.CAFile, ca.CertificatePEM(), 0o644}} {
		if err := atomicfile.Write(file.path, file.content, file.mode); err != nil {
			return nil, err
		}
		if err := r.Home.Owner.Own(file.path); err != nil {
			return nil, err
		}
	}
	return user, user.Save(r.Home.Owner)
}

// refreshAccess writes down all masters and nodes, and the kubeconfig.
func (r *run) refreshAccess(user *access.Access) error {
	var masters []access.Master
	var nodes []access.Node
	for _, m := range r.fleet.State.Machines {
		if m.Role == machine.Master {
			masters = append(masters, doors(m))
		} else {
			nodes = append(nodes, access.Node{Name: m.Name, Address: m.Address.String()})
		}
	}
	user.Cluster.Masters, user.Cluster.Nodes = masters, nodes
	if err := user.Save(r.Home.Owner); err != nil {
		return err
	}
	if err := user.WriteKubeconfig(r.Home.Kubeconfig(), r.fleet.Program, r.Home.Owner); err != nil {
		return err
	}
	return user.RepairKubeconfig(r.Home.Kubeconfig(), r.Home.Owner)
}

func doors(m machine.Machine) access.Master {
	return access.Master{
		Name: m.Name,
		GRPC: fmt.Sprintf("%s:%d", m.Address, configv1.PortGRPC),
		REST: fmt.Sprintf("%s:%d", m.Address, configv1.PortREST),
	}
}
