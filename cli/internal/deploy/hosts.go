// Package deploy makes the machines that a file names into a cluster, over SSH.
//
// It asks every machine what it is, decides by the file what each needs (Decide, which
// is pure), and runs the same installing commands that a person would: `kijabi master
// init`, `master join`, `node join` and `reset`. What is done already is not done
// again, so a run that was cut off is continued by the next.
package deploy

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	configv1 "kijabi.dev/platform/config/v1"

	"kijabi.dev/cli/internal/remote"
)

// Role of a machine in the file.
type Role string

const (
	// Master machines run the control plane, and the programs of a node.
	Master Role = "master"
	// Node machines run pods.
	Node Role = "node"
)

// Hosts is the file: apiVersion kijabi.dev/v1, kind Hosts. Fields that are not known are
// refused.
type Hosts struct {
	configv1.TypeMeta `json:",inline"`
	// Cluster is the name that the cluster is known by on this computer. Required.
	Cluster string `json:"cluster,omitempty"`
	// Bundle is the archive that `make bundle` makes, or a directory with one for each
	// architecture. A relative path starts at the file's directory. Required.
	Bundle string `json:"bundle,omitempty"`
	// BundleKey is the public key (PEM) that the archives are signed with. Given, an
	// archive whose signature beside it is another's is refused. Relative like Bundle.
	BundleKey string `json:"bundleKey,omitempty"`
	// Defaults of all hosts.
	Defaults Defaults `json:"defaults,omitzero"`
	// Hosts of the cluster, of which 1, 3 or 5 are masters. Required.
	Hosts []Host `json:"hosts,omitempty"`
}

// Defaults are used where a host says nothing else.
type Defaults struct {
	// User to log in as; default root.
	User string `json:"user,omitempty"`
	// Port of the SSH servers; default 22.
	Port int `json:"port,omitempty"`
	// KeyFile is a private key; default the agent's keys, then the usual files in ~/.ssh.
	KeyFile string `json:"keyFile,omitempty"`
}

// Host is a machine of the cluster.
type Host struct {
	// Name in the cluster. Required.
	Name string `json:"name,omitempty"`
	// Address of its SSH server: HOST or HOST:PORT. Required.
	Address string `json:"address,omitempty"`
	// User and KeyFile to log in with, if not those of the defaults.
	User    string `json:"user,omitempty"`
	KeyFile string `json:"keyFile,omitempty"`
	// Role is master or node. Required.
	Role Role `json:"role,omitempty"`
	// AdvertiseAddress is the IP that other machines reach it at; default the SSH
	// address if that is an IP of the machine, else the IP of its default route.
	AdvertiseAddress string `json:"advertiseAddress,omitempty"`
	// Schedulable lets any pod run on a master, which is tainted otherwise.
	Schedulable bool `json:"schedulable,omitempty"`
	// Labels of its Node.
	Labels map[string]string `json:"labels,omitempty"`
}

// Load reads a hosts file and checks it. The error names all faults.
func Load(path string) (*Hosts, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("hosts file: %w", err)
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("hosts file: %w", err)
	}
	h, err := parse(content, dir)
	if err != nil {
		return nil, fmt.Errorf("hosts file %s: %w", path, err)
	}
	return h, nil
}

// parse reads the content of a file in dir.
func parse(content []byte, dir string) (*Hosts, error) {
	encoded, err := yaml.YAMLToJSONStrict(content)
	if err != nil {
		return nil, err
	}
	var h Hosts
	strict, err := json.UnmarshalStrict(encoded, &h)
	if err != nil {
		return nil, err
	}
	var faults []string
	for _, fault := range strict {
		faults = append(faults, fault.Error())
	}
	if faults = append(faults, h.faults()...); len(faults) > 0 {
		return nil, errors.New(strings.Join(faults, "; "))
	}
	return &h, h.complete(dir)
}

// faults lists everything that is wrong, each with the path of its field.
func (h *Hosts) faults() []string {
	var all []string
	fault := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	if h.APIVersion != configv1.APIVersion {
		fault("apiVersion: %q is not known: write %s", h.APIVersion, configv1.APIVersion)
	}
	if h.Kind != "Hosts" {
		fault("kind: %q is not known: write Hosts", h.Kind)
	}
	if h.Cluster == "" || len(h.Cluster) > 32 || strings.Trim(h.Cluster, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		fault("cluster: %q is no name: use up to 32 small letters, digits and dashes", h.Cluster)
	}
	if h.Bundle == "" {
		fault("bundle: missing: name the archive that `make bundle` makes")
	}
	if h.Defaults.Port < 0 || h.Defaults.Port > 65535 {
		fault("defaults.port: %d is no port: use 1 to 65535, or leave it out for 22", h.Defaults.Port)
	}
	masters := 0
	for i, host := range h.Hosts {
		for _, text := range host.faults() {
			fault("hosts[%d].%s", i, text)
		}
		if host.Role == Master {
			masters++
		}
	}
	all = append(all, h.duplicates()...)
	switch {
	case len(h.Hosts) == 0:
		fault("hosts: missing: name at least one with role master")
	case !slices.Contains([]int{1, 3, 5}, masters):
		fault("hosts[].role: %d masters cannot agree well: use 1, 3 or 5", masters)
	}
	return all
}

