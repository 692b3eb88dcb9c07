// Package supportbundle gathers in one archive what helps to find out why a machine or a
// cluster misbehaves, and nothing that is secret.
//
// A collector produces entries; it may fail or hang without harm to the others, and the
// manifest in the archive then says so. Everything passes through Redact on its way into
// the archive, whatever the collector has left out already. Keys, join tokens, Secrets,
// values of ConfigMaps and of environment variables are not collected in the first place.
package supportbundle

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"golang.org/x/sync/semaphore"

	"kijabi.dev/platform/lifecycle"
)

// Sizes of a bundle before it is compressed.
const (
	// entryLimit bounds one file. Logs keep their end, everything else its beginning.
	entryLimit = 4 << 20
	// totalLimit bounds all files; what comes after it is left out and named.
	totalLimit = 96 << 20
	// atOnce is how many collectors run at a time.
	atOnce = 4
	// defaultTimeout of one collector.
	defaultTimeout = 20 * time.Second
)

// Collector gathers one subject.
type Collector struct {
	// Name of the subject, for the manifest. Required.
	Name string
	// Timeout after which it is given up; 0 means 20 s.
	Timeout time.Duration
	// Collect returns what it found. Entries returned with an error count, too. It is
	// given up, not waited for, when ctx has ended. Required.
	Collect func(ctx context.Context) ([]Entry, error)
}

// Entry is one file of the bundle.
type Entry struct {
	// Path within the bundle. Required.
	Path string
	// Content of it.
	Content []byte
	// Cut is true when the collector has left out a part for its size.
	Cut bool
}

// Manifest says what is in a bundle and what is not.
type Manifest struct {
	// Created is when the collection began.
	Created time.Time `json:"created"`
	// Version of the program that made it.
	Version string `json:"version"`
	// Machine is the host name, Member what the machine is; empty if a member of nothing.
	Machine string `json:"machine"`
	Member  string `json:"member,omitempty"`
	// Files that were collected.
	Files []File `json:"files"`
	// Missing is what could not be collected, with the reason.
	Missing []Missing `json:"missing"`
	// LeftOut says what is never collected.
	LeftOut []string `json:"leftOut"`
}

// File is a file of the bundle.
type File struct {
	Path  string `json:"path"`
	Bytes int    `json:"bytes"`
	// Cut is true when a part was left out for its size.
	Cut bool `json:"cut,omitempty"`
	// Redacted counts places where something that looked secret was replaced.
	Redacted int `json:"redacted,omitempty"`
}

// Missing is a subject that was not collected, or not all of it.
type Missing struct {
	What   string `json:"what"`
	Reason string `json:"reason"`
}

func leftOut() []string {
	return []string{
		"Secret objects", "values of ConfigMap objects and of environment variables", "private keys and kubeconfigs",
		"join tokens and bearer tokens", "logs and files of containers",
	}
}

// Header is what the manifest says of the machine.
type Header struct {
	// Created is the present time. Required.
	Created time.Time
	// Machine and Member as in Manifest.
	Machine, Member string
}

// Write runs the collectors and writes the bundle, whose files lie in a directory called
// root. Only not being able to write is an error.
func Write(ctx context.Context, out io.Writer, root string, header Header, collectors []Collector) (*Manifest, error) {
	return writeWithin(ctx, out, root, header, collectors, limits{entryLimit, totalLimit})
}

// limits of a bundle in bytes: of one file, and of all together.
type limits struct{ entry, total int }

