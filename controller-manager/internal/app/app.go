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
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/clock"

	"kijabi.dev/controller-manager/internal/controllers/customresources"
	"kijabi.dev/controller-manager/internal/controllers/deployment"
	"kijabi.dev/controller-manager/internal/controllers/disruption"
	"kijabi.dev/controller-manager/internal/controllers/endpointslice"
	"kijabi.dev/controller-manager/internal/controllers/garbagecollector"
	"kijabi.dev/controller-manager/internal/controllers/horizontalpodautoscaler"
	"kijabi.dev/controller-manager/internal/controllers/namespace"
	"kijabi.dev/controller-manager/internal/controllers/nodelifecycle"
	"kijabi.dev/controller-manager/internal/controllers/podcidr"
	"kijabi.dev/controller-manager/internal/controllers/replicaset"
	"kijabi.dev/controller-manager/internal/controllers/replicationcontroller"
	"kijabi.dev/controller-manager/internal/controllers/serviceaccount"
	"kijabi.dev/controller-manager/internal/ownership"
	"kijabi.dev/controller-manager/internal/podset"
	"kijabi.dev/controller-manager/internal/scales"
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
	kubeletv1pb "kijabi.dev/proto/gen/kijabi/kubelet/v1"
	nodev1pb "kijabi.dev/proto/gen/kijabi/node/v1"
)

