package nodetest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"kijabi.dev/kubelet/internal/env"
	"kijabi.dev/kubelet/internal/logs"
	machine "kijabi.dev/kubelet/internal/node"
	"kijabi.dev/kubelet/internal/podspec"
	"kijabi.dev/kubelet/internal/podworker"
	"kijabi.dev/kubelet/internal/probes"
	"kijabi.dev/kubelet/internal/resources"
	"kijabi.dev/kubelet/internal/runtime"
	"kijabi.dev/kubelet/internal/runtime/cri"
	"kijabi.dev/kubelet/internal/server"
	"kijabi.dev/kubelet/internal/volumes"
	"kijabi.dev/platform/lifecycle"
)

func testContext() context.Context { return context.Background() }

// cluster stands for the masters: it holds pods and what they refer to.
type cluster struct {
	mu         sync.Mutex
	version    int
	uids       int
	pods       map[string]*corev1.Pod
	configMaps map[string]*corev1.ConfigMap
	secrets    map[string]*corev1.Secret
	claims     map[string]*corev1.PersistentVolumeClaim
	volumes    map[string]*corev1.PersistentVolume
	events     []string
	watcher    func(before, after *corev1.Pod) // of the running kubelet
	refresh    func()                          // of it: what pods refer to changed
	changed    chan struct{}
	writes     int
}

func newCluster() *cluster {
	return &cluster{
		pods: map[string]*corev1.Pod{}, configMaps: map[string]*corev1.ConfigMap{}, secrets: map[string]*corev1.Secret{},
		claims: map[string]*corev1.PersistentVolumeClaim{}, volumes: map[string]*corev1.PersistentVolume{}, refresh: func() {},
		changed: make(chan struct{}),
	}
}

// put stores and announces; called with mu held.
func (c *cluster) put(pod *corev1.Pod) *corev1.Pod {
	c.version++
	before := c.pods[pod.Name]
	stored := pod.DeepCopy()
	stored.ResourceVersion = strconv.Itoa(c.version)
	c.pods[pod.Name] = stored
	close(c.changed)
	c.changed = make(chan struct{})
	if c.watcher != nil {
		c.watcher(before, stored)
	}
	return stored.DeepCopy()
}

func (c *cluster) create(pod *corev1.Pod) *corev1.Pod {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.uids++
	pod = pod.DeepCopy()
	pod.UID = types.UID(fmt.Sprintf("uid-%s-%d-%d", pod.Name, c.uids, os.Getpid()))
	pod.Generation = 1
	pod.CreationTimestamp = metav1.Now()
	pod.Status.Phase = corev1.PodPending
	return c.put(pod)
}

// delete asks for a pod's end, as a user does; without grace the object goes at once.
func (c *cluster) delete(name string, grace int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if grace == 0 {
		c.remove(name)
		return
	}
	pod := c.pods[name].DeepCopy()
	now := metav1.NewTime(time.Now().Add(time.Duration(grace) * time.Second))
	pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &now, &grace
	c.put(pod)
}

func (c *cluster) remove(name string) {
	before := c.pods[name]
	delete(c.pods, name)
	close(c.changed)
	c.changed = make(chan struct{})
	if c.watcher != nil && before != nil {
		c.watcher(before, nil)
	}
}

func (c *cluster) get(name string) *corev1.Pod {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pods[name].DeepCopy()
}

// UpdateStatus implements podworker.API.
func (c *cluster) UpdateStatus(_ context.Context, pod *corev1.Pod) (*corev1.Pod, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, ok := c.pods[pod.Name]
	if !ok || now.UID != pod.UID {
		return nil, apierrors.NewNotFound(corev1.Resource("pods"), pod.Name)
	}
	if now.ResourceVersion != pod.ResourceVersion {
		return nil, apierrors.NewConflict(corev1.Resource("pods"), pod.Name, fmt.Errorf("it is at %s", now.ResourceVersion))
	}
	c.writes++
	next := now.DeepCopy()
	next.Status = pod.Status
	// As on the wire: times have seconds.
	data, err := next.Marshal()
	if err != nil {
		return nil, err
	}
	decoded := &corev1.Pod{}
	if err := decoded.Unmarshal(data); err != nil {
		return nil, err
	}
	return c.put(decoded), nil
}

