package app

import (
	"fmt"
	"net/netip"
	"path/filepath"

	configv1 "kijabi.dev/platform/config/v1"
)

// DefaultConfig returns the configuration a file is read over.
func DefaultConfig() *configv1.KubeletConfiguration {
	return &configv1.KubeletConfiguration{
		DataDir: filepath.Join(configv1.StateDir, "kubelet"), CgroupRoot: "/kijabi", MaxPods: 110,
		Network: configv1.DefaultNetwork(),
	}
}

func check(cfg *configv1.KubeletConfiguration) error {
	for _, field := range []struct{ name, value string }{
		{"nodeName", cfg.NodeName}, {"nodeIP", cfg.NodeIP}, {"containerRuntimeEndpoint", cfg.ContainerRuntimeEndpoint},
		{"cniConfigDir", cfg.CNIConfigDir}, {"dataDir", cfg.DataDir}, {"cgroupRoot", cfg.CgroupRoot},
	} {
		if field.value == "" {
			return fmt.Errorf("configuration: %s is missing", field.name)
		}
	}
	if _, err := netip.ParseAddr(cfg.NodeIP); err != nil {
		return fmt.Errorf("configuration: nodeIP: %w", err)
	}
	return nil
}
