// Command faults starts a cluster of masters on this host, breaks it in the ways of the fault
// matrix while clients write, and checks what the cluster promises. docs/faults.md describes it.
//
//	go run ./faults -list
//	go run ./faults -faults F2,F12 -duration 3m -campaign campaign.jsonl
//	go run ./faults -campaign campaign.jsonl -replay 123
//	go run ./faults -campaign campaign.jsonl -report
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"kijabi.dev/test/faults/internal/campaign"
	"kijabi.dev/test/faults/internal/cluster"
	"kijabi.dev/test/faults/internal/faults"
)

// options are the flags.
type options struct {
	masters   int
	seed      uint64
	faults    string
	duration  time.Duration
	session   time.Duration
	rounds    int
	campaign  string
	replay    uint64
	list      bool
	report    bool
	artifacts string
	expect    string
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run() error {
	var o options
	flag.IntVar(&o.masters, "masters", 3, "number of masters, 3 or 5")
	flag.Uint64Var(&o.seed, "seed", 0, "seed of the first session; 0 makes one up")
	flag.StringVar(&o.faults, "faults", "F2,F12,F10", "comma-separated faults; a number stands for all its variants")
	flag.DurationVar(&o.duration, "duration", 3*time.Minute, "how long to inject faults; each is injected once at least")
	flag.DurationVar(&o.session, "session", 5*time.Minute, "after how long a cluster is checked and the next begun")
	flag.IntVar(&o.rounds, "rounds", 0, "bound of faults in a session; 0 is none")
	flag.StringVar(&o.campaign, "campaign", "", "file of JSON lines to which what was found is added")
	flag.Uint64Var(&o.replay, "replay", 0, "run the session of this seed in the campaign's file again")
	flag.BoolVar(&o.list, "list", false, "list the faults")
	flag.BoolVar(&o.report, "report", false, "print the sums of the campaign's file")
	flag.StringVar(&o.artifacts, "artifacts", "artifacts/faults", "directory for what is needed to understand a violation")
	flag.StringVar(&o.expect, "expect", "", "regular expression of a violation that must be found, for programs with a known mistake")
	flag.Parse()
	switch {
	case o.list:
		return list()
	case o.report:
		return report(o.campaign)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return o.sessions(ctx)
}

func list() error {
	for _, f := range faults.All() {
		fmt.Printf("%-24s %s\n", f.ID, f.About)
	}
	for id, why := range faults.NotInjectable() {
		fmt.Printf("%-24s cannot be injected here: %s\n", id, why)
	}
	return nil
}

func report(file string) error {
	records, err := campaign.Read(file)
	if err != nil {
		return err
	}
	return campaign.Print(os.Stdout, records)
}

// sessions runs one session after the other until the time is up or one finds a violation.
func (o options) sessions(ctx context.Context) error {
	if err := o.recall(); err != nil {
		return err
	}
	chosen, err := faults.Choose(o.faults)
	if err != nil {
		return err
	}
	bin := os.Getenv("KIJABI_BIN")
	if bin == "" || os.Geteuid() != 0 {
		return errors.New("this makes machines out of namespaces: it needs root, and the programs' directory in KIJABI_BIN; run it by `make faults`")
	}
	expected, err := regexp.Compile(o.expect)
	if err != nil {
		return fmt.Errorf("-expect: %w", err)
	}
	var records []campaign.Record
	for until := time.Now().Add(o.duration); ; {
		r, err := o.once(ctx, bin, chosen, min(o.session, time.Until(until)))
		if err != nil {
			return err
		}
		records = append(records, *r)
		found := len(r.Violations) > 0
		if o.expect != "" {
			found = matching(*r, expected) != ""
		}
		if found || o.replay != 0 || o.rounds > 0 || ctx.Err() != nil || time.Until(until) < time.Minute {
			break
		}
		o.seed = 0
	}
	if err := campaign.Print(os.Stdout, records); err != nil {
		return err
	}
	return o.judge(records[len(records)-1], expected)
}

// judge says whether the last session found what it should: nothing, or what was expected.
func (o options) judge(r campaign.Record, expected *regexp.Regexp) error {
	if o.expect == "" {
		if len(r.Violations) > 0 {
			return fmt.Errorf("seed %d: %d violations, the first: %s", r.Seed, len(r.Violations), r.Violations[0])
		}
		return nil
	}
	if text := matching(r, expected); text != "" {
		first, _, _ := strings.Cut(text, "\n")
		fmt.Printf("found as expected: %s\n", first)
		return nil
	}
	return fmt.Errorf("seed %d: no violation is like %q, but there are %q", r.Seed, o.expect, r.Violations)
}

// matching is a violation that a regular expression matches, empty for none.
func matching(r campaign.Record, expected *regexp.Regexp) string {
	for _, text := range r.Violations {
		if expected.MatchString(text) {
			return text
		}
	}
	return ""
}

// recall takes over what a session is to repeat.
func (o *options) recall() error {
	if o.replay == 0 {
		return nil
	}
	records, err := campaign.Read(o.campaign)
	if err != nil {
		return err
	}
	for _, r := range records {
		if r.Seed == o.replay {
			o.seed, o.masters, o.faults, o.rounds = r.Seed, r.Masters, r.Faults, len(r.Rounds)
			o.duration, o.session = time.Hour, time.Hour // the rounds bound it
			return nil
		}
	}
	return fmt.Errorf("%s has no session of seed %d", o.campaign, o.replay)
}

func (o options) once(ctx context.Context, bin string, chosen []faults.Fault, duration time.Duration) (*campaign.Record, error) {
	seed := o.seed
	for seed == 0 {
		seed = rand.Uint64() >> 16 //nolint:gosec // it is to be typed, not to be secret
	}
	home, err := os.MkdirTemp("", "kijabi-faults-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(home) }()
	artifacts, err := filepath.Abs(o.artifacts)
	if err != nil {
		return nil, err
	}
	r, err := campaign.Run(ctx, campaign.Config{
		Cluster: cluster.Config{Name: "faults", Prefix: "10.92.0", Bin: bin, Home: home, Masters: o.masters},
		Seed:    seed, Faults: chosen, Duration: duration, Rounds: o.rounds, Artifacts: artifacts, Log: os.Stderr,
	})
	if r == nil {
		return nil, err
	}
	r.Faults, r.Commit = o.faults, commit(ctx)
	if o.campaign != "" {
		err = errors.Join(err, campaign.Append(o.campaign, r))
	}
	return r, err
}

// commit names what was tested.
func commit(ctx context.Context) string {
	text, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(text))
}
