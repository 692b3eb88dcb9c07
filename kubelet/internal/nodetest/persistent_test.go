package nodetest

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/kubelet/internal/volumes"
)

// Origin implements volumes.Masters.
func (c *cluster) Origin(context.Context) (volumes.Origin, error) {
	return volumes.Origin{Cluster: "nodetest", Generation: 1}, nil
}

// Exists implements volumes.Masters.
func (c *cluster) Exists(_ context.Context, name string) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.volumes[name]
	return ok, nil
}

func (o *objects) claim(_, name string) (*corev1.PersistentVolumeClaim, error) {
	o.cluster.mu.Lock()
	defer o.cluster.mu.Unlock()
	if object, ok := o.cluster.claims[name]; ok {
		return object, nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("persistentvolumeclaims"), name)
}

func (o *objects) volume(name string) (*corev1.PersistentVolume, error) {
	o.cluster.mu.Lock()
	defer o.cluster.mu.Unlock()
	if object, ok := o.cluster.volumes[name]; ok {
		return object, nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("persistentvolumes"), name)
}

// bind makes a claim and its volume, as the provisioner of a node does.
func (c *cluster) bind(name, node string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	volume := "pvc-" + name
	c.claims[name] = &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name)},
		Spec:       corev1.PersistentVolumeClaimSpec{VolumeName: volume},
		Status:     corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound},
	}
	c.volumes[volume] = &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: volume, Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": "kijabi.dev/local-path"}},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes:            []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/var/lib/kijabi/volumes/" + volume}},
			ClaimRef:               &corev1.ObjectReference{Namespace: "default", Name: name, UID: types.UID(name)},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
			}}}},
		},
	}
	c.refresh()
}

// claiming is a pod that mounts a claim at /data.
func claiming(name, claim string, command ...string) *corev1.Pod {
	p := pod(name, command...)
	p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{
		PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim},
	}}}
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/data"}}
	return p
}

func (c *cluster) end(t *testing.T, name string) {
	t.Helper()
	c.delete(name, 1)
	c.await(t, name, "gone", gone)
}

func (c *cluster) said(text string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.events, func(event string) bool { return strings.Contains(event, text) })
}

// TestClaimOutlivesPodsAndKubelets: what one pod wrote another reads; the directory goes with
// the volume, not before.
func TestClaimOutlivesPodsAndKubelets(t *testing.T) {
	c := newCluster()
	directory := dataDirectory(t)
	k := start(t, c, directory)
	k.manager.Confirm()
	user := int64(4711)
	writer := claiming("writer", "data", "sleep")
	writer.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &user}
	c.create(writer)
	const waits = `MountVolume.SetUp failed for volume "v" : error processing PVC default/data: failed to fetch PVC from API server: persistentvolumeclaims "data" not found`
	c.await(t, "writer", "waiting for its claim", func(p *corev1.Pod) bool {
		return main(p).State.Waiting != nil && main(p).State.Waiting.Message == waits
	})
	if !c.said("writer FailedMount: " + waits) {
		t.Errorf("events %q", c.events)
	}
	c.bind("data", "nodetest")
	up := c.await(t, "writer", "ready", ready)
	inside(t, k, up, "write", "/data/file", "kept")
	before := containerOf(t, k, up)

	k.stop() // and the masters do not know of any claim, when the next kubelet begins
	c.mu.Lock()
	claims, volumesOf := c.claims, c.volumes
	c.claims, c.volumes = map[string]*corev1.PersistentVolumeClaim{}, map[string]*corev1.PersistentVolume{}
	c.mu.Unlock()
	k = start(t, c, directory)
	if after := containerOf(t, k, up); after.ID != before.ID {
		t.Fatalf("a restart of the kubelet changed the container: %+v", after)
	}
	if err := k.runtime.StopContainer(t.Context(), before.ID, 0); err != nil {
		t.Fatal(err)
	}
	up = c.await(t, "writer", "restarted", func(p *corev1.Pod) bool { return main(p).RestartCount == 1 && ready(p) })
	list, err := k.runtime.ListContainers(t.Context(), string(up.UID))
	if err != nil {
		t.Fatal(err)
	}
	for i := range list {
		if list[i].Attempt == 1 {
			if output, code, err := k.runtime.ExecSync(t.Context(), list[i].ID, []string{"/workload", "cat", "/data/file"}, 0); err != nil || code != 0 || string(output) != "kept" {
				t.Fatalf("after a crash: %q %d %v", output, code, err)
			}
		}
	}
	c.mu.Lock()
	c.claims, c.volumes = claims, volumesOf
	c.mu.Unlock()
	k.manager.Confirm()
	c.end(t, "writer")

	c.create(claiming("reader", "data", "sleep"))
	up = c.await(t, "reader", "ready", ready)
	if got := inside(t, k, up, "cat", "/data/file"); got != "kept" {
		t.Fatalf("read %q", got)
	}
	place := filepath.Join(k.root, "pvc-data")
	c.mu.Lock()
	delete(c.volumes, "pvc-data") // by force: a pod uses it
	c.mu.Unlock()
	c.end(t, "reader")
	if _, err := os.Stat(filepath.Join(place, "file")); err != nil {
		t.Fatalf("removed at once: %v", err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if _, err := os.Stat(place); os.IsNotExist(err) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the directory of a volume that is gone stays")
		}
	}
}

func TestVolumeOfAnotherNode(t *testing.T) {
	c, _ := begin(t)
	c.bind("far", "elsewhere")
	c.create(claiming("lost", "far", "sleep"))
	c.await(t, "lost", "refused", func(p *corev1.Pod) bool {
		return main(p).State.Waiting != nil && strings.Contains(main(p).State.Waiting.Message, `MountVolume.NodeAffinity check failed for volume "pvc-far" : no matching NodeSelectorTerms`)
	})
}

// TestLinksInAVolume: one pod leaves links in a volume for the next.
func TestLinksInAVolume(t *testing.T) {
	c, k := begin(t)
	c.bind("trap", "nodetest")
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("of the machine"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.create(claiming("attacker", "trap", "sleep"))
	up := c.await(t, "attacker", "ready", ready)
	inside(t, k, up, "link", filepath.Dir(secret), "/data/way")
	inside(t, k, up, "link", "../../../../../../../.."+filepath.Dir(secret), "/data/up")
	group := int64(4321)
	for _, sub := range []string{"way", "up"} {
		p := claiming("victim-"+sub, "trap", "sleep")
		p.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &group}
		p.Spec.Containers[0].VolumeMounts[0].SubPath = sub
		c.create(p)
		c.await(t, p.Name, "refused", func(p *corev1.Pod) bool {
			return main(p).State.Waiting != nil && main(p).State.Waiting.Reason == "CreateContainerConfigError"
		})
	}
	if info, err := os.Stat(secret); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("a link led out of the volume: %v %v", info.Mode(), err)
	}
}
