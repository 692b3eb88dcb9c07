package command

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"

	"kijabi.dev/cli/internal/access"
	"kijabi.dev/cli/internal/install"
	"kijabi.dev/cli/internal/output"
)

// Status is what `kijabi status -o json` prints.
type Status struct {
	// Cluster is the name the user knows it by, and its id.
	Cluster   string `json:"cluster"`
	ClusterID string `json:"clusterID,omitempty"`
	// Leader is the leading master's name, empty when none leads.
	Leader string `json:"leader"`
	// Epoch of the leader.
	Epoch uint64 `json:"epoch"`
	// Voters are the masters that count toward quorum.
	Voters []string `json:"voters"`
	// FailuresTolerated is how many voters more may fail; negative when the quorum is lost.
	// Missing while no master answers.
	FailuresTolerated *int32 `json:"failuresTolerated,omitempty"`
	// LeaderChanges seen by the answering master.
	LeaderChanges int64 `json:"leaderChanges"`
	// LastLeaderChanges are the last 16 of them, oldest first.
	LastLeaderChanges []LeaderChange `json:"lastLeaderChanges"`
	// VirtualAddresses of the masters; missing if there are none.
	VirtualAddresses []VirtualAddress `json:"virtualAddresses,omitempty"`
	// Etcd is the data store.
	Etcd EtcdStatus `json:"etcd"`
	// Generation counts restorations and recoveries of the masters.
	Generation uint64 `json:"generation"`
	// Snapshots made by schedule; absent when none are, or nobody knows.
	Snapshots *SnapshotsStatus `json:"snapshots,omitempty"`
	// Masters on the roster, or known from before when none answers.
	Masters []MasterStatus `json:"masters"`
	// Nodes are all machines.
	Nodes []NodeStatus `json:"nodes"`
	// Components are the programs of all machines.
	Components []ComponentStatus `json:"components"`
	// Warnings are what needs attention.
	Warnings []string `json:"warnings"`
}

// VirtualAddress is one that the leading master holds.
type VirtualAddress struct {
	Address string `json:"address"`
	// Holder is the master that has it, empty if none does.
	Holder string `json:"holder"`
}

// virtualAddresses are those of a master's answer.
func virtualAddresses(from *mastersv1pb.StatusResponse) []VirtualAddress {
	var all []VirtualAddress
	for _, address := range from.GetVirtualAddresses() {
		one := VirtualAddress{Address: address}
		for _, member := range from.GetMembers() {
			// For a moment two may say so: it is the leader's.
			if slices.Contains(member.GetVirtualAddresses(), address) && (one.Holder == "" || member.GetName() == from.GetLeader()) {
				one.Holder = member.GetName()
			}
		}
		all = append(all, one)
	}
	return all
}

// EtcdStatus describes the data store.
type EtcdStatus struct {
	// Leader is the machine whose member leads.
	Leader string `json:"leader"`
	// Revision is the newest one.
	Revision int64 `json:"revision"`
	// DatabaseBytes is the size of the largest member.
	DatabaseBytes int64 `json:"databaseBytes"`
	// InUseBytes of the largest member are no free pages, LimitBytes is the smallest limit of that;
	// missing if not known.
	InUseBytes int64 `json:"inUseBytes,omitempty"`
	LimitBytes int64 `json:"limitBytes,omitempty"`
}

// text is its size, and how much of what it may have is in use.
func (e EtcdStatus) text() string {
	text := fmt.Sprintf("%.1f MiB", float64(e.DatabaseBytes)/(1<<20))
	if e.LimitBytes > 0 {
		text += fmt.Sprintf(", %.1f of at most %d MiB in use", float64(e.InUseBytes)/(1<<20), e.LimitBytes>>20)
	}
	return text
}

// SnapshotsStatus describes the snapshots made by schedule.
type SnapshotsStatus struct {
	// IntervalSeconds between two.
	IntervalSeconds int64 `json:"intervalSeconds"`
	// Last that was made.
	Last *SnapshotStatus `json:"last,omitempty"`
	// Error of the last attempt, if it failed.
	Error string `json:"error,omitempty"`
}

