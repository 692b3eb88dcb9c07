package vip

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"kijabi.dev/platform/logging"
)

// logRivalEvery is how often the same rival is logged.
const logRivalEvery = time.Minute

// newEar opens a socket that hears claims once it is bound to an interface.
func newEar(address netip.Addr) (*os.File, error) {
	domain, kind, protocol := unix.AF_PACKET, unix.SOCK_DGRAM, 0
	if address.Is6() {
		domain, kind, protocol = unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6
	}
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, err
	}
	if address.Is6() {
		// A set bit keeps a type out.
		filter := unix.ICMPv6Filter{}
		for i := range filter.Data {
			filter.Data[i] = ^uint32(0)
		}
		filter.Data[icmpAdvertisement/32] &^= 1 << (icmpAdvertisement % 32)
		if err := unix.SetsockoptICMPv6Filter(fd, unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER, &filter); err != nil {
			return nil, errors.Join(err, unix.Close(fd))
		}
	}
	return os.NewFile(uintptr(fd), "neighbours"), nil
}

// tune has the ear hear what comes by an interface.
func (s *seat) tune(link netlink.Link) error {
	conn, err := s.ear.SyscallConn()
	if err != nil {
		return err
	}
	var bound error
	err = conn.Control(func(fd uintptr) {
		if s.address.Is4() {
			bound = unix.Bind(int(fd), linkLayer(link, unix.ETH_P_ARP, nil))
		} else {
			bound = unix.BindToDevice(int(fd), link.Attrs().Name)
		}
	})
	return errors.Join(err, bound)
}

// listen notices other machines that claim the address while this one holds it.
func (h *Holder) listen(ctx context.Context, s *seat) error {
	stop := context.AfterFunc(ctx, func() { _ = s.ear.Close() })
	defer stop()
	buffer := make([]byte, 1500)
	for {
		n, err := s.ear.Read(buffer)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil { // the interface went down, or a packet was empty: the socket goes on
			h.pause(ctx, renewEvery)
			continue
		}
		if mac := s.claimant(buffer[:n]); mac != nil {
			h.heard(s, mac)
		}
	}
}

// claimant returns who says in a packet that the address is theirs.
func (s *seat) claimant(p []byte) net.HardwareAddr {
	if s.address.Is4() {
		if len(p) < 28 || !bytes.Equal(p[14:18], s.address.AsSlice()) {
			return nil
		}
		return p[8:14]
	}
	// Type, three fields, the address, and the option with the Ethernet address.
	if len(p) < 32 || p[0] != icmpAdvertisement || p[24] != 2 || p[25] != 1 || !bytes.Equal(p[8:24], s.address.AsSlice()) {
		return nil
	}
	return p[26:32]
}

// heard counts a claim and has it answered. While a former holder may not know yet, it says so at a
// lower level.
func (h *Holder) heard(s *seat, mac net.HardwareAddr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.since.IsZero() || s.link == nil || bytes.Equal(mac, s.link.Attrs().HardwareAddr) {
		return
	}
	now := h.cfg.Clock.Now()
	wake(h.doubts)
	if now.Sub(h.since) < secondFor {
		h.cfg.Log.Info("a former holder still claims the virtual address", logging.Address(s.address.String()), zap.Stringer("mac", mac))
		return
	}
	s.conflicts++
	if s.rival != mac.String() || now.Sub(s.rivalAt) >= logRivalEvery {
		h.cfg.Log.Error("another machine claims the virtual address: give it to nobody else", logging.Address(s.address.String()), zap.Stringer("mac", mac))
		s.rival, s.rivalAt = mac.String(), now
	}
}
