package deploy

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kijabi.dev/cli/internal/install"
)

func testHosts(hosts ...Host) *Hosts {
	for i := range hosts {
		hosts[i].Address = hosts[i].Name + ":22"
	}
	return &Hosts{Cluster: "c", Defaults: Defaults{User: "root"}, Hosts: hosts}
}

func threeAndOne() *Hosts {
	return testHosts(Host{Name: "m1", Role: Master}, Host{Name: "m2", Role: Master}, Host{Name: "m3", Role: Master}, Host{Name: "n1", Role: Node})
}

func testBundles() Bundles {
	return Bundles{"amd64": {Path: "/b", Version: "2", Arch: "amd64", Sums: "sums", Bytes: 100 << 20}}
}

// bare is a machine without anything of ours.
func bare() Facts {
	return Facts{Arch: "amd64", Services: true, FreeMiB: 5000, Programs: map[string]string{}}
}

// memberOf is a machine that is a member with the programs of the test's bundle.
func memberOf(cluster, name string, master bool) Facts {
	f := bare()
	f.Current, f.Programs = "2", map[string]string{"2": "sums"}
	f.Member = &install.Member{Name: name, Address: "10.0.0.1", Master: master, ClusterID: cluster, BinDir: "/opt/kijabi-2/bin"}
	return f
}

func allMembers() map[string]Facts {
	return map[string]Facts{"m1": memberOf("id", "m1", true), "m2": memberOf("id", "m2", true), "m3": memberOf("id", "m3", true), "n1": memberOf("id", "n1", false)}
}

func wholeCluster() *Cluster {
	c := &Cluster{}
	for _, name := range []string{"m1", "m2", "m3"} {
		c.Masters = append(c.Masters, ClusterMaster{Name: name, Address: "10.0.0.1", Alive: true})
		c.Nodes = append(c.Nodes, ClusterNode{Name: name, Ready: true, Tainted: true})
	}
	c.Nodes = append(c.Nodes, ClusterNode{Name: "n1", Ready: true, Labels: map[string]string{"disk": "ssd"}})
	return c
}

// texts is the plan as people see it.
func texts(p *Plan) map[string]string {
	all := map[string]string{}
	for _, h := range p.Hosts {
		all[h.Host.Name] = h.Text()
	}
	return all
}

