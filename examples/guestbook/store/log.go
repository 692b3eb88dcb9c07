package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// maxEntries kept; the oldest are forgotten, in memory and at the next start.
const maxEntries = 1000

// Entry is one line of the guestbook.
type Entry struct {
	// ID is chosen by the writer; a second entry with the same one is the same entry.
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Message string    `json:"message"`
	Time    time.Time `json:"time"`
}

// Log holds the entries in memory and appends each to a file before it counts.
// It is safe for concurrent use.
type Log struct {
	mu      sync.RWMutex
	file    *os.File
	entries []Entry
	known   map[string]int // position by id
}

// OpenLog reads the entries in file, which need not exist, and keeps it open for more.
// A last line that was cut off by a crash was never acknowledged and is dropped.
func OpenLog(path string) (*Log, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	l := &Log{file: file, known: map[string]int{}}
	if err := l.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("log %s: %w", path, err), file.Close())
	}
	return l, nil
}

func (l *Log) load() error {
	reader, end := bufio.NewReader(l.file), int64(0)
	for {
		line, err := reader.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		var entry Entry
		if err := json.Unmarshal(line, &entry); err != nil {
			return fmt.Errorf("at byte %d: %w", end, err)
		}
		l.remember(entry)
		end += int64(len(line))
	}
	if err := l.file.Truncate(end); err != nil {
		return err
	}
	_, err := l.file.Seek(end, io.SeekStart)
	return err
}

func (l *Log) remember(entry Entry) {
	if len(l.entries) == maxEntries {
		l.entries = append([]Entry(nil), l.entries[maxEntries/10:]...)
		clear(l.known)
		for i, e := range l.entries {
			l.known[e.ID] = i
		}
	}
	l.known[entry.ID] = len(l.entries)
	l.entries = append(l.entries, entry)
}

// Append adds entry unless its id is known, and returns what is stored under the id.
func (l *Log) Append(entry Entry) (stored Entry, added bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at, ok := l.known[entry.ID]; ok {
		return l.entries[at], false, nil
	}
	line, err := json.Marshal(entry)
	if err != nil {
		return entry, false, fmt.Errorf("entry %s: %w", entry.ID, err)
	}
	if _, err := l.file.Write(append(line, '\n')); err != nil {
		return entry, false, fmt.Errorf("entry %s: %w", entry.ID, err)
	}
	if err := l.file.Sync(); err != nil {
		return entry, false, fmt.Errorf("entry %s: %w", entry.ID, err)
	}
	l.remember(entry)
	return entry, true, nil
}

// Entries returns all entries, oldest first.
func (l *Log) Entries() []Entry {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return append([]Entry{}, l.entries...)
}

// Close closes the file; nothing may be appended afterwards.
func (l *Log) Close() error { return l.file.Close() }
