package app

import (
	"context"
	"net"
	"net/netip"
	"slices"

	"go.uber.org/zap"
	"k8s.io/utils/clock"

	"kijabi.dev/apiserver/internal/rest"
	"kijabi.dev/apiserver/internal/vip"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
)

// openVIP returns the holder of the virtual addresses; nil if there are none.
func openVIP(cfg configv1.VIP, log *zap.Logger) (*vip.Holder, error) {
	if len(cfg.Addresses) == 0 {
		return nil, nil
	}
	return vip.New(vip.Config{Addresses: cfg.Parsed(), Interface: cfg.Interface, Clock: clock.RealClock{}, Log: log})
}

// holdVIP holds the addresses while this master leads.
func holdVIP(holder *vip.Holder, leadership vip.Leadership) lifecycle.Task {
	return func(ctx context.Context) error {
		if holder == nil {
			return nil
		}
		return holder.Run(ctx, leadership)
	}
}

// held lists the addresses that this master holds.
func held(holder *vip.Holder) func() []string {
	return func() []string {
		var addresses []string
		for _, s := range holder.Status() {
			if s.Held {
				addresses = append(addresses, s.Address.String())
			}
		}
		return addresses
	}
}

// openDoors has both doors listen on their own and the virtual addresses, and serve.
func openDoors(cfg *configv1.APIServerConfiguration, holder *vip.Holder, door *rpc.Server, restDoor *rest.Server) (grpcTask, restTask lifecycle.Task) {
	serve := func(address string, listen func(context.Context, string) (net.Listener, error), run func(context.Context, net.Listener) error) lifecycle.Task {
		return func(ctx context.Context) error {
			listener, err := listen(ctx, address)
			if err != nil {
				return err
			}
			if listener, err = holder.Extend(ctx, listener); err != nil {
				return err
			}
			return run(ctx, listener)
		}
	}
	return serve(cfg.ListenAddress, rpc.Listen, door.Serve), serve(cfg.RESTAddress, rest.Listen, restDoor.Serve)
}

// signer renews the certificate of the doors, which names the virtual addresses.
func signer(ca *pki.CA, cfg *configv1.APIServerConfiguration) pki.Signer {
	return pki.SignWith(ca, cfg.Masters.LeafLife(), addressesOf(cfg.VIP)...)
}

func addressesOf(cfg configv1.VIP) []net.IP {
	var all []net.IP
	for _, address := range cfg.Parsed() {
		all = append(all, address.AsSlice())
	}
	return all
}

// nameVIP renews the certificate at once if it does not name the virtual addresses yet.
func nameVIP(ctx context.Context, cfg *configv1.APIServerConfiguration, identity *pki.Identity, sign pki.Signer) error {
	named := identity.Leaf().IPAddresses
	if !slices.ContainsFunc(cfg.VIP.Parsed(), func(address netip.Addr) bool {
		return !slices.ContainsFunc(named, net.IP(address.AsSlice()).Equal)
	}) {
		return nil
	}
	if err := pki.RenewNow(ctx, cfg.Identity, sign); err != nil {
		return err
	}
	return identity.Reload()
}
