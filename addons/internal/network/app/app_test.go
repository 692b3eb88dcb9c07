package app

import (
	"strings"
	"testing"

	"go.uber.org/zap/zaptest"

	configv1 "kijabi.dev/platform/config/v1"
)

func TestParse(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*configv1.NetworkAgentConfiguration)
		err    string
	}{
		"good":            {func(*configv1.NetworkAgentConfiguration) {}, ""},
		"mode":            {func(c *configv1.NetworkAgentConfiguration) { c.Mode = "ipip" }, `configuration: mode: mode "ipip" is none of`},
		"no address":      {func(c *configv1.NetworkAgentConfiguration) { c.NodeIP = "" }, "configuration: nodeIP: "},
		"IPv6 address":    {func(c *configv1.NetworkAgentConfiguration) { c.NodeIP = "fd00::1" }, "configuration: nodeIP: not an IPv4 address"},
		"pod range":       {func(c *configv1.NetworkAgentConfiguration) { c.Network.PodCIDR = "10.244.0.0" }, "configuration: network.podCIDR: "},
		"service range":   {func(c *configv1.NetworkAgentConfiguration) { c.Network.ServiceCIDR = "x" }, "configuration: network.serviceCIDR: "},
		"unmasked ranges": {func(c *configv1.NetworkAgentConfiguration) { c.Network.PodCIDR = "10.244.7.1/16" }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := DefaultConfig()
			cfg.NodeName, cfg.NodeIP = "a", "192.168.1.1"
			test.change(cfg)
			got, _, err := parse(cfg, zaptest.NewLogger(t))
			switch {
			case test.err == "" && err != nil, test.err != "" && (err == nil || !strings.HasPrefix(err.Error(), test.err)):
				t.Errorf("got %v, want %q", err, test.err)
			case err == nil && got.PodRange.String() != "10.244.0.0/16":
				t.Errorf("pod range %s", got.PodRange)
			}
		})
	}
}
