package host

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const settings = "/proc/sys"

func readSetting(name string) (string, error) {
	b, err := os.ReadFile(filepath.Join(settings, name))
	if err != nil {
		return "", fmt.Errorf("read kernel setting: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// setting writes a value unless it is there already.
func setting(name, value string) error {
	have, err := readSetting(name)
	if err != nil || have == value {
		return err
	}
	if err := os.WriteFile(filepath.Join(settings, name), []byte(value), 0); err != nil {
		key := strings.ReplaceAll(name, "/", ".")
		return fmt.Errorf("set kernel setting %s from %s to %s: %w; set it by `sysctl -w %s=%s`", key, have, value, err, key, value)
	}
	return nil
}

// BridgeFiltered reports whether the kernel shows bridged packets to the packet
// filter, turning it on if it can.
func BridgeFiltered() bool { return setting("net/bridge/bridge-nf-call-iptables", "1") == nil }