func (h Host) faults() []string {
	var all []string
	fault := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	if len(validation.IsDNS1123Subdomain(h.Name)) > 0 || len(h.Name) > 63 {
		fault("name: %q is no host name: use up to 63 small letters, digits and dashes", h.Name)
	}
	if _, err := sshAddress(h.Address, 22); err != nil {
		fault("address: %v", err)
	}
	if h.Role != Master && h.Role != Node {
		fault("role: %q is not known: write master or node (a master runs pods as well: schedulable: true)", h.Role)
	}
	if h.Schedulable && h.Role == Node {
		fault("schedulable: a node is schedulable anyway: leave it out")
	}
	if h.AdvertiseAddress != "" {
		if ip, err := netip.ParseAddr(h.AdvertiseAddress); err != nil || ip.IsUnspecified() || ip.IsLoopback() {
			fault("advertiseAddress: %q is no IP that others can reach", h.AdvertiseAddress)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(h.Labels)) {
		reasons := append(validation.IsQualifiedName(key), validation.IsValidLabelValue(h.Labels[key])...)
		if len(reasons) > 0 {
			fault("labels[%s]: %s", key, reasons[0])
		}
	}
	return all
}

// duplicates lists what two hosts cannot share.
func (h *Hosts) duplicates() []string {
	var all []string
	for _, field := range []struct {
		name string
		of   func(Host) string
	}{
		{"name", func(host Host) string { return host.Name }},
		{"address", func(host Host) string {
			address, err := sshAddress(host.Address, h.port())
			if err != nil {
				return ""
			}
			return address
		}},
		{"advertiseAddress", func(host Host) string { return host.AdvertiseAddress }},
	} {
		first := map[string]int{}
		for i, host := range h.Hosts {
			value := field.of(host)
			if value == "" {
				continue
			}
			if j, ok := first[value]; ok {
				all = append(all, fmt.Sprintf("hosts[%d].%s: %s is that of hosts[%d] already", i, field.name, value, j))
				continue
			}
			first[value] = i
		}
	}
	return all
}

func (h *Hosts) port() int {
	if h.Defaults.Port == 0 {
		return 22
	}
	return h.Defaults.Port
}

// sshAddress is HOST:PORT of HOST or HOST:PORT.
func sshAddress(text string, port int) (string, error) {
	if text == "" {
		return "", errors.New("missing: write HOST or HOST:PORT of its SSH server")
	}
	host, own := text, strconv.Itoa(port)
	if _, err := netip.ParseAddr(text); err != nil && strings.Contains(text, ":") {
		var err error
		if host, own, err = net.SplitHostPort(text); err != nil {
			return "", fmt.Errorf("%q is neither HOST nor HOST:PORT", text)
		}
	}
	if number, err := strconv.Atoi(own); err != nil || number < 1 || number > 65535 || host == "" || strings.ContainsAny(host, " /@") {
		return "", fmt.Errorf("%q is neither HOST nor HOST:PORT (the user goes into the field user)", text)
	}
	return net.JoinHostPort(host, own), nil
}

// complete fills in defaults and makes paths absolute.
func (h *Hosts) complete(dir string) error {
	if h.Defaults.User == "" {
		h.Defaults.User = "root"
	}
	var err error
	if h.BundleKey, err = resolve(h.BundleKey, dir); err != nil {
		return err
	}
	if h.Bundle, err = resolve(h.Bundle, dir); err != nil {
		return err
	}
	if h.Defaults.KeyFile, err = resolve(h.Defaults.KeyFile, dir); err != nil {
		return err
	}
	for i := range h.Hosts {
		host := &h.Hosts[i]
		if host.User == "" {
			host.User = h.Defaults.User
		}
		if host.KeyFile, err = resolve(host.KeyFile, dir); err != nil {
			return err
		}
		if host.KeyFile == "" {
			host.KeyFile = h.Defaults.KeyFile
		}
		if host.Address, err = sshAddress(host.Address, h.port()); err != nil {
			return err
		}
	}
	return nil
}

// resolve makes a path absolute: ~/ is the user's home, the rest starts at dir.
func resolve(path, dir string) (string, error) {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("%s: home directory: %w", path, err)
		}
		return filepath.Join(home, rest), nil
	}
	if path == "" || filepath.IsAbs(path) {
		return path, nil
	}
	return filepath.Join(dir, path), nil
}

// target is where and how to log in.
func (h Host) target() remote.Target {
	return remote.Target{Name: h.Name, Address: h.Address, User: h.User, KeyFile: h.KeyFile}
}
