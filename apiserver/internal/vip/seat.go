package vip

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// seat is one address and where it goes.
type seat struct {
	address netip.Addr
	voice   int      // packet socket that sends
	ear     *os.File // hears claims of the neighbours; ARP for IPv4, ICMPv6 else
	// The rest is guarded by the Holder's mutex.
	link      netlink.Link // where it was put last
	failure   error        // why it could not be put there
	conflicts int64
	rival     string    // who was last heard to claim it
	rivalAt   time.Time // when that was logged
}

func newSeat(address netip.Addr) (*seat, error) {
	s := &seat{address: address, voice: -1}
	var err error
	if s.voice, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("socket to announce it: %w", err)
	}
	if s.ear, err = newEar(address); err != nil {
		s.close()
		return nil, fmt.Errorf("socket to hear others announce it: %w", err)
	}
	return s, nil
}

func (s *seat) close() {
	if s.voice >= 0 {
		_ = unix.Close(s.voice)
		s.voice = -1
	}
	if s.ear != nil {
		_ = s.ear.Close()
	}
}

// network is the address alone.
func (s *seat) network() *net.IPNet {
	return &net.IPNet{IP: s.address.AsSlice(), Mask: net.CIDRMask(s.address.BitLen(), s.address.BitLen())}
}

func (s *seat) family() int {
	if s.address.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

// place puts the address on its interface for the time of the loan, or prolongs that.
func (s *seat) place(handle *netlink.Handle, on string) error {
	if s.link == nil || s.failure != nil {
		link, err := s.find(handle, on)
		if err != nil {
			return err
		}
		if err := s.tune(link); err != nil {
			return fmt.Errorf("interface %s: %w", link.Attrs().Name, err)
		}
		s.link = link
	}
	err := handle.AddrReplace(s.link, &netlink.Addr{
		IPNet: s.network(), Scope: unix.RT_SCOPE_UNIVERSE,
		// The address is usable at once, brings no route, and as one out of favour it is
		// not what this machine's own connections come from.
		Flags:    unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE,
		ValidLft: int(loan / time.Second), PreferedLft: 0,
	})
	if err != nil {
		name := s.link.Attrs().Name
		s.link = nil // it may have gone and come back as another
		return fmt.Errorf("put it on interface %s: %w", name, explain(err))
	}
	return nil
}

// present lists the interfaces that have the address, and whether somebody put it there for good:
// we do not.
func (s *seat) present(handle *netlink.Handle) (here []netlink.Addr, foreign bool, err error) {
	all, err := handle.AddrList(nil, s.family())
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, false, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range all {
		if address, ok := netip.AddrFromSlice(a.IP); ok && address.Unmap() == s.address {
			here = append(here, a)
			foreign = foreign || a.Flags&unix.IFA_F_PERMANENT != 0
		}
	}
	return here, foreign, nil
}

// remove takes the address off every interface, but for one that somebody else configured.
func (s *seat) remove(handle *netlink.Handle) error {
	here, _, err := s.present(handle)
	if err != nil {
		return err
	}
	var errs []error
	for _, a := range here {
		if a.Flags&unix.IFA_F_PERMANENT != 0 {
			continue
		}
		index := a.LinkIndex
		err := handle.AddrDel(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}, &netlink.Addr{IPNet: a.IPNet})
		if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			errs = append(errs, err)
		}
	}
	s.link = nil
	return errors.Join(errs...)
}

// find returns the named interface, or the one whose subnet is the narrowest that contains the address.
func (s *seat) find(handle *netlink.Handle, on string) (netlink.Link, error) {
	here, foreign, err := s.present(handle)
	if err != nil {
		return nil, err
	}
	if foreign {
		return nil, fmt.Errorf("this machine has it for good, on interface number %d: take it off there, the leading master holds it", here[0].LinkIndex)
	}
	if on != "" {
		link, err := handle.LinkByName(on)
		if err != nil {
			return nil, fmt.Errorf("interface %s (vip.interface): %w", on, err)
		}
		return link, nil
	}
	all, err := handle.AddrList(nil, s.family())
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	all = slices.DeleteFunc(all, func(a netlink.Addr) bool {
		ones, bits := a.Mask.Size()
		return ones == bits || !a.Contains(s.address.AsSlice())
	})
	if len(all) == 0 {
		return nil, errors.New("no interface has a subnet that contains it: choose one by vip.interface")
	}
	narrowest := slices.MaxFunc(all, func(a, b netlink.Addr) int {
		x, _ := a.Mask.Size()
		y, _ := b.Mask.Size()
		return cmp.Compare(x, y)
	})
	link, err := handle.LinkByIndex(narrowest.LinkIndex)
	if err != nil {
		return nil, fmt.Errorf("interface number %d: %w", narrowest.LinkIndex, err)
	}
	return link, nil
}
