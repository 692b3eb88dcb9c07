package vip

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"kijabi.dev/platform/logging"
)

// When an address is announced: often while a former holder may still answer for it, and
// then now and again, for a neighbour or switch that heard none of that.
const (
	announceFirst  = 100 * time.Millisecond // for firstFor
	announceSecond = 500 * time.Millisecond // for secondFor
	announceLater  = 10 * time.Second
	firstFor       = time.Second
	secondFor      = 2 * loan
	// defendAfter bounds how often claims of others are answered.
	defendAfter = 100 * time.Millisecond
)

func pauseAfter(age time.Duration) time.Duration {
	switch {
	case age < firstFor:
		return announceFirst
	case age < secondFor:
		return announceSecond
	default:
		return announceLater
	}
}

// announce repeats who holds the addresses until ctx ends. From secondFor on it also asks who
// else does.
func (h *Holder) announce(ctx context.Context) error {
	for {
		h.mu.Lock()
		age := h.cfg.Clock.Since(h.since)
		h.mu.Unlock()
		timer, ask := h.cfg.Clock.NewTimer(pauseAfter(age)), false
		select {
		case <-ctx.Done():
		case <-timer.C():
			ask = age >= secondFor
		case <-h.again: // not with a question, whose answers would be contradicted, and so on
		}
		timer.Stop()
		h.mu.Lock()
		if ctx.Err() != nil || h.since.IsZero() {
			h.mu.Unlock()
			return nil
		}
		if h.cfg.Clock.Now().Before(h.until) { // else the kernel has taken them back
			for _, s := range h.seats {
				h.say(s, ask)
			}
		}
		h.mu.Unlock()
	}
}

// say announces an address if it is there. With ask it asks who else has it. h.mu is held.
func (h *Holder) say(s *seat, ask bool) {
	if s.failure != nil || s.link == nil {
		return
	}
	messages, err := s.messages(ask)
	for _, m := range messages {
		if err == nil {
			err = unix.Sendto(s.voice, m.content, 0, m.to)
		}
	}
	if err != nil {
		h.cfg.Log.Warn("virtual address not announced", logging.Address(s.address.String()), zap.Error(err))
	}
}

// message is a packet for the neighbours.
type message struct {
	content []byte
	to      unix.Sockaddr
}

func (s *seat) messages(ask bool) ([]message, error) {
	if s.link.Attrs().Flags&net.FlagLoopback != 0 {
		return nil, nil // there are no neighbours
	}
	mac := s.link.Attrs().HardwareAddr
	if len(mac) != 6 {
		return nil, fmt.Errorf("interface %s has no Ethernet address: choose another by vip.interface", s.link.Attrs().Name)
	}
	if s.address.Is4() {
		return arpMessages(s.link, mac, s.address, ask), nil
	}
	return neighbourMessages(s.link, mac, s.address, ask), nil
}

func linkLayer(link netlink.Link, protocol uint16, mac net.HardwareAddr) *unix.SockaddrLinklayer {
	to := &unix.SockaddrLinklayer{Protocol: networkOrder(protocol), Ifindex: link.Attrs().Index, Halen: uint8(len(mac))}
	copy(to.Addr[:], mac)
	return to
}

// networkOrder is a protocol as packet sockets want it.
func networkOrder(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

const (
	arpRequest, arpReply = 1, 2

	icmpSolicitation, icmpAdvertisement = 135, 136
)

func broadcast() net.HardwareAddr { return net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff} }

// arpMessages are both forms of a gratuitous ARP, since some machines heed only one, and the
// question of RFC 5227, which names no sender.
func arpMessages(link netlink.Link, mac net.HardwareAddr, address netip.Addr, ask bool) []message {
	to := linkLayer(link, unix.ETH_P_ARP, broadcast())
	all := []message{
		{arp(arpRequest, mac, address, make(net.HardwareAddr, 6), address), to},
		{arp(arpReply, mac, address, mac, address), to}, // Linux takes it as one if both MACs are the same
	}
	if ask {
		all = append(all, message{arp(arpRequest, mac, netip.IPv4Unspecified(), make(net.HardwareAddr, 6), address), to})
	}
	return all
}

func arp(operation uint16, sender net.HardwareAddr, senderIP netip.Addr, target net.HardwareAddr, targetIP netip.Addr) []byte {
	p := make([]byte, 0, 28)
	p = binary.BigEndian.AppendUint16(p, 1) // Ethernet
	p = binary.BigEndian.AppendUint16(p, unix.ETH_P_IP)
	p = append(p, 6, 4)
	p = binary.BigEndian.AppendUint16(p, operation)
	p = append(append(p, sender...), senderIP.AsSlice()...)
	return append(append(p, target...), targetIP.AsSlice()...)
}

// neighbourMessages are an unsolicited advertisement that overrides what neighbours know, and
// the question of duplicate address detection.
func neighbourMessages(link netlink.Link, mac net.HardwareAddr, address netip.Addr, ask bool) []message {
	all := netip.MustParseAddr("ff02::1")
	advertisement := append([]byte{icmpAdvertisement, 0, 0, 0, 0x20, 0, 0, 0}, address.AsSlice()...)
	advertisement = append(append(advertisement, 2, 1), mac...)
	out := []message{{ipv6(address, all, advertisement), linkLayer(link, unix.ETH_P_IPV6, multicast(all))}}
	if ask {
		solicited := solicitedNode(address)
		question := append([]byte{icmpSolicitation, 0, 0, 0, 0, 0, 0, 0}, address.AsSlice()...)
		out = append(out, message{ipv6(netip.IPv6Unspecified(), solicited, question), linkLayer(link, unix.ETH_P_IPV6, multicast(solicited))})
	}
	return out
}

func multicast(group netip.Addr) net.HardwareAddr {
	raw := group.As16()
	return net.HardwareAddr{0x33, 0x33, raw[12], raw[13], raw[14], raw[15]}
}

func solicitedNode(address netip.Addr) netip.Addr {
	group, raw := netip.MustParseAddr("ff02::1:ff00:0").As16(), address.As16()
	copy(group[13:], raw[13:])
	return netip.AddrFrom16(group)
}

// ipv6 is an ICMPv6 message that crosses no router, with its checksum.
func ipv6(from, to netip.Addr, body []byte) []byte {
	p := make([]byte, 0, 40+len(body))
	p = append(p, 0x60, 0, 0, 0)
	p = binary.BigEndian.AppendUint16(p, uint16(len(body)))
	p = append(p, unix.IPPROTO_ICMPV6, 255)
	p = append(append(p, from.AsSlice()...), to.AsSlice()...)
	p = append(p, body...)
	// Over a pseudo header of addresses, length and protocol, and the body.
	sum := uint32(len(body)) + unix.IPPROTO_ICMPV6
	for i := 8; i < len(p); i += 2 { // bodies are of even length
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(p[42:], ^uint16(sum))
	return p
}