// Get implements podworker.API.
func (c *cluster) Get(_ context.Context, _, name string) (*corev1.Pod, error) {
	if pod := c.get(name); pod != nil {
		return pod, nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("pods"), name)
}

// ConfirmDeleted implements podworker.API.
func (c *cluster) ConfirmDeleted(_ context.Context, pod *corev1.Pod) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now, ok := c.pods[pod.Name]; ok && now.UID == pod.UID {
		c.remove(pod.Name)
	}
	return nil
}

// await waits until a pod (nil once it is gone) satisfies a condition.
func (c *cluster) await(t *testing.T, name, what string, ok func(*corev1.Pod) bool) *corev1.Pod {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		c.mu.Lock()
		pod, changed := c.pods[name], c.changed
		c.mu.Unlock()
		if ok(pod) {
			return pod
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("pod %s is not %s: %+v", name, what, pod)
		}
	}
}

func ready(pod *corev1.Pod) bool {
	if pod == nil {
		return false
	}
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

func gone(pod *corev1.Pod) bool { return pod == nil }

// objects hands out the cluster's objects.
type objects struct{ cluster *cluster }

func (o *objects) Await(context.Context, *corev1.Pod) error { return nil }
func (o *objects) Use(*corev1.Pod)                          {}
func (o *objects) Release(types.UID)                        {}
func (o *objects) Credentials(*corev1.Pod, string) []runtime.Credentials {
	return nil
}

func (o *objects) configMap(_, name string) (*corev1.ConfigMap, error) {
	o.cluster.mu.Lock()
	defer o.cluster.mu.Unlock()
	if object, ok := o.cluster.configMaps[name]; ok {
		return object, nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("configmaps"), name)
}

func (o *objects) secret(_, name string) (*corev1.Secret, error) {
	o.cluster.mu.Lock()
	defer o.cluster.mu.Unlock()
	if object, ok := o.cluster.secrets[name]; ok {
		return object, nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("secrets"), name)
}

func (o *objects) Sources(pod *corev1.Pod) env.Sources {
	return env.Sources{
		ConfigMap:  func(name string) (*corev1.ConfigMap, error) { return o.configMap(pod.Namespace, name) },
		Secret:     func(name string) (*corev1.Secret, error) { return o.secret(pod.Namespace, name) },
		IsNotFound: apierrors.IsNotFound, NodeName: "nodetest",
	}
}

// kubelet is one life of the parts under test.
type kubelet struct {
	manager *podworker.Manager
	runtime *cri.Client
	service *server.Service
	node    podspec.Node
	root    string // of persistent volumes
	stop    func()
}

// start runs a kubelet against the shared containerd until stop or the test's end.
func start(t *testing.T, c *cluster, dataDir string) *kubelet {
	t.Helper()
	client, err := cri.New(containerd(t).endpoint)
	if err != nil {
		t.Fatal(err)
	}
	cgroups, err := resources.NewCgroups("/sys/fs/cgroup", os.Getenv(cgroupVariable), 256)
	if err != nil {
		t.Fatal(err)
	}
	log := zaptest.NewLogger(t, zaptest.Level(zapLevel()))
	node := podspec.Node{
		Name: "nodetest", LogRoot: filepath.Join(dataDir, "logs"), DataDir: dataDir, DNSAddress: "10.96.0.10", ClusterDomain: "cluster.local",
		MemoryBytes: 1 << 33,
	}
	k := &kubelet{runtime: client, node: node, root: filepath.Join(dataDir, "root")}
	objects := &objects{c}
	network := probes.NewNetwork(client.ExecSync)
	prober := probes.New(probes.Config{Executor: network, Clock: clock.RealClock{}, Changed: func(uid types.UID, _ string, _ probes.Result) { k.manager.Trigger(uid) }})
	mounted := volumes.New(volumes.Config{
		PodDirectory: node.PodDirectory, ConfigMap: objects.configMap, Secret: objects.secret,
		Claim: objects.claim, Volume: objects.volume, Masters: c, NodeName: node.Name, NodeLabels: func() map[string]string {
			return map[string]string{corev1.LabelHostname: node.Name}
		},
		Root: k.root, RecordsFile: filepath.Join(dataDir, "volumes.json"),
		IsNotFound: apierrors.IsNotFound, Fields: objects.Sources, Clock: clock.RealClock{}, Log: log,
	})
	k.manager = podworker.New(podworker.Config{
		Runtime: client, API: c, Objects: objects, Cgroups: cgroups, Prober: prober, Volumes: mounted,
		HTTPGet:    func(context.Context, *corev1.HTTPGetAction, probes.Target) error { return nil },
		LogTail:    func(path string) string { return logs.End(path, 80, 2048) },
		RemoveLogs: func(pod runtime.PodRef) { _ = os.RemoveAll(node.LogDirectory(pod)) },
		Event: func(pod *corev1.Pod, _, _, reason, message string) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.events = append(c.events, pod.Name+" "+reason+": "+message)
		},
		Node: node, HostIPs: []string{"10.199.0.1"}, Clock: clock.RealClock{}, Log: log,
	})
	k.service = server.New(server.Config{
		Runtime: client, Pod: k.manager.Pod, Pods: k.manager.Pods, Restart: k.manager.Restart, NodeUse: machine.Use, NodeName: "node", NodeIP: "127.0.0.1",
		BootTime: time.Unix(1, 0), Configuration: map[string]string{"kind": "Test"}, Log: log,
	})
	c.mu.Lock()
	for _, pod := range c.pods {
		k.manager.Set(pod)
	}
	c.watcher = func(before, after *corev1.Pod) {
		if before != nil && (after == nil || before.UID != after.UID) {
			k.manager.Gone(before)
		}
		if after != nil {
			k.manager.Set(after)
		}
	}
	c.refresh = func() {
		for _, pod := range c.pods {
			k.manager.Refresh(pod.UID)
		}
	}
	c.mu.Unlock()
	group := lifecycle.NewGroup(testContext())
	group.Go(k.manager.Run)
	group.Go(mounted.Run)
	group.Go(prober.Run)
	var once sync.Once
	k.stop = func() {
		once.Do(func() {
			c.mu.Lock()
			c.watcher, c.refresh = nil, func() {}
			c.mu.Unlock()
			group.Cancel()
			if err := group.Wait(); err != nil {
				t.Errorf("kubelet ended with %v", err)
			}
			_ = client.Close()
		})
	}
	t.Cleanup(k.stop)
	return k
}

