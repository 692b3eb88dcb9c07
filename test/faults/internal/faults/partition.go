package faults

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	configv1 "kijabi.dev/platform/config/v1"
)

// table of packet filters in a machine's network; nobody else has one of this name.
const table = "kijabi-faults"

// partitions cut masters from each other by packet filters in the machines' networks. Clients
// reach every master.
func partitions() []Fault {
	cut := func(id, about, in, out string) Fault {
		return Fault{
			ID: "F10/" + id, About: about, Hold: time.Second, Limit: 20 * time.Second,
			Inject: func(ctx context.Context, s Scene) (*Injection, error) {
				others := addresses(s, s.Cluster.Others(s.Leader))
				injection, err := filter(ctx, s, s.Leader, rules(in, out, others))
				if injection != nil {
					injection.Victims = []string{s.Leader}
				}
				return injection, err
			},
		}
	}
	etcd := fmt.Sprintf("tcp dport %d", configv1.PortEtcdPeer)
	fromEtcd := fmt.Sprintf("tcp sport %d", configv1.PortEtcdPeer)
	return []Fault{
		cut("symmetric", "the leader is cut from the other masters", "ip saddr { %s } counter drop", "ip daddr { %s } counter drop"),
		cut("one-way-in", "the leader hears nothing of the other masters", "ip saddr { %s } counter drop", ""),
		cut("one-way-out", "the other masters hear nothing of the leader", "", "ip daddr { %s } counter drop"),
		cut("etcd", "the leader is cut from the others' etcd only",
			"ip saddr { %[1]s } "+etcd+" counter drop; ip saddr { %[1]s } "+fromEtcd+" counter drop",
			"ip daddr { %[1]s } "+etcd+" counter drop; ip daddr { %[1]s } "+fromEtcd+" counter drop"),
		{
			ID: "F10/bridge", About: "the leader is cut from one other master; the third reaches both", Hold: 2 * time.Second, Limit: 20 * time.Second,
			Inject: func(ctx context.Context, s Scene) (*Injection, error) {
				lonely := s.follower()
				in, err := filter(ctx, s, s.Leader, rules("ip saddr { %s } counter drop", "ip daddr { %s } counter drop", s.Cluster.Address(lonely)))
				if in != nil {
					in.Victims = []string{s.Leader, lonely} // one of them is cut off from who leads
				}
				return in, err
			},
		},
	}
}

func addresses(s Scene, masters []string) string {
	var all []string
	for _, name := range masters {
		all = append(all, s.Cluster.Address(name))
	}
	return strings.Join(all, ", ")
}

// rules are two chains with the given rules, in which %s stands for addresses.
func rules(in, out, addresses string) string {
	var text strings.Builder
	for _, chain := range []struct{ hook, rules string }{{"input", in}, {"output", out}} {
		if chain.rules == "" {
			continue
		}
		filled := strings.ReplaceAll(strings.ReplaceAll(chain.rules, "%[1]s", addresses), "%s", addresses)
		fmt.Fprintf(&text, "add chain inet %s %s { type filter hook %s priority -300; }\n", table, chain.hook, chain.hook)
		for rule := range strings.SplitSeq(filled, ";") {
			fmt.Fprintf(&text, "add rule inet %s %s %s\n", table, chain.hook, strings.TrimSpace(rule))
		}
	}
	return text.String()
}

// filter adds packet filters to a machine's network, which must drop something until healed.
func filter(ctx context.Context, s Scene, master, rules string) (*Injection, error) {
	in := &Injection{
		Verify: func(ctx context.Context) error {
			dropped, err := counters(ctx, s, master)
			if err == nil && sum(dropped) == 0 {
				err = fmt.Errorf("the packet filters of %s dropped nothing", master)
			}
			return err
		},
		Heal: func(ctx context.Context) error {
			_, err := s.Cluster.InNetwork(ctx, master, "", "nft", "delete", "table", "inet", table)
			return err
		},
	}
	_, err := s.Cluster.InNetwork(ctx, master, "add table inet "+table+"\n"+rules, "nft", "-f", "-")
	return in, err
}

// counters are the packets that the rules with a counter have met, in order.
func counters(ctx context.Context, s Scene, master string) ([]int, error) {
	text, err := s.Cluster.InNetwork(ctx, master, "", "nft", "list", "table", "inet", table)
	if err != nil {
		return nil, err
	}
	var all []int
	for _, match := range regexp.MustCompile(`packets (\d+)`).FindAllStringSubmatch(text, -1) {
		n, err := strconv.Atoi(match[1])
		if err != nil {
			return nil, err
		}
		all = append(all, n)
	}
	return all, nil
}

func sum(numbers []int) int {
	total := 0
	for _, n := range numbers {
		total += n
	}
	return total
}
