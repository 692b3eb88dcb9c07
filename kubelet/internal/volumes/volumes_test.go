package volumes

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	testingclock "k8s.io/utils/clock/testing"

	"kijabi.dev/kubelet/internal/env"
)

var errMissing = errors.New("missing")

type world struct {
	*Volumes
	directory  string
	configMaps map[string]*corev1.ConfigMap
	secrets    map[string]*corev1.Secret
	token      string // empty: no master answers
	claims     map[string]*corev1.PersistentVolumeClaim
	volumes    map[string]*corev1.PersistentVolume
	masters    *masters
	clock      *testingclock.FakeClock
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		directory: t.TempDir(), configMaps: map[string]*corev1.ConfigMap{}, secrets: map[string]*corev1.Secret{},
		claims: map[string]*corev1.PersistentVolumeClaim{}, volumes: map[string]*corev1.PersistentVolume{},
		clock: testingclock.NewFakeClock(time.Unix(1_000_000, 0)),
	}
	w.masters = &masters{world: w, origin: Origin{Cluster: "c", Generation: 1}}
	w.restart()
	t.Cleanup(func() {
		for _, uid := range []string{"u", "other"} {
			if err := w.Teardown(uid); err != nil {
				t.Error(err)
			}
		}
	})
	return w
}

// restart begins another life of the kubelet.
func (w *world) restart() {
	w.Volumes = New(Config{
		PodDirectory: func(uid string) string { return filepath.Join(w.directory, "pods", uid) },
		Claim:        lookUp(w.claims, "persistentvolumeclaims"),
		Volume: func(name string) (*corev1.PersistentVolume, error) {
			return lookUp(w.volumes, "persistentvolumes")("", name)
		},
		Masters: w.masters, NodeName: "node-1", NodeLabels: func() map[string]string { return map[string]string{corev1.LabelHostname: "node-1"} },
		Root: filepath.Join(w.directory, "root"), RecordsFile: filepath.Join(w.directory, "volumes.json"), Clock: w.clock, Log: zap.NewNop(),
		ConfigMap: func(_, name string) (*corev1.ConfigMap, error) {
			if object, ok := w.configMaps[name]; ok {
				return object, nil
			}
			return nil, errMissing
		},
		Secret: func(_, name string) (*corev1.Secret, error) {
			if object, ok := w.secrets[name]; ok {
				return object, nil
			}
			return nil, errMissing
		},
		Token: func(_ context.Context, pod *corev1.Pod, want *corev1.ServiceAccountTokenProjection) (string, error) {
			if w.token == "" {
				return "", errMissing
			}
			return w.token + " of " + pod.Name + " for " + want.Audience, nil
		},
		IsNotFound: func(err error) bool { return errors.Is(err, errMissing) },
		Fields:     func(*corev1.Pod) env.Sources { return env.Sources{} },
	})
}

// lookUp finds objects by name.
func lookUp[T any](objects map[string]*T, resource string) func(namespace, name string) (*T, error) {
	return func(_, name string) (*T, error) {
		if object, ok := objects[name]; ok {
			return object, nil
		}
		return nil, apierrors.NewNotFound(corev1.Resource(resource), name)
	}
}

func podWith(volumes ...corev1.Volume) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u", Labels: map[string]string{"a": "b"}}, Spec: corev1.PodSpec{Volumes: volumes}}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestConfigMapIsReplacedAtomically(t *testing.T) {
	w := newWorld(t)
	w.configMaps["c"] = &corev1.ConfigMap{Data: map[string]string{"one": "1", "two": "2"}}
	mode := int32(0o400)
	pod := podWith(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: "c"}, Items: []corev1.KeyToPath{{Key: "one", Path: "deep/one", Mode: &mode}, {Key: "two", Path: "two"}},
	}}})
	if err := w.Setup(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	directory := w.Volumes.directory("u", "v")
	if got := read(t, filepath.Join(directory, "deep/one")); got != "1" {
		t.Fatalf("deep/one = %q", got)
	}
	info, err := os.Stat(filepath.Join(directory, "deep/one"))
	if err != nil || info.Mode().Perm() != 0o400 {
		t.Fatalf("mode = %v, %v", info.Mode(), err)
	}
	before, err := os.Readlink(filepath.Join(directory, dataLink))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Setup(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if again, _ := os.Readlink(filepath.Join(directory, dataLink)); again != before {
		t.Fatal("unchanged contents were written again")
	}
	w.configMaps["c"] = &corev1.ConfigMap{Data: map[string]string{"one": "uno", "two": "2"}}
	if err := w.Setup(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Join(directory, "deep/one")); got != "uno" {
		t.Fatalf("after the update deep/one = %q", got)
	}
	if _, err := os.Stat(filepath.Join(directory, before)); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("old generation is still there: %v", err)
	}
}

