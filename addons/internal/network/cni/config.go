// Package cni writes the configuration by which the container runtime connects pods.
package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"kijabi.dev/platform/atomicfile"
)

const (
	// FileName sorts before what distributions install, so that it is the one used.
	FileName = "10-kijabi.conflist"
	// Bridge is the device that joins the pods of a machine.
	Bridge = "kijabi0"
	// leaseDir is where host-local notes addresses in use. It is emptied by a reboot,
	// after which no pod is left to use them.
	leaseDir = "/run/kijabi/cni"
)

// Config is what varies between machines.
type Config struct {
	// Range of the machine's pods.
	Range netip.Prefix
	// MTU of the pods' interfaces.
	MTU int
	// Bridged joins pods by a bridge. It needs a kernel that shows bridged packets to
	// the packet filter: without that, the answer of a pod to a neighbour that asked
	// for a service goes straight over the bridge and keeps the wrong source.
	// Otherwise each pod has a link of its own to the machine.
	Bridged bool
}

// Render returns the file's content. There is no masquerading and no port mapping by
// plugins: those call programs that a machine may not have.
func Render(c Config) ([]byte, error) {
	type object = map[string]any
	addresses := object{
		"type":    "host-local",
		"ranges":  [][]object{{{"subnet": c.Range.Masked().String()}}},
		"routes":  []object{{"dst": "0.0.0.0/0"}},
		"dataDir": leaseDir,
	}
	connect := object{"type": "ptp", "ipMasq": false, "mtu": c.MTU, "ipam": addresses}
	if c.Bridged {
		connect = object{
			"type": "bridge", "bridge": Bridge, "isGateway": true, "isDefaultGateway": false,
			"hairpinMode": true, "ipMasq": false, "mtu": c.MTU, "ipam": addresses,
		}
	}
	out, err := json.MarshalIndent(object{"cniVersion": "1.0.0", "name": "kijabi", "plugins": []object{connect}}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode network configuration: %w", err)
	}
	return append(out, '\n'), nil
}

// Write puts the configuration into dir unless it is there already, and reports
// whether it changed the file. A reader sees the old content or the new.
func Write(dir string, c Config) (bool, error) {
	content, err := Render(c)
	if err != nil {
		return false, err
	}
	path := filepath.Join(dir, FileName)
	old, err := os.ReadFile(path)
	if err == nil && bytes.Equal(old, content) {
		return false, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("read network configuration: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return false, fmt.Errorf("make network configuration directory: %w", err)
	}
	if err := atomicfile.Write(path, content, 0o644); err != nil {
		return false, fmt.Errorf("write network configuration: %w", err)
	}
	return true, nil
}

// Remove deletes the configuration from dir.
func Remove(dir string) error {
	if err := os.Remove(filepath.Join(dir, FileName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove network configuration: %w", err)
	}
	return nil
}
