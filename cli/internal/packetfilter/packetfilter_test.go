package packetfilter

import (
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// inNamespace makes the rest of the test run in a network namespace of its own. The
// thread ends with the test.
func inNamespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	own, err := netns.New()
	if err != nil {
		t.Fatalf("this test needs root: %v", err)
	}
	t.Cleanup(func() { _ = own.Close() })
}

func TestProbeFindsWhatTheProgramsUse(t *testing.T) {
	inNamespace(t)
	missing, err := Probe()
	if err != nil || len(missing) != 0 {
		t.Errorf("probe = %v, %v", missing, err)
	}
}

func TestProbeNamesWhatIsMissing(t *testing.T) {
	inNamespace(t)
	create := func(m message) {
		t.Helper()
		m.family, m.flags = unix.NFPROTO_IPV4, unix.NLM_F_CREATE
		m.attributes = append([]*nl.RtAttr{text(attrTable, "other")}, m.attributes...)
		if err := send(m); err != nil {
			t.Fatal(err)
		}
	}
	create(message{kind: msgNewTable})
	create(message{kind: msgNewChain, attributes: []*nl.RtAttr{text(attrChainName, "plain")}})
	rule := []*nl.RtAttr{
		text(attrTable, "other"), text(attrRuleChain, "plain"),
		nested(attrRuleExpressions, expression("no-such-thing")),
	}
	if err := send(message{kind: msgNewRule, family: unix.NFPROTO_IPV4, flags: unix.NLM_F_CREATE, attributes: rule}); err == nil {
		t.Error("a rule of an expression that does not exist was accepted")
	}
}

func TestTablesChainsAndDeletion(t *testing.T) {
	inNamespace(t)
	if err := DeleteTable("kijabi-none"); err != nil {
		t.Errorf("delete a table that is not there: %v", err)
	}
	if _, err := Probe(); err != nil {
		t.Fatal(err)
	}
	want := []Table{{Family: "ip", Name: probeTable, Chains: 3, Rules: len(Features())}}
	if got, err := Tables("kijabi"); err != nil || !cmp.Equal(got, want) {
		t.Errorf("tables = %+v, %v, want %+v", got, err, want)
	}
	if got, err := Tables("other"); err != nil || len(got) != 1 || got[0].Chains != 0 {
		t.Errorf("tables of others = %+v, %v: they are named only", got, err)
	}
	chains, err := Chains()
	if err != nil {
		t.Fatal(err)
	}
	forward := map[string]bool{}
	for _, chain := range chains {
		forward[chain.Name] = chain.Forward
		if chain.Drop {
			t.Errorf("chain %s accepts by default", chain.Name)
		}
	}
	if !cmp.Equal(forward, map[string]bool{filterChain: true, natChain: false, "masquerade": false}) {
		t.Errorf("forward chains = %v", forward)
	}
	if err := DeleteTable(probeTable); err != nil {
		t.Fatal(err)
	}
	if got, err := Tables(""); err != nil || len(got) != 0 {
		t.Errorf("after the deletion: %+v, %v", got, err)
	}
}
