package masters

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"kijabi.dev/platform/atomicfile"
	"kijabi.dev/platform/lifecycle"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"
)

// A group's generation counts how often it was made anew by a restoration or a recovery. It
// belongs to raft's data and lies in a file beside it; without one it is 0. Masters of
// different generations do not speak raft with each other, and who hears of a newer generation
// of its own cluster gives its data up for that (docs/decisions/recovery-makes-a-new-generation.md).
const generationFile = "generation"

const (
	// successorPoll is how often a master that misses others asks them for their generation.
	successorPoll = 2 * time.Second
	// successorTimeout bounds the answers.
	successorTimeout = time.Second
)

// Superseded is the error of a master whose group goes on without it in a newer generation.
type Superseded struct {
	// Generation of the group now, and the master that said so, with its peer address.
	Generation  uint64
	By, Address string
}

// Error implements error.
func (s *Superseded) Error() string {
	return fmt.Sprintf("the masters were restored or recovered without this one: %s (%s) has generation %d of the cluster", s.By, s.Address, s.Generation)
}

// Data is what raft's data directory holds.
type Data struct {
	ClusterID  string
	Generation uint64
	Members    []Member
}

// ReadData reads raft's data of a master that does not run; it is zero when there is none.
func ReadData(dir string) (_ Data, err error) {
	if !Exists(dir) {
		return Data{}, nil
	}
	logs, err := openLog(dir)
	if err != nil {
		return Data{}, err
	}
	defer func() { err = errors.Join(err, logs.Close()) }()
	r := newRoster()
	from, err := readSnapshot(dir, r)
	if err != nil {
		return Data{}, err
	}
	last, err := logs.LastIndex()
	if err != nil {
		return Data{}, err
	}
	for index := from + 1; index <= last; index++ {
		var entry raft.Log
		if err := logs.GetLog(index, &entry); err != nil {
			return Data{}, fmt.Errorf("entry %d of raft's log: %w", index, err)
		}
		if entry.Type == raft.LogCommand {
			_ = r.Apply(&entry) // what it refused then, it refuses now
		}
	}
	generation, err := readGeneration(dir)
	return Data{ClusterID: r.cluster(), Generation: generation, Members: r.list()}, err
}

// readSnapshot restores the newest readable snapshot and returns its index.
func readSnapshot(dir string, r *roster) (uint64, error) {
	snapshots, err := raft.NewFileSnapshotStore(filepath.Join(dir, "raft"), 2, io.Discard)
	if err != nil {
		return 0, fmt.Errorf("raft's snapshots: %w", err)
	}
	all, err := snapshots.List()
	if err != nil || len(all) == 0 {
		return 0, err
	}
	_, content, err := snapshots.Open(all[0].ID)
	if err != nil {
		return 0, fmt.Errorf("raft's snapshot: %w", err)
	}
	return all[0].Index, r.Restore(content)
}

func readGeneration(dir string) (uint64, error) {
	text, err := os.ReadFile(filepath.Join(dir, generationFile))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("generation of the masters: %w", err)
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("generation of the masters in %s: %w", dir, err)
	}
	return n, nil
}

// SetGeneration notes which generation the data of a master that joins will belong to.
func SetGeneration(dir string, generation uint64) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("generation of the masters: %w", err)
	}
	return atomicfile.Write(filepath.Join(dir, generationFile), strconv.AppendUint(nil, generation, 10), 0o600)
}

// Founding says what Found makes; all fields are required.
type Founding struct {
	// Dir is empty, or does not exist.
	Dir               string
	Name, PeerAddress string
	ClusterID         string
	Generation        uint64
}

