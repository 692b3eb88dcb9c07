package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

func sleep(ctx context.Context, args []string, _ io.Writer) error {
	if err := count(args, 0, 1); err != nil {
		return err
	}
	if len(args) == 0 || args[0] == "infinity" {
		<-ctx.Done()
		return nil
	}
	d, err := duration(args[0])
	if err != nil {
		return err
	}
	return pause(ctx, d)
}

// duration reads 1m30s, or plain seconds as other programs called sleep do.
func duration(text string) (time.Duration, error) {
	if seconds, err := strconv.ParseFloat(text, 64); err == nil {
		return time.Duration(seconds * float64(time.Second)), nil
	}
	return time.ParseDuration(text)
}

// pause waits for d or for ctx's end, which is no error.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil
}

func cat(_ context.Context, args []string, out io.Writer) error {
	if err := count(args, 1, -1); err != nil {
		return err
	}
	for _, path := range args {
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if _, err := out.Write(content); err != nil {
			return err
		}
	}
	return nil
}

func ls(_ context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		args = []string{"."}
	}
	for _, path := range args {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		names := []string{path}
		if info.IsDir() {
			entries, err := os.ReadDir(path)
			if err != nil {
				return err
			}
			names = names[:0]
			for _, entry := range entries {
				names = append(names, filepath.Join(path, entry.Name()))
			}
		}
		for _, name := range names {
			info, err := os.Lstat(name)
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintf(out, "%s %10d %s\n", info.Mode(), info.Size(), name); err != nil {
				return err
			}
		}
	}
	return nil
}

func write(_ context.Context, args []string, _ io.Writer) error {
	if err := count(args, 2, 2); err != nil {
		return err
	}
	return os.WriteFile(args[0], []byte(args[1]+"\n"), 0o644)
}

func env(_ context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		lines := os.Environ()
		slices.Sort(lines)
		_, err := fmt.Fprintln(out, strings.Join(lines, "\n"))
		return err
	}
	for _, name := range args {
		value, set := os.LookupEnv(name)
		if !set {
			return fmt.Errorf("%s is not set", name)
		}
		if _, err := fmt.Fprintln(out, value); err != nil {
			return err
		}
	}
	return nil
}

func hostname(_ context.Context, args []string, out io.Writer) error {
	if err := count(args, 0, 0); err != nil {
		return err
	}
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, name)
	return err
}

func echo(_ context.Context, args []string, out io.Writer) error {
	_, err := fmt.Fprintln(out, strings.Join(args, " "))
	return err
}

func exit(_ context.Context, args []string, _ io.Writer) error {
	if err := count(args, 1, 1); err != nil {
		return err
	}
	code, err := strconv.ParseUint(args[0], 10, 8)
	if err != nil {
		return fmt.Errorf("exit status %q: want 0 to 255", args[0])
	}
	return statusError(code)
}

func memory(ctx context.Context, args []string, out io.Writer) error {
	if err := count(args, 1, 1); err != nil {
		return err
	}
	size, err := bytesOf(args[0])
	if err != nil {
		return err
	}
	block := make([]byte, size)
	for i := 0; i < len(block); i += os.Getpagesize() {
		block[i] = 1 // a page that was never touched takes no memory
	}
	if _, err := fmt.Fprintf(out, "holding %d bytes\n", len(block)); err != nil {
		return err
	}
	<-ctx.Done()
	block[0] = 2 // keeps the block alive until here
	return nil
}

func bytesOf(text string) (int, error) {
	shift, number := 0, text
	for suffix, bits := range map[string]int{"Ki": 10, "Mi": 20, "Gi": 30} {
		if rest, found := strings.CutSuffix(text, suffix); found {
			shift, number = bits, rest
		}
	}
	n, err := strconv.ParseUint(number, 10, 32)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("size %q: want a number, with Ki, Mi or Gi", text)
	}
	return int(n) << shift, nil
}
