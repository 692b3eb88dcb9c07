package masters

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"
	"k8s.io/utils/clock"

	"kijabi.dev/platform/lifecycle"
)

const (
	probeInterval = 500 * time.Millisecond
	// diskInterval is longer: a probe of the disk is a write that waits for it.
	diskInterval = time.Second
	// provenWithin is how recently a leader must have proven that it can write to etcd.
	provenWithin = 2 * time.Second
	// diskWithin is the same for its disk.
	diskWithin = 5 * time.Second
	// diskIdle is how often a master that does not lead measures its disk.
	diskIdle = 10 * time.Second
	// abandonAfter is how long a leader that cannot prove that it can lead may take to hand over.
	abandonAfter = 2 * handOverTimeout
	// firstGrace is how long a new leader may take to open for writes.
	firstGrace = 5 * time.Second
)

// probe is one proof that a leader must keep giving, and when it last did.
type probe struct {
	name   string
	every  time.Duration
	within time.Duration
	prove  func(ctx context.Context) error
	passed atomic.Int64 // clock time in nanoseconds
}

// watch proves that this leader can lead, and hands over when it cannot. Probes run beside each
// other and may hang without being waited for.
func (m *Masters) watch(ctx context.Context) error {
	probes := []*probe{
		{name: "etcd", every: probeInterval, within: provenWithin, prove: m.proveWrite},
		{name: "disk", every: diskInterval, within: diskWithin, prove: m.proveDisk},
		{name: "raft", every: probeInterval, within: provenWithin, prove: func(context.Context) error { return m.raft.VerifyLeader().Error() }},
	}
	group := lifecycle.NewGroup(ctx)
	begin := m.cfg.Clock.Now().Add(firstGrace - provenWithin)
	for _, p := range probes {
		p.passed.Store(begin.UnixNano())
		group.Go(func(ctx context.Context) error { return m.repeat(ctx, p) })
	}
	group.Go(func(ctx context.Context) error { return m.judge(ctx, probes) })
	return await(ctx, group, m.cfg.Clock)
}

// await waits for the tasks of a group, but not for one that is hung in the kernel: a failure
// of another must be reported all the same.
func await(ctx context.Context, group *lifecycle.Group, clk clock.Clock) error {
	done := make(chan error, 1)
	waiter := lifecycle.NewGroup(ctx)
	waiter.Go(func(context.Context) error { done <- group.Wait(); return nil })
	select {
	case err := <-done:
		return err
	case <-group.Context().Done():
	}
	select {
	case err := <-done:
		return err
	case <-clk.After(handOverTimeout):
		if ctx.Err() != nil {
			return nil
		}
		return errCannotLead
	}
}

func (m *Masters) repeat(ctx context.Context, p *probe) error {
	for {
		m.beat(ctx, p.every)
		if ctx.Err() != nil {
			return nil
		}
		began := m.cfg.Clock.Now()
		if err := p.prove(ctx); err == nil {
			p.passed.Store(began.UnixNano())
		} else if ctx.Err() == nil {
			m.log.Warn("leader's probe failed", zap.String("probe", p.name), zap.Error(err))
		}
	}
}

// judge hands over when a probe is overdue or components are missing for too long.
func (m *Masters) judge(ctx context.Context, probes []*probe) error {
	complete := m.cfg.Clock.Now()
	for {
		m.beat(ctx, probeInterval)
		if ctx.Err() != nil {
			return nil
		}
		now := m.cfg.Clock.Now()
		for _, p := range probes {
			overdue := now.Sub(time.Unix(0, p.passed.Load()))
			if overdue <= p.within {
				continue
			}
			m.log.Error("cannot prove that this leader can lead", zap.String("probe", p.name), zap.Duration("for", overdue))
			if err := m.mustHandOver(ctx, p.name); err != nil {
				return err
			}
			p.passed.Store(now.UnixNano()) // tried; try again after another interval
		}
		if m.complete(m.peers.components()) {
			complete = now
		} else if now.Sub(complete) > m.cfg.ComponentGrace {
			complete = now
			m.leaveToComplete(ctx)
		}
	}
}