func TestSecretsLieInMemory(t *testing.T) {
	w := newWorld(t)
	w.secrets["s"] = &corev1.Secret{Data: map[string][]byte{"key": []byte("x")}}
	if err := w.Setup(t.Context(), podWith(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}})); err != nil {
		t.Fatal(err)
	}
	var filesystem unix.Statfs_t
	if err := unix.Statfs(filepath.Join(w.Volumes.directory("u", "v"), "key"), &filesystem); err != nil || filesystem.Type != unix.TMPFS_MAGIC {
		t.Fatalf("type %x, %v", filesystem.Type, err)
	}
}

func TestMissingAndOptional(t *testing.T) {
	w, yes := newWorld(t), true
	source := &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "none"}}
	pod := podWith(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{ConfigMap: source}})
	if err := w.Setup(t.Context(), pod); !errors.Is(err, errMissing) {
		t.Fatalf("err = %v", err)
	}
	source.Optional = &yes
	if err := w.Setup(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
}

func TestSubPathStaysInside(t *testing.T) {
	w := newWorld(t)
	pod := podWith(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
	if err := w.Setup(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	directory := w.Volumes.directory("u", "v")
	for name, target := range map[string]string{"out": "/etc", "up": "../../../..", "in": "data"} {
		if err := os.Symlink(target, filepath.Join(directory, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(directory, "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	mounts := func(sub string) error {
		c := &corev1.Container{Name: "c", VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: "/m", SubPath: sub}}}
		_, err := w.Mounts(pod, c, func(s string) string { return s })
		return err
	}
	for _, sub := range []string{"out", "out/passwd", "up", "../x", "/etc"} {
		if err := mounts(sub); err == nil {
			t.Errorf("subPath %q led out of the volume", sub)
		}
	}
	for _, sub := range []string{"in", "made/anew", "data"} {
		if err := mounts(sub); err != nil {
			t.Errorf("subPath %q: %v", sub, err)
		}
	}
}

func TestHostPathTypes(t *testing.T) {
	directory := t.TempDir()
	for _, row := range []struct {
		kind corev1.HostPathType
		path string
		ok   bool
	}{
		{corev1.HostPathDirectory, directory, true},
		{corev1.HostPathFile, directory, false},
		{corev1.HostPathDirectoryOrCreate, filepath.Join(directory, "a/b"), true},
		{corev1.HostPathFileOrCreate, filepath.Join(directory, "f"), true},
		{corev1.HostPathFileOrCreate, directory, false},
		{corev1.HostPathSocket, filepath.Join(directory, "none"), false},
		{corev1.HostPathCharDev, "/dev/null", true},
		{corev1.HostPathBlockDev, "/dev/null", false},
	} {
		err := checkHostPath(&corev1.HostPathVolumeSource{Path: row.path, Type: &row.kind})
		if (err == nil) != row.ok {
			t.Errorf("%s %s: %v", row.kind, row.path, err)
		}
	}
}

func TestMemoryEmptyDirIsRemoved(t *testing.T) {
	w, group := newWorld(t), int64(1234)
	pod := podWith(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}})
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &group}
	for range 2 {
		if err := w.Setup(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(w.Volumes.directory("u", "v"))
	if err != nil || info.Mode()&os.ModeSetgid == 0 || info.Mode().Perm() != 0o777 {
		t.Fatalf("%v %v", info.Mode(), err)
	}
	if err := w.Teardown("u"); err != nil {
		t.Fatal(err)
	}
	if left, _ := mountsBelow(w.directory); len(left) > 0 {
		t.Fatalf("mounts left: %v", left)
	}
}

func TestTokenStaysWhileNoMasterAnswers(t *testing.T) {
	w := newWorld(t)
	pod := podWith(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: "me", Path: "deep/token"}}},
	}}})
	if err := w.Setup(t.Context(), pod); !errors.Is(err, errMissing) {
		t.Fatalf("no token can be had: %v", err)
	}
	directory := w.Volumes.directory("u", "v")
	for _, step := range []struct{ issued, want string }{
		{"first", "first of p for me"}, {"", "first of p for me"}, {"second", "second of p for me"},
	} {
		w.token = step.issued
		if err := w.Setup(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
		if got := read(t, filepath.Join(directory, "deep/token")); got != step.want {
			t.Errorf("token %q, want %q", got, step.want)
		}
	}
	if mounted, err := isMountPoint(directory); err != nil || !mounted {
		t.Errorf("the token lies on a disk: %v, %v", mounted, err)
	}
}
