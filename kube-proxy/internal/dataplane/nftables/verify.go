package nftables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"

	"github.com/mdlayher/netlink"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// seal is how the kernel's table can be recognised.
type seal struct {
	// generation counts the transactions of all nf_tables users of the namespace.
	generation uint32
	// rules is a digest of the table's chains and rules.
	rules uint64
}

// check looks whether anybody committed to nf_tables since our last transaction and,
// if so, compares our table with what it should be and rebuilds it if it differs.
func (p *Plane) check() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.synced {
		return nil
	}
	if p.broken {
		return p.rebuild()
	}
	generation, err := readGeneration(p.raw)
	if err != nil {
		return errors.Join(err, p.open())
	}
	if generation == p.seal.generation {
		return nil
	}
	rules, err := rulesDigest(p.raw, p.rules.family)
	if err != nil {
		return err
	}
	same := rules == p.seal.rules
	if same && p.rest > 0 {
		p.rest-- // reading all elements is dear when others commit all the time
		return nil
	}
	if same {
		if same, err = p.verifyElements(); err != nil {
			return err
		}
		p.rest = restTicks
	}
	if same {
		// Read before the comparison, so what was committed during it is looked at next time.
		p.seal.generation = generation
		return nil
	}
	p.cfg.Log.Warn("somebody changed the table, building it anew", zap.String("table", TableName))
	p.seal.generation = 0
	return p.rebuild()
}

// verifyElements compares the kernel's sets with what they should hold.
func (p *Plane) verifyElements() (bool, error) {
	want := map[setName]tally{}
	var c change
	for front, x := range p.have {
		c.remove, c.add = c.remove[:0], c.add[:0]
		c.diff(front, nil, x)
		for _, e := range c.add {
			want[e.set] = want[e.set].plus(e.key, e.value)
		}
	}
	for l := range p.addresses {
		e := l.element()
		want[e.set] = want[e.set].plus(e.key, e.value)
	}
	for _, name := range allSets() {
		got, err := readTally(p.raw, p.rules.family, name)
		if err != nil || got != want[name] {
			return false, err
		}
	}
	return true, nil
}

// tally sums up a set's elements, independent of their order.
type tally struct {
	n      int
	digest uint64
}

func (t tally) plus(key, value string) tally {
	h := fnv.New64a()
	_, _ = h.Write([]byte(key))
	_, _ = h.Write([]byte(value))
	return tally{t.n + 1, t.digest + h.Sum64()}
}

func dialRaw(ns int) (*netlink.Conn, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: ns})
	if err != nil {
		return nil, fmt.Errorf("open netfilter socket: %w", err)
	}
	return c, errors.Join(c.SetReadBuffer(socketBuffer))
}

// request asks nf_tables; a name of "" leaves out the attribute.
func request(c *netlink.Conn, typ uint16, flags netlink.HeaderFlags, fam byte, attrs ...netlink.Attribute) ([]netlink.Message, error) {
	body, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		return nil, err
	}
	return c.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | typ), Flags: netlink.Request | flags},
		Data:   append([]byte{fam, unix.NFNETLINK_V0, 0, 0}, body...),
	})
}

func readGeneration(c *netlink.Conn) (uint32, error) {
	list, err := request(c, unix.NFT_MSG_GETGEN, 0, 0)
	if err != nil {
		return 0, fmt.Errorf("read nftables generation: %w", err)
	}
	for _, m := range list {
		ad, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return 0, fmt.Errorf("decode nftables generation: %w", err)
		}
		ad.ByteOrder = binary.BigEndian
		for ad.Next() {
			if ad.Type() == unix.NFTA_GEN_ID {
				return ad.Uint32(), nil
			}
		}
	}
	return 0, errors.New("read nftables generation: no number in the answer")
}

func text(typ uint16, s string) netlink.Attribute {
	return netlink.Attribute{Type: typ, Data: append([]byte(s), 0)}
}

// rulesDigest sums up the chains and rules of the table, as the kernel prints them.
func rulesDigest(c *netlink.Conn, f family) (uint64, error) {
	h := fnv.New64a()
	chains, err := request(c, unix.NFT_MSG_GETCHAIN, netlink.Dump, byte(f.table))
	if err != nil {
		return 0, fmt.Errorf("list chains: %w", err)
	}
	for _, m := range chains {
		ad, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return 0, fmt.Errorf("decode chain: %w", err)
		}
		for ad.Next() {
			if ad.Type() == unix.NFTA_CHAIN_TABLE && ad.String() == TableName {
				_, _ = h.Write(m.Data[4:])
			}
		}
	}
	rules, err := request(c, unix.NFT_MSG_GETRULE, netlink.Dump, byte(f.table), text(unix.NFTA_RULE_TABLE, TableName))
	if err != nil {
		return 0, fmt.Errorf("list rules of table %s: %w", TableName, err)
	}
	for _, m := range rules {
		_, _ = h.Write(m.Data[4:])
	}
	return h.Sum64(), nil
}

// readTally sums up a set of the kernel. A set that is not there is empty.
func readTally(c *netlink.Conn, f family, name setName) (tally, error) {
	list, err := request(c, unix.NFT_MSG_GETSETELEM, netlink.Dump, byte(f.table),
		text(unix.NFTA_SET_ELEM_LIST_TABLE, TableName), text(unix.NFTA_SET_ELEM_LIST_SET, string(name)))
	if errors.Is(err, unix.ENOENT) {
		return tally{}, nil
	}
	if err != nil {
		return tally{}, fmt.Errorf("list elements of %s: %w", name, err)
	}
	var t tally
	for _, m := range list {
		ad, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return tally{}, fmt.Errorf("decode elements of %s: %w", name, err)
		}
		for ad.Next() {
			if ad.Type() != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
				continue
			}
			ad.Nested(func(elems *netlink.AttributeDecoder) error {
				for elems.Next() {
					elems.Nested(func(e *netlink.AttributeDecoder) error {
						var key, value string
						for e.Next() {
							switch e.Type() {
							case unix.NFTA_SET_ELEM_KEY:
								e.Nested(dataValue(&key))
							case unix.NFTA_SET_ELEM_DATA:
								e.Nested(dataValue(&value))
							}
						}
						t = t.plus(key, value)
						return nil
					})
				}
				return nil
			})
		}
		if err := ad.Err(); err != nil {
			return tally{}, fmt.Errorf("decode elements of %s: %w", name, err)
		}
	}
	return t, nil
}

func dataValue(into *string) func(*netlink.AttributeDecoder) error {
	return func(d *netlink.AttributeDecoder) error {
		for d.Next() {
			if d.Type() == unix.NFTA_DATA_VALUE {
				*into = string(d.Bytes())
			}
		}
		return nil
	}
}