// mustHandOver gives leadership away. A lone voter keeps trying instead: there is nobody better.
//
// A disk that hangs can hang raft as well, all of it but the heartbeats, for which the others would
// wait in vain; then nothing here comes to an end, and the process has to.
func (m *Masters) mustHandOver(ctx context.Context, probe string) error {
	if !m.hasOtherVoters() {
		return nil
	}
	if _, noHeir := m.successor(""); noHeir != nil {
		return nil // raft's lease will end the leadership if nobody is there
	}
	end := time.AfterFunc(abandonAfter, m.cfg.Abandon)
	ctx, cancel := context.WithTimeout(ctx, handOverTimeout)
	defer cancel()
	err := m.handOver(ctx, "", "handed over: "+probe)
	if err == nil || m.raft.State() != raft.Leader {
		end.Stop()
		return nil
	}
	if _, noHeir := m.successor(""); noHeir != nil {
		end.Stop()
		return nil
	}
	return fmt.Errorf("%w: %w", errCannotLead, err)
}

// proveWrite shows that the store is open and its epoch current.
func (m *Masters) proveWrite(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, provenWithin)
	defer cancel()
	if term := m.cfg.Store.Term(); !term.Leading {
		return fmt.Errorf("not open for writes; epoch %d belongs to %q", term.Epoch, term.Holder)
	}
	return m.cfg.Store.Fresh(ctx)
}

// proveDisk writes and syncs a file beside the data.
func (m *Masters) proveDisk(context.Context) error {
	defer m.disk.measure(m.cfg.Clock.Now)()
	f, err := os.Create(filepath.Join(m.cfg.Dir, "probe"))
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if _, err := f.WriteString(m.cfg.Clock.Now().String()); err != nil {
		return err
	}
	return f.Sync()
}

// timeDisk measures the disk while this master does not lead: a leader's watch does.
func (m *Masters) timeDisk(ctx context.Context) error {
	group := lifecycle.NewGroup(ctx)
	group.Go(func(ctx context.Context) error {
		for ctx.Err() == nil {
			if m.raft.State() != raft.Leader {
				if err := m.proveDisk(ctx); err != nil {
					m.log.Warn("the disk cannot be written to", zap.Error(err))
				}
			}
			m.beat(ctx, diskIdle)
		}
		return nil
	})
	return await(ctx, group, m.cfg.Clock)
}

// diskTimes is how long the last proof of the disk took.
type diskTimes struct {
	took  atomic.Int64 // nanoseconds; 0 if none was made
	began atomic.Int64 // clock time in nanoseconds of the one under way, 0 if none is
}

// measure begins a proof; the function that it returns ends it.
func (d *diskTimes) measure(now func() time.Time) (end func()) {
	began := now()
	d.began.Store(began.UnixNano())
	return func() {
		d.began.Store(0)
		d.took.Store(int64(now().Sub(began)))
	}
}

// latency is the last proof's time, or that of the one under way if it is longer already; 0 if
// there is none.
func (d *diskTimes) latency(now time.Time) time.Duration {
	took := time.Duration(d.took.Load())
	if began := d.began.Load(); began != 0 {
		took = max(took, now.Sub(time.Unix(0, began)))
	}
	return took
}

// missing lists the expected components that are not among the given.
func (m *Masters) missing(components []string) []string {
	var missing []string
	for _, c := range m.cfg.Components {
		if !slices.Contains(components, c) {
			missing = append(missing, c)
		}
	}
	return missing
}

// complete says whether all expected components are among the given.
func (m *Masters) complete(components []string) bool { return len(m.missing(components)) == 0 }

// leaveToComplete hands over to a living voter that has all components, if there is one.
func (m *Masters) leaveToComplete(ctx context.Context) {
	heir, err := m.successor("")
	if err != nil {
		return
	}
	if known, _ := m.peers.get(heir.Name); !m.complete(known.report.GetComponents()) {
		return
	}
	missing := m.missing(m.peers.components())
	m.log.Warn("components are missing here, handing over", zap.Strings("missing", missing), zap.String("to", heir.Name))
	ctx, cancel := context.WithTimeout(ctx, handOverTimeout)
	defer cancel()
	if err := m.handOver(ctx, heir.Name, "handed over: without "+strings.Join(missing, ", ")); err != nil {
		m.log.Warn("could not hand over", zap.Error(err))
	}
}
