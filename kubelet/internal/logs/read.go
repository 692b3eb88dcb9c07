// Package logs reads, follows and rotates the log files that the runtime writes,
// one line each: time, stream, P or F for part or full, and the text.
package logs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Options select lines.
type Options struct {
	Follow     bool
	Timestamps bool
	Since      time.Time
	Tail       *int64 // last lines; nil means all
	LimitBytes int64  // 0 means no limit
	Stream     string // stdout, stderr or empty for both
	// Running says whether the container may still write. Required with Follow.
	Running func() bool
}

var errLimit = errors.New("limit reached")

// Read writes the selected lines of the file at path to out and, with Follow, goes
// on until the container has ended or ctx does. A rotation is followed.
func Read(ctx context.Context, path string, options Options, out io.Writer) error {
	sink := &sink{out: out, options: options, left: options.LimitBytes}
	err := read(ctx, path, options, sink)
	if errors.Is(err, errLimit) {
		return nil
	}
	return err
}

func read(ctx context.Context, path string, options Options, sink *sink) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	defer func() { _ = file.Close() }()
	var watcher *fsnotify.Watcher
	if options.Follow {
		// Before the first read, so that nothing written meanwhile is missed. The
		// directory, because rotation replaces the file.
		if watcher, err = fsnotify.NewWatcher(); err != nil {
			return fmt.Errorf("follow log: %w", err)
		}
		defer func() { _ = watcher.Close() }()
		if err := watcher.Add(filepath.Dir(path)); err != nil {
			return fmt.Errorf("follow log: %w", err)
		}
	}
	if options.Tail != nil {
		if err := seekTail(file, *options.Tail); err != nil {
			return err
		}
	}
	reader := bufio.NewReaderSize(file, 64<<10)
	var rest []byte // of a line that is not complete yet
	for {
		running := options.Follow && options.Running() // before reading to the end
		for {
			piece, err := reader.ReadSlice('\n')
			rest = append(rest, piece...)
			if errors.Is(err, bufio.ErrBufferFull) {
				continue
			}
			if err != nil && !errors.Is(err, io.EOF) {
				return fmt.Errorf("read log: %w", err)
			}
			if err != nil {
				break
			}
			if err := sink.line(rest); err != nil {
				return err
			}
			rest = rest[:0]
		}
		if !options.Follow {
			return nil
		}
		if replaced(file, path) {
			next, err := os.Open(path)
			if err == nil {
				_ = file.Close()
				file = next
				reader.Reset(file)
				continue
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("follow log: %w", err)
			}
		}
		if !running {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-watcher.Events:
		case err := <-watcher.Errors:
			return fmt.Errorf("follow log: %w", err)
		case <-time.After(time.Second): // a container that ends without a last word
		}
	}
}

func replaced(file *os.File, path string) bool {
	open, err := file.Stat()
	if err != nil {
		return false
	}
	now, err := os.Stat(path)
	return err != nil || !os.SameFile(open, now)
}

// sink formats lines. It keeps the state that partial lines need.
type sink struct {
	out     io.Writer
	options Options
	left    int64
	midway  bool // the last line was partial
}

func (s *sink) line(raw []byte) error {
	stamp, stream, partial, text, ok := parse(raw)
	if !ok {
		return nil // not a line of the runtime's; nothing a user wrote
	}
	if s.options.Stream != "" && string(stream) != s.options.Stream {
		return nil
	}
	if !s.options.Since.IsZero() {
		if when, err := time.Parse(time.RFC3339Nano, string(stamp)); err != nil || when.Before(s.options.Since) {
			return nil //nolint:nilerr // a line without a time is not after any
		}
	}
	var buffer []byte
	if s.options.Timestamps && !s.midway {
		buffer = append(append(buffer, stamp...), ' ')
	}
	buffer = append(buffer, text...)
	s.midway = partial
	if !partial {
		buffer = append(buffer, '\n')
	}
	if s.options.LimitBytes > 0 {
		if int64(len(buffer)) >= s.left {
			_, err := s.out.Write(buffer[:s.left])
			return errors.Join(errLimit, err)
		}
		s.left -= int64(len(buffer))
	}
	_, err := s.out.Write(buffer)
	return err
}

func parse(raw []byte) (stamp, stream []byte, partial bool, text []byte, ok bool) {
	raw = bytes.TrimSuffix(raw, []byte{'\n'})
	stamp, rest, ok := bytes.Cut(raw, []byte{' '})
	if !ok {
		return nil, nil, false, nil, false
	}
	stream, rest, ok = bytes.Cut(rest, []byte{' '})
	if !ok {
		return nil, nil, false, nil, false
	}
	tag, text, _ := bytes.Cut(rest, []byte{' '})
	return stamp, stream, bytes.HasPrefix(tag, []byte{'P'}), text, true
}

// seekTail moves to the beginning of the last full lines.
func seekTail(file *os.File, lines int64) error {
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	size := info.Size()
	if lines <= 0 {
		_, err := file.Seek(size, io.SeekStart)
		return err
	}
	for window := int64(64 << 10); ; window *= 4 {
		start := max(size-window, 0)
		buffer := make([]byte, size-start)
		if _, err := file.ReadAt(buffer, start); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read log: %w", err)
		}
		if offset, found := tailOffset(buffer, lines); found || start == 0 {
			_, err := file.Seek(start+offset, io.SeekStart)
			return err
		}
	}
}

// tailOffset finds where the last lines begin, walking back over whole ones. A
// line that came in parts counts once.
func tailOffset(buffer []byte, lines int64) (int64, bool) {
	end := len(buffer)
	if end > 0 && buffer[end-1] != '\n' {
		end = bytes.LastIndexByte(buffer, '\n') + 1
	}
	var count int64
	at := end
	for at > 0 {
		begin := bytes.LastIndexByte(buffer[:at-1], '\n') + 1
		if _, _, partial, _, ok := parse(buffer[begin:at]); ok && !partial {
			count++
			if count > lines {
				return int64(at), true
			}
		}
		at = begin
	}
	return 0, false
}

// End returns the last lines of a log as text, for termination messages.
func End(path string, lines int64, bytesMax int) string {
	var buffer bytes.Buffer
	if err := Read(context.Background(), path, Options{Tail: &lines}, &buffer); err != nil { //nolint:contextcheck // a local file of bounded size
		return ""
	}
	text := buffer.Bytes()
	if len(text) > bytesMax {
		text = text[len(text)-bytesMax:]
	}
	return string(bytes.ToValidUTF8(text, []byte("\uFFFD")))
}
