package install

import (
	"slices"
	"strings"
	"testing"

	configv1 "kijabi.dev/platform/config/v1"
)

func TestVirtualAddressIsLearned(t *testing.T) {
	for name, test := range map[string]struct {
		said configv1.VIP
		told []string
		want configv1.VIP
		err  string // part of it; empty for none
	}{
		"nothing":                  {},
		"learned":                  {told: []string{"127.5.5.5"}, want: configv1.VIP{Addresses: []string{"127.5.5.5"}}},
		"its own interface":        {configv1.VIP{Interface: "lo"}, []string{"198.18.7.7"}, configv1.VIP{Addresses: []string{"198.18.7.7"}, Interface: "lo"}, ""},
		"an interface for nothing": {said: configv1.VIP{Interface: "lo"}},
		"another is said":          {configv1.VIP{Addresses: []string{"127.5.5.6"}}, []string{"127.5.5.5"}, configv1.VIP{}, "vip.addresses is 127.5.5.6, the cluster's \"127.5.5.5\""},
		"no such interface":        {configv1.VIP{Interface: "nowhere0"}, []string{"127.5.5.5"}, configv1.VIP{}, "--vip-interface"},
		"in no subnet":             {told: []string{"198.18.7.7"}, err: "no interface of this machine has a subnet that contains 198.18.7.7"},
		"the machine's own":        {told: []string{"127.0.0.1"}, err: "127.0.0.1 is this machine's own"},
	} {
		t.Run(name, func(t *testing.T) {
			s := settings{said: configv1.MemberOptions{VIP: test.said}}
			err := s.adoptVIP(test.told)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("got %v, want %q", err, test.err)
				}
				return
			}
			if err != nil || !slices.Equal(s.said.VIP.Addresses, test.want.Addresses) || s.said.VIP.Interface != test.want.Interface {
				t.Errorf("got %+v, %v, want %+v", s.said.VIP, err, test.want)
			}
		})
	}
}
