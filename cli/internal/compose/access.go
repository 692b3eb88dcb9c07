package compose

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kijabi.dev/platform/atomicfile"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/client"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"

	"kijabi.dev/cli/internal/access"
	"kijabi.dev/cli/internal/install"
)

// giveAccess copies the administrator's access from a master to the user and writes the
// kubeconfig.
func (r *run) giveAccess(ctx context.Context) (*access.Access, error) {
	all, err := r.engine.containers(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := r.Home.MakeDir(Cluster)
	if err != nil {
		return nil, err
	}
	user := &access.Access{Dir: dir, Cluster: access.Cluster{Name: Cluster}}
	var failures []string
	slices.SortFunc(all, func(a, b container) int { return strings.Compare(a.name, b.name) })
	for _, c := range all {
		if c.role != "master" || !c.setup() {
			continue
		}
		known, err := r.copyAdmin(ctx, c, user.Files())
		if err != nil {
			failures = append(failures, c.machine+": "+err.Error())
			continue
		}
		user.Cluster.Masters = []access.Master{known}
		break
	}
	if len(user.Cluster.Masters) == 0 {
		return nil, fmt.Errorf("access to the cluster: no master gives it: %s", strings.Join(failures, "; "))
	}
	if err := r.learn(ctx, user); err != nil {
		return nil, err
	}
	if err := user.Save(r.Home.Owner); err != nil {
		return nil, err
	}
	if err := user.WriteKubeconfig(r.Home.Kubeconfig(), r.Program, r.Home.Owner); err != nil {
		return nil, err
	}
	r.Progress.Say("access written to %s", r.Home.Kubeconfig())
	return user, nil
}

// copyAdmin copies certificate, key and CA of a master's administrator, and returns the
// master's doors. A stopped container gives its files as well.
func (r *run) copyAdmin(ctx context.Context, c container, into configv1.Identity) (access.Master, error) {
	layout := install.DefaultLayout()
	packed, err := r.engine.output(ctx, "cp", c.name+":"+layout.AdminDir()+"/.", "-")
	if err != nil {
		return access.Master{}, err
	}
	admin := (&access.Access{Dir: "."}).Files()
	targets := map[string]string{admin.CertFile: into.CertFile, admin.KeyFile: into.KeyFile, admin.CAFile: into.CAFile}
	for reader := tar.NewReader(bytes.NewReader(packed)); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return access.Master{}, err
		}
		target, wanted := targets[path.Clean(header.Name)]
		if !wanted {
			continue
		}
		content, err := io.ReadAll(reader)
		if err != nil {
			return access.Master{}, err
		}
		mode := os.FileMode(0o600)
		if target == into.CAFile {
			mode = 0o644
		}
		if err := atomicfile.Write(target, content, mode); err != nil {
			return access.Master{}, err
		}
		if err := r.Home.Owner.Own(target); err != nil {
			return access.Master{}, err
		}
		delete(targets, path.Clean(header.Name))
	}
	if len(targets) > 0 {
		return access.Master{}, errors.New("the administrator's access is not there yet")
	}
	address, err := r.engine.run(ctx, "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", c.machine)
	if err != nil {
		return access.Master{}, err
	}
	return access.Master{
		Name: c.machine, GRPC: fmt.Sprintf("%s:%d", address, configv1.PortGRPC), REST: fmt.Sprintf("%s:%d", address, configv1.PortREST),
	}, nil
}

// learn asks the masters for all masters and nodes, to know them when some are down.
func (r *run) learn(ctx context.Context, user *access.Access) error {
	return r.Progress.Wait(ctx, "the masters answer", func(ctx context.Context) error {
		conn, _, err := user.Connect(ctx)
		if err != nil {
			return fmt.Errorf("%w; the addresses of containers are reached from Linux hosts only, see deploy/compose/README.md for Docker Desktop", err)
		}
		defer func() { _ = conn.Close() }()
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		status, err := mastersv1pb.NewMastersServiceClient(conn).Status(ctx, &mastersv1pb.StatusRequest{})
		if err != nil {
			return err
		}
		if status.GetLeader() == "" {
			return errors.New("no master leads yet")
		}
		var masters []access.Master
		for _, member := range status.GetMembers() {
			masters = append(masters, access.Master{Name: member.GetName(), GRPC: member.GetGrpcAddress(), REST: member.GetRestAddress()})
		}
		page, err := client.List[*corev1.Node](ctx, client.New(conn), client.ListOptions{})
		if err != nil {
			return err
		}
		var nodes []access.Node
		for _, node := range page.Items {
			if slices.ContainsFunc(masters, func(m access.Master) bool { return m.Name == node.Name }) {
				continue
			}
			for _, address := range node.Status.Addresses {
				if address.Type == corev1.NodeInternalIP {
					nodes = append(nodes, access.Node{Name: node.Name, Address: address.Address})
				}
			}
		}
		user.Learn(masters, nodes)
		return nil
	})
}
