package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// Provisioner makes volumes of directories of the node that a pod was placed on; its
	// PersistentVolumes carry it in annotation provisionedBy.
	Provisioner   = "kijabi.dev/local-path"
	provisionedBy = "pv.kubernetes.io/provisioned-by"
	// promised is where such a PersistentVolume says that its directory is, whatever place the
	// machine has for it.
	promised = "/var/lib/kijabi/volumes"
	// rootMode keeps everybody but root and those who have a volume mounted away from them all,
	// so that a volume itself may be writable to any user of a pod, as an emptyDir is.
	rootMode  = 0o700
	claimMode = 0o777
	// stagingName is where a read-only mount is prepared, beside a pod's volumes.
	stagingName = "staging"
)

// setupPersistent mounts the volume behind a claim at directory. Once that is done it stays
// so until the pod ends, whatever becomes of claim and volume: neither a restart of the kubelet
// nor the loss of all masters takes a volume from a pod.
func (v *Volumes) setupPersistent(ctx context.Context, pod *corev1.Pod, volume *corev1.Volume, directory string) error {
	if mounted, err := isMountPoint(directory); err != nil || mounted {
		return err
	}
	wanted, err := v.resolve(pod, volume)
	if err != nil {
		return err
	}
	release := v.hold(wanted.volume.Name)
	defer release()
	source, err := v.open(wanted.volume)
	if err != nil {
		return fmt.Errorf("PersistentVolume %s: %w", wanted.volume.Name, err)
	}
	defer func() { _ = unix.Close(source) }()
	// As in Kubernetes, the files of a hostPath belong to the machine and keep their groups.
	if group := fsGroup(pod); group != nil && !wanted.readOnly && wanted.volume.Spec.HostPath == nil {
		if err := own(ctx, source, *group, pod.Spec.SecurityContext.FSGroupChangePolicy); err != nil {
			return fmt.Errorf("PersistentVolume %s: apply fsGroup: %w", wanted.volume.Name, err)
		}
	}
	v.mu.Lock() // of two pods that want a volume for themselves one is first
	defer v.mu.Unlock()
	if wanted.alone {
		users, err := v.users(source)
		if err != nil {
			return err
		}
		delete(users, pod.UID)
		if len(users) > 0 {
			return fmt.Errorf("PersistentVolume %s: volume uses the ReadWriteOncePod access mode and is already in use by another pod", wanted.volume.Name)
		}
	}
	if wanted.readOnly {
		staging := filepath.Join(v.cfg.PodDirectory(string(pod.UID)), stagingName, volume.Name)
		return attachReadOnly(source, staging, directory)
	}
	return attach(source, directory)
}

