// Package volumes makes a pod's volumes on disk, keeps their contents up to date
// while the pod runs, and removes them. Paths that a pod chooses are only ever
// resolved beneath the volume, through file descriptors, so that no symbolic link
// leads out of it.
package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"

	"kijabi.dev/kubelet/internal/env"
	"kijabi.dev/kubelet/internal/runtime"
)

const (
	directoryMode   = 0o755
	emptyDirMode    = 0o777
	defaultFileMode = int32(0o644)
)

// Config of Volumes; every field is required.
type Config struct {
	// PodDirectory is where a pod's files live.
	PodDirectory func(uid string) string
	// ConfigMap and Secret return objects of a namespace.
	ConfigMap func(namespace, name string) (*corev1.ConfigMap, error)
	Secret    func(namespace, name string) (*corev1.Secret, error)
	// Token returns a service account token as a volume of the pod asks for it.
	Token func(ctx context.Context, pod *corev1.Pod, want *corev1.ServiceAccountTokenProjection) (string, error)
	// Claim and Volume return what persistent volumes are made of.
	Claim  func(namespace, name string) (*corev1.PersistentVolumeClaim, error)
	Volume func(name string) (*corev1.PersistentVolume, error)
	// Masters is asked before the directory of a volume is removed.
	Masters Masters
	// NodeName and NodeLabels decide which volumes can be reached from this machine.
	NodeName   string
	NodeLabels func() map[string]string
	// Root is the directory of the volumes that this kubelet makes, and RecordsFile the list
	// of them, which lies elsewhere.
	Root, RecordsFile string
	// IsNotFound classifies the errors of ConfigMap and Secret.
	IsNotFound func(error) bool
	// Fields answers downward references of a pod.
	Fields func(pod *corev1.Pod) env.Sources
	Clock  clock.WithTicker
	Log    *zap.Logger
}

// Volumes of the machine's pods. Methods for different pods may run at once; those
// for one pod must not.
type Volumes struct {
	cfg     Config
	records records
	made    chan struct{} // a volume has a directory now
	changed chan struct{} // a volume may have fallen out of use

	mu   sync.Mutex     // whatever mounts or removes a persistent volume
	held map[string]int // by name of the volume: pods that are about to mount it
}

// New returns the volumes below the configured directories.
func New(cfg Config) *Volumes {
	return &Volumes{cfg: cfg, records: records{path: cfg.RecordsFile}, made: make(chan struct{}, 1), changed: make(chan struct{}, 1), held: map[string]int{}}
}

// volumesName is where a pod's volumes are within its directory.
const volumesName = "volumes"

func (v *Volumes) directory(uid, volume string) string {
	return filepath.Join(v.cfg.PodDirectory(uid), volumesName, volume)
}

// Setup makes all volumes of a pod, or brings the contents of existing ones up to
// date. Idempotent. Fails naming the volume that cannot be made yet. Only tokens make it
// wait for a master, no longer than ctx.
func (v *Volumes) Setup(ctx context.Context, pod *corev1.Pod) error {
	for i := range pod.Spec.Volumes {
		volume := &pod.Spec.Volumes[i]
		if err := v.setup(ctx, pod, volume); err != nil {
			return fmt.Errorf("volume %q : %w", volume.Name, err)
		}
	}
	return nil
}

func (v *Volumes) setup(ctx context.Context, pod *corev1.Pod, volume *corev1.Volume) error {
	directory := v.directory(string(pod.UID), volume.Name)
	switch {
	case volume.EmptyDir != nil:
		return setupEmptyDir(pod, volume.EmptyDir, directory)
	case volume.HostPath != nil:
		return checkHostPath(volume.HostPath)
	case volume.PersistentVolumeClaim != nil, volume.Ephemeral != nil:
		return v.setupPersistent(ctx, pod, volume, directory)
	case volume.ConfigMap != nil, volume.Secret != nil, volume.DownwardAPI != nil, volume.Projected != nil:
		contents, secret, err := v.contents(ctx, pod, volume, directory)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(directory, directoryMode); err != nil {
			return err
		}
		if secret {
			if err := mountMemory(directory, "size=64m,mode=0755"); err != nil {
				return err
			}
		}
		return write(directory, contents, fsGroup(pod))
	}
	return errors.New("its type is not supported by this kubelet")
}