// onePod starts a kubelet with an empty machine.
func begin(t *testing.T) (*cluster, *kubelet) {
	t.Helper()
	c := newCluster()
	k := start(t, c, dataDirectory(t))
	k.manager.Confirm()
	t.Cleanup(func() {
		c.mu.Lock()
		var names []string
		for name := range c.pods {
			names = append(names, name)
		}
		c.mu.Unlock()
		for _, name := range names {
			c.delete(name, 1)
		}
		for _, name := range names {
			c.await(t, name, "gone", gone)
		}
	})
	return c, k
}

func dataDirectory(t *testing.T) string {
	t.Helper()
	directory, err := os.MkdirTemp(containerd(t).directory, "k") //nolint:usetesting // not in memory, and removed with the rest
	if err != nil {
		t.Fatal(err)
	}
	return directory
}

// pod returns one of a single container running the workload.
func pod(name string, command ...string) *corev1.Pod {
	grace := int64(5)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: corev1.PodSpec{
			NodeName: "nodetest", RestartPolicy: corev1.RestartPolicyAlways, TerminationGracePeriodSeconds: &grace, DNSPolicy: corev1.DNSClusterFirst,
			Containers: []corev1.Container{{Name: "main", Image: testImage, ImagePullPolicy: corev1.PullIfNotPresent, Args: command}},
		},
	}
}
