// Package app wires the kubelet together.
package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"kijabi.dev/kubelet/internal/env"
	"kijabi.dev/kubelet/internal/images"
	"kijabi.dev/kubelet/internal/logs"
	"kijabi.dev/kubelet/internal/node"
	"kijabi.dev/kubelet/internal/podspec"
	"kijabi.dev/kubelet/internal/podworker"
	"kijabi.dev/kubelet/internal/probes"
	"kijabi.dev/kubelet/internal/refs"
	"kijabi.dev/kubelet/internal/resources"
	"kijabi.dev/kubelet/internal/runtime"
	"kijabi.dev/kubelet/internal/runtime/cri"
	"kijabi.dev/kubelet/internal/server"
	"kijabi.dev/kubelet/internal/status"
	"kijabi.dev/kubelet/internal/tokens"
	"kijabi.dev/kubelet/internal/volumes"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/events"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/logging"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
	certificatev1pb "kijabi.dev/proto/gen/kijabi/certificate/v1"
	kubeletv1pb "kijabi.dev/proto/gen/kijabi/kubelet/v1"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"
	nodev1pb "kijabi.dev/proto/gen/kijabi/node/v1"
)

const (
	cgroupMount = "/sys/fs/cgroup"
	// podPIDs bounds the processes of one pod.
	podPIDs = 4096
	// confirmEvery is how often a kubelet that serves from a snapshot asks whether a master has answered.
	confirmEvery = 250 * time.Millisecond
	// The end of a log that stands in for a termination message.
	messageLines = 80
	messageBytes = 2048
)

// Run makes this machine run its pods until ctx ends, and leaves them running then.
func Run(ctx context.Context, cfg *configv1.KubeletConfiguration, log *zap.Logger) error {
	if err := check(cfg); err != nil {
		return err
	}
	log = log.With(logging.Node(cfg.NodeName))
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	identity, err := pki.OpenIdentity(cfg.Identity)
	if err != nil {
		return err
	}
	conn, err := rpc.DialAny(rpc.FailoverConfig{
		Addresses: cfg.APIServers, Identity: identity, Log: log, StateFile: filepath.Join(cfg.DataDir, "masters.json"),
	})
	if err != nil {
		return fmt.Errorf("connect to the masters: %w", err)
	}
	defer func() { _ = conn.Close() }()
	containers, err := cri.New(cfg.ContainerRuntimeEndpoint)
	if err != nil {
		return err
	}
	defer func() { _ = containers.Close() }()

	api := client.New(conn)
	k, err := build(cfg, api, mastersv1pb.NewMastersServiceClient(conn), containers, log)
	if err != nil {
		return err
	}
	own, err := rpc.NewServer(rpc.ServerConfig{
		Address: cfg.ListenAddress, Identity: identity, Log: log,
		Timeouts: rpc.Timeouts{Send: -1}, // who reads a log or an exec may do so at leisure
	})
	if err != nil {
		return err
	}
	kubeletv1pb.RegisterKubeletServiceServer(own, k.service)
	connection := &node.Connection{
		Masters: nodev1pb.NewNodeServiceClient(conn), Service: k.service, Moved: conn.Changed, Clock: clock.RealClock{}, Log: log,
	}
	return lifecycle.RunAll(ctx, k.run, connection.Run, own.Run, conn.Run, identity.Run,
		func(ctx context.Context) error {
			return pki.RenewLoop(ctx, cfg.Identity, certificatev1pb.NewCertificateServiceClient(conn), log)
		},
		lifecycle.Notifier{
			Ready: own.WaitServing, Log: log,
			Alive: []lifecycle.Task{own.Alive, func(context.Context) error {
				_, _ = k.caches.HasSynced(), k.manager.Has("")
				return nil
			}},
		}.Run)
}

// kubelet is everything that does not depend on how masters are reached.
type kubelet struct {
	caches   *informer.Set
	pods     *informer.Informer[*corev1.Pod]
	store    *refs.Store
	manager  *podworker.Manager
	prober   *probes.Manager
	recorder *events.Recorder
	reporter *node.Reporter
	rotator  *logs.Rotator
	images   *images.Collector
	service  *server.Service
	volumes  *volumes.Volumes
	tokens   *tokens.Tokens
	cgroups  *resources.Cgroups
	shared   podspec.Node
	log      *zap.Logger
}

