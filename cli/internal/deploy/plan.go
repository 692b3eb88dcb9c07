package deploy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Action is one thing to do on a machine.
type Action string

const (
	// Clean removes an installation that did not finish.
	Clean Action = "clean"
	// Install puts the programs into /opt and makes /opt/kijabi point to them.
	Install Action = "install"
	// Upload puts them there and changes nothing else: others are running.
	Upload Action = "upload"
	// Check runs the preflight checks, if the programs have them.
	Check Action = "check"
	// Init founds the cluster.
	Init Action = "init"
	// JoinMaster and JoinNode join it.
	JoinMaster Action = "join-master"
	JoinNode   Action = "join-node"
	// Adjust sets labels and taint of the Node.
	Adjust Action = "adjust"
	// LeaveNode and LeaveMaster take the machine out and reset it.
	LeaveNode   Action = "leave-node"
	LeaveMaster Action = "leave-master"
)

// Step is an action with what is needed for it.
type Step struct {
	Action Action
	// Bundle of Install and Upload.
	Bundle Bundle
	// Advertise is the address of Check, Init and the joins; empty lets the machine choose.
	Advertise string
	// Labels of Adjust.
	Labels map[string]string
	// Taint of Adjust: true sets the one of a master, false takes it off, nil leaves it.
	Taint *bool
}

// HostPlan is what happens to one machine.
type HostPlan struct {
	Host Host
	// Steps in their order; none if there is nothing to do.
	Steps []Step
	// Notes are for people.
	Notes []string
	// Fault is why nothing can be done.
	Fault error
}

// Plan is what one run will do.
type Plan struct {
	// Version of the programs.
	Version string
	// Hosts of the file in its order, then those that are taken out.
	Hosts []HostPlan
	// Anchor is the member master that the cluster is asked through; empty while there
	// is no cluster.
	Anchor string
	// ClusterID of the cluster that exists.
	ClusterID string
}

// Changes reports whether there is anything to do.
func (p *Plan) Changes() bool {
	return slices.ContainsFunc(p.Hosts, func(h HostPlan) bool { return len(h.Steps) > 0 })
}

// Input of Decide.
type Input struct {
	Hosts   *Hosts
	Bundles Bundles
	// Facts of all hosts, by name.
	Facts map[string]Facts
	// Cluster as its masters see it; nil if there is none yet.
	Cluster *Cluster
	// Prune takes machines out that are not in the file.
	Prune bool
	// Known says how machines were reached that are not in the file any more.
	Known map[string]Host
}

// Cluster is what the masters know.
type Cluster struct {
	Masters []ClusterMaster
	// VirtualAddresses of the masters.
	VirtualAddresses []string
	Nodes            []ClusterNode
}

// ClusterMaster is a master on the roster.
type ClusterMaster struct {
	Name, Address string
	Alive         bool
	// Spare is a master without a vote.
	Spare bool
}

// ClusterNode is a Node.
type ClusterNode struct {
	Name, Address string
	Ready         bool
	Labels        map[string]string
	// Tainted is whether it has the taint of a master.
	Tainted bool
}

func (c *Cluster) master(name string) (ClusterMaster, bool) {
	i := slices.IndexFunc(c.Masters, func(m ClusterMaster) bool { return m.Name == name })
	if i < 0 {
		return ClusterMaster{}, false
	}
	return c.Masters[i], true
}

func (c *Cluster) node(name string) (ClusterNode, bool) {
	i := slices.IndexFunc(c.Nodes, func(n ClusterNode) bool { return n.Name == name })
	if i < 0 {
		return ClusterNode{}, false
	}
	return c.Nodes[i], true
}

// FindAnchor returns the master of the file that is a member and the id of its cluster;
// no name while there is none. Masters of two clusters are an error.
func FindAnchor(hosts *Hosts, facts map[string]Facts) (name, clusterID string, err error) {
	for _, host := range hosts.Hosts {
		member := facts[host.Name].Member
		if host.Role != Master || member == nil || !member.Master {
			continue
		}
		if name != "" && member.ClusterID != clusterID {
			return "", "", fmt.Errorf("%s is a master of cluster %s, and %s of cluster %s: run `kijabi reset` on the one that shall leave its cluster",
				name, clusterID, host.Name, member.ClusterID)
		}
		if name == "" {
			name, clusterID = host.Name, member.ClusterID
		}
	}
	return name, clusterID, nil
}