func setupEmptyDir(pod *corev1.Pod, source *corev1.EmptyDirVolumeSource, directory string) error {
	if _, err := os.Stat(directory); err == nil && source.Medium != corev1.StorageMediumMemory {
		return nil // made before; the pod may have changed it
	}
	if err := os.MkdirAll(directory, directoryMode); err != nil {
		return err
	}
	switch source.Medium {
	case corev1.StorageMediumDefault:
	case corev1.StorageMediumMemory:
		if mounted, err := isMountPoint(directory); err != nil || mounted {
			return err
		}
		options := "mode=0777"
		if source.SizeLimit != nil && !source.SizeLimit.IsZero() {
			options += fmt.Sprintf(",size=%d", source.SizeLimit.Value())
		}
		if err := mountMemory(directory, options); err != nil {
			return err
		}
	default:
		return fmt.Errorf("medium %q is not supported by this kubelet", source.Medium)
	}
	mode := os.FileMode(emptyDirMode)
	if group := fsGroup(pod); group != nil {
		if err := os.Chown(directory, -1, int(*group)); err != nil {
			return err
		}
		mode |= os.ModeSetgid
	}
	return os.Chmod(directory, mode)
}

func fsGroup(pod *corev1.Pod) *int64 {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.FSGroup
}

func checkHostPath(source *corev1.HostPathVolumeSource) error {
	kind := corev1.HostPathUnset
	if source.Type != nil {
		kind = *source.Type
	}
	switch kind {
	case corev1.HostPathUnset:
		return nil
	case corev1.HostPathDirectoryOrCreate:
		if err := os.MkdirAll(source.Path, directoryMode); err != nil {
			return err
		}
	case corev1.HostPathFileOrCreate:
		file, err := os.OpenFile(source.Path, os.O_CREATE|os.O_RDONLY, 0o644)
		if err != nil && !errors.Is(err, unix.EISDIR) {
			return err
		}
		if file != nil {
			_ = file.Close()
		}
	case corev1.HostPathDirectory, corev1.HostPathFile, corev1.HostPathSocket, corev1.HostPathCharDev, corev1.HostPathBlockDev:
	}
	info, err := os.Stat(source.Path)
	if err != nil {
		return fmt.Errorf("hostPath type %s: %w", kind, err)
	}
	mode, ok := info.Mode(), false
	switch kind {
	case corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate:
		ok = mode.IsDir()
	case corev1.HostPathFile, corev1.HostPathFileOrCreate:
		ok = mode.IsRegular()
	case corev1.HostPathSocket:
		ok = mode&os.ModeSocket != 0
	case corev1.HostPathCharDev:
		ok = mode&os.ModeCharDevice != 0
	case corev1.HostPathBlockDev:
		ok = mode&os.ModeDevice != 0 && mode&os.ModeCharDevice == 0
	case corev1.HostPathUnset:
	}
	if !ok {
		return fmt.Errorf("hostPath type %s: %s is something else", kind, source.Path)
	}
	return nil
}

