package nftables

import (
	"testing"
	"time"

	nft "github.com/google/nftables"

	"kijabi.dev/kube-proxy/internal/dataplane/dataplanetest"
	"kijabi.dev/kube-proxy/internal/services"
)

// TestForeignChanges breaks the table in several ways and waits for traffic to be as
// it should.
func TestForeignChanges(t *testing.T) {
	const address = "10.96.0.20:80"
	table := &nft.Table{Name: TableName, Family: nft.TableFamilyIPv4}
	front := dataplanetest.Frontend(address, services.TCP, dataplanetest.PodAIP+":8080")
	forwards := func(w *dataplanetest.World) bool {
		got, err := w.PodB.Ask("tcp4", address)
		return err == nil && got.Server == "pod-a"
	}
	for name, test := range map[string]struct {
		breakIt func(*nft.Conn)
		fixed   func(*dataplanetest.World) bool
	}{
		"table deleted":   {func(c *nft.Conn) { c.DelTable(table) }, forwards},
		"ruleset flushed": {func(c *nft.Conn) { c.FlushRuleset() }, forwards},
		"chain emptied":   {func(c *nft.Conn) { c.FlushChain(&nft.Chain{Name: "services", Table: table}) }, forwards},
		"elements gone": {func(c *nft.Conn) {
			c.FlushSet(&nft.Set{Name: string(setTargets), Table: table})
		}, forwards},
		"element added": {func(c *nft.Conn) {
			_ = c.SetAddElements(&nft.Set{Name: string(setFronts), Table: table},
				[]nft.SetElement{{Key: frontBytes(dataplanetest.Frontend("203.0.113.1:80", services.TCP).Front)}})
		}, func(w *dataplanetest.World) bool {
			var n tally
			w.Node.Must(t, func() error {
				raw, err := dialRaw(0)
				if err != nil {
					return err
				}
				defer func() { _ = raw.Close() }()
				n, err = readTally(raw, familyOf(false), setFronts)
				return err
			})
			return n.n == 1
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := dataplanetest.NewWorld(t)
			p := dataplanetest.Start(t, w, open)
			if err := p.Sync(dataplanetest.Full(front)); err != nil {
				t.Fatalf("sync: %v", err)
			}
			if !forwards(w) {
				t.Fatal("does not forward before it is broken")
			}
			begin := time.Now()
			w.Node.Must(t, func() error {
				c, err := nft.New()
				if err != nil {
					return err
				}
				test.breakIt(c)
				return c.Flush()
			})
			for !test.fixed(w) {
				if time.Since(begin) > 5*time.Second {
					t.Fatal("not repaired within 5 s")
				}
			}
			t.Logf("repaired after %v", time.Since(begin))
		})
	}
}

// TestUnrelatedChange shows that what others do in their own tables costs no rebuild.
func TestUnrelatedChange(t *testing.T) {
	w := dataplanetest.NewWorld(t)
	var p *Plane
	w.Node.Must(t, func() error { p = open(t).(*Plane); return nil })
	defer func() { _ = p.Close() }()
	if err := p.Sync(dataplanetest.Full(dataplanetest.Frontend("10.96.0.20:80", services.TCP, dataplanetest.PodAIP+":8080"))); err != nil {
		t.Fatalf("sync: %v", err)
	}
	generation := func() uint32 {
		g, err := readGeneration(p.raw)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	if p.seal.generation != generation() {
		t.Errorf("after a sync: know generation %d, is %d", p.seal.generation, generation())
	}
	w.Node.Must(t, func() error {
		c, err := nft.New()
		if err != nil {
			return err
		}
		c.AddTable(&nft.Table{Name: "other", Family: nft.TableFamilyIPv4})
		return c.Flush()
	})
	before := generation()
	if err := p.check(); err != nil {
		t.Fatalf("check: %v", err)
	}
	if after := generation(); after != before || p.seal.generation != after {
		t.Errorf("a foreign table made us commit: generation %d, then %d, known %d", before, after, p.seal.generation)
	}
}

// TestAffinitySurvivesRestart replaces the plane, and with it the table.
func TestAffinitySurvivesRestart(t *testing.T) {
	w := dataplanetest.NewWorld(t)
	const address = "10.96.0.20:80"
	front := dataplanetest.Frontend(address, services.TCP, dataplanetest.PodAIP+":8080", dataplanetest.PodBIP+":8080", dataplanetest.PodCIP+":8080")
	front.Sticky = true
	seen := map[string]int{}
	for range 6 {
		var p *Plane
		w.Node.Must(t, func() error { p = open(t).(*Plane); return nil })
		if err := p.Sync(dataplanetest.Full(front)); err != nil {
			t.Fatalf("sync: %v", err)
		}
		for range 5 {
			got, err := w.Client.Ask("tcp4", address)
			if err != nil {
				t.Fatalf("ask: %v", err)
			}
			seen[got.Server]++
		}
		if err := p.Close(); err != nil {
			t.Fatalf("close: %v", err)
		}
	}
	if len(seen) != 1 {
		t.Errorf("one client was sent to %v", seen)
	}
}