// DefaultConfig returns the configuration before its file is read.
func DefaultConfig() *configv1.ControllerManagerConfiguration {
	return &configv1.ControllerManagerConfiguration{
		Network:              configv1.DefaultNetwork(),
		NodeMaskSize:         24,
		NodeUnreachableAfter: metav1.Duration{Duration: 4 * time.Second},
		AutoscalerSyncPeriod: metav1.Duration{Duration: 15 * time.Second},
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
	if cfg.AutoscalerSyncPeriod.Duration <= 0 {
		return fmt.Errorf("autoscalerSyncPeriod: %s is no period", cfg.AutoscalerSyncPeriod.Duration)
	}
	program, err := standby.New(standby.Config{Component: pki.ComponentControllerManager, Common: cfg.Common, APIServer: cfg.APIServer, Log: log})
	if err != nil {
		return err
	}
	defer func() { _ = program.Close() }()

	clk := clock.RealClock{}
	liveness := nodelifecycle.NewLiveness(nodev1pb.NewNodeServiceClient(program.Conn), clk, log)
	metrics := horizontalpodautoscaler.NewKubelets(horizontalpodautoscaler.KubeletsConfig{
		Ask: figures(nodev1pb.NewNodeServiceClient(program.Conn)), Every: cfg.AutoscalerSyncPeriod.Duration, Clock: clk, Log: log,
	})
	voices := newVoices(program.API, clk, log)
	loops, err := controller.NewRuntime(controller.RuntimeConfig{
		Client: program.API, Clock: clk, Log: log,
		Controllers: controllers(cfg, program.API, program.Caches, program.Dial, log, liveness, metrics, podRange, string(bundle), clk, voices),
	})
	if err != nil {
		return fmt.Errorf("controllers: %w", err)
	}
	controllermanagerv1pb.RegisterControllerManagerServiceServer(program.Server, &service{loops: loops, elector: program.Elector})
	return program.Run(ctx, func(ctx context.Context) error {
		return lifecycle.RunAll(ctx, append(voices.tasks(), liveness.Run, metrics.Run, loops.Run)...)
	})
}

// voices are the names under which the loops report events, those that users know.
type voices struct {
	deployment, replicaSet, replicationController, node, eviction, disruption, autoscaler *events.Recorder
}

func newVoices(api *client.Client, clk clock.Clock, log *zap.Logger) voices {
	as := func(component string) *events.Recorder {
		return events.New(events.Config{Writer: api, Component: component, Clock: clk, Log: log})
	}
	return voices{
		deployment: as("deployment-controller"), replicaSet: as("replicaset-controller"),
		replicationController: as("replication-controller"),
		node:                  as("node-controller"), eviction: as("taint-eviction-controller"),
		disruption: as("controllermanager"), autoscaler: as("horizontal-pod-autoscaler"),
	}
}

func (v voices) tasks() []lifecycle.Task {
	return []lifecycle.Task{
		v.deployment.Run, v.replicaSet.Run, v.replicationController.Run, v.node.Run, v.eviction.Run,
		v.disruption.Run, v.autoscaler.Run,
	}
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

// figures asks the local apiserver for those of a node.
func figures(nodes nodev1pb.NodeServiceClient) func(context.Context, string) (*kubeletv1pb.StatsResponse, error) {
	return func(ctx context.Context, node string) (*kubeletv1pb.StatsResponse, error) {
		res, err := nodes.Stats(ctx, &nodev1pb.StatsRequest{Node: node})
		return res.GetStats(), err
	}
}

// customKind finds kinds among users' definitions.
func customKind(definitions *informer.Informer[*apiextensionsv1.CustomResourceDefinition]) func(schema.GroupKind) (object.Kind, bool) {
	return func(want schema.GroupKind) (object.Kind, bool) {
		for _, definition := range definitions.List() {
			if kind, served := informer.CustomKindOf(definition); served && kind.GVK.GroupKind() == want {
				return kind, true
			}
		}
		return object.Kind{}, false
	}
}

// controllers lists every loop, in the open.
func controllers(cfg *configv1.ControllerManagerConfiguration, api *client.Client, caches *informer.Set,
	dial func() (*client.Client, func() error, error), log *zap.Logger,
	liveness *nodelifecycle.Liveness, metrics *horizontalpodautoscaler.Kubelets, podRange netip.Prefix, bundle string, clk clock.PassiveClock, voices voices,
) []controller.Controller {
	namespaces := informer.Of[*corev1.Namespace](caches, owners[*corev1.Namespace]())
	definitions := informer.Of[*apiextensionsv1.CustomResourceDefinition](caches, owners[*apiextensionsv1.CustomResourceDefinition]())
	customs := informer.CustomsOf(caches, informer.CustomsConfig{Definitions: definitions, Dial: dial, Log: log})
	nodes := informer.Of[*corev1.Node](caches, owners[*corev1.Node]())
	accounts := informer.Of[*corev1.ServiceAccount](caches, owners[*corev1.ServiceAccount]())
	configMaps := informer.Of[*corev1.ConfigMap](caches, owners[*corev1.ConfigMap]())
	secrets := informer.Of[*corev1.Secret](caches, owners[*corev1.Secret]())
	services := informer.Of[*corev1.Service](caches, owners[*corev1.Service](),
		informer.Index(endpointslice.IndexNamespace, byNamespace[*corev1.Service]))
	slices := informer.Of[*discoveryv1.EndpointSlice](caches, owners[*discoveryv1.EndpointSlice]())
	deployments := informer.Of[*appsv1.Deployment](caches, owners[*appsv1.Deployment]())
	sets := informer.Of[*appsv1.ReplicaSet](caches, owners[*appsv1.ReplicaSet](),
		informer.Index(ownership.IndexOrphans, ownership.Orphans[*appsv1.ReplicaSet]))
	statefulSets := informer.Of[*appsv1.StatefulSet](caches, owners[*appsv1.StatefulSet]())
	replicationControllers := informer.Of[*corev1.ReplicationController](caches, owners[*corev1.ReplicationController]())
	autoscalers := informer.Of[*autoscalingv2.HorizontalPodAutoscaler](caches, owners[*autoscalingv2.HorizontalPodAutoscaler](),
		informer.Index(horizontalpodautoscaler.IndexNamespace, byNamespace[*autoscalingv2.HorizontalPodAutoscaler]))
	budgets := informer.Of[*policyv1.PodDisruptionBudget](caches, owners[*policyv1.PodDisruptionBudget](),
		informer.Index(disruption.IndexNamespace, byNamespace[*policyv1.PodDisruptionBudget]))
	pods := informer.Of[*corev1.Pod](caches, owners[*corev1.Pod](),
		informer.Index(endpointslice.IndexNamespace, byNamespace[*corev1.Pod]),
		informer.Index(podset.IndexOrphans, podset.Orphans),
		informer.Index(disruption.IndexNamespace, byNamespace[*corev1.Pod]),
		informer.Index(horizontalpodautoscaler.IndexNamespace, byNamespace[*corev1.Pod]),
		informer.Index(nodelifecycle.IndexNode, func(pod *corev1.Pod) []string { return []string{pod.Spec.NodeName} }))

	sizes := &scales.Source{Client: api, Custom: customKind(definitions)}
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
		replicationcontroller.New(replicationcontroller.Config{
			Controllers: replicationControllers, Pods: pods, Clock: clk, Event: voices.replicationController.Record,
		}),
		disruption.New(disruption.Config{
			Budgets: budgets, Pods: pods, Deployments: deployments, ReplicaSets: sets, StatefulSets: statefulSets,
			Controllers: replicationControllers, Scales: sizes, Clock: clk, Event: voices.disruption.Record,
		}),
		disruption.NewAnnounced(pods, clk),
		horizontalpodautoscaler.New(horizontalpodautoscaler.Config{
			Autoscalers: autoscalers, Pods: pods, Scales: sizes, Metrics: metrics,
			Every: cfg.AutoscalerSyncPeriod.Duration, Clock: clk, Event: voices.autoscaler.Record,
		}),
		endpointslice.New(endpointslice.Config{Services: services, Pods: pods, Slices: slices}),
		podcidr.New(podcidr.Config{Nodes: nodes, Range: podRange, Bits: cfg.NodeMaskSize}),
		nodelifecycle.NewNodes(lifecycleConfig),
		nodelifecycle.NewEvictions(evictionConfig),
		garbagecollector.New([]garbagecollector.Collection{
			garbagecollector.Of(namespaces, api), garbagecollector.Of(nodes, api), garbagecollector.Of(accounts, api),
			garbagecollector.Of(configMaps, api), garbagecollector.Of(secrets, api), garbagecollector.Of(services, api),
			garbagecollector.Of(slices, api), garbagecollector.Of(deployments, api), garbagecollector.Of(sets, api),
			garbagecollector.Of(pods, api),
			garbagecollector.Of(statefulSets, api), owned[*appsv1.DaemonSet](caches, api), owned[*appsv1.ControllerRevision](caches, api),
			owned[*batchv1.Job](caches, api), owned[*batchv1.CronJob](caches, api), garbagecollector.Of(replicationControllers, api),
			garbagecollector.Of(autoscalers, api), garbagecollector.Of(budgets, api),
			owned[*corev1.PersistentVolumeClaim](caches, api), owned[*networkingv1.Ingress](caches, api), owned[*networkingv1.NetworkPolicy](caches, api),
			owned[*rbacv1.Role](caches, api), owned[*rbacv1.RoleBinding](caches, api),
			garbagecollector.Of(definitions, api),
		}, customs, api),
	}
}
