package access

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// Owner is who files belong to.
type Owner struct{ UID, GID int }

// Own gives a file to the owner, if this process may.
func (o Owner) Own(path string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	if err := os.Lchown(path, o.UID, o.GID); err != nil {
		return fmt.Errorf("owner of %s: %w", path, err)
	}
	return nil
}

// OwnerOf returns the owner of a file.
func OwnerOf(path string) (Owner, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Owner{}, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return Owner{os.Getuid(), os.Getgid()}, nil
	}
	return Owner{int(stat.Uid), int(stat.Gid)}, nil
}

// UserHome is the invoking person's directory of kijabi.
type UserHome struct {
	// Dir is $HOME/.kijabi.
	Dir string
	// Owner of what is made in it.
	Owner Owner
}

// Home returns the directory of the person who runs the command; under sudo that is not
// root.
func Home() (UserHome, error) {
	owner := Owner{os.Getuid(), os.Getgid()}
	if os.Geteuid() == 0 && os.Getenv("SUDO_UID") != "" {
		uid, err := strconv.Atoi(os.Getenv("SUDO_UID"))
		if err != nil {
			return UserHome{}, fmt.Errorf("SUDO_UID: %w", err)
		}
		gid, err := strconv.Atoi(os.Getenv("SUDO_GID"))
		if err != nil {
			return UserHome{}, fmt.Errorf("SUDO_GID: %w", err)
		}
		person, err := user.LookupId(strconv.Itoa(uid))
		if err != nil {
			return UserHome{}, fmt.Errorf("home directory of user %d: %w", uid, err)
		}
		return UserHome{filepath.Join(person.HomeDir, ".kijabi"), Owner{uid, gid}}, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return UserHome{}, fmt.Errorf("home directory: %w", err)
	}
	return UserHome{filepath.Join(home, ".kijabi"), owner}, nil
}

// Kubeconfig is the path of the person's kubeconfig.
func (h UserHome) Kubeconfig() string { return filepath.Join(h.Dir, "kubeconfig") }

// MakeDir makes the person's directory of a cluster.
func (h UserHome) MakeDir(cluster string) (string, error) {
	dir := filepath.Join(h.Dir, cluster)
	for _, path := range []string{h.Dir, dir} {
		if err := os.MkdirAll(path, 0o700); err != nil {
			return "", fmt.Errorf("directory of the cluster: %w", err)
		}
		if err := h.Owner.Own(path); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// Forget removes the person's certificate for a cluster and the kubeconfig's entries.
func (h UserHome) Forget(cluster string) error {
	gone := &Access{Dir: filepath.Join(h.Dir, cluster), Cluster: Cluster{Name: cluster}}
	if _, err := os.Stat(h.Kubeconfig()); err == nil {
		if err := gone.RemoveKubeconfig(h.Kubeconfig(), h.Owner); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(gone.Dir); err != nil {
		return fmt.Errorf("access to cluster %q: %w", cluster, err)
	}
	_ = os.Remove(h.Dir) // if empty
	return nil
}
