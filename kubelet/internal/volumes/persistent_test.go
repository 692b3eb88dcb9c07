package volumes

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// bind makes a claim and the volume that it is bound to, of our provisioner and for node-1.
func (w *world) bind(claim string) *corev1.PersistentVolume {
	name := "pvc-" + claim
	w.claims[claim] = &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: claim, Namespace: "ns", UID: types.UID(claim)},
		Spec:       corev1.PersistentVolumeClaimSpec{VolumeName: name},
		Status:     corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound},
	}
	w.volumes[name] = &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{provisionedBy: Provisioner}},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes:            []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: promised + "/" + name}},
			ClaimRef:               &corev1.ObjectReference{Namespace: "ns", Name: claim, UID: types.UID(claim)},
			NodeAffinity:           onNode("node-1"),
		},
	}
	return w.volumes[name]
}

func onNode(name string) *corev1.VolumeNodeAffinity {
	return &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{name}}},
	}}}}
}

// claiming is a pod that mounts a claim as volume v.
func claiming(uid, claim string) *corev1.Pod {
	pod := podWith(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{
		PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim},
	}})
	pod.UID = types.UID(uid)
	return pod
}

func (w *world) setup(t *testing.T, pod *corev1.Pod) string {
	t.Helper()
	if err := w.Setup(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	directory := w.Volumes.directory(string(pod.UID), "v")
	if mounted, err := isMountPoint(directory); err != nil || !mounted {
		t.Fatalf("nothing is mounted: %v", err)
	}
	return directory
}

func writeTo(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestClaimOutlivesItsPods(t *testing.T) {
	w := newWorld(t)
	w.bind("data")
	first := w.setup(t, claiming("u", "data"))
	info, err := os.Stat(first)
	if err != nil || info.Mode().Perm() != claimMode {
		t.Fatalf("a pod of any user writes to its volume: %v %v", info.Mode(), err)
	}
	if root, err := os.Stat(w.cfg.Root); err != nil || root.Mode().Perm() != rootMode {
		t.Fatalf("nobody else does: %v %v", root.Mode(), err)
	}
	writeTo(t, filepath.Join(first, "file"), "kept")
	second := w.setup(t, claiming("other", "data"))
	if got := read(t, filepath.Join(second, "file")); got != "kept" {
		t.Fatalf("at the same time: %q", got)
	}
	for _, uid := range []string{"u", "other"} {
		if err := w.Teardown(uid); err != nil {
			t.Fatal(err)
		}
	}
	if left, _ := mountsBelow(w.directory); len(left) > 0 {
		t.Fatalf("mounts left: %v", left)
	}
	if got := read(t, filepath.Join(w.setup(t, claiming("u", "data")), "file")); got != "kept" {
		t.Fatalf("afterwards: %q", got)
	}
}

func TestEphemeralClaimIsThePods(t *testing.T) {
	w, yes := newWorld(t), true
	w.bind("p-v")
	pod := podWith(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}})
	if err := w.Setup(t.Context(), pod); err == nil || !strings.Contains(err.Error(), "pod is not owner") {
		t.Fatalf("somebody's claim of that name: %v", err)
	}
	w.claims["p-v"].OwnerReferences = []metav1.OwnerReference{{Kind: "Pod", Name: "p", UID: "u", Controller: &yes}}
	w.setup(t, pod)
}

