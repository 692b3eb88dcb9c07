package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// suffix ends the name of every snapshot.
const suffix = ".kijabi"

// nameTime is the form of the time in a name; it sorts.
const nameTime = "20060102T150405Z"

// Entry is a snapshot in an archive.
type Entry struct {
	Name     string
	Time     time.Time
	Revision int64
	Master   string
	Bytes    int64
}

// nameOf returns the name of a snapshot.
func nameOf(h Header) string {
	return fmt.Sprintf("%s-r%d-%s%s", h.Time.UTC().Format(nameTime), h.Revision, h.Master, suffix)
}

// parseName reverses nameOf; ok is false for files that are no snapshots.
func parseName(name string) (e Entry, ok bool) {
	parts := regexp.MustCompile(`^(\d{8}T\d{6}Z)-r(\d+)-([-.a-z0-9]+)` + regexp.QuoteMeta(suffix) + `$`).FindStringSubmatch(name)
	if parts == nil {
		return Entry{}, false
	}
	at, timeErr := time.Parse(nameTime, parts[1])
	revision, numberErr := strconv.ParseInt(parts[2], 10, 64)
	return Entry{Name: name, Time: at, Revision: revision, Master: parts[3]}, timeErr == nil && numberErr == nil
}

// Archive keeps snapshots by name. All methods are safe for concurrent use.
type Archive interface {
	// Put keeps what write writes under a name, whole or not at all, and returns its size.
	Put(ctx context.Context, name string, write func(io.Writer) error) (int64, error)
	// Open reads a snapshot; fs.ErrNotExist when there is none of the name.
	Open(ctx context.Context, name string) (io.ReadCloser, error)
	// List returns all snapshots, newest first. Other files are left out.
	List(ctx context.Context) ([]Entry, error)
	// Remove removes a snapshot; removing an absent one succeeds.
	Remove(ctx context.Context, name string) error
	// String says where the archive is, for messages.
	String() string
}

// Directory is an archive in a directory, which is made when it is first written to.
type Directory string

var _ Archive = Directory("")

// String implements Archive.
func (d Directory) String() string { return string(d) }

// Put implements Archive. The content is on disk when it returns.
func (d Directory) Put(_ context.Context, name string, write func(io.Writer) error) (size int64, err error) {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return 0, fmt.Errorf("directory of snapshots: %w", err)
	}
	return putFile(filepath.Join(string(d), name), write)
}

// putFile writes a file of mode 0600 whole or not at all. Its content is on disk when it returns.
func putFile(path string, write func(io.Writer) error) (size int64, err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return 0, fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(tmp.Name()))
		}
	}()
	err = write(tmp)
	if err == nil {
		size, err = tmp.Seek(0, io.SeekCurrent)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return 0, err
	}
	if err = os.Rename(tmp.Name(), path); err != nil {
		return 0, err
	}
	return size, syncDirectory(filepath.Dir(path))
}

// syncDirectory makes a rename durable.
func syncDirectory(dir string) error {
	opened, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return errors.Join(opened.Sync(), opened.Close())
}

// Open implements Archive.
func (d Directory) Open(_ context.Context, name string) (io.ReadCloser, error) {
	if filepath.Base(name) != name {
		return nil, fmt.Errorf("snapshot %q: %w", name, fs.ErrNotExist)
	}
	file, err := os.Open(filepath.Join(string(d), name))
	if err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	return file, nil
}

// List implements Archive.
func (d Directory) List(context.Context) ([]Entry, error) {
	files, err := os.ReadDir(string(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	var all []Entry
	for _, file := range files {
		entry, ok := parseName(file.Name())
		if !ok {
			continue
		}
		info, err := file.Info()
		if err != nil {
			continue // removed meanwhile
		}
		entry.Bytes = info.Size()
		all = append(all, entry)
	}
	sortEntries(all)
	return all, nil
}

// Remove implements Archive.
func (d Directory) Remove(_ context.Context, name string) error {
	err := os.Remove(filepath.Join(string(d), filepath.Base(name)))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove snapshot: %w", err)
	}
	return nil
}

// sortEntries puts the newest first.
func sortEntries(all []Entry) {
	slices.SortFunc(all, func(a, b Entry) int {
		return cmp.Or(b.Time.Compare(a.Time), cmp.Compare(b.Revision, a.Revision), strings.Compare(a.Name, b.Name))
	})
}

// expired returns what need not be kept of all snapshots, newest first: the newest of each of
// the last hours and of each of the last days stay.
func expired(all []Entry, hourly, daily int) []Entry {
	hours, days := map[time.Time]bool{}, map[time.Time]bool{}
	var old []Entry
	for i, entry := range all {
		stays := i == 0
		for _, period := range []struct {
			seen  map[time.Time]bool
			begin time.Time
			most  int
		}{{hours, entry.Time.Truncate(time.Hour), hourly}, {days, entry.Time.Truncate(24 * time.Hour), daily}} {
			if !period.seen[period.begin] && len(period.seen) < period.most {
				period.seen[period.begin] = true
				stays = true
			}
		}
		if !stays {
			old = append(old, entry)
		}
	}
	return old
}