// Found makes raft's data of a group of one.
func Found(f Founding) (err error) {
	if err := SetGeneration(f.Dir, f.Generation); err != nil {
		return err
	}
	logs, err := openLog(f.Dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, logs.Close()) }()
	snapshots, err := raft.NewFileSnapshotStore(filepath.Join(f.Dir, "raft"), 2, io.Discard)
	if err != nil {
		return fmt.Errorf("raft's snapshots: %w", err)
	}
	r := newRoster()
	r.clusterID = f.ClusterID
	content, err := r.Snapshot()
	if err != nil {
		return err
	}
	alone := raft.Configuration{Servers: []raft.Server{{ID: raft.ServerID(f.Name), Address: raft.ServerAddress(f.PeerAddress)}}}
	// As if the configuration had been committed as the first entry of the first term.
	sink, err := snapshots.Create(raft.SnapshotVersionMax, 1, 1, alone, 1, newTransport(f.PeerAddress, nil, nil))
	if err != nil {
		return fmt.Errorf("raft's snapshot: %w", err)
	}
	if err := content.Persist(sink); err != nil {
		return err
	}
	return logs.SetUint64([]byte("CurrentTerm"), 1)
}

// Generation of this master's group.
func (m *Masters) Generation() uint64 { return m.transport.generation }

// checkGeneration refuses what a master of another generation sends.
func (m *Masters) checkGeneration(theirs uint64) error {
	if own := m.Generation(); theirs != own {
		return fmt.Errorf("the masters were restored or recovered: this one has generation %d, the sender %d", own, theirs)
	}
	return nil
}

// noticeSuccessor ends Run with Superseded when another master of the roster belongs to a newer
// generation. Only those are asked that are missed: of one that is alive this one would know.
func (m *Masters) noticeSuccessor(ctx context.Context) error {
	for {
		var missed []string
		for _, member := range m.roster.list() {
			if !m.alive(member.Name) {
				missed = append(missed, member.PeerAddress)
			}
		}
		if newer := FindSuccessor(ctx, m.cfg.ClusterID, m.Generation(), missed, m.cfg.Dial); newer != nil {
			return newer
		}
		if m.cfg.Etcd == nil && m.disowned(ctx, missed) {
			return ErrRemoved
		}
		select {
		case <-ctx.Done():
			return nil
		case <-m.cfg.Clock.After(lifecycle.UntilBeat(m.cfg.Clock.Now(), successorPoll)):
		}
	}
}

// FindSuccessor asks the given masters at once whether the cluster goes on in a newer generation;
// nil when none says so. The answer is believed because dial trusts masters of the cluster only.
func FindSuccessor(ctx context.Context, clusterID string, generation uint64, addresses []string, dial Dial) *Superseded {
	ctx, cancel := context.WithTimeout(ctx, successorTimeout)
	defer cancel()
	conns := newConns(dial)
	defer conns.close()
	answers := make([]*Superseded, len(addresses))
	var asked sync.WaitGroup
	for i, address := range addresses {
		asked.Go(func() {
			conn, err := conns.get(address)
			if err != nil {
				return
			}
			status, err := mastersv1pb.NewMastersServiceClient(conn).Status(ctx, &mastersv1pb.StatusRequest{}, grpc.WaitForReady(false))
			if err != nil || status.GetClusterId() == "" || status.GetClusterId() != clusterID || status.GetGeneration() <= generation {
				return
			}
			answers[i] = &Superseded{Generation: status.GetGeneration(), By: status.GetAnsweredBy(), Address: address}
		})
	}
	asked.Wait()
	var newest *Superseded
	for _, answer := range answers {
		if answer != nil && (newest == nil || answer.Generation > newest.Generation) {
			newest = answer
		}
	}
	return newest
}

// AwaitSuccessor asks again and again until one says so, and returns it; nil when ctx ends.
func AwaitSuccessor(ctx context.Context, clusterID string, generation uint64, addresses []string, dial Dial, log *zap.Logger) *Superseded {
	for {
		if newer := FindSuccessor(ctx, clusterID, generation, addresses, dial); newer != nil {
			log.Warn("superseded", zap.Error(newer))
			return newer
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(lifecycle.UntilBeat(time.Now(), successorPoll)):
		}
	}
}