// open returns what a PersistentVolume consists of, as a descriptor for mounting it.
func (v *Volumes) open(volume *corev1.PersistentVolume) (int, error) {
	switch spec := &volume.Spec; {
	case spec.HostPath != nil:
		if err := checkHostPath(spec.HostPath); err != nil {
			return -1, err
		}
		if _, err := os.Stat(spec.HostPath.Path); errors.Is(err, fs.ErrNotExist) {
			// Of no type, which promises nothing: container runtimes make a directory then.
			if err := os.MkdirAll(spec.HostPath.Path, directoryMode); err != nil {
				return -1, err
			}
		}
		return unix.Open(spec.HostPath.Path, unix.O_PATH|unix.O_CLOEXEC, 0)
	case spec.Local != nil && volume.Annotations[provisionedBy] == Provisioner:
		return v.openOwn(volume)
	case spec.Local != nil:
		fd, err := unix.Open(spec.Local.Path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		switch {
		case errors.Is(err, unix.ENOTDIR):
			return -1, fmt.Errorf("local path %s is not a directory, and this kubelet makes no file system on a device", spec.Local.Path)
		case errors.Is(err, unix.ENOENT):
			return -1, fmt.Errorf("local path %s does not exist on this node", spec.Local.Path)
		case err != nil:
			return -1, fmt.Errorf("local path %s: %w", spec.Local.Path, err)
		}
		return fd, nil
	}
	return -1, fmt.Errorf("its type %s is not supported by this kubelet", sourceKind(&volume.Spec.PersistentVolumeSource))
}

// openOwn opens the directory of a volume of our provisioner and makes it for its first pod.
// Nothing of the volume's specification is a path here but its name, which is a single one.
func (v *Volumes) openOwn(volume *corev1.PersistentVolume) (int, error) {
	name := volume.Name
	if !isVolumeName(name) || volume.Spec.Local.Path != filepath.Join(promised, name) {
		return -1, fmt.Errorf("path %s is not the one of a volume of provisioner %s, which is %s", volume.Spec.Local.Path, Provisioner, filepath.Join(promised, name))
	}
	if volume.Spec.NodeAffinity == nil || volume.Spec.NodeAffinity.Required == nil {
		return -1, errors.New("it does not say on which node its directory is")
	}
	if err := os.MkdirAll(v.cfg.Root, rootMode); err != nil {
		return -1, err
	}
	root, err := os.OpenRoot(v.cfg.Root)
	if err != nil {
		return -1, err
	}
	defer func() { _ = root.Close() }()
	known, err := v.records.has(name)
	if err != nil {
		return -1, err
	}
	switch _, err := root.Lstat(name); {
	case err == nil: // made before; its pods may have changed it
	case !errors.Is(err, fs.ErrNotExist):
		return -1, err
	case known:
		// Going on with an empty one would look like a new beginning to a database.
		return -1, fmt.Errorf("its directory %s was made before and is gone: is a disk not mounted? To begin with an empty one make it", filepath.Join(v.cfg.Root, name))
	default:
		if err := root.Mkdir(name, claimMode); err != nil {
			return -1, err
		}
		if err := root.Chmod(name, claimMode); err != nil { // beyond the umask
			return -1, err
		}
	}
	added, err := v.records.add(name, claimOf(volume))
	if err != nil {
		return -1, err
	}
	if added {
		signal(v.made)
	}
	base, err := unix.Open(v.cfg.Root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(base) }()
	return unix.Openat(base, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// isVolumeName says whether a name can be one of a volume's directory: a single one, not
// hidden, so that it is neither a way out nor something of the collector's.
func isVolumeName(name string) bool {
	return name != "" && !strings.HasPrefix(name, ".") && !strings.ContainsRune(name, '/') && filepath.IsLocal(name)
}

func claimOf(volume *corev1.PersistentVolume) string {
	if ref := volume.Spec.ClaimRef; ref != nil {
		return ref.Namespace + "/" + ref.Name
	}
	return ""
}

// attach mounts what source refers to at target, which must not be a mount point.
func attach(source int, target string) error {
	var status unix.Stat_t
	if err := unix.Fstat(source, &status); err != nil {
		return err
	}
	if status.Mode&unix.S_IFMT == unix.S_IFDIR {
		if err := os.MkdirAll(target, directoryMode); err != nil {
			return err
		}
	} else {
		if err := os.MkdirAll(filepath.Dir(target), directoryMode); err != nil {
			return err
		}
		file, err := os.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o600) // never truncating what may be mounted there
		if err != nil {
			return err
		}
		_ = file.Close()
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", source), target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount at %s: %w", target, err)
	}
	return nil
}

// attachReadOnly is attach for a mount that nothing is written through. It becomes so
// before it appears at target: a kubelet that ends half way leaves nothing that looks done.
func attachReadOnly(source int, staging, target string) error {
	if mounted, err := isMountPoint(staging); err != nil {
		return err
	} else if mounted {
		if err := detach(staging); err != nil {
			return err
		}
	}
	if err := attach(source, staging); err != nil {
		return err
	}
	defer func() { _ = detach(staging) }() // what fails here the pod's end unmounts
	var filesystem unix.Statfs_t
	if err := unix.Statfs(staging, &filesystem); err != nil {
		return fmt.Errorf("%s: %w", staging, err)
	}
	// A change of one flag of a mount sets all of them; those that it has stay.
	flags := uintptr(unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY)
	for set, flag := range map[int64]uintptr{
		unix.ST_NOSUID: unix.MS_NOSUID, unix.ST_NODEV: unix.MS_NODEV, unix.ST_NOEXEC: unix.MS_NOEXEC,
		unix.ST_NOATIME: unix.MS_NOATIME, unix.ST_NODIRATIME: unix.MS_NODIRATIME, unix.ST_RELATIME: unix.MS_RELATIME,
	} {
		if filesystem.Flags&set != 0 {
			flags |= flag
		}
	}
	if err := unix.Mount("", staging, "", flags, ""); err != nil {
		return fmt.Errorf("make %s read-only: %w", staging, err)
	}
	fd, err := unix.Open(staging, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	return attach(fd, target)
}

// readOnly says whether nothing can be written through the mount at path.
func readOnly(path string) (bool, error) {
	var filesystem unix.Statfs_t
	if err := unix.Statfs(path, &filesystem); err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	return filesystem.Flags&unix.ST_RDONLY != 0, nil
}

// users returns the pods of this machine that have mounted what source refers to. The
// kernel keeps this list: it is right after a restart, too.
func (v *Volumes) users(source int) (map[types.UID]bool, error) {
	var wanted unix.Stat_t
	if err := unix.Fstat(source, &wanted); err != nil {
		return nil, err
	}
	pods := filepath.Dir(v.cfg.PodDirectory("uid"))
	mounts, err := mountsBelow(pods)
	if err != nil {
		return nil, err
	}
	result := map[types.UID]bool{}
	for _, mount := range mounts {
		parts := strings.Split(strings.TrimPrefix(mount, pods+"/"), "/")
		if len(parts) != 3 || parts[1] != volumesName {
			continue
		}
		var status unix.Stat_t
		if err := unix.Lstat(mount, &status); err != nil {
			if errors.Is(err, unix.ENOENT) {
				continue // unmounted meanwhile
			}
			return nil, fmt.Errorf("%s: %w", mount, err)
		}
		if status.Dev == wanted.Dev && status.Ino == wanted.Ino {
			result[types.UID(parts[0])] = true
		}
	}
	return result, nil
}