// Decide says what each machine needs. It is pure.
func Decide(in Input) (*Plan, error) {
	plan := &Plan{Version: in.Bundles.Version()}
	var err error
	if plan.Anchor, plan.ClusterID, err = FindAnchor(in.Hosts, in.Facts); err != nil {
		return nil, err
	}
	founder := ""
	if plan.Anchor == "" {
		founder = firstMaster(in.Hosts)
	}
	for _, host := range in.Hosts.Hosts {
		plan.Hosts = append(plan.Hosts, in.decideHost(host, plan, founder))
	}
	if founder != "" {
		plan.holdBack()
	}
	if in.Cluster != nil {
		plan.Hosts = append(plan.Hosts, in.surplus()...)
	}
	return plan, nil
}

func firstMaster(hosts *Hosts) string {
	i := slices.IndexFunc(hosts.Hosts, func(h Host) bool { return h.Role == Master })
	return hosts.Hosts[i].Name
}

// decideHost plans one machine of the file.
func (in Input) decideHost(host Host, plan *Plan, founder string) HostPlan {
	facts := in.Facts[host.Name]
	made := HostPlan{Host: host, Fault: facts.Err}
	if made.Fault != nil {
		return made
	}
	bundle, ok := in.Bundles[facts.Arch]
	if !ok {
		made.Fault = fmt.Errorf("its architecture is %s, and the bundle is for %s: let bundle: name a directory that holds kijabi-%s-linux-%s.tar.gz as well",
			facts.Arch, strings.Join(slices.Sorted(maps.Keys(in.Bundles)), ", "), plan.Version, facts.Arch)
		return made
	}
	if facts.Member != nil {
		in.decideMember(&made, facts, bundle, plan)
		return made
	}
	if made.Fault = fit(facts, bundle); made.Fault != nil {
		return made
	}
	if facts.Programs[bundle.Version] != bundle.Sums || facts.Current != bundle.Version {
		made.Steps = append(made.Steps, Step{Action: Install, Bundle: bundle})
	}
	if facts.Partial { // by the new programs: the old ones may be missing
		made.Steps = append(made.Steps, Step{Action: Clean})
	}
	made.Steps = append(made.Steps, Step{Action: Check, Advertise: advertise(host, facts)})
	join := Step{Action: JoinNode, Advertise: advertise(host, facts)}
	switch {
	case host.Name == founder:
		join.Action = Init
	case host.Role == Master:
		join.Action = JoinMaster
	}
	made.Steps = append(made.Steps, join)
	made.Steps = append(made.Steps, adjust(host, ClusterNode{Tainted: host.Role == Master})...)
	return made
}

// fit says why a machine cannot be installed.
func fit(facts Facts, bundle Bundle) error {
	switch {
	case len(facts.Missing) > 0:
		return fmt.Errorf("it lacks %s: install that first", strings.Join(facts.Missing, ", "))
	case !facts.Services:
		return errors.New("it runs no service manager that we can use: Kijabi's programs are units of systemd")
	}
	const packed = 3 // about what a bundle shrinks by
	need := packed * bundle.Bytes >> 20
	if facts.Programs[bundle.Version] != bundle.Sums && facts.FreeMiB < need {
		return fmt.Errorf("its disk is too small: %d MiB are free in /opt, and the programs take about %d", facts.FreeMiB, need)
	}
	return nil
}

// advertise is the address that other machines reach a host at.
func advertise(host Host, facts Facts) string {
	if host.AdvertiseAddress != "" {
		return host.AdvertiseAddress
	}
	if ip := hostOf(host.Address); slices.Contains(facts.Addresses, ip) {
		return ip
	}
	return ""
}

// decideMember plans a machine that is in a cluster.
func (in Input) decideMember(made *HostPlan, facts Facts, bundle Bundle, plan *Plan) {
	member, host := facts.Member, made.Host
	role := Node
	if member.Master {
		role = Master
	}
	node, known := ClusterNode{}, false
	if in.Cluster != nil {
		node, known = in.Cluster.node(host.Name)
	}
	switch {
	case plan.Anchor == "":
		made.Fault = fmt.Errorf("it is a %s of cluster %s, of which no master is in the file: name its masters, or run `kijabi reset` on it", role, member.ClusterID)
	case member.ClusterID != plan.ClusterID:
		made.Fault = fmt.Errorf("it is a %s of another cluster, %s: run `kijabi reset` on it first", role, member.ClusterID)
	case member.Name != host.Name:
		made.Fault = fmt.Errorf("it is in the cluster as %s: correct the name in the file, or run `kijabi reset` on it", member.Name)
	case role != host.Role:
		made.Fault = fmt.Errorf("it is a %s: a machine does not change its role; run `kijabi reset` on it, then deploy again", role)
	case host.AdvertiseAddress != "" && member.Address != host.AdvertiseAddress:
		made.Fault = fmt.Errorf("it is in the cluster with address %s: correct advertiseAddress, or run `kijabi reset` on it and deploy again", member.Address)
	case in.Cluster != nil && role == Master && !in.Cluster.onRoster(host.Name):
		made.Fault = errors.New("it was taken off the masters: run `kijabi reset --local` on it, then deploy again")
	}
	if made.Fault != nil {
		return
	}
	if own, _, _ := strings.Cut(strings.TrimPrefix(member.BinDir, "/opt/kijabi-"), "/"); own != bundle.Version || facts.Programs[bundle.Version] != bundle.Sums {
		made.Notes = append(made.Notes, fmt.Sprintf("programs differ: %s runs on, %s is not taken into use by deploy", version(member.BinDir), bundle.Version))
		if own != bundle.Version && facts.Programs[bundle.Version] != bundle.Sums {
			made.Steps = append(made.Steps, Step{Action: Upload, Bundle: bundle})
		}
	}
	if known {
		made.Steps = append(made.Steps, adjust(host, node)...)
	}
}

