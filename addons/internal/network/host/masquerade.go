package host

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// TableName is the table that hides pods behind the machine's address where their own
// means nothing.
const TableName = "kijabi-network"

const chainName = "postrouting"

func table() *nftables.Table {
	return &nftables.Table{Name: TableName, Family: nftables.TableFamilyIPv4}
}

// applyMasquerade makes the table unless it is there with all its rules.
func (h *Host) applyMasquerade() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables socket: %w", err)
	}
	rules := h.masqueradeRules()
	t := table()
	// The rules carry their meaning as a comment, which tells ours from changed ones.
	if have, err := c.GetRules(t, &nftables.Chain{Name: chainName, Table: t}); err == nil && len(have) == len(rules) {
		same := true
		for i, r := range have {
			same = same && strings.Contains(string(r.UserData), rules[i].comment)
		}
		if same {
			return nil
		}
	}
	c.AddTable(t) // makes the deletion succeed where there is none
	c.DelTable(t)
	c.AddTable(t)
	chain := c.AddChain(&nftables.Chain{
		Name: chainName, Table: t, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	for _, r := range rules {
		c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: r.exprs, UserData: comment(r.comment)})
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("build table %s: %w", TableName, err)
	}
	return nil
}

func removeMasquerade() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables socket: %w", err)
	}
	c.AddTable(table())
	c.DelTable(table())
	if err := c.Flush(); err != nil {
		return fmt.Errorf("remove table %s: %w", TableName, err)
	}
	return nil
}

type masqueradeRule struct {
	comment string
	exprs   []expr.Any
}

// Offsets in the IPv4 header.
const (
	sourceAt      = 12
	destinationAt = 16
)

// masqueradeRules let pass what needs no masquerading; the last one masquerades.
// Packets to this machine do not come here, and those to services have an endpoint
// as destination by now.
func (h *Host) masqueradeRules() []masqueradeRule {
	ret := []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}
	multicast := netip.MustParsePrefix("224.0.0.0/4")
	return []masqueradeRule{
		{"not from a pod of " + h.cfg.PodRange.String(), slices.Concat(compare(sourceAt, h.cfg.PodRange, expr.CmpOpNeq), ret)},
		{"to a pod", slices.Concat(compare(destinationAt, h.cfg.PodRange, expr.CmpOpEq), ret)},
		{"to a service of " + h.cfg.ServiceRange.String(), slices.Concat(compare(destinationAt, h.cfg.ServiceRange, expr.CmpOpEq), ret)},
		{"to a multicast group", slices.Concat(compare(destinationAt, multicast, expr.CmpOpEq), ret)},
		{"to anywhere else", []expr.Any{&expr.Masq{FullyRandom: true}}},
	}
}

func compare(offset uint32, p netip.Prefix, op expr.CmpOp) []expr.Any {
	network := ipNet(p)
	return []expr.Any{
		&expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4, DestRegister: unix.NFT_REG32_00},
		&expr.Bitwise{SourceRegister: unix.NFT_REG32_00, DestRegister: unix.NFT_REG32_00, Len: 4, Mask: network.Mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: unix.NFT_REG32_00, Data: network.IP.To4()},
	}
}

// comment encodes a rule's comment: type 0, length, text, end.
func comment(text string) []byte {
	return append([]byte{0, byte(len(text) + 1)}, append([]byte(text), 0)...)
}

// checkFirewall warns of a firewall that drops what pods send through this machine.
// It is the administrator's and is not changed.
func (h *Host) checkFirewall() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables socket: %w", err)
	}
	chains, err := c.ListChains()
	if err != nil {
		return fmt.Errorf("list the firewall's chains: %w", err)
	}
	warning := ""
	for _, chain := range chains {
		if chain.Hooknum == nil || *chain.Hooknum != *nftables.ChainHookForward || chain.Type != nftables.ChainTypeFilter ||
			chain.Policy == nil || *chain.Policy != nftables.ChainPolicyDrop {
			continue
		}
		if chain.Table.Family != nftables.TableFamilyIPv4 && chain.Table.Family != nftables.TableFamilyINet {
			continue
		}
		warning = fmt.Sprintf("chain %s of table %s drops forwarded packets by default, pods may not reach other machines; "+
			"allow them: iptables -I FORWARD -s %s -j ACCEPT; iptables -I FORWARD -d %s -j ACCEPT",
			chain.Name, chain.Table.Name, h.cfg.PodRange, h.cfg.PodRange)
	}
	if warning != "" && warning != h.warned {
		h.cfg.Log.Warn("firewall in the way", zap.String("detail", warning))
	}
	h.warned = warning
	return nil
}