// text says how old the last one is, and what is wrong.
func (s *SnapshotsStatus) text(now time.Time) string {
	if s == nil {
		return "none by schedule"
	}
	text := "none yet"
	if s.Last != nil {
		age := now.Sub(s.Last.Time).Round(time.Second)
		text = fmt.Sprintf("%s old, %s on %s", age, s.Last.Name, s.Last.Master)
		if age > 2*time.Duration(s.IntervalSeconds)*time.Second {
			text += ", OVERDUE"
		}
	}
	if s.Error != "" {
		text += "; the last attempt FAILED: " + s.Error
	}
	return text
}

// MasterStatus describes a master.
type MasterStatus struct {
	Name     string `json:"name"`
	Address  string `json:"address"`
	Role     string `json:"role"`
	Leader   bool   `json:"leader"`
	Alive    bool   `json:"alive"`
	Revision int64  `json:"revision,omitempty"`
	// Lag is how many revisions it is behind the leader.
	Lag int64 `json:"lag"`
	// DiskSeconds is how long its last synced write took; missing if not known.
	DiskSeconds float64 `json:"diskSeconds,omitempty"`
	// CertificateEnd is when the first of its apiserver's certificates ends; missing if not known.
	CertificateEnd *time.Time `json:"certificateEnd,omitempty"`
	// Reason why it is not alive.
	Reason string `json:"reason,omitempty"`
}

// LeaderChange is a change of leadership as the answering master saw it.
type LeaderChange struct {
	// Time by that master's clock.
	Time time.Time `json:"time"`
	// From is empty for the first leader that it saw.
	From string `json:"from,omitempty"`
	To   string `json:"to"`
	// Reason is missing while it is not known.
	Reason string `json:"reason,omitempty"`
}

// NodeStatus describes a machine.
type NodeStatus struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	Ready   bool   `json:"ready"`
	Reason  string `json:"reason,omitempty"`
	PodCIDR string `json:"podCIDR,omitempty"`
}

// ComponentStatus describes a program.
type ComponentStatus struct {
	Machine   string `json:"machine"`
	Component string `json:"component"`
	Healthy   bool   `json:"healthy"`
	Reason    string `json:"reason,omitempty"`
}

func newStatus() *cobra.Command {
	c := &cobra.Command{
		Use: "status", Short: "Show who leads, who votes, and whether everything is healthy",
		Long: `status asks every master and every program. It also works while masters are down and
says which do not answer. The exit code is 1 when no master leads.`,
		Example: `  kijabi status
  kijabi status -o json | jq -r .leader`,
		Args: cobra.NoArgs,
	}
	asJSON := outputFlag(c)
	find := clusterFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		wantJSON, err := asJSON()
		if err != nil {
			return err
		}
		found, err := find()
		if err != nil {
			return err
		}
		status, err := collect(c.Context(), found)
		if err != nil {
			return err
		}
		if wantJSON {
			err = output.JSON(c.OutOrStdout(), status)
		} else {
			err = printStatus(c.OutOrStdout(), status)
		}
		if err == nil && status.Leader == "" {
			return exitError(1)
		}
		return err
	}
	return c
}

// answer of one master.
type answer struct {
	master access.Master
	status *mastersv1pb.StatusResponse
	err    error
}

// collect asks everybody at once.
func collect(ctx context.Context, found *access.Access) (*Status, error) {
	id, err := found.Identity(ctx)
	if err != nil {
		// An expired certificate still opens; whoever is asked then says so.
		if id, _ = pki.OpenIdentity(found.Files()); id == nil {
			return nil, err
		}
	}
	answers := askMasters(ctx, found.Cluster.Masters, id)
	status := &Status{Cluster: found.Cluster.Name, Voters: []string{}, Masters: []MasterStatus{}, Nodes: []NodeStatus{}, Components: []ComponentStatus{}, LastLeaderChanges: []LeaderChange{}, Warnings: []string{}}
	best := bestAnswer(answers)
	if best == nil {
		for _, a := range answers {
			status.Masters = append(status.Masters, MasterStatus{Name: a.master.Name, Address: hostOf(a.master.GRPC), Role: "unknown", Reason: access.Brief(a.err)})
		}
	} else {
		status.fill(best.status, answers)
	}
	status.addNodes(ctx, found, best, id)
	status.addComponents(ctx, id)
	if best != nil {
		status.Warnings = append(status.Warnings, pausedLoops(ctx, found, best.status)...)
		learn(found, best.status, status.Nodes)
	}
	return status, nil
}

