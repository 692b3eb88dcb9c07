package supportbundle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// logLimit bounds the log of one program. All of them together stay below totalLimit.
const logLimit = entryLimit

// logFiles collects the files of a supervisor: NAME.log, and NAME.log.1 before it.
func logFiles(dir string, since time.Time) Collector {
	return Collector{Name: "logs of programs", Timeout: time.Minute, Collect: func(ctx context.Context) ([]Entry, error) {
		paths, err := filepath.Glob(filepath.Join(dir, "*.log"))
		if err != nil {
			return nil, err
		}
		if len(paths) == 0 {
			return nil, fmt.Errorf("there are none in %s", dir)
		}
		var entries []Entry
		var errs []error
		for _, path := range paths {
			if ctx.Err() != nil {
				return entries, ctx.Err()
			}
			content, cut, err := readLog(path, since)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			entries = append(entries, Entry{Path: "logs/" + filepath.Base(path), Content: content, Cut: cut})
		}
		return entries, errors.Join(errs...)
	}}
}

// readLog reads the end of a log, what was rotated away included, no older than since.
func readLog(path string, since time.Time) (content []byte, cut bool, err error) {
	content, cut, err = tail(path, logLimit)
	if err != nil {
		return nil, false, err
	}
	if !cut && len(content) < logLimit {
		before, cutBefore, err := tail(path+".1", logLimit-int64(len(content)))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, false, err
		}
		content, cut = append(before, content...), cutBefore
	}
	return after(content, since), cut, nil
}

// tail reads the last whole lines of a file, limit bytes at most.
func tail(path string, limit int64) (content []byte, cut bool, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, false, err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return nil, false, err
	}
	if cut = info.Size() > limit; cut {
		if _, err := file.Seek(-limit, io.SeekEnd); err != nil {
			return nil, false, err
		}
	}
	content, err = io.ReadAll(io.LimitReader(file, limit))
	if cut {
		_, content, _ = bytes.Cut(content, []byte("\n"))
	}
	return content, cut, err
}

// after leaves out the lines before the first one that is not older than since. Lines
// that tell no time belong to the one before; a log without any is taken whole.
func after(content []byte, since time.Time) []byte {
	position, timed := 0, false
	for line := range bytes.Lines(content) {
		if when, ok := timeOf(line); ok {
			if !when.Before(since) {
				return content[position:]
			}
			timed = true
		}
		position += len(line)
	}
	if timed {
		return nil
	}
	return content
}

// timeOf reads the time of a line that our programs (JSON) or containerd (time="…") log.
func timeOf(line []byte) (time.Time, bool) {
	for _, mark := range []string{`"time":"`, `time="`} {
		_, rest, found := bytes.Cut(line, []byte(mark))
		text, _, closed := bytes.Cut(rest, []byte(`"`))
		if !found || !closed {
			continue
		}
		if when, err := time.Parse(time.RFC3339Nano, string(text)); err == nil {
			return when, true
		}
	}
	return time.Time{}, false
}

// journal collects the log of each unit from systemd.
func journal(units []string, since time.Time) Collector {
	return Collector{Name: "logs of programs", Timeout: time.Minute, Collect: func(ctx context.Context) ([]Entry, error) {
		var entries []Entry
		var errs []error
		for _, unit := range units {
			content, cut, err := run(ctx, logLimit, "journalctl", "--unit", unit, "--since", since.Local().Format("2006-01-02 15:04:05"),
				"--no-pager", "--output", "short-iso-precise", "--lines", "20000", "--quiet")
			if err != nil {
				errs = append(errs, err)
				continue
			}
			entries = append(entries, Entry{Path: "logs/" + strings.TrimSuffix(unit, ".service") + ".log", Content: content, Cut: cut})
		}
		return entries, errors.Join(errs...)
	}}
}

// ring keeps the last bytes that are written to it.
type ring struct {
	limit   int
	content []byte
	cut     bool
}

func (r *ring) Write(p []byte) (int, error) {
	r.content = append(r.content, p...)
	if len(r.content) > 2*r.limit {
		r.content = append([]byte(nil), r.content[len(r.content)-r.limit:]...)
		r.cut = true
	}
	return len(p), nil
}

func (r *ring) bytes() ([]byte, bool) {
	if len(r.content) > r.limit {
		r.content, r.cut = r.content[len(r.content)-r.limit:], true
	}
	if r.cut {
		_, rest, _ := bytes.Cut(r.content, []byte("\n"))
		return rest, true
	}
	return r.content, false
}

// run returns the end of what a program prints, on either stream.
func run(ctx context.Context, limit int, name string, args ...string) (content []byte, cut bool, err error) {
	output := &ring{limit: limit}
	command := exec.CommandContext(ctx, name, args...)
	command.Stdout, command.Stderr = output, output
	command.WaitDelay = time.Second
	err = command.Run()
	content, cut = output.bytes()
	if err != nil {
		lines := strings.Split(strings.TrimSpace(string(content)), "\n")
		return nil, false, fmt.Errorf("%s %s: %w: %s", filepath.Base(name), strings.Join(args[max(0, len(args)-2):], " "), err, lines[len(lines)-1])
	}
	return content, cut, nil
}
