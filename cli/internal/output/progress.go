// Package output prints what the command does while it works, and tables.
package output

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"text/tabwriter"
	"time"
)

// Progress prints one line a step, with the time since it began. Safe for concurrent
// use. A nil Progress prints nothing.
type Progress struct {
	mu    sync.Mutex
	out   io.Writer
	began time.Time
	plain bool
}

// NewProgress returns a Progress that writes to out.
func NewProgress(out io.Writer) *Progress { return &Progress{out: out, began: time.Now()} }

// LineMark begins a line of NewLineProgress.
const LineMark = "· "

// NewLineProgress returns a Progress for a program that passes the lines on: each begins
// with LineMark instead of a time.
func NewLineProgress(out io.Writer) *Progress {
	return &Progress{out: out, began: time.Now(), plain: true}
}

// Say prints a line.
func (p *Progress) Say(format string, args ...any) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.plain {
		_, _ = fmt.Fprintf(p.out, LineMark+format+"\n", args...)
		return
	}
	_, _ = fmt.Fprintf(p.out, "%7.1fs  %s\n", time.Since(p.began).Seconds(), fmt.Sprintf(format, args...))
}

const (
	pollEvery = 100 * time.Millisecond
	pollSlow  = 500 * time.Millisecond
	sayEvery  = 5 * time.Second
)

// Wait calls check until it returns nil and then prints done. Meanwhile it prints the
// newest reason every few seconds. When ctx ends it returns the last reason.
func (p *Progress) Wait(ctx context.Context, done string, check func(ctx context.Context) error) error {
	began, said := time.Now(), time.Now()
	var reason error
	for {
		err := check(ctx)
		if err == nil {
			p.Say("%s", done)
			return nil
		}
		// What a check says that was cut off is of no use.
		if ctx.Err() != nil && reason != nil {
			err = reason
		}
		reason = err
		if time.Since(said) > sayEvery {
			said = time.Now()
			p.Say("waiting: %v", err)
		}
		pause := pollEvery
		if time.Since(began) > sayEvery {
			pause = pollSlow
		}
		select {
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), context.Canceled) {
				return fmt.Errorf("interrupted while waiting: %w", err)
			}
			return fmt.Errorf("waited %s: %w", time.Since(began).Round(time.Second), err)
		case <-time.After(pause):
		}
	}
}

// Table prints rows below a heading in aligned columns.
func Table(out io.Writer, heading []string, rows [][]string) error {
	writer := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	for _, row := range append([][]string{heading}, rows...) {
		for i, cell := range row {
			if cell == "" {
				cell = "-"
			}
			if i > 0 {
				_, _ = fmt.Fprint(writer, "\t")
			}
			_, _ = fmt.Fprint(writer, cell)
		}
		_, _ = fmt.Fprintln(writer)
	}
	return writer.Flush()
}

// JSON prints a value, indented.
func JSON(out io.Writer, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}