const statusTimeout = 1500 * time.Millisecond

func askMasters(ctx context.Context, masters []access.Master, id *pki.Identity) []answer {
	answers := make([]answer, len(masters))
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	var wait sync.WaitGroup
	for i, master := range masters {
		wait.Go(func() {
			answers[i] = answer{master: master}
			conn, err := rpc.Dial(master.GRPC, id)
			if err != nil {
				answers[i].err = err
				return
			}
			defer func() { _ = conn.Close() }()
			answers[i].status, answers[i].err = mastersv1pb.NewMastersServiceClient(conn).Status(ctx, &mastersv1pb.StatusRequest{})
		})
	}
	wait.Wait()
	return answers
}

// bestAnswer is that of the highest epoch which knows a leader.
func bestAnswer(answers []answer) *answer {
	var best *answer
	for i := range answers {
		a := &answers[i]
		if a.err != nil {
			continue
		}
		if best == nil || a.status.GetLeader() != "" && (best.status.GetLeader() == "" || a.status.GetEpoch() > best.status.GetEpoch()) {
			best = a
		}
	}
	return best
}

func (s *Status) fill(from *mastersv1pb.StatusResponse, answers []answer) {
	s.ClusterID, s.Leader, s.Epoch, s.LeaderChanges = from.GetClusterId(), from.GetLeader(), from.GetEpoch(), from.GetLeaderChanges()
	if q := from.GetQuorum(); q != nil {
		s.FailuresTolerated = &q.Tolerated
	}
	for _, c := range from.GetLastLeaderChanges() {
		s.LastLeaderChanges = append(s.LastLeaderChanges, LeaderChange{Time: c.GetTime().AsTime(), From: c.GetFrom(), To: c.GetTo(), Reason: c.GetReason()})
	}
	s.Generation, s.Warnings = from.GetGeneration(), append(s.Warnings, from.GetWarnings()...)
	s.VirtualAddresses = virtualAddresses(from)
	if interval := from.GetSnapshots().GetInterval().AsDuration(); interval > 0 {
		s.Snapshots = &SnapshotsStatus{IntervalSeconds: int64(interval.Seconds()), Error: from.GetSnapshots().GetError()}
		if last := from.GetSnapshots().GetLast(); last != nil {
			s.Snapshots.Last = snapshotStatus(last)
		}
	}
	for _, member := range from.GetMembers() {
		one := masterStatus(from, member, answers)
		s.Masters = append(s.Masters, one)
		if member.GetRole() == mastersv1pb.MemberRole_MEMBER_ROLE_VOTER {
			s.Voters = append(s.Voters, one.Name)
		}
		if member.GetEtcdLeader() {
			s.Etcd.Leader = one.Name
		}
		s.Etcd.Revision = max(s.Etcd.Revision, member.GetAppliedRevision())
		s.Etcd.DatabaseBytes = max(s.Etcd.DatabaseBytes, member.GetDatabaseBytes())
		s.Etcd.InUseBytes = max(s.Etcd.InUseBytes, member.GetDatabaseInUseBytes())
		if limit := member.GetDatabaseLimitBytes(); limit > 0 && (s.Etcd.LimitBytes == 0 || limit < s.Etcd.LimitBytes) {
			s.Etcd.LimitBytes = limit
		}
	}
	s.addLag()
}

// masterStatus is a member as the answering master and we see it.
func masterStatus(from *mastersv1pb.StatusResponse, member *mastersv1pb.Member, answers []answer) MasterStatus {
	one := MasterStatus{
		Name: member.GetName(), Address: hostOf(member.GetGrpcAddress()), Alive: member.GetAlive(),
		Role: roleText(member.GetRole()), DiskSeconds: member.GetDiskLatency().AsDuration().Seconds(),
		// The leader's name decides: a member record may be a moment older.
		Leader: member.GetName() == from.GetLeader(), Revision: member.GetAppliedRevision(),
	}
	if end := member.GetCertificateNotAfter(); end != nil {
		at := end.AsTime()
		one.CertificateEnd = &at
	}
	for _, a := range answers { // what we see ourselves is newer
		if a.master.Name == one.Name {
			if one.Alive = a.err == nil; !one.Alive {
				one.Reason = access.Brief(a.err)
			}
		}
	}
	if !one.Alive && one.Reason == "" {
		one.Reason = "not reached since " + time.Since(member.GetLastSeen().AsTime()).Round(time.Second).String()
	}
	return one
}