func TestClaimsThatAreNotMounted(t *testing.T) {
	block := corev1.PersistentVolumeBlock
	now := metav1.Now()
	for name, row := range map[string]struct {
		change func(claim *corev1.PersistentVolumeClaim, volume *corev1.PersistentVolume)
		want   string
	}{
		"unbound": {func(c *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume) {
			c.Status.Phase = corev1.ClaimPending
		}, "PVC is not bound"},
		"lost":        {func(c *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume) { c.Status.Phase = corev1.ClaimLost }, "PVC has lost its volume pvc-data"},
		"deleted":     {func(c *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume) { c.DeletionTimestamp = &now }, "PVC is being deleted"},
		"no volume":   {func(c *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume) { c.Spec.VolumeName = "none" }, `persistentvolumes "none" not found`},
		"not its own": {func(_ *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) { v.Spec.ClaimRef.UID = "x" }, "does not point to the claim"},
		"of nobody":   {func(_ *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) { v.Spec.ClaimRef = nil }, "nil ClaimRef"},
		"block":       {func(_ *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) { v.Spec.VolumeMode = &block }, "volumeMode Block"},
		"another node": {func(_ *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) {
			v.Spec.NodeAffinity = onNode("node-2")
		}, "no matching NodeSelectorTerms"},
		"no node": {func(_ *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) { v.Spec.NodeAffinity = nil }, "on which node"},
		"csi": {func(_ *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) {
			v.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "d"}}
		}, "its type csi is not supported"},
		"another path": {func(_ *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) { v.Spec.Local.Path = "/etc" }, "is not the one of a volume of provisioner"},
		"a way out": {func(_ *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) {
			v.Name = "../kubelet"
			v.Spec.Local.Path = "/var/lib/kijabi/kubelet"
		}, "is not the one of a volume of provisioner"},
		"absent": {func(_ *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) {
			v.Annotations, v.Spec.Local.Path = nil, "/nowhere"
		}, "does not exist on this node"},
		"a file": {func(_ *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) {
			v.Annotations, v.Spec.Local.Path = nil, "/proc/self/status"
		}, "is not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			volume := w.bind("data")
			row.change(w.claims["data"], volume)
			err := w.Setup(t.Context(), claiming("u", "data"))
			if err == nil || !strings.Contains(err.Error(), row.want) {
				t.Fatalf("error %v, want %q", err, row.want)
			}
			if !strings.HasPrefix(err.Error(), `volume "v" : `) {
				t.Errorf("error %v does not say which volume", err)
			}
			if _, err := os.Stat(w.cfg.Root); err == nil {
				if entries, _ := os.ReadDir(w.cfg.Root); len(entries) > 0 {
					t.Errorf("made %v", entries)
				}
			}
		})
	}
	w := newWorld(t)
	if err := w.Setup(t.Context(), claiming("u", "data")); err == nil || !strings.Contains(err.Error(), `persistentvolumeclaims "data" not found`) {
		t.Errorf("no claim: %v", err)
	}
}

func TestVolumesOfTheMachine(t *testing.T) {
	w := newWorld(t)
	place := t.TempDir()
	writeTo(t, filepath.Join(place, "file"), "here")
	for name, source := range map[string]corev1.PersistentVolumeSource{
		"local":    {Local: &corev1.LocalVolumeSource{Path: place}},
		"hostPath": {HostPath: &corev1.HostPathVolumeSource{Path: place}},
	} {
		volume := w.bind("data")
		volume.Annotations, volume.Spec.PersistentVolumeSource = nil, source
		if got := read(t, filepath.Join(w.setup(t, claiming("u", "data")), "file")); got != "here" {
			t.Errorf("%s: %q", name, got)
		}
		if err := w.Teardown("u"); err != nil {
			t.Fatal(err)
		}
	}
	if got := read(t, filepath.Join(place, "file")); got != "here" {
		t.Errorf("after the pods' ends: %q", got)
	}
	volume := w.bind("data")
	volume.Annotations = nil
	volume.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: filepath.Join(place, "file")}}
	if got := read(t, w.setup(t, claiming("u", "data"))); got != "here" {
		t.Errorf("a single file: %q", got)
	}
}

func TestReadOnlyVolumes(t *testing.T) {
	for name, change := range map[string]func(pod *corev1.Pod, volume *corev1.PersistentVolume){
		"by the pod": func(pod *corev1.Pod, _ *corev1.PersistentVolume) {
			pod.Spec.Volumes[0].PersistentVolumeClaim.ReadOnly = true
		},
		"by the volume": func(_ *corev1.Pod, volume *corev1.PersistentVolume) {
			volume.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany}
		},
		"by nobody": nil,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			pod := claiming("u", "data")
			volume := w.bind("data")
			if change != nil {
				change(pod, volume)
			}
			directory := w.setup(t, pod)
			err := os.WriteFile(filepath.Join(directory, "file"), nil, 0o600)
			if (err != nil) != (change != nil) {
				t.Errorf("writing: %v", err)
			}
			w.restart() // what is known of it is the mount's
			clear(w.claims)
			c := &corev1.Container{Name: "c", VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}}
			mounts, err := w.Mounts(pod, c, nil)
			if err != nil || mounts[0].ReadOnly != (change != nil) {
				t.Errorf("mounts %+v, %v", mounts, err)
			}
			if left, _ := mountsBelow(w.directory); len(left) != 1 {
				t.Errorf("mounts %v", left)
			}
		})
	}
}

