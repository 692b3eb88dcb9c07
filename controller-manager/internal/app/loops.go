package app

import (
	"net/netip"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"

	"kijabi.dev/controller-manager/internal/controllers/attachdetach"
	"kijabi.dev/controller-manager/internal/controllers/certificatesigningrequest"
	"kijabi.dev/controller-manager/internal/controllers/cronjob"
	"kijabi.dev/controller-manager/internal/controllers/customresources"
	"kijabi.dev/controller-manager/internal/controllers/daemonset"
	"kijabi.dev/controller-manager/internal/controllers/deployment"
	"kijabi.dev/controller-manager/internal/controllers/disruption"
	"kijabi.dev/controller-manager/internal/controllers/endpoints"
	"kijabi.dev/controller-manager/internal/controllers/endpointslice"
	"kijabi.dev/controller-manager/internal/controllers/endpointslicemirroring"
	"kijabi.dev/controller-manager/internal/controllers/ephemeralvolumes"
	"kijabi.dev/controller-manager/internal/controllers/garbagecollector"
	"kijabi.dev/controller-manager/internal/controllers/horizontalpodautoscaler"
	"kijabi.dev/controller-manager/internal/controllers/job"
	"kijabi.dev/controller-manager/internal/controllers/localpath"
	"kijabi.dev/controller-manager/internal/controllers/namespace"
	"kijabi.dev/controller-manager/internal/controllers/nodelease"
	"kijabi.dev/controller-manager/internal/controllers/nodelifecycle"
	"kijabi.dev/controller-manager/internal/controllers/persistentvolumebinder"
	"kijabi.dev/controller-manager/internal/controllers/podcidr"
	"kijabi.dev/controller-manager/internal/controllers/podgc"
	"kijabi.dev/controller-manager/internal/controllers/replicaset"
	"kijabi.dev/controller-manager/internal/controllers/replicationcontroller"
	"kijabi.dev/controller-manager/internal/controllers/serviceaccount"
	"kijabi.dev/controller-manager/internal/controllers/serviceaccounttoken"
	"kijabi.dev/controller-manager/internal/controllers/serviceaddress"
	"kijabi.dev/controller-manager/internal/controllers/statefulset"
	"kijabi.dev/controller-manager/internal/controllers/ttlafterfinished"
	"kijabi.dev/controller-manager/internal/controllers/volumeexpansion"
	"kijabi.dev/controller-manager/internal/controllers/volumeprotection"
	"kijabi.dev/controller-manager/internal/scales"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/volume"
)

// wiring is what loops are made of.
type wiring struct {
	*caches

	cfg      *configv1.ControllerManagerConfiguration
	api      *client.Client
	clock    clock.PassiveClock
	voices   *voices
	liveness *nodelifecycle.Liveness
	usage    *horizontalpodautoscaler.Kubelets
	bundle   string // the cluster's CA
	// podRange and serviceRange are the networks of cfg.
	podRange, serviceRange netip.Prefix
}

// loops lists every loop, in the open.
func (w *wiring) loops() []controller.Controller {
	return slices.Concat(w.workloads(), w.network(), w.cluster(), w.nodeLoops(), w.storage())
}

func (w *wiring) workloads() []controller.Controller {
	sizes := &scales.Source{Client: w.api, Custom: w.customKind}
	return []controller.Controller{
		deployment.New(deployment.Config{
			Deployments: w.deployments, ReplicaSets: w.replicaSets, Clock: w.clock, Event: w.voices.as("deployment-controller"),
		}),
		replicaset.New(replicaset.Config{ReplicaSets: w.replicaSets, Pods: w.pods, Clock: w.clock, Event: w.voices.as("replicaset-controller")}),
		replicationcontroller.New(replicationcontroller.Config{
			Controllers: w.replicationControllers, Pods: w.pods, Clock: w.clock, Event: w.voices.as("replication-controller"),
		}),
		statefulset.New(statefulset.Config{
			StatefulSets: w.statefulSets, Pods: w.pods, Revisions: w.revisions, Claims: w.claims, Clock: w.clock, Event: w.voices.as("statefulset-controller"),
		}),
		daemonset.New(daemonset.Config{
			DaemonSets: w.daemonSets, Nodes: w.nodes, Pods: w.pods, Revisions: w.revisions, Clock: w.clock, Event: w.voices.as("daemonset-controller"),
		}),
		job.New(job.Config{Jobs: w.jobs, Pods: w.pods, Live: live[*batchv1.Job](w.api), Clock: w.clock, Event: w.voices.as("job-controller")}),
		cronjob.New(cronjob.Config{
			CronJobs: w.cronJobs, Jobs: w.jobs, Live: live[*batchv1.Job](w.api), Clock: w.clock, Event: w.voices.as("cronjob-controller"),
		}),
		ttlafterfinished.New(ttlafterfinished.Config{Jobs: w.jobs, Clock: w.clock}),
		disruption.New(disruption.Config{
			Budgets: w.budgets, Pods: w.pods, Deployments: w.deployments, ReplicaSets: w.replicaSets, StatefulSets: w.statefulSets,
			Controllers: w.replicationControllers, Scales: sizes, Clock: w.clock, Event: w.voices.as("controllermanager"),
		}),
		disruption.NewAnnounced(w.pods, w.clock),
		horizontalpodautoscaler.New(horizontalpodautoscaler.Config{
			Autoscalers: w.autoscalers, Pods: w.pods, Scales: sizes, Metrics: w.usage,
			Every: w.cfg.AutoscalerSyncPeriod.Duration, Clock: w.clock, Event: w.voices.as("horizontal-pod-autoscaler"),
		}),
	}
}