// addLag says of each master how far it is behind the leader, or else behind the newest.
func (s *Status) addLag() {
	newest := s.Etcd.Revision
	for _, m := range s.Masters {
		if m.Leader {
			newest = m.Revision
		}
	}
	for i := range s.Masters {
		s.Masters[i].Lag = max(newest-s.Masters[i].Revision, 0)
	}
}

// addNodes lists the nodes by a master, or those known from before.
func (s *Status) addNodes(ctx context.Context, found *access.Access, best *answer, id *pki.Identity) {
	err := errors.New("no master answers")
	if best != nil {
		var nodes []*corev1.Node
		if nodes, err = listNodes(ctx, best.master, id); err == nil {
			for _, node := range nodes {
				one := NodeStatus{Name: node.Name, Address: addressOf(node), PodCIDR: node.Spec.PodCIDR}
				if reason := install.NodeReady(node); reason != nil {
					one.Reason = reason.Error()
				} else {
					one.Ready = true
				}
				s.Nodes = append(s.Nodes, one)
			}
			return
		}
	}
	for _, master := range found.Cluster.Masters {
		s.Nodes = append(s.Nodes, NodeStatus{Name: master.Name, Address: hostOf(master.GRPC), Reason: "unknown: " + access.Brief(err)})
	}
	for _, node := range found.Cluster.Nodes {
		s.Nodes = append(s.Nodes, NodeStatus{Name: node.Name, Address: node.Address, Reason: "unknown: " + access.Brief(err)})
	}
}

func listNodes(ctx context.Context, master access.Master, id *pki.Identity) ([]*corev1.Node, error) {
	conn, err := rpc.Dial(master.GRPC, id)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	page, err := client.List[*corev1.Node](ctx, client.New(conn), client.ListOptions{})
	return page.Items, err
}

func addressOf(node *corev1.Node) string {
	for _, address := range node.Status.Addresses {
		if address.Type == corev1.NodeInternalIP {
			return address.Address
		}
	}
	return ""
}

// addComponents asks every program of every machine for its health.
func (s *Status) addComponents(ctx context.Context, id *pki.Identity) {
	type target struct {
		machine  string
		endpoint install.Endpoint
	}
	var targets []target
	for _, node := range s.Nodes {
		if node.Address == "" {
			continue
		}
		master := slices.ContainsFunc(s.Masters, func(m MasterStatus) bool { return m.Name == node.Name })
		for _, endpoint := range install.Endpoints(master, node.Name, node.Address) {
			targets = append(targets, target{node.Name, endpoint})
		}
	}
	s.Components = make([]ComponentStatus, len(targets))
	var wait sync.WaitGroup
	for i, t := range targets {
		wait.Go(func() {
			s.Components[i] = ComponentStatus{Machine: t.machine, Component: t.endpoint.Component, Healthy: true}
			if err := install.Health(ctx, t.endpoint, id); err != nil {
				s.Components[i].Healthy, s.Components[i].Reason = false, err.Error()
			}
		})
	}
	wait.Wait()
}

// learn remembers masters and nodes for the time when none answers. Not being able to
// is no failure of status.
func learn(found *access.Access, from *mastersv1pb.StatusResponse, known []NodeStatus) {
	var masters []access.Master
	for _, member := range from.GetMembers() {
		masters = append(masters, access.Master{Name: member.GetName(), GRPC: member.GetGrpcAddress(), REST: member.GetRestAddress()})
	}
	var nodes []access.Node
	for _, node := range known {
		if !slices.ContainsFunc(masters, func(m access.Master) bool { return m.Name == node.Name }) {
			nodes = append(nodes, access.Node{Name: node.Name, Address: node.Address})
		}
	}
	changed := found.Learn(masters, nodes)
	if doors := access.Doors(from.GetVirtualAddresses()); !slices.Equal(doors, found.Cluster.VIP) {
		found.Cluster.VIP, changed = doors, true
	}
	if !changed {
		return
	}
	if owner, err := access.OwnerOf(found.Dir); err == nil {
		_ = found.Save(owner)
	}
}

func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return host
}
