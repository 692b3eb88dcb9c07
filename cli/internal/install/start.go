package install

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"

	"kijabi.dev/cli/internal/access"
)

// startPrograms installs and starts the units.
func (o *Options) startPrograms(ctx context.Context, s settings) error {
	if err := o.Services.Install(ctx, s.units()); err != nil {
		return err
	}
	for _, name := range unitNames(s.master) {
		if err := o.Services.Start(ctx, name); err != nil {
			return err
		}
	}
	o.Progress.Say("%s: %d programs started", s.name, len(unitNames(s.master)))
	return nil
}

// loadImages imports the images of the bundle as soon as containerd answers.
func (o *Options) loadImages(ctx context.Context, s settings) error {
	archives := ImageArchives(s.binDir)
	done := fmt.Sprintf("%s: containerd answers, %d image archives imported", s.name, len(archives))
	return o.Progress.Wait(ctx, done, func(ctx context.Context) error {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", s.layout.containerdSocket())
		if err != nil {
			return fmt.Errorf("containerd: %s (%s)", access.Brief(err), o.Services.LogHint(containerd))
		}
		_ = conn.Close()
		for len(archives) > 0 {
			if err := ImportImage(ctx, s.layout, s.binDir, archives[0]); err != nil {
				return err
			}
			archives = archives[1:]
		}
		return nil
	})
}

// Health asks a program's own health service.
func Health(ctx context.Context, endpoint Endpoint, id *pki.Identity) error {
	conn, err := rpc.DialName(endpoint.Address, endpoint.ServerName, id)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	answer, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		return errors.New(access.Brief(err))
	}
	if answer.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		return errors.New(strings.ToLower(answer.GetStatus().String()))
	}
	return nil
}

// awaitHealthy waits until every program says that it serves.
func (o *Options) awaitHealthy(ctx context.Context, s settings, id *pki.Identity) error {
	return o.Progress.Wait(ctx, s.name+": all programs are healthy", func(ctx context.Context) error {
		endpoints := Endpoints(s.master, s.name, s.address)
		errs := make([]error, len(endpoints))
		var wait sync.WaitGroup
		for i, endpoint := range endpoints {
			wait.Go(func() {
				if err := Health(ctx, endpoint, id); err != nil {
					errs[i] = fmt.Errorf("%s: %w (%s)", endpoint.Component, err, o.Services.LogHint(endpoint.Component))
				}
			})
		}
		wait.Wait()
		return joinLine(errs)
	})
}

// joinLine joins errors on one line.
func joinLine(errs []error) error {
	var texts []string
	for _, err := range errs {
		if err != nil {
			texts = append(texts, err.Error())
		}
	}
	if len(texts) == 0 {
		return nil
	}
	return errors.New(strings.Join(texts, "; "))
}

// awaitNode waits until the machine's node is Ready, as a master sees it.
func (o *Options) awaitNode(ctx context.Context, s settings, id *pki.Identity) error {
	conn, err := rpc.Dial(s.apiServers()[0], id)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	api := client.New(conn)
	return o.Progress.Wait(ctx, s.name+": node is Ready", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		node, err := client.Get[*corev1.Node](ctx, api, object.Key{Name: s.name})
		if err != nil {
			return fmt.Errorf("node %s: %s (%s)", s.name, access.Brief(err), o.Services.LogHint("kubelet"))
		}
		return NodeReady(node)
	})
}

// labelMaster marks the machine's node as a master's. A kubelet may not give itself a
// role, so the administrator does.
func (o *Options) labelMaster(ctx context.Context, s settings, id *pki.Identity) error {
	conn, err := rpc.Dial(s.apiServers()[0], id)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: s.name}}
	patch := []byte(`{"metadata":{"labels":{"` + controlPlane + `":""}}}`)
	if _, err := client.New(conn).Patch(ctx, node, types.MergePatchType, patch, ""); err != nil {
		return fmt.Errorf("label node %s: %w", s.name, err)
	}
	return nil
}

// NodeReady returns why a node is not Ready.
func NodeReady(node *corev1.Node) error {
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			if condition.Status == corev1.ConditionTrue {
				return nil
			}
			return fmt.Errorf("node %s is not Ready: %s", node.Name, condition.Message)
		}
	}
	return fmt.Errorf("node %s has not reported yet", node.Name)
}
