// Package app wires the controller-manager.
package app

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"time"

	"go.uber.org/zap"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"

	"kijabi.dev/controller-manager/internal/controllers/certificatesigningrequest"
	"kijabi.dev/controller-manager/internal/controllers/customresources"
	"kijabi.dev/controller-manager/internal/controllers/deployment"
	"kijabi.dev/controller-manager/internal/controllers/endpoints"
	"kijabi.dev/controller-manager/internal/controllers/endpointslice"
	"kijabi.dev/controller-manager/internal/controllers/endpointslicemirroring"
	"kijabi.dev/controller-manager/internal/controllers/garbagecollector"
	"kijabi.dev/controller-manager/internal/controllers/namespace"
	"kijabi.dev/controller-manager/internal/controllers/nodelease"
	"kijabi.dev/controller-manager/internal/controllers/nodelifecycle"
	"kijabi.dev/controller-manager/internal/controllers/podcidr"
	"kijabi.dev/controller-manager/internal/controllers/replicaset"
	"kijabi.dev/controller-manager/internal/controllers/serviceaccount"
	"kijabi.dev/controller-manager/internal/controllers/serviceaccounttoken"
	"kijabi.dev/controller-manager/internal/controllers/serviceaddress"
	"kijabi.dev/controller-manager/internal/podset"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/events"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/kube/standby"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/pki"
	controllermanagerv1pb "kijabi.dev/proto/gen/kijabi/controllermanager/v1"
	nodev1pb "kijabi.dev/proto/gen/kijabi/node/v1"
)

// DefaultConfig returns the configuration before its file is read.
func DefaultConfig() *configv1.ControllerManagerConfiguration {
	return &configv1.ControllerManagerConfiguration{
		Network:              configv1.DefaultNetwork(),
		NodeMaskSize:         24,
		NodeUnreachableAfter: metav1.Duration{Duration: 4 * time.Second},
	}
}

// Run wires the component and blocks until ctx ends or a part fails.
func Run(ctx context.Context, cfg *configv1.ControllerManagerConfiguration, log *zap.Logger) error {
	bundle, err := os.ReadFile(cfg.ClusterCAFile)
	if err != nil {
		return fmt.Errorf("cluster CA: %w", err)
	}
	podRange, err := netip.ParsePrefix(cfg.Network.PodCIDR)
	if err != nil {
		return fmt.Errorf("network.podCIDR: %w", err)
	}
	serviceRange, err := netip.ParsePrefix(cfg.Network.ServiceCIDR)
	if err != nil {
		return fmt.Errorf("network.serviceCIDR: %w", err)
	}
	program, err := standby.New(standby.Config{Component: pki.ComponentControllerManager, Common: cfg.Common, APIServer: cfg.APIServer, Log: log})
	if err != nil {
		return err
	}
	defer func() { _ = program.Close() }()

	clk := clock.RealClock{}
	liveness := nodelifecycle.NewLiveness(nodev1pb.NewNodeServiceClient(program.Conn), clk, log)
	voices := newVoices(program.API, clk, log)
	loops, err := controller.NewRuntime(controller.RuntimeConfig{
		Client: program.API, Clock: clk, Log: log,
		Controllers: controllers(cfg, program.API, program.Caches, program.Dial, log, liveness, podRange, serviceRange, string(bundle), clk, voices),
	})
	if err != nil {
		return fmt.Errorf("controllers: %w", err)
	}
	controllermanagerv1pb.RegisterControllerManagerServiceServer(program.Server, &service{loops: loops, elector: program.Elector})
	return program.Run(ctx, func(ctx context.Context) error {
		return lifecycle.RunAll(ctx, append(voices.tasks(), liveness.Run, loops.Run)...)
	})
}

// voices are the names under which the loops report events, those that users know.
type voices struct{ deployment, replicaSet, node, eviction, addresses *events.Recorder }

func newVoices(api *client.Client, clk clock.Clock, log *zap.Logger) voices {
	as := func(component string) *events.Recorder {
		return events.New(events.Config{Writer: api, Component: component, Clock: clk, Log: log})
	}
	return voices{
		deployment: as("deployment-controller"), replicaSet: as("replicaset-controller"),
		node: as("node-controller"), eviction: as("taint-eviction-controller"),
		addresses: as("ipallocator-repair-controller"),
	}
}

func (v voices) tasks() []lifecycle.Task {
	return []lifecycle.Task{v.deployment.Run, v.replicaSet.Run, v.node.Run, v.eviction.Run, v.addresses.Run}
}

// byNamespace indexes objects by their namespace.
func byNamespace[T object.Object](obj T) []string { return []string{obj.GetNamespace()} }

// owners adds the garbage collector's index.
func owners[T object.Object]() informer.Option {
	return informer.Index(garbagecollector.IndexOwner, func(obj T) []string { return garbagecollector.Owners(obj) })
}

// owned are the objects of a kind that only the garbage collector looks at.
func owned[T object.Object](caches *informer.Set, api *client.Client) garbagecollector.Collection {
	return garbagecollector.Of(informer.Of[T](caches, owners[T]()), api)
}

