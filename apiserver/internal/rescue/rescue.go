// Package rescue makes a master's data anew while its programs do not run: from a snapshot, or
// from what the master itself has, when the others are lost. The data that was there is moved
// aside, never removed.
package rescue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.uber.org/zap"

	"kijabi.dev/apiserver/internal/datadir"
	"kijabi.dev/apiserver/internal/etcdnode"
	"kijabi.dev/apiserver/internal/masters"
	"kijabi.dev/apiserver/internal/snapshot"
	"kijabi.dev/apiserver/internal/storage/sealed"
)

const (
	// asidePrefix begins the name of a folder that data was moved aside to; the time follows.
	asidePrefix = "aside-"
	asideTime   = "20060102T150405Z"
	// workDir in a data directory holds what is being made; a former attempt's is removed.
	workDir = "rescue"
)

// A restored cluster's revision must lie above all that were ever given. Each generation lies
// generationBump above the one before: as far as etcd recommends, and further than a cluster
// writes in years. A machine that knows nothing of the generations that came after a snapshot's
// goes by the time since, at a rate beyond what can be written. The store's versions have room
// for 2·10^15 revisions.
const (
	generationBump = 1_000_000_000
	bumpPerSecond  = 10_000
)

// source is what the new data is made of.
type source struct {
	file       string
	revision   int64
	generation uint64
	// age is how long ago the database was copied.
	age time.Duration
}

// bump is how far the revision of a new generation lies above the source's.
func (s source) bump(generation uint64) uint64 {
	return (generation-s.generation)*generationBump + uint64(max(0, s.age.Seconds()))*bumpPerSecond
}

// Place is where a master's data is, and who it is; all fields are required.
type Place struct {
	Name, ClusterID      string
	PeerAddress, PeerURL string
	// EtcdDir and RaftDir are the data directories.
	EtcdDir, RaftDir string
	// Now names folders.
	Now time.Time
	Log *zap.Logger
}

// Outcome of a restoration or recovery.
type Outcome struct {
	// Revision of the data that the cluster goes on from; 0 if that is in a separate etcd, as it was.
	Revision int64 `json:"revision"`
	// Generation of the masters from now on.
	Generation uint64 `json:"generation"`
	// GivenUp are the other masters of the former group.
	GivenUp []string `json:"givenUp,omitempty"`
	// Aside are the folders that the former data was moved to.
	Aside []string `json:"aside,omitempty"`
}

// FromSnapshot makes this master the only one of the cluster, with a snapshot's objects.
func FromSnapshot(p Place, r io.Reader, keys *sealed.Keys) (*Outcome, error) {
	work, err := p.work()
	if err != nil {
		return nil, err
	}
	file, header, err := snapshot.Extract(r, keys, work)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(work))
	}
	if header.ClusterID != p.ClusterID {
		err := fmt.Errorf("the snapshot is of the cluster %s, this master belongs to %s", header.ClusterID, p.ClusterID)
		return nil, errors.Join(err, os.RemoveAll(work))
	}
	return p.finish(source{file: file, revision: header.Revision, generation: header.Generation, age: p.Now.Sub(header.Time)})
}

// FromMember makes this master the only one of the cluster, with all that its own data and
// log hold.
func FromMember(ctx context.Context, p Place) (*Outcome, error) {
	if !etcdnode.Exists(p.EtcdDir) {
		return nil, fmt.Errorf("%s holds no data to recover from: use a snapshot, or another master", p.EtcdDir)
	}
	former, err := masters.ReadData(p.RaftDir)
	if err != nil {
		return nil, fmt.Errorf("%w; the apiserver must be stopped", err)
	}
	work, err := p.work()
	if err != nil {
		return nil, err
	}
	file := filepath.Join(work, "salvaged.db")
	revision, err := etcdnode.Salvage(ctx, p.EtcdDir, filepath.Join(work, "copy"), file, p.Log)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(work))
	}
	return p.finish(source{file: file, revision: revision, generation: former.Generation})
}

// FromSeparate makes this master the only one of its cluster, whose data is in a separate etcd and
// stays as it is. EtcdDir and PeerURL of the place are empty.
func FromSeparate(p Place) (_ *Outcome, err error) {
	if !masters.Exists(p.RaftDir) {
		return nil, fmt.Errorf("%s holds no data of a master: use another one", p.RaftDir)
	}
	raftWork := filepath.Join(p.RaftDir, workDir)
	defer func() { err = errors.Join(err, os.RemoveAll(raftWork)) }()
	out, err := p.found(raftWork, 0)
	if err != nil {
		return nil, err
	}
	if out.Aside, err = MoveAside(p.EtcdDir, p.RaftDir, p.Now); err != nil {
		return nil, err
	}
	if err := moveInto(raftWork, p.RaftDir); err != nil {
		return nil, fmt.Errorf("put the new data in place: %w; the former is in %s", err, strings.Join(out.Aside, " and "))
	}
	return out, nil
}

// ForSeparate writes the database of a snapshot to a file in dir, which is made, for a separate etcd to be
// restored from. Bump is how far that must lie above the snapshot's revision.
func ForSeparate(p Place, r io.Reader, keys *sealed.Keys, dir string) (file string, bump uint64, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", 0, fmt.Errorf("directory for the snapshot's database: %w", err)
	}
	file, header, err := snapshot.Extract(r, keys, dir)
	if err == nil && header.ClusterID != p.ClusterID {
		err = fmt.Errorf("the snapshot is of the cluster %s, this master belongs to %s", header.ClusterID, p.ClusterID)
	}
	if err != nil {
		return "", 0, errors.Join(err, os.RemoveAll(dir))
	}
	named := filepath.Join(dir, "snapshot.db")
	if err := os.Rename(file, named); err != nil {
		return "", 0, fmt.Errorf("the snapshot's database: %w", err)
	}
	from := source{revision: header.Revision, generation: header.Generation, age: p.Now.Sub(header.Time)}
	return named, from.bump(header.Generation + 1), nil
}