func build(cfg *configv1.KubeletConfiguration, api *client.Client, masters mastersv1pb.MastersServiceClient, containers runtime.Runtime, log *zap.Logger) (*kubelet, error) {
	clk, hostIPs := clock.RealClock{}, []string{cfg.NodeIP}
	facts, err := node.ReadFacts(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	cgroups, err := resources.NewCgroups(cgroupMount, cfg.CgroupRoot, podPIDs)
	if err != nil {
		return nil, err
	}
	k := &kubelet{cgroups: cgroups, log: log, shared: podspec.Node{
		Name: cfg.NodeName, LogRoot: filepath.Join(configv1.LogDir, "pods"), DataDir: cfg.DataDir,
		DNSAddress: cfg.Network.DNSAddress, ClusterDomain: cfg.Network.ClusterDomain, MemoryBytes: facts.MemoryBytes,
	}}
	k.caches = informer.NewSet(api, log)
	k.pods = informer.Of[*corev1.Pod](k.caches, informer.FieldSelector("spec.nodeName="+cfg.NodeName),
		informer.SnapshotFile(filepath.Join(cfg.DataDir, "pods.snapshot")))
	services := informer.Of[*corev1.Service](k.caches, informer.SnapshotFile(filepath.Join(cfg.DataDir, "services.snapshot")),
		informer.Index(refs.ByNamespace, func(s *corev1.Service) []string { return []string{s.Namespace} }))
	// The store, the prober and the reporter wake workers that are made after them.
	refresh := func(uid types.UID) { k.manager.Refresh(uid) }
	if k.store, err = refs.New(refs.Config{
		Client: api, Services: services, SnapshotFile: filepath.Join(cfg.DataDir, "references.snapshot"),
		NodeName: cfg.NodeName, HostIPs: hostIPs, Allocatable: facts.Allocatable(cfg.MaxPods),
		Changed: refresh, Clock: clk, Log: log,
	}); err != nil {
		return nil, err
	}
	k.recorder = events.New(events.Config{Writer: api, Component: "kubelet", Host: cfg.NodeName, Clock: clk, Log: log})
	network := probes.NewNetwork(containers.ExecSync)
	k.prober = probes.New(probes.Config{
		Executor: network, Clock: clk,
		Changed: func(uid types.UID, _ string, _ probes.Result) { k.manager.Trigger(uid) },
		Failed: func(uid types.UID, container, probe, message string) {
			if pod := k.manager.ByUID(uid); pod != nil {
				k.event(pod, container, corev1.EventTypeWarning, "Unhealthy", probe+" probe failed: "+message)
			}
		},
	})
	k.tokens = tokens.New(tokens.Config{Request: api.Token, Changed: refresh, Clock: clk})
	k.volumes = volumes.New(volumes.Config{
		PodDirectory: k.shared.PodDirectory, ConfigMap: k.store.ConfigMap, Secret: k.store.Secret, Token: k.tokens.Token,
		Claim: k.store.Claim, Volume: k.store.Volume, Masters: &volumeMasters{client: api, masters: masters},
		NodeName: cfg.NodeName, NodeLabels: func() map[string]string { return k.reporter.Labels() },
		// Beside the kubelet's own files, which a reset of the machine removes.
		Root: filepath.Join(filepath.Dir(cfg.DataDir), "volumes"), RecordsFile: filepath.Join(cfg.DataDir, "volumes.json"),
		Clock: clk, Log: log,
		IsNotFound: k.store.Sources(&corev1.Pod{}).IsNotFound,
		Fields:     func(pod *corev1.Pod) env.Sources { return k.store.Sources(pod) },
	})
	k.manager = podworker.New(podworker.Config{
		Runtime: containers, API: &podAPI{api}, Objects: k.store, Volumes: k.volumes, Cgroups: cgroups, Prober: k.prober,
		HTTPGet: func(ctx context.Context, action *corev1.HTTPGetAction, target probes.Target) error {
			ok, message, err := network.HTTPGet(ctx, action, target)
			if err == nil && !ok {
				err = errors.New(message)
			}
			return err
		},
		LogTail:    func(path string) string { return logs.End(path, messageLines, messageBytes) },
		RemoveLogs: func(pod runtime.PodRef) { _ = os.RemoveAll(k.shared.LogDirectory(pod)) },
		Event:      k.event, Node: k.shared, HostIPs: hostIPs, Clock: clk, Log: log,
	})
	k.reporter = node.NewReporter(node.Config{
		Kubelet: cfg, Facts: facts, Client: api, Runtime: containers, Ready: func() { k.manager.TriggerAll() }, Event: k.recorder.Record,
		Version: lifecycle.KubernetesVersion, Clock: clk, Log: log,
	})
	k.rotator = &logs.Rotator{Runtime: containers, Clock: clk, Log: log}
	k.images = &images.Collector{Runtime: containers, Clock: clk, Log: log}
	k.service = server.New(server.Config{
		Runtime: containers, Pod: k.manager.Pod, Pods: k.manager.Pods, Restart: k.manager.Restart, NodeUse: node.Use, NodeName: cfg.NodeName, NodeIP: cfg.NodeIP,
		BootTime: node.BootTime(), Configuration: cfg, Log: log,
	})
	k.pods.OnChange(func(before, after *corev1.Pod) {
		switch {
		case after == nil:
			k.manager.Gone(before)
		case before != nil && before.UID != after.UID:
			k.manager.Gone(before)
			k.manager.Set(after)
		default:
			k.manager.Set(after)
		}
	})
	return k, nil
}

// event tells of a pod, or of one of its containers if that is not empty.
func (k *kubelet) event(pod *corev1.Pod, container, severity, reason, message string) {
	part := ""
	for list, containers := range map[string][]corev1.Container{
		"containers": pod.Spec.Containers, "initContainers": pod.Spec.InitContainers, "ephemeralContainers": status.EphemeralContainers(pod),
	} {
		if slices.ContainsFunc(containers, func(c corev1.Container) bool { return c.Name == container }) {
			part = "spec." + list + "{" + container + "}"
		}
	}
	k.recorder.RecordPart(pod, part, severity, reason, message)
}

func (k *kubelet) run(ctx context.Context) error {
	return lifecycle.RunAll(ctx, k.caches.Run, k.store.Run, k.tokens.Run, k.volumes.Run, k.manager.Run, k.prober.Run, k.recorder.Run,
		k.reporter.Run, k.rotator.Run, k.images.Run, k.confirm)
}

// confirm waits until a master has sent the list of pods. Only then may what is not
// on it be stopped and its files be removed: silence of the masters means nothing.
func (k *kubelet) confirm(ctx context.Context) error {
	if err := k.caches.WaitSynced(ctx); err != nil {
		return err
	}
	for k.pods.Stale() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(confirmEvery):
		}
	}
	// A handler that is added waits for those in progress: now every pod of the list is set.
	k.pods.OnChange(func(_, _ *corev1.Pod) {})
	k.manager.Confirm()
	k.sweep(ctx)
	<-ctx.Done()
	return ctx.Err()
}

// sweep removes directories and cgroups of pods that ended while no kubelet ran.
func (k *kubelet) sweep(ctx context.Context) {
	left := map[string]bool{}
	entries, err := os.ReadDir(filepath.Join(k.shared.DataDir, "pods"))
	if err == nil {
		for _, entry := range entries {
			left[entry.Name()] = true
		}
	}
	if uids, err := k.cgroups.List(); err == nil {
		for _, uid := range uids {
			left[uid] = true
		}
	}
	for uid := range left {
		// Asked after listing: a worker exists before the first file of its pod does.
		if k.manager.Has(types.UID(uid)) {
			continue
		}
		bounded, cancel := context.WithTimeout(ctx, time.Second)
		if err := errors.Join(k.volumes.Teardown(uid), k.cgroups.Remove(bounded, uid)); err != nil {
			k.log.Warn("left-overs of a pod not removed", zap.String("uid", uid), zap.Error(err))
		}
		cancel()
	}
}