func writeWithin(ctx context.Context, out io.Writer, root string, header Header, collectors []Collector, bounds limits) (*Manifest, error) {
	compressed := gzip.NewWriter(out)
	w := &writer{
		tar: tar.NewWriter(compressed), root: root, bounds: bounds, left: bounds.total,
		manifest: Manifest{
			Created: header.Created.UTC(), Version: lifecycle.Version(), Machine: header.Machine, Member: header.Member,
			Files: []File{}, Missing: []Missing{}, LeftOut: leftOut(),
		},
	}
	results := make([]chan result, len(collectors))
	slots := semaphore.NewWeighted(atOnce)
	for i, collector := range collectors {
		results[i] = make(chan result, 1) // one that comes too late must not block
		//nolint:forbidigo // waited for, or given up when it hangs in the kernel
		go func() { results[i] <- collector.run(ctx, slots) }()
	}
	for i, collector := range collectors {
		if err := w.add(collector.Name, <-results[i]); err != nil {
			return nil, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("interrupted: %w", err)
	}
	if err := w.finish(); err != nil {
		return nil, err
	}
	return &w.manifest, errors.Join(w.tar.Close(), compressed.Close())
}

type result struct {
	entries []Entry
	err     error
}

// run waits for a slot, collects, and gives up in time.
func (c Collector) run(ctx context.Context, slots *semaphore.Weighted) result {
	if err := slots.Acquire(ctx, 1); err != nil {
		return result{err: err}
	}
	defer slots.Release(1)
	timeout := c.Timeout
	if timeout == 0 {
		timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	answer := make(chan result, 1)
	//nolint:forbidigo // see Write
	go func() {
		entries, err := c.Collect(ctx)
		answer <- result{entries, err}
	}()
	select {
	case got := <-answer:
		return got
	case <-ctx.Done():
	}
	// A collector that minds its context answers now, with what it has.
	grace := time.NewTimer(time.Second)
	defer grace.Stop()
	select {
	case got := <-answer:
		return got
	case <-grace.C:
		return result{err: fmt.Errorf("no result within %s", timeout)}
	}
}

// writer writes entries and keeps the manifest. Not safe for concurrent use.
type writer struct {
	tar      *tar.Writer
	root     string
	bounds   limits
	left     int
	manifest Manifest
}

func (w *writer) add(subject string, got result) error {
	if got.err != nil {
		reason, _ := Redact([]byte(strings.Join(strings.Fields(got.err.Error()), " ")))
		w.manifest.Missing = append(w.manifest.Missing, Missing{What: subject, Reason: string(reason)})
	}
	for _, entry := range got.entries {
		if len(entry.Content) > w.bounds.entry {
			entry.Content, entry.Cut = entry.Content[:w.bounds.entry], true
		}
		content, redacted := Redact(entry.Content)
		if len(content) > w.left {
			w.manifest.Missing = append(w.manifest.Missing, Missing{What: entry.Path, Reason: fmt.Sprintf("the bundle is full (%d KiB)", w.bounds.total>>10)})
			continue
		}
		if err := w.write(entry.Path, content); err != nil {
			return err
		}
		w.left -= len(content)
		w.manifest.Files = append(w.manifest.Files, File{Path: entry.Path, Bytes: len(content), Cut: entry.Cut, Redacted: redacted})
	}
	return nil
}

func (w *writer) write(name string, content []byte) error {
	header := &tar.Header{Name: path.Join(w.root, name), Mode: 0o600, Size: int64(len(content)), ModTime: w.manifest.Created, Format: tar.FormatPAX}
	if err := w.tar.WriteHeader(header); err != nil {
		return fmt.Errorf("write %s into the bundle: %w", name, err)
	}
	if _, err := w.tar.Write(content); err != nil {
		return fmt.Errorf("write %s into the bundle: %w", name, err)
	}
	return nil
}

func (w *writer) finish() error {
	content, err := json.MarshalIndent(w.manifest, "", "  ")
	if err != nil {
		return err
	}
	return w.write("manifest.json", append(content, '\n'))
}

// JSON makes an entry of a value.
func JSON(path string, value any) (Entry, error) {
	content, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return Entry{}, fmt.Errorf("%s: %w", path, err)
	}
	return Entry{Path: path, Content: append(content, '\n')}, nil
}