// found makes raft's data of the next generation, after the former and the given one, in an own
// directory.
func (p Place) found(dir string, generation uint64) (*Outcome, error) {
	former, err := masters.ReadData(p.RaftDir)
	if err != nil {
		return nil, fmt.Errorf("%w; the apiserver must be stopped", err)
	}
	out := &Outcome{Generation: max(former.Generation, generation) + 1}
	for _, member := range former.Members {
		if member.Name != p.Name {
			out.GivenUp = append(out.GivenUp, member.Name)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return nil, fmt.Errorf("directory to work in: %w", err)
	}
	return out, masters.Found(masters.Founding{
		Dir: dir, Name: p.Name, PeerAddress: p.PeerAddress, ClusterID: p.ClusterID, Generation: out.Generation,
	})
}

// work returns an empty directory on the file system of etcd's data.
func (p Place) work() (string, error) {
	dir := filepath.Join(p.EtcdDir, workDir)
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
		return "", fmt.Errorf("directory to work in: %w", err)
	}
	return dir, nil
}

// finish makes both groups of a database and puts them in place of the present data. Until
// it begins with that, a failure changes nothing.
func (p Place) finish(from source) (_ *Outcome, err error) {
	work, raftWork := filepath.Join(p.EtcdDir, workDir), filepath.Join(p.RaftDir, workDir)
	defer func() { err = errors.Join(err, os.RemoveAll(work), os.RemoveAll(raftWork)) }()
	out, err := p.found(raftWork, from.generation)
	if err != nil {
		return nil, err
	}
	out.Revision = from.revision
	made := filepath.Join(work, "new")
	if err := etcdnode.Restore(etcdnode.RestoreConfig{
		Database: from.file, Name: p.Name, Dir: made, PeerURL: p.PeerURL,
		ClusterToken: fmt.Sprintf("%s/%d", p.ClusterID, out.Generation), Bump: from.bump(out.Generation), Log: p.Log,
	}); err != nil {
		return nil, err
	}
	out.Aside, err = MoveAside(p.EtcdDir, p.RaftDir, p.Now)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(moveInto(made, p.EtcdDir), moveInto(raftWork, p.RaftDir)); err != nil {
		return nil, fmt.Errorf("put the new data in place: %w; the former is in %s", err, strings.Join(out.Aside, " and "))
	}
	return out, nil
}

// MoveAside moves a master's data to a folder within each of its two directories, named by the
// time, and returns the folders. Directories without data are left alone. The master must not run.
func MoveAside(etcdDir, raftDir string, now time.Time) ([]string, error) {
	return moveAside(etcdDir, raftDir, asidePrefix+now.UTC().Format(asideTime))
}

// damagedSuffix ends the name of a folder with data that was given up because it was damaged.
const damagedSuffix = "-damaged"

// GiveUp moves data aside that is damaged, as MoveAside does, and removes what was given up before
// for the same reason: that of one time is enough to look into.
func GiveUp(etcdDir, raftDir string, now time.Time) ([]string, error) {
	for _, dir := range dataDirs(etcdDir, raftDir) {
		former, err := filepath.Glob(filepath.Join(dir, asidePrefix+"*"+damagedSuffix))
		if err != nil {
			return nil, err
		}
		for _, folder := range former {
			if err := os.RemoveAll(folder); err != nil {
				return nil, fmt.Errorf("remove data that was given up before: %w", err)
			}
		}
	}
	return moveAside(etcdDir, raftDir, asidePrefix+now.UTC().Format(asideTime)+damagedSuffix)
}

// dataDirs are the directories that there are: beside a separate etcd raft's alone.
func dataDirs(etcdDir, raftDir string) []string {
	if etcdDir == "" {
		return []string{raftDir}
	}
	return []string{etcdDir, raftDir}
}

func moveAside(etcdDir, raftDir, name string) ([]string, error) {
	var aside []string
	for _, dir := range dataDirs(etcdDir, raftDir) {
		to := filepath.Join(dir, name)
		moved, err := moveEntries(dir, to, func(name string) bool {
			return name != workDir && name != datadir.LockFile && name != "lost+found" && !strings.HasPrefix(name, asidePrefix)
		})
		if err != nil {
			return aside, fmt.Errorf("move the data of %s aside: %w", dir, err)
		}
		if moved {
			aside = append(aside, to)
		}
	}
	return aside, nil
}

// moveInto moves all that is in from into dir.
func moveInto(from, dir string) error {
	_, err := moveEntries(from, dir, func(string) bool { return true })
	return err
}

// moveEntries moves what is chosen of from into to, durably, and says whether there was any.
func moveEntries(from, to string, chosen func(name string) bool) (moved bool, err error) {
	entries, err := os.ReadDir(from)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	for _, entry := range entries {
		if !chosen(entry.Name()) {
			continue
		}
		if err := os.MkdirAll(to, 0o700); err != nil {
			return moved, err
		}
		if err := os.Rename(filepath.Join(from, entry.Name()), filepath.Join(to, entry.Name())); err != nil {
			return moved, err
		}
		moved = true
	}
	if !moved {
		return false, nil
	}
	return true, errors.Join(syncDir(to), syncDir(from))
}

func syncDir(dir string) error {
	opened, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(opened.Sync(), opened.Close())
}
