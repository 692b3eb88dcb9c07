package supervisor

import (
	"fmt"
	"os"
	"path/filepath"
)

// logFile appends to a file and moves it aside when it has grown to max bytes; one
// old file, named with the suffix .1, is kept. Not safe for concurrent use.
type logFile struct {
	path string
	max  int64
	file *os.File
	size int64
}

func openLog(path string, maxBytes int64) (*logFile, error) {
	if maxBytes <= 0 {
		maxBytes = defaultLogBytes
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("log directory: %w", err)
	}
	l := &logFile{path: path, max: maxBytes}
	return l, l.open()
}

func (l *logFile) open() error {
	file, err := os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("log file: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		_ = file.Close()
		return fmt.Errorf("log file: %w", err)
	}
	l.file, l.size = file, info.Size()
	return nil
}

// Write appends p. A full disk must not stop the program that writes: the bytes are
// dropped and the write succeeds.
func (l *logFile) Write(p []byte) (int, error) {
	if l.size+int64(len(p)) > l.max && l.size > 0 {
		_ = l.file.Close()
		_ = os.Rename(l.path, l.path+".1")
		if err := l.open(); err != nil {
			return len(p), nil //nolint:nilerr // see above
		}
	}
	n, _ := l.file.Write(p)
	l.size += int64(n)
	return len(p), nil
}

func (l *logFile) Close() error { return l.file.Close() }