func (c *Cluster) onRoster(name string) bool {
	_, ok := c.master(name)
	return ok
}

// version is how people call the programs in a directory.
func version(binDir string) string {
	if own, _, ok := strings.Cut(strings.TrimPrefix(binDir, "/opt/kijabi-"), "/"); ok && own != "" {
		return own
	}
	return binDir
}

// adjust returns a step when labels or taint differ from the file. Labels that the file
// does not name belong to somebody else.
func adjust(host Host, node ClusterNode) []Step {
	step := Step{Action: Adjust}
	for key, value := range host.Labels {
		if have, ok := node.Labels[key]; !ok || have != value {
			if step.Labels == nil {
				step.Labels = map[string]string{}
			}
			step.Labels[key] = value
		}
	}
	if host.Role == Master && node.Tainted == host.Schedulable {
		want := !host.Schedulable
		step.Taint = &want
	}
	if step.Labels == nil && step.Taint == nil {
		return nil
	}
	return []Step{step}
}

// holdBack keeps a run from founding a cluster beside one that exists: a master that
// does not answer may be a member of one.
func (p *Plan) holdBack() {
	var silent []string
	for _, h := range p.Hosts {
		if h.Host.Role == Master && h.Fault != nil {
			silent = append(silent, h.Host.Name)
		}
	}
	if len(silent) == 0 {
		return
	}
	for i := range p.Hosts {
		if h := &p.Hosts[i]; h.Fault == nil {
			h.Steps, h.Fault = nil, fmt.Errorf("not begun: a cluster is founded only when all masters of the file are fine, and %s is not", strings.Join(silent, ", "))
		}
	}
}

// surplus plans the machines of the cluster that are not in the file.
func (in Input) surplus() []HostPlan {
	addresses := map[string]string{}
	for _, node := range in.Cluster.Nodes {
		addresses[node.Name] = node.Address
	}
	for _, master := range in.Cluster.Masters {
		addresses[master.Name] = master.Address
	}
	for _, host := range in.Hosts.Hosts {
		delete(addresses, host.Name)
	}
	left := slices.Clone(in.Cluster.Masters)
	var all []HostPlan
	for _, name := range slices.Sorted(maps.Keys(addresses)) {
		host, known := in.Known[name]
		if !known {
			host = Host{Name: name, User: in.Hosts.Defaults.User, KeyFile: in.Hosts.Defaults.KeyFile}
			if host.Address, _ = sshAddress(addresses[name], in.Hosts.port()); host.Address == "" {
				host.Address = addresses[name]
			}
		}
		made := HostPlan{Host: host}
		master, isMaster := in.Cluster.master(name)
		made.Host.Role = Node
		if isMaster {
			made.Host.Role = Master
		}
		switch {
		case !in.Prune:
			made.Notes = []string{"in the cluster, but not in the file: --prune takes it out"}
		case isMaster:
			others := slices.DeleteFunc(slices.Clone(left), func(m ClusterMaster) bool { return m.Name == name })
			if made.Fault = quorate(others, master); made.Fault == nil {
				made.Steps, left = []Step{{Action: LeaveMaster}}, others
			}
		default:
			made.Steps = []Step{{Action: LeaveNode}}
		}
		all = append(all, made)
	}
	return all
}

// quorate says why a master may not leave: of those that are left, the voting ones must have a
// majority of living ones.
func quorate(left []ClusterMaster, leaving ClusterMaster) error {
	alive, voters := 0, 0
	for _, master := range left {
		if master.Spare {
			continue
		}
		voters++
		if master.Alive {
			alive++
		}
	}
	if leaving.Spare || alive > voters/2 {
		return nil
	}
	return fmt.Errorf("it stays: without %s only %d of %d voting masters would live, which is no majority: repair the others first", leaving.Name, alive, voters)
}
