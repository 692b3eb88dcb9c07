package install

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"kijabi.dev/platform/config"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/pki"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"
)

// ReadOptions reads an options file. With path "" it reads that of the machine, which
// need not exist.
func ReadOptions(path string) (configv1.MemberOptions, error) {
	var said configv1.MemberOptions
	if path == "" {
		path = configv1.OptionsFile
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			return said, nil
		}
	}
	if err := config.Load(path, &said); err != nil {
		return said, fmt.Errorf("options: %w", err)
	}
	return said, nil
}

// With returns the layout with the directories that were said.
func (l Layout) With(said configv1.Directories) Layout {
	l.StateDir = cmp.Or(said.State, l.StateDir)
	l.ContainerdDir, l.EtcdDir = said.Containerd, said.Etcd
	return l
}

// directories remembers a layout that is not the usual one. It lies where a reset finds it
// without knowing anything.
func (l Layout) directories() string { return filepath.Join(l.ConfigDir, "directories.json") }

// InstalledLayout is the layout of this machine: what an installation has left word of,
// or the default.
func InstalledLayout() (Layout, error) { return remembered(DefaultLayout()) }

func remembered(usual Layout) (Layout, error) {
	content, err := os.ReadFile(usual.directories())
	if errors.Is(err, os.ErrNotExist) {
		return usual, nil
	}
	if err != nil {
		return usual, err
	}
	var said configv1.Directories
	if err := json.Unmarshal(content, &said); err != nil {
		return usual, fmt.Errorf("%s: %w", usual.directories(), err)
	}
	return usual.With(said), nil
}

// addDirectories adds the note of a layout that is not the usual one. It comes first, so
// that whatever a failure leaves is found.
func (f *files) addDirectories(o *Options) error {
	if o.Said.Directories == (configv1.Directories{}) {
		return nil
	}
	content, err := json.MarshalIndent(o.Said.Directories, "", "  ")
	if err != nil {
		return err
	}
	f.add(o.Layout.directories(), append(content, '\n'), 0o644)
	return nil
}

// checkDirectories refuses directories with something in them: a reset would remove it.
func (o *Options) checkDirectories() error {
	said := o.Said.Directories
	for _, dir := range []struct{ field, path string }{
		{"state", said.State}, {"containerd", said.Containerd}, {"etcd", said.Etcd},
	} {
		if dir.path == "" {
			continue
		}
		entries, err := os.ReadDir(dir.path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("directories.%s: %w", dir.field, err)
		}
		for _, entry := range entries {
			if !keep(entry.Name()) {
				return fmt.Errorf("directories.%s: %s is not empty (%s is in it): give a directory of its own", dir.field, dir.path, entry.Name())
			}
		}
	}
	return nil
}

// checkEtcd refuses files for a separate etcd that an apiserver could not start with.
func (o *Options) checkEtcd(master bool) error {
	if !master || !o.Said.Etcd.Separate() {
		return nil
	}
	if _, err := pki.OpenIdentity(o.Said.Etcd.Identity()); err != nil {
		return fmt.Errorf("etcd.certFile, keyFile and caFile: %w", err)
	}
	return nil
}

// keep reports whether an entry belongs to the file system and not to us.
func keep(name string) bool { return name == "lost+found" }

// checkAddress refuses ranges that this machine's address lies in: it could not be reached.
func checkAddress(address string, network configv1.Network) error {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return fmt.Errorf("address %q: %w", address, err)
	}
	for _, given := range []struct{ field, text string }{
		{"podCIDR", network.PodCIDR}, {"serviceCIDR", network.ServiceCIDR},
	} {
		prefix, err := netip.ParsePrefix(given.text)
		if err != nil {
			return fmt.Errorf("network.%s: %w", given.field, err)
		}
		if prefix.Contains(ip) {
			return fmt.Errorf("network.%s %s holds this machine's own address %s: found the cluster with other ranges (`--options`)", given.field, given.text, address)
		}
	}
	return nil
}

// adopt takes over the ranges of the cluster that the machine joins, which what was said
// must not contradict.
func (s *settings) adopt(told *mastersv1pb.Network) error {
	if told == nil {
		return errors.New("the master does not tell the cluster's address ranges: its version is too old for this one to join")
	}
	cluster := configv1.Network{
		PodCIDR: told.GetPodCidr(), ServiceCIDR: told.GetServiceCidr(), DNSAddress: told.GetDnsAddress(),
		ClusterDomain: told.GetClusterDomain(), NodePortFirst: told.GetNodePortFirst(), NodePortLast: told.GetNodePortLast(),
	}
	if found := s.said.Network.Differences(cluster); len(found) > 0 {
		return fmt.Errorf("options: %s: ranges are fixed by `kijabi master init`; take them out of this machine's file", strings.Join(found, "; "))
	}
	s.network = cluster
	return checkAddress(s.address, cluster)
}

// Network is the ranges of the cluster that this machine is a member of.
func (l Layout) Network() (configv1.Network, error) {
	var dns configv1.DNSConfiguration
	if err := config.Load(l.config("dns"), &dns); err != nil {
		return configv1.Network{}, err
	}
	return dns.Network, nil
}

// scarce is less room than a program can work with.
const scarce = 64 << 20

// explainFull adds to the reason of a failure that a disk is full, if one is: the programs
// that it makes fail say many other things.
func (l Layout) explainFull(err error) error {
	for _, dir := range []string{l.StateDir, l.containerdDir(), l.etcdDir()} {
		var info unix.Statfs_t
		if unix.Statfs(dir, &info) != nil {
			continue
		}
		if left := info.Bavail * uint64(info.Bsize); left < scarce {
			return fmt.Errorf("%w; the disk of %s is full (%d KiB left): make room, or choose other directories with --options, and run this again", err, dir, left>>10)
		}
	}
	return err
}