func (w *wiring) network() []controller.Controller {
	return []controller.Controller{
		endpointslice.New(endpointslice.Config{Services: w.services, Pods: w.pods, Nodes: w.nodes, Slices: w.slices}),
		endpoints.New(endpoints.Config{Services: w.services, Slices: w.slices, Endpoints: w.endpoints}),
		endpointslicemirroring.New(endpointslicemirroring.Config{Services: w.services, Endpoints: w.endpoints, Slices: w.slices}),
		serviceaddress.New(serviceaddress.Config{
			Services: w.services, Range: w.serviceRange, FirstNodePort: w.cfg.Network.NodePortFirst, LastNodePort: w.cfg.Network.NodePortLast,
			Event: w.voices.as("ipallocator-repair-controller"),
		}),
	}
}

func (w *wiring) cluster() []controller.Controller {
	return []controller.Controller{
		namespace.New(namespace.Config{Namespaces: w.namespaces, Contents: w.api, Customs: w.customs, Clock: w.clock}),
		customresources.New(customresources.Config{Definitions: w.definitions, Contents: w.api, Clock: w.clock}),
		serviceaccount.New(serviceaccount.Config{Namespaces: w.namespaces, Accounts: w.accounts, ConfigMaps: w.configMaps, CABundle: w.bundle}),
		serviceaccounttoken.New(serviceaccounttoken.Config{Secrets: w.secrets, Accounts: w.accounts, CABundle: w.bundle}),
		certificatesigningrequest.New(certificatesigningrequest.Config{Requests: w.requests, Clock: w.clock}),
		garbagecollector.New(w.garbage, w.customs, w.api),
	}
}

func (w *wiring) nodeLoops() []controller.Controller {
	config := func(voice string) nodelifecycle.Config {
		return nodelifecycle.Config{
			Nodes: w.nodes, Pods: w.pods, Liveness: w.liveness, Clock: w.clock,
			UnreachableAfter: w.cfg.NodeUnreachableAfter.Duration, Event: w.voices.as(voice),
		}
	}
	return []controller.Controller{
		podcidr.New(podcidr.Config{Nodes: w.nodes, Range: w.podRange, Bits: w.cfg.NodeMaskSize}),
		nodelease.New(nodelease.Config{Nodes: w.nodes, Leases: w.leases}),
		podgc.New(podgc.Config{
			Pods: w.pods, Nodes: w.nodes, Live: live[*corev1.Node](w.api), Threshold: w.cfg.FinishedPodsKept, Clock: w.clock,
		}),
		nodelifecycle.NewNodes(config("node-controller")),
		nodelifecycle.NewEvictions(config("taint-eviction-controller")),
	}
}

func (w *wiring) storage() []controller.Controller {
	return []controller.Controller{
		persistentvolumebinder.New(persistentvolumebinder.Config{
			Claims: w.claims, Volumes: w.volumes, Classes: w.classes, Pods: w.pods, API: w.api, Event: w.voices.as("persistentvolume-controller"),
		}),
		localpath.New(localpath.Config{
			Claims: w.claims, Volumes: w.volumes, Classes: w.classes, Nodes: w.nodes, API: w.api, Event: w.voices.as(volume.LocalPath),
		}),
		volumeprotection.New(volumeprotection.Config{Claims: w.claims, Volumes: w.volumes, Pods: w.pods, API: w.api}),
		volumeexpansion.New(volumeexpansion.Config{Claims: w.claims, Volumes: w.volumes, Event: w.voices.as("volume_expand")}),
		attachdetach.New(attachdetach.Config{
			Claims: w.claims, Volumes: w.volumes, Pods: w.pods, Nodes: w.nodes, Attachments: w.attachments, Drivers: w.drivers, API: w.api,
			Event: w.voices.as("attachdetach-controller"),
		}),
		ephemeralvolumes.New(ephemeralvolumes.Config{Claims: w.claims, Pods: w.pods, Event: w.voices.as("ephemeral_volume")}),
	}
}
