package masters

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"kijabi.dev/platform/lifecycle"
	peerv1pb "kijabi.dev/proto/gen/kijabi/peer/v1"
)

const (
	reportInterval = 500 * time.Millisecond
	reportTimeout  = 2 * time.Second
	// aliveWindow is how recently a master must have been reached to count as alive.
	aliveWindow = 2 * time.Second
)

// peers is what this master knows of the others, by name.
type peers struct {
	mu      sync.Mutex
	known   map[string]peer
	asking  map[string]bool
	streams map[string]int // component to open leader streams here
}

// peer is another master's last report.
type peer struct {
	report *peerv1pb.ReportRequest
	at     time.Time
}

func newPeers() *peers {
	return &peers{known: map[string]peer{}, asking: map[string]bool{}, streams: map[string]int{}}
}

func (p *peers) get(name string) (peer, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	known, found := p.known[name]
	return known, found
}

// components lists the programs beside this master that hold a leader stream.
func (p *peers) components() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(maps.Keys(p.streams))
}

// Attach notes that a component of this machine holds a leader stream, until the
// returned function is called.
func (m *Masters) Attach(component string) (detach func()) {
	p := m.peers
	p.mu.Lock()
	defer p.mu.Unlock()
	p.streams[component]++
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.streams[component]--; p.streams[component] == 0 {
			delete(p.streams, component)
		}
	}
}

// ownReport is what this master tells the others.
func (m *Masters) ownReport() *peerv1pb.ReportRequest {
	now := m.cfg.Clock.Now()
	report := &peerv1pb.ReportRequest{
		Name: m.cfg.Name, AppliedRevision: m.cfg.Store.Revision(),
		Components: m.peers.components(), Nodes: m.directory.report(),
		Time: timestamppb.New(now), Uptime: durationpb.New(now.Sub(m.started)), Handover: m.handover.Load(),
	}
	if m.cfg.Etcd != nil {
		status := m.cfg.Etcd.Status()
		report.DatabaseBytes, report.EtcdId = status.DatabaseBytes, etcdID(status.ID)
		report.EtcdLeader = status.Leader != 0 && status.Leader == status.ID
	} else {
		report.DatabaseBytes = m.cfg.Separate.DatabaseBytes()
	}
	if latency := m.disk.latency(now); latency > 0 {
		report.DiskLatency = durationpb.New(latency)
	}
	if m.cfg.CertificateEnd != nil {
		report.CertificateNotAfter = timestamppb.New(m.cfg.CertificateEnd())
	}
	if m.cfg.VirtualAddresses != nil {
		report.VirtualAddresses = m.cfg.VirtualAddresses()
	}
	m.reportCare(report)
	return report
}

// Report takes another master's report and answers with this one's.
func (m *Masters) Report(from *peerv1pb.ReportRequest) (*peerv1pb.ReportRequest, error) {
	if _, known := m.roster.get(from.GetName()); !known {
		return nil, fmt.Errorf("%w: %s", ErrUnknownMember, from.GetName())
	}
	m.heard(from)
	return m.ownReport(), nil
}

// heard keeps a report.
func (m *Masters) heard(r *peerv1pb.ReportRequest) {
	m.peers.mu.Lock()
	now := m.cfg.Clock.Now()
	m.peers.known[r.GetName()] = peer{report: r, at: now}
	m.peers.mu.Unlock()
	m.history.explain(r, now)
	m.directory.learn(r.GetName(), r.GetNodes())
}

// exchangeReports keeps all masters informed until ctx ends.
func (m *Masters) exchangeReports(ctx context.Context) error {
	group := lifecycle.NewGroup(ctx)
	for ctx.Err() == nil {
		for _, other := range m.roster.list() {
			if other.Name != m.cfg.Name {
				m.ask(group, other)
			}
		}
		m.forgetFormer()
		select {
		case <-ctx.Done():
		case <-m.cfg.Clock.After(lifecycle.UntilBeat(m.cfg.Clock.Now(), reportInterval)):
		case <-m.directory.news:
		}
	}
	group.Cancel()
	return group.Wait()
}

// ask exchanges reports with one master, unless that is already under way.
func (m *Masters) ask(group *lifecycle.Group, other Member) {
	m.peers.mu.Lock()
	busy := m.peers.asking[other.Name]
	m.peers.asking[other.Name] = true
	m.peers.mu.Unlock()
	if busy {
		return
	}
	group.Go(func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, reportTimeout)
		defer cancel()
		m.askOnce(ctx, other)
		m.peers.mu.Lock()
		delete(m.peers.asking, other.Name)
		m.peers.mu.Unlock()
		return nil
	})
}

func (m *Masters) askOnce(ctx context.Context, other Member) {
	var answer *peerv1pb.ReportResponse
	conn, err := m.conns.get(other.PeerAddress)
	if err == nil {
		// A connection in back-off is waited for: the next report comes soon enough.
		answer, err = peerv1pb.NewPeerServiceClient(conn).Report(ctx, m.ownReport(), grpc.WaitForReady(true))
	}
	if err != nil || answer.GetReport() == nil {
		if known, found := m.peers.get(other.Name); !found || m.cfg.Clock.Since(known.at) > aliveWindow {
			m.directory.lost(other.Name)
		}
		return
	}
	m.heard(answer.GetReport())
}

// reach says whether a master answers now.
func (m *Masters) reach(ctx context.Context, other Member) bool {
	if other.Name == m.cfg.Name {
		return true
	}
	conn, err := m.conns.get(other.PeerAddress)
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	answer, err := peerv1pb.NewPeerServiceClient(conn).Report(ctx, m.ownReport())
	if err != nil {
		return false
	}
	m.heard(answer.GetReport())
	return true
}

// forgetFormer drops what is known of masters that left.
func (m *Masters) forgetFormer() {
	m.peers.mu.Lock()
	var gone []string
	for name := range m.peers.known {
		if _, member := m.roster.get(name); !member {
			delete(m.peers.known, name)
			gone = append(gone, name)
		}
	}
	m.peers.mu.Unlock()
	for _, name := range gone {
		m.directory.forget(name)
	}
}

// alive says whether a master has been reached within the last seconds.
func (m *Masters) alive(name string) bool {
	if name == m.cfg.Name {
		return true
	}
	known, found := m.peers.get(name)
	return found && m.cfg.Clock.Since(known.at) <= aliveWindow
}