// controllers lists every loop, in the open.
func controllers(cfg *configv1.ControllerManagerConfiguration, api *client.Client, caches *informer.Set,
	dial func() (*client.Client, func() error, error), log *zap.Logger,
	liveness *nodelifecycle.Liveness, podRange, serviceRange netip.Prefix, bundle string, clk clock.PassiveClock, voices voices,
) []controller.Controller {
	namespaces := informer.Of[*corev1.Namespace](caches, owners[*corev1.Namespace]())
	definitions := informer.Of[*apiextensionsv1.CustomResourceDefinition](caches, owners[*apiextensionsv1.CustomResourceDefinition]())
	customs := informer.CustomsOf(caches, informer.CustomsConfig{Definitions: definitions, Dial: dial, Log: log})
	nodes := informer.Of[*corev1.Node](caches, owners[*corev1.Node]())
	accounts := informer.Of[*corev1.ServiceAccount](caches, owners[*corev1.ServiceAccount]())
	configMaps := informer.Of[*corev1.ConfigMap](caches, owners[*corev1.ConfigMap]())
	secrets := informer.Of[*corev1.Secret](caches, owners[*corev1.Secret](), informer.Index(serviceaccounttoken.IndexAccount, serviceaccounttoken.Account))
	services := informer.Of[*corev1.Service](caches, owners[*corev1.Service](),
		informer.Index(endpointslice.IndexNamespace, byNamespace[*corev1.Service]), informer.Index(serviceaddress.IndexTaken, serviceaddress.Taken))
	slices := informer.Of[*discoveryv1.EndpointSlice](caches, owners[*discoveryv1.EndpointSlice]())
	addresses := informer.Of[*corev1.Endpoints](caches, owners[*corev1.Endpoints]()) //nolint:staticcheck // clients still have it
	leases := informer.Of[*coordinationv1.Lease](caches)
	requests := informer.Of[*certificatesv1.CertificateSigningRequest](caches)
	deployments := informer.Of[*appsv1.Deployment](caches, owners[*appsv1.Deployment]())
	sets := informer.Of[*appsv1.ReplicaSet](caches, owners[*appsv1.ReplicaSet]())
	pods := informer.Of[*corev1.Pod](caches, owners[*corev1.Pod](),
		informer.Index(endpointslice.IndexNamespace, byNamespace[*corev1.Pod]),
		informer.Index(endpointslice.IndexLabel, endpointslice.Labels),
		informer.Index(podset.IndexOrphans, podset.Orphans),
		informer.Index(nodelifecycle.IndexNode, func(pod *corev1.Pod) []string { return []string{pod.Spec.NodeName} }))

	lifecycleConfig := nodelifecycle.Config{
		Nodes: nodes, Pods: pods, Liveness: liveness, Clock: clk,
		UnreachableAfter: cfg.NodeUnreachableAfter.Duration, Event: voices.node.Record,
	}
	evictionConfig := lifecycleConfig
	evictionConfig.Event = voices.eviction.Record
	return []controller.Controller{
		namespace.New(namespace.Config{Namespaces: namespaces, Contents: api, Customs: customs, Clock: clk}),
		customresources.New(customresources.Config{Definitions: definitions, Contents: api, Clock: clk}),
		serviceaccount.New(serviceaccount.Config{Namespaces: namespaces, Accounts: accounts, ConfigMaps: configMaps, CABundle: bundle}),
		deployment.New(deployment.Config{Deployments: deployments, ReplicaSets: sets, Clock: clk, Event: voices.deployment.Record}),
		replicaset.New(replicaset.Config{ReplicaSets: sets, Pods: pods, Clock: clk, Event: voices.replicaSet.Record}),
		serviceaccounttoken.New(serviceaccounttoken.Config{Secrets: secrets, Accounts: accounts, CABundle: bundle}),
		certificatesigningrequest.New(certificatesigningrequest.Config{Requests: requests, Clock: clk}),
		endpointslice.New(endpointslice.Config{Services: services, Pods: pods, Nodes: nodes, Slices: slices, Clock: clk}),
		endpoints.New(endpoints.Config{Services: services, Slices: slices, Endpoints: addresses, Clock: clk}),
		endpointslicemirroring.New(endpointslicemirroring.Config{Services: services, Endpoints: addresses, Slices: slices}),
		nodelease.New(nodelease.Config{Nodes: nodes, Leases: leases}),
		serviceaddress.New(serviceaddress.Config{
			Services: services, Range: serviceRange, FirstNodePort: cfg.Network.NodePortFirst, LastNodePort: cfg.Network.NodePortLast, Event: voices.addresses.Record,
		}),
		podcidr.New(podcidr.Config{Nodes: nodes, Range: podRange, Bits: cfg.NodeMaskSize}),
		nodelifecycle.NewNodes(lifecycleConfig),
		nodelifecycle.NewEvictions(evictionConfig),
		garbagecollector.New([]garbagecollector.Collection{
			garbagecollector.Of(namespaces, api), garbagecollector.Of(nodes, api), garbagecollector.Of(accounts, api),
			garbagecollector.Of(configMaps, api), garbagecollector.Of(secrets, api), garbagecollector.Of(services, api),
			garbagecollector.Of(slices, api), garbagecollector.Of(addresses, api), garbagecollector.Of(deployments, api), garbagecollector.Of(sets, api),
			garbagecollector.Of(pods, api),
			owned[*appsv1.StatefulSet](caches, api), owned[*appsv1.DaemonSet](caches, api), owned[*appsv1.ControllerRevision](caches, api),
			owned[*batchv1.Job](caches, api), owned[*batchv1.CronJob](caches, api), owned[*corev1.ReplicationController](caches, api),
			owned[*autoscalingv2.HorizontalPodAutoscaler](caches, api), owned[*policyv1.PodDisruptionBudget](caches, api),
			owned[*corev1.PersistentVolumeClaim](caches, api), owned[*networkingv1.Ingress](caches, api), owned[*networkingv1.NetworkPolicy](caches, api),
			owned[*rbacv1.Role](caches, api), owned[*rbacv1.RoleBinding](caches, api),
			garbagecollector.Of(definitions, api),
		}, customs, api),
	}
}