func TestDecide(t *testing.T) {
	const fresh = "install programs 2; check the machine; "
	set := func(facts map[string]Facts, name string, change func(*Facts)) map[string]Facts {
		one := facts[name]
		change(&one)
		facts[name] = one
		return facts
	}
	nothing := map[string]string{"m1": "nothing to do", "m2": "nothing to do", "m3": "nothing to do", "n1": "nothing to do"}
	but := func(changes map[string]string) map[string]string {
		all := map[string]string{}
		for name, text := range nothing {
			all[name] = text
		}
		for name, text := range changes {
			all[name] = text
		}
		return all
	}
	refused := errors.New("SSH at x: connection refused")
	for name, test := range map[string]struct {
		in   Input
		want map[string]string
	}{
		"bare machines": {
			Input{Facts: map[string]Facts{"m1": bare(), "m2": bare(), "m3": bare(), "n1": bare()}},
			map[string]string{"m1": fresh + "found the cluster", "m2": fresh + "join as master", "m3": fresh + "join as master", "n1": fresh + "join as node"},
		},
		"all is done": {Input{Facts: allMembers(), Cluster: wholeCluster()}, nothing},
		"cut off after the founding": {
			Input{Facts: func() map[string]Facts {
				f := set(allMembers(), "m2", func(f *Facts) { f.Member, f.Partial = nil, true })
				return set(f, "n1", func(f *Facts) { *f = bare() })
			}(), Cluster: &Cluster{Masters: wholeCluster().Masters, Nodes: wholeCluster().Nodes[:1]}},
			but(map[string]string{"m2": "remove an installation that did not finish; check the machine; join as master", "n1": fresh + "join as node"}),
		},
		"programs are there, the link is not": {
			Input{Facts: set(allMembers(), "n1", func(f *Facts) { f.Member, f.Current = nil, "1" }), Cluster: wholeCluster()},
			but(map[string]string{"n1": fresh + "join as node"}),
		},
		"a node is down": {
			Input{Facts: set(allMembers(), "n1", func(f *Facts) { *f = Facts{Err: refused} }), Cluster: wholeCluster()},
			but(map[string]string{"n1": "FAULT: SSH at x: connection refused"}),
		},
		"a node is down at first": {
			Input{Facts: map[string]Facts{"m1": bare(), "m2": bare(), "m3": bare(), "n1": {Err: refused}}},
			map[string]string{"m1": fresh + "found the cluster", "m2": fresh + "join as master", "m3": fresh + "join as master", "n1": "FAULT: SSH at x: connection refused"},
		},
		"a master is down at first": {
			Input{Facts: map[string]Facts{"m1": bare(), "m2": {Err: refused}, "m3": bare(), "n1": bare()}},
			map[string]string{
				"m1": "FAULT: not begun: a cluster is founded only when all masters of the file are fine, and m2 is not",
				"m2": "FAULT: SSH at x: connection refused",
				"m3": "FAULT: not begun: a cluster is founded only when all masters of the file are fine, and m2 is not",
				"n1": "FAULT: not begun: a cluster is founded only when all masters of the file are fine, and m2 is not",
			},
		},
		"the first master has a new disk": {
			Input{Facts: set(allMembers(), "m1", func(f *Facts) { *f = bare() }), Cluster: wholeCluster()},
			but(map[string]string{"m1": fresh + "join as master"}),
		},
		"another architecture": {
			Input{Facts: set(allMembers(), "n1", func(f *Facts) { *f = bare(); f.Arch = "arm64" }), Cluster: wholeCluster()},
			but(map[string]string{"n1": "FAULT: its architecture is arm64, and the bundle is for amd64: let bundle: name a directory that holds kijabi-2-linux-arm64.tar.gz as well"}),
		},
		"a small disk": {
			Input{Facts: set(allMembers(), "n1", func(f *Facts) { *f = bare(); f.FreeMiB = 299 }), Cluster: wholeCluster()},
			but(map[string]string{"n1": "FAULT: its disk is too small: 299 MiB are free in /opt, and the programs take about 300"}),
		},
		"no service manager": {
			Input{Facts: set(allMembers(), "n1", func(f *Facts) { *f = bare(); f.Services = false }), Cluster: wholeCluster()},
			but(map[string]string{"n1": "FAULT: it runs no service manager that we can use: Kijabi's programs are units of systemd"}),
		},
		"no tar": {
			Input{Facts: set(allMembers(), "n1", func(f *Facts) { *f = bare(); f.Missing = []string{"tar", "gzip"} }), Cluster: wholeCluster()},
			but(map[string]string{"n1": "FAULT: it lacks tar, gzip: install that first"}),
		},
		"a node of another cluster": {
			Input{Facts: set(allMembers(), "n1", func(f *Facts) { f.Member.ClusterID = "other" }), Cluster: wholeCluster()},
			but(map[string]string{"n1": "FAULT: it is a node of another cluster, other: run `kijabi reset` on it first"}),
		},
		"a node without its masters": {
			Input{Facts: map[string]Facts{"m1": bare(), "m2": bare(), "m3": bare(), "n1": memberOf("id", "n1", false)}},
			map[string]string{
				"m1": fresh + "found the cluster", "m2": fresh + "join as master", "m3": fresh + "join as master",
				"n1": "FAULT: it is a node of cluster id, of which no master is in the file: name its masters, or run `kijabi reset` on it",
			},
		},
		"another name": {
			Input{Facts: set(allMembers(), "n1", func(f *Facts) { f.Member.Name = "n7" }), Cluster: wholeCluster()},
			but(map[string]string{"n1": "FAULT: it is in the cluster as n7: correct the name in the file, or run `kijabi reset` on it"}),
		},
		"another role": {
			Input{Facts: set(allMembers(), "n1", func(f *Facts) { f.Member.Master = true }), Cluster: wholeCluster()},
			but(map[string]string{"n1": "FAULT: it is a master: a machine does not change its role; run `kijabi reset` on it, then deploy again"}),
		},
		"a master that was taken off": {
			Input{Facts: allMembers(), Cluster: &Cluster{Masters: wholeCluster().Masters[:2], Nodes: wholeCluster().Nodes}},
			but(map[string]string{"m3": "FAULT: it was taken off the masters: run `kijabi reset --local` on it, then deploy again"}),
		},
		"a new version": {
			Input{Facts: set(allMembers(), "n1", func(f *Facts) {
				f.Member.BinDir, f.Current, f.Programs = "/opt/kijabi-1/bin", "1", map[string]string{"1": "old"}
			}), Cluster: wholeCluster()},
			but(map[string]string{"n1": "upload programs 2; programs differ: 1 runs on, 2 is not taken into use by deploy"}),
		},
		"a new version that is there": {
			Input{Facts: set(allMembers(), "n1", func(f *Facts) { f.Member.BinDir, f.Current = "/opt/kijabi-1/bin", "1" }), Cluster: wholeCluster()},
			but(map[string]string{"n1": "programs differ: 1 runs on, 2 is not taken into use by deploy"}),
		},
		"other programs of the same version": {
			Input{Facts: set(allMembers(), "n1", func(f *Facts) { f.Programs = map[string]string{"2": "others"} }), Cluster: wholeCluster()},
			but(map[string]string{"n1": "programs differ: 2 runs on, 2 is not taken into use by deploy"}),
		},
		"labels and taint": {
			Input{
				Hosts: testHosts(Host{Name: "m1", Role: Master, Schedulable: true}, Host{Name: "n1", Role: Node, Labels: map[string]string{"disk": "hdd", "zone": "a"}}),
				Facts: allMembers(), Cluster: &Cluster{Masters: wholeCluster().Masters[:1], Nodes: []ClusterNode{wholeCluster().Nodes[0], wholeCluster().Nodes[3]}},
			},
			map[string]string{"m1": "let pods be scheduled on it", "n1": "label disk=hdd, label zone=a"},
		},
		"not in the file": {
			Input{Hosts: testHosts(Host{Name: "m1", Role: Master}, Host{Name: "m2", Role: Master}, Host{Name: "m3", Role: Master}), Facts: allMembers(), Cluster: wholeCluster()},
			but(map[string]string{"n1": "in the cluster, but not in the file: --prune takes it out"}),
		},
		"prune a node": {
			Input{Hosts: testHosts(Host{Name: "m1", Role: Master}, Host{Name: "m2", Role: Master}, Host{Name: "m3", Role: Master}), Facts: allMembers(), Cluster: wholeCluster(), Prune: true},
			but(map[string]string{"n1": "leave: drain it, reset it, delete its Node"}),
		},
		"prune masters while one is dead": {
			Input{Hosts: testHosts(Host{Name: "m1", Role: Master}, Host{Name: "n1", Role: Node}), Facts: allMembers(), Prune: true, Cluster: &Cluster{
				Masters: []ClusterMaster{{Name: "m1", Alive: false}, {Name: "m2", Alive: true}, {Name: "m3", Alive: true}}, Nodes: wholeCluster().Nodes,
			}},
			but(map[string]string{
				"m2": "FAULT: it stays: without m2 only 1 of 2 voting masters would live, which is no majority: repair the others first",
				"m3": "FAULT: it stays: without m3 only 1 of 2 voting masters would live, which is no majority: repair the others first",
			}),
		},
		"spares have no vote": {
			Input{Hosts: testHosts(Host{Name: "m1", Role: Master}, Host{Name: "n1", Role: Node}), Facts: allMembers(), Prune: true, Cluster: &Cluster{
				Masters: []ClusterMaster{{Name: "m1", Alive: false}, {Name: "m2", Alive: true}, {Name: "m3", Alive: true, Spare: true}}, Nodes: wholeCluster().Nodes,
			}},
			but(map[string]string{
				"m2": "FAULT: it stays: without m2 only 0 of 1 voting masters would live, which is no majority: repair the others first",
				"m3": "leave: drain it, take it off the masters, reset it, delete its Node",
			}),
		},
		"prune masters": {
			Input{Hosts: testHosts(Host{Name: "m1", Role: Master}, Host{Name: "n1", Role: Node}), Facts: allMembers(), Prune: true, Cluster: wholeCluster()},
			but(map[string]string{"m2": "leave: drain it, take it off the masters, reset it, delete its Node", "m3": "leave: drain it, take it off the masters, reset it, delete its Node"}),
		},
	} {
		t.Run(name, func(t *testing.T) {
			if test.in.Hosts == nil {
				test.in.Hosts = threeAndOne()
			}
			test.in.Bundles = testBundles()
			plan, err := Decide(test.in)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, texts(plan)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestMastersOfTwoClusters(t *testing.T) {
	facts := allMembers()
	facts["m3"] = memberOf("other", "m3", true)
	if _, err := Decide(Input{Hosts: threeAndOne(), Bundles: testBundles(), Facts: facts}); err == nil || !strings.Contains(err.Error(), "m3 of cluster other") {
		t.Errorf("masters of two clusters: %v", err)
	}
}

func TestAdvertise(t *testing.T) {
	for name, test := range map[string]struct {
		host Host
		want string
	}{
		"as the file says":                {Host{Address: "192.0.2.1:22", AdvertiseAddress: "10.0.0.5"}, "10.0.0.5"},
		"the SSH address is its own":      {Host{Address: "10.0.0.7:22"}, "10.0.0.7"},
		"the SSH address is translated":   {Host{Address: "192.0.2.1:22"}, ""},
		"the SSH address is a name of it": {Host{Address: "vm1:22"}, ""},
	} {
		if got := advertise(test.host, Facts{Addresses: []string{"10.0.0.7", "fe80::1"}}); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

func TestSurplusIsReachedAsBefore(t *testing.T) {
	hosts := testHosts(Host{Name: "m1", Role: Master})
	hosts.Defaults = Defaults{User: "ops", Port: 2222, KeyFile: "/k"}
	cluster := &Cluster{
		Masters: []ClusterMaster{{Name: "m1", Alive: true}},
		Nodes:   []ClusterNode{{Name: "a", Address: "10.0.0.8"}, {Name: "b", Address: "10.0.0.9"}},
	}
	known := map[string]Host{"a": {Name: "a", Address: "192.0.2.8:22", User: "debian"}}
	plan, err := Decide(Input{Hosts: hosts, Bundles: testBundles(), Facts: allMembers(), Cluster: cluster, Prune: true, Known: known})
	if err != nil {
		t.Fatal(err)
	}
	want := []Host{{Name: "a", Address: "192.0.2.8:22", User: "debian", Role: Node}, {Name: "b", Address: "10.0.0.9:2222", User: "ops", KeyFile: "/k", Role: Node}}
	if diff := cmp.Diff(want, []Host{plan.Hosts[1].Host, plan.Hosts[2].Host}); diff != "" {
		t.Error(diff)
	}
}

func TestParseFacts(t *testing.T) {
	facts, err := parseFacts(`arch Linux x86_64
addresses 10.0.0.7 fe80::1
services
missing gzip
free 1234
current kijabi-2
programs 1 aa
programs 2 bb
member
{"name": "m1", "master": true, "clusterID": "id", "binDir": "/opt/kijabi-2/bin"}
`)
	want := Facts{
		Arch: "amd64", Addresses: []string{"10.0.0.7", "fe80::1"}, Services: true, Missing: []string{"gzip"}, FreeMiB: 1234,
		Current: "2", Programs: map[string]string{"1": "aa", "2": "bb"},
		Member: &install.Member{Name: "m1", Master: true, ClusterID: "id", BinDir: "/opt/kijabi-2/bin"},
	}
	if diff := cmp.Diff(want, facts); err != nil || diff != "" {
		t.Error(err, diff)
	}
	for text, part := range map[string]string{
		"":                                    "POSIX shell",
		"Only git is served here":             "POSIX shell",
		"arch FreeBSD amd64\n":                "needs Linux",
		"arch Linux x86_64\nmember\nnonsense": "member.json",
	} {
		if _, err := parseFacts(text); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%q: %v, want %q", text, err, part)
		}
	}
}
