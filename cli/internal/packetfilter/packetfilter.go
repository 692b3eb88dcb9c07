// Package packetfilter asks the kernel's nf_tables for the little that the command needs
// of it: remove our tables, count what is in a table, list chains, and find out what the
// kernel can do. It speaks netlink itself; rules are made by the programs that own them.
package packetfilter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Messages and attributes of nf_tables (linux/netfilter/nf_tables.h).
const (
	msgNewTable, msgGetTable, msgDelTable = 0, 1, 2
	msgNewChain, msgGetChain              = 3, 4
	msgNewRule, msgGetRule                = 6, 7
	msgGetSet, msgGetElements             = 10, 13

	attrTable    = 1 // of table, chain, rule, set and element list alike
	attrSetName  = 2 // of set and element list
	attrElements = 3

	attrChainName, attrChainHook, attrChainPolicy, attrChainType = 3, 4, 5, 7
	attrHookNumber, attrHookPriority                             = 1, 2
	attrRuleChain, attrRuleExpressions                           = 2, 4
	attrListElement, attrExpressionName, attrExpressionData      = 1, 1, 2
)

// families that tables live in.
func families() map[byte]string {
	return map[byte]string{
		unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6", unix.NFPROTO_INET: "inet",
		unix.NFPROTO_ARP: "arp", unix.NFPROTO_BRIDGE: "bridge", unix.NFPROTO_NETDEV: "netdev",
	}
}

// DeleteTable removes a table of any IP family; one that does not exist is no error.
func DeleteTable(name string) error {
	for _, family := range []byte{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6, unix.NFPROTO_INET} {
		err := send(message{kind: msgDelTable, family: family, attributes: []*nl.RtAttr{text(attrTable, name)}})
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove packet filter table %s: %w", name, err)
		}
	}
	return nil
}

// Table says how much is in a table.
type Table struct {
	// Family is ip, ip6, inet, arp, bridge or netdev.
	Family string `json:"family"`
	// Name of the table.
	Name string `json:"name"`
	// Chains, Rules, Sets (maps among them) and Elements of all sets are counts.
	Chains   int `json:"chains"`
	Rules    int `json:"rules"`
	Sets     int `json:"sets"`
	Elements int `json:"elements"`
}

// Tables lists the tables of this network namespace. Those whose name begins with deep
// are counted; of the others only the name is known.
func Tables(deep string) ([]Table, error) {
	var all []Table
	err := dump(msgGetTable, unix.NFPROTO_UNSPEC, nil, func(family byte, attributes map[uint16][]byte) {
		all = append(all, Table{Family: families()[family], Name: zeroTerminated(attributes[attrTable])})
	})
	if err != nil {
		return nil, fmt.Errorf("list packet filter tables: %w", err)
	}
	for i := range all {
		if !strings.HasPrefix(all[i].Name, deep) {
			continue
		}
		if err := all[i].count(); err != nil {
			return nil, fmt.Errorf("packet filter table %s: %w", all[i].Name, err)
		}
	}
	return all, nil
}

// count fills in the figures.
func (t *Table) count() error {
	var family byte
	for number, name := range families() {
		if name == t.Family {
			family = number
		}
	}
	mine := func(attributes map[uint16][]byte) bool { return zeroTerminated(attributes[attrTable]) == t.Name }
	var sets []string
	err := errors.Join(
		dump(msgGetChain, family, nil, func(_ byte, attributes map[uint16][]byte) {
			if mine(attributes) {
				t.Chains++
			}
		}),
		dump(msgGetRule, family, []*nl.RtAttr{text(attrTable, t.Name)}, func(_ byte, attributes map[uint16][]byte) {
			if mine(attributes) {
				t.Rules++
			}
		}),
		dump(msgGetSet, family, []*nl.RtAttr{text(attrTable, t.Name)}, func(_ byte, attributes map[uint16][]byte) {
			if mine(attributes) {
				t.Sets++
				sets = append(sets, zeroTerminated(attributes[attrSetName]))
			}
		}))
	for _, set := range sets {
		query := []*nl.RtAttr{text(attrTable, t.Name), text(attrSetName, set)}
		err = errors.Join(err, dump(msgGetElements, family, query, func(_ byte, attributes map[uint16][]byte) {
			elements, parseErr := nl.ParseRouteAttr(attributes[attrElements])
			if parseErr == nil {
				t.Elements += len(elements)
			}
		}))
	}
	return err
}

// Chain is a chain of some table.
type Chain struct {
	// Family and Table it belongs to.
	Family, Table string
	// Name of the chain.
	Name string
	// Forward is true for a base chain that sees forwarded packets.
	Forward bool
	// Drop is true for a base chain that drops what its rules do not accept.
	Drop bool
}

// Chains lists the chains of this network namespace, those of the iptables program
// included where that is a front of nf_tables.
func Chains() ([]Chain, error) {
	const hookForward, policyDrop = 2, 0
	var all []Chain
	err := dump(msgGetChain, unix.NFPROTO_UNSPEC, nil, func(family byte, attributes map[uint16][]byte) {
		chain := Chain{
			Family: families()[family], Table: zeroTerminated(attributes[attrTable]), Name: zeroTerminated(attributes[attrChainName]),
		}
		if hook := attributes[attrChainHook]; hook != nil {
			chain.Forward = number(parse(hook)[attrHookNumber]) == hookForward
			policy, known := attributes[attrChainPolicy]
			chain.Drop = known && number(policy) == policyDrop
		}
		all = append(all, chain)
	})
	if err != nil {
		return nil, fmt.Errorf("list packet filter chains: %w", err)
	}
	return all, nil
}

func zeroTerminated(raw []byte) string { return strings.TrimRight(string(raw), "\x00") }

// number reads a value, which nf_tables sends in network order.
func number(raw []byte) uint32 {
	if len(raw) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(raw)
}

// parse splits attributes by their type. Flags of the type are dropped.
func parse(raw []byte) map[uint16][]byte {
	attributes, _ := nl.ParseRouteAttr(raw)
	byType := make(map[uint16][]byte, len(attributes))
	for _, attribute := range attributes {
		byType[attribute.Attr.Type&nl.NLA_TYPE_MASK] = attribute.Value
	}
	return byType
}

// text is an attribute that holds a name.
func text(kind int, value string) *nl.RtAttr { return nl.NewRtAttr(kind, nl.ZeroTerminated(value)) }

// integer is an attribute that holds a number.
func integer(kind int, value uint32) *nl.RtAttr {
	return nl.NewRtAttr(kind, binary.BigEndian.AppendUint32(nil, value))
}

// nested is an attribute that holds others.
func nested(kind int, children ...*nl.RtAttr) *nl.RtAttr {
	attribute := nl.NewRtAttr(kind|unix.NLA_F_NESTED, nil)
	for _, child := range children {
		attribute.AddChild(child)
	}
	return attribute
}
