package packetfilter

import (
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Feature is something of nf_tables that our programs use.
type Feature struct {
	// Name as the nft program calls it.
	Name string
	// Purpose is what we use it for.
	Purpose string

	chain       string
	expressions []*nl.RtAttr
}

const (
	probeTable  = "kijabi-probe"
	natChain    = "nat"
	filterChain = "filter"
)

// Features lists what kube-proxy and network agent make rules of.
func Features() []Feature {
	const register = 1
	state := expression("ct", integer(1, register), integer(2, 0))
	return []Feature{
		{Name: "ct", Purpose: "connection tracking", chain: filterChain, expressions: []*nl.RtAttr{state}},
		{Name: "numgen", Purpose: "choosing an endpoint of a service", chain: filterChain, expressions: []*nl.RtAttr{
			expression("numgen", integer(1, register), integer(2, 2), integer(3, 1)),
		}},
		{Name: "fib", Purpose: "node ports", chain: filterChain, expressions: []*nl.RtAttr{
			expression("fib", integer(1, register), integer(2, 3), integer(3, 2)), // type of the destination
		}},
		{Name: "reject", Purpose: "refusing services without endpoints", chain: filterChain, expressions: []*nl.RtAttr{
			expression("reject", integer(1, 0), nl.NewRtAttr(2, []byte{1})),
		}},
		{Name: "dnat", Purpose: "service addresses", chain: natChain, expressions: []*nl.RtAttr{
			expression("immediate", integer(1, register), nested(2, nl.NewRtAttr(1, []byte{192, 0, 2, 1}))),
			expression("nat", integer(1, 1), integer(2, unix.NFPROTO_IPV4), integer(3, register)),
		}},
		{Name: "masquerade", Purpose: "connections of pods to the outside", chain: "masquerade", expressions: []*nl.RtAttr{expression("masq")}},
	}
}

func expression(name string, data ...*nl.RtAttr) *nl.RtAttr {
	return nested(attrListElement, text(attrExpressionName, name), nested(attrExpressionData, data...))
}

// Probe makes a table with chains in the thread's network namespace, which is to be
// thrown away after this, and one rule of each feature. It returns those that the kernel
// refuses with the reason, or an error if there is no nf_tables at all.
func Probe() (missing map[string]error, err error) {
	const create = unix.NLM_F_CREATE
	inProbe := func(kind uint16, attributes ...*nl.RtAttr) message {
		return message{
			kind: kind, family: unix.NFPROTO_IPV4, flags: create,
			attributes: append([]*nl.RtAttr{text(attrTable, probeTable)}, attributes...),
		}
	}
	if err := send(inProbe(msgNewTable)); err != nil {
		return nil, fmt.Errorf("make a table: %w", err)
	}
	chain := func(name, kind string, hook, priority uint32) error {
		return send(inProbe(msgNewChain, text(attrChainName, name), text(attrChainType, kind),
			nested(attrChainHook, integer(attrHookNumber, hook), integer(attrHookPriority, priority))))
	}
	const hookPrerouting, hookForward, hookPostrouting = 0, 2, 4
	if err := chain(filterChain, "filter", hookForward, 0); err != nil {
		return nil, fmt.Errorf("make a filter chain: %w", err)
	}
	missing = map[string]error{}
	for name, hook := range map[string]uint32{natChain: hookPrerouting, "masquerade": hookPostrouting} {
		if err := chain(name, "nat", hook, 100); err != nil {
			missing["chains of type nat"] = err
		}
	}
	for _, feature := range Features() {
		err := send(inProbe(msgNewRule, text(attrRuleChain, feature.chain), nested(attrRuleExpressions, feature.expressions...)))
		if err != nil {
			missing[feature.Name] = err
		}
	}
	return missing, nil
}