func TestGroupOwnsTheVolume(t *testing.T) {
	w, group := newWorld(t), int64(4321)
	w.bind("data")
	outside := filepath.Join(t.TempDir(), "outside")
	writeTo(t, outside, "")
	before, err := os.Stat(outside)
	if err != nil {
		t.Fatal(err)
	}
	directory := w.setup(t, claiming("u", "data"))
	if err := os.MkdirAll(filepath.Join(directory, "a/b"), 0o700); err != nil {
		t.Fatal(err)
	}
	writeTo(t, filepath.Join(directory, "a/b/file"), "")
	if err := os.Symlink(outside, filepath.Join(directory, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Dir(outside), filepath.Join(directory, "way")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(directory, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	pod := claiming("other", "data")
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &group}
	directory = w.setup(t, pod)
	for path, mode := range map[string]os.FileMode{
		".": os.ModeDir | os.ModeSetgid | 0o777, "a": os.ModeDir | os.ModeSetgid | 0o770, "a/b/file": 0o660, "pipe": os.ModeNamedPipe | 0o660,
	} {
		info, err := os.Lstat(filepath.Join(directory, path))
		if err != nil || info.Mode() != mode || gid(t, info) != group {
			t.Errorf("%s: mode %v group %d, %v", path, info.Mode(), gid(t, info), err)
		}
	}
	if after, err := os.Stat(outside); err != nil || after.Mode() != before.Mode() || gid(t, after) != gid(t, before) {
		t.Errorf("a link led out of the volume: %v, %v", after, err)
	}
	// The rest is left alone if the top is right and the pod wants that.
	if err := os.Chmod(filepath.Join(directory, "a/b/file"), 0o600); err != nil {
		t.Fatal(err)
	}
	for policy, want := range map[corev1.PodFSGroupChangePolicy]os.FileMode{corev1.FSGroupChangeOnRootMismatch: 0o600, corev1.FSGroupChangeAlways: 0o660} {
		if err := os.Chmod(filepath.Join(directory, "a/b/file"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := w.Teardown("u"); err != nil {
			t.Fatal(err)
		}
		pod := claiming("u", "data")
		pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &group, FSGroupChangePolicy: &policy}
		info, err := os.Stat(filepath.Join(w.setup(t, pod), "a/b/file"))
		if err != nil || info.Mode() != want {
			t.Errorf("policy %s: mode %v, %v", policy, info.Mode(), err)
		}
	}
}

func gid(t *testing.T, info os.FileInfo) int64 {
	t.Helper()
	status, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		t.Fatal("no owner is known")
	}
	return int64(status.Gid)
}

func TestOnePodAtATime(t *testing.T) {
	w := newWorld(t)
	w.bind("data").Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
	w.setup(t, claiming("u", "data"))
	w.setup(t, claiming("u", "data")) // again, by a kubelet that looks twice
	w.restart()
	if err := w.Setup(t.Context(), claiming("other", "data")); err == nil || !strings.Contains(err.Error(), "already in use by another pod") {
		t.Fatalf("two pods: %v", err)
	}
	if err := w.Teardown("u"); err != nil {
		t.Fatal(err)
	}
	w.setup(t, claiming("other", "data"))
}

func TestMountStaysWithoutMasters(t *testing.T) {
	w := newWorld(t)
	w.bind("data")
	writeTo(t, filepath.Join(w.setup(t, claiming("u", "data")), "file"), "kept")
	clear(w.claims)
	clear(w.volumes)
	w.restart()
	if got := read(t, filepath.Join(w.setup(t, claiming("u", "data")), "file")); got != "kept" {
		t.Fatalf("%q", got)
	}
}

func TestLostDirectoryIsNotANewOne(t *testing.T) {
	w := newWorld(t)
	w.bind("data")
	w.setup(t, claiming("u", "data"))
	if err := w.Teardown("u"); err != nil {
		t.Fatal(err)
	}
	place := filepath.Join(w.cfg.Root, "pvc-data")
	if err := os.Remove(place); err != nil {
		t.Fatal(err)
	}
	w.restart()
	if err := w.Setup(t.Context(), claiming("u", "data")); err == nil || !strings.Contains(err.Error(), "was made before and is gone") {
		t.Fatalf("a database would begin anew: %v", err)
	}
	if err := os.Mkdir(place, 0o700); err != nil {
		t.Fatal(err)
	}
	w.setup(t, claiming("u", "data"))
}

// TestUnmountingIsThePodsAffair: what is mounted within a volume of the machine stays there
// when a pod ends that saw it.
func TestUnmountingIsThePodsAffair(t *testing.T) {
	w := newWorld(t)
	place := t.TempDir()
	inner := filepath.Join(place, "inner")
	if err := unix.Mount(place, place, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = detach(place) })
	if err := unix.Mount("", place, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(inner, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", inner, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	writeTo(t, filepath.Join(inner, "file"), "here")
	volume := w.bind("data")
	volume.Annotations, volume.Spec.PersistentVolumeSource = nil, corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: place}}
	for name, change := range map[string]func(*corev1.Pod){
		"writable":  func(*corev1.Pod) {},
		"read-only": func(pod *corev1.Pod) { pod.Spec.Volumes[0].PersistentVolumeClaim.ReadOnly = true },
	} {
		pod := claiming("u", "data")
		change(pod)
		directory := w.setup(t, pod)
		if got := read(t, filepath.Join(directory, "inner/file")); got != "here" {
			t.Fatalf("%s: %q", name, got)
		}
		c := &corev1.Container{Name: "c", VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: "/v", SubPath: "inner"}}}
		for range 2 {
			if _, err := w.Mounts(pod, c, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Teardown("u"); err != nil {
			t.Fatal(err)
		}
		if mounted, err := isMountPoint(inner); err != nil || !mounted {
			t.Fatalf("%s: the pod's end took a mount from the machine: %v", name, err)
		}
	}
}

func TestSubPathIsAsOpenAsItsVolume(t *testing.T) {
	w, group := newWorld(t), int64(4321)
	w.bind("data")
	pod := claiming("u", "data")
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &group}
	directory := w.setup(t, pod)
	c := &corev1.Container{Name: "c", VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: "/v", SubPath: "a/b"}}}
	if _, err := w.Mounts(pod, c, nil); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(directory, "a/b"))
	if err != nil || info.Mode() != os.ModeDir|os.ModeSetgid|0o777 || gid(t, info) != group {
		t.Fatalf("%v %d %v", info.Mode(), gid(t, info), err)
	}
}

// TestLinkToThePodsDirectory: mounts are found, and unmounted before anything is removed, where
// the way to them leads over a link.
func TestLinkToThePodsDirectory(t *testing.T) {
	w := newWorld(t)
	elsewhere := t.TempDir()
	if err := os.Symlink(elsewhere, filepath.Join(w.directory, "pods")); err != nil {
		t.Fatal(err)
	}
	w.bind("data").Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
	writeTo(t, filepath.Join(w.setup(t, claiming("u", "data")), "file"), "kept")
	if err := w.Setup(t.Context(), claiming("other", "data")); err == nil {
		t.Error("two pods have it")
	}
	if err := w.Teardown("u"); err != nil {
		t.Fatal(err)
	}
	if left, err := mountsBelow(elsewhere); err != nil || len(left) > 0 {
		t.Errorf("mounts %v, %v", left, err)
	}
	if got := read(t, filepath.Join(w.cfg.Root, "pvc-data", "file")); got != "kept" {
		t.Errorf("%q", got)
	}
}