// Mounts returns what a container mounts. Setup must have succeeded. expand
// resolves $(NAME) in subPathExpr.
func (v *Volumes) Mounts(pod *corev1.Pod, c *corev1.Container, expand func(string) string) ([]runtime.Mount, error) {
	byName := map[string]*corev1.Volume{}
	for i := range pod.Spec.Volumes {
		byName[pod.Spec.Volumes[i].Name] = &pod.Spec.Volumes[i]
	}
	result := make([]runtime.Mount, 0, len(c.VolumeMounts)+2)
	for i := range c.VolumeMounts {
		mount := &c.VolumeMounts[i]
		volume := byName[mount.Name]
		if volume == nil {
			return nil, fmt.Errorf("container %s mounts volume %s, which the pod does not have", c.Name, mount.Name)
		}
		source := v.directory(string(pod.UID), volume.Name)
		closed := mount.ReadOnly || volume.ConfigMap != nil || volume.Secret != nil || volume.DownwardAPI != nil || volume.Projected != nil
		switch {
		case volume.HostPath != nil:
			source = volume.HostPath.Path
		case ClaimName(pod, volume) != "":
			only, err := readOnly(source)
			if err != nil {
				return nil, err
			}
			closed = closed || only
		}
		sub := mount.SubPath
		if mount.SubPathExpr != "" {
			sub = expand(mount.SubPathExpr)
		}
		if sub != "" {
			target := filepath.Join(v.cfg.PodDirectory(string(pod.UID)), "subpaths", c.Name, fmt.Sprint(i))
			if err := bindBeneath(source, sub, target); err != nil {
				return nil, fmt.Errorf("container %s: subPath %q of volume %s: %w", c.Name, sub, volume.Name, err)
			}
			source = target
		}
		propagation := ""
		if mount.MountPropagation != nil {
			propagation = string(*mount.MountPropagation)
		}
		result = append(result, runtime.Mount{
			ContainerPath: containerPath(mount.MountPath), HostPath: source, Propagation: propagation,
			ReadOnly: closed,
		})
	}
	return result, nil
}

func containerPath(path string) string {
	if !strings.HasPrefix(path, "/") {
		return "/" + path
	}
	return path
}

// bindBeneath mounts source/sub at target. The path is resolved by the kernel and
// may not leave source; missing directories are made the same way.
func bindBeneath(source, sub, target string) error {
	if filepath.IsAbs(sub) || !filepath.IsLocal(sub) {
		return errors.New("must be relative and stay within the volume")
	}
	root, err := os.OpenRoot(source)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	if _, err := root.Stat(sub); errors.Is(err, fs.ErrNotExist) {
		if err := makeBeneath(root, sub); err != nil {
			return err
		}
	}
	base, err := unix.Open(source, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(base) }()
	fd, err := unix.Openat2(base, sub, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if mounted, err := isMountPoint(target); err != nil {
		return err
	} else if mounted { // of an earlier instance of the container
		if err := detach(target); err != nil {
			return err
		}
		if err := os.RemoveAll(target); err != nil {
			return err
		}
	}
	return attach(fd, target)
}

// makeBeneath makes the directories of a path in a volume as open as the volume is: who may
// write to it may write to them.
func makeBeneath(root *os.Root, path string) error {
	top, err := root.Stat(".")
	if err != nil {
		return err
	}
	made := ""
	for part := range strings.SplitSeq(filepath.Clean(path), "/") {
		made = filepath.Join(made, part)
		err := root.Mkdir(made, directoryMode)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := root.Chmod(made, top.Mode()&(fs.ModePerm|fs.ModeSetgid|fs.ModeSticky)); err != nil {
			return err
		}
	}
	return nil
}

// Teardown unmounts and removes everything of a pod. Idempotent. It must only be
// called once no container of the pod exists.
func (v *Volumes) Teardown(uid string) error {
	directory := v.cfg.PodDirectory(uid)
	if _, err := os.Lstat(directory); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	mounts, err := mountsBelow(directory)
	if err != nil {
		return err
	}
	persistent := false
	for _, mount := range mounts { // all of them before the first goes
		persistent = persistent || strings.HasPrefix(mount, filepath.Join(directory, volumesName)+"/")
		if err := part(mount, 0); err != nil {
			return err
		}
	}
	for _, mount := range mounts {
		if err := detach(mount); err != nil {
			return err
		}
	}
	// From here on files are removed, and those of a volume must not be among them.
	left, err := mountsBelow(directory)
	if err != nil {
		return err
	}
	for _, pattern := range []string{volumesName + "/*", stagingName + "/*", "subpaths/*/*"} {
		places, _ := filepath.Glob(filepath.Join(directory, pattern)) // the pattern is well-formed
		for _, place := range places {
			if mounted, err := isMountPoint(place); err != nil || mounted {
				left = append(left, place)
			}
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("pod directory %s still has mounts: %s", directory, strings.Join(left, " "))
	}
	if err := os.RemoveAll(directory); err != nil {
		return fmt.Errorf("remove volumes: %w", err)
	}
	if persistent {
		signal(v.changed)
	}
	return nil
}
